# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of a zone: what is ours is changed and removed, everything else is left alone or is an error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.dns.canonical import (
    canonical_rrset,
    canonical_value,
    text_octets,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.ledger import (
    Key,
    Ledger,
    LedgerError,
    announced,
    parse_ledger,
    render_ledger,
    settled,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.plan import Terms, ZonePlan, plan_zone
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.contract import Capabilities
from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import RRset, text_value
from ansible_collections.mailwright.server.plugins.module_utils.dns.spf import put_in, spf_keys, take_out
from hypothesis import assume, given
from hypothesis import strategies as st

ZONE = "acme.test."
ANYTHING = Capabilities(
    types=frozenset({"A", "AAAA", "CAA", "CNAME", "MX", "SRV", "TLSA", "TXT"}),
    minimum_ttl=0,
    max_text=4000,
    atomic=True,
    guarded=True,
)


def rrset(name: str, kind: str, *values: str, ttl: int = 3600) -> RRset:
    """A record set of the zone; TXT values are given as plain text."""
    data = [text_value(value) for value in values] if kind == "TXT" else values
    return canonical_rrset(RRset(f"{name}.{ZONE}" if name else ZONE, kind, ttl, tuple(data)))


SOA = rrset("", "SOA", "ns1.acme.test. hostmaster.acme.test. 1 3600 600 86400 300")
NS = rrset("", "NS", "ns1.acme.test.")
MX = rrset("", "MX", "10 mx1.acme.test.")
SPF = rrset("", "TXT", "v=spf1 mx -all")
DMARC = rrset("_dmarc", "TXT", "v=DMARC1; p=quarantine")
DKIM = rrset("s1._domainkey", "TXT", "v=DKIM1; k=rsa; p=AAAA")
SRV = rrset("_imaps._tcp", "SRV", "0 1 993 mx1.acme.test.")
USUAL = [MX, SPF, DMARC, DKIM, SRV]


@dataclass
class World:
    """A zone and a ledger, changed by plans as real runs change them."""

    live: dict[Key, RRset] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=dict)
    terms: Terms = field(default_factory=lambda: Terms("mx1", "main", ANYTHING))

    @classmethod
    def of(cls, *rrsets: RRset) -> World:
        return cls({(one.name, one.type): one for one in (SOA, NS, *rrsets)})

    def put(self, *rrsets: RRset) -> None:
        """Somebody else's hand."""
        self.live |= {(one.name, one.type): one for one in rrsets}

    def plan(self, wanted: Iterable[RRset], **terms: object) -> ZonePlan:
        return plan_zone(
            ZONE, replace(self.terms, **terms), list(wanted), self.live.values(), self.ledger.get(ZONE, {})  # type: ignore[arg-type]
        )  # fmt: skip

    def run(self, wanted: Iterable[RRset], die: str = "", **terms: object) -> ZonePlan:
        """A whole run, or one that dies before or after the apply; the second plan must find nothing to do."""
        wanted = list(wanted)
        plan = self.plan(wanted, **terms)
        assert not plan.errors, plan.errors
        owner = str(terms.get("owner", self.terms.owner))
        self.ledger = parse_ledger(render_ledger(announced(self.ledger, owner, {ZONE: plan.claims})))
        if die == "before apply":
            return plan
        for change in plan.changes:
            assert self.live.get((change.name, change.type)) == change.old
            if change.new:
                self.live[change.name, change.type] = change.new
            else:
                del self.live[change.name, change.type]
        if die == "after apply":
            return plan
        self.ledger = parse_ledger(render_ledger(settled(self.ledger, owner, [ZONE])))
        again = self.plan(wanted, **terms)
        assert (again.changes, again.claims, again.errors) == ((), {}, ())
        return plan

    def texts(self, name: str = "") -> set[str]:
        found = self.live.get((f"{name}.{ZONE}" if name else ZONE, "TXT"))
        return {text_octets(value).decode() for value in found.values} if found else set()

    @property
    def foreign_only(self) -> bool:
        return set(self.live.values()) == {SOA, NS}


