# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rotation of DKIM keys as a state machine: state, clock and observations give a new state and actions. Pure.

A key of a (domain, algorithm) goes this way; what is behind the arrow is what has been *seen*, not what was tried:

    generated   its file is on disk, its record is to be published
    published   all authoritative servers have its record
    propagated  they have had it for max(TTL, negative TTL): no cache denies it any more
    active      it signs
    retiring    it signs no longer; its record stays for the mail under way, max(7 days, queue lifetime + TTL)
    revoked     its record has an empty p= (RFC 6376 section 3.6.1), for 30 days
    (removed)   no record; the selector is kept, so that it is never used again

Invariants, which tests/unit/test_dkim_rotation.py checks over random sequences of events:

1. Every wanted domain has exactly one active key for each wanted algorithm, from its first step on.
2. A selector belongs to one key for ever, and has one record. A record once revoked is never a key again: a tombstone
   on disk says so even where an old state file is restored.
3. A key leaves `active` only for a key that is live in the same step, unless it is compromised, revoked, without its
   file, or no longer wanted.
4. No key of the same domain and algorithm that is verified and observed live is passed over for one that is observed
   not live. A new key never replaces another before it has propagated, not even a compromised one. Nor does it sign in
   place of one that caches have known: not where a domain returns, and not where a server denied the old one's record.
5. A key is revoked only after the full wait in `retiring`, counted while the filter's configuration did not name it,
   and while the domain's RSA key is live; at once only if it is compromised or the DNS has it revoked already.
6. Waiting time passes only between runs in which the DNS was observed and the host's clock agreed with the
   observer's; at most CREDIT for one run. A clock that goes backwards adds none. One that was once far in the future
   is believed again after it has run lower for BELIEF.
7. Doing a step again, with the same clock and observations, changes nothing.

A new key comes in by being found on disk: a run killed after writing the file costs nothing, the next one uses it.

What signs while a compromised key is replaced: an Ed25519 key is revoked at once, since RSA still signs. An RSA key
goes on signing until the new one has propagated, since not every receiver can verify Ed25519; then it is revoked as
soon as the filter's configuration does not name it, without the wait.
`immediate` revokes it in the first step: the new key signs before it is published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeAlias

from ansible_collections.mailwright.server.plugins.module_utils.dkim.state import (
    ALGORITHMS,
    Behind,
    Key,
    State,
    is_revocation,
    wanted_text,
)

# Waiting time, in seconds, that one run adds at most: a leap of the clock costs no more than this. Retiring lasts two
# days longer than Postfix keeps mail by default, which is the leap it can bear.
CREDIT = 2 * 86400.0
# Seconds for which a lower clock must have run before it is believed.
BELIEF = 7 * 86400.0
# Seconds by which the clocks of the host and of the observer may differ; an observation also ages that long.
AGREEMENT = 3600.0
SIGHTS = ("live", "absent", "other", "mixed", "unknown")
# Seconds for which naming a domain as compromised again means the same emergency.
EMERGENCY = 86400.0
# States of a key that has not signed yet, the furthest first.
_NEXT = ("propagated", "published", "generated")


@dataclass(frozen=True)
class Policy:
    """What is wanted for one domain. Times are in seconds.

    `wanted`: the domain is in the inventory. `compromised`: selectors to revoke, or None for all that the domain has;
    None again within EMERGENCY is the same emergency. `immediate`: do not wait for a new key to be live.
    """

    wanted: bool = True
    algorithms: tuple[str, ...] = ALGORITHMS
    rotate_after: float = 180 * 86400.0
    retire_for: float = 7 * 86400.0
    revoked_for: float = 30 * 86400.0
    queue_lifetime: float = 5 * 86400.0
    ttl: float = 3600.0
    compromised: frozenset[str] | None = frozenset()
    immediate: bool = False


@dataclass(frozen=True)
class Sighting:
    """What the authoritative servers say of a selector, and when.

    `sight`: "live": all have the wanted text and nothing else. "absent": none has a record. "other": they answered
    with another text. "mixed": they disagree. "unknown": not all answered. `text` is what was seen where it was not
    the wanted one. `ttl` and `negative_ttl`, in seconds, are of the record and of the zone's SOA (RFC 2308 section 5).
    """

    sight: str
    observed: datetime
    ttl: float
    negative_ttl: float
    text: str | None = None


