# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sending API against smtp-source, to the same Postfix, one after the other, on the same machine.

    tests/bench/sending.py HOST KEY DOMAIN [--seconds N]

Both hand over messages of 4 KB through Rspamd, 16 at a time, into Postfix's queue, where they are deferred: what
happens after that is no part of it. The API's clients come by HTTPS through nginx and run on this machine too, so they
take their share of its processors. Then the same with messages of earlier days in the database, of one domain and of a
thousand. Prints figures; exits 1 when the services take more memory than they may.
"""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import statistics
import sys
import threading
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(CHECKOUT / "tests/lab"), str(CHECKOUT / "tests/bench")]

from connection import Lab, wait_until  # noqa: E402
from throughput import letter  # noqa: E402

HOSTNAME = "mx1.acme.test"
CALLERS = 8
BATCH = 100
SESSIONS = 16
SMTP_MESSAGES = 1000
MEMORY_LIMIT = 120.0
UNITS = ("mailwright-api", "mailwright-dispatch", "mailwright-webhooks")
# messages that are there already, and of how many domains
STORED = ((10_000, 1), (100_000, 1), (100_000, 1000))
OTHERS = ("postgresql@17-main", "nginx", "postfix", "rspamd", "clamav-daemon", "systemd-journald")


class Connection(http.client.HTTPSConnection):
    """To a host whose name is in the lab's DNS alone; made again when nginx has closed it, after 1,000 requests."""

    def __init__(self, lab: Lab, host: str) -> None:
        self.tls = lab.tls()
        super().__init__(HOSTNAME, timeout=100, context=self.tls)
        self.address = lab.address(host)

    def connect(self) -> None:
        plain = socket.create_connection((self.address, 443), self.timeout)
        self.sock = self.tls.wrap_socket(plain, server_hostname=HOSTNAME)


class Caller(threading.Thread):
    """Sends requests over one connection until the time is up."""

    def __init__(self, lab: Lab, host: str, key: str, path: str, body: bytes, end: float) -> None:
        super().__init__()
        self.connection = Connection(lab, host)
        self.headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self.path, self.body, self.end = path, body, end
        self.latencies: list[float] = []
        self.refused = 0

    def run(self) -> None:
        while time.monotonic() < self.end:
            started = time.monotonic()
            self.connection.request("POST", f"/api/v1{self.path}", self.body, self.headers)
            answer = self.connection.getresponse()
            answer.read()
            self.latencies.append(time.monotonic() - started)
            self.refused += answer.status != 202


def query(lab: Lab, host: str, statement: str) -> int:
    return int(lab.ssh(host, "su postgres -c 'psql -AtX -d mailwright'", data=statement))


def waiting(lab: Lab, host: str) -> int:
    # not what is scheduled for later
    due = "status = 'sending' OR (status = 'queued' AND not_before < now() + interval '15 minutes')"
    return query(lab, host, f"SELECT count(*) FROM api.recipient WHERE {due}")


