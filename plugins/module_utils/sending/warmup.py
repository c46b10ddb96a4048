# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Warm-up: how much a new address may send now, in all and to one receiver (pure).

State, clock and observations give the new state and what it allows:

- In an hour no more goes out than a tenth of the day's cap, and within the hour no more than its part that is over.
- What still lies in Postfix's queue when an hour begins counts for that hour: it may arrive in it.
- The cap grows by one step a day at most, and only after a day on which at least half of it was used, fewer than 5 % of
  that bounced and fewer than 0.1 % brought a complaint.
- A refusal that is about the address's reputation stops everything for an hour, and takes back two steps, once a day.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

# All receivers together; lanes that nothing holds up.
ALL, LOCAL, RELAY = "*", "local", "relay"
# Messages a day, day by day.
SCHEDULE = (
    250, 300, 360, 440, 520, 630, 750, 910, 1090, 1300, 1570, 1880, 2250, 2700, 3250, 3890, 4670, 5610, 6730, 8080,
    9690, 11630, 13950, 16740, 20090, 24110, 28940, 34720, 41670, 50000,
)  # fmt: skip
LONGEST_SCHEDULE = 366
LARGEST_CAP = 10_000_000
# A day's mail takes so many hours at least.
HOURS = 10
USED, BOUNCED, COMPLAINED = 0.5, 0.05, 0.001
STEPS_BACK = 2
PAUSE = timedelta(hours=1)
# Receivers forget an address that has been silent for so long.
COLD = timedelta(days=30)
HOUR = timedelta(hours=1)
NEVER = datetime(1970, 1, 1, tzinfo=UTC)

# Microsoft's, as documented for Exchange Online: rate limits, and addresses that are banned.
_CODES = re.compile(r"[45]\.7\.28|4\.7\.[5-8]\d\d|5\.7\.(?:50[123]|511|513|6(?:0[6-9]|[1-4]\d))")
_WORDS = re.compile(
    r"unsolicited|reputation|user complaints|rate.?limit|too many (?:messages|emails)|throttl|deferred due to"
    r"|black.?list|block.?list|\bblocked (?:by|using|due)|(?<!not )\blisted (?:at|by|in|on)|spamhaus|spamcop|barracuda"
    r"|\bbanned\b|\bTSS?\d\d\b|\bRP-00\d|\bS31[45]0\b|\b[BR]L0000\d\d",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Ramp:
    """Where an address stands, in all or with one receiver. sent_hour and sent_day are about the hour, and its day."""

    stage: int = 0
    hour: datetime = NEVER
    sent_hour: int = 0
    sent_day: int = 0
    bounced: int = 0
    complained: int = 0
    paused_until: datetime | None = None
    refused_on: date | None = None


def check_schedule(given: object) -> tuple[int, ...]:
    """The schedule, if it is one. Raises ValueError."""
    if not isinstance(given, (list, tuple)) or not 1 <= len(given) <= LONGEST_SCHEDULE:
        raise ValueError(f"is no schedule: write a list of 1 to {LONGEST_SCHEDULE} numbers, messages a day")
    for before, cap in zip([1, *given], given, strict=False):
        if isinstance(cap, bool) or not isinstance(cap, int) or not 1 <= cap <= LARGEST_CAP:
            raise ValueError(f"holds {str(cap)[:40]!a}: write numbers from 1 to {LARGEST_CAP}")
        if cap < before:
            raise ValueError(f"goes down from {before} to {cap}: write numbers that grow")
    return tuple(given)


def hour_of(now: datetime) -> datetime:
    """The hour that it is, in UTC."""
    return now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def cap(ramp: Ramp, schedule: Sequence[int]) -> int | None:
    """Messages on this day; None: the warm-up is over."""
    return schedule[ramp.stage] if ramp.stage < len(schedule) else None


def hourly(day: int) -> int:
    """Messages in an hour of a day with this cap."""
    return -(-day // HOURS)


def turn(ramp: Ramp, now: datetime, schedule: Sequence[int], outstanding: int) -> Ramp:
    """Begin a new hour, and a new day, if there is one. outstanding: messages that left us and may still arrive."""
    hour = hour_of(now)
    # a clock that was put back a little gives no hour twice
    if ramp.hour - HOUR <= hour <= ramp.hour:
        return ramp
    if hour < ramp.hour:
        return replace(ramp, hour=hour)
    if hour.date() == ramp.hour.date():
        return replace(ramp, hour=hour, sent_hour=outstanding)
    stage = 0 if hour - ramp.hour > COLD else ramp.stage + _earned(ramp, schedule)
    return replace(
        ramp, stage=stage, hour=hour, sent_hour=outstanding, sent_day=outstanding, bounced=0, complained=0
    )  # fmt: skip


def _earned(ramp: Ramp, schedule: Sequence[int]) -> int:
    day = cap(ramp, schedule)
    if day is None or ramp.refused_on == ramp.hour.date() or ramp.sent_day < USED * day:
        return 0
    return int(ramp.bounced < BOUNCED * ramp.sent_day and ramp.complained < COMPLAINED * ramp.sent_day)


def left(ramp: Ramp, now: datetime, schedule: Sequence[int]) -> int | None:
    """What may still go out in this hour; None: any number."""
    if ramp.paused_until is not None and now < ramp.paused_until:
        return 0
    day = cap(ramp, schedule)
    return None if day is None else max(0, min(hourly(day) - ramp.sent_hour, day - ramp.sent_day))


def room(ramp: Ramp, now: datetime, schedule: Sequence[int]) -> int | None:
    """What may go out at this moment; None: any number."""
    rest, day = left(ramp, now, schedule), cap(ramp, schedule)
    if rest is None or day is None:
        return rest
    minutes = int((now - ramp.hour).total_seconds() // 60)
    released = -(-hourly(day) * min(max(minutes + 1, 1), 60) // 60)
    return max(0, min(rest, released - ramp.sent_hour))


def take(ramp: Ramp, count: int) -> Ramp:
    """So many go out."""
    return replace(ramp, sent_hour=ramp.sent_hour + count, sent_day=ramp.sent_day + count)


def observe(ramp: Ramp, now: datetime, bounced: int = 0, complained: int = 0, refused: bool = False) -> Ramp:
    """What receivers said. refused: for the address's reputation."""
    ramp = replace(ramp, bounced=ramp.bounced + bounced, complained=ramp.complained + complained)
    if not refused:
        return ramp
    today = now.astimezone(UTC).date()
    stage = ramp.stage if ramp.refused_on == today else max(0, ramp.stage - STEPS_BACK)
    return replace(ramp, stage=stage, paused_until=now + PAUSE, refused_on=today)


def is_reputation(code: str, detail: str) -> bool:
    """Whether a refusal, for now or for good, is about the reputation of the address that it came from."""
    if _CODES.fullmatch(code):
        return True
    # x.1 is about the recipient's address, x.2 about his mailbox
    return not re.match(r"[45]\.[12]\.", code) and _WORDS.search(detail) is not None
