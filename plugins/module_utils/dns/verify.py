# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether every authoritative name server serves what was published.

A provider's word that a change is done says nothing about its name servers. So each address of each server that the
zone's NS record set names is asked itself, without recursion, and only an answer with authority (AA) counts.
"""

from __future__ import annotations

import socket
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.dns.canonical import canonical_rrset
from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import RRset, text_value

LIBRARY_ERROR: str | None = None
try:
    import dns.exception
    import dns.flags
    import dns.message
    import dns.name
    import dns.nameserver
    import dns.query
    import dns.rcode
    import dns.rdatatype
    import dns.resolver
except ImportError:
    LIBRARY_ERROR = traceback.format_exc()

WORKERS = 16
# Seconds for one question, and the longest pause between two rounds.
ANSWER_TIMEOUT = 5.0
LONGEST_PAUSE = 30.0


class VerifyError(Exception):
    """Nobody can be asked."""


@dataclass(frozen=True)
class Server:
    """A name server's address and port."""

    address: str
    port: int = 53

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return host if self.port == 53 else f"{host}:{self.port}"


@dataclass(frozen=True)
class Seen:
    """Who serves a record set. `disagree`: server -> what it said instead."""

    rrset: RRset
    agree: tuple[str, ...]
    disagree: Mapping[str, str]

    @property
    def everywhere(self) -> bool:
        """Whether all that were asked serve it, and somebody was asked."""
        return bool(self.agree) and not self.disagree


def parse_server(text: str) -> Server:
    """Read ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT. Raises ValueError for anything else."""
    address, port = text, "53"
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]:")
        port = rest if bracket else ""
    elif text.count(":") == 1:
        address, _colon, port = text.partition(":")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        socket.inet_pton(family, address)
        return Server(address, int(port))
    except (OSError, ValueError):
        raise ValueError(f"{text!r} is not an address, ADDRESS:PORT or [ADDRESS]:PORT") from None


def authoritative_servers(zone: str, resolver: Sequence[Server] = ()) -> list[Server]:
    """All reachable addresses of the zone's name servers, by a resolver or the system's. Raises VerifyError."""
    asked = dns.resolver.Resolver(configure=not resolver)
    if resolver:
        asked.nameservers = [dns.nameserver.Do53Nameserver(server.address, server.port) for server in resolver]
    try:
        names = [record.target for record in asked.resolve(zone, "NS")]
    except dns.exception.DNSException as error:
        raise VerifyError(f"{zone}: its name servers cannot be found: {error}") from None
    addresses = set()
    for name in names:
        for kind in ("A", "AAAA"):
            try:
                addresses |= {record.address for record in asked.resolve(name, kind)}
            except dns.exception.DNSException:
                # A server with one family only; with none at all it is missing below.
                continue
    found = [Server(address) for address in sorted(addresses) if _has_route(address)]
    if not found:
        raise VerifyError(f"{zone}: no name server has an address that can be reached from here")
    return found


def _has_route(address: str) -> bool:
    """Whether this machine can send to an address at all; one without IPv6 must not wait for such servers."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 53))
        except OSError:
            return False
    return True


def verify(
    wanted: Mapping[str, Sequence[RRset]],
    servers: Mapping[str, Sequence[Server]],
    timeout: float,
    *,
    validating: Server | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Seen]:
    """Ask all servers of each zone for all its record sets until all agree, for at most `timeout` seconds.

    Both mappings are by zone. Of a TXT, other strings beside the wanted ones are none of our business. With
    `validating`, a resolver that validates, it must give the records too, and say that they are secure (AD).
    """
    questions = [
        (rrset, server, server is validating)
        for zone, rrsets in wanted.items()
        for rrset in rrsets
        for server in [*servers[zone], *([validating] if validating else [])]
    ]
    said: dict[RRset, dict[Server, str | None]] = {}
    end = time.monotonic() + timeout
    pause = 1.0
    with ThreadPoolExecutor(WORKERS) as pool:
        left = questions
        while left:
            for (rrset, server, _resolver), answer in zip(left, pool.map(lambda one: _ask(*one), left), strict=True):
                said.setdefault(rrset, {})[server] = answer
            left = [(rrset, server, resolver) for rrset, server, resolver in left if said[rrset][server] is not None]
            if not left or time.monotonic() + pause > end:
                break
            sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
    return [_seen(rrset, said.get(rrset, {})) for rrsets in wanted.values() for rrset in rrsets]


def _seen(rrset: RRset, said: Mapping[Server, str | None]) -> Seen:
    return Seen(
        rrset,
        tuple(str(server) for server, answer in said.items() if answer is None),
        {str(server): answer for server, answer in said.items() if answer is not None},
    )


def _ask(rrset: RRset, server: Server, resolver: bool) -> str | None:
    """None when a server serves the record set; otherwise what it says instead."""
    try:
        answer = answered(rrset.name, rrset.type, server, resolver)
    except NoAnswerError as error:
        return str(error)
    live = _live(answer, rrset)
    missing = set(rrset.values) - set(live)
    if missing or (rrset.type != "TXT" and set(live) != set(rrset.values)):
        return "has " + (", ".join(live) or "none")
    if resolver and not answer.flags & dns.flags.AD:
        return "is not secure (no AD)"
    return None


class NoAnswerError(Exception):
    """A server gave no answer that counts; the text says what it gave."""


def answered(name: str, kind: str, server: Server, resolver: bool = False) -> Any:
    """A server's answer with authority, or a resolver's, as a dnspython message. Raises NoAnswerError."""
    flags = dns.flags.RD | dns.flags.AD if resolver else 0
    query = dns.message.make_query(name, kind, flags=flags)
    try:
        answer, _tcp = dns.query.udp_with_fallback(query, server.address, ANSWER_TIMEOUT, server.port)
    except dns.exception.Timeout:
        raise NoAnswerError("no answer") from None
    except (OSError, EOFError, dns.exception.DNSException) as error:
        raise NoAnswerError(f"no answer ({type(error).__name__})") from None
    if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise NoAnswerError(str(dns.rcode.to_text(answer.rcode())))
    if not resolver and not answer.flags & dns.flags.AA:
        raise NoAnswerError("not authoritative for the zone")
    return answer


def _live(answer: Any, rrset: RRset) -> tuple[str, ...]:
    name, kind = dns.name.from_text(rrset.name), dns.rdatatype.from_text(rrset.type)
    values = [
        text_value(b"".join(record.strings)) if rrset.type == "TXT" else record.to_text()
        for found in answer.answer
        if found.name == name and found.rdtype == kind
        for record in found
    ]
    return canonical_rrset(RRset(rrset.name, rrset.type, 0, tuple(values))).values


def complaints(seen: Iterable[Seen]) -> list[str]:
    """A line for each record set that is not served everywhere."""
    return [
        f"{one.rrset.name} {one.rrset.type}: "
        + ("; ".join(f"{server} {said}" for server, said in one.disagree.items()) or "no server was asked")
        for one in seen
        if not one.everywhere
    ]
