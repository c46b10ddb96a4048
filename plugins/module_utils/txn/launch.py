# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start the engine, and watch what it does, from a module."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.txn import bundle, machine, snapshot
from ansible_collections.mailwright.server.plugins.module_utils.txn.journal import COMMITTED, INCONSISTENT, History
from ansible_collections.mailwright.server.plugins.module_utils.txn.programs import run
from ansible_collections.mailwright.server.plugins.module_utils.txn.storage import ROOT, Transaction, TransactionError

UNIT = "mailwright-transaction.service"
EVERY = 0.2
# What the last of the indispensable roles leaves behind.
APPLIED = snapshot.RECORDS / "postfix.json"
BEGIN_SECONDS = 300.0


def ssh_connection() -> str:
    """The SSH connection that this process belongs to, "ADDRESS PORT ADDRESS PORT"; empty without one.

    Sudo cleans the environment, so the processes that lead here are asked.
    """
    pid = os.getpid()
    while pid > 1:
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        except OSError:
            break
        for variable in variables:
            if variable.startswith(b"SSH_CONNECTION="):
                return variable.partition(b"=")[2].decode("ascii", "replace")
        pid = int(stat.rpartition(")")[2].split()[1])
    return ""


def begin(request: Mapping[str, Any]) -> str:
    """Open a transaction and start the engine; gives its name. Raises TransactionError."""
    name = snapshot.identifier()
    transaction = Transaction.create(name, {**request, "connection": ssh_connection()}, bundle.archive())
    transaction.sign_of_life()
    run(["systemctl", "reset-failed", UNIT], codes=None)
    run(["systemctl", "start", "--no-block", UNIT])
    return name


def begin_apply(request: Mapping[str, Any], *, guard: bool) -> Transaction | None:
    """Have an apply undo itself, and wait until it may change something. Raises TransactionError.

    guard: what it changes next may cut the host off. None when that is not so and there is nothing to go back to: with
    the first apply, or when only such changes shall be undone.
    """
    gate = bool(request["gate"]) and APPLIED.exists()
    if not gate and not guard:
        return None
    transaction = find(begin({**request, "kind": "apply", "gate": gate}))
    history = wait(transaction, lambda history: "apply" in history.intended, "of the snapshot", BEGIN_SECONDS)
    if history.ending:
        raise TransactionError(report(transaction))
    if guard:
        transaction.guard()
    return transaction


def find(name: str) -> Transaction:
    """Raises TransactionError for a name that is no transaction's."""
    if not name or "/" in name or not (ROOT / name / "request.json").is_file():
        raise TransactionError(f"there is no transaction {name!r} on this host")
    return Transaction(ROOT / name)


def wait_for_phase(transaction: Transaction, phase: str, seconds: float) -> History:
    """Until the phase is done, or the transaction has ended. Raises TransactionError when the time is up."""
    return wait(transaction, lambda history: machine.phase_done(history, phase), f"of phase {phase}", seconds)


def wait(transaction: Transaction, reached: Callable[[History], bool], what: str, seconds: float) -> History:
    """Until it got so far, or the transaction has ended and let go. Raises TransactionError when the time is up."""
    end = time.monotonic() + seconds
    while True:
        history = transaction.history()
        if history.ending:
            opened = Transaction.opened()
            if opened is None or opened.id != transaction.id:
                return history
        elif not machine.turned(history) and reached(history):
            return history
        if time.monotonic() > end:
            raise TransactionError(f"transaction {transaction.id}: no end {what} within {seconds:.0f} s")
        time.sleep(EVERY)


def ending(transaction: Transaction) -> dict[str, Any]:
    """The ending's record; empty while there is none."""
    return next((dict(r) for r in reversed(transaction.records()) if r["record"] == "ending"), {})


def report(transaction: Transaction) -> str:
    """What became of a transaction that has ended, for people."""
    said = ending(transaction)
    state = said["ending"]
    if state == COMMITTED:
        return f"committed; snapshot {transaction.id} leads back"
    lines = [f"{state.upper()}: the change failed in phase {said.get('phase') or 'unknown'}: {said.get('cause')}"]
    if state == INCONSISTENT:
        lines += [f"Going back failed too: {said['undo_cause']}", f"To put the host right, {said['advice']}"]
    else:
        lines.append(
            "The configuration is that of before the apply."
            if transaction.request["kind"] == "apply"
            else "Versions and files are those of before the change."
        )
        worse = said.get("worse") or {}
        lines += [f"Still wrong, so the cause lies elsewhere: {name}: {text}" for name, text in worse.items()]
    return "\n".join(lines)


def not_judged(history: History) -> list[str]:
    """What was wrong before the change already, so that it says nothing about it."""
    found = (history.effects.get("probe") or {}).get("findings") or {}
    return [f"wrong before the change already, so not judged: {name}: {text}" for name, text in found.items() if text]


def reached(transaction: Transaction, seconds: float) -> History:
    """Say that the host can still be reached; where nothing else is guarded, that is the end."""
    if not transaction.request["gate"]:
        return confirm(transaction, seconds)
    _require_new_connection(transaction)
    transaction.reached()
    return transaction.history()


def abandon(transaction: Transaction, cause: str, seconds: float) -> History:
    """Say that the apply has failed, and wait until the host is as it was."""
    transaction.abandon(cause)
    return wait_for_phase(transaction, "complete", seconds)


def confirm(transaction: Transaction, seconds: float) -> History:
    """Say that the host can be reached, and wait for the ending. Raises TransactionError for an old connection."""
    _require_new_connection(transaction)
    transaction.confirm()
    return wait_for_phase(transaction, "complete", seconds)


def _require_new_connection(transaction: Transaction) -> None:
    here, there = ssh_connection(), transaction.request["connection"]
    if here and here == there:
        raise TransactionError(
            "this is the connection over which the transaction was started: it would also work if no new one did; "
            "reset the connection first"
        )
