# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Dynamic updates (RFC 2136), signed with TSIG (RFC 8945), listed by zone transfer (RFC 5936).

Verified against Knot DNS 3.4, and against no other server yet.

An update names as prerequisites what must be live: each old record set with exactly its values, or its absence. So
the server itself compares and swaps: if anything was changed since the plan, it refuses the whole message. A message
is atomic (RFC 2136 section 3.4.2.7). Changes beyond 64 KiB take several messages, one after the other: then the first
ones may be made and a later one not. That is some hundred record sets in one zone and one run, and the next run
completes it; but it is why `atomic` is not claimed. A CNAME that takes the place of another type, or the other way
round, takes two messages as well: Knot ignores the addition when the name is only vacated by the same message.

An answer of success is not enough: a server may ignore an addition without a word (RFC 2136 section 3.4.2.2). So what
is live is read again afterwards.

What is live is always read by a transfer, never by a question: a question would be answered from a wildcard too.
"""

from __future__ import annotations

import binascii
import contextlib
import socket
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.dns.canonical import canonical_rrset
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.contract import (
    Capabilities,
    Change,
    ConflictError,
    CredentialsError,
    IncompleteError,
    ProviderError,
    UnreachableError,
    UnsupportedError,
    ZoneMissingError,
    whole,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.pending import in_order, supported
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.setting import Setting
from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import RRset, text_value

LIBRARY_ERROR: str | None = None
try:
    import dns.exception
    import dns.flags
    import dns.message
    import dns.name
    import dns.query
    import dns.rcode
    import dns.rdata
    import dns.rdatatype
    import dns.tsig
    import dns.tsigkeyring
    import dns.update
    import dns.xfr
    import dns.zone
except ImportError:
    LIBRARY_ERROR = traceback.format_exc()

TYPES = frozenset(
    "A AAAA CAA CNAME HTTPS MX NAPTR OPENPGPKEY PTR SMIMEA SRV SSHFP SVCB TLSA TXT URI".split()  # noqa: SIM905
)
ALGORITHMS = ("hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512")
# What the zone's signer writes.
SIGNER_TYPES = frozenset({"RRSIG", "NSEC", "NSEC3", "NSEC3PARAM", "DNSKEY", "CDS", "CDNSKEY"})
# Octets of changes in one message, by a generous estimate; the protocol's limit is 65535.
MESSAGE_OCTETS = 48_000
# An old and a new text must fit into one message together.
MAX_TEXT = 12_000
ATTEMPTS = 3
# Codes that say: a prerequisite does not hold (RFC 2136 section 2.2).
STALE: tuple[Any, ...] = ()
if LIBRARY_ERROR is None:
    STALE = (dns.rcode.NXRRSET, dns.rcode.YXRRSET, dns.rcode.YXDOMAIN, dns.rcode.NXDOMAIN)


@dataclass(frozen=True)
class Listed:
    """A record set in our form, and as it is on the wire: there a TXT's strings are split as their author did."""

    rrset: RRset
    raw: Any


SETTINGS: Mapping[str, Setting] = {
    "server": Setting("address or name of the primary name server"),
    "key_name": Setting("name of the TSIG key"),
    "key_secret": Setting("the TSIG key, Base64", secret=True),
    "key_algorithm": Setting(f"one of {', '.join(ALGORITHMS)}", required=False),
    "port": Setting("TCP port of the server", required=False, kind=int),
    "timeout": Setting("seconds to wait for an answer", required=False, kind=int),
}


