# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the tasks of one play know of the transaction that the first of them opened: by a fact that names the play.

A cache of facts may hold that of an earlier play, which concerns nobody any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MODULE = "mailwright.server.transaction"
FACT = "mailwright_transaction"
CAUSE = "the apply failed"
CUT_OFF = "this change has cut the host off; it takes it back by itself, look again in some minutes"
LOST = (
    "the connection is lost; the host goes on by itself: it goes back unless it was confirmed already, "
    "and the playbook status tells how it ended"
)


def opened(task: Any, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The transaction of this play: its id, empty when nothing is to be undone. Empty when none was asked for yet."""
    found = variables.get("ansible_facts", {}).get(FACT) or {}
    return dict(found) if found.get("play") == task.get_play()._uuid else {}


def begin(settings: Mapping[str, Any], before: Mapping[str, Any], guarded: bool) -> dict[str, Any]:
    """What the module is to be told."""
    return {**settings, "state": "begun", "id": before.get("id", ""), "guard": guarded}


def remember(task: Any, begun: Mapping[str, Any]) -> dict[str, Any]:
    """The fact. A transaction that guarded one task alone has ended with it."""
    return {FACT: {"play": task.get_play()._uuid, "id": begun["id"] if begun["gate"] else ""}}
