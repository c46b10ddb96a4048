# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""MTA-STS both ways: others verify our policy, and mail from here keeps to theirs, unless DANE says more."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ansible_collections.mailwright.server.tests.integration.peer import RESOLVER, Peer, publishing
from connection import Lab, message, wait_until

if TYPE_CHECKING:
    from ansible_collections.mailwright.server.tests.integration.conftest import Server, Timer

DAVE = "dave@peer.test"
# --- inbound: what others see ---------------------------------------------------------------------------------------


def fetch(server: Server, name: str, path: str) -> tuple[int, str, str]:
    """Status, Content-Type and body of https://name/path at the host under test, its certificate verified."""
    connection = http.client.HTTPSConnection(name, timeout=20, context=server.lab.tls())
    plain = socket.create_connection((server.address, 443), 20)
    connection.sock = server.lab.tls().wrap_socket(plain, server_hostname=name)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.headers.get("Content-Type", ""), answer.read().decode()


def test_the_policy_is_served_as_the_rfc_asks(server: Server) -> None:
    status, kind, text = fetch(server, "mta-sts.acme.test", "/.well-known/mta-sts.txt")
    assert (status, kind) == (200, "text/plain")
    assert text == "version: STSv1\r\nmode: enforce\r\nmx: mx1.acme.test\r\nmax_age: 604800\r\n"
    assert fetch(server, "mta-sts.acme.test", "/")[0] == 404
    with pytest.raises(OSError, match=r"(?i)unrecognized.name"):
        fetch(server, "mta-sts.peer.test", "/.well-known/mta-sts.txt")


def test_debians_resolver_on_peer_accepts_the_policy(server: Server) -> None:
    server.lab.ssh("peer", "cat > /root/lab-ca.pem", data=Path(server.lab.env["LAB_CA"]).read_text())
    found = server.lab.ssh("peer", "SSL_CERT_FILE=/root/lab-ca.pem mta-sts-query acme.test")
    assert "STSFetchResult.VALID" in found, found
    assert "'mx': ['mx1.acme.test']" in found, found
    assert "STSFetchResult.NONE" in server.lab.ssh("peer", "SSL_CERT_FILE=/root/lab-ca.pem mta-sts-query peer.test")
    # and the mail server is as the policy says
    said = server.lab.ssh("peer", "posttls-finger -c -l secure -F /root/lab-ca.pem acme.test mx1.acme.test 2>&1")
    assert "Verified TLS connection established" in said, said


# --- outbound -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def peer(lab: Lab, server: Server) -> Iterator[Peer]:
    with publishing(lab, server) as found:
        yield found


def sends(server: Server, token: str) -> None:
    with server.lab.submission("alice@acme.test", server.name) as smtp:
        smtp.send_message(message("alice@acme.test", DAVE, token))


def why_it_waits(server: Server) -> str:
    """The reason why the host under test holds mail to dave."""
    reasons = [
        recipient.get("delay_reason", "")
        for line in server.run("postqueue -j").splitlines()
        for recipient in json.loads(line)["recipients"]
        if recipient["address"] == DAVE
    ]
    return next((reason for reason in reasons if reason), "")


def arrives(server: Server, token: str) -> None:
    server.run("postqueue -f")
    wait_until(lambda: server.lab.dave_has(token), 60, "the message in dave's mailbox")


def how(server: Server) -> str:
    """What Postfix said of its last connection to peer."""
    lines = server.run("journalctl -t postfix/smtp -t postfix/tlsproxy -o cat --no-pager -n 200").splitlines()
    return next((line for line in reversed(lines) if "TLS connection established to peer.peer.test" in line), "")


def test_an_unfit_certificate_keeps_mail_here_and_a_fitting_one_lets_it_go(
    server: Server, peer: Peer, token: str, timer: Timer
) -> None:
    peer.serves(*peer.certificate("other.peer.test"))
    sends(server, token)
    reason = wait_until(lambda: why_it_waits(server), 60, "a reason why the message waits")
    timer.say(f"waits: {reason}")
    assert "certificate" in reason.lower(), reason
    assert not server.lab.dave_has(token)
    peer.serves(*peer.certificate("peer.peer.test"))
    arrives(server, token)
    assert how(server).startswith("Verified TLS"), how(server)


def test_dane_wins_over_the_policy(server: Server, peer: Peer, token: str, timer: Timer) -> None:
    fitting = peer.certificate("peer.peer.test")
    unfit = peer.certificate("other.peer.test")
    peer.serves(*fitting)
    peer.publish(peer.tlsa(unfit[0]))
    try:
        sends(server, token)
        reason = wait_until(lambda: why_it_waits(server), 60, "a reason why the message waits")
        timer.say(f"TLSA does not fit, policy does: {reason}")
        assert not server.lab.dave_has(token)
        peer.serves(*unfit)
        arrives(server, token)
        timer.say(f"TLSA fits, policy does not: {how(server)}")
        assert how(server).startswith("Verified TLS"), how(server)
    finally:
        peer.withdraw(("_25._tcp.peer.peer.test.", "TLSA"))


def test_a_policy_that_was_seen_counts_without_policy_host_and_dns(server: Server, peer: Peer, token: str) -> None:
    peer.serves(*peer.certificate("other.peer.test"))
    sends(server, token)
    wait_until(lambda: why_it_waits(server), 60, "a reason why the message waits")
    peer.lab.ssh("peer", "systemctl stop policy-host")
    peer.withdraw(("_mta-sts.peer.test.", "TXT"))
    server.run(f"systemctl restart {RESOLVER}; postqueue -f")
    wait_until(lambda: "certificate" in why_it_waits(server), 60, "the same answer without the policy's host")
    assert not server.lab.dave_has(token)
    peer.serves(*peer.certificate("peer.peer.test"))
    arrives(server, token)


def test_while_the_resolver_is_down_mail_to_elsewhere_waits(
    server: Server, peer: Peer, token: str, timer: Timer
) -> None:
    peer.serves(*peer.certificate("peer.peer.test"))
    server.run(f"systemctl stop {RESOLVER}")
    try:
        sends(server, token)
        reason = wait_until(lambda: why_it_waits(server), 150, "a reason why the message waits")
        timer.say(f"waits: {reason}")
        assert reason == "client TLS configuration problem"
        assert not server.lab.dave_has(token)
        with server.lab.submission("alice@acme.test", server.name) as smtp:
            smtp.send_message(message("alice@acme.test", "bob@acme.test", f"{token} here"))
        wait_until(lambda: server.subjects("bob@acme.test", token), 30, "mail within the host as usual")
        server.discard("bob@acme.test", token)
    finally:
        server.run(f"systemctl start {RESOLVER}")
    timer.restart()
    arrives(server, token)
    timer.say("the resolver is back: the message has arrived")