def requests(
    lab: Lab, host: str, key: str, path: str, body: bytes, callers: int, seconds: float
) -> tuple[list[float], float]:
    """Latencies of all requests, and how long they took together."""
    started = time.monotonic()
    threads = [Caller(lab, host, key, path, body, started + seconds) for _number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if any(thread.refused for thread in threads):
        raise SystemExit("sending: the service refused messages")
    return sorted(latency for thread in threads for latency in thread.latencies), time.monotonic() - started


def smtp_source(lab: Lab, host: str, domain: str) -> float:
    """Messages a second from smtp-source on the host itself."""
    lab.ssh(host, "cat > /tmp/letter", data=letter().replace("dave@peer.test", f"news@{domain}"))
    started = time.monotonic()
    envelope = f"-F /tmp/letter -f news@{domain} -t dave@peer.test"
    lab.ssh(host, f"smtp-source -d -s {SESSIONS} -m {SMTP_MESSAGES} {envelope} 127.0.0.1:25", timeout=600)
    return SMTP_MESSAGES / (time.monotonic() - started)


def memory(lab: Lab, host: str, unit: str) -> float:
    """A service's share of memory (PSS) in MiB."""
    pid = lab.ssh(host, f"systemctl show -P MainPID {unit}.service").strip()
    return int(lab.ssh(host, f"awk '/^Pss:/ {{print $2}}' /proc/{pid}/smaps_rollup")) / 1024


def processor(lab: Lab, host: str) -> dict[str, float]:
    """Processor time that each unit has used so far, in milliseconds: a figure that a busy machine does not change."""
    units = [*UNITS, *OTHERS]
    shown = lab.ssh(host, f"systemctl show -P CPUUsageNSec {' '.join(units)}").split()
    return {unit: int(text) / 1e6 for unit, text in zip(units, shown, strict=True)}


def spent(before: dict[str, float], after: dict[str, float], messages: int) -> str:
    """Processor time for each message."""
    each = {unit: (after[unit] - before[unit]) / messages for unit in after}
    shares = ", ".join(f"{unit} {ms:.1f}" for unit, ms in each.items() if ms >= 0.05)
    return f"{sum(each.values()):.1f} ms a message: {shares}"


# A host of the lab has no control of processor time by control groups (CPUWeight). Each service is a session of its
# own, to which the kernel's autogroups give shares by a nice value: -8 is six times the share of 0 (sched(7)).
AUTOGROUP = """
for unit in %s; do
    [ "$(systemctl show -P CPUWeight $unit)" != 600 ] || echo -8 > /proc/$(systemctl show -P MainPID $unit)/autogroup
done
"""


# Finished, each with its three events, of the last 20 days.
STORE = """
INSERT INTO api.message (id, domain, key_id, message_id, sender, subject, content, created_at)
SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
       CASE WHEN n % {domains} = 0 THEN '{domain}' ELSE 'd' || n % {domains} || '.{domain}' END, 'bench', n,
       'x@{domain}', 'stored', '\\x78', now() - n * interval '20 days' / {count}
  FROM generate_series(1, {count}) AS n;
INSERT INTO api.recipient (id, message, domain, address, token, status, queue_id)
SELECT id, id, domain, 'u' || message_id || '@peer.test', 'stored' || message_id, 'delivered', 'stored' || message_id
  FROM api.message WHERE subject = 'stored';
INSERT INTO api.event (domain, message, recipient, kind, at, address, relay)
SELECT m.domain, m.id, m.id, kind, m.created_at, 'u' || m.message_id || '@peer.test', 'mx.peer.test[192.0.2.1]:25'
  FROM api.message m, unnest(ARRAY['accepted', 'handed_over', 'delivered']) AS kind WHERE m.subject = 'stored';
ANALYZE api.message, api.recipient, api.event;
"""
FORGET = "DELETE FROM api.message WHERE subject = 'stored'; VACUUM ANALYZE api.message, api.recipient, api.event;"


def administer(lab: Lab, host: str, statements: str) -> None:
    lab.ssh(host, "su postgres -c 'psql -qX -v ON_ERROR_STOP=1 -d mailwright'", data=statements, timeout=900)


def growth(lab: Lab, host: str, key: str, domain: str, body: bytes, seconds: float, empty: float) -> None:
    """Accept and hand over while earlier messages are stored, as a share of the rate without them."""
    for count, domains in STORED:
        administer(lab, host, STORE.format(count=count, domains=domains, domain=domain))
        try:
            started = time.monotonic()
            latencies, _took = requests(lab, host, key, "/emails", body, CALLERS, seconds)
            wait_until(lambda: waiting(lab, host) == 0, 600, "everything is handed over", 0.2)
            rate = len(latencies) / (time.monotonic() - started)
            p99 = statistics.quantiles(latencies, n=100)[98] * 1000
            print(
                f"     with {count} stored, {domains} domains{'':<7} {rate:7.1f} messages/s, {rate / empty:.2f} of "
                f"the rate without, p99 {p99:.0f} ms"
            )
        finally:
            administer(lab, host, FORGET)


def measure(lab: Lab, host: str, key: str, domain: str, seconds: float) -> bool:
    """All of it; whether the limit held."""
    message = {"from": f"news@{domain}", "to": ["dave@peer.test"], "subject": "Weekly notes", "text": letter()[:3800]}
    one = json.dumps(message).encode()
    many = json.dumps({"emails": [message] * BATCH}).encode()
    idle = processor(lab, host)
    baseline = smtp_source(lab, host, domain)
    before = processor(lab, host)
    print(f"     smtp-source to the same Postfix   {baseline:7.1f} messages/s")
    print(f"       processor: {spent(idle, before, SMTP_MESSAGES)}")
    started = time.monotonic()
    latencies, took = requests(lab, host, key, "/emails", one, CALLERS, seconds)
    wait_until(lambda: waiting(lab, host) == 0, 600, "everything is handed over", 0.2)
    handed = len(latencies) / (time.monotonic() - started)
    p99 = statistics.quantiles(latencies, n=100)[98] * 1000
    print(f"     accepted, one a request           {len(latencies) / took:7.1f} messages/s, p99 {p99:.0f} ms")
    print(f"     accepted and handed over          {handed:7.1f} messages/s, {handed / baseline:.2f} of smtp-source")
    print(f"       processor: {spent(before, processor(lab, host), len(latencies))}")
    batches, took = requests(lab, host, key, "/emails/batch", many, 2, seconds / 3)
    print(f"     accepted, {BATCH} a request         {BATCH * len(batches) / took:7.1f} messages/s")
    wait_until(lambda: waiting(lab, host) == 0, 600, "everything is handed over", 0.5)
    growth(lab, host, key, domain, one, seconds / 3, handed)
    sizes = {unit: memory(lab, host, unit) for unit in UNITS}
    for unit, mib in sizes.items():
        print(f"     {unit:<33} {mib:7.1f} MiB")
    return all(mib < MEMORY_LIMIT for mib in sizes.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host")
    parser.add_argument("key")
    parser.add_argument("domain")
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    lab = Lab.load()
    lab.ssh(given.host, AUTOGROUP % " ".join(UNITS))
    # nothing leaves the queue while it is filled
    lab.ssh(given.host, "postconf -e defer_transports=smtp && postfix reload")
    try:
        good = measure(lab, given.host, given.key, given.domain, given.seconds)
    finally:
        lab.ssh(given.host, "postconf -X defer_transports; postsuper -d ALL; postfix reload")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
