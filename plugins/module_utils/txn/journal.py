# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a transaction's journal says: its records as lines of text, and what follows from them. Pure.

A line is the CRC-32 of the rest, a space, and a record as JSON. A power cut may tear the last line: it then never was.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Record = Mapping[str, Any]

COMMITTED, ROLLED_BACK, INCONSISTENT = "committed", "rolled back", "inconsistent"
ENDINGS = (COMMITTED, ROLLED_BACK, INCONSISTENT)
# Of the engine's process; others are errors of the engine itself.
EXIT_CODES = {COMMITTED: 0, ROLLED_BACK: 3, INCONSISTENT: 4}


class DamagedError(ValueError):
    """A line that is not the last one cannot be read: the disk lost what it had promised to keep."""


def encode(record: Record) -> bytes:
    """One record as a line."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def decode(content: bytes) -> tuple[list[Record], int]:
    """The records, and how many bytes hold them; what is beyond is a torn last line.

    Raises DamagedError.
    """
    records: list[Record] = []
    good = 0
    lines = content.split(b"\n")
    for number, line in enumerate(lines):
        checksum, _space, text = line.partition(b" ")
        if checksum != b"%08x" % zlib.crc32(text) or not text or number == len(lines) - 1:
            if number < len(lines) - 2:
                raise DamagedError(f"line {number + 1} of the journal is damaged")
            break
        records.append(json.loads(text))
        good += len(line) + 1
    return records, good


@dataclass(frozen=True)
class History:
    """What the records say together."""

    kind: str = ""
    # every start of the engine; a second one means that the first was interrupted
    starts: int = 0
    starts_in_undo: int = 0
    recovering: bool = False
    intended: frozenset[str] = frozenset()
    done: frozenset[str] = frozenset()
    # what a step found or did, by its name
    effects: Mapping[str, Any] = field(default_factory=dict)
    failed: str = ""
    cause: str = ""
    undo_failed: str = ""
    undo_cause: str = ""
    undo_began: bool = False
    ending: str = ""


def replay(records: Sequence[Record]) -> History:
    """Read the records in order."""
    kind = failed = cause = undo_failed = undo_cause = ending = ""
    starts = starts_in_undo = 0
    recovering = undo_began = False
    intended: set[str] = set()
    done: set[str] = set()
    effects: dict[str, Any] = {}
    for record in records:
        step = record.get("step", "")
        match record["record"]:
            case "begin":
                kind = record["kind"]
            case "start":
                starts += 1
                starts_in_undo += undo_began
                # it failed while the host was going down: that attempt counts as interrupted
                undo_failed = undo_cause = ""
                recovering = recovering or record.get("recover", False)
            case "intent":
                intended.add(step)
                undo_began = undo_began or record.get("undo", False)
            case "effect":
                effects[step] = record.get("data")
            case "done":
                done.add(step)
            case "failed" if record.get("undo"):
                undo_failed, undo_cause = step, record["cause"]
            case "failed":
                failed, cause = step, record["cause"]
            case "ending":
                ending = record["ending"]
    return History(
        kind, starts, starts_in_undo, recovering, frozenset(intended), frozenset(done), effects,
        failed, cause, undo_failed, undo_cause, undo_began, ending,
    )  # fmt: skip
