# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Amazon Route 53, by its REST API 2013-04-01 (https://docs.aws.amazon.com/Route53/latest/APIReference/)."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree

from ansible_collections.mailwright.server.plugins.module_utils.dns.canonical import text_octets
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.contract import (
    Capabilities,
    Change,
    IncompleteError,
    ProviderError,
    UnreachableError,
    UnsupportedError,
    ZoneMissingError,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.http import (
    Answer,
    Http,
    RefusedError,
    Transport,
    UncertainError,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.pending import (
    by_key,
    supported,
    unfinished,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.rdata import canonical
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.setting import Setting
from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import RRset, text_value

if TYPE_CHECKING:
    from requests import PreparedRequest

SETTINGS = {
    "access_key_id": Setting("access key of an IAM user"),
    "secret_access_key": Setting("its secret", secret=True),
    "session_token": Setting("session token, with temporary credentials", required=False, secret=True),
    "hosted_zone_id": Setting("hosted zone, where several have the zone's name", required=False),
    "api_url": Setting("base URL of the API", required=False),
}
VERSION = "/2013-04-01"
NAMESPACE = "https://route53.amazonaws.com/doc/2013-04-01/"
PAGE_SIZE = 300
# Of one request (docs.aws.amazon.com/Route53/latest/DeveloperGuide/DNSLimitations.html).
MOST_RECORDS = 1000
MOST_CHARACTERS = 32_000
# Of one record's data.
LONGEST_VALUE = 4000
BUSY = frozenset({"Throttling", "ThrottlingException", "PriorRequestNotComplete"})


class Route53:
    """Record sets, changed by batches. A batch deletes exactly the old values and creates the new ones, is made as a
    whole or not at all, and is refused when the old values are not live: the server itself guards each change. apply
    returns when all of Route 53's servers have the change (INSYNC).

    A call within 1000 records and 32,000 characters is one batch; a larger one may stop between two. apply made
    again makes the rest. Aliases and record sets with a routing policy are listed, with values that no plain
    record set has, and never changed.
    """

    capabilities = Capabilities(
        types=frozenset({"A", "AAAA", "CAA", "CNAME", "MX", "NS", "PTR", "SRV", "TLSA", "TXT"}),
        minimum_ttl=0,
        max_text=3900,
        atomic=False,
        guarded=True,
    )

    def __init__(
        self,
        *,
        access_key_id: str,
        secret_access_key: str,
        session_token: str | None = None,
        hosted_zone_id: str | None = None,
        api_url: str = "https://route53.amazonaws.com",
        transport: Transport | None = None,
    ) -> None:
        self._hosted_zone_id = hosted_zone_id
        self._zone_ids: dict[str, str] = {}
        transport = transport or Transport()

        def authorize(request: PreparedRequest) -> PreparedRequest:
            signed = {"host": urlsplit(request.url or "").netloc}
            signed["x-amz-date"] = datetime.fromtimestamp(transport.now(), UTC).strftime("%Y%m%dT%H%M%SZ")
            if session_token:
                signed["x-amz-security-token"] = session_token
            body = request.body if isinstance(request.body, bytes) else b""
            authorization = signature_v4(
                request.method or "", request.url or "", signed, body, access_key_id, secret_access_key
            )
            request.headers.update({**signed, "Authorization": authorization})
            return request

        secrets = (secret_access_key, session_token or "")
        self._http = Http("Route 53", api_url, authorize, secrets, transport, explain=_explain, busy=_busy)

    def records(self, zone: str) -> list[RRset]:
        """As in the contract."""
        return _joined(self._listed(self._zone_id(zone), zone))

    def get(self, zone: str, name: str, kind: str) -> RRset | None:
        """As in the contract."""
        found = []
        for rrset in self._listed(self._zone_id(zone), zone, start=(name, kind)):
            if (rrset.name, rrset.type) != (name, kind):
                break
            found.append(rrset)
        return next(iter(_joined(found)), None)

    def apply(self, zone: str, changes: Sequence[Change]) -> None:
        """As in the contract."""
        wanted = supported(changes, self.capabilities)
        for change in wanted:
            for value in change.new.values if change.new else ():
                if len(_written(change.type, value)) > LONGEST_VALUE:
                    raise UnsupportedError(f"{change.name} {change.type}: more than {LONGEST_VALUE} characters")
        if wanted:
            self._http.settle(lambda: self._make(zone, wanted))

    def _make(self, zone: str, changes: Sequence[Change]) -> None:
        zone_id = self._zone_id(zone)
        left = unfinished(changes, by_key(_joined(self._listed(zone_id, zone))))
        for change in left:
            if change.old and _special(change.old):
                raise UnsupportedError(f"{change.name} {change.type}: an alias or a routing policy is not replaced")
        identifiers = []
        for batch in _batches(left):
            content = ("application/xml", _request(batch))
            try:
                answer = self._http.call("POST", f"{VERSION}/hostedzone/{zone_id}/rrset/", content=content)
            except RefusedError as error:
                if _code(error.answer) == "InvalidChangeBatch":
                    # The old values are live no more, or a value is wrong: reading again tells which.
                    raise UncertainError(str(error)) from None
                raise
            identifiers.append(_text(_parse(answer), "ChangeInfo/Id").rpartition("/")[2])
        for identifier in identifiers:
            self._http.poll(partial(self._in_sync, identifier), f"change {identifier}")

    def _in_sync(self, identifier: str) -> bool:
        answer = self._http.call("GET", f"{VERSION}/change/{identifier}")
        return _text(_parse(answer), "ChangeInfo/Status") == "INSYNC"

    def _zone_id(self, zone: str) -> str:
        if self._hosted_zone_id:
            return self._hosted_zone_id
        if zone not in self._zone_ids:
            self._zone_ids[zone] = self._found_zone(zone)
        return self._zone_ids[zone]

    def _found_zone(self, zone: str) -> str:
        answer = self._http.call("GET", f"{VERSION}/hostedzonesbyname", query={"dnsname": zone, "maxitems": "20"})
        found = [
            _text(hosted, "Id").rpartition("/")[2]
            for hosted in _parse(answer).findall("HostedZones/HostedZone")
            if _name(_text(hosted, "Name")) == zone and hosted.findtext("Config/PrivateZone") != "true"
        ]
        if not found:
            raise ZoneMissingError(f"Route 53: the account has no public hosted zone {zone}")
        if len(found) > 1:
            raise ProviderError(f"Route 53: several hosted zones are named {zone}; set hosted_zone_id")
        return found[0]

    def _listed(self, zone_id: str, zone: str, start: tuple[str, str] | None = None) -> Iterator[RRset]:
        query: dict[str, str | int] = {"maxitems": PAGE_SIZE}
        if start:
            query |= {"name": start[0], "type": start[1]}
        while True:
            try:
                tree = _parse(self._http.call("GET", f"{VERSION}/hostedzone/{zone_id}/rrset", query=query))
            except RefusedError as error:
                if _code(error.answer) == "NoSuchHostedZone":
                    raise ZoneMissingError(str(error)) from None
                raise
            for rrset in tree.findall("ResourceRecordSets/ResourceRecordSet"):
                yield _read(rrset, zone)
            if _text(tree, "IsTruncated") == "false":
                return
            follows = {"name": "NextRecordName", "type": "NextRecordType", "identifier": "NextRecordIdentifier"}
            position = {key: tree.findtext(tag) for key, tag in follows.items()}
            if not position["name"]:
                raise IncompleteError(f"Route 53: a listing of {zone} stops without its end")
            query = {"maxitems": PAGE_SIZE, **{key: value for key, value in position.items() if value}}


def signature_v4(
    method: str,
    url: str,
    signed: Mapping[str, str],
    body: bytes,
    access_key_id: str,
    secret_access_key: str,
    region: str = "us-east-1",
    service: str = "route53",
) -> str:
    """The Authorization header of AWS Signature Version 4.

    `signed`: headers to sign, names in lower case, x-amz-date among them. The parts of `url` are percent-encoded but
    for A-Z, a-z, 0-9 and -_.~.

    Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html.
    """
    parts = urlsplit(url)
    names = sorted(signed)
    canonical_request = "\n".join(
        [
            method,
            # Each part is encoded once more than in the URL, as all services but S3 want it.
            quote(parts.path or "/", safe="/-_.~"),
            "&".join(sorted(parts.query.split("&"), key=lambda parameter: parameter.partition("="))),
            *(f"{name}:{' '.join(signed[name].split())}" for name in names),
            "",
            ";".join(names),
            hashlib.sha256(body).hexdigest(),
        ]
    )
    date = signed["x-amz-date"]
    scope = f"{date[:8]}/{region}/{service}/aws4_request"
    digest = hashlib.sha256(canonical_request.encode()).hexdigest()
    key = f"AWS4{secret_access_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    found = hmac.digest(key, f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{digest}".encode(), "sha256").hex()
    return f"AWS4-HMAC-SHA256 Credential={access_key_id}/{scope}, SignedHeaders={';'.join(names)}, Signature={found}"


def _batches(changes: Sequence[Change]) -> Iterator[list[Change]]:
    batch: list[Change] = []
    records = characters = 0
    for change in changes:
        values = [_written(change.type, value) for rrset in (change.old, change.new) if rrset for value in rrset.values]
        length = sum(map(len, values))
        if batch and (records + len(values) > MOST_RECORDS or characters + length > MOST_CHARACTERS):
            yield batch
            batch, records, characters = [], 0, 0
        batch.append(change)
        records, characters = records + len(values), characters + length
    if batch:
        yield batch


def _request(changes: Sequence[Change]) -> bytes:
    root = ElementTree.Element("ChangeResourceRecordSetsRequest", xmlns=NAMESPACE)
    listed = ElementTree.SubElement(ElementTree.SubElement(root, "ChangeBatch"), "Changes")
    for change in changes:
        for action, rrset in (("DELETE", change.old), ("CREATE", change.new)):
            if rrset is None:
                continue
            entry = ElementTree.SubElement(listed, "Change")
            ElementTree.SubElement(entry, "Action").text = action
            written = ElementTree.SubElement(entry, "ResourceRecordSet")
            ElementTree.SubElement(written, "Name").text = rrset.name
            ElementTree.SubElement(written, "Type").text = rrset.type
            ElementTree.SubElement(written, "TTL").text = str(rrset.ttl)
            values = ElementTree.SubElement(written, "ResourceRecords")
            for value in rrset.values:
                record = ElementTree.SubElement(values, "ResourceRecord")
                ElementTree.SubElement(record, "Value").text = _written(rrset.type, value)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text


def _parse(answer: Answer) -> ElementTree.Element:
    try:
        root = ElementTree.fromstring(answer.text)  # noqa: S314 - the answers of one server, over TLS
    except ElementTree.ParseError:
        raise UnreachableError(f"Route 53: an answer with status {answer.status} is not XML") from None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def _text(element: ElementTree.Element, path: str) -> str:
    found = element.findtext(path)
    if found is None:
        raise UnreachableError(f"Route 53: an answer lacks {path}")
    return found


def _read(element: ElementTree.Element, zone: str) -> RRset:
    name, kind = _name(_text(element, "Name")), _text(element, "Type")
    identifier, alias = element.findtext("SetIdentifier"), element.findtext("AliasTarget/DNSName")
    texts = [value.text or "" for value in element.findall("ResourceRecords/ResourceRecord/Value")]
    if kind in ("TXT", "SPF"):
        values = [text_value(text_octets(text, base=8)) for text in texts]
    else:
        values = [canonical(kind, text, zone) for text in texts]
    if alias is not None:
        values = [f"ALIAS {alias}"]
    if identifier is not None:
        values = [f"ROUTED {identifier} {value}" for value in values]
    return RRset(name, kind, int(element.findtext("TTL") or 0), tuple(sorted(values)))


def _joined(rrsets: Iterator[RRset] | Sequence[RRset]) -> list[RRset]:
    """One record set a name and type: those with a routing policy come several times."""
    found: dict[tuple[str, str], RRset] = {}
    for rrset in rrsets:
        before = found.get((rrset.name, rrset.type))
        values = tuple(sorted({*rrset.values, *(before.values if before else ())}))
        found[rrset.name, rrset.type] = RRset(rrset.name, rrset.type, rrset.ttl, values)
    return list(found.values())


def _special(rrset: RRset) -> bool:
    return any(value.startswith(("ALIAS ", "ROUTED ")) for value in rrset.values)


def _written(kind: str, value: str) -> str:
    # Three-digit escapes are octal here (docs.aws.amazon.com/Route53/latest/DeveloperGuide/ResourceRecordTypes.html).
    return re.sub(r"\\([0-9]{3}|\\)", _octal, value) if kind == "TXT" else value


def _octal(escape: re.Match[str]) -> str:
    return f"\\{ord(escape[1]) if escape[1] == chr(92) else int(escape[1]):03o}"


def _name(written: str) -> str:
    return unquote(re.sub(r"\\([0-7]{3})", lambda escape: f"%{int(escape[1], 8):02x}", written)).lower()


def _code(answer: Answer) -> str:
    """The error's code; none for an answer that is not of the API, such as a proxy's."""
    try:
        root = _parse(answer)
    except UnreachableError:
        return ""
    return root.tag if root.tag == "InvalidChangeBatch" else (root.findtext("Error/Code") or "")


def _busy(answer: Answer) -> bool:
    return answer.status in (400, 503) and _code(answer) in BUSY


def _explain(answer: Answer) -> str:
    root = _parse(answer)
    told = [element.text or "" for element in root.iter() if element.tag in ("Message", "Code")]
    return "; ".join(told)
