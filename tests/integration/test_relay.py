# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may send what to whom: no open relay, no log-in without TLS, nobody in another's name."""

from __future__ import annotations

import base64
import smtplib
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from connection import wait_until

if TYPE_CHECKING:
    from ansible_collections.mailwright.server.tests.integration.conftest import Server, Stranger

STRANGER = "dave@peer.test"
RELAYS = {
    "plain": (STRANGER, "<user@peer.test>"),
    "no brackets": (STRANGER, "user@peer.test"),
    "null sender": ("", "<user@peer.test>"),
    "upper case": (STRANGER, "<USER@PEER.TEST>"),
    "trailing dot": (STRANGER, "<user@peer.test.>"),
    "percent hack, hosted domain": (STRANGER, "<user%peer.test@acme.test>"),
    "percent hack, the server's name": (STRANGER, "<user%peer.test@mx1.acme.test>"),
    "percent hack, quoted": (STRANGER, '<"user%peer.test"@mx1.acme.test>'),
    "percent hack, localhost": (STRANGER, "<user%peer.test@localhost>"),
    "percent hack, address": (STRANGER, "<user%peer.test@[127.0.0.1]>"),
    "source route by us": (STRANGER, "<@acme.test:user@peer.test>"),
    "source route by the server's name": (STRANGER, "<@mx1.acme.test:user@peer.test>"),
    "source route, two": (STRANGER, "<@mx1.acme.test,@acme.test:user@peer.test>"),
    "source route to us and out": (STRANGER, "<@peer.test:user%peer.test@acme.test>"),
    "quoted local part": (STRANGER, '<"user@peer.test"@acme.test>'),
    "quoted local part, the server's name": (STRANGER, '<"user@peer.test"@mx1.acme.test>'),
    "quoted local part, no domain": (STRANGER, '<"user@peer.test">'),
    "two at signs": (STRANGER, "<user@peer.test@acme.test>"),
    "bang path": (STRANGER, "<peer.test!user>"),
    "bang path, the server's name": (STRANGER, "<peer.test!user@mx1.acme.test>"),
    "address literal": (STRANGER, "<user@[192.0.2.1]>"),
    "IPv6 literal": (STRANGER, "<user@[IPv6:2001:db8::1]>"),
    "our name as a subdomain": (STRANGER, "<user@acme.test.peer.test>"),
    "a name below ours": (STRANGER, "<user@sub.acme.test>"),
    "the status report's mailbox": (STRANGER, "<status-probe@mailwright.invalid>"),
    "hosted sender": ("alice@acme.test", "<user@peer.test>"),
    "the server's own name as sender": ("root@mx1.acme.test", "<user@peer.test>"),
    "localhost as sender": ("root@localhost.localdomain", "<user@peer.test>"),
}
SPOOFED = [
    "alice@acme.test", "ALICE@ACME.TEST", "alice+x@acme.test", "nobody@acme.test", "carol@globex.test",
    '"alice"@acme.test', "@peer.test:alice@acme.test", "alice@acme.test.",
]  # fmt: skip


@pytest.mark.parametrize(("sender", "recipient"), RELAYS.values(), ids=RELAYS.keys())
def test_relaying_is_refused(stranger: Stranger, sender: str, recipient: str) -> None:
    replies = stranger.smtp("EHLO peer.peer.test", f"MAIL FROM:<{sender}>", f"RCPT TO:{recipient}", "DATA")
    assert replies[2].startswith(("250", "501", "553")), replies
    # 450: a sender whose domain does not exist is told to come again
    assert replies[3].startswith(("5", "450 4.1.8")), replies
    assert not replies[4].startswith("354"), replies


