# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Times the directory module on a host: 100, 1,000 and 10,000 mailboxes, loaded, unchanged, one changed.

    tests/bench/directory.py HOST [--ssh-config FILE]

A figure is the wall time of `ansible-playbook` with the directory task less that with a ping in its place, both with
the same variables and the best of three: sending the rows, the module, the result. HOST is a Debian 13 host with
PostgreSQL reachable as the module needs it. The rows go to a database of their own, which is dropped before and
afterwards. Exits 1 when a limit is missed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DBNAME = "mailwright_bench"
KEY_FILE = "/var/tmp/mailwright-bench.key"
SIZES = (100, 1_000, 10_000)
MAILBOXES_PER_DOMAIN = 10
LIMITS = {"load": 10.0, "nothing": 3.0}
# From one size to the next there are ten times as many rows: the time above the fixed part may grow by this factor.
GROWTH = 13.0
NOISE = 0.1
REPEATS = 3

PLAYBOOK = f"""
- hosts: all
  gather_facts: false
  tasks:
    - mailwright.server.directory:
        domains: "{{{{ domains | to_json }}}}"
        mailboxes: "{{{{ mailboxes | to_json }}}}"
        aliases: "{{{{ aliases | to_json }}}}"
        senders: "{{{{ senders | to_json }}}}"
        dbname: {DBNAME}
        key_file: {KEY_FILE}
      register: outcome
      failed_when: outcome is failed or outcome.counts.mailbox != expected
"""
PING = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.ping:
"""
CLEAN = f"dropdb --username=postgres --if-exists {DBNAME} && rm -f {KEY_FILE}"


def model(mailboxes: int) -> dict[str, list[dict[str, Any]]]:
    """The normalised model for that many mailboxes, ten in a domain, each with a hash, two aliases for each domain."""
    domains = [f"d{number:05}.test" for number in range(max(1, mailboxes // MAILBOXES_PER_DOMAIN))]
    rows = []
    for number in range(mailboxes):
        domain = domains[number % len(domains)]
        rows.append(
            {
                "address": f"user{number:05}@{domain}",
                "domain": domain,
                "local_part": f"user{number:05}",
                "display_name": f"User {number}",
                "password": None,
                "password_hash": f"{{ARGON2ID}}$argon2id$v=19$m=19456,t=2,p=1$YmVuY2htYXJrc2FsdA${number:043}",
                "quota_bytes": 2**30,
                "enabled": True,
            }
        )
    return {
        "domains": [{"name": name, "enabled": True} for name in domains],
        "mailboxes": rows,
        "aliases": [
            {"address": f"{local_part}@{name}", "destination": rows[0]["address"]}
            for name in domains
            for local_part in ("abuse", "postmaster")
        ],
        "senders": [{"address": row["address"], "login": row["address"]} for row in rows],
    }


class Bench:
    """Runs the playbook on one host."""

    def __init__(self, host: str, ssh_config: str | None, work: Path) -> None:
        self.host = host
        self.work = work
        self.ssh = ["-F", ssh_config] if ssh_config else []
        (work / "play.yml").write_text(PLAYBOOK)
        (work / "ping.yml").write_text(PING)

    def clean(self) -> None:
        subprocess.run(["ssh", *self.ssh, self.host, CLEAN], check=True, capture_output=True)

    def run(self, playbook: str) -> float:
        """Seconds of one run with the variables written last."""
        environment = os.environ | {
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
            "ANSIBLE_PIPELINING": "true",
            "ANSIBLE_SSH_ARGS": " ".join([*self.ssh, "-o ControlMaster=auto -o ControlPersist=60s"]),
        }
        variables = f"@{self.work}/vars.json"
        command = ["ansible-playbook", "-i", f"{self.host},", "-e", variables, f"{self.work}/{playbook}"]
        started = time.monotonic()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - started
        if done.returncode:
            sys.exit(f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-2000:]}")
        return seconds

    def apply(self, rows: dict[str, list[dict[str, Any]]], added: int, changed: int) -> float:
        """Seconds of one apply that must add and change so many mailboxes."""
        expected = {"added": added, "changed": changed, "removed": 0}
        (self.work / "vars.json").write_text(json.dumps({**rows, "expected": expected}))
        return self.run("play.yml")

    def measure(self, size: int) -> dict[str, float]:
        """Seconds for loading into an empty database, for nothing to do, and for one changed mailbox."""
        rows = model(size)
        figures: dict[str, list[float]] = {"load": [], "nothing": [], "one changed": []}
        base = []
        for repeat in range(REPEATS):
            self.clean()
            rows["mailboxes"][0]["quota_bytes"] = 2**30
            figures["load"].append(self.apply(rows, added=size, changed=0))
            figures["nothing"].append(self.apply(rows, added=0, changed=0))
            rows["mailboxes"][0]["quota_bytes"] = 2**31 + repeat
            figures["one changed"].append(self.apply(rows, added=0, changed=1))
            base.append(self.run("ping.yml"))
        return {what: min(seconds) - min(base) for what, seconds in figures.items()}


def verdict(figures: dict[int, dict[str, float]]) -> list[str]:
    """What is wrong with the figures: limits missed, growth worse than linear. One mailbox shows the fixed part."""
    largest = SIZES[-1]
    wrong = [
        f"{what}: {figures[largest][what]:.2f} s for {largest} mailboxes, at most {limit} s allowed"
        for what, limit in LIMITS.items()
        if figures[largest][what] >= limit
    ]
    for what in LIMITS:
        for small, large in itertools.pairwise(SIZES):
            # Less than this is the noise of Ansible's start and says nothing about growth.
            above = max(figures[small][what] - figures[1][what], NOISE)
            growth = (figures[large][what] - figures[1][what]) / above
            if growth > GROWTH:
                wrong.append(f"{what}: from {small} to {large} mailboxes the time grew {growth:.1f}-fold")
    return wrong


def main() -> int:
    """Measures, prints the table, says what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host")
    parser.add_argument("--ssh-config")
    arguments = parser.parse_args()
    figures: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(arguments.host, arguments.ssh_config, Path(work))
        print(f"{'mailboxes':>10} {'domains':>8} {'load s':>8} {'nothing to do s':>16} {'one changed s':>14}")
        try:
            for size in (1, *SIZES):
                figures[size] = bench.measure(size)
                load, nothing, one = figures[size].values()
                print(
                    f"{size:>10} {len(model(size)['domains']):>8} {load:>8.2f} {nothing:>16.2f} {one:>14.2f}",
                    flush=True,
                )
        finally:
            bench.clean()
    wrong = verdict(figures)
    print("\n".join(wrong) or "within the limits, growth linear")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