def test_from_empty_to_full_and_back() -> None:
    world = World.of()
    assert len(world.run(USUAL).changes) == len(USUAL)
    assert set(world.live.values()) == {SOA, NS, *USUAL}
    refused = world.plan([])
    assert "would delete 5 of 5" in refused.errors[0] and not refused.changes
    world.run([], force_delete=True)
    assert world.foreign_only and world.ledger == {}


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("AAAA", "2001:db8::10", "2001:DB8:0::0010"),
        ("MX", "10 MX1.acme.test.", "10  mx1.acme.test."),
        ("TXT", text_value("x" * 300), '"' + "x" * 100 + '" "' + "x" * 200 + '"'),
        ("TXT", text_value('a;"b'), r'"a\;\"b"'),
        ("TLSA", "3 1 1 AB CD", "3 1 1 abcd"),
        ("CAA", '0 issue "ca.test"', "0 ISSUE ca.test"),
    ],
)
def test_the_same_data_written_differently_are_equal(kind: str, one: str, other: str) -> None:
    assert canonical_value(kind, one) == canonical_value(kind, other)
    name = "x._tcp" if kind == "TLSA" else ""
    world = World.of(canonical_rrset(RRset(f"{name}.{ZONE}" if name else ZONE, kind, 60, (other,))))
    wanted = canonical_rrset(RRset(f"{name}.{ZONE}" if name else ZONE, kind, 60, (one,)))
    assert world.plan([wanted]).changes == () and not world.plan([wanted]).errors


@pytest.mark.parametrize(
    ("kind", "value"),
    [("A", "2001:db8::1"), ("A", "1.2.3"), ("MX", "10 relative"), ("MX", "mx."), ("TLSA", "3 1 1 xyz"), ("CAA", "0 x"),
     ("TXT", '"open')],
)  # fmt: skip
def test_data_that_are_not_of_their_type_are_refused(kind: str, value: str) -> None:
    with pytest.raises(ValueError):
        canonical_value(kind, value)


def test_what_others_put_beside_ours_stays() -> None:
    proof = "site-verification=1"
    others = [
        rrset("", "TXT", proof, "v=spf1 include:news.test ~all", ttl=300),
        rrset("other._domainkey", "TXT", "v=DKIM1; p=BBBB"),
        rrset("*", "A", "192.0.2.1"),
        rrset("", "CAA", '0 issue "ca.test"'),
    ]
    world = World.of(*others)
    before = dict(world.live)
    world.run(USUAL)
    assert world.texts() == {proof, "v=spf1 include:news.test mx ~all"}
    assert world.live[ZONE, "TXT"].ttl == 300
    world.run([], force_delete=True)
    assert world.live == before and world.ledger == {}


def test_an_old_string_of_ours_is_replaced_beside_foreign_ones() -> None:
    world = World.of(rrset("", "TXT", "proof"))
    world.run([rrset("", "TXT", "ours=1")])
    world.run([rrset("", "TXT", "ours=2")])
    assert world.texts() == {"proof", "ours=2"}
    assert world.live[ZONE, "TXT"].ttl == 3600


def test_other_selectors_are_none_of_our_business_but_ours_holds_one_string() -> None:
    world = World.of(rrset("s1._domainkey", "TXT", "v=DKIM1; p=BBBB"))
    assert "did not write" in world.plan([DKIM]).errors[0]
    world.put(replace(DKIM, values=(*DKIM.values, text_value("hello"))))
    assert world.plan([DKIM]).errors
    world.run([DKIM], adopt=True)
    assert world.live[DKIM.name, "TXT"] == DKIM
    assert "of which there may be one" in World.of().plan([rrset("s1._domainkey", "TXT", "a", "b")]).errors[0]


