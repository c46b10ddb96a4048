# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Postfix's log and its queue say, as figures (pure). No address and no domain becomes part of one."""

from __future__ import annotations

import itertools
import re
from typing import NamedTuple

QUEUES = ("incoming", "active", "deferred", "hold", "maildrop")

_QUEUED = re.compile(r"[0-9A-Za-z]+: client=")
# The last part is what the other server said: any text. So every field before it is matched from the left.
_DELIVERY = re.compile(
    r"[0-9A-Za-z]+: to=<[^>]*>, (?:orig_to=<[^>]*>, )?relay=\S+, (?:conn_use=\d+, )?delay=([\d.]+), "
    r"delays=[\d./]+, dsn=\d\.\d+\.\d+, status=(sent|deferred|bounced|expired) ",
)
_REFUSED = re.compile(r"(?:NOQUEUE|[0-9A-Za-z]+): (reject|milter-reject|milter-hold): [A-Z-]+ from \S+: ([245])")
_EXPIRED = re.compile(r"[0-9A-Za-z]+: from=<[^>]*>, status=(?:force-)?expired, ")
# smtpd's services by their syslog_name, as people call them
_SERVICES = {"": "smtp", "submission": "submission", "submissions": "submissions", "api": "api"}
_DELIVERERS = ("smtp", "lmtp", "local", "virtual", "pipe", "error", "retry")


class Accepted(NamedTuple):
    """A message was taken in: service is smtp, submission, submissions, api or local."""

    service: str


class Refused(NamedTuple):
    """A recipient or a message was refused: by postfix or filter, for now (4) or for good (5)."""

    service: str
    by: str
    reply: str


class Delivery(NamedTuple):
    """One attempt: transport, status as Postfix calls it, seconds since the message came in."""

    transport: str
    status: str
    delay: float


def parse(identifier: str, line: str) -> Accepted | Refused | Delivery | None:
    """What a line of this program (such as postfix/submission/smtpd) adds to a figure; None when nothing."""
    name, *inner = identifier.split("/")[1:] or [""]
    program, service = (inner[-1], name) if inner else (name, "")
    # Forwarded mail goes through this host twice (service srs), and was counted the first time.
    if program in ("smtpd", "postscreen", "cleanup"):
        if program == "smtpd" and _QUEUED.match(line):
            return Accepted(_SERVICES[service]) if service in _SERVICES else None
        refused = _REFUSED.match(line)
        if refused is None:
            return None
        by = "postfix" if refused[1] == "reject" else "filter"
        return Refused(_SERVICES.get(service, service), by, refused[2])
    if program == "pickup":
        return Accepted("local") if re.match(r"[0-9A-Za-z]+: uid=", line) else None
    if program == "qmgr":
        return Delivery("queue", "expired", 0.0) if _EXPIRED.match(line) else None
    if program not in _DELIVERERS or service == "srs":
        return None
    found = _DELIVERY.match(line)
    return Delivery(program, found[2], float(found[1])) if found else None


def queue(answer: bytes) -> dict[str, int]:
    """Messages by queue, in what showq(8) sends: attributes, each a name and a value ended by NUL."""
    counts = dict.fromkeys(QUEUES, 0)
    fields = answer.split(b"\0")
    for name, value in itertools.pairwise(fields):
        if name == b"queue_name" and value.decode("ascii", "replace") in counts:
            counts[value.decode()] += 1
    return counts
