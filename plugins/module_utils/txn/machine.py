# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a transaction does next, decided from its history alone. Pure: no clock, no files.

Forward: one step after the other; the last is the confirmation, and only with it the transaction is committed.
A step that fails, or an engine that was interrupted, turns the direction: what was touched is put back, step by step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ansible_collections.mailwright.server.plugins.module_utils.txn.journal import (
    COMMITTED,
    INCONSISTENT,
    ROLLED_BACK,
    History,
)

PHASES = {
    "update": {
        "snapshot": ("probe", "snapshot"),
        "migrate": ("migrate",),
        "pull": ("resolve", "download"),
        "deploy": ("install", "activate"),
        "health-check": ("check",),
        "complete": ("confirm",),
    },
    # what is applied, the playbook does itself, task by task; the engine waits for its end
    "apply": {
        "snapshot": ("probe", "snapshot"),
        "apply": ("apply",),
        "health-check": ("check",),
        "complete": ("confirm",),
    },
    "restore": {
        "snapshot": ("probe", "snapshot"),
        "deploy": ("restore", "activate"),
        "health-check": ("check",),
        "complete": ("confirm",),
    },
}
# The steps after whose intent the host may differ from its snapshot.
TOUCHING = ("install", "restore", "apply", "activate")
UNDO = ("undo-packages", "undo-files", "undo-activate", "undo-verify")
# A host that goes down during every attempt to undo is left to a person.
UNDO_ATTEMPTS = 5


@dataclass(frozen=True)
class Action:
    """do and undo run a step, end records the ending, close lets go of an ended transaction."""

    what: Literal["do", "undo", "end", "close"]
    step: str = ""
    ending: str = ""


def forward(kind: str) -> tuple[str, ...]:
    """All steps of a kind, in order."""
    return tuple(step for steps in PHASES.get(kind, {}).values() for step in steps)


def phase_of(kind: str, step: str) -> str:
    """The phase that a step belongs to; rollback for those that undo."""
    return next((phase for phase, steps in PHASES.get(kind, {}).items() if step in steps), "rollback")


def phase_done(history: History, phase: str) -> bool:
    """Whether all steps of a phase are done."""
    return set(PHASES[history.kind][phase]) <= history.done


def turned(history: History) -> bool:
    """Whether the transaction goes back."""
    complete = bool(history.kind) and set(forward(history.kind)) <= history.done
    interrupted = history.starts > 1 or history.recovering or not history.kind
    return bool(history.failed) or (interrupted and not complete)


def cause_of(history: History) -> tuple[str, str]:
    """The phase in which the transaction turned, and why."""
    if history.failed:
        return phase_of(history.kind, history.failed), history.cause
    for phase, steps in PHASES.get(history.kind, {}).items():
        if not set(steps) <= history.done:
            return phase, "the engine was interrupted: killed, or the host went down"
    return "", ""


def decide(history: History) -> Action:
    """The next action."""
    if history.ending:
        return Action("close", ending=history.ending)
    if history.undo_failed:
        return Action("end", ending=INCONSISTENT)
    if turned(history):
        if history.starts_in_undo >= UNDO_ATTEMPTS:
            return Action("end", ending=INCONSISTENT)
        if history.intended & set(TOUCHING):
            for step in UNDO:
                if step not in history.done:
                    return Action("undo", step)
        return Action("end", ending=ROLLED_BACK)
    for step in forward(history.kind):
        if step not in history.done:
            return Action("do", step)
    return Action("end", ending=COMMITTED)
