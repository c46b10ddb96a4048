# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The zones of OVHcloud's API v1."""

from __future__ import annotations

import hashlib
import time
from typing import Any

from ansible_collections.mailwright.server.tests.unit.providers.imitations.server import (
    Imitation,
    RefusalError,
    Reply,
    Request,
    Stored,
)

APPLICATION_KEY = "ovh-application"
APPLICATION_SECRET = "ovh-secret-8e1d"
CONSUMER_KEY = "ovh-consumer-4c77"
DEFAULT_TTL = 3600
# The server's clock is ahead of everybody else's.
AHEAD = 5000


class OvhImitation(Imitation):
    def __init__(self) -> None:
        super().__init__()
        # What the name servers have: the zone as it was at the last refresh.
        self.served: dict[str, list[tuple[str, str, int, str]]] = {}

    def authorised(self, request: Request) -> bool:
        if request.path == ("auth", "time"):
            return True
        stamp = request.headers.get("x-ovh-timestamp", "0")
        body = request.body.decode()
        parts = [APPLICATION_SECRET, CONSUMER_KEY, request.method, self.url + request.target, body, stamp]
        signature = "$1$" + hashlib.sha1("+".join(parts).encode()).hexdigest()
        return (
            abs(int(stamp) - time.time() - AHEAD) < 60
            and request.headers.get("x-ovh-application") == APPLICATION_KEY
            and request.headers.get("x-ovh-consumer") == CONSUMER_KEY
            and request.headers.get("x-ovh-signature") == signature
        )

    def unauthorised(self) -> Reply:
        return _error(403, "This credential is not valid", "INVALID_CREDENTIAL")

    def failed(self) -> Reply:
        return _error(500, "Internal server error", "INTERNAL_SERVER_ERROR")

    def invalid(self, text: str) -> RefusalError:
        return RefusalError(_error(400, text, "BAD_REQUEST"))

    def handle(self, request: Request) -> Reply:
        if request.path == ("auth", "time"):
            return Reply(200, int(time.time()) + AHEAD)
        zone = request.path[2] + "."
        if zone not in self.zones:
            return _error(404, "This service does not exist", "NOT_FOUND")
        match request.method, request.path[3:]:
            case "GET", ("soa",):
                return Reply(200, {"ttl": DEFAULT_TTL, "serial": 1})
            case "GET", ("record",):
                return Reply(200, [record.id for record in self._filtered(zone, request.query)])
            case "POST", ("record",):
                self.write()
                body = request.json()
                name = f"{body['subDomain']}.{zone}" if body["subDomain"] else zone
                record = self.store(zone, name, body["fieldType"], max(body["ttl"], 60), body["target"])
                return Reply(200, _shown(record, zone))
            case "POST", ("refresh",):
                self.write()
                records = self.zones[zone]
                self.served[zone] = [(record.name, record.type, record.ttl, record.text) for record in records]
                return Reply(200)
            case method, ("record", identifier):
                return self._record(zone, method, identifier, request)
        return _error(405, f"no route for {request.target}", "NOT_ALLOWED")

    def _filtered(self, zone: str, query: dict[str, str]) -> list[Stored]:
        def wanted(record: Stored) -> bool:
            label = "" if record.name == zone else record.name.removesuffix("." + zone)
            kind = record.more.get("fieldType", record.type)
            return query.get("subDomain", label) == label and query.get("fieldType", kind) == kind

        return [record for record in self.zones[zone] if wanted(record)]

    def _record(self, zone: str, method: str, identifier: str, request: Request) -> Reply:
        found = self.by_id(zone, identifier)
        if found is None:
            return _error(404, "The requested object does not exist", "NOT_FOUND")
        if method == "GET":
            # There are no pages; reading the n-th record is the n-th request of a listing.
            self.page(self.zones[zone], self.zones[zone].index(found) + 1, 1)
            return Reply(200, _shown(found, zone))
        self.write()
        if method == "DELETE":
            self.remove(zone, found)
            return Reply(200)
        body: dict[str, Any] = request.json()
        found.rdata = self.parse(zone, found.name, found.type, body["ttl"], body["target"])
        found.ttl = body["ttl"]
        return Reply(200)


def _shown(record: Stored, zone: str) -> dict[str, Any]:
    label = "" if record.name == zone else record.name.removesuffix("." + zone)
    kind = record.more.get("fieldType", record.type)
    target = record.text.strip('"') if kind != record.type else record.text
    ttl = 0 if record.ttl == DEFAULT_TTL else record.ttl
    return {"id": record.id, "zone": zone[:-1], "subDomain": label, "fieldType": kind, "target": target, "ttl": ttl}


def _error(status: int, text: str, code: str) -> Reply:
    return Reply(status, {"message": text, "errorCode": code, "httpCode": str(status)})
