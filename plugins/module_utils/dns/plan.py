# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From wanted record sets, the live zone and the ledger to changes, or to all reasons against them. Pure.

The rules:

- What is not in the ledger is not ours. Only what is ours and live exactly as we wrote it is deleted.
- Where we want something else than a foreign record set says, that is an error, unless `adopt` lets us replace it.
- TXT strings share a name. Ours come and go beside foreign ones. Two strings with the same version tag (v=DMARC1)
  are a conflict, at a DKIM selector any two are, and SPF terms are merged into the one SPF record (see spf).
- A DKIM record with an empty p= is never replaced by a key: whoever revoked it knew why.
- A foreign record set that says just what we want is left alone and stays foreign; `adopt` makes it ours.
- Nothing but a CNAME stands at the name of a CNAME (RFC 1034 section 3.6.2), whoever owns it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from ansible_collections.mailwright.server.plugins.module_utils.dkim.state import is_revocation
from ansible_collections.mailwright.server.plugins.module_utils.dns.canonical import canonical_rrset, text_octets
from ansible_collections.mailwright.server.plugins.module_utils.dns.ledger import (
    NOTHING,
    Claim,
    Entry,
    Key,
    ZoneLedger,
    merged,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.contract import Capabilities, Change
from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import (
    RRset,
    text_value,
    zone_order,
    zone_text,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.spf import is_spf, put_in, spf_keys, take_out

# The zone's own, or made by its signer.
UNTOUCHABLE = frozenset(
    {"SOA", "NS", "DS", "DNSKEY", "RRSIG", "NSEC", "NSEC3", "NSEC3PARAM", "CDS", "CDNSKEY", "DNAME"}
)
# May stand beside a CNAME (RFC 4034 sections 3 and 4).
BESIDE_CNAME = frozenset({"CNAME", "RRSIG", "NSEC", "NSEC3"})
# A plan may delete this many of a zone's record sets, or this share of what the ledger holds for it.
DELETE_FLOOR, DELETE_SHARE = 3, 0.3
_TAG = re.compile(r"\s*v\s*=\s*([a-z0-9]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Terms:
    """On what terms a zone is planned. `owner` names who wants the records, `provider` is for messages.
    `optional`: types that are left out, with a warning, where the provider lacks them."""

    owner: str
    provider: str
    capabilities: Capabilities
    adopt: bool = False
    force_delete: bool = False
    optional: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ZonePlan:
    """What to do in one zone. With `errors` nothing may be done.

    `claims`: for each record set whose ledger entry changes, what is ours now and what will be ours afterwards.
    `expected`: what must be live afterwards of each wanted record set; of a TXT, these strings among others.
    """

    zone: str
    changes: tuple[Change, ...] = ()
    claims: Mapping[Key, tuple[Claim, Claim]] = field(default_factory=dict)
    expected: tuple[RRset, ...] = ()
    warnings: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Outcome:
    """Of one record set: what is live afterwards and what is ours of it. `keep`: the ledger's entry stays as it is."""

    after: RRset | None
    claim: Claim = NOTHING
    keep: bool = False
    expected: RRset | None = None
    warnings: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Scene:
    """One record set as a plan finds it, all in canonical form."""

    terms: Terms
    wanted: RRset | None
    live: RRset | None
    entry: Entry
    others: Mapping[str, Entry]

    @property
    def label(self) -> str:
        rrset = self.wanted or self.live
        return f"{rrset.name} {rrset.type}" if rrset else "nothing"

    @property
    def others_claim(self) -> Claim:
        return merged(entry.claimed for entry in self.others.values())

    def holders(self, values: Set[str]) -> str:
        """The other owners that claim one of these values or SPF terms."""
        return ", ".join(
            sorted(owner for owner, entry in self.others.items() if values & (entry.claimed.values | entry.claimed.spf))
        )

    def conflict(self, why: str, after: RRset) -> str:
        """An error with both sides shown."""
        before = "".join(f"\n  - {line}" for line in zone_text([self.live] if self.live else []).splitlines())
        return f"{self.label}: {why}{before}" + "".join(f"\n  + {line}" for line in zone_text([after]).splitlines())


def plan_zone(zone: str, terms: Terms, wanted: Iterable[RRset], live: Iterable[RRset], ledger: ZoneLedger) -> ZonePlan:
    """Plan one zone. `wanted`: all that the owner wants in it, canonical; `live`: the complete listing;
    `ledger`: what the ledger holds for the zone, of all owners."""
    listed = {(rrset.name, rrset.type): rrset for rrset in live}
    targets: dict[Key, RRset] = {}
    warnings: list[str] = []
    errors: list[str] = []
    skipped: set[Key] = set()
    for rrset in wanted:
        key = (rrset.name, rrset.type)
        if rrset.type not in terms.capabilities.types and rrset.type in terms.optional:
            warnings.append(f"{rrset.name} {rrset.type}: left out: provider {terms.provider} has no such records")
            skipped.add(key)
            continue
        errors += _refusals(zone, terms, rrset, listed)
        targets[key] = replace(rrset, ttl=max(rrset.ttl, terms.capabilities.minimum_ttl))
    if errors:
        return ZonePlan(zone, warnings=tuple(warnings), errors=tuple(errors))

    mine = {key for key, owners in ledger.items() if terms.owner in owners}
    outcomes: dict[Key, _Outcome] = {}
    changes: list[Change] = []
    claims: dict[Key, tuple[Claim, Claim]] = {}
    for key in sorted((targets.keys() | mine) - skipped, key=lambda key: zone_order(RRset(key[0], key[1], 0, ()))):
        owners = ledger.get(key, {})
        entry = owners.get(terms.owner, Entry())
        others = {owner: other for owner, other in owners.items() if owner != terms.owner}
        old = listed.get(key)
        now = canonical_rrset(old) if old else None
        scene = _Scene(terms, targets.get(key), now, entry, others)
        outcome = outcomes[key] = _plan_text(scene) if key[1] == "TXT" else _plan_exclusive(scene)
        warnings += outcome.warnings
        errors += outcome.errors or _too_long(terms, outcome.after, now)
        if outcome.after != now:
            changes.append(Change(old, outcome.after))
        if not outcome.keep:
            is_ours = _ours_now(entry, now)
            if Entry(is_ours) != entry or is_ours != outcome.claim:
                claims[key] = (is_ours, outcome.claim)

    errors += _beside_cname(targets, listed, changes)
    errors += _over_cap(zone, terms, changes, mine - targets.keys(), ledger)
    if errors:
        return ZonePlan(zone, warnings=tuple(warnings), errors=tuple(errors))
    # Deletions first: a CNAME can only come when what stood at its name has gone, and the other way round.
    changes.sort(key=lambda change: change.new is not None)
    expected = tuple(outcome.expected for outcome in outcomes.values() if outcome.expected)
    return ZonePlan(zone, tuple(changes), claims, expected, tuple(warnings))


def _refusals(zone: str, terms: Terms, rrset: RRset, listed: Mapping[Key, RRset]) -> list[str]:
    """Why a wanted record set can never be published here."""
    label = f"{rrset.name} {rrset.type}"
    if rrset.type in UNTOUCHABLE:
        return [f"{label}: records of this type belong to the zone and are never touched"]
    if "*" in rrset.name.split("."):
        return [f"{label}: wildcards are never touched"]
    if rrset.type not in terms.capabilities.types:
        return [f"{label}: provider {terms.provider} has no records of type {rrset.type}"]
    name = rrset.name
    while name != zone and name:
        if (name, "NS") in listed:
            return [f"{label}: {name} is delegated to other name servers; the record belongs into the zone {name}"]
        name = name.partition(".")[2]
    return []


def _too_long(terms: Terms, after: RRset | None, now: RRset | None) -> list[str]:
    if after is None or after.type != "TXT":
        return []
    values = set(after.values) - set(now.values if now else ())
    longest = max((len(text_octets(value)) for value in values), default=0)
    if longest <= terms.capabilities.max_text:
        return []
    most = terms.capabilities.max_text
    return [f"{after.name} TXT: {longest} octets; provider {terms.provider} takes {most} at most"]


def _beside_cname(targets: Mapping[Key, RRset], listed: Mapping[Key, RRset], changes: Sequence[Change]) -> list[str]:
    """Names at which a CNAME would meet another type."""
    names = {name for name, _kind in targets}
    there: dict[str, set[str]] = {name: set() for name in names}
    for name, kind in listed:
        if name in names:
            there[name].add(kind)
    for change in changes:
        if change.name in names:
            (there[change.name].add if change.new else there[change.name].discard)(change.type)
    errors = []
    for name, kind in targets:
        if kind == "CNAME" and there[name] - BESIDE_CNAME:
            found = ", ".join(sorted(there[name] - BESIDE_CNAME))
            errors.append(f"{name} CNAME: there are other records at this name: {found}")
        if kind != "CNAME" and "CNAME" in there[name]:
            errors.append(f"{name} {kind}: there is a CNAME at this name, which excludes all other types; remove it")
    return errors


def _over_cap(zone: str, terms: Terms, changes: Sequence[Change], leaving: Set[Key], ledger: ZoneLedger) -> list[str]:
    count = sum(1 for change in changes if (change.name, change.type) in leaving)
    held = len(ledger)
    if terms.force_delete or count <= max(DELETE_FLOOR, DELETE_SHARE * held):
        return []
    return [f"zone {zone}: would delete {count} of {held} record sets of ours; set force_delete if that is right"]


def _ours_now(entry: Entry, live: RRset | None) -> Claim:
    """What the ledger claims and is live: after a run that died, this is what it left."""
    if live is None:
        return NOTHING
    claimed = entry.claimed
    terms = frozenset().union(*(spf_keys(_text(value)) for value in live.values if _is_spf(live, value)))
    ours = Claim(claimed.ttl, claimed.values & set(live.values), claimed.spf & terms)
    if not ours:
        return NOTHING
    return replace(ours, ttl=live.ttl) if live.ttl in entry.ttls else ours


def _plan_exclusive(scene: _Scene) -> _Outcome:
    """A record set that is ours as a whole or not at all."""
    wanted, live, entry = scene.wanted, scene.live, scene.entry
    values = frozenset(live.values) if live else frozenset()
    others = scene.others_claim.values & values
    if wanted is None:
        if live is None:
            return _Outcome(None)
        if not values & entry.claimed.values:
            return _Outcome(live, warnings=(_changed_by_hand(scene),))
        if others:
            return _Outcome(live)
        if (live.ttl, values) in {(claim.ttl, claim.values) for claim in (entry.written, entry.intent) if claim}:
            return _Outcome(None)
        return _Outcome(live, keep=True, warnings=(_changed_by_hand(scene),))

    target = frozenset(wanted.values)
    foreign = values - entry.claimed.values - others
    if live is not None and values == target:
        if foreign and not scene.terms.adopt:
            return _Outcome(live, _ours_now(entry, live), expected=wanted)
        after = live if others else wanted
        return _Outcome(after, Claim(after.ttl, target), expected=wanted)
    if others - target:
        return _Outcome(live, errors=(scene.conflict(f"is wanted otherwise by {scene.holders(others)}", wanted),))
    if foreign and not scene.terms.adopt:
        return _Outcome(live, errors=(scene.conflict(_FOREIGN, wanted),))
    return _Outcome(wanted, Claim(wanted.ttl, target), expected=wanted)


_FOREIGN = "holds what this ledger's runs did not write; remove it, or set adopt to replace it"


def _changed_by_hand(scene: _Scene) -> str:
    live = zone_text([scene.live] if scene.live else []).strip().replace("\n", "; ")
    return f"{scene.label}: no longer wanted, but changed by somebody since we wrote it; left as it is: {live}"


def _text(value: str) -> str:
    """A TXT value as text; octets beyond ASCII stay apart, one character each."""
    return text_octets(value).decode("latin-1")


def _is_spf(rrset: RRset, value: str) -> bool:
    return rrset.type == "TXT" and is_spf(_text(value))


def _tag(value: str) -> str | None:
    found = _TAG.match(_text(value))
    return found[1].lower() if found else None


def _plan_text(scene: _Scene) -> _Outcome:
    """A TXT record set: strings of ours beside strings of others, and SPF terms of ours beside terms of others."""
    wanted, live, entry = scene.wanted, scene.live, scene.entry
    live_values = frozenset(live.values) if live else frozenset()
    target = frozenset(wanted.values) if wanted else frozenset()
    live_spf = frozenset(value for value in live_values if is_spf(_text(value)))
    wanted_spf = frozenset(value for value in target if is_spf(_text(value)))
    concerned = bool(wanted_spf or entry.claimed.spf)
    if concerned and (len(live_spf) > 1 or len(wanted_spf) > 1):
        which = "there are" if len(live_spf) > 1 else "wanted are"
        count = max(len(live_spf), len(wanted_spf))
        texts = " and ".join(sorted(live_spf if len(live_spf) > 1 else wanted_spf))
        return _Outcome(live, errors=(f"{scene.label}: {which} {count} SPF records, and there may be one: {texts}",))

    if _unrevokes(scene):
        why = "is revoked (an empty p=) and stays so; a selector is never used again"
        return _Outcome(live, keep=True, warnings=(f"{scene.label}: {why}",))

    plain, plain_target = live_values - live_spf, target - wanted_spf
    ours, others = entry.claimed.values & plain, scene.others_claim.values & plain
    foreign = plain - ours - others
    rivals = frozenset(value for value in plain - ours - plain_target if _rivals(scene.label, value, plain_target))
    problem = _text_problem(scene, rivals, others, plain_target)
    if problem:
        return _Outcome(live, errors=(problem,))
    after_plain = (plain - (ours - plain_target - others) - rivals) | plain_target
    adopted = foreign & plain_target if scene.terms.adopt else frozenset()
    claimed_values = (plain_target - foreign) | adopted

    spf, claimed_spf = None, frozenset[str]()
    after = after_plain | live_spf
    if concerned:
        spf, claimed_spf = _plan_spf(scene, next(iter(live_spf), None), next(iter(wanted_spf), None))
        after = after_plain | ({spf} if spf else frozenset())
    if not after:
        if live is not None and live.ttl not in entry.ttls and (ours or live_spf):
            return _Outcome(live, keep=True, warnings=(_changed_by_hand(scene),))
        return _Outcome(None)
    # Foreign strings live by the TTL that their owner gave them.
    all_ours = after - {spf} <= claimed_values and (not spf or spf_keys(_text(spf)) <= claimed_spf)
    ttl = _ttl(scene, all_ours)
    warnings: tuple[str, ...] = ()
    gone = entry.claimed.values - plain
    if wanted is None and any(_rivals(scene.label, value, gone) for value in plain - ours):
        warnings = (_changed_by_hand(scene),)
    expected = replace(wanted, values=tuple(sorted(plain_target | ({spf} if spf else set())))) if wanted else None
    name, kind = (live.name, live.type) if live else (wanted.name, wanted.type)  # type: ignore[union-attr]
    return _Outcome(
        RRset(name, kind, ttl, tuple(sorted(after))),
        Claim(ttl, claimed_values, claimed_spf) if claimed_values or claimed_spf else NOTHING,
        expected=expected,
        warnings=warnings,
    )


def _unrevokes(scene: _Scene) -> bool:
    """Whether a key would take the place of a DKIM record that says there is none any more (RFC 6376 section 3.6.1)."""
    if scene.wanted is None or scene.live is None or "._domainkey." not in scene.label:
        return False
    wanted = any(is_revocation(_text(value)) for value in scene.wanted.values)
    return not wanted and any(is_revocation(_text(value)) for value in scene.live.values)


def _rivals(label: str, value: str, others: Set[str]) -> bool:
    """Whether a string and one of the others exclude each other at a name."""
    if not others:
        return False
    if "._domainkey." in label:
        return True
    tag = _tag(value)
    return tag is not None and any(tag == _tag(other) for other in others)


def _text_problem(scene: _Scene, rivals: Set[str], others: Set[str], target: Set[str]) -> str | None:
    wanted = scene.wanted
    if wanted is None:
        return None
    for value in target:
        if _rivals(scene.label, value, target - {value}):
            return f"{scene.label}: wanted are {len(target)} strings of which there may be one"
    if rivals & others:
        return scene.conflict(f"is wanted otherwise by {scene.holders(rivals & others)}", wanted)
    if rivals and not scene.terms.adopt:
        return scene.conflict(_FOREIGN, wanted)
    return None


def _plan_spf(scene: _Scene, live: str | None, wanted: str | None) -> tuple[str | None, frozenset[str]]:
    """The SPF record afterwards, as TXT record data, and which of its terms are ours."""
    ours, others = scene.entry.claimed.spf, scene.others_claim.spf
    if live is None:
        return wanted, spf_keys(_text(wanted)) if wanted else frozenset()
    text = _text(live)
    if wanted is None:
        left = take_out(text, ours, others)
        return (None if left is None else _data(left)), frozenset()
    if scene.terms.adopt and spf_keys(text) == spf_keys(_text(wanted)):
        return live, spf_keys(text)
    merged_text, claimed = put_in(text, _text(wanted), ours, others)
    return _data(merged_text), claimed


def _data(text: str) -> str:
    return text_value(text.encode("latin-1"))


def _ttl(scene: _Scene, all_ours: bool) -> int:
    """The TTL of a TXT record set that is left. A listing gives 0 where it cannot tell one TTL for all of it."""
    live = scene.live.ttl if scene.live else 0
    wanted = scene.wanted.ttl if scene.wanted else 0
    ttl = (wanted or live) if all_ours else (live or wanted)
    return max(ttl, scene.terms.capabilities.minimum_ttl)
