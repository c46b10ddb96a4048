# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Viruses and spam are refused or put aside, nobody outside says which, and what users move is learnt."""

from __future__ import annotations

import hashlib
import io
import re
import smtplib
import zipfile
from collections.abc import Iterator
from email.message import EmailMessage
from typing import TYPE_CHECKING

import pytest
from connection import message, wait_until

if TYPE_CHECKING:
    from ansible_collections.mailwright.server.tests.integration.conftest import Server, Stranger

GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
# in two parts, so that no scanner takes this file for it
EICAR = r"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-" + "STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
SENDER, BOB = "dave@peer.test", "bob@acme.test"


def deliver(stranger: Stranger, text: str, sender: str = SENDER) -> str:
    """Send a message to bob on port 25 as another server does; the reply to its data."""
    data = re.sub(r"\r?\n", "\r\n", text)
    data = re.sub(r"(?m)^\.", "..", data)
    replies = stranger.smtp(
        "EHLO peer.peer.test", f"MAIL FROM:<{sender}>", f"RCPT TO:<{BOB}>", "DATA", data.rstrip() + "\r\n."
    )  # fmt: skip
    assert replies[4].startswith("354"), replies
    return replies[5]


def infected(kind: str, sender: str = SENDER, recipient: str = BOB) -> EmailMessage:
    mail = message(sender, recipient)
    if kind == "attachment, base64":
        mail.add_attachment(EICAR.encode(), maintype="application", subtype="octet-stream", filename="e.com")
    elif kind == "zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("inner/e.com", EICAR)
        mail.add_attachment(buffer.getvalue(), maintype="application", subtype="zip", filename="e.zip")
    elif kind == "forwarded message":
        mail.add_attachment(infected("attachment, base64"))
    return mail


# The lab's signature is the hash of the whole file: in a part that is not encoded, the line break after it counts.
KINDS = ["attachment, base64", "zip", "forwarded message"]


@pytest.mark.parametrize("kind", KINDS)
def test_viruses_are_refused(stranger: Stranger, server: Server, kind: str) -> None:
    mail = infected(kind)
    reply = deliver(stranger, mail.as_string())
    assert reply.startswith("5"), reply
    assert "Virus found" in reply
    assert server.subjects(BOB, str(mail["Subject"])) == []


def test_our_users_send_no_viruses(server: Server) -> None:
    mail = infected("zip", "alice@acme.test", "dave@peer.test")
    with server.lab.submission("alice@acme.test", server.name) as smtp, pytest.raises(smtplib.SMTPDataError) as refused:
        smtp.send_message(mail)
    assert refused.value.smtp_code >= 500
    assert b"Virus found" in bytes(refused.value.smtp_error)  # type: ignore[arg-type]


def test_certain_spam_is_refused(stranger: Stranger, server: Server) -> None:
    mail = message(SENDER, BOB, body=GTUBE + "\n")
    reply = deliver(stranger, mail.as_string())
    assert reply.startswith("554"), reply
    assert "Gtube" in reply
    assert server.subjects(BOB, str(mail["Subject"])) == []


@pytest.fixture(autouse=True)
def no_greylist(server: Server) -> Iterator[None]:
    """Forget whom the greylist holds: after one suspicious message it is all mail from dave to bob, for two minutes."""
    script = "for _, k in ipairs(redis.call('keys', 'rg*')) do redis.call('del', k) end"
    forget = f'redis-cli -s /run/redis/redis-server.sock eval "{script}" 0'
    server.run(forget)
    yield
    server.run(forget)


def age_greylist(server: Server) -> None:
    """Let the greylist's two minutes be over: put back the times that it wrote down."""
    script = (
        "for _, k in ipairs(redis.call('keys', 'rg*')) do local t = tonumber(redis.call('get', k)) "
        "if t then redis.call('set', k, t - 130, 'KEEPTTL') end end"
    )
    server.run(f'redis-cli -s /run/redis/redis-server.sock eval "{script}" 0')


def test_likely_spam_is_greylisted_then_put_into_junk(stranger: Stranger, server: Server, token: str) -> None:
    """No pattern made for tests: a message with as few headers and as poor a link as spam has."""
    spam = (
        f'From: "WINNER DEPARTMENT" <{SENDER}>\nSubject: {token}\nX-Spam: No\nContent-Type: text/html\n\n'
        f'<html><body>{token} <a href="http://198.51.100.99/claim">CLICK HERE</a></body></html>\n'
    )
    reply = deliver(stranger, spam)
    assert reply.startswith("451 4.7.1 Try again later"), reply
    assert deliver(stranger, spam).startswith("451 4.7.1"), "too early"
    age_greylist(server)
    reply = deliver(stranger, spam)
    assert reply.startswith("250"), reply
    found = wait_until(lambda: server.lab.find(BOB, token, "Junk", server.name), 30, "the message in Junk")
    assert [line for line in found[0].splitlines() if line.lower().startswith(b"x-spam:")] == [b"X-Spam: Yes"]
    assert server.subjects(BOB, token) == []
    server.discard(BOB, token, "Junk")