class Rfc2136:
    """One primary name server and one key."""

    capabilities = Capabilities(types=TYPES, minimum_ttl=0, max_text=MAX_TEXT, atomic=False, guarded=True)

    def __init__(
        self,
        server: str,
        key_name: str,
        key_secret: str,
        key_algorithm: str = "hmac-sha256",
        port: int = 53,
        timeout: int = 15,
    ) -> None:
        """Raises ValueError for a key or an algorithm that is none."""
        if key_algorithm not in ALGORITHMS:
            raise ValueError(f"key_algorithm: {key_algorithm!r}: must be one of {', '.join(ALGORITHMS)}")
        try:
            keyring = dns.tsigkeyring.from_text({key_name: key_secret})
        except (binascii.Error, dns.exception.DNSException):
            raise ValueError("key_name, key_secret: must be a domain name and a key in Base64") from None
        self._key: dict[str, Any] = {
            "keyring": keyring,
            "keyname": dns.name.from_text(key_name),
            "keyalgorithm": dns.name.from_text(key_algorithm),
        }
        self._server, self._port, self._timeout = server, port, timeout

    def records(self, zone: str) -> list[RRset]:
        """All record sets, without those that the zone's signer writes (DNSKEY, RRSIG and so on)."""
        return [listed.rrset for listed in self._transfer(zone).values()]

    def get(self, zone: str, name: str, kind: str) -> RRset | None:
        """One record set, out of a transfer."""
        listed = self._transfer(zone).get((name, kind))
        return listed.rrset if listed else None

    def apply(self, zone: str, changes: Sequence[Change]) -> None:
        """Make the changes. After an uncertain end it looks what is live before it goes on."""
        for batch in _batches(in_order(supported(changes, self.capabilities))):
            self._make(zone, batch)

    def _make(self, zone: str, changes: Sequence[Change]) -> None:
        last = ""
        # One look more than attempts to write: the last one sees what the last write did.
        for attempt in range(ATTEMPTS + 1):
            # What is only to be created needs no look at first: the prerequisites say it all.
            look = attempt > 0 or any(change.old for change in changes)
            live = self._transfer(zone) if look else {}
            pending = []
            for change in changes:
                listed = live.get((change.name, change.type))
                now = listed.rrset if listed else None
                if now == change.new:
                    continue
                if now != (canonical_rrset(change.old) if change.old else None):
                    raise ConflictError(f"{change.name} {change.type}: is live otherwise than when the plan was made")
                pending.append((change, listed))
            if not pending:
                return
            if attempt == ATTEMPTS:
                break
            try:
                rcode = self._send(zone, self._message(zone, pending))
            except UnreachableError as error:
                last = str(error)
                continue
            if rcode not in (dns.rcode.NOERROR, *STALE):
                raise self._refusal(zone, rcode)
            last = dns.rcode.to_text(rcode)
        names = ", ".join(f"{change.name} {change.type}" for change, _listed in pending)
        if last in map(dns.rcode.to_text, STALE):
            raise ConflictError(f"{names}: the server refuses the change, as what is live has changed ({last})")
        raise UnreachableError(
            f"{self._label(zone)}: not live after {ATTEMPTS} attempts: {names}; the last one: {last}"
        )

    def _message(self, zone: str, pending: Sequence[tuple[Change, Listed | None]]) -> Any:
        """One update: prerequisites that make it compare-and-swap, then only the records that differ."""
        update = dns.update.UpdateMessage(zone, **self._key)
        for change, listed in pending:
            name = dns.name.from_text(change.name)
            kind = dns.rdatatype.from_text(change.type)
            if listed:
                # The TTL of a prerequisite must be 0 (RFC 2136 section 2.4), so not the set with its own.
                update.present(name, *listed.raw)
            else:
                update.absent(name, kind)
                # Beside a CNAME an addition is ignored without an error, so ask that there is none.
                update.absent(name, *(["CNAME"] if change.type != "CNAME" else []))
        for change, listed in pending:
            name = dns.name.from_text(change.name)
            kind = dns.rdatatype.from_text(change.type)
            if change.new is None:
                update.delete(name, kind)
                continue
            raw = {_value(change.type, rdata): rdata for rdata in listed.raw} if listed else {}
            if change.type == "CNAME":
                # An added CNAME replaces the old one (RFC 2136 section 3.4.2.2); deleting that before would have Knot
                # ignore the addition.
                added = list(change.new.values)
            elif listed and listed.rrset.ttl != change.new.ttl:
                # Knot takes an addition of what is there already for no change, whatever its TTL.
                update.delete(name, kind)
                added = list(change.new.values)
            else:
                gone = [rdata for value, rdata in raw.items() if value not in change.new.values]
                if gone:
                    update.delete(name, *gone)
                added = [value for value in change.new.values if value not in raw]
            for value in added:
                # The records of others keep their very octets.
                update.add(name, change.new.ttl, raw.get(value) or _rdata(change.type, value))
        return update

    def _send(self, zone: str, message: Any) -> Any:
        """Send a message; the code of the answer, which the library has found to be signed."""
        try:
            with self._meaning(zone):
                answer = dns.query.tcp(message, self._address(), port=self._port, timeout=self._timeout)
        except (EOFError, dns.exception.DNSException) as error:
            # To the library an unsigned answer is an error of form. So servers refuse what is not theirs, or forbidden.
            if isinstance(error, dns.exception.FormError):
                label = self._label(zone)
                if not self._serves(zone):
                    raise ZoneMissingError(f"{label}: the server has no such zone") from None
                if "requires a TSIG" in str(error):
                    raise CredentialsError(f"{label}: the server answers unsigned: this key may not do that") from None
            raise UnreachableError(f"{self._label(zone)}: the answer makes no sense ({error})") from None
        return answer.rcode()

    def _transfer(self, zone: str) -> dict[tuple[str, str], Listed]:
        return whole(lambda: self._one_transfer(zone))

    def _one_transfer(self, zone: str) -> dict[tuple[str, str], Listed]:
        found = dns.zone.Zone(zone, relativize=False)
        query, _serial = dns.xfr.make_query(found, **self._key)
        try:
            with self._meaning(zone):
                # Raises unless the last record is the SOA again (RFC 5936 section 2.2) and the whole is signed.
                dns.query.inbound_xfr(
                    self._address(), found, query, port=self._port, timeout=self._timeout, lifetime=20 * self._timeout
                )
        except dns.xfr.TransferError as error:
            raise self._refusal(zone, error.rcode) from None
        except (EOFError, ValueError, dns.exception.DNSException) as error:
            raise IncompleteError(
                f"{self._label(zone)}: the transfer is not whole ({type(error).__name__}); nothing is concluded from it"
            ) from None
        listing = {}
        for name, rdataset in found.iterate_rdatasets():
            kind = dns.rdatatype.to_text(rdataset.rdtype)
            if kind not in SIGNER_TYPES:
                owner = name.to_text().lower()
                values = tuple(_text(kind, rdata) for rdata in rdataset)
                listing[owner, kind] = Listed(canonical_rrset(RRset(owner, kind, rdataset.ttl, values)), rdataset)
        return listing

    def _refusal(self, zone: str, rcode: Any) -> ProviderError:
        label, code = self._label(zone), dns.rcode.to_text(rcode)
        if rcode in (dns.rcode.REFUSED, dns.rcode.NOTAUTH):
            if self._serves(zone):
                return CredentialsError(f"{label}: the server answers {code}: this key may not do that")
            return ZoneMissingError(f"{label}: the server has no such zone ({code})")
        if rcode in (dns.rcode.NOTZONE, dns.rcode.NXDOMAIN):
            return ZoneMissingError(f"{label}: the server has no such zone ({code})")
        return UnreachableError(f"{label}: the server answers {code}")

    def _serves(self, zone: str) -> bool:
        """Whether the server has the zone; asked without the key, since that may be what is wrong."""
        query = dns.message.make_query(zone, "SOA", flags=0)
        with self._meaning(zone):
            answer = dns.query.tcp(query, self._address(), port=self._port, timeout=self._timeout)
        apex = dns.name.from_text(zone)
        return bool(answer.flags & dns.flags.AA) and any(
            rrset.name == apex and rrset.rdtype == dns.rdatatype.SOA for rrset in answer.answer
        )

    def _address(self) -> str:
        try:
            found: str = str(socket.getaddrinfo(self._server, self._port, type=socket.SOCK_STREAM)[0][4][0])
        except socket.gaierror as error:
            raise UnreachableError(f"{self._server}: {error.strerror}") from None
        return found

    def _label(self, zone: str) -> str:
        return f"{zone} at {self._server} port {self._port}"

    @contextlib.contextmanager
    def _meaning(self, zone: str) -> Iterator[None]:
        """Turn the library's errors into the contract's; those of a cut transfer pass."""
        label = self._label(zone)
        try:
            yield
        except dns.tsig.PeerBadTime:
            raise CredentialsError(f"{label}: the server's clock and ours differ too much for TSIG") from None
        except (dns.tsig.PeerError, dns.tsig.BadSignature, dns.message.UnknownTSIGKey) as error:
            what = "its name, secret or algorithm is wrong"
            raise CredentialsError(f"{label}: the TSIG key is refused ({type(error).__name__}): {what}") from None
        except dns.exception.Timeout:
            raise UnreachableError(f"{label}: no answer within {self._timeout} s") from None
        except OSError as error:
            raise UnreachableError(f"{label}: {error.strerror or type(error).__name__}") from None


