# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Postfix's log says of messages (pure)."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from .envelope import token_of

Outcome = Literal["delivered", "deferred", "bounced", "expired"]

_QUEUED = re.compile(r"([0-9A-Za-z]+): from=<([^>]*)>, size=\d+, nrcpt=\d+ \(queue active\)")
_EXPIRED = re.compile(r"([0-9A-Za-z]+): from=<([^>]*)>, status=(?:expired|force-expired), returned to sender")
# The client's name is a DNS name, and the user has logged in.
_SUBMITTED = re.compile(r"([0-9A-Za-z]+): client=\S+, sasl_method=\S+, sasl_username=(\S+@([^@\s,]+))(?:, .*)?")
# The last part is what the other server said: any text. So every field before it is matched from the left.
_DELIVERY = re.compile(
    r"([0-9A-Za-z]+): to=<([^>]*)>, (?:orig_to=<([^>]*)>, )?relay=(\S+), (?:conn_use=\d+, )?delay=[\d.]+, "
    r"delays=[\d./]+, dsn=(\d\.\d+\.\d+), status=(sent|deferred|bounced|undeliverable) \((.*)\)",
    re.DOTALL,
)
_DELIVERERS = ("smtp", "lmtp", "local", "virtual", "pipe", "error", "retry", "discard", "relay/smtp")
_SUBMISSION = ("submission/smtpd", "submissions/smtpd")
_OUTCOMES: dict[str, Outcome] = {"sent": "delivered", "deferred": "deferred", "bounced": "bounced"}
LONGEST_DETAIL = 1000


class Queued(NamedTuple):
    """A message of ours entered the queue, or was looked at again."""

    queue_id: str
    token: str


class Submitted(NamedTuple):
    """A user of this domain handed a message in by SMTP."""

    queue_id: str
    domain: str


class Delivery(NamedTuple):
    """What became of one attempt. address is empty where the line is about the whole message."""

    queue_id: str
    address: str
    outcome: Outcome
    relay: str
    code: str
    detail: str


def parse(identifier: str, line: str) -> Queued | Submitted | Delivery | None:
    """What a line of this program (such as postfix/qmgr) says, or None when it is about something else."""
    program = identifier.partition("/")[2]
    if program == "qmgr":
        queued = _QUEUED.fullmatch(line)
        if queued:
            token = token_of(queued[2])
            return Queued(queued[1], token) if token else None
        expired = _EXPIRED.fullmatch(line)
        if expired:
            return Delivery(expired[1], "", "expired", "", "5.4.7", "expired, returned to sender")
        return None
    if program in _SUBMISSION:
        submitted = _SUBMITTED.fullmatch(line)
        return Submitted(submitted[1], submitted[3].lower()) if submitted else None
    if program not in _DELIVERERS:
        return None
    found = _DELIVERY.fullmatch(line)
    if found is None or found[6] not in _OUTCOMES:
        return None
    address = found[3] or found[2]
    relay = "" if found[4] == "none" else found[4]
    return Delivery(
        found[1], address, _OUTCOMES[found[6]], relay, found[5], found[7].replace("\0", "")[:LONGEST_DETAIL]
    )
