# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How far the warm-up of the host's address is, what it holds back, and who has refused the address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from ansible_collections.mailwright.server.plugins.module_utils.probes.result import Result, duration
from ansible_collections.mailwright.server.plugins.module_utils.sending import warmup
from ansible_collections.mailwright.server.plugins.module_utils.sending.warmup import ALL, LOCAL, RELAY, Ramp

# A refusal is told of for so long.
RECENT = timedelta(days=1)
# What the next day has no place for either.
LATE = timedelta(days=1)
# Receivers listed, those that hold up most first.
LISTED = 10

RAMPS = """
SELECT provider, stage, hour, sent_hour, sent_day, bounced, complained, paused_until, refused_on
  FROM api.ramp WHERE address = %(address)s
"""
WAITING = """
SELECT lane, count(*), min(not_before) FROM api.recipient
 WHERE status = 'queued' AND lane <> ALL (%(unpaced)s) AND not_before <= now() GROUP BY lane
"""


class Waiting(NamedTuple):
    """How many recipients wait for a receiver's turn, and since when."""

    recipients: int
    since: datetime


def evaluate(
    ramps: Mapping[str, Ramp], waiting: Mapping[str, Waiting], schedule: Sequence[int], now: datetime
) -> Result:
    """Judge the ramps by receiver, and what waits for each."""
    turned = {name: warmup.turn(ramp, now, schedule, 0) for name, ramp in ramps.items()}
    count = sum(entry.recipients for entry in waiting.values())
    words = _step(turned.get(ALL, Ramp()), schedule) + (f", {count} wait" if count else "")
    refused = [name for name, ramp in turned.items() if _refused(ramp, now)]
    late = [name for name, entry in waiting.items() if now - entry.since >= LATE]
    names = sorted({*refused, *waiting}, key=lambda name: (name not in refused, -_count(waiting, name), name))
    lines = [_line(name, turned.get(name, Ramp()), waiting.get(name), schedule, now) for name in names[:LISTED]]
    if len(names) > LISTED:
        lines.append(f"and {len(names) - LISTED} receivers more")
    data = {
        name: {"step": min(ramp.stage + 1, len(schedule)), "day_cap": warmup.cap(ramp, schedule),
               "sent_today": ramp.sent_day, "waiting": count if name == ALL else _count(waiting, name),
               "refused_on": ramp.refused_on.isoformat() if ramp.refused_on else None}
        for name, ramp in sorted(turned.items())
    }  # fmt: skip
    return Result("warm-up", "queue", "warn" if refused or late else "ok", words, tuple(lines), data=data)


def _refused(ramp: Ramp, now: datetime) -> bool:
    return ramp.refused_on is not None and now.date() - ramp.refused_on <= RECENT


def _count(waiting: Mapping[str, Waiting], name: str) -> int:
    return waiting[name].recipients if name in waiting else 0


def _step(ramp: Ramp, schedule: Sequence[int]) -> str:
    day = warmup.cap(ramp, schedule)
    if day is None:
        return f"over, {ramp.sent_day} sent today"
    return f"step {ramp.stage + 1} of {len(schedule)}, {ramp.sent_day} of {day} sent today"


def _line(name: str, ramp: Ramp, waits: Waiting | None, schedule: Sequence[int], now: datetime) -> str:
    words = f"{name}: {_step(ramp, schedule)}"
    if waits is not None:
        words += f", {waits.recipients} wait for up to {duration(max(0.0, (now - waits.since).total_seconds()))}"
    if _refused(ramp, now):
        words += f", refused this address on {ramp.refused_on}: {warmup.STEPS_BACK} steps back"
        if ramp.paused_until is not None and ramp.paused_until > now:
            words += f", nothing is sent until {ramp.paused_until.astimezone(UTC):%H:%M} UTC"
    return words


def probe(address: str, schedule: Sequence[int]) -> list[Result]:
    """Ask the database."""
    try:
        import psycopg
    except ImportError:
        return [Result("warm-up", "queue", "fail", "python3-psycopg is not installed on the host")]
    where = "dbname=mailwright host=/run/postgresql user=mailwright_dispatch connect_timeout=5"
    with psycopg.connect(where, autocommit=True) as connection:
        ramps = {name: Ramp(*values) for name, *values in connection.execute(RAMPS, {"address": address})}
        waiting = {
            lane: Waiting(count, since)
            for lane, count, since in connection.execute(WAITING, {"unpaced": [LOCAL, RELAY]})
        }
    return [evaluate(ramps, waiting, schedule, datetime.now(UTC))]
