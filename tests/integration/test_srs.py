# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Forwarded mail gets a sender of this host, bounces find their way back, and nobody can make such senders up."""

from __future__ import annotations

import base64
import email
import email.policy
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from connection import Lab, message, wait_until

if TYPE_CHECKING:
    from ansible_collections.mailwright.server.tests.integration.conftest import Correspondent, Server, Stranger, Timer

DAVE = "dave@peer.test"
BOB = "bob@acme.test"
FRIENDS = "friends@acme.test"  # bob, and dave elsewhere
LOST = "lost@acme.test"  # somebody elsewhere who does not exist there
BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


@pytest.fixture(scope="module", autouse=True)
def lost(server: Server) -> Iterator[None]:
    sql = "runuser -u postgres -- psql -qX -v ON_ERROR_STOP=1 mailwright -c"
    server.run(
        f'{sql} "INSERT INTO directory.alias (address, destination, domain, owner) VALUES'
        f" ('{LOST}', 'nobody-of-that-name@peer.test', 'acme.test', 'api')\""
    )
    yield
    server.run(f"{sql} \"DELETE FROM directory.alias WHERE address = '{LOST}'\"")


def parsed(text: str) -> email.message.EmailMessage:
    return email.message_from_string(text, policy=email.policy.default)


def return_path(text: str) -> str:
    return str(parsed(text)["Return-Path"]).strip("<> ")


def arrived(lab: Lab, token: str) -> str:
    """The message as peer has it."""
    return wait_until(lambda: lab.dave_has(token), 60, f"{token} at peer")


def srs(server: Server, address: str, days_old: int = 0, secret: str | None = None) -> str:
    """The address that stands for another one, made as postsrsd makes it, on a day of the past, maybe with no right."""
    user, _at, domain = address.partition("@")
    day = int(time.time()) // 86400 - days_old
    stamp = BASE32[day >> 5 & 31] + BASE32[day & 31]
    key = secret or server.run("head -n 1 /etc/mailwright/secrets/srs").strip()
    digest = hmac.new(key.encode(), f"{stamp}{domain}{user}".lower().encode(), hashlib.sha1).digest()
    return f"SRS0={base64.b64encode(digest).decode()[:6]}={stamp}={domain}={user}@{server_name(server)}"


def server_name(server: Server) -> str:
    return server.run("postconf -h myhostname").strip()


# --- forwarding -----------------------------------------------------------------------------------------------------


def test_forwarded_mail_passes_spf_and_keeps_its_signature(server: Server, dave: Correspondent, token: str) -> None:
    dave.sends(FRIENDS, [token])
    text = arrived(server.lab, token)
    assert re.fullmatch(rf"SRS0=[^=]{{6}}=[A-Z2-7]{{2}}=peer\.test=[^@]+@{server_name(server)}", return_path(text))
    results = " ".join(str(value) for value in parsed(text).get_all("Authentication-Results", [])
                       if str(value).startswith("peer.peer.test"))  # fmt: skip
    for wanted in (f"spf=pass smtp.mailfrom={server_name(server)}", "dkim=pass", "dmarc=pass"):
        assert wanted in " ".join(results.split()), results
    # the other destination of the same message is a mailbox here: it sees who really sent it
    wait_until(lambda: server.subjects(BOB, token), 30, "bob's copy")
    (copy,) = server.lab.find(BOB, token, host=server.name)
    assert return_path(copy.decode()) == dave.address
    server.discard(BOB, token)


def test_without_srs_spf_fails(server: Server, dave: Correspondent, token: str) -> None:
    server.run("postconf -e sender_dependent_default_transport_maps= && postfix reload 2>/dev/null")
    try:
        dave.sends(FRIENDS, [token])
        text = arrived(server.lab, token)
    finally:
        restore = "sender_dependent_default_transport_maps=proxy:pgsql:/etc/postfix/sql/forwarded.cf"
        server.run(f"postconf -e {restore} && postfix reload 2>/dev/null")
    assert return_path(text) == dave.address
    assert "spf=fail" in text
    wait_until(lambda: server.subjects(BOB, token), 30, "bob's copy")
    server.discard(BOB, token)


def test_what_users_submit_keeps_its_sender(server: Server, token: str) -> None:
    with server.lab.submission(BOB, server.name) as smtp:
        smtp.send_message(message(BOB, DAVE, token))
    assert return_path(arrived(server.lab, token)) == BOB


