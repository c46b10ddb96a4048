# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The last update or rollback: whether it has ended, and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.probes.result import Result
from ansible_collections.mailwright.server.plugins.module_utils.txn.journal import COMMITTED, INCONSISTENT
from ansible_collections.mailwright.server.plugins.module_utils.txn.storage import ROOT, DamagedError, Transaction

NAME = "last change"


def evaluate(identifier: str, kind: str, last: Mapping[str, Any]) -> Result:
    """Judge a transaction by the last record of its journal."""
    data = {"id": identifier, "kind": kind, "ending": last.get("ending", "")}
    ending = data["ending"]
    if ending == COMMITTED:
        return Result(NAME, "system", "ok", f"{kind} {identifier}: committed", data=data)
    if ending == INCONSISTENT:
        detail = (f"going back failed: {last.get('undo_cause')}", str(last.get("advice")))
        return Result(
            NAME, "system", "fail", f"{kind} {identifier}: inconsistent: {last.get('cause')}", detail, data=data
        )
    if ending:
        words = f"{kind} {identifier}: rolled back in phase {last.get('phase')}: {last.get('cause')}"
        return Result(NAME, "system", "warn", words, data=data)
    return Result(NAME, "system", "warn", f"{kind} {identifier}: under way; it settles by itself", data=data)


def probe() -> list[Result]:
    """Read the newest journal; nothing on a host that never had a transaction."""
    names = sorted(path.name for path in ROOT.glob("2*")) if ROOT.is_dir() else []
    if not names:
        return []
    transaction = Transaction(ROOT / names[-1])
    try:
        last = transaction.records()[-1:]
    except DamagedError as error:
        return [Result(NAME, "system", "fail", f"{names[-1]}: {error}")]
    return [evaluate(names[-1], transaction.request["kind"], last[0] if last else {})]
