# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of a list of changes is still to be made, given what is live; whole record sets, or record by record. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.dns.canonical import text_octets
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.contract import (
    Capabilities,
    Change,
    ConflictError,
    UnsupportedError,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import RRset

Key = tuple[str, str]
# Marks a record set whose records differ in their TTL: no wanted TTL equals it, so a plan sees that there is work.
MIXED_TTL = 0


def supported(changes: Iterable[Change], capabilities: Capabilities) -> list[Change]:
    """The changes with new TTLs raised to the minimum.

    Raises UnsupportedError, before anything is written, for a type or a length of text that cannot be stored.
    """
    raised = []
    for change in changes:
        if change.type not in capabilities.types:
            raise UnsupportedError(f"{change.name} {change.type}: this provider has no records of type {change.type}")
        new = change.new
        if new is not None:
            if new.type == "TXT":
                longest = max(len(text_octets(value)) for value in new.values)
                if longest > capabilities.max_text:
                    raise UnsupportedError(
                        f"{new.name} TXT: a text of {longest} octets; this provider takes {capabilities.max_text}"
                    )
            new = replace(new, ttl=max(new.ttl, capabilities.minimum_ttl))
        raised.append(Change(change.old, new))
    return raised


def in_order(changes: Iterable[Change]) -> list[Change]:
    """The changes with deletions first: a CNAME and other types make room for each other."""
    return sorted(changes, key=lambda change: change.new is not None)


def _never(_live: RRset | None, _change: Change) -> bool:
    return False


def unfinished(
    changes: Iterable[Change],
    live: Mapping[Key, RRset],
    halfway: Callable[[RRset | None, Change], bool] = _never,
) -> list[Change]:
    """The changes whose new value is not live yet.

    `halfway` accepts what an interrupted run of this change may have left. Deletions that make room for a CNAME, or
    that remove one in favour of other types, come first. Raises ConflictError for the first change of which neither
    the new nor the old value is live.
    """
    left = []
    for change in changes:
        now = live.get((change.name, change.type))
        if now == change.new:
            continue
        if now != change.old and not halfway(now, change):
            raise ConflictError(f"{change.name} {change.type}: what is live is not what the plan was made from")
        left.append(change)
    alone = {change.name for change in left if change.type == "CNAME"}
    return sorted(left, key=lambda change: not (change.new is None and change.name in alone))


def by_key(rrsets: Iterable[RRset]) -> dict[Key, RRset]:
    """Record sets by (name, type)."""
    return {(rrset.name, rrset.type): rrset for rrset in rrsets}


@dataclass(frozen=True)
class Record:
    """One record as an API without record sets holds it; `id` is the API's, `ttl` in seconds, `value` canonical."""

    id: Any
    name: str
    type: str
    ttl: int
    value: str


@dataclass(frozen=True)
class Steps:
    """What makes one change record by record: in this order nothing wanted is missing in between."""

    update: list[tuple[Any, Record]]
    add: list[Record]
    delete: list[Record]

    def __len__(self) -> int:
        return len(self.update) + len(self.add) + len(self.delete)


def compose(records: Iterable[Record]) -> list[RRset]:
    """Join records to record sets. One whose records differ in their TTL (RFC 2181 section 5.2) gets MIXED_TTL."""
    found: dict[Key, list[Record]] = {}
    for record in records:
        found.setdefault((record.name, record.type), []).append(record)
    return [
        RRset(name, kind, _ttl(members), tuple(sorted({member.value for member in members})))
        for (name, kind), members in found.items()
    ]


def _ttl(records: Sequence[Record]) -> int:
    ttls = {record.ttl for record in records}
    return ttls.pop() if len(ttls) == 1 else MIXED_TTL


def part_made(records: Iterable[Record], change: Change) -> bool:
    """Whether a record set's records are what the steps of a change leave when they stop in between."""
    live, old, new = list(records), change.old, change.new
    for record in live:
        as_before = old is not None and record.value in old.values and old.ttl in (record.ttl, MIXED_TTL)
        as_wanted = new is not None and record.value in new.values and new.ttl == record.ttl
        if not as_before and not as_wanted:
            return False
    values = {record.value for record in live}
    return old is None or new is None or values.issuperset(old.values) or values.issuperset(new.values)


def steps(change: Change, live: Sequence[Record]) -> Steps:
    """The steps from a record set's live records to the change's new value.

    A record of a type that may stand only once at its name (CNAME) is turned into the new one in place.
    """
    new = change.new
    if new is None:
        return Steps([], [], list(live))
    kept: dict[str, Record] = {}
    spare = []
    for record in live:
        if record.value in new.values and record.value not in kept:
            kept[record.value] = record
        else:
            spare.append(record)
    update = [(record.id, replace(record, ttl=new.ttl)) for record in kept.values() if record.ttl != new.ttl]
    add = [Record(None, new.name, new.type, new.ttl, value) for value in new.values if value not in kept]
    if new.type == "CNAME" and spare and add:
        update.append((spare.pop().id, add.pop()))
    return Steps(update, add, spare)


def record_steps(changes: Iterable[Change], records: Iterable[Record]) -> list[tuple[Change, Steps]]:
    """The steps of each change that is not made yet. Raises ConflictError as `unfinished` does."""
    live: dict[Key, list[Record]] = {}
    for record in records:
        live.setdefault((record.name, record.type), []).append(record)

    def halfway(_rrset: RRset | None, change: Change) -> bool:
        return part_made(live.get((change.name, change.type), []), change)

    rrsets = by_key(compose(record for members in live.values() for record in members))
    return [
        (change, steps(change, live.get((change.name, change.type), [])))
        for change in unfinished(changes, rrsets, halfway)
    ]