@pytest.mark.parametrize("adopt", [False, True])
def test_a_revoked_selector_never_becomes_a_key_again(adopt: bool) -> None:
    world = World.of()
    world.run([DKIM])
    revoked = rrset("s1._domainkey", "TXT", "v=DKIM1; k=rsa; p=")
    world.run([revoked])
    plan = world.plan([DKIM], adopt=adopt)
    assert not plan.changes and not plan.errors
    assert "is revoked" in plan.warnings[0]
    # the revocation is still ours, and goes when nothing is wanted there
    world.run([], force_delete=True)
    assert world.foreign_only


@pytest.mark.parametrize(
    ("foreign", "wanted"),
    [
        (rrset("", "MX", "5 mail.other."), MX),
        (rrset("", "CAA", '0 issue "other.test"'), rrset("", "CAA", '0 issue "ca.test"')),
        (rrset("_dmarc", "TXT", "v=DMARC1; p=none"), DMARC),
        (rrset("mta-sts", "CNAME", "other.test."), rrset("mta-sts", "CNAME", "mx1.acme.test.")),
        (rrset("mx1", "A", "192.0.2.1"), rrset("mx1", "A", "192.0.2.2")),
        (rrset("mx1", "A", "192.0.2.1"), rrset("mx1", "A", "192.0.2.1", "192.0.2.2")),
        (rrset("_imaps._tcp", "SRV", "0 0 0 ."), SRV),
        (rrset("_mta-sts", "TXT", "v=STSv1; id=1"), rrset("_mta-sts", "TXT", "v=STSv1; id=2")),
    ],
)
def test_a_foreign_record_in_the_way_is_an_error_with_both_sides_unless_adopted(foreign: RRset, wanted: RRset) -> None:
    world = World.of(foreign)
    (error,) = world.plan([wanted]).errors
    assert f"\n  - {foreign.name} 3600 IN {foreign.type} {foreign.values[0]}" in error
    assert f"\n  + {wanted.name} 3600 IN {wanted.type} " in error
    plan = world.run([wanted], adopt=True)
    assert plan.changes[0].old == foreign and world.live[wanted.name, wanted.type] == wanted
    world.run([])
    assert world.foreign_only


def test_a_foreign_record_that_says_the_same_stays_foreign_unless_adopted() -> None:
    world = World.of(MX, DMARC, SPF, replace(SRV, ttl=60))
    plan = world.run(USUAL)
    assert [change.name for change in plan.changes] == [DKIM.name]
    world.run([])
    assert set(world.live.values()) == {SOA, NS, MX, DMARC, SPF, replace(SRV, ttl=60)}
    world.run(USUAL, adopt=True)
    assert world.live[SRV.name, "SRV"].ttl == 3600
    world.run([], force_delete=True)
    assert world.foreign_only


def test_a_cname_and_another_type_never_meet() -> None:
    alias = rrset("mta-sts", "CNAME", "mx1.acme.test.")
    address = rrset("mta-sts", "A", "192.0.2.1")
    for adopt in (False, True):
        assert "excludes all other types" in World.of(alias).plan([address], adopt=adopt).errors[0]
        assert "other records at this name: A" in World.of(address).plan([alias], adopt=adopt).errors[0]
    # Both ours: the one goes before the other comes.
    world = World.of()
    world.run([alias])
    assert [change.new is None for change in world.run([address]).changes] == [True, False]
    world.run([alias])


def test_what_is_the_zones_own_is_never_touched() -> None:
    for wanted in (rrset("*", "A", "192.0.2.1"), rrset("", "NS", "ns2.acme.test."), rrset("sub", "DS", "1 2 3 ab")):
        assert "never touched" in World.of().plan([wanted], adopt=True).errors[0]
    below = rrset("mx1.sub", "A", "192.0.2.1")
    assert "delegated" in World.of(rrset("sub", "NS", "ns1.other.")).plan([below]).errors[0]


