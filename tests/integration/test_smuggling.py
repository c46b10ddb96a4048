# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A second message hidden in the first, and clients that talk out of turn (RFC 5321, 4.1.1.4; CVE-2023-51764)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from connection import wait_until

if TYPE_CHECKING:
    from ansible_collections.mailwright.server.tests.integration.conftest import Server, Stranger

ENDINGS = {
    "LF . LF": "\n.\n",
    "LF . CRLF": "\n.\r\n",
    "CRLF . LF": "\r\n.\n",
    "CR . CR": "\r.\r",
    "CR . LF": "\r.\n",
    "CR . CRLF": "\r.\r\n",
    "LF . CR": "\n.\r",
    "CRLF . CR": "\r\n.\r",
    "CRLF . CR CRLF": "\r\n.\r\r\n",
    "LF . CR CRLF": "\n.\r\r\n",
    "CR LF . NUL CRLF": "\r\n.\0\r\n",
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS.keys())
def test_nothing_is_smuggled(stranger: Stranger, server: Server, token: str, ending: str) -> None:
    """Two transactions would need two replies to two ends of data; the second message has another subject."""
    newline = "\n" if "\n" in ending and "\r" not in ending else "\r\n"
    inner = newline.join(
        ["MAIL FROM:<dave@peer.test>", "RCPT TO:<bob@acme.test>", "DATA", "From: dave@peer.test",
         f"Subject: {token} smuggled", "", "Smuggled."]
    )  # fmt: skip
    headers = f"From: dave@peer.test\r\nTo: bob@acme.test\r\nSubject: {token} honest\r\n"
    data = f"{headers}\r\nHonest.{ending}{inner}\r\n.\r\n"
    steps = [
        {}, {"send": "EHLO peer.peer.test\r\n"}, {"send": "MAIL FROM:<dave@peer.test>\r\n"},
        {"send": "RCPT TO:<bob@acme.test>\r\n"}, {"send": "DATA\r\n"}, {"send": data, "read": "all"},
        {"send": "QUIT\r\n", "read": "all"},
    ]  # fmt: skip
    answers = stranger.ask("talk", port=25, steps=steps)
    assert answers[4].startswith("354"), answers
    ends = [line[:3] for line in answers[5].splitlines() if line[:1].isdigit()]
    print(f"  answer to the data: {answers[5]!r}")
    # One end of data; where it came early, what followed was cut off, or was taken for commands and refused.
    assert "354" not in ends, answers
    assert ends.count("250") <= 1, answers
    # what was accepted has arrived when a later message has
    marker = stranger.smtp(
        "EHLO peer.peer.test", "MAIL FROM:<dave@peer.test>", "RCPT TO:<bob@acme.test>", "DATA",
        f"From: dave@peer.test\r\nTo: bob@acme.test\r\nSubject: {token} marker\r\n\r\nLater.\r\n.",
    )  # fmt: skip
    assert marker[-1].startswith("250"), marker
    wait_until(lambda: f"{token} marker" in server.subjects("bob@acme.test", token), 30, "the marker")
    wait_until(lambda: server.run("postqueue -j") == "", 30, "an empty queue")
    subjects = server.subjects("bob@acme.test", token)
    assert f"{token} smuggled" not in subjects
    assert subjects.count(f"{token} honest") == ends.count("250")
    server.discard("bob@acme.test", token)


def test_who_talks_before_the_greeting_is_shut_out(stranger: Stranger, second_address: str) -> None:
    """postscreen waits before it greets an address that it has not seen."""
    words = "EHLO spam.example\r\nMAIL FROM:<dave@peer.test>\r\nRCPT TO:<bob@acme.test>\r\nDATA\r\n"
    step = {"send": words, "read": "all"}
    started = time.monotonic()
    rest = [{"read": "all"}] * 3
    answers = stranger.ask("talk", port=25, source=second_address, timeout=8, steps=[step, *rest])
    text = "".join(answers)
    print(f"  {time.monotonic() - started:.1f} s: {text!r}")
    assert "550 5.5.1" in text or "521 5.5.1" in text, answers
    assert "354" not in text
    assert "250 2.1.5" not in text


PIPELINED = {
    "the whole of it": "EHLO peer.peer.test\r\nMAIL FROM:<dave@peer.test>\r\nRCPT TO:<bob@acme.test>\r\n",
    "HELO, which allows none": "HELO peer.peer.test\r\nMAIL FROM:<dave@peer.test>\r\n",
    "data behind DATA": (
        "EHLO peer.peer.test\r\n",
        "MAIL FROM:<dave@peer.test>\r\nRCPT TO:<bob@acme.test>\r\nDATA\r\nSubject: x\r\n\r\nx\r\n.\r\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("texts", PIPELINED.values(), ids=PIPELINED.keys())
def test_pipelining_out_of_turn_is_refused(stranger: Stranger, texts: str | tuple[str, ...]) -> None:
    """Peer's own address is known to postscreen: here smtpd judges."""
    steps = [{"read": "all"}]
    steps += [{"send": text, "read": "all"} for text in ((texts,) if isinstance(texts, str) else texts)]
    answers = stranger.ask("talk", port=25, steps=steps)
    text = "".join(answers)
    print(f"  {text!r}")
    assert "554 5.5.0" in text or "503 5.5.0" in text or "improper" in text.lower(), answers
    assert "queued as" not in text


def test_what_is_sent_in_clear_does_not_get_into_tls(stranger: Stranger) -> None:
    """A command behind STARTTLS in the same packet, as a man in the middle would put it there (CVE-2011-0411)."""
    steps = [
        {}, {"send": "EHLO peer.peer.test\r\n"}, {"send": "STARTTLS\r\nMAIL FROM:<dave@peer.test>\r\n"}, {"tls": True},
        {"send": "EHLO peer.peer.test\r\n"}, {"send": "RCPT TO:<bob@acme.test>\r\n"},
    ]  # fmt: skip
    answers = stranger.ask("talk", port=25, steps=steps)
    if not answers[2].startswith("554"):
        assert answers[2].startswith("220"), answers
        assert "PIPELINING" in answers[4], answers
        assert answers[5].startswith("503"), answers


def test_bare_newlines_are_normalised(stranger: Stranger, server: Server, token: str) -> None:
    """A message of bare LF line ends arrives as one message with all its lines, when its own end is right."""
    data = f"From: dave@peer.test\nTo: bob@acme.test\nSubject: {token}\n\nFirst.\n..Second.\nThird.\r\n.\r\n"
    steps = [
        {}, {"send": "EHLO peer.peer.test\r\n"}, {"send": "MAIL FROM:<dave@peer.test>\r\n"},
        {"send": "RCPT TO:<bob@acme.test>\r\n"}, {"send": "DATA\r\n"}, {"send": data},
    ]  # fmt: skip
    answers = stranger.ask("talk", port=25, steps=steps)
    assert answers[-1].startswith("250"), answers
    found = wait_until(lambda: server.lab.find("bob@acme.test", token, host=server.name), 30, "the message")
    assert found[0].split(b"\r\n\r\n", 1)[1].rstrip() == b"First.\r\n.Second.\r\nThird."
    server.discard("bob@acme.test", token)
