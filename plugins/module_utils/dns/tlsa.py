# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the DNS says of a mail host's TLSA records: each authoritative server, and a resolver that validates."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.certificate.rollover import Sight
from ansible_collections.mailwright.server.plugins.module_utils.dns.verify import (
    LIBRARY_ERROR,
    NoAnswerError,
    Server,
    VerifyError,
    answered,
    authoritative_servers,
)

try:
    import dns.exception
    import dns.flags
    import dns.nameserver
    import dns.rdatatype
    import dns.resolver
except ImportError:
    pass

WORKERS = 16
# usage DANE-EE, selector SPKI, matching type SHA-256 (RFC 7672 section 3.1.1)
PARAMETERS = (3, 1, 1)


def tlsa_name(hostname: str) -> str:
    """Where the TLSA records of a mail host are (RFC 7672 section 2.2.3)."""
    return f"_25._tcp.{hostname}."


def ask(hostname: str, resolver: Server) -> tuple[frozenset[str], bool]:
    """The digests that a resolver gives, and whether it calls them secure. Raises NoAnswerError."""
    answer = answered(tlsa_name(hostname), "TLSA", resolver, resolver=True)
    return _digests(answer), bool(answer.flags & dns.flags.AD)


def secure(hostname: str, resolver: Server) -> bool | None:
    """Whether the name's zone validates, by the resolver's word (AD); a denial counts too. None: no answer."""
    if LIBRARY_ERROR:
        return None
    try:
        return ask(hostname, resolver)[1]
    except NoAnswerError:
        return None


def look(hostname: str, resolver: Server, ttl: float) -> Sight:
    """Ask the resolver, and each address of each authoritative server without it; `ttl` is what is published with."""
    name = tlsa_name(hostname)
    try:
        seen = answered(name, "TLSA", resolver, resolver=True)
        asked = dns.resolver.Resolver(configure=False)
        asked.nameservers = [dns.nameserver.Do53Nameserver(resolver.address, resolver.port)]
        servers = authoritative_servers(str(dns.resolver.zone_for_name(name, resolver=asked)), [resolver])
        with ThreadPoolExecutor(WORKERS) as pool:
            answers = [seen, *pool.map(lambda server: answered(name, "TLSA", server), servers)]
    except (NoAnswerError, VerifyError, dns.exception.DNSException):
        return Sight(secure(hostname, resolver), None, None, ttl)
    found = [_digests(answer) for answer in answers]
    # the resolver's own TTL counts down; those of the authoritative servers are whole
    longest = max([ttl, *(rrset.ttl for answer in answers for rrset in answer.answer)])
    is_secure = bool(seen.flags & dns.flags.AD)
    everywhere = frozenset.intersection(*found) if is_secure else frozenset[str]()
    return Sight(is_secure, everywhere, frozenset.union(*found), longest)


def _digests(answer: Any) -> frozenset[str]:
    return frozenset(
        record.cert.hex()
        for rrset in answer.answer
        if rrset.rdtype == dns.rdatatype.TLSA
        for record in rrset
        if (record.usage, record.selector, record.mtype) == PARAMETERS
    )
