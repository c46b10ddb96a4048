# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""TLSA records and a planned change of the certificate's key, as a state machine. Pure.

A key, known by the SHA-256 of its SubjectPublicKeyInfo, goes this way; what is behind the arrow has been *seen*:

    generated   its certificate waits on the host, its record is to be published
    published   all authoritative servers have its record, and a validating resolver calls it secure
    propagated  for twice the record's TTL it was so in every run: no cache holds the record set without it
    active      its certificate is in use
    retiring    it was in use; its record stays until port 25 was seen to hand out the new one
    (removed)   no record

Invariants, which tests/unit/test_rollover.py checks over random sequences of events:

1. While TLSA records are wanted, the key in use is among the records.
2. A key is admitted, that is, its certificate may be installed, only if it is in use, was in use and still has its
   record, or has propagated.
3. Nothing is published for a zone that does not validate, since then nobody may believe it.
4. When records are withdrawn, the gate stays until none was seen for twice the TTL: a cache may still hold one.
5. Doing a step again, with the same clock and sight, changes nothing.

RFC 7671 section 8.1 has the order: publish beside the old one, wait, deploy, remove the old one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

STATES = ("generated", "published", "propagated", "active", "retiring")
# States in which a certificate with the key may be installed.
_ADMITTED = ("propagated", "active", "retiring")
VERSION = 1


@dataclass(frozen=True)
class Key:
    """A key's way so far; `since` is when it came into its state."""

    state: str
    since: datetime


@dataclass(frozen=True)
class State:
    """What is remembered. `keys` by digest; none: there are no TLSA records. `withdrawn`: no records are wanted any
    more. `gone`: since when none was seen, then."""

    keys: Mapping[str, Key]
    withdrawn: bool = False
    gone: datetime | None = None


NOTHING = State({})


@dataclass(frozen=True)
class Sight:
    """What the DNS says of the TLSA records.

    `secure`: what the validating resolver says of the name (None: it gave no answer). `everywhere`: digests that all
    servers and the resolver have; `anywhere`: that one of them has; both None: not all of them answered. `ttl`: the
    longest time in seconds for which a cache may keep the record set.
    """

    secure: bool | None
    everywhere: frozenset[str] | None
    anywhere: frozenset[str] | None
    ttl: float


@dataclass(frozen=True)
class Host:
    """What the host has: digests of the certificate in use and of the one that waits, and of what port 25 was seen to
    hand out. `wanted`: whether TLSA records are asked for."""

    wanted: bool
    live: str | None
    next: str | None = None
    served: str | None = None


def step(state: State, now: datetime, host: Host, sight: Sight) -> State:
    """Move keys as far as clock, host and sight allow."""
    started = bool(state.keys)
    secure = sight.secure is True or (sight.secure is None and started and not state.withdrawn)
    if not (host.wanted and host.live and secure):
        return _withdraw(state, now, host, sight) if started else NOTHING
    keys = {host.live: _in_state(state, host.live, "active", now)}
    for digest, key in state.keys.items():
        # a key that was in use keeps its record until its successor was seen at work
        if digest not in keys and key.state in ("active", "retiring") and host.served != host.live:
            keys[digest] = _in_state(state, digest, "retiring", now)
    if host.next and host.next not in keys:
        keys[host.next] = _follow(state.keys.get(host.next), now, host.next, sight)
    return State(keys)


def _in_state(state: State, digest: str, name: str, now: datetime) -> Key:
    before = state.keys.get(digest)
    return before if before and before.state == name else Key(name, now)


def _follow(key: Key | None, now: datetime, digest: str, sight: Sight) -> Key:
    """Move a key that is to come by what was seen of its record."""
    if key is None or key.state not in ("generated", "published", "propagated"):
        key = Key("generated", now)
    if sight.everywhere is None:
        return key
    if digest not in sight.everywhere:
        return key if key.state == "generated" else Key("generated", now)
    if key.state == "generated" or key.since > now:
        # a clock that went backwards begins the wait anew
        return Key("published", now)
    if key.state == "published" and now - key.since >= wait(sight):
        return Key("propagated", now)
    return key


def _withdraw(state: State, now: datetime, host: Host, sight: Sight) -> State:
    # one that waits has to begin anew, should records be wanted again
    keys = {digest: key for digest, key in state.keys.items() if key.state in ("active", "retiring")}
    if host.live:
        # a run that was killed may have installed it without noting that
        keys[host.live] = _in_state(state, host.live, "active", now)
    if sight.anywhere is None or sight.anywhere:
        return State(keys, withdrawn=True)
    gone = state.gone if state.gone and state.gone <= now else now
    return NOTHING if now - gone >= wait(sight) else State(keys, withdrawn=True, gone=gone)


def wait(sight: Sight) -> timedelta:
    """How long a record has to be seen, or not to be seen, until every cache knows."""
    return timedelta(seconds=2 * sight.ttl)


def records(state: State) -> list[str]:
    """Digests for which records are to be published."""
    return [] if state.withdrawn else sorted(state.keys)


def admitted(state: State) -> frozenset[str] | None:
    """Digests whose certificates may be installed; None: any, since there are no TLSA records."""
    if not state.keys:
        return None
    return frozenset(digest for digest, key in state.keys.items() if key.state in _ADMITTED)


def to_install(state: State, host: Host, sight: Sight) -> bool:
    """Whether the certificate that waits is to be installed now. Its record is looked at once more."""
    key = state.keys.get(host.next or "")
    return (
        not state.withdrawn and key is not None and key.state == "propagated"
        and sight.everywhere is not None and host.next in sight.everywhere
    )  # fmt: skip


def under_way(state: State, host: Host) -> bool:
    """Whether anything is still to happen by itself."""
    return bool(state.withdrawn or set(state.keys) - {host.live} or (host.next and state.keys))


def following(key: Key, sight: Sight) -> tuple[str, datetime | None]:
    """What happens to a key next, and when at the earliest (None: when something was seen that is not yet)."""
    if key.state == "published":
        return "installed", key.since + wait(sight)
    return {
        "generated": ("published", None),
        "propagated": ("installed", None),
        "active": ("kept until a new key is asked for", None),
        "retiring": ("removed", None),
    }[key.state]


def describe(state: State) -> str:
    """The keys as lines for a diff."""
    if state.withdrawn:
        return "".join(f"TLSA 3 1 1 {digest} withdrawn\n" for digest in sorted(state.keys))
    return "".join(f"TLSA 3 1 1 {digest} {key.state}\n" for digest, key in sorted(state.keys.items()))


def render(state: State) -> str:
    """Write the state as JSON."""
    keys = {digest: {"state": key.state, "since": key.since.isoformat()} for digest, key in state.keys.items()}
    gone = state.gone.isoformat() if state.gone else None
    document = {"version": VERSION, "withdrawn": state.withdrawn, "gone": gone, "keys": keys}
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def parse(text: str) -> State:
    """Read what render wrote. Raises ValueError for anything else."""
    try:
        document = json.loads(text)
        if document["version"] != VERSION:
            raise ValueError(f"version {document['version']!r} is not {VERSION}")
        gone = document["gone"]
        keys = {str(digest): _parse_key(one) for digest, one in document["keys"].items()}
        return State(keys, document["withdrawn"] is True, datetime.fromisoformat(gone) if gone else None)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"is not the state of TLSA records ({type(error).__name__}: {error})") from error


def _parse_key(one: Mapping[str, str]) -> Key:
    if one["state"] not in STATES:
        raise ValueError(f"{one['state']!r} is not one of {', '.join(STATES)}")
    return Key(one["state"], datetime.fromisoformat(one["since"]))