@pytest.mark.parametrize("header", ["X-Spam: Yes", "x-spam: yes", "X-Spam:Yes", "X-Spam: Yes\nX-Spam: Yes"])
def test_a_stranger_does_not_say_what_is_spam(stranger: Stranger, server: Server, header: str) -> None:
    mail = message(SENDER, BOB)
    text = header + "\n" + mail.as_string()
    # it makes the message suspicious enough for the greylist, at the most
    if not deliver(stranger, text).startswith("250"):
        age_greylist(server)
        reply = deliver(stranger, text)
        assert reply.startswith("250"), reply
    found = wait_until(lambda: server.lab.find(BOB, str(mail["Subject"]), "INBOX", server.name), 30, "it in INBOX")
    assert b"x-spam: yes" not in found[0].lower()
    server.discard(BOB, str(mail["Subject"]))


def learnt(server: Server) -> dict[str, int]:
    """Messages learnt by class, as Redis holds them: what `rspamc stat` tells is up to a minute old."""
    words = server.run("redis-cli -s /run/redis/redis-server.sock hmget RS learns_spam learns_ham").split("\n")
    # a class of which nothing was ever learnt has no field
    return {name: int(word or 0) for name, word in zip(("spam", "ham"), words, strict=False)}


def one_more(server: Server, kind: str, before: dict[str, int], what: str) -> dict[str, int]:
    """Wait until one more message of the kind has been learnt; gives the counts."""

    def probe() -> dict[str, int] | None:
        now = learnt(server)
        return now if now[kind] == before[kind] + 1 else None

    return wait_until(probe, 15, what)


def move(server: Server, subject: str, source: str, target: str, command: str) -> None:
    with server.lab.imap(BOB, server.name) as box:
        assert box.select(source)[0] == "OK"
        numbers = box.search(None, "HEADER", "Subject", f'"{subject}"')[1][0].split()
        assert len(numbers) == 1
        number = numbers[0].decode()
        if command == "MOVE":
            assert box._simple_command("MOVE", number, target)[0] == "OK"
        else:
            assert box.copy(number, target)[0] == "OK"
            box.store(number, "+FLAGS", "\\Deleted")
            box.expunge()


@pytest.mark.parametrize("command", ["MOVE", "COPY"])
def test_moving_teaches(stranger: Stranger, server: Server, command: str) -> None:
    words = " ".join(hashlib.sha256(f"{command}{i}".encode()).hexdigest()[:9] for i in range(80))
    mail = message(SENDER, BOB, body=f"{words} {message(SENDER, BOB)['Subject']}\n")
    subject = str(mail["Subject"])
    assert deliver(stranger, mail.as_string()).startswith("250")
    wait_until(lambda: server.subjects(BOB, subject), 30, "the message")
    before = learnt(server)

    move(server, subject, "INBOX", "Junk", command)
    spam = one_more(server, "spam", before, "one more spam")
    assert spam["ham"] == before["ham"]

    # bob thinks better of it: the message is unlearnt as spam
    move(server, subject, "Junk", "INBOX", command)
    ham = one_more(server, "ham", before, "one more ham")
    assert ham["spam"] == before["spam"]

    move(server, subject, "INBOX", "Junk", command)
    again = one_more(server, "spam", before, "spam again")

    # throwing away says nothing; a second, learnt message shows that the first was looked at
    move(server, subject, "Junk", "Trash", command)
    marker = message(SENDER, BOB, body=f"{words[::-1]} {message(SENDER, BOB)['Subject']}\n")
    assert deliver(stranger, marker.as_string()).startswith("250")
    wait_until(lambda: server.subjects(BOB, str(marker["Subject"])), 30, "the marker")
    move(server, str(marker["Subject"]), "INBOX", "Junk", command)
    last = one_more(server, "spam", again, "the marker learnt")
    assert last["ham"] == again["ham"]
    print(f"  learnt: {before} -> spam {spam} -> ham {ham} -> spam {again} -> trash, marker {last}")
    server.discard(BOB, subject, "Trash", "Junk", "INBOX")
    server.discard(BOB, str(marker["Subject"]), "Junk")
