# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Amazon Route 53's REST API 2013-04-01. Signatures are checked with botocore's signer."""

from __future__ import annotations

import re
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import dns.rdata
from ansible_collections.mailwright.server.tests.unit.providers.imitations.server import (
    Imitation,
    RefusalError,
    Reply,
    Request,
    Stored,
)
from botocore.auth import SigV4Auth  # type: ignore[import-untyped]
from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]
from botocore.credentials import Credentials  # type: ignore[import-untyped]

KEY_ID = "AKIDEXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
NAMESPACE = "{https://route53.amazonaws.com/doc/2013-04-01/}"


class Route53Imitation(Imitation):
    minimum_ttl = 0

    def __init__(self) -> None:
        super().__init__()
        self.changes: dict[str, int] = {}

    def authorised(self, request: Request) -> bool:
        given = request.headers.get("authorization", "")
        headers = {name: request.headers[name] for name in ("host", "x-amz-date")}
        again = AWSRequest(request.method, self.url + request.target, headers, request.body)
        again.context["timestamp"] = request.headers["x-amz-date"]
        signer = SigV4Auth(Credentials(KEY_ID, SECRET), "route53", "us-east-1")
        signature = signer.signature(signer.string_to_sign(again, signer.canonical_request(again)), again)
        return f"Credential={KEY_ID}/" in given and given.endswith(f"Signature={signature}")

    def unauthorised(self) -> Reply:
        return _error(403, "SignatureDoesNotMatch", "The request signature we calculated does not match")

    def failed(self) -> Reply:
        return _error(500, "InternalFailure", "internal failure")

    def invalid(self, text: str) -> RefusalError:
        told = f"<InvalidChangeBatch><Messages><Message>{escape(text)}</Message></Messages></InvalidChangeBatch>"
        return RefusalError(_xml(400, told))

    def handle(self, request: Request) -> Reply:
        match request.method, request.path[1:]:
            case "GET", ("hostedzonesbyname",):
                return self._zones(request.query["dnsname"])
            case "GET", ("change", identifier):
                self.changes[identifier] -= 1
                return self._change_info(identifier, "GetChangeResponse")
            case method, ("hostedzone", identifier, "rrset"):
                zone = identifier.removeprefix("Z").replace("0", ".") + "."
                if zone not in self.zones:
                    return _error(404, "NoSuchHostedZone", f"No hosted zone found with ID: {identifier}")
                return self._list(zone, request.query) if method == "GET" else self._change(zone, request.body)
        return _error(404, "UnknownOperation", request.target)

    def _zones(self, wanted: str) -> Reply:
        found = [(zone, private) for zone in sorted(self.zones) for private in ("true", "false") if zone >= wanted]
        told = "".join(
            f"<HostedZone><Id>/hostedzone/Z{zone[:-1].replace('.', '0') if private == 'false' else 'PRIVATE'}</Id>"
            f"<Name>{zone}</Name><Config><PrivateZone>{private}</PrivateZone></Config></HostedZone>"
            for zone, private in found
        )
        return _xml(
            200,
            f"<ListHostedZonesByNameResponse><HostedZones>{told}</HostedZones>"
            "<IsTruncated>false</IsTruncated></ListHostedZonesByNameResponse>",
        )

    def _list(self, zone: str, query: dict[str, str]) -> Reply:
        sets = sorted(self.sets(zone).items(), key=lambda item: (item[0][0].split(".")[::-1], item[0][1]))
        keys = [(name.split(".")[::-1], kind) for (name, kind), _records in sets]
        start = (query["name"].split(".")[::-1], query.get("type", "")) if "name" in query else ([], "")
        first = sum(key < start for key in keys)
        size = min(int(query["maxitems"]), self.page_size)
        self.page([], first // size + 1, size)
        told = "".join(_shown(records) for _key, records in sets[first : first + size])
        more = "<IsTruncated>false</IsTruncated>"
        if first + size < len(sets):
            name, kind = sets[first + size][0]
            more = f"<IsTruncated>true</IsTruncated><NextRecordName>{name}</NextRecordName>"
            more += f"<NextRecordType>{kind}</NextRecordType>"
        listed = f"<ResourceRecordSets>{told}</ResourceRecordSets>{more}"
        return _xml(200, f"<ListResourceRecordSetsResponse>{listed}</ListResourceRecordSetsResponse>")

    def _change(self, zone: str, body: bytes) -> Reply:
        """A DELETE must be live exactly so, a CREATE must not be live; all or none."""
        self.write()
        before = list(self.zones[zone])
        root = ElementTree.fromstring(body)
        try:
            for entry in root.iter(NAMESPACE + "Change"):
                self._one(zone, entry)
        except RefusalError:
            self.zones[zone] = before
            raise
        identifier = f"C{self.new_id()}"
        self.changes[identifier] = 2
        return self._change_info(identifier, "ChangeResourceRecordSetsResponse")

    def _one(self, zone: str, entry: ElementTree.Element) -> None:
        def text(path: str) -> str:
            found = entry.find("/".join(NAMESPACE + part for part in path.split("/")))
            assert found is not None and found.text is not None
            return found.text

        name, kind, ttl = (text(f"ResourceRecordSet/{part}") for part in ("Name", "Type", "TTL"))
        values = [_from_octal(value.text or "") for value in entry.iter(NAMESPACE + "Value")]
        assert all(len(value.text or "") <= 4000 for value in entry.iter(NAMESPACE + "Value"))
        found = self.find(zone, name, kind)
        if text("Action") == "CREATE":
            if found:
                raise self.invalid(f"Tried to create resource record set {name} {kind} but it already exists")
            self.replace(zone, name, kind, int(ttl), values)
            return
        live = sorted(record.text for record in found)
        given = sorted(dns.rdata.from_text("IN", kind, value, relativize=False).to_text() for value in values)
        if not found or live != given or found[0].ttl != int(ttl):
            raise self.invalid(f"Tried to delete resource record set {name} {kind} but the values do not match")
        self.replace(zone, name, kind, 0, [])

    def _change_info(self, identifier: str, tag: str) -> Reply:
        status = "PENDING" if self.changes[identifier] > 0 else "INSYNC"
        return _xml(
            200, f"<{tag}><ChangeInfo><Id>/change/{identifier}</Id><Status>{status}</Status></ChangeInfo></{tag}>"
        )


def _from_octal(value: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: f"\\{int(octal[1], 8):03d}", value)


def _to_octal(value: str) -> str:
    return re.sub(r"\\([0-9]{3})", lambda decimal: f"\\{int(decimal[1]):03o}", value.replace("\\\\", "\\092"))


def _shown(records: list[Stored]) -> str:
    first = records[0]
    values = "".join(
        f"<ResourceRecord><Value>{escape(_to_octal(record.text))}</Value></ResourceRecord>" for record in records
    )
    name = first.name.replace("*", "\\052")
    return (
        f"<ResourceRecordSet><Name>{name}</Name><Type>{first.type}</Type><TTL>{first.ttl}</TTL>"
        f"<ResourceRecords>{values}</ResourceRecords></ResourceRecordSet>"
    )


def _xml(status: int, text: str) -> Reply:
    spaced = text.replace(">", f' xmlns="{NAMESPACE[1:-1]}">', 1)
    return Reply(status, f'<?xml version="1.0"?>\n{spaced}', {"Content-Type": "text/xml"})


def _error(status: int, code: str, text: str) -> Reply:
    told = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{escape(text)}</Message></Error>"
    return _xml(status, f"<ErrorResponse>{told}<RequestId>x</RequestId></ErrorResponse>")
