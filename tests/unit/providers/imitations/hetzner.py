# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The DNS part of Hetzner's Cloud API v1."""

from __future__ import annotations

from typing import Any

from ansible_collections.mailwright.server.tests.unit.providers.imitations.server import (
    Imitation,
    RefusalError,
    Reply,
    Request,
    Stored,
)

TOKEN = "hcloud-token-9a23"
ZONE_TTL = 3600


class HetznerImitation(Imitation):
    def __init__(self) -> None:
        super().__init__()
        # Actions that were begun, with how often they will still be seen running.
        self.actions: dict[int, int] = {}

    def authorised(self, request: Request) -> bool:
        return request.headers.get("authorization") == f"Bearer {TOKEN}"

    def unauthorised(self) -> Reply:
        return _error(401, "unauthorized", "unable to authenticate")

    def failed(self) -> Reply:
        return _error(500, "server_error", "internal error")

    def invalid(self, text: str) -> RefusalError:
        return RefusalError(_error(422, "invalid_input", text))

    def handle(self, request: Request) -> Reply:
        if request.path[0] == "actions":
            number = int(request.path[1])
            self.actions[number] -= 1
            return Reply(200, {"action": self._action(number)})
        zone = request.path[1] + "."
        if zone not in self.zones:
            return _error(404, "not_found", "zone not found")
        match request.method, request.path[2:]:
            case "GET", ():
                return Reply(200, {"zone": {"name": zone[:-1], "ttl": ZONE_TTL, "mode": "primary"}})
            case "GET", ("rrsets",):
                return self._list(zone, request.query)
            case "POST", ("rrsets",):
                return self._create(zone, request.json())
            case method, ("rrsets", label, kind, *rest):
                name = zone if label == "@" else f"{label}.{zone}"
                found = self.find(zone, name, kind)
                if not found:
                    return _error(404, "not_found", "rrset not found")
                if method == "GET":
                    return Reply(200, {"rrset": _shown(zone, found)})
                return self._change(zone, found, method, rest, request)
        return _error(405, "method_not_allowed", f"no route for {request.target}")

    def _list(self, zone: str, query: dict[str, str]) -> Reply:
        sets = list(self.sets(zone).values())
        page = int(query["page"])
        shown = [_shown(zone, records) for records in self.page(sets, page, int(query["per_page"]))]
        more = page * self.page_size < len(sets)
        told = {"page": page, "next_page": page + 1 if more else None, "total_entries": len(sets)}
        return Reply(200, {"rrsets": shown, "meta": {"pagination": told}})

    def _create(self, zone: str, body: dict[str, Any]) -> Reply:
        name = zone if body["name"] == "@" else f"{body['name']}.{zone}"
        self.write()
        if self.find(zone, name, body["type"]):
            return _error(409, "uniqueness_error", "the RRSet exists")
        self.replace(zone, name, body["type"], body["ttl"], [record["value"] for record in body["records"]])
        return self._begun(201)

    def _change(self, zone: str, found: list[Stored], method: str, rest: list[str], request: Request) -> Reply:
        first = found[0]
        self.write()
        if method == "DELETE" and not rest:
            self.replace(zone, first.name, first.type, first.ttl, [])
        elif rest == ["actions", "set_records"]:
            texts = [record["value"] for record in request.json()["records"]]
            self.replace(zone, first.name, first.type, first.ttl, texts)
        elif rest == ["actions", "change_ttl"]:
            texts = [record.text for record in found]
            self.replace(zone, first.name, first.type, request.json()["ttl"], texts)
        else:
            return _error(404, "not_found", f"no route for {request.target}")
        return self._begun(201)

    def _begun(self, status: int) -> Reply:
        number = self.new_id()
        self.actions[number] = 2
        return Reply(status, {"action": self._action(number)})

    def _action(self, number: int) -> dict[str, Any]:
        status = "running" if self.actions[number] > 0 else "success"
        return {"id": number, "status": status, "progress": 50, "error": None}


def _shown(zone: str, records: list[Stored]) -> dict[str, Any]:
    first = records[0]
    name = "@" if first.name == zone else first.name.removesuffix("." + zone)
    ttl = None if first.ttl == ZONE_TTL else first.ttl
    values = [{"value": record.text, "comment": ""} for record in records]
    return {"id": f"{name}/{first.type}", "name": name, "type": first.type, "ttl": ttl, "records": values}


def _error(status: int, code: str, text: str) -> Reply:
    return Reply(status, {"error": {"code": code, "message": text, "details": {}}})
