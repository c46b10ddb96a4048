# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the host is backed up: the age of the last good backup, the last check, and whether the timers run."""

from __future__ import annotations

import calendar
import os
import time
from collections.abc import Mapping
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.backup.settings import (
    CONFIGURATION,
    Settings,
    read_state,
)
from ansible_collections.mailwright.server.plugins.module_utils.probes.result import Result, Status, duration, worst
from ansible_collections.mailwright.server.plugins.module_utils.probes.runner import output
from ansible_collections.mailwright.server.plugins.module_utils.probes.services import parse_units

TIMERS = ("mailwright-backup.timer", "mailwright-backup-check.timer")
PROPERTIES = "Id,LoadState,ActiveState,UnitFileState"


def _seconds(text: str) -> int:
    return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))


def evaluate(
    state: Mapping[str, Any], units: Mapping[str, Mapping[str, str]], set_up: float, limit: float, now: float
) -> Result:
    """Judge what the program noted. Times in seconds since the epoch; `limit`: the greatest age of a good backup."""
    findings: list[tuple[Status, str]] = []
    for name in TIMERS:
        timer = units.get(name, {})
        if timer.get("ActiveState") != "active":
            findings.append(("fail", f"{name} is {timer.get('ActiveState') or 'not there'}: apply the inventory"))
        elif timer.get("UnitFileState") != "enabled":
            findings.append(("warn", f"{name} is {timer.get('UnitFileState')}: not started at boot"))
    good, run, check = (state.get(key) for key in ("last_good", "last_run", "last_check"))
    age = now - (_seconds(good["finished"]) if good else set_up)
    words = f"last good backup {duration(age)} ago" if good else f"none yet, set up {duration(age)} ago"
    if age >= limit:
        findings.append(("fail", f"{words}, which is more than {duration(limit)}"))
    if run and not run["ok"]:
        findings.append(("warn", f"the last run failed ({run['finished']}): {run['message']}"))
    if check and not check["ok"]:
        findings.append(("fail", f"the last check failed ({check['finished']}): {check['message']}"))
    findings.sort(key=lambda finding: finding[0] != "fail")
    lines = [text for _status, text in findings] or [f"{words}, {good['messages']} messages" if good else words]
    data = {"last_good": good["finished"] if good else None, "last_check": check["finished"] if check else None}
    status = worst(status for status, _text in findings) if findings else "ok"
    return Result("backup", "system", status, lines[0], tuple(lines[1:]), data={**data, "age_seconds": int(age)})


def probe() -> list[Result]:
    """Read what the program noted, and ask systemd for its timers."""
    settings = Settings.load()
    units = parse_units(output(["systemctl", "show", f"--property={PROPERTIES}", *TIMERS]))
    set_up = os.stat(f"{CONFIGURATION}/settings.json").st_mtime
    return [evaluate(read_state(), units, set_up, settings.alert_after_hours * 3600, time.time())]
