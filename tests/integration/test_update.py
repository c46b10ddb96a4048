# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Updates under continuous mail: a good one commits, a broken one undoes itself, and no message is lost or doubled.

The packages are Debian's own, rebuilt on the host with a higher version; rebuild.py says what is broken in which.
What the host is, is read from dpkg and the file system, never from what the engine says of itself.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shlex
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.txn import bundle
from ansible_collections.mailwright.server.tests.integration.throwaway import changed_paths, snapshot
from connection import wait_until

if TYPE_CHECKING:
    from ansible_collections.mailwright.server.tests.integration.conftest import Server

HERE = Path(__file__).parent
RATE = float(os.environ.get("MAILWRIGHT_RATE") or 20)
# 20 a second and one log-in each: more than a user may send, and than this is about
OVERRIDE = "/etc/rspamd/override.d/ratelimit.conf"
TXN = "/var/lib/mailwright/txn"
SNAPSHOTS = "/var/lib/mailwright/snapshots"
# What an update that was undone may leave behind: logs of dpkg, caches, and our own records.
LEFT = re.compile(
    r"/etc/(ld\.so\.cache|apt/sources\.list\.d/.*|mailwright/tls/.*)|/var/lib/mailwright/(txn|snapshots|packages)(/.*)?"
    r"|/var/lib/mailwright|/etc/(passwd|group|shadow|gshadow)-|/etc/\.pwd\.lock|/var/lib/mailwright/download"
)