def test_what_users_submit_to_an_alias_keeps_its_sender(server: Server, token: str) -> None:
    with server.lab.submission("carol@globex.test", server.name) as smtp:
        smtp.send_message(message("carol@globex.test", FRIENDS, token))
    assert return_path(arrived(server.lab, token)) == "carol@globex.test"
    wait_until(lambda: server.subjects(BOB, token), 30, "bob's copy")
    server.discard(BOB, token)


def test_the_null_sender_stays_null(server: Server, token: str) -> None:
    deliver(server, "", FRIENDS, token)
    assert return_path(arrived(server.lab, token)) == ""
    wait_until(lambda: server.subjects(BOB, token), 30, "bob's copy")
    server.discard(BOB, token)


def test_mail_forwarded_twice_gets_an_address_that_leads_back(server: Server, token: str) -> None:
    """Somebody else forwarded it to us, with SRS: their address is kept inside ours (SRS1)."""
    first = "SRS0=HHH=TT=elsewhere.example=eve@peer.peer.test"
    deliver(server, first, FRIENDS, token)
    path = return_path(arrived(server.lab, token))
    assert re.fullmatch(
        rf"SRS1=[^=]{{6}}=peer\.peer\.test==HHH=TT=elsewhere\.example=eve@{server_name(server)}", path
    ), path
    wait_until(lambda: server.subjects(BOB, token), 30, "bob's copy")
    server.discard(BOB, token)


def deliver(server: Server, sender: str, recipient: str, subject: str) -> None:
    """By SMTP from peer, From a domain without DMARC; raises RuntimeError when it is refused."""
    script = (
        "import smtplib, sys; "
        f'smtp = smtplib.SMTP("{server.address}", 25, "peer.peer.test", timeout=60); smtp.starttls(); '
        f'smtp.sendmail("{sender}", ["{recipient}"], sys.stdin.buffer.read()); smtp.quit()'
    )
    text = message("eve@lab.test", recipient, subject).as_string()
    server.lab.ssh("peer", f"python3 -c '{script}'", data=text)


# --- the way back ---------------------------------------------------------------------------------------------------


def test_a_bounce_of_this_host_comes_back_to_the_sender(server: Server, dave: Correspondent, token: str) -> None:
    dave.sends(LOST, [token])
    text = arrived(server.lab, token)
    assert return_path(text) == ""
    assert parsed(text).get_content_type() == "multipart/report", text
    assert "nobody-of-that-name@peer.test" in text


def test_a_bounce_of_another_host_comes_back_to_the_sender(server: Server, dave: Correspondent, token: str) -> None:
    dave.sends(FRIENDS, [token])
    path = return_path(arrived(server.lab, token))
    deliver(server, "", path, f"{token} bounced")
    text = wait_until(lambda: server.lab.dave_has(f"{token}.bounced"), 60, "the bounce at peer")
    assert (return_path(text), str(parsed(text)["To"])) == ("", path)
    server.discard(BOB, token)


def test_forged_and_expired_addresses_are_refused_alike(server: Server, stranger: Stranger) -> None:
    host = server_name(server)
    good = srs(server, DAVE)
    assert recipient(stranger, good).startswith("250"), "the test makes addresses as postsrsd does"
    assert recipient(stranger, srs(server, DAVE, days_old=20)).startswith("250")
    refused = {
        "expired": srs(server, DAVE, days_old=23),
        "from the future": srs(server, DAVE, days_old=-2),
        "another secret": srs(server, DAVE, secret="guessed"),
        "another user": good.replace("=dave@", "=eve@"),
        "another domain": good.replace("=peer.test=", "=elsewhere.example="),
        "a short hash": re.sub(r"=([^=]{4})[^=]{2}=", r"=\1=", good, count=1),
        "no hash": f"SRS0==AA=peer.test=dave@{host}",
        "an SRS1 address": f"SRS1=AAAAAA=elsewhere.example==HHH=TT=peer.test=dave@{host}",
        "nothing else": f"SRS0=@{host}",
    }
    answers = {what: recipient(stranger, address) for what, address in refused.items()}
    unknown = recipient(stranger, f"no-such-user@{host}")
    assert unknown.startswith("550 5.1.1")
    # the same words as for any address that does not exist
    assert {re.sub("<.*>", "", answer) for answer in answers.values()} == {re.sub("<.*>", "", unknown)}, answers


def recipient(stranger: Stranger, address: str) -> str:
    return stranger.smtp("EHLO peer.peer.test", "MAIL FROM:<>", f"RCPT TO:<{address}>", "QUIT")[3]