@pytest.mark.parametrize("sender", ["", STRANGER])
@pytest.mark.parametrize(
    "recipient", ["alice@acme.test", "Alice+tag@ACME.test", "sales@acme.test", "carol@globex.test"]
)
def test_our_own_addresses_receive(stranger: Stranger, sender: str, recipient: str) -> None:
    replies = stranger.smtp("EHLO peer.peer.test", f"MAIL FROM:<{sender}>", f"RCPT TO:<{recipient}>", "RSET")
    assert replies[2].startswith("250"), replies
    assert replies[3].startswith("250"), replies


@pytest.mark.parametrize("recipient", ["nobody@acme.test", "alice@peer.acme.test", "alice"])
def test_unknown_recipients_are_refused(stranger: Stranger, recipient: str) -> None:
    replies = stranger.smtp("EHLO peer.peer.test", f"MAIL FROM:<{STRANGER}>", f"RCPT TO:<{recipient}>")
    assert replies[-1].startswith("5"), replies


@pytest.mark.parametrize("sender", SPOOFED)
def test_our_senders_do_not_come_in_on_port_25(stranger: Stranger, sender: str) -> None:
    replies = stranger.smtp("EHLO peer.peer.test", f"MAIL FROM:<{sender}>", "RCPT TO:<bob@acme.test>")
    assert replies[-1].startswith("5"), replies


@pytest.mark.parametrize("sender", ["user@does-not-exist.test", "user@nodots", "user"])
def test_senders_that_cannot_be_answered_are_refused(stranger: Stranger, sender: str) -> None:
    replies = stranger.smtp("EHLO peer.peer.test", f"MAIL FROM:<{sender}>", "RCPT TO:<bob@acme.test>")
    # a domain that does not exist may yet come to exist, says Postfix: 450
    assert replies[-1].startswith(("450", "5")), replies


@pytest.mark.parametrize(
    "command", ["VRFY alice@acme.test", "VRFY alice", "EXPN sales@acme.test", "EXPN sales", "ETRN acme.test"]
)
def test_addresses_are_not_told(stranger: Stranger, command: str) -> None:
    replies = stranger.smtp("EHLO peer.peer.test", command)
    assert not any(word in replies[1].upper() for word in ("VRFY", "EXPN")), replies
    assert replies[2].startswith(("502", "500", "459", "554", "458")), replies


def plain(user: str, password: str) -> str:
    return "AUTH PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode()).decode()


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "after STARTTLS"])
def test_port_25_knows_no_auth(stranger: Stranger, server: Server, encrypted: bool) -> None:
    start = ["EHLO peer.peer.test"] + (["STARTTLS", "EHLO peer.peer.test"] if encrypted else [])
    replies = stranger.smtp(*start, plain("alice@acme.test", server.lab.password), "AUTH LOGIN")
    assert "AUTH" not in replies[-3].upper(), replies
    assert replies[-3].startswith("250"), replies
    assert replies[-2].startswith("503"), replies
    assert replies[-1].startswith("503"), replies


def test_port_587_knows_no_auth_before_starttls(stranger: Stranger, server: Server) -> None:
    login = plain("alice@acme.test", server.lab.password)
    replies = stranger.smtp("EHLO client.example", login, "MAIL FROM:<alice@acme.test>", port=587)
    assert "AUTH" not in replies[1].upper(), replies
    assert "STARTTLS" in replies[1], replies
    assert replies[2].startswith("530"), replies
    assert replies[3].startswith("530"), replies
    replies = stranger.smtp("EHLO client.example", "STARTTLS", "EHLO client.example", login, port=587)
    assert "AUTH PLAIN" in replies[-2], replies
    assert replies[-1].startswith("235"), replies


@pytest.mark.parametrize("port", [465, 587])
def test_submission_wants_a_log_in(stranger: Stranger, port: int) -> None:
    start = [] if port == 465 else ["EHLO client.example", "STARTTLS"]
    commands = [*start, "EHLO client.example", "MAIL FROM:<alice@acme.test>", "RCPT TO:<user@peer.test>"]
    replies = stranger.smtp(*commands, port=port, tls=port == 465)
    assert replies[-1].startswith("5"), replies
    replies = stranger.smtp(*commands[:-1], "RCPT TO:<bob@acme.test>", port=port, tls=port == 465)
    assert replies[-1].startswith("5"), replies


