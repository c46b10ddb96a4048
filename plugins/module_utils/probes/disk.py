# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Space and inodes of every file system that the server writes to."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from ansible_collections.mailwright.server.plugins.module_utils.probes.result import Result, judge, worst

# mount points to look at; nothing is written below /tmp
PATHS = ("/", "/boot", "/tmp", "/var", "/var/log", "/var/vmail", "/var/spool/postfix", "/var/lib/postgresql")  # noqa: S108
WARN, FAIL = 85.0, 95.0


@dataclass(frozen=True)
class Usage:
    """A mounted file system: percent in use of the space and of the inodes (None: they are not counted), bytes free."""

    mount: str
    space: float
    inodes: float | None
    free: int


def evaluate(usage: Usage) -> Result:
    """Judge one file system."""
    status = worst([judge(usage.space, WARN, FAIL), judge(usage.inodes or 0.0, WARN, FAIL)])
    text = f"{usage.space:.0f} % used, {usage.free / 2**30:.1f} GiB free"
    if usage.inodes is not None:
        text += f", inodes {usage.inodes:.0f} % used"
    data = {"space_percent": round(usage.space, 1), "inodes_percent": usage.inodes, "free_bytes": usage.free}
    return Result(f"disk {usage.mount}", "system", status, text, data=data)


def percent(total: int, free: int, available: int) -> float:
    """Percent in use as df(1) counts it: what is reserved for root is neither used nor available."""
    used = total - free
    return 100.0 * used / (used + available) if used + available else 0.0


def measure(paths: Iterable[str]) -> list[Usage]:
    """The file systems on which the paths lie, each once, by their mount points."""
    found: dict[int, Usage] = {}
    for path in paths:
        if not os.path.isdir(path):
            continue
        device = os.stat(path).st_dev
        if device in found:
            continue
        mount = os.path.realpath(path)
        while not os.path.ismount(mount):
            mount = os.path.dirname(mount)
        figures = os.statvfs(path)
        inodes = round(percent(figures.f_files, figures.f_ffree, figures.f_favail), 1) if figures.f_files else None
        space = percent(figures.f_blocks, figures.f_bfree, figures.f_bavail)
        found[device] = Usage(mount, space, inodes, figures.f_bavail * figures.f_frsize)
    return list(found.values())


def probe() -> list[Result]:
    """Measure and judge."""
    return [evaluate(usage) for usage in measure(PATHS)]