def test_an_address_of_ours_under_another_domain_makes_no_loop(server: Server, token: str) -> None:
    """postsrsd does not rewrite what it takes for its own; the message still goes its way once."""
    sender = srs(server, DAVE).rpartition("@")[0] + "@peer.peer.test"
    deliver(server, sender, FRIENDS, token)
    text = arrived(server.lab, token)
    assert len([1 for value in parsed(text).get_all("Received", []) if f"by {server_name(server)}" in str(value)]) == 2
    wait_until(lambda: server.subjects(BOB, token), 30, "bob's copy")
    server.discard(BOB, token)


@pytest.mark.parametrize("port", [10001, 10002, 10003])
def test_other_programs_on_the_host_cannot_use_it(server: Server, port: int) -> None:
    connect = f"python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", {port}), 5)'"
    assert "ok" in server.run(f"runuser -u postfix -- {connect} && echo ok")
    for user in ("www-data", "nobody"):
        assert "ConnectionRefusedError" in server.run(f"runuser -u {user} -- {connect} 2>&1", check=False)


# --- faults ---------------------------------------------------------------------------------------------------------


def while_down(server: Server, during: Callable[[], None]) -> None:
    server.run("systemctl stop postsrsd")
    try:
        during()
    finally:
        server.run("systemctl start postsrsd")


def test_while_postsrsd_is_down_forwarded_mail_waits(
    server: Server, dave: Correspondent, stranger: Stranger, token: str, timer: Timer
) -> None:
    good = srs(server, DAVE)

    def during() -> None:
        dave.sends(FRIENDS, [f"{token} {i}" for i in range(3)])
        # all else goes on: the local copies arrive, users send
        wait_until(lambda: len(server.subjects(BOB, token)) == 3, 60, "bob's copies")
        with server.lab.submission(BOB, server.name) as smtp:
            smtp.send_message(message(BOB, DAVE, f"{token} submitted"))
        wait_until(lambda: server.lab.dave_has(f"{token}.submitted"), 60, "what bob sent")
        wait_until(lambda: queued(server, dave) == 3, 60, "the three in the queue")
        # a bounce is told to come again, an unknown address is unknown
        assert recipient(stranger, good).startswith("451 4.3.0")
        assert recipient(stranger, f"no-such-user@{server_name(server)}").startswith("550 5.1.1")

    while_down(server, during)
    assert recipient_later(stranger, good)
    timer.restart()
    wait_until(lambda: not queued(server, dave), 150, "the queue empty", every=1)
    timer.say("postsrsd back: all forwarded mail has left")
    for i in range(3):
        text = arrived(server.lab, f"{token}.{i}")
        assert return_path(text).startswith("SRS0=")
    count = server.lab.ssh("peer", f"grep -rl '^Subject: {token} [0-9]' ~dave/Maildir | wc -l").strip()
    assert count == "3", "each message once"
    server.discard(BOB, token)


def queued(server: Server, dave: Correspondent) -> int:
    """How many of dave's messages wait here, each with a reason."""
    return server.run("postqueue -j").count(f'"sender": "{dave.address}"')


def recipient_later(stranger: Stranger, address: str) -> bool:
    return wait_until(lambda: recipient(stranger, address).startswith("250"), 15, "bounces accepted again")


# --- the secret -----------------------------------------------------------------------------------------------------


def test_a_new_secret_beside_the_old_one(server: Server, stranger: Stranger) -> None:
    """The rotation that the documentation describes."""
    old = srs(server, DAVE)
    secret = "/etc/mailwright/secrets/srs"
    server.run(f"cp -p {secret} /root/srs.kept")
    try:
        server.run(f"sed -i '1i {base64.b64encode(b'a new secret of the test').decode()}' {secret}")
        server.run("systemctl restart postsrsd")
        assert recipient_later(stranger, srs(server, DAVE))
        assert recipient(stranger, old).startswith("250")
    finally:
        server.run(f"cp -p /root/srs.kept {secret}; rm /root/srs.kept; systemctl restart postsrsd")
    assert recipient_later(stranger, old)


def test_the_secret_is_the_services_alone(server: Server) -> None:
    assert server.run("stat -c '%U:%G %a' /etc/mailwright/secrets/srs").strip() == "root:postsrsd 640"
    secret = server.run("head -n 1 /etc/mailwright/secrets/srs").strip()
    assert len(secret) >= 32
    assert secret not in server.run(
        "cat /proc/[0-9]*/cmdline /etc/postfix/*.cf 2>/dev/null | tr '\\0' ' '; journalctl -b -o cat"
    )
