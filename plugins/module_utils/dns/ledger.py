# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger: which DNS records are ours because we wrote them. Its format, and what a claim means. Pure.

For each zone, name, type and owner it holds a claim: the values that are ours, the TTL they were written with, and of
an SPF record, which may be shared, the terms that are ours. A run works like this, under a lock from 1 to 5:

1. Read the ledger, list every zone, make every plan. An error in any zone ends the run here.
2. Write the ledger with an intent beside each claim that will change: what will be ours after the apply.
3. Apply, zone by zone.
4. Nothing is written for a zone whose apply failed: its intents stay.
5. Write the ledger again: in zones that are done the intent takes the claim's place.

A run may die anywhere. The next one takes as ours whatever is live *and* named by the claim or by the intent
(`claimed`), and keeps nothing else. So after a death

- before 2, or within it (the file is replaced by rename), the old ledger is right: nothing was applied;
- between 2 and 3, the old values are live and the claim names them; the intent names values that are not live;
- within 3, each record set is live as before or as after, and one of the two names it;
- after 3, or within 5, the new values are live and the intent names them.

No record of ours is ever forgotten: it is named before it is written and until after it is gone. No record of somebody
else is claimed: an intent names only values that were not live when the plan was made, or that were ours, or that
`adopt` takes over by the user's word. Two things cannot be told apart: a value that we wrote, and the very same value
written by somebody else after we announced it and before the next run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

VERSION = 1
Key = tuple[str, str]


class LedgerError(Exception):
    """The ledger cannot be read or written. Going on without it would forget what is ours."""


@dataclass(frozen=True)
class Claim:
    """What is ours of one record set: `values` as RRset has them, `ttl` in seconds, `spf`: terms of the SPF record,
    which is then not among the values."""

    ttl: int = 0
    values: frozenset[str] = frozenset()
    spf: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.values or self.spf)


NOTHING = Claim()


@dataclass(frozen=True)
class Entry:
    """`written`: what the last run that ended well left as ours. `intent`: what a run wanted to leave that has not
    ended well (yet)."""

    written: Claim = NOTHING
    intent: Claim | None = None

    @property
    def claimed(self) -> Claim:
        """Everything that is ours if it is live; the TTL is the written one's."""
        return merged([self.written, self.intent or NOTHING])

    @property
    def ttls(self) -> frozenset[int]:
        """The TTLs with which a live value can be as we wrote it."""
        return frozenset(claim.ttl for claim in (self.written, self.intent) if claim)


def merged(claims: Iterable[Claim]) -> Claim:
    """Join claims; the TTL is the first one's."""
    found = [claim for claim in claims if claim]
    if not found:
        return NOTHING
    return Claim(
        found[0].ttl,
        frozenset().union(*(claim.values for claim in found)),
        frozenset().union(*(claim.spf for claim in found)),
    )


# Owner -> entry; (name, type) -> that; zone -> that.
Owners = Mapping[str, Entry]
ZoneLedger = Mapping[Key, Owners]
Ledger = Mapping[str, ZoneLedger]


def announced(ledger: Ledger, owner: str, intents: Mapping[str, Mapping[Key, tuple[Claim, Claim]]]) -> Ledger:
    """The ledger of step 2. `intents`: zone -> (name, type) -> (what is ours and live now, what is to be ours)."""
    entries = {
        zone: {key: Entry(now) if now == later else Entry(now, later) for key, (now, later) in claims.items()}
        for zone, claims in intents.items()
    }
    return _with(ledger, owner, entries)


def settled(ledger: Ledger, owner: str, zones: Iterable[str]) -> Ledger:
    """The ledger of step 5: in these zones every intent of the owner takes the claim's place."""
    entries: dict[str, dict[Key, Entry]] = {}
    for zone in zones:
        for key, owners in ledger.get(zone, {}).items():
            entry = owners.get(owner)
            if entry is not None and entry.intent is not None:
                entries.setdefault(zone, {})[key] = Entry(entry.intent)
    return _with(ledger, owner, entries)


def _with(ledger: Ledger, owner: str, entries: Mapping[str, Mapping[Key, Entry]]) -> Ledger:
    """A ledger with these entries of the owner in the place of those of the same keys; empty ones are left out."""
    found = dict(ledger)
    for zone, by_key in entries.items():
        keys = dict(found.get(zone, {}))
        for key, entry in by_key.items():
            owners = {**keys.get(key, {}), owner: entry}
            if not entry.written and entry.intent is None:
                del owners[owner]
            keys[key] = owners
            if not owners:
                del keys[key]
        found[zone] = keys
        if not keys:
            del found[zone]
    return found


def owned_zones(ledger: Ledger, owner: str) -> set[str]:
    """Zones in which the owner claims something."""
    return {zone for zone, keys in ledger.items() if any(owner in owners for owners in keys.values())}


def render_ledger(ledger: Ledger) -> str:
    """Write the ledger as JSON, sorted, so that it is fit for version control."""
    zones = {
        zone: {
            f"{name} {kind}": {owner: _render_entry(entry) for owner, entry in owners.items()}
            for (name, kind), owners in keys.items()
        }
        for zone, keys in ledger.items()
    }
    return json.dumps({"version": VERSION, "zones": zones}, indent=1, sort_keys=True) + "\n"


def _render_entry(entry: Entry) -> dict[str, Any]:
    found = {"written": _render_claim(entry.written)}
    if entry.intent is not None:
        found["intent"] = _render_claim(entry.intent)
    return found


def _render_claim(claim: Claim) -> dict[str, Any]:
    return {"ttl": claim.ttl, "values": sorted(claim.values), "spf": sorted(claim.spf)}


def parse_ledger(text: str) -> Ledger:
    """Read what render_ledger wrote. Raises LedgerError for anything else, a newer version included."""
    try:
        document = json.loads(text)
        version = document["version"]
        if version != VERSION:
            raise LedgerError(f"version {version!r} is not {VERSION}")
        return {
            zone: {
                _key(key): {owner: _parse_entry(entry) for owner, entry in owners.items()}
                for key, owners in keys.items()
            }
            for zone, keys in document["zones"].items()
        }
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise LedgerError(f"is not a ledger ({type(error).__name__}: {error})") from error


def _key(text: str) -> Key:
    name, kind = text.split(" ")
    return name, kind


def _parse_entry(entry: Mapping[str, Any]) -> Entry:
    intent = entry.get("intent")
    return Entry(_parse_claim(entry["written"]), None if intent is None else _parse_claim(intent))


def _parse_claim(claim: Mapping[str, Any]) -> Claim:
    lists = claim["values"], claim["spf"]
    if not isinstance(claim["ttl"], int) or not all(
        isinstance(items, list) and all(isinstance(item, str) for item in items) for items in lists
    ):
        raise TypeError("a claim is a ttl and lists of values and spf terms")
    return Claim(claim["ttl"], frozenset(lists[0]), frozenset(lists[1]))
