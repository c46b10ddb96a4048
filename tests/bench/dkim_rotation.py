# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Times DKIM rotation of 50 and 500 domains on a host: the step when nothing is due, and when every key is.

    tests/bench/dkim_rotation.py HOST --inventory FILE [--sizes 50 500]

A figure is the wall time of ansible-playbook with the module dkim_rotation, records of two keys for each domain seen
live; of a step with nothing to do the best of three. Beside that are the processor time that the host takes meanwhile
for the step in which every key is due, and the machine's load. The last column is the whole playbook rotate_dkim with
as many zones on ns1: asking for all records, the filter, publishing; its time is shown and not limited.
The host has to have `site` applied; domains, keys and zones are removed afterwards. Exits 1 when a limit is missed:
30 seconds for a step of 500 domains, and growth that is linear.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/lab"), str(ROOT / ".collections")]

# the lab's modules, on the path that was set above
from connection import Lab  # noqa: E402
from nameservers import Knot  # noqa: E402

PLAYBOOK = Path(__file__).with_suffix(".yml")
STORE = "/var/lib/mailwright-bench"
LIMITS = {500: 30.0}
# Ten times the domains may take this many times as long.
GROWTH = 13.0
REPEATS = 3


class Bench:
    """A host, its inventory, and a directory for what goes between."""

    def __init__(self, host: str, inventory: Path, work: Path) -> None:
        self.lab, self.host, self.inventory, self.work = Lab.load(), host, inventory, work
        self.start = datetime.now(UTC).replace(microsecond=0)

    def run(self, *arguments: str) -> float:
        started = time.monotonic()
        done = self.lab.playbook(*arguments)
        if done.returncode:
            sys.exit(f"the playbook failed: {done.stdout[-3000:]}{done.stderr[-2000:]}")
        return time.monotonic() - started

    def step(self, domains: list[str], days: float, seen: dict[str, str]) -> tuple[float, dict[str, Any]]:
        """Seconds of one step with these records seen live, and what it gave."""
        now = (self.start + timedelta(days=days)).isoformat()
        observations = []
        for name in seen:
            selector, _middle, domain = name.partition("._domainkey.")
            observations.append(
                {"domain": domain.rstrip("."), "selector": selector, "sight": "live", "text": None, "observed": now,
                 "ttl": 3600, "negative_ttl": 900}
            )  # fmt: skip
        variables, result = self.work / "variables.json", self.work / "result.json"
        variables.write_text(
            json.dumps({"bench_domains": domains, "bench_observations": observations, "bench_now": now,
                        "bench_result": str(result)})
        )  # fmt: skip
        seconds = self.run("-i", str(self.inventory), str(PLAYBOOK), "-e", f"@{variables}")
        return seconds, json.loads(result.read_text())

    def computed(self) -> float:
        """Seconds that the host's processes have computed."""
        return int(self.lab.ssh(self.host, "awk '/^usage_usec/ {print $2}' /sys/fs/cgroup/cpu.stat")) / 1e6

    def steps(self, size: int) -> tuple[float, float, float, float]:
        """Seconds of the first step, of one with nothing to do, and of one in which every key is due; seconds that the
        host computed in the last one."""
        domains = [f"d{number:04}.bench{size}.test" for number in range(size)]
        self.lab.ssh(self.host, f"rm -rf {STORE}")
        first, made = self.step(domains, 0, {})
        assert Counter(made["states"]) == {"active": 2 * size}, made["states"][:9]
        # the wait for caches begins with the first time and ends with the second
        for day in (1, 2):
            self.step(domains, day, made["records"])
        idle = []
        for day in range(3, 3 + REPEATS):
            seconds, again = self.step(domains, day, made["records"])
            assert not again["generated"] and again["records"] == made["records"]
            idle.append(seconds)
        computed = self.computed()
        due, later = self.step(domains, 181, made["records"])
        computed = self.computed() - computed
        assert Counter(later["states"]) == {"active": 2 * size, "generated": 2 * size}
        self.lab.ssh(self.host, f"rm -rf {STORE}")
        return first, min(idle), due, computed

    def whole(self, size: int) -> float:
        """Seconds of rotate_dkim with nothing to do, zones and all."""
        zones = [f"r{number:04}.bench{size}.test" for number in range(size)]
        inventory = yaml.safe_load(self.inventory.read_text())
        group = inventory["mailservers"]
        group["hosts"][self.host]["mail_dns"] = {
            "providers": {"ns1": Knot(self.lab).settings},
            "zones": dict.fromkeys(zones, "ns1"),
            "resolvers": [self.lab.address("ns1")],
            "ledger": str(self.work / "ledger.json"),
        }
        group["vars"]["mail_domains__bench"] = [{"name": zone} for zone in zones]
        path = self.work / "inventory.yml"
        path.write_text(yaml.safe_dump(inventory))
        knot = Knot(self.lab)
        try:
            knot.add(dict.fromkeys(zones, ""))
            arguments = ("-i", str(path), "mailwright.server.rotate_dkim", "-e", '{"dns_verify": false}')
            for _run in range(3):
                self.run(*arguments)
            return min(self.run(*arguments) for _repeat in range(2))
        finally:
            knot.remove(zones)
            self.lab.ssh(self.host, f"rm -rf /var/lib/mailwright/dkim/*.bench{size}.test")


def main() -> int:
    """Measures, prints the table, says what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host")
    parser.add_argument("--inventory", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 500])
    arguments = parser.parse_args()
    wrong = []
    figures: dict[str, dict[int, float]] = {"nothing due": {}, "all due": {}}
    print(
        f"{'domains':>8} {'first keys s':>13} {'nothing due s':>14} {'all due s':>10} {'processor s':>12} {'load':>6}"
        f" {'rotate_dkim s':>14}"
    )
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(arguments.host, arguments.inventory, Path(work))
        # what each run of ansible-playbook costs by itself is no part of the growth
        _first, base, _due, _computed = bench.steps(1)
        for size in sorted(arguments.sizes):
            first, idle, due, computed = bench.steps(size)
            figures["nothing due"][size], figures["all due"][size] = idle, due
            print(
                f"{size:>8} {first:>13.2f} {idle:>14.2f} {due:>10.2f} {computed:>12.2f} {os.getloadavg()[0]:>6.1f}"
                f" {bench.whole(size):>14.2f}",
                flush=True,
            )
    for name, seconds in figures.items():
        wrong += [
            f"{name}: {seconds[size]:.1f} s for {size} domains, at most {limit:.0f} s allowed"
            for size, limit in LIMITS.items()
            if seconds.get(size, 0) >= limit
        ]
        small, large = min(seconds), max(seconds)
        growth = (seconds[large] - base) / max(seconds[small] - base, 0.1) / (large / small) * 10
        if growth > GROWTH and large > small:
            wrong.append(f"{name}: from {small} to {large} domains the time grew {growth:.1f}-fold for each tenfold")
    print("\n".join(wrong) or "within the limits, growth linear")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