def _batches(changes: Sequence[Change]) -> Iterator[list[Change]]:
    """Cut changes into parts that fit a message each; one too big for that stands alone. What comes to a name after
    something has left it, one of the two being a CNAME, goes into a later part."""
    batch: list[Change] = []
    left: dict[str, set[str]] = {}
    size = 0
    for change in changes:
        # Prerequisite, deletion and addition each repeat a value.
        octets = sum(
            2 * (len(change.name) + len(value) + 16)
            for rrset in (change.old, change.new)
            if rrset
            for value in rrset.values
        )
        swap = change.old is None and "CNAME" in {change.type, *left.get(change.name, ())} and change.name in left
        if batch and (swap or size + octets > MESSAGE_OCTETS):
            yield batch
            batch, left, size = [], {}, 0
        batch.append(change)
        size += octets
        if change.new is None:
            left.setdefault(change.name, set()).add(change.type)
    if batch:
        yield batch


def _text(kind: str, rdata: Any) -> str:
    if kind == "TXT":
        return text_value(b"".join(rdata.strings))
    text: str = rdata.to_text()
    return text


def _value(kind: str, rdata: Any) -> str:
    return canonical_rrset(RRset("", kind, 0, (_text(kind, rdata),))).values[0]


def _rdata(kind: str, value: str) -> Any:
    try:
        return dns.rdata.from_text("IN", kind, value, dns.name.root, False)
    except dns.exception.DNSException as error:
        raise UnsupportedError(f"{kind} {value!r}: is not data of this type: {error}") from None
