# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Inbound mail: our whole chain against Debian's stock packages, in turns, on the same machine.

stock   postfix, rspamd as milter, dovecot LMTP into Maildir with full-text index, as packaged
ours    postscreen, rspamd with Redis and ClamAV, quota, LMTP with Sieve, search index

Ten sessions of smtp-source on peer, each reusing its connection (-d: without it, connections are what is measured),
4 KB messages, to ten mailboxes. Every message is counted. There are two clocks: one stops when the last message lies
in its Maildir, the other when the search index holds it too. Stock indexes each message as it comes, ours a batch at a
time, which is started when the last message is there. Processor time is that of all services until then, as the
machine's control groups count it, without ssh, by which the benchmark looks.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from connection import CHECKOUT, Lab, wait_until

SESSIONS = 10
STOCK_DOMAIN = "stock.test"
STOCK_PACKAGES = "postfix dovecot-lmtpd dovecot-imapd dovecot-flatcurve rspamd"
STOCK_SETUP = """
set -e
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qqy install --no-install-recommends %(packages)s >/dev/null
postconf -e myhostname=stock.test 'mydestination=stock.test, localhost' inet_interfaces=all inet_protocols=ipv4 \
    mailbox_transport=lmtp:unix:private/dovecot-lmtp smtpd_milters=inet:localhost:11332 'mynetworks=127.0.0.0/8'
cat > /etc/dovecot/local.conf <<CONF
mail_driver = maildir
mail_path = ~/Maildir
mail_inbox_path =
service lmtp {
  unix_listener /var/spool/postfix/private/dovecot-lmtp {
    mode = 0600
    user = postfix
    group = postfix
  }
}
CONF
for i in $(seq 0 %(last)d); do id u$i >/dev/null 2>&1 || useradd --create-home u$i; done
systemctl restart dovecot rspamd
timeout 30 sh -c 'until ss -Hltn sport = 11332 | grep -q .; do sleep 0.2; done'
systemctl restart postfix
"""


# service -> microseconds of processor time, of all services under their slices
CPU = """
cd /sys/fs/cgroup/system.slice
for group in *.service system-*.slice; do echo "$group" $(awk '/^usage_usec/ {print $2}' "$group/cpu.stat"); done
"""
# ours is told to index now, stock has begun by itself; then both are waited for
INDEX = """
if [ -e /etc/systemd/system/mailwright-index.service ]; then systemctl start mailwright-index.service; fi
while [ "$(doveadm indexer list | wc -l)" -gt 1 ]; do sleep 0.05; done
"""


@dataclass(frozen=True)
class Run:
    """Messages a second, and milliseconds of processor time for one message by service."""

    accepted: float
    delivered: float
    indexed: float
    cpu: dict[str, float]


def letter() -> str:
    """A message of 4 KB of English prose: the beginning of the project's own licence."""
    text = (CHECKOUT / "COPYING").read_text()[:3800]
    return (
        "From: Dave <dave@peer.test>\nTo: Team <team@bench.test>\nSubject: Weekly notes of the team\n"
        f"Date: {time.strftime('%a, %d %b %Y %H:%M:%S +0000', time.gmtime())}\nMessage-ID: <weekly.notes@peer.test>\n"
        f"MIME-Version: 1.0\nContent-Type: text/plain; charset=us-ascii\n\n{text}"
    )


def set_up_stock(lab: Lab, host: str) -> None:
    lab.ssh(host, "bash -s", data=STOCK_SETUP % {"packages": STOCK_PACKAGES, "last": SESSIONS - 1}, timeout=600)


def set_up_peer(lab: Lab) -> None:
    lab.ssh("peer", "cat > /tmp/letter", data=letter())


def stored(lab: Lab, host: str, home: str) -> int:
    """Messages in the ten Maildirs."""
    find = f"find {home} -type f -path '*/Maildir/*' '(' -path '*/new/*' -o -path '*/cur/*' ')'"
    return int(lab.ssh(host, f"{find} | wc -l"))


def in_index(lab: Lab, host: str, users: list[str]) -> int:
    """Messages of the users' INBOX that the search index holds."""
    command = "; ".join(f"doveadm fts flatcurve stats -u {user} INBOX" for user in users)
    return sum(int(number) for number in re.findall(r"messages=(\d+)", lab.ssh(host, command, check=False)))


def cpu(lab: Lab, host: str) -> dict[str, int]:
    words = [line.split() for line in lab.ssh(host, CPU).splitlines()]
    return {name: int(usage) for name, usage in words if name != "ssh.service"}


def inbound(lab: Lab, host: str, domain: str, home: str, count: int) -> Run:
    """Send count messages and wait for all."""
    before = stored(lab, host, home)
    each = count // SESSIONS
    # the first contact waits for postscreen's greet test; a benchmark of a flow starts after it
    command = (
        f"smtp-source -d -s 1 -m 1 -M peer.peer.test -F /tmp/letter -f dave@peer.test -t u0@{domain} "
        f"{lab.address(host)}:25"
    )
    lab.ssh("peer", command)
    wait_until(lambda: stored(lab, host, home) == before + 1, 60, f"the first message on {host}")
    lab.ssh(host, INDEX, timeout=300)
    cpu_before = cpu(lab, host)
    started = time.monotonic()
    lab.ssh(
        "peer",
        f"for i in $(seq 0 {SESSIONS - 1}); do smtp-source -d -s 1 -m {each} -M peer.peer.test -F /tmp/letter "
        f"-f dave@peer.test -t u$i@{domain} {lab.address(host)}:25 & done; wait",
        timeout=600,
    )
    accepted = time.monotonic() - started
    wait_until(lambda: stored(lab, host, home) >= before + 1 + each * SESSIONS, 300, f"all messages on {host}", 0.05)
    delivered = time.monotonic() - started
    lab.ssh(host, INDEX, timeout=300)
    indexed = time.monotonic() - started
    used = cpu(lab, host)
    sent = each * SESSIONS
    missing = before + 1 + sent - stored(lab, host, home)
    users = [f"u{i}" if domain == STOCK_DOMAIN else f"u{i}@{domain}" for i in range(SESSIONS)]
    unindexed = stored(lab, host, home) - in_index(lab, host, users)
    if missing or unindexed:
        raise RuntimeError(f"{host}: {missing} messages too few, {unindexed} not in the search index")
    spent = {name: (usec - cpu_before.get(name, 0)) / 1000 / sent for name, usec in used.items()}
    return Run(sent / accepted, sent / delivered, sent / indexed, spent)