@dataclass(frozen=True)
class Observations:
    """What is seen of one domain: in the DNS, by selector, and on the host.

    `files`: selectors with a private key on disk. `found`: of these, selectors that the state does not name, with
    algorithm and record text. `tombstones`: selectors that are revoked for ever. `configured`: selectors that the
    filter's configuration names.
    """

    sightings: Mapping[str, Sighting] = field(default_factory=dict)
    files: frozenset[str] = frozenset()
    found: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    tombstones: frozenset[str] = frozenset()
    configured: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Generate:
    """Write a new key file, then do the step again with it among `Observations.found`."""

    algorithm: str


@dataclass(frozen=True)
class Bury:
    """Write a tombstone for a selector, before the new state."""

    selector: str


@dataclass(frozen=True)
class Erase:
    """Delete a private key, after the new state."""

    selector: str


Action: TypeAlias = "Generate | Bury | Erase"


def step(state: State, now: datetime, observations: Observations, policy: Policy) -> tuple[State, list[Action]]:
    """Move one domain's keys as far as clock and observations allow.

    With a `Generate` among the actions the step is not finished: it is to be done again, from the same state, with the
    key. Of the other actions tombstones come before the new state is written, erasures after it.
    """
    machine = _Machine(state, now, observations, policy)
    machine.take_in_found_keys()
    machine.believe_the_disk()
    machine.pass_time()
    machine.believe_the_dns()
    machine.mark_compromised()
    # RSA first: what becomes of an Ed25519 key depends on it
    for algorithm in ALGORITHMS:
        wanted = policy.wanted and algorithm in policy.algorithms
        if not wanted:
            machine.retire_unwanted(algorithm)
        machine.revoke_compromised(algorithm)
        if wanted:
            machine.succeed(algorithm)
    machine.let_go()
    return machine.result()