def test_what_was_changed_by_hand_is_left_and_told() -> None:
    both = rrset("mx1", "A", "192.0.2.1", "192.0.2.2")
    for changed in (
        rrset("mx1", "A", "192.0.2.9"),
        replace(both, ttl=60),
        replace(both, values=both.values[:1]),
        rrset("mx1", "A", "192.0.2.1", "192.0.2.2", "192.0.2.3"),
    ):
        world = World.of()
        world.run([both])
        world.put(changed)
        for _again in range(2):
            plan = world.run([])
            assert plan.changes == () and world.live[both.name, "A"] == changed
            if changed.values != ("192.0.2.9",):
                assert "changed by somebody" in plan.warnings[0]
    world = World.of()
    world.run([DMARC])
    world.put(rrset("_dmarc", "TXT", "v=DMARC1; p=reject"))
    plan = world.run([])
    assert plan.changes == () and "changed by somebody" in plan.warnings[0]


def test_what_vanished_comes_back_while_it_is_wanted() -> None:
    world = World.of()
    world.run(USUAL)
    del world.live[MX.name, "MX"]
    world.put(replace(SRV, ttl=5))
    world.run(USUAL)
    assert set(world.live.values()) == {SOA, NS, *USUAL}


def test_two_spf_records_are_an_error() -> None:
    world = World.of(rrset("", "TXT", "v=spf1 mx -all", "v=spf1 a -all"))
    assert "2 SPF records" in world.plan([SPF], adopt=True).errors[0]
    # Where we want no SPF they are not ours to judge.
    world.run([rrset("", "TXT", "ours=1")])
    assert len(world.texts()) == 3


def test_spf_edited_by_somebody_keeps_their_terms() -> None:
    world = World.of()
    world.run([SPF])
    world.put(rrset("", "TXT", "v=spf1 mx include:news.test -all"))
    world.run([rrset("", "TXT", "v=spf1 a -all")])
    assert world.texts() == {"v=spf1 include:news.test a -all"}
    # Ours or not: they wrote theirs with it in mind.
    world.run([rrset("", "TXT", "v=spf1 a ~all")])
    assert world.texts() == {"v=spf1 include:news.test a -all"}
    world.run([])
    assert world.texts() == {"v=spf1 include:news.test -all"}


def test_spf_of_two_owners() -> None:
    world = World.of()
    world.run([SPF])
    world.run([rrset("", "TXT", "v=spf1 mx ip4:192.0.2.2 -all")], owner="mx2")
    assert world.texts() == {"v=spf1 mx ip4:192.0.2.2 -all"}
    world.run([], owner="mx1")
    assert world.texts() == {"v=spf1 mx ip4:192.0.2.2 -all"}
    world.run([], owner="mx2")
    assert world.foreign_only


TERM = st.sampled_from(
    ["a", "mx", "include:a.test", "include:b.test", "ip4:192.0.2.1", "exists:%{i}.x.test", "+a:x.test"]
)
ALL = st.sampled_from(["", " -all", " ~all", " ?all", " redirect=z.test"])


@given(st.lists(TERM, unique=True), ALL, st.lists(TERM, unique=True, min_size=1))
def test_spf_terms_go_in_and_out_without_a_trace(foreign: list[str], end: str, wanted: list[str]) -> None:
    live = " ".join(["v=spf1", *foreign]) + end
    assume(live != "v=spf1")
    both, ours = put_in(live, " ".join(["v=spf1", *wanted, "-all"]), set(), set())
    assert spf_keys(both) >= spf_keys(live) | spf_keys(" ".join(["v=spf1", *wanted]))
    assert both.endswith(end) and put_in(both, " ".join(["v=spf1", *wanted, "-all"]), ours, set()) == (both, ours)
    assert take_out(both, ours, set()) == live


def test_ttls_below_the_minimum_are_raised_and_compared_so() -> None:
    world = World.of()
    world.terms = replace(world.terms, capabilities=replace(ANYTHING, minimum_ttl=7200))
    world.run(USUAL)
    assert {one.ttl for one in world.live.values() if one not in (SOA, NS)} == {7200}


