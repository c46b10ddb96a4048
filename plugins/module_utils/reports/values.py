# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values of a report, made fit to store. Pure.

Anybody may send anything: what comes out holds no control character, no half of a surrogate pair, and has its bounds.
"""

from __future__ import annotations

import ipaddress
import re
from datetime import UTC, datetime, timedelta

MAX_TEXT = 500
MAX_COUNT = 2**63 - 1
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_SECOND = 2**33


class ReportError(ValueError):
    """Something is no report, or not one that can be stored."""


def text(value: object, what: str, limit: int = MAX_TEXT) -> str:
    """The value as one line, cut to `limit` characters. Raises ReportError when it is no text or empty."""
    found = optional_text(value, what, limit)
    if not found:
        raise ReportError(f"{what} is missing")
    return found


def optional_text(value: object, what: str, limit: int = MAX_TEXT) -> str:
    """Like text(), empty when there is none."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ReportError(f"{what} is no text")
    return " ".join(_UNFIT.sub(" ", value[: 4 * limit]).split())[:limit]


def domain(value: object, what: str) -> str:
    """A domain's name as the directory has it: small letters, no final dot."""
    return text(value, what, 255).lower().rstrip(".")


def word(value: object, what: str, known: tuple[str, ...]) -> str:
    """One of the known words."""
    found = text(value, what, 40).lower()
    if found not in known:
        raise ReportError(f"{what} is {found!r}, not one of {', '.join(known)}")
    return found


def count(value: object, what: str) -> int:
    """A number of messages or sessions."""
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,19}\s*", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_COUNT:
        raise ReportError(f"{what} is no number of messages")
    return value


def address(value: object, what: str) -> str:
    """An IP address in its usual form."""
    found = text(value, what, 60)
    try:
        if "%" in found:  # an interface's name means something on one host only
            raise ValueError
        return str(ipaddress.ip_address(found))
    except ValueError as error:
        raise ReportError(f"{what} is {found!r}, no IP address") from error


def optional_address(value: object, what: str) -> str | None:
    """Like address(), None when there is none."""
    return address(value, what) if optional_text(value, what) else None


def seconds(value: object, what: str) -> datetime:
    """A time given as seconds since 1970."""
    number = count(value, what)
    if number > _LAST_SECOND:
        raise ReportError(f"{what} is no time")
    return _EPOCH + timedelta(seconds=number)


def timestamp(value: object, what: str) -> datetime:
    """A time as RFC 3339 writes it, in UTC."""
    found = text(value, what, 60)
    try:
        when = datetime.fromisoformat(found)
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return seconds(int((when - _EPOCH).total_seconds()), what)
    except (ValueError, OverflowError) as error:
        raise ReportError(f"{what} is {found!r}, no time") from error


def period(begin: datetime, end: datetime) -> tuple[datetime, datetime]:
    """The time that a report covers."""
    if end < begin:
        raise ReportError("the report ends before it begins")
    return begin, end
