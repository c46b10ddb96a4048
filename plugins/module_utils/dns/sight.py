# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the authoritative name servers say of DKIM records, as the rotation of keys wants to know it.

A name may be an alias into another zone: then all servers of both zones are asked, the alias's and its target's.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from ansible_collections.mailwright.server.plugins.module_utils.dkim.state import is_revocation
from ansible_collections.mailwright.server.plugins.module_utils.dns.verify import (
    NoAnswerError,
    Server,
    VerifyError,
    answered,
    authoritative_servers,
)

LIBRARY_ERROR: str | None = None
try:
    import dns.exception
    import dns.name
    import dns.nameserver
    import dns.rdatatype
    import dns.resolver
except ImportError:
    LIBRARY_ERROR = traceback.format_exc()

WORKERS = 16
# Where no record and no SOA tells: what is published with, and a cautious negative TTL.
DEFAULT_TTL, DEFAULT_NEGATIVE_TTL = 3600, 86400


@dataclass(frozen=True)
class Answer:
    """What one server has at a name: its TXT texts, the TTL of the record set in seconds, and the name to which it
    leads in place of them (CNAME)."""

    texts: frozenset[str]
    ttl: int | None
    target: str | None = None


@dataclass(frozen=True)
class Sighting:
    """One selector's sight: live, absent, other, mixed or unknown. `text`: what was seen in place of the wanted one.
    TTLs are in seconds, `negative_ttl` by RFC 2308 section 5."""

    sight: str
    text: str | None
    ttl: int
    negative_ttl: int


def judge(wanted: str, answers: Sequence[Answer | None], negative_ttl: int | None) -> Sighting:
    """Sum up what all servers said of one name; None is a server that gave no answer. Pure."""
    heard = [answer for answer in answers if answer is not None]
    kinds = {answer.texts for answer in heard}
    if not answers or len(heard) < len(answers):
        sight = "unknown"
    elif kinds == {frozenset({wanted})}:
        sight = "live"
    elif kinds == {frozenset()}:
        sight = "absent"
    else:
        sight = "other" if len(kinds) == 1 else "mixed"
    instead = sorted(frozenset().union(*kinds) - {wanted}, key=lambda text: (not is_revocation(text), text))
    ttls = [answer.ttl for answer in heard if answer.ttl is not None]
    return Sighting(
        sight,
        instead[0] if instead else None,
        max(ttls, default=DEFAULT_TTL),
        DEFAULT_NEGATIVE_TTL if negative_ttl is None else negative_ttl,
    )


def look(
    records: Mapping[str, str],
    zones: Iterable[str],
    servers: Mapping[str, Sequence[Server]],
    resolvers: Sequence[Server],
) -> dict[str, Sighting]:
    """Ask for TXT records: absolute name -> wanted text gives absolute name -> sighting.

    `zones`: known ones, absolute; the zone of other names is asked for. `servers`: whom to ask, by zone; of other
    zones the servers are found by the NS record set, through `resolvers` or those of this machine.
    """
    known = sorted(zones, key=len, reverse=True)
    with ThreadPoolExecutor(WORKERS) as pool:
        heard = _hear(records, known, servers, resolvers, pool)
        targets = {answer.target for said, _negative in heard.values() for answer in said if answer and answer.target}
        beyond = _hear(targets, known, servers, resolvers, pool)
    return {name: judge(wanted, *_followed(*heard[name], beyond)) for name, wanted in records.items()}


Heard: TypeAlias = "tuple[list[Answer | None], int | None]"


def _hear(
    names: Iterable[str],
    known: Sequence[str],
    servers: Mapping[str, Sequence[Server]],
    resolvers: Sequence[Server],
    pool: ThreadPoolExecutor,
) -> dict[str, Heard]:
    """What all servers of each name's zone say of it, and the zone's negative TTL."""
    names = sorted(names)
    # All selectors of a domain have one parent, and so one zone.
    parents = sorted({name.partition(".")[2] for name in names})
    zone_of = dict(zip(parents, pool.map(lambda parent: _zone(parent, known, resolvers), parents), strict=True))
    found = sorted({zone for zone in zone_of.values() if zone})
    asked = dict(zip(found, pool.map(lambda zone: _servers(zone, servers, resolvers), found), strict=True))
    negative = dict(zip(found, pool.map(lambda zone: _negative_ttl(zone, asked[zone]), found), strict=True))
    zones = {name: zone_of[name.partition(".")[2]] or "" for name in names}
    questions = [(name, server) for name in names for server in asked.get(zones[name], ())]
    answers: dict[str, list[Answer | None]] = {name: [] for name in names}
    for (name, _server), answer in zip(questions, pool.map(lambda one: _ask(*one), questions), strict=True):
        answers[name].append(answer)
    return {name: (answers[name], negative.get(zones[name])) for name in names}


def _followed(said: Sequence[Answer | None], negative: int | None, beyond: Mapping[str, Heard]) -> Heard:
    """The answers, for each alias what the servers of its target say, and the longest negative TTL. Pure."""
    found: list[Answer | None] = []
    for answer in said:
        if answer is None or answer.target is None:
            found.append(answer)
            continue
        there, negative_there = beyond[answer.target]
        negative = None if negative is None or negative_there is None else max(negative, negative_there)
        # a target whose servers are not known is one that gave no answer
        found += [one and replace(one, ttl=max(one.ttl or 0, answer.ttl or 0)) for one in there] or [None]
    return found, negative


def _zone(parent: str, known: Sequence[str], resolvers: Sequence[Server]) -> str | None:
    for zone in known:
        if parent == zone or parent.endswith("." + zone):
            return zone
    resolver = dns.resolver.Resolver(configure=not resolvers)
    if resolvers:
        resolver.nameservers = [dns.nameserver.Do53Nameserver(server.address, server.port) for server in resolvers]
    try:
        return str(dns.resolver.zone_for_name(parent, resolver=resolver))
    except dns.exception.DNSException:
        return None


def _servers(zone: str, servers: Mapping[str, Sequence[Server]], resolvers: Sequence[Server]) -> Sequence[Server]:
    try:
        return servers.get(zone) or authoritative_servers(zone, resolvers)
    except VerifyError:
        return ()


def _negative_ttl(zone: str, servers: Sequence[Server]) -> int | None:
    """The longest that any server's SOA lets a denial be kept."""
    found = []
    for server in servers:
        try:
            answer = answered(zone, "SOA", server)
        except NoAnswerError:
            continue
        found += [min(rrset.ttl, rrset[0].minimum) for rrset in answer.answer if rrset.rdtype == dns.rdatatype.SOA]
    return max(found, default=None)


def _ask(name: str, server: Server) -> Answer | None:
    try:
        answer = answered(name, "TXT", server)
    except NoAnswerError:
        return None
    owner = dns.name.from_text(name)
    sets: list[Any] = [one for one in answer.answer if one.name == owner]
    aliases = [one for one in sets if one.rdtype == dns.rdatatype.CNAME]
    if aliases:
        return Answer(frozenset(), aliases[0].ttl, aliases[0][0].target.canonicalize().to_text())
    texts = [one for one in sets if one.rdtype == dns.rdatatype.TXT]
    found = frozenset(b"".join(record.strings).decode("utf-8", "replace") for one in texts for record in one)
    return Answer(found, max((one.ttl for one in texts), default=None))
