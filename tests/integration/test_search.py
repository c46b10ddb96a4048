# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A search finds what was delivered a moment ago, and the timer has new mail indexed without one."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from connection import message, wait_until

if TYPE_CHECKING:
    from ansible_collections.mailwright.server.tests.integration.conftest import Server, Stranger

SENDER, BOB = "dave@peer.test", "bob@acme.test"
# a dot, an escape character, letters that are not ASCII, a folder in a folder
FOLDER = "Kunden/Müller & Söhne 2.0, 100%"


@pytest.fixture(autouse=True)
def no_timer(server: Server) -> Iterator[None]:
    """The timer does not run in between."""
    server.run("systemctl stop mailwright-index.timer")
    try:
        server.run("systemctl start mailwright-index.service")
        yield
    finally:
        server.run("systemctl start mailwright-index.timer")


def word(token: str) -> str:
    """A word that no other message has; the index knows no words longer than 30 letters."""
    return "x" + token[-24:]


def uids(server: Server, criterion: str, folder: str = "INBOX") -> list[int]:
    with server.lab.imap(BOB, server.name) as box:
        assert box.select(folder, readonly=True)[0] == "OK"
        return [int(uid) for uid in box.uid("SEARCH", criterion)[1][0].split()]


def last_indexed(server: Server, folder: str = "INBOX") -> int:
    """The UID up to which the index goes."""
    words = server.run(f"doveadm fts flatcurve stats -u {BOB} {shlex.quote(folder)}", check=False)
    found = re.search(r"last_uid=(\d+)", words)
    return int(found[1]) if found else 0


def deliver(stranger: Stranger, server: Server, token: str) -> int:
    """Bring a message with the token's word in its body to bob; its UID, once it is there."""
    before = uids(server, "ALL")
    mail = message(SENDER, BOB, token, f"Good morning,\nthe {word(token)} arrives on Monday.\nDave\n")
    replies = stranger.smtp(
        "EHLO peer.peer.test", f"MAIL FROM:<{SENDER}>", f"RCPT TO:<{BOB}>", "DATA",
        mail.as_string().replace("\n", "\r\n") + "\r\n.",
    )  # fmt: skip
    assert replies[-1].startswith("250"), replies
    return wait_until(lambda: sorted(set(uids(server, "ALL")) - set(before)), 30, "the message", 0.05)[0]


def test_a_search_finds_new_mail_at_once(stranger: Stranger, server: Server, token: str) -> None:
    uid = deliver(stranger, server, token)
    assert last_indexed(server) < uid, "the delivery itself indexes: this test shows nothing"
    assert uids(server, f"BODY {word(token)}") == [uid]
    assert uids(server, f"TEXT {word(token)[:8]}") == [uid], "the beginning of a word"
    assert last_indexed(server) == uid, "found without the index"
    server.discard(BOB, token)


def test_new_mail_is_indexed_without_a_search(stranger: Stranger, server: Server, token: str) -> None:
    uid = deliver(stranger, server, token)
    assert last_indexed(server) < uid
    server.run("systemctl start mailwright-index.service")
    assert last_indexed(server) == uid
    assert uids(server, f"BODY {word(token)}") == [uid]
    server.discard(BOB, token)


def test_folders_of_all_names_are_indexed(server: Server, token: str) -> None:
    mailbox = shlex.quote(FOLDER)
    server.run(f"doveadm mailbox create -u {BOB} {mailbox}")
    try:
        text = message(SENDER, BOB, token, f"{word(token)}\n").as_string()
        server.run(f"doveadm save -u {BOB} -m {mailbox}", data=text)
        assert last_indexed(server, FOLDER) == 0
        server.run("systemctl start mailwright-index.service")
        assert last_indexed(server, FOLDER) == 1
    finally:
        server.run(f"doveadm mailbox delete -u {BOB} -r {mailbox}; doveadm mailbox delete -u {BOB} Kunden", check=False)


def test_what_imap_stores_is_left_to_the_timer(server: Server, token: str) -> None:
    """Indexed at once, it would make who goes on moving it wait."""
    server.run(f"doveadm mailbox create -u {BOB} Stored")
    try:
        with server.lab.imap(BOB, server.name) as box:
            text = message(SENDER, BOB, token, f"{word(token)}\n").as_bytes()
            assert box.append("Stored", "", None, text)[0] == "OK"
        end = time.monotonic() + 3
        while time.monotonic() < end:
            assert last_indexed(server, "Stored") == 0
        server.run("systemctl start mailwright-index.service")
        assert last_indexed(server, "Stored") == 1
    finally:
        server.run(f"doveadm mailbox delete -u {BOB} Stored")


def test_what_cannot_be_indexed_is_told(server: Server) -> None:
    """A directory of nobody's keeps the others from nothing."""
    server.run("install -d -o vmail -g vmail /var/vmail/acme.test/nobody/Maildir/new")
    try:
        server.run("systemctl start mailwright-index.service")
        assert "not indexed: nobody@acme.test INBOX" in server.run("journalctl -u mailwright-index -n 5 -o cat")
    finally:
        server.run("rm -r /var/vmail/acme.test/nobody")
