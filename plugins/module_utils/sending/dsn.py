# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Delivery status notifications (RFC 3464), as they come back to an envelope sender of ours (pure)."""

from __future__ import annotations

import email
import email.policy
import re
from email.message import Message
from typing import Literal, NamedTuple

_STATUS = re.compile(r"\s*([245]\.\d{1,3}\.\d{1,3})\b")
# Delivery time expired: there is nothing wrong with the address.
_EXPIRED = ("4.4.7", "5.4.7")
LONGEST_DETAIL = 1000


class Report(NamedTuple):
    """What a notification says of its one recipient."""

    reporter: str
    action: str
    code: str
    detail: str


def parse(content: bytes) -> Report | None:
    """The first recipient's report, or None when the message is no notification: an absence reply, say."""
    # compat32 never raises on what strangers send
    message = email.message_from_bytes(content, policy=email.policy.compat32)
    if message.get_content_type() != "multipart/report":
        return None
    for part in message.walk():
        if part.get_content_type() == "message/delivery-status":
            blocks = part.get_payload()
            if isinstance(blocks, list):
                return _report([block for block in blocks if isinstance(block, Message)])
    return None


def outcome(report: Report) -> Literal["bounced", "expired", "deferred"] | None:
    """What a report says became of the message, or None for what is no trouble (RFC 3464 section 2.3.3)."""
    if report.action == "failed":
        return "expired" if report.code in _EXPIRED else "bounced"
    return "deferred" if report.action == "delayed" else None


def _report(blocks: list[Message]) -> Report | None:
    reporter = _value(blocks[0], "Reporting-MTA") if blocks else ""
    for block in blocks[1:]:
        action = _field(block, "Action").lower()
        status = _STATUS.match(_field(block, "Status"))
        if action and status:
            return Report(reporter.lower(), action, status[1], _value(block, "Diagnostic-Code")[:LONGEST_DETAIL])
    return None


def _field(block: Message, name: str) -> str:
    text = " ".join(str(block.get(name, "")).split())
    return "".join(char for char in text if char.isprintable())


def _value(block: Message, name: str) -> str:
    """What follows the type, as in "dns; mx.example.org"."""
    text = _field(block, name)
    return text.partition(";")[2].strip() if ";" in text else text
