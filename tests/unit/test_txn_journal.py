# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every prefix of every journal settles in exactly one ending; properties with hypothesis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.txn.journal import (
    COMMITTED,
    INCONSISTENT,
    ROLLED_BACK,
    DamagedError,
    Record,
    decode,
    encode,
    replay,
)
from ansible_collections.mailwright.server.plugins.module_utils.txn.machine import (
    PHASES,
    TOUCHING,
    UNDO,
    UNDO_ATTEMPTS,
    cause_of,
    decide,
    forward,
    phase_of,
)
from ansible_collections.mailwright.server.plugins.module_utils.txn.storage import Transaction, TransactionError, locked
from hypothesis import given, settings
from hypothesis import strategies as st

KINDS = st.sampled_from(sorted(PHASES))


def drive(records: list[Record], recover: bool, fails: Callable[[str], bool], limit: int = 200) -> str:
    """An engine as engine.py is one, without a host: starts, then acts until it may let go; returns the ending."""
    records.append({"record": "start", "recover": recover})
    for _turn in range(limit):
        action = decide(replay(records))
        if action.what == "close":
            return action.ending
        if action.what == "end":
            records.append({"record": "ending", "ending": action.ending})
            continue
        undo = action.what == "undo"
        records.append({"record": "intent", "step": action.step, "undo": undo})
        if fails(action.step):
            records.append({"record": "failed", "step": action.step, "undo": undo, "cause": "as planned"})
            continue
        records.append({"record": "effect", "step": action.step, "data": {}})
        records.append({"record": "done", "step": action.step})
    raise AssertionError("does not end")


def never(_step: str) -> bool:
    return False


def journal(kind: str, failing: frozenset[str]) -> list[Record]:
    records: list[Record] = [{"record": "begin", "kind": kind, "id": "x"}]
    drive(records, False, failing.__contains__)
    return records


@given(KINDS, st.frozensets(st.sampled_from([*forward("update"), "restore", "apply", *UNDO])))
def test_a_run_ends_in_one_ending(kind: str, failing: frozenset[str]) -> None:
    records = journal(kind, failing)
    endings = [record["ending"] for record in records if record["record"] == "ending"]
    assert len(endings) == 1
    first = next((step for step in forward(kind) if step in failing), None)
    if first is None:
        assert endings == [COMMITTED]
        return
    assert cause_of(replay(records)) == (phase_of(kind, first), "as planned")
    touched = any(step in TOUCHING for step in forward(kind)[: forward(kind).index(first) + 1])
    undone = not touched or not failing & set(UNDO)
    assert endings == [ROLLED_BACK if undone else INCONSISTENT]
    # nothing is undone that was not touched
    assert touched or not replay(records).intended & set(UNDO)


@settings(max_examples=25, deadline=None)
@given(KINDS, st.frozensets(st.sampled_from([*forward("update"), "restore", "apply", *UNDO])), st.data())
def test_every_prefix_settles(kind: str, failing: frozenset[str], data: st.DataObject) -> None:
    """Killed after any record, at any byte of it, once or again and again, then started by systemd or at boot."""
    whole = journal(kind, failing)
    lines = [encode(record) for record in whole]
    for count in range(len(lines) + 1):
        torn = lines[count][: data.draw(st.integers(0, len(lines[count]) - 1))] if count < len(lines) else b""
        records, good = decode(b"".join(lines[:count]) + torn)
        assert (records, good) == (whole[:count], len(b"".join(lines[:count])))
        confirmed = any(r["record"] == "done" and r["step"] == "confirm" for r in records)
        given_up = any(r["record"] == "ending" and r["ending"] == INCONSISTENT for r in records)
        was_started = any(r["record"] == "start" for r in records)
        # without a start there was no engine yet: only recovery at boot comes upon such a journal
        recover = data.draw(st.booleans()) if was_started else True
        ending = drive(records, recover, never)
        assert [r["ending"] for r in records if r["record"] == "ending"] == [ending]
        assert ending == (COMMITTED if confirmed else INCONSISTENT if given_up else ROLLED_BACK)
        # and stays so
        assert drive(records, True, never) == ending


@given(KINDS, st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_a_host_that_goes_down_again_and_again_settles(kind: str, stops: list[int]) -> None:
    records = journal(kind, frozenset())
    begun = next(i for i, r in enumerate(records) if r["record"] == "intent" and r["step"] in TOUCHING)
    records = records[: begun + 1]
    for stop in stops:
        length = len(records)
        drive(records, True, never)
        del records[length + stop :]
    assert drive(records, True, never) in (ROLLED_BACK, INCONSISTENT)
    starts = sum(r["record"] == "start" for r in records[begun:])
    assert replay(records).starts_in_undo <= min(starts, max(UNDO_ATTEMPTS + 1, len(stops) + 1))


def test_undo_is_given_up_after_some_attempts() -> None:
    records = journal("update", frozenset({"check"}))
    records = records[: next(i for i, r in enumerate(records) if r.get("undo") and r["record"] == "intent") + 1]
    for _attempt in range(UNDO_ATTEMPTS):
        records.append({"record": "start", "recover": True})
    assert decide(replay(records)).ending == INCONSISTENT


def test_a_damaged_line_in_the_middle_is_no_torn_line() -> None:
    lines = [encode(record) for record in journal("update", frozenset())]
    lines[2] = lines[2].replace(b"probe", b"prone")
    with pytest.raises(DamagedError, match="line 3"):
        decode(b"".join(lines))


def test_a_torn_line_is_cut_off_before_the_next_record(tmp_path: Path) -> None:
    transaction = Transaction.create("one", {"kind": "update"}, b"", root=tmp_path)
    with (tmp_path / "one/journal").open("ab") as stream:
        stream.write(encode({"record": "start"})[:-5])
    transaction.append({"record": "start", "recover": True})
    assert [record["record"] for record in transaction.records()] == ["begin", "start"]


def test_one_transaction_is_open_at_a_time(tmp_path: Path) -> None:
    transaction = Transaction.create("one", {"kind": "update"}, b"", root=tmp_path)
    with pytest.raises(TransactionError, match="transaction one is open"):
        Transaction.create("two", {"kind": "update"}, b"", root=tmp_path)
    with locked(tmp_path), pytest.raises(TransactionError, match="another engine"), locked(tmp_path):
        pass
    transaction.close()
    assert Transaction.opened(tmp_path) is None
    assert Transaction.create("two", {"kind": "update"}, b"", root=tmp_path).history().kind == "update"
