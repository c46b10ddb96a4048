# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A planned change of the certificate's key: the state machine, alone and in a small world of servers and caches."""

from __future__ import annotations

import itertools
import os
import random
from datetime import UTC, datetime, timedelta

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.certificate import rollover
from ansible_collections.mailwright.server.plugins.module_utils.certificate.rollover import (
    NOTHING,
    Host,
    Key,
    Sight,
    State,
    step,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
A, B, C = "aa" * 32, "bb" * 32, "cc" * 32
TTL = 3600.0
# a commit's name is a seed too, of other tests
SEED = int(seed) if (seed := os.environ.get("MAILWRIGHT_SEED", "")).isdigit() else 1
SEQUENCES = 20_000 if os.environ.get("MAILWRIGHT_FAULTS") == "all" else 400


def at(hours: float) -> datetime:
    return NOW + timedelta(hours=hours)


def sight(*everywhere: str, secure: bool | None = True, anywhere: tuple[str, ...] = ()) -> Sight:
    return Sight(secure, frozenset(everywhere), frozenset((*everywhere, *anywhere)), TTL)


DARK = Sight(None, None, None, TTL)


def states(state: State) -> dict[str, str]:
    return {digest: key.state for digest, key in state.keys.items()}


def test_the_key_in_use_is_published_at_once_where_the_zone_validates() -> None:
    state = step(NOTHING, NOW, Host(True, A), sight())
    assert states(state) == {A: "active"}
    assert rollover.records(state) == [A]
    assert rollover.admitted(state) == frozenset({A})
    assert step(state, at(100), Host(True, A), sight(A)) == state


@pytest.mark.parametrize("secure", [False, None])
def test_nothing_is_published_where_it_does_not_or_nobody_can_tell(secure: bool | None) -> None:
    state = step(NOTHING, NOW, Host(True, A), sight(secure=secure))
    assert (rollover.records(state), rollover.admitted(state)) == ([], None)


def test_a_planned_change_takes_its_course() -> None:
    host = Host(True, A, B, A)
    state = step(State({A: Key("active", NOW)}), NOW, host, sight(A))
    assert states(state) == {A: "active", B: "generated"}
    assert rollover.records(state) == [A, B]
    assert rollover.admitted(state) == frozenset({A})
    # one server is late
    assert states(step(state, at(1), host, sight(A, anywhere=(B,))))[B] == "generated"
    state = step(state, at(1), host, sight(A, B))
    assert states(state)[B] == "published"
    assert rollover.following(state.keys[B], sight(A, B)) == ("installed", at(3))
    state = step(state, at(2.99), host, sight(A, B))
    assert states(state)[B] == "published" and not rollover.to_install(state, host, sight(A, B))
    state = step(state, at(3), host, sight(A, B))
    assert states(state)[B] == "propagated"
    assert rollover.admitted(state) == frozenset({A, B})
    assert rollover.to_install(state, host, sight(A, B))
    # at the very last its record is gone from one server, or nobody answers
    assert not rollover.to_install(state, host, sight(A)) and not rollover.to_install(state, host, DARK)
    # installed, but port 25 still hands out the old one
    state = step(state, at(3), Host(True, B, None, A), sight(A, B))
    assert states(state) == {A: "retiring", B: "active"}
    state = step(state, at(4), Host(True, B, None, None), sight(A, B))
    assert rollover.records(state) == [A, B]
    state = step(state, at(5), Host(True, B, None, B), sight(A, B))
    assert states(state) == {B: "active"}


def test_a_record_that_vanished_begins_the_wait_anew() -> None:
    host = Host(True, A, B)
    state = State({A: Key("active", NOW), B: Key("published", NOW)})
    state = step(state, at(1), host, sight(A))
    assert states(state)[B] == "generated"
    state = step(state, at(2), host, sight(A, B))
    assert states(step(state, at(3.9), host, sight(A, B)))[B] == "published"
    # the resolver says it is not secure: everywhere is empty then
    propagated = State({A: Key("active", NOW), B: Key("propagated", NOW)})
    assert states(step(propagated, at(4), host, sight(anywhere=(A, B))))[B] == "generated"


def test_silence_moves_nothing() -> None:
    host = Host(True, A, B)
    for name in ("generated", "published", "propagated"):
        state = State({A: Key("active", NOW), B: Key(name, NOW)})
        assert step(state, at(100), host, DARK) == state


def test_a_clock_that_goes_backwards_begins_the_wait_anew() -> None:
    host = Host(True, A, B)
    state = State({A: Key("active", NOW), B: Key("published", NOW)})
    state = step(state, at(-5), host, sight(A, B))
    assert state.keys[B] == Key("published", at(-5))
    assert states(step(state, at(-4), host, sight(A, B)))[B] == "published"


def test_another_certificate_instead_takes_the_first_one_s_place() -> None:
    state = State({A: Key("active", NOW), B: Key("published", NOW)})
    state = step(state, at(1), Host(True, A, C), sight(A, B))
    assert states(state) == {A: "active", C: "generated"}
    assert states(step(state, at(1), Host(True, A), sight(A, B))) == {A: "active"}


def test_records_that_are_not_wanted_any_more_keep_the_gate_until_no_cache_has_them() -> None:
    host = Host(False, A, B, A)
    state = step(State({A: Key("active", NOW), B: Key("propagated", NOW)}), NOW, host, sight(A, B))
    assert rollover.records(state) == [] and rollover.admitted(state) == frozenset({A})
    state = step(state, at(1), host, sight())
    state = step(state, at(2), host, DARK)
    assert state.gone is None
    state = step(state, at(3), host, sight())
    assert step(state, at(4.9), host, sight()) == state
    assert step(state, at(5), host, sight()) == NOTHING
    # and back again in between
    assert rollover.records(step(state, at(4), Host(True, A), sight())) == [A]


def test_a_zone_that_does_not_validate_any_more_loses_its_records() -> None:
    state = step(State({A: Key("active", NOW)}), NOW, Host(True, A), sight(A, secure=False))
    assert state.withdrawn and rollover.records(state) == []
    # but an outage of the resolver does not
    assert step(State({A: Key("active", NOW)}), NOW, Host(True, A), DARK) == State({A: Key("active", NOW)})


def test_what_was_written_reads_back() -> None:
    for state in (NOTHING, State({A: Key("active", NOW), B: Key("published", at(1))}, True, at(2))):
        assert rollover.parse(rollover.render(state)) == state
    for wrong in ("", "[]", '{"version": 2}', rollover.render(State({A: Key("lost", NOW)}))):
        with pytest.raises(ValueError, match=r".+"):
            rollover.parse(wrong)


class World:
    """Two servers that take updates when they please, every cache that there could be, and a host."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.time = 0.0
        self.offset = 0.0
        self.state = NOTHING
        self.live, self.served = "k0", "k0"
        self.next: str | None = None
        self.numbers = itertools.count(1)
        self.wanted = True
        self.servers: list[frozenset[str]] = [frozenset(), frozenset()]
        # what a cache may hold: a set that a server had, and until when
        self.cached: dict[frozenset[str], float] = {}
        self.log: list[str] = []

    def pass_time(self) -> None:
        self.remember()
        self.time += self.chance.choice([60.0, 1800.0, 3600.0, 7200.0, 86400.0])
        self.cached = {records: end for records, end in self.cached.items() if end > self.time}

    def remember(self) -> None:
        for records in self.servers:
            self.cached[records] = self.time + TTL

    def look(self) -> Sight:
        if self.chance.random() < 0.15:
            return Sight(self.chance.choice([True, None]), None, None, TTL)
        # the resolver is a cache like any other
        held = [*self.servers, self.chance.choice([*self.cached, *self.servers])]
        return Sight(True, frozenset.intersection(*held), frozenset.union(*held), TTL)

    def run(self) -> None:
        """What the module does; it may be killed after each part."""
        seen = self.look()
        killed = self.chance.choice([0, 1, 2, 3, 9, 9, 9, 9])
        state = self.move(self.state, seen)
        if killed == 0:
            return
        self.state = state
        if killed == 1:
            return
        if rollover.to_install(state, self.host(), seen):
            assert self.next is not None
            self.live, self.next = self.next, None
            if killed != 2:
                self.served = self.live
            if killed in (2, 3):
                return
            self.state = self.move(state, seen)
        self.publish(self.chance.choice(["all", "all", "all", "one", "none"]))

    def host(self) -> Host:
        served = self.served if self.chance.random() < 0.9 else None
        return Host(self.wanted, self.live, self.next, served)

    def move(self, state: State, seen: Sight) -> State:
        now = NOW + timedelta(seconds=self.time + self.offset)
        host = self.host()
        moved = step(state, now, host, seen)
        assert step(moved, now, host, seen) == moved
        if self.wanted and seen.secure:
            assert self.live in rollover.records(moved)
        return moved

    def publish(self, how: str) -> None:
        records = frozenset(rollover.records(self.state))
        self.remember()
        if how == "all":
            self.servers = [records, records]
        elif how == "one":
            self.servers[self.chance.randrange(2)] = records
        self.remember()

    def event(self) -> None:
        rare = ["ask", "reload", "switch", "back", "revert"]
        name = self.chance.choice(["run", "run", "run", "time", "time", "time", *rare])
        self.log.append(name)
        if name == "run":
            self.run()
        elif name == "time":
            self.pass_time()
        elif name == "ask" and self.next is None:
            fresh = f"k{next(self.numbers)}"
            if rollover.admitted(self.state) is None:
                self.live = self.served = fresh
            else:
                self.next = fresh
        elif name == "reload":
            self.served = self.live
        elif name == "revert":
            self.next = None
        elif name == "switch" and self.chance.random() < 0.2:
            self.wanted = not self.wanted
        elif name == "back" and self.chance.random() < 0.3:
            self.offset -= self.chance.choice([60.0, 7200.0])

    def check(self) -> None:
        self.remember()
        for records in self.cached:
            assert not records or self.served in records, (self.log, records, self.served, self.state)
        gate = rollover.admitted(self.state)
        assert gate is None or self.served in gate


@pytest.mark.parametrize("seed", range(SEED, SEED + SEQUENCES, 100))
def test_no_cache_ever_lacks_the_key_that_is_served(seed: int) -> None:
    changes = 0
    for number in range(seed, seed + 100):
        world = World(random.Random(number))
        for _turn in range(60):
            world.event()
            world.check()
        changes += int(world.live[1:])
    # the world is not so hostile that nothing ever happens
    assert changes > 50