class _Machine:
    """One step under way."""

    def __init__(self, state: State, now: datetime, observations: Observations, policy: Policy) -> None:
        self.state, self.now, self.seen, self.policy = state, now, observations, policy
        self.keys = {key.selector: key for key in state.keys}
        self.used = set(state.used)
        self.actions: list[Action] = []
        self.clock, self.behind = state.clock, state.behind
        self.credit = 0.0
        self.fresh = {
            selector: sighting for selector, sighting in observations.sightings.items() if agrees(sighting, now)
        }

    def change(self, key: Key, state: str) -> None:
        """Bring a key into a state, whose wait has not begun."""
        revoked = state == "revoked"
        self.keys[key.selector] = replace(
            key,
            state=state,
            since=self.now,
            waited=None,
            live=key.live and not revoked,
            verified=(key.verified or state == "propagated") and not revoked,
            proven=key.proven or state == "propagated",
        )

    def of(self, algorithm: str, *states: str) -> list[Key]:
        """Keys in these states, in the states' order, the newest selector first."""
        keys = [key for key in self.keys.values() if key.algorithm == algorithm and key.state in states]
        if len(keys) < 2:
            return keys
        keys.sort(key=lambda key: (key.created, key.selector), reverse=True)
        return sorted(keys, key=lambda key: states.index(key.state))

    def sight(self, key: Key) -> str:
        """What is freshly seen of a key."""
        sighting = self.fresh.get(key.selector)
        if sighting is None:
            return "unknown"
        wrong = sighting.sight == "live" and sighting.text not in (None, wanted_text(key))
        return "other" if wrong else sighting.sight

    def take_in_found_keys(self) -> None:
        """Take in key files that the state does not name: just generated, left by a run that was killed, or of a newer
        state than the one restored."""
        for selector, (algorithm, dns) in sorted(self.seen.found.items()):
            if selector not in self.keys and selector not in self.used | self.seen.tombstones:
                self.keys[selector] = Key(selector, algorithm, dns, "generated", self.now, self.now)

    def believe_the_disk(self) -> None:
        """A tombstone outlives a restored state; a key without its file cannot sign."""
        for key in list(self.keys.values()):
            if key.selector in self.seen.tombstones and key.state != "revoked":
                self.change(key, "revoked")
            elif key.selector not in self.seen.files and key.state in ("active", *_NEXT):
                self.change(key, "retiring")

    def pass_time(self) -> None:
        """Find out how much waiting time this run adds. Where nothing was observed, time does not pass."""
        if not self.fresh:
            return
        highest = max([self.now, *(key.created for key in self.keys.values()), *([self.clock] if self.clock else [])])
        if self.now < highest:
            self.doubt()
            return
        if self.clock is not None:
            # the observer's time, so that what was seen before is not counted as seen now
            moment = min(self.now, *(sighting.observed for sighting in self.fresh.values()))
            self.credit = min(max((moment - self.clock).total_seconds(), 0), CREDIT)
            self.clock = self.now
        self.behind = None

    def doubt(self) -> None:
        """The clock is lower than it was: add nothing, and believe it when it has been so for long enough."""
        last = self.behind or Behind(self.now, 0)
        waited = last.waited + min(max((self.now - last.seen).total_seconds(), 0), CREDIT)
        if waited < BELIEF:
            self.behind = Behind(self.now, waited)
            return
        self.behind = None
        self.clock = self.now if self.clock else None
        for key in self.keys.values():
            self.keys[key.selector] = replace(key, created=min(key.created, self.now))

    def believe_the_dns(self) -> None:
        """Note what is live; a key that the DNS has revoked was revoked by a newer state than this."""
        for key in list(self.keys.values()):
            sight, text = self.sight(key), self.text(key)
            if key.state != "revoked" and text is not None and is_revocation(text):
                self.change(key, "revoked")
            elif key.state != "revoked" and sight in ("live", "absent", "other"):
                self.keys[key.selector] = replace(key, live=sight == "live")
            if sight in ("absent", "other", "mixed"):
                self.keys[key.selector] = replace(self.keys[key.selector], verified=False)
        for key in [key for algorithm in ALGORITHMS for key in self.of(algorithm, *_NEXT)]:
            self.advance(key)
        for key in [key for algorithm in ALGORITHMS for key in self.of(algorithm, "active")]:
            self.verify(key)

    def text(self, key: Key) -> str | None:
        """Text freshly seen at a key's selector, where it was not the wanted one."""
        return self.fresh[key.selector].text if self.sight(key) in ("other", "mixed") else None

    def advance(self, key: Key) -> None:
        """Move a key that has not signed yet by what is seen of it."""
        sight = self.sight(key)
        if sight in ("absent", "other", "mixed") and key.state != "generated":
            self.change(key, "generated")
        elif sight == "live" and key.state == "generated":
            self.change(key, "published")
            self.begin(self.keys[key.selector])
        elif sight == "live" and key.state == "published" and self.has_propagated(key):
            self.change(key, "propagated")

    def verify(self, key: Key) -> None:
        """Find out whether an active key that began to sign unverified can be verified everywhere by now."""
        sight = self.sight(key)
        if sight in ("absent", "other", "mixed"):
            self.keys[key.selector] = replace(key, waited=None)
        elif sight == "live" and not key.verified and key.waited is None:
            self.begin(key)
        elif sight == "live" and not key.verified and self.has_propagated(key):
            self.keys[key.selector] = replace(self.keys[key.selector], verified=True, proven=True, waited=None)

    def activate(self, key: Key) -> None:
        """Let a key sign."""
        self.change(key, "active")
        self.verify(self.keys[key.selector])

    def has_propagated(self, key: Key) -> bool:
        """Add this run's time to a live key's wait; whether no cache can deny its record any more."""
        sighting = self.fresh[key.selector]
        return self.waits(key) >= max(sighting.ttl, sighting.negative_ttl)

    def begin(self, key: Key) -> None:
        """Let a key's wait begin."""
        self.keys[key.selector] = replace(key, waited=0.0)

    def waits(self, key: Key) -> float:
        """Add this run's time to a key's wait, and give the sum."""
        waited = (key.waited or 0.0) + self.credit
        self.keys[key.selector] = replace(key, waited=waited)
        return waited

    def mark_compromised(self) -> None:
        """Mark what is said to be compromised."""
        named = self.policy.compromised
        if named is None:
            # keys that came in with this step are the new ones
            named = frozenset() if self.emergency() else frozenset(key.selector for key in self.state.keys)
        # the filter signs with it, but the state is an old one: it goes on like every compromised key in use
        signing_now = named & self.seen.configured
        for algorithm in self.policy.algorithms if self.policy.wanted else ():
            if not self.of(algorithm, "active"):
                in_use = self.first(algorithm, lambda key: key.selector in signing_now)
                if in_use is not None:
                    self.activate(in_use)
        for key in list(self.keys.values()):
            if key.selector in named and key.state != "revoked":
                self.keys[key.selector] = replace(key, compromised=True)

    def revoke_compromised(self, algorithm: str) -> None:
        """Revoke of the compromised keys what mail does not need any more."""
        at_once = self.policy.immediate or not self.policy.wanted
        # with which RSA keys the filter signs, whatever it ought to
        signing_now = self.seen.configured & self.seen.files
        rsa_signs = any(key.verified and key.selector in signing_now for key in self.of("rsa", "active", "retiring"))
        for key in self.of(algorithm, "active", "retiring", *_NEXT):
            beside_rsa = algorithm != "rsa" and self.rsa_verified()
            dispensable = key.state != "active" or beside_rsa
            unused = key.selector not in self.seen.configured or (beside_rsa and rsa_signs)
            if key.compromised and (at_once or (dispensable and unused)):
                self.change(key, "revoked")

    def emergency(self) -> bool:
        """Whether compromised keys are being replaced, or were a short time ago."""
        return any(
            key.compromised and (key.state != "revoked" or abs((self.now - key.since).total_seconds()) < EMERGENCY)
            for key in self.state.keys
        )

    def retire_unwanted(self, algorithm: str) -> None:
        """Retire the keys of a domain that left, or of an algorithm that was switched off."""
        # the one that can be verified goes last; what was never asked about may be just that one
        rsa_live = self.rsa_verified() and any(self.sight(other) == "live" for other in self.of("rsa", "active"))
        if self.policy.wanted and not self.rsa_verified() and not self.of(algorithm, "active"):
            # so does the one with which the filter signs, where the state or the RSA key's file was lost
            named = self.first(algorithm, lambda key: key.selector in self.seen.configured)
            if named is not None:
                self.activate(named)
        for key in self.of(algorithm, "active", *_NEXT):
            if not self.policy.wanted or rsa_live or key.state != "active":
                self.change(key, "retiring")
        for key in self.of(algorithm, "active"):
            self.hand_over(key)

    def rsa_verified(self) -> bool:
        """Whether an RSA key signs that every receiver can verify, and may go on."""
        return any(key.verified and not key.compromised for key in self.of("rsa", "active"))

    def succeed(self, algorithm: str) -> None:
        """Keep exactly one active key, and bring the next one up when it is due."""
        active = next(iter(self.of(algorithm, "active")), None)
        if active is None:
            # where the state was lost, the filter's configuration still tells which one has signed
            chosen = (
                self.first(algorithm, lambda key: key.live and key.verified)
                or self.first(algorithm, lambda key: key.selector in self.seen.configured)
                # a new key is not better than one that caches know, even if a server denied it last
                or self.first(algorithm, lambda key: key.proven)
                or self.first(algorithm, lambda key: key.live)
                # a new key is not better than one whose record was once there
                or self.first(algorithm, lambda _key: True)
            )
            if chosen is None:
                self.actions.append(Generate(algorithm))
                return
            self.activate(chosen)
        else:
            if not self.hand_over(active) and not self.of(algorithm, *_NEXT) and self.due(active):
                self.actions.append(Generate(algorithm))
        # one next key is enough; another one may have signed before an old state was restored
        for key in self.of(algorithm, *_NEXT)[1:]:
            self.change(key, "retiring")

    def hand_over(self, active: Key) -> bool:
        """Let the active key's heir sign in its place, if it has one."""
        heir = self.heir(active)
        if heir is not None:
            self.activate(heir)
            # a compromised one that the filter names is revoked by the step that finds the filter without it
            revoked = active.compromised and active.selector not in self.seen.configured
            self.change(active, "revoked" if revoked else "retiring")
        return heir is not None

    def first(self, algorithm: str, fits: Callable[[Key], bool]) -> Key | None:
        """The best key that could sign and fits: one that no cache denies; of the others one that has not signed yet
        before one that is retiring, and the oldest, which caches are the least likely to deny."""
        keys = self.of(algorithm, *_NEXT, "retiring")
        usable = [key for key in keys if key.selector in self.seen.files and not key.compromised and fits(key)]
        verified = next((key for key in usable if key.verified), None)
        # reversed: of those that share a state the oldest
        return verified or min(reversed(usable), key=lambda key: (*_NEXT, "retiring").index(key.state), default=None)

    def heir(self, active: Key) -> Key | None:
        """The key that takes the active one's place now.

        Where the active one is not there, one that caches have known is better; a new one never signs before it has
        propagated. A false "absent" so does no harm, and a missing record is published again in the same run.
        """
        in_need = not active.live or self.sight(active) == "mixed"
        named = active.selector in self.seen.configured

        def fits(key: Key) -> bool:
            better = key.verified and not active.verified
            older = better or (in_need and (key.proven or not active.proven))
            # what was there when the DNS last answered is better than what was not
            remembered = self.sight(key) == "unknown" and (better or (not active.live and not named))
            return (
                (key.state == "propagated" or (key.state == "retiring" and older))
                and key.live
                and (self.sight(key) == "live" or remembered)
            )

        return self.first(active.algorithm, lambda key: fits(key) and key.verified) or self.first(
            active.algorithm, fits
        )

    def due(self, active: Key) -> bool:
        """Whether a key needs a successor: old, compromised, or its record gone that had been there."""
        old = active.since != self.now and (self.now - active.created).total_seconds() >= self.policy.rotate_after
        before = next((key for key in self.state.keys if key.selector == active.selector), active)
        return old or active.compromised or (before.live and self.sight(active) in ("absent", "other"))

    def let_go(self) -> None:
        """Revoke what has retired, remove what was revoked, for long enough."""
        rsa_live = any(key.verified and self.sight(key) == "live" for key in self.of("rsa", "active"))
        for key in list(self.keys.values()):
            in_use = key.selector in self.seen.configured
            if key.state == "retiring" and in_use:
                # also where nothing was observed: the next run that observes may find the filter without it
                self.keys[key.selector] = replace(key, waited=None)
            elif not self.fresh or key.since == self.now:
                continue
            elif key.state == "retiring":
                if key.waited is None:
                    self.begin(key)
                elif self.waits(key) >= self.retirement(key) and (rsa_live or not self.policy.wanted):
                    self.change(key, "revoked")
            elif key.state == "revoked" and not in_use:
                if key.waited is not None:
                    if self.waits(key) >= self.policy.revoked_for:
                        del self.keys[key.selector]
                        self.used.add(key.selector)
                elif self.sight(key) in ("live", "absent") or not self.policy.wanted:
                    self.begin(key)

    def retirement(self, key: Key) -> float:
        """Seconds for which a key's signatures may still be verified."""
        sighting = self.fresh.get(key.selector)
        ttl = max(self.policy.ttl, sighting.ttl if sighting else 0)
        return max(self.policy.retire_for, self.policy.queue_lifetime + ttl)

    def result(self) -> tuple[State, list[Action]]:
        """The new state, and what is to be done for it."""
        waiting = any(key.waited is not None for key in self.keys.values())
        clock = (self.clock or self.now) if waiting else None
        keys = tuple(sorted(self.keys.values(), key=lambda key: key.selector))
        ahead = any(moment > self.now for moment in (clock, *(key.created for key in keys)) if moment)
        state = State(keys, clock, self.behind if ahead else None, frozenset(self.used))
        for key in keys:
            if key.state == "revoked" and key.selector not in self.seen.tombstones:
                self.actions.append(Bury(key.selector))
        # while the filter still names a key, its file stays: mail signed in vain is better than a missing file
        gone = {key.selector for key in keys if key.state == "revoked"} | self.used | self.seen.tombstones
        self.actions += [Erase(selector) for selector in sorted(gone & self.seen.files - self.seen.configured)]
        return state, self.actions


