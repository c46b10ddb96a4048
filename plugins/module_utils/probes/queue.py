# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Postfix's queue: how much waits, how long, and why."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.probes.result import Result, duration
from ansible_collections.mailwright.server.plugins.module_utils.probes.runner import output

WARN_DEFERRED = 50
WARN_AGE = 3600
COUNTED = ("active", "deferred", "hold")


def evaluate(entries: Iterable[Mapping[str, Any]], now: float, ignored: str) -> Result:
    """Judge the queue as `postqueue -j` lists it (see postqueue(1), JSON object format); `now` in seconds since 1970.

    Messages to the recipient `ignored` are the report's own and are left out.
    """
    queues: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))
    reasons: Counter[str] = Counter()
    oldest = 0.0
    for entry in entries:
        recipients = entry.get("recipients", [])
        if recipients and all(recipient.get("address") == ignored for recipient in recipients):
            continue
        queue = str(entry["queue_name"])
        queues[queue] += 1
        # What an admin put on hold waits on purpose.
        if queue != "hold":
            oldest = max(oldest, now - float(entry["arrival_time"]))
        reasons.update({str(r["delay_reason"]) for r in recipients if r.get("delay_reason")})
    parts = [f"{number} {name}" for name, number in sorted(queues.items())]
    if oldest:
        parts.append(f"the oldest for {duration(oldest)}")
    bad = queues["deferred"] > WARN_DEFERRED or oldest > WARN_AGE
    detail = tuple(f"{number} x {text}" for text, number in reasons.most_common(3)) if bad else ()
    data = {**queues, "oldest_seconds": round(oldest)}
    return Result("queue", "queue", "warn" if bad else "ok", ", ".join(parts), detail, data=data)


def probe(ignored: str) -> list[Result]:
    """List and judge the queue."""
    lines = output(["postqueue", "-j"]).splitlines()
    return [evaluate((json.loads(line) for line in lines), time.time(), ignored)]