def test_what_the_provider_cannot_store() -> None:
    tlsa = rrset("_25._tcp.mx1", "TLSA", "3 1 1 abcd")
    few = replace(ANYTHING, types=ANYTHING.types - {"TLSA"}, max_text=255)
    world = World.of()
    world.terms = replace(world.terms, capabilities=few)
    assert world.plan([tlsa]).errors == (f"{tlsa.name} TLSA: provider main has no records of type TLSA",)
    plan = world.run([tlsa, MX], optional=frozenset({"TLSA"}))
    assert len(plan.changes) == 1 and "left out" in plan.warnings[0]
    long = rrset("s1._domainkey", "TXT", "v=DKIM1; p=" + "A" * 300)
    assert world.plan([long]).errors == (f"{long.name} TXT: 311 octets; provider main takes 255 at most",)


def test_owners_share_a_zone_and_remove_only_their_own() -> None:
    world = World.of()
    world.run(USUAL)
    other = rrset("mx2", "A", "192.0.2.2")
    world.run([other, MX], owner="mx2")
    assert "wanted otherwise by mx1" in world.plan([rrset("", "MX", "10 mx2.")], owner="mx2", adopt=True).errors[0]
    assert "wanted otherwise by mx1" in world.plan([rrset("_dmarc", "TXT", "v=DMARC1; p=none")], owner="mx2").errors[0]
    world.run([], force_delete=True)
    assert set(world.live.values()) == {SOA, NS, other, MX}
    world.run([], owner="mx2")
    assert world.foreign_only


def test_the_delete_cap_is_three_or_thirty_percent() -> None:
    many = [rrset(f"h{number}", "A", "192.0.2.1") for number in range(20)]
    for left, fine in ((14, True), (13, False)):
        world = World.of()
        world.run(many)
        assert bool(world.plan(many[:left]).errors) is not fine


STATES: Sequence[Sequence[RRset]] = (
    (),
    USUAL,
    (rrset("", "TXT", "v=spf1 a mx ~all", "ours=1"), rrset("", "MX", "20 mx2.acme.test."), DKIM),
    (rrset("", "TXT", "ours=2"), rrset("mx1", "A", "192.0.2.1"), rrset("_dmarc", "TXT", "v=DMARC1; p=none", ttl=60)),
    (rrset("mx1", "CNAME", "mx2.other."), rrset("s2._domainkey", "TXT", "v=DKIM1; p=CC"), SPF),
)
FOREIGN: Mapping[str, RRset] = {
    "none": rrset("x", "A", "192.0.2.77"),
    "strings": rrset("", "TXT", "proof"),
    "spf": rrset("", "TXT", "proof", "v=spf1 include:news.test ?all", ttl=60),
}


@given(
    st.sampled_from(sorted(FOREIGN)),
    st.lists(st.tuples(st.sampled_from(STATES), st.sampled_from(["", "before apply", "after apply"])), max_size=8),
)
def test_runs_that_die_anywhere_forget_nothing_and_claim_nothing(
    foreign: str, history: list[tuple[Sequence[RRset], str]]
) -> None:
    world = World.of(FOREIGN[foreign])
    before = dict(world.live)
    for wanted, die in history:
        world.run(wanted, die, force_delete=True)
    world.run([], force_delete=True)
    assert world.live == before and world.ledger == {}


def test_a_ledger_that_is_none_is_refused() -> None:
    claim = '{"written": {"ttl": "1", "values": [], "spf": []}}'
    zones = [f'{{"version": 1, "zones": {{"a.": {{"a. MX": {{"o": {entry}}}}}}}}}' for entry in ("{}", claim)]
    for text in ("", "[]", '{"version": 2}', *zones):
        with pytest.raises(LedgerError):
            parse_ledger(text)
