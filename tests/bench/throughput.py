# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Inbound mail: our whole chain against Debian's stock packages, in turns, on the same machine.

stock   postfix, rspamd as milter, dovecot LMTP into Maildir with full-text index, as packaged
ours    postscreen, rspamd with Redis and ClamAV, quota, LMTP with Sieve, search index

Ten sessions of smtp-source on peer, each reusing its connection (-d: without it, connections are what is measured),
4 KB messages, to ten mailboxes. The clock stops when the last message lies in its Maildir; every one is counted.
"""

from __future__ import annotations

import time

from connection import CHECKOUT, Lab, wait_until

SESSIONS = 10
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


def inbound(lab: Lab, host: str, domain: str, home: str, count: int) -> tuple[float, float]:
    """Send count messages and wait for all: (accepted, delivered), each in messages a second."""
    before = stored(lab, host, home)
    each = count // SESSIONS
    # the first contact waits for postscreen's greet test; a benchmark of a flow starts after it
    command = (
        f"smtp-source -d -s 1 -m 1 -M peer.peer.test -F /tmp/letter -f dave@peer.test -t u0@{domain} "
        f"{lab.address(host)}:25"
    )
    lab.ssh("peer", command)
    wait_until(lambda: stored(lab, host, home) == before + 1, 60, f"the first message on {host}")
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
    time.sleep(1)
    extra = stored(lab, host, home) - (before + 1 + each * SESSIONS)
    if extra:
        raise RuntimeError(f"{host}: {extra} messages more than were sent")
    return each * SESSIONS / accepted, each * SESSIONS / delivered
