# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Times the module dns_records on ns1: 50 and 500 zones of a mail domain each, published, then nothing to change.

    tests/bench/dns_publish.py [--sizes 50 500]

A figure is the wall time of the module in a process of its own, as Ansible runs it, with the records as JSON text; of
an unchanged run the best of three. Beside it are the processor time of that process and the machine's load, since the
name servers run on the same machine. Makes zones of its own on Knot and PowerDNS and removes them. Exits 1 when a
limit is missed: 15 seconds for 500 unchanged zones, and growth that is linear.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/lab"), str(ROOT / ".collections")]

from connection import Lab  # noqa: E402
from nameservers import Knot, PowerDns  # noqa: E402

# Zones to unchanged seconds; a size between them is not limited.
LIMITS = {500: 15.0}
# Ten times the zones may take this many times as long.
GROWTH = 13.0
REPEATS = 3
FOREIGN = '@ 300 TXT "site-verification=1"\nwww 300 A 192.0.2.1\n* 300 A 192.0.2.2\n'


def records(zone: str) -> list[dict[str, Any]]:
    """What a mail domain publishes, about."""
    found: list[tuple[str, str, str]] = [
        (zone, "MX", "10 mx1.acme.test."),
        (zone, "TXT", '"v=spf1 mx -all"'),
        (f"_dmarc.{zone}", "TXT", f'"v=DMARC1; p=quarantine; rua=mailto:postmaster@{zone}"'),
        (f"_mta-sts.{zone}", "TXT", '"v=STSv1; id=20260301000000"'),
        (f"mta-sts.{zone}", "CNAME", "mx1.acme.test."),
        (f"_smtp._tls.{zone}", "TXT", f'"v=TLSRPTv1; rua=mailto:postmaster@{zone}"'),
        (f"autoconfig.{zone}", "CNAME", "mx1.acme.test."),
        (f"autodiscover.{zone}", "CNAME", "mx1.acme.test."),
    ]
    found += [(f"s{n}._domainkey.{zone}", "TXT", f'"v=DKIM1; k=rsa; p={"A" * 230}" "{"A" * 162}"') for n in range(2)]
    found += [
        (f"_{service}._tcp.{zone}", "SRV", f"0 1 {port} mx1.acme.test.")
        for service, port in (
            ("imaps", 993),
            ("submissions", 465),
            ("submission", 587),
            ("pop3s", 995),
            ("sieve", 4190),
        )
    ]
    return [{"name": f"{name}.", "type": kind, "ttl": 3600, "values": [value]} for name, kind, value in found]


def processor_time() -> float:
    """Seconds that ended child processes have computed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(server: Any, zones: list[str], ledger: str) -> tuple[float, float, int]:
    """Seconds of one run of the module, seconds that it computed, and the number of changes. Exits when it fails."""
    arguments = {
        "owner": "bench",
        "ledger": ledger,
        "providers": {"main": server.settings},
        "zones": dict.fromkeys(zones, "main"),
        "records": json.dumps([record for zone in zones for record in records(zone)]),
    }
    started, computed = time.monotonic(), processor_time()
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/integration/publisher.py")],
        input=json.dumps({"arguments": arguments}), text=True, capture_output=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / ".collections")},
    )  # fmt: skip
    seconds = time.monotonic() - started
    result = json.loads(done.stdout or "{}")
    if "changes" not in result or result.get("failed"):
        sys.exit(f"dns_records failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return seconds, processor_time() - computed, len(result["changes"])


def measure(server: Any, size: int) -> tuple[float, float, float]:
    """Seconds to publish so many zones, and to find that nothing is to be done; seconds that the latter computed."""
    zones = [f"z{number:04}.bench{size}.test" for number in range(size)]
    with tempfile.TemporaryDirectory() as work:
        try:
            server.add(dict.fromkeys(zones, FOREIGN))
            first, _computed, changes = run(server, zones, f"{work}/ledger.json")
            assert changes == size * len(records("x")), changes
            again = [run(server, zones, f"{work}/ledger.json") for _repeat in range(REPEATS)]
        finally:
            server.remove(zones)
    assert all(changes == 0 for _seconds, _computed, changes in again), again
    return (
        first,
        min(seconds for seconds, _computed, _changes in again),
        min(computed for _seconds, computed, _changes in again),
    )


def main() -> int:
    """Measures, prints the table, says what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 500])
    arguments = parser.parse_args()
    lab = Lab.load()
    wrong = []
    print(
        f"{'provider':>10} {'zones':>6} {'record sets':>12} {'publish s':>10} {'nothing to do s':>16}"
        f" {'processor s':>12} {'load':>6}"
    )
    for name, server in (("rfc2136", Knot(lab)), ("powerdns", PowerDns(lab))):
        figures = {}
        for size in sorted(arguments.sizes):
            first, figures[size], computed = measure(server, size)
            print(
                f"{name:>10} {size:>6} {size * len(records('x')):>12} {first:>10.2f} {figures[size]:>16.2f}"
                f" {computed:>12.2f} {os.getloadavg()[0]:>6.1f}",
                flush=True,
            )
            if figures[size] >= LIMITS.get(size, float("inf")):
                wrong.append(
                    f"{name}: {figures[size]:.1f} s for {size} unchanged zones, at most {LIMITS[size]} s allowed"
                )
        small, large = min(figures), max(figures)
        growth = figures[large] / figures[small] / (large / small) * 10
        if growth > GROWTH:
            wrong.append(f"{name}: from {small} to {large} zones the time grew {growth:.1f}-fold for each tenfold")
    print("\n".join(wrong) or "within the limits, growth linear")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