class Flow:
    """flow.py at work on peer."""

    def __init__(self, server: Server, token: str) -> None:
        self.server, self.token = server, token
        settings = {
            "host": server.address, "token": token, "rate": RATE, "to": "bob@acme.test",
            "user": "alice@acme.test", "password": server.lab.password,
        }  # fmt: skip
        program = shlex.quote((HERE / "flow.py").read_text())
        self.process = subprocess.Popen(
            ["ssh", "-F", str(server.lab.state / "ssh_config"), "peer",
             f"python3 -c {program} {shlex.quote(json.dumps(settings))}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.results: list[tuple[int, float, float, str]] = []

    def end(self) -> None:
        """Stop sending and take the results."""
        said, _none = self.process.communicate(timeout=180)
        self.results = [tuple(row) for row in json.loads(said)]

    def numbers(self, outcome: str) -> set[int]:
        return {number for number, _started, _answered, found in self.results if found == outcome}

    def longest_gap(self) -> float:
        """The longest time in which no message was accepted, on the worse of the two ways."""
        gaps = [0.0]
        for parity in (0, 1):
            times = sorted(a for n, _s, a, outcome in self.results if n % 2 == parity and outcome == "accepted")
            gaps += [later - earlier for earlier, later in itertools.pairwise(times)]
        return max(gaps)

    def settle(self) -> None:
        """Every accepted number is delivered exactly once, none that was refused, and an unsure one at most once."""
        accepted, unsure = self.numbers("accepted"), self.numbers("unsure")
        assert len(accepted) > 20, Counter(row[3] for row in self.results)

        def delivered() -> Counter[int]:
            found: Counter[int] = Counter()
            for folder in ("INBOX", "Junk"):
                subjects = self.server.subjects("bob@acme.test", self.token, folder)
                found.update(int(subject.rpartition(" ")[2]) for subject in subjects)
            return found

        self.server.run("postqueue -f")
        wait_until(lambda: accepted <= delivered().keys(), 180, "every accepted message in the mailbox", every=2)
        found = delivered()
        assert not [number for number, count in found.items() if count > 1]
        assert found.keys() - accepted <= unsure
        print(
            f"  {len(self.results)} messages: {len(accepted)} accepted and delivered once each, "
            f"{len(self.numbers('refused'))} told to come again, {len(unsure)} without an answer; "
            f"longest time in which none was accepted: {self.longest_gap():.1f} s"
        )


@contextlib.contextmanager
def flowing(server: Server, token: str) -> Iterator[Flow]:
    """Mail while the block runs; the balance afterwards, when the block ended well."""
    flow = Flow(server, token)
    try:
        time.sleep(1.5)
        yield flow
        time.sleep(1.5)
        flow.end()
        flow.settle()
    finally:
        flow.process.kill()
        server.discard("bob@acme.test", token, "INBOX", "Junk")


@dataclass(frozen=True)
class State:
    """Versions and files of a host."""

    packages: str
    files: dict[str, str]

    @classmethod
    def of(cls, server: Server) -> State:
        listing = server.run("dpkg-query -W -f '${Package} ${Version} ${db:Status-Status}\\n'")
        return cls(listing, snapshot(server.lab, server.name, ("/etc", "/usr/local", "/var/lib/mailwright")))

    def differences(self, other: State) -> list[str]:
        lines = set(self.packages.splitlines()) ^ set(other.packages.splitlines())
        paths = changed_paths(self.files, other.files)
        return sorted(lines | {path for path in paths if not LEFT.fullmatch(path)})


def rebuild(server: Server, variant: str) -> None:
    """Offer a variant of the packages to the host."""
    server.run(f"python3 - /srv/updates {variant}", data=(HERE / "rebuild.py").read_text(), timeout=300)


def playbook(server: Server, name: str, **variables: object) -> subprocess.CompletedProcess[str]:
    extra = json.dumps({"update_health_seconds": 20, **variables})
    return server.lab.playbook("-e", extra, f"mailwright.server.{name}", timeout=900)


# What the modules do on the host, without Ansible, so that a matrix of faults ends this day.
BEGIN = """
import subprocess, sys
sys.path.insert(0, "/root/engine.pyz")
from ansible_collections.mailwright.server.plugins.module_utils.txn import dpkg, snapshot
from ansible_collections.mailwright.server.plugins.module_utils.txn.storage import Transaction
dpkg.update_lists()
request = {"kind": "update", "packages": [], "hostname": "mx1.acme.test", "features": {"webmail": True},
           "confirm_seconds": CONFIRM, "health_seconds": 20, "connection": ""}
transaction = Transaction.create(snapshot.identifier(), request, open("/root/engine.pyz", "rb").read())
subprocess.run(["systemctl", "reset-failed", "mailwright-transaction.service"])
subprocess.run(["systemctl", "start", "--no-block", "mailwright-transaction.service"], check=True)
WATCH
"""
# Does something to the engine as soon as its journal has so many records; CONFIRM_AT says that somebody reaches it.
WATCH = """
import os, signal, time
def count():
    return (transaction.directory / "journal").read_bytes().count(b"\\n")
while count() < {number} and not transaction.history().ending:
    if "check" in transaction.history().done and {confirm}:
        transaction.confirm()
    time.sleep(0.001)
pid = int(subprocess.run(["systemctl", "show", "-P", "MainPID", "mailwright-transaction.service"],
                         capture_output=True, text=True).stdout)
if pid:
    os.kill(pid, signal.{name})
print(count(), transaction.history().ending)
"""


def begin(server: Server, confirm_seconds: int = 60, watch: str = "") -> str:
    """Start an update on the host, and wait for what is to be watched."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(bundle.archive())
        file.flush()
        config = str(server.lab.state / "ssh_config")
        subprocess.run(["scp", "-q", "-F", config, file.name, f"{server.name}:/root/engine.pyz"], check=True)
    program = BEGIN.replace("CONFIRM", str(confirm_seconds)).replace("WATCH", watch)
    return server.run("python3 -", data=program, timeout=600).strip()


def finish(server: Server) -> None:
    """Confirm as soon as the engine asks for it."""
    program = """
import sys, time
sys.path.insert(0, "/root/engine.pyz")
from ansible_collections.mailwright.server.plugins.module_utils.txn.storage import Transaction
while (transaction := Transaction.opened()) is not None and not transaction.history().ending:
    if "check" in transaction.history().done:
        transaction.confirm()
    time.sleep(0.1)
"""
    server.run("python3 -", data=program, timeout=600)


def journal(server: Server) -> list[dict[str, Any]]:
    """The newest transaction's records."""
    lines = server.run(f"cat $(ls -d {TXN}/2*/journal | tail -1)").splitlines()
    return [json.loads(line.partition(" ")[2]) for line in lines]


def ending(server: Server) -> dict[str, Any]:
    return next((r for r in journal(server) if r["record"] == "ending"), {})


def settled(server: Server, seconds: float = 420) -> str:
    """Wait until the host has settled by itself; gives the ending."""
    with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
        wait_until(
            lambda: reached(server) and not server.run(f"ls {TXN}/open 2>/dev/null", check=False),
            seconds,
            "an ending",
            every=1,
        )
    assert not server.run(f"ls {TXN}/open 2>/dev/null", check=False)
    return str(ending(server)["ending"])


def reached(server: Server) -> bool:
    with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
        return server.run("echo yes", timeout=20).strip() == "yes"
    return False


def rollback_seconds(server: Server) -> float:
    """From the failure to the ending."""
    records = journal(server)
    failed = next(r["at"] for r in records if r["record"] == "failed")
    return float(records[-1]["at"] - failed)


@pytest.fixture(scope="module")
def host(server: Server) -> Iterator[Server]:
    """The host under test with a limit that lets the flow pass; afterwards in its own versions again."""
    before = server.run("dpkg-query -W -f '${Package} ${Version}\\n'")
    server.run(
        f"mkdir -p $(dirname {OVERRIDE}) && echo 'rates {{ user = \"100000 / 1h\"; }}' > {OVERRIDE}"
        " && systemctl restart rspamd"
    )
    server.run("rm -rf /srv/updates /etc/apt/sources.list.d/lab-updates.list; apt-get -q update")
    # brings the units
    done = playbook(server, "update", update_packages=["postfix"])
    assert done.returncode == 0, done.stdout + done.stderr
    try:
        yield server
    finally:
        server.run(
            f"rm -rf {OVERRIDE} /srv/updates /etc/apt/sources.list.d/lab-updates.list; systemctl restart rspamd; "
            "apt-get -q update"
        )
        # the units that only an update brings, and its records
        server.run(
            "systemctl disable --quiet mailwright-recovery.service; rm -rf /etc/systemd/system/mailwright-*.service "
            f"/var/lib/mailwright/config/transaction.json {TXN} {SNAPSHOTS}; systemctl daemon-reload"
        )
    assert server.run("dpkg-query -W -f '${Package} ${Version}\\n'") == before


def test_a_good_update_commits_and_the_way_back_is_open(host: Server, token: str) -> None:
    _good(host, token, "small")


@pytest.mark.faults
def test_a_good_update_of_everything(host: Server, token: str) -> None:
    _good(host, token, "good")


def _good(host: Server, token: str, variant: str) -> None:
    before = State.of(host)
    rebuild(host, variant)
    planned = host.lab.playbook("--check", "--diff", "mailwright.server.update")
    assert planned.returncode == 0, planned.stdout + planned.stderr
    expected = set(re.findall(r"^\+(\S+ \S+\+lab\d)$", planned.stdout, re.MULTILINE))
    assert len(expected) > 2
    with flowing(host, token):
        done = playbook(host, "update")
        assert done.returncode == 0, done.stdout + done.stderr
    assert "Phase 6 of 6: complete" in done.stdout
    assert ending(host)["ending"] == "committed"
    now = State.of(host)
    updated = {line.rpartition(" ")[0] for line in set(now.packages.splitlines()) - set(before.packages.splitlines())}
    assert updated == expected
    again = playbook(host, "update")
    assert again.returncode == 0 and "changed=0" in again.stdout, again.stdout
    back = max(host.run(f"ls {SNAPSHOTS}").split())
    with flowing(host, f"{token}back"):
        done = playbook(host, "rollback", rollback_to=back)
        assert done.returncode == 0, done.stdout + done.stderr
    assert before.differences(State.of(host)) == [
        "/etc/systemd/system/mailwright-recovery.service"
    ] or not before.differences(State.of(host))


BROKEN = {
    "postinst": ("deploy", "dovecot"),
    "delivery": ("health-check", "not in the mailbox"),
    "start": ("deploy", "postfix"),
    "signature": ("health-check", "not signed"),
    "milter": ("health-check", "filter"),
}


@pytest.mark.faults
@pytest.mark.parametrize("variant", BROKEN)
def test_a_broken_update_undoes_itself(host: Server, token: str, variant: str) -> None:
    before = State.of(host)
    rebuild(host, variant)
    with flowing(host, token):
        begin(host)
        assert settled(host) == "rolled back"
    phase, words = BROKEN[variant]
    said = ending(host)
    assert said["phase"] == phase, said
    assert words in said["cause"]
    assert before.differences(State.of(host)) == []
    print(f"  {variant}: {said['cause'][:100]!r}; rolled back in {rollback_seconds(host):.0f} s")
