# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gandi's LiveDNS API v5."""

from __future__ import annotations

from typing import Any

from ansible_collections.mailwright.server.tests.unit.providers.imitations.server import (
    Imitation,
    RefusalError,
    Reply,
    Request,
    Stored,
)

TOKEN = "gandi-pat-51be"


class GandiImitation(Imitation):
    minimum_ttl = 300

    def authorised(self, request: Request) -> bool:
        return request.headers.get("authorization") == f"Bearer {TOKEN}"

    def unauthorised(self) -> Reply:
        return _error(403, "Access was denied to this resource.")

    def failed(self) -> Reply:
        return _error(502, "Bad Gateway")

    def invalid(self, text: str) -> RefusalError:
        errors = [{"location": "body", "name": "rrset_values", "description": text}]
        return RefusalError(Reply(400, {"code": 400, "status": "error", "errors": errors}))

    def handle(self, request: Request) -> Reply:
        zone = request.path[1] + "."
        if zone not in self.zones:
            return _error(404, "Unknown domain")
        match request.method, request.path[2:]:
            case "GET", ():
                return Reply(200, {"fqdn": zone[:-1]})
            case "GET", ("records",):
                sets = list(self.sets(zone).values())
                page = self.page(sets, int(request.query["page"]), int(request.query["per_page"]))
                return Reply(200, [_shown(zone, records) for records in page], {"Total-Count": str(len(sets))})
            case method, ("records", label, kind):
                name = zone if label == "@" else f"{label}.{zone}"
                return self._rrset(zone, name, kind, method, request)
        return _error(405, f"no route for {request.target}")

    def _rrset(self, zone: str, name: str, kind: str, method: str, request: Request) -> Reply:
        found = self.find(zone, name, kind)
        if method == "PUT":
            self.write()
            self.replace(zone, name, kind, request.json()["rrset_ttl"], request.json()["rrset_values"])
            return Reply(201, {"message": "DNS Record Created"})
        if not found:
            return _error(404, f"Can't find the DNS record {name}/{kind} in the zone")
        if method == "GET":
            return Reply(200, _shown(zone, found))
        self.write()
        self.replace(zone, name, kind, 0, [])
        return Reply(204)


def _shown(zone: str, records: list[Stored]) -> dict[str, Any]:
    """Targets inside the zone are shown relative to it."""
    first = records[0]
    name = "@" if first.name == zone else first.name.removesuffix("." + zone)
    values = [record.text for record in records]
    if first.type in ("CNAME", "MX", "SRV"):
        values = [value.removesuffix("." + zone) for value in values]
    return {"rrset_name": name, "rrset_type": first.type, "rrset_ttl": first.ttl, "rrset_values": values}


def _error(status: int, text: str) -> Reply:
    return Reply(status, {"code": status, "message": text, "object": "HTTPError", "cause": "x"})
