# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a probe says: one type for every kind, and which statuses outweigh which. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Status = Literal["ok", "warn", "fail", "skip"]
# From harmless to grave.
RANK: tuple[Status, ...] = ("skip", "ok", "warn", "fail")
GROUPS = ("services", "ports", "certificates", "dns", "dkim", "queue", "system", "delivery", "reports")


@dataclass(frozen=True)
class Result:
    """One thing looked at. `summary` is one line without the name, `detail` further lines, `seconds` how long it took,
    `data` what a program may want to know (JSON types only)."""

    name: str
    group: str
    status: Status
    summary: str
    detail: tuple[str, ...] = ()
    seconds: float = 0.0
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON types; seconds to the millisecond."""
        return {**asdict(self), "detail": list(self.detail), "data": dict(self.data), "seconds": round(self.seconds, 3)}


def worst(statuses: Iterable[Status]) -> Status:
    """The gravest of the statuses; skip when there is none."""
    return max(statuses, key=RANK.index, default="skip")


def judge(value: float, warn: float, fail: float) -> Status:
    """Status of a measure of which more is worse: at a limit it has been reached."""
    return "fail" if value >= fail else "warn" if value >= warn else "ok"


def duration(seconds: float) -> str:
    """A time span for people, in its largest sensible unit: 45 s, 12 min, 5 h, 3 d."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
