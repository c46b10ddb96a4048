# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is still to be made of a change, from any state that an interruption may leave."""

from __future__ import annotations

from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.contract import Change
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.pending import (
    MIXED_TTL,
    Record,
    Steps,
    compose,
    record_steps,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import RRset
from hypothesis import assume, given
from hypothesis import strategies as st

NAME = "www.acme.test."


def rrsets(values: st.SearchStrategy[set[str]], kind: str) -> st.SearchStrategy[RRset | None]:
    return st.none() | st.builds(
        lambda ttl, chosen: RRset(NAME, kind, ttl, tuple(sorted(chosen))), st.sampled_from([300, 3600]), values
    )


addresses = rrsets(st.sets(st.sampled_from([f"192.0.2.{octet}" for octet in range(1, 5)]), min_size=1), "A")
aliases = rrsets(st.sampled_from([{"one.test."}, {"two.test."}]), "CNAME")
changes = st.tuples(addresses, addresses) | st.tuples(aliases, aliases)


def run(live: dict[Any, Record], steps: Steps, most: int | None = None) -> None:
    """Make the first steps, or all."""
    made: list[tuple[Any, Record | None]] = [
        *steps.update,
        *((f"new {record.value}", record) for record in steps.add),
        *((record.id, None) for record in steps.delete),
    ]
    for identifier, record in made[:most]:
        if record is None:
            del live[identifier]
        else:
            live[identifier] = Record(identifier, record.name, record.type, record.ttl, record.value)


@given(changes, st.integers(0, 9))
def test_from_any_point_the_same_change_completes(pair: tuple[RRset | None, RRset | None], most: int) -> None:
    old, new = pair
    assume(old or new)
    change = Change(old, new)
    live = {value: Record(value, NAME, old.type, old.ttl, value) for value in old.values} if old else {}
    for _change, steps in record_steps([change], live.values()):
        run(live, steps, most)
    if old and new:
        values = {record.value for record in live.values()}
        assert values >= set(old.values) or values >= set(new.values)
    for _change, steps in record_steps([change], live.values()):
        run(live, steps)
    assert compose(live.values()) == ([new] if new else [])
    assert record_steps([change], live.values()) == []


def test_a_record_that_stands_twice_is_left_once() -> None:
    live = {number: Record(number, NAME, "A", 300, "192.0.2.1") for number in (1, 2)}
    wanted = RRset(NAME, "A", 300, ("192.0.2.1", "192.0.2.2"))
    for _change, steps in record_steps([Change(RRset(NAME, "A", 300, ("192.0.2.1",)), wanted)], live.values()):
        run(live, steps)
    assert sorted(record.value for record in live.values()) == list(wanted.values)


def test_records_that_differ_in_their_ttl_are_seen_and_mended() -> None:
    live = {
        1: Record(1, NAME, "A", 300, "192.0.2.1"),
        2: Record(2, NAME, "A", 3600, "192.0.2.2"),
    }
    (mixed,) = compose(live.values())
    assert mixed.ttl == MIXED_TTL
    wanted = RRset(NAME, "A", 3600, mixed.values)
    for _change, steps in record_steps([Change(mixed, wanted)], live.values()):
        assert len(steps) == 1
        run(live, steps)
    assert compose(live.values()) == [wanted]


@given(st.integers(0, 4))
def test_a_change_of_such_records_completes_from_any_point_too(most: int) -> None:
    live: dict[Any, Record] = {
        1: Record(1, NAME, "A", 300, "192.0.2.1"),
        2: Record(2, NAME, "A", 3600, "192.0.2.2"),
    }
    (mixed,) = compose(live.values())
    wanted = RRset(NAME, "A", 7200, ("192.0.2.2", "192.0.2.3"))
    for times in (most, None):
        for _change, steps in record_steps([Change(mixed, wanted)], live.values()):
            run(live, steps, times)
    assert compose(live.values()) == [wanted]