def agrees(sighting: Sighting, now: datetime) -> bool:
    """Whether an observation is recent by the host's clock, and so the two clocks agree."""
    return abs((now - sighting.observed).total_seconds()) <= AGREEMENT


def wanted_records(states: Mapping[str, State]) -> dict[str, str]:
    """TXT records that are to be published now: absolute name -> text."""
    return {
        f"{key.selector}._domainkey.{domain}.": wanted_text(key)
        for domain, state in sorted(states.items())
        for key in state.keys
    }


def signing(states: Mapping[str, State]) -> dict[str, list[Key]]:
    """Keys that sign now, by domain, RSA first: RSA always, Ed25519 where it is live or nothing is.

    Not every receiver can verify Ed25519, and a signature whose record is missing does no harm (RFC 6376 section 6.1).
    """
    found = {}
    for domain, state in sorted(states.items()):
        active = sorted(
            (key for key in state.keys if key.state == "active"), key=lambda k: ALGORITHMS.index(k.algorithm)
        )
        if active:
            found[domain] = [
                key for key in active if key.algorithm == "rsa" or key.live or not any(other.live for other in active)
            ]
    return found


def next_event(key: Key, now: datetime, policy: Policy) -> tuple[str, datetime | None]:
    """What happens to a key next, and when at the earliest; None: when something has been seen that is not yet."""
    waited = key.waited or 0.0
    waits = {
        "published": ("propagated", policy.ttl),
        "retiring": ("revoked", max(policy.retire_for, policy.queue_lifetime + policy.ttl)),
        "revoked": ("removed", policy.revoked_for),
    }
    if key.state in waits:
        event, wait = waits[key.state]
        return event, None if key.waited is None else now + timedelta(seconds=max(wait - waited, 0))
    if key.state == "active":
        if key.compromised:
            return "revoked", None
        return "rotated", max(now, key.created + timedelta(seconds=policy.rotate_after))
    return ("published" if key.state == "generated" else "active"), None
