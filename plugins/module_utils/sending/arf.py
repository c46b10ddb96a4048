# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Complaints as mailbox providers send them: the Abuse Reporting Format (RFC 5965), pure."""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import Iterator
from email.message import Message
from typing import NamedTuple

from .envelope import TOKEN, token_of

# not-spam is the opposite, auth-failure is about our signature.
_COMPLAINTS = frozenset(("abuse", "fraud", "opt-out", "opt-out-list", "other"))
_LINK = re.compile(rf"/unsubscribe/({TOKEN})\b")
LONGEST_DETAIL = 200


class Complaint(NamedTuple):
    """Somebody called a message unwanted. token: whose message, or None when the report does not show it."""

    token: str | None
    kind: str
    reporter: str


def parse(content: bytes) -> Complaint | None:
    """The complaint, or None when the message is none."""
    # compat32 never raises on what strangers send
    message = email.message_from_bytes(content, policy=email.policy.compat32)
    parts = message.get_payload()
    if message.get_content_type() != "multipart/report" or not isinstance(parts, list):
        return None
    kind = reporter = ""
    tokens: list[str] = []
    for part in parts:
        if not isinstance(part, Message):
            continue
        for header in _headers(part):
            if part.get_content_type() == "message/feedback-report":
                kind = _text(header, "Feedback-Type").lower()
                reporter = _text(header, "User-Agent")
            tokens += _tokens(header)
    return Complaint(tokens[0] if tokens else None, kind, reporter) if kind in _COMPLAINTS else None


def _headers(part: Message) -> Iterator[Message]:
    """The fields of a report, or the headers of the message that it is about."""
    payload = part.get_payload()
    if part.get_content_type() in ("message/feedback-report", "message/rfc822") and isinstance(payload, list):
        yield from (entry for entry in payload[:1] if isinstance(entry, Message))
    elif part.get_content_type() == "text/rfc822-headers" and isinstance(payload, str):
        yield email.message_from_string(payload, policy=email.policy.compat32)


def _tokens(headers: Message) -> Iterator[str]:
    for name in ("Original-Mail-From", "Return-Path"):
        token = token_of(_text(headers, name).strip("<> "))
        if token:
            yield token
    link = _LINK.search(_text(headers, "List-Unsubscribe"))
    if link:
        yield link[1]


def _text(headers: Message, name: str) -> str:
    text = " ".join(str(headers.get(name, "")).split())
    return "".join(char for char in text if char.isprintable())[:LONGEST_DETAIL]
