# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The domain records of DigitalOcean's API v2."""

from __future__ import annotations

from typing import Any

import dns.rdata
from ansible_collections.mailwright.server.tests.unit.providers.imitations.server import (
    Imitation,
    Reply,
    Request,
    Stored,
)

TOKEN = "dop_v1_77aa"


class DigitalOceanImitation(Imitation):
    minimum_ttl = 30
    types = frozenset({"A", "AAAA", "CAA", "CNAME", "MX", "NS", "SRV", "TXT"})

    def authorised(self, request: Request) -> bool:
        return request.headers.get("authorization") == f"Bearer {TOKEN}"

    def unauthorised(self) -> Reply:
        return Reply(401, {"id": "Unauthorized", "message": "Unable to authenticate you"})

    def handle(self, request: Request) -> Reply:
        zone = request.path[1] + "."
        if zone not in self.zones:
            return Reply(404, {"id": "not_found", "message": "The resource you requested could not be found."})
        match request.method, request.path[2:]:
            case "GET", ("records",):
                return self._list(zone, request.query)
            case "POST", ("records",):
                self.write()
                body = request.json()
                record = self.store(zone, _name(body, zone), body["type"], body["ttl"], self._text(body))
                return Reply(201, {"domain_record": _shown(record, zone)})
            case "PUT", ("records", identifier):
                self.write()
                found = self.by_id(zone, identifier)
                assert found is not None
                body = request.json()
                found.rdata = self.parse(zone, _name(body, zone), body["type"], body["ttl"], self._text(body))
                found.ttl = body["ttl"]
                return Reply(200, {"domain_record": _shown(found, zone)})
            case "DELETE", ("records", identifier):
                found = self.by_id(zone, identifier)
                if found is None:
                    return Reply(404, {"id": "not_found", "message": "not found"})
                self.write()
                self.remove(zone, found)
                return Reply(204)
        return Reply(405, {"message": f"no route for {request.target}"})

    def _list(self, zone: str, query: dict[str, str]) -> Reply:
        found = [
            record
            for record in self.zones[zone]
            if query.get("name", record.name.rstrip(".")) == record.name.rstrip(".")
            and query.get("type", record.type) == record.type
        ]
        page = self.page(found, int(query["page"]), int(query["per_page"]))
        return Reply(200, {"domain_records": [_shown(record, zone) for record in page], "meta": {"total": len(found)}})

    def _text(self, body: dict[str, Any]) -> str:
        data = body["data"]
        match body["type"]:
            case "MX":
                return f"{body['priority']} {data}"
            case "SRV":
                return f"{body['priority']} {body['weight']} {body['port']} {data}"
            case "CAA":
                if not data.endswith("."):
                    raise self.invalid("Data needs to end with a dot (.)")
                return f'{body["flags"]} {body["tag"]} "{data[:-1]}"'
            case "TXT":
                octets = data.encode()
                chunks = [octets[start : start + 255] for start in range(0, len(octets), 255)]
                text = " ".join(f'"{dns.rdata._escapify(chunk)}"' for chunk in chunks)
                if "\\\\" in text or len(text) > 512:
                    raise self.invalid("Data is too long or has a backslash")
                return text
        return str(data)


def _name(body: dict[str, Any], zone: str) -> str:
    return zone if body["name"] == "@" else f"{body['name']}.{zone}"


def _shown(record: Stored, zone: str) -> dict[str, Any]:
    """Names are relative, targets absolute without their final dot, the domain itself as @."""
    rdata: Any = record.rdata
    name = "@" if record.name == zone else record.name.removesuffix("." + zone)
    shown: dict[str, Any] = {"id": record.id, "type": record.type, "name": name, "ttl": record.ttl}
    shown |= {"priority": None, "port": None, "weight": None, "flags": None, "tag": None, "data": record.text}
    if record.type in ("CNAME", "NS"):
        shown["data"] = _target(record.text, zone)
    if record.type == "MX":
        shown |= {"priority": rdata.preference, "data": _target(rdata.exchange.to_text(), zone)}
    if record.type == "SRV":
        shown |= {"priority": rdata.priority, "weight": rdata.weight, "port": rdata.port}
        shown["data"] = _target(rdata.target.to_text(), zone)
    if record.type == "CAA":
        shown |= {"flags": rdata.flags, "tag": rdata.tag.decode(), "data": rdata.value.decode()}
    if record.type == "TXT":
        shown["data"] = b"".join(rdata.strings).decode()
    return shown


def _target(name: str, zone: str) -> str:
    return "@" if name == zone else name.rstrip(".") or "."