def test_inner_ports_are_shut_and_outer_ones_open(stranger: Stranger) -> None:
    outer = [25, 80, 443, 465, 587, 993, 995, 4190]
    assert stranger.reaches(143, 110, 3310, 5432, 6379, 9100, 11332, 11333, 11334, 53, 24, *outer) == outer


def handshake(server: Server, port: int, version: ssl.TLSVersion) -> str:
    """The version a TLS handshake ends with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(server.lab.env["LAB_CA"])
    # the client is willing to do anything, so that it is the server who says no
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = version
    with socket.create_connection((server.address, port), 30) as connection:
        for command in {587: [b"", b"EHLO x.example\r\n", b"STARTTLS\r\n"], 4190: [b"", b"STARTTLS\r\n"]}.get(port, []):
            connection.sendall(command)
            got = b""
            while not any(end in got for end in (b"220 ", b"250 ", b"OK ")):
                got += connection.recv(4096)
        with context.wrap_socket(connection, server_hostname="mx1.acme.test") as encrypted:
            return str(encrypted.version())


@pytest.mark.filterwarnings("ignore:.*TLSv1.*:DeprecationWarning")
@pytest.mark.parametrize("port", [443, 465, 587, 993, 995, 4190])
def test_old_tls_is_refused(server: Server, port: int) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)alert protocol version|unsupported protocol|wrong version"):
        handshake(server, port, ssl.TLSVersion.TLSv1_1)
    assert handshake(server, port, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    assert handshake(server, port, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"


def test_sieve_knows_no_auth_before_starttls(stranger: Stranger, server: Server) -> None:
    token = base64.b64encode(f"\0alice@acme.test\0{server.lab.password}".encode()).decode()
    login = f'AUTHENTICATE "PLAIN" "{token}"\r\n'
    steps = [{"read": "all"}, {"send": login, "read": "all"}]
    greeting, answer = stranger.ask("talk", port=4190, steps=steps)
    assert '"SASL" ""' in greeting, greeting
    assert answer.startswith("NO"), answer
    start_tls: list[dict[str, Any]] = [{"send": "STARTTLS\r\n", "read": "all"}, {"tls": True}]
    steps_with_tls = [{"read": "all"}, *start_tls, {"read": "all"}, {"send": login, "read": "all"}]
    answers = stranger.ask("talk", port=4190, steps=steps_with_tls)
    assert '"SASL" "PLAIN' in answers[3], answers
    assert answers[4].startswith("OK"), answers


# --- alice has logged in --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sender",
    ["bob@acme.test", "BOB@acme.test", "bob+x@acme.test", "carol@globex.test", "nobody@acme.test", "dave@peer.test",
     "postmaster@peer.test", "alice@globex.test", "root@mx1.acme.test", '"bob"@acme.test', "bob@acme.test."],
)  # fmt: skip
def test_alice_cannot_be_the_sender_of_anothers_mail(server: Server, sender: str) -> None:
    with server.lab.submission("alice@acme.test", server.name) as smtp:
        assert smtp.docmd("MAIL", f"FROM:<{sender}>")[0] in (250, 501, 553)
        code, words = smtp.docmd("RCPT", "TO:<bob@acme.test>")
    assert code >= 500, words


@pytest.mark.parametrize("sender", ["alice@acme.test", "alice+x@acme.test", "sales@acme.test", "Alice@ACME.test", ""])
def test_alice_can_be_who_she_is(server: Server, sender: str) -> None:
    with server.lab.submission("alice@acme.test", server.name) as smtp:
        smtp.docmd("MAIL", f"FROM:<{sender}>")
        code, words = smtp.docmd("RCPT", "TO:<bob@acme.test>")
    assert code == 250, words


def submit(server: Server, sender: str, headers: str, subject: str) -> tuple[int, bytes]:
    """Send a message to bob as alice; the reply after DATA."""
    with server.lab.submission("alice@acme.test", server.name) as smtp:
        assert smtp.mail(sender)[0] == 250
        assert smtp.rcpt("bob@acme.test")[0] == 250
        try:
            return smtp.data(f"{headers}To: bob@acme.test\r\nSubject: {subject}\r\n\r\nHello Bob.\r\n")
        except smtplib.SMTPDataError as error:
            return error.smtp_code, error.smtp_error if isinstance(error.smtp_error, bytes) else b""


FORGED = {
    "another's": "From: bob@acme.test\r\n",
    "another's, in the same company": "From: Carol <carol@globex.test>\r\n",
    "a stranger's": "From: dave@peer.test\r\n",
    "two headers, her own first": "From: alice@acme.test\r\nFrom: bob@acme.test\r\n",
    "two headers, her own last": "From: bob@acme.test\r\nFrom: alice@acme.test\r\n",
    "two headers, the same": "From: alice@acme.test\r\nFrom: alice@acme.test\r\n",
    "two addresses": "From: alice@acme.test, bob@acme.test\r\n",
    "two addresses, hers last": "From: bob@acme.test, alice@acme.test\r\n",
    "a group": "From: Friends: bob@acme.test;\r\n",
    "a group and her own": "From: Friends: bob@acme.test;, alice@acme.test\r\n",
    "an empty group": "From: bob@acme.test:;\r\n",
    "a space before the colon": "From : bob@acme.test\r\n",
    "lower case": "from: bob@acme.test\r\n",
    "folded": "From:\r\n bob@acme.test\r\n",
    "empty address": "From: bob@acme.test <>\r\n",
    "two in brackets": "From: <bob@acme.test> <alice@acme.test>\r\n",
    "a route": "From: <@alice:bob@acme.test>\r\n",
    "a comment": "From: bob@acme.test (alice@acme.test)\r\n",
    "no header": "",
    "another's Sender": "From: alice@acme.test\r\nSender: bob@acme.test\r\n",
}


@pytest.mark.parametrize("headers", FORGED.values(), ids=FORGED.keys())
@pytest.mark.parametrize("sender", ["alice@acme.test", ""], ids=["envelope alice", "envelope empty"])
def test_alice_cannot_write_in_anothers_name(server: Server, token: str, sender: str, headers: str) -> None:
    code, words = submit(server, sender, headers, token)
    assert code in (550, 554), words


ALLOWED = {
    "plain": ("alice@acme.test", "From: alice@acme.test\r\n"),
    "with a name": ("alice@acme.test", 'From: "Alice, of Acme" <alice@acme.test>\r\n'),
    "upper case": ("alice@acme.test", "From: ALICE@Acme.Test\r\n"),
    "subaddress in the envelope": ("alice+x@acme.test", "From: alice@acme.test\r\n"),
    "subaddress in the header": ("alice@acme.test", "From: alice+x@acme.test\r\n"),
    "with her own Sender": ("alice@acme.test", "From: alice@acme.test\r\nSender: alice+pc@acme.test\r\n"),
    "her alias": ("sales@acme.test", "From: Sales <sales@acme.test>\r\n"),
    "a receipt": ("", "From: alice@acme.test\r\n"),
}


def test_alice_can_write_in_her_own(server: Server, token: str) -> None:
    for number, (sender, headers) in enumerate(ALLOWED.values()):
        assert submit(server, sender, headers, f"{token} {number}")[0] == 250
    expected = [f"{token} {number}" for number in range(len(ALLOWED))]
    wait_until(lambda: server.subjects("bob@acme.test", token) == expected, 30, "all of alice's messages")
    server.discard("bob@acme.test", token)
