# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cloudflare's API v4, as far as record changes need it."""

from __future__ import annotations

from typing import Any

import dns.rdata
from ansible_collections.mailwright.server.tests.unit.providers.imitations.server import (
    Imitation,
    RefusalError,
    Reply,
    Request,
    Stored,
)

TOKEN = "cf-token-7d1f0b"


class CloudflareImitation(Imitation):
    def authorised(self, request: Request) -> bool:
        return request.headers.get("authorization") == f"Bearer {TOKEN}"

    def unauthorised(self) -> Reply:
        return _errors(403, 9109, "Invalid access token")

    def failed(self) -> Reply:
        return _errors(500, 10000, "internal error")

    def invalid(self, text: str) -> RefusalError:
        code = 81058 if "exists" in text else 81053 if "alone" in text else 9005
        return RefusalError(_errors(400, code, text))

    def handle(self, request: Request) -> Reply:
        match request.method, request.path:
            case "GET", ("zones",):
                name = request.query["name"]
                found = [{"id": f"id-of-{name}", "name": name}] if name + "." in self.zones else []
                return self._listing(found, 1, 50)
            case "GET", ("zones", identifier, "dns_records"):
                return self._list(self._zone(identifier), request.query)
            case "POST", ("zones", identifier, "dns_records", "batch"):
                return self._batch(self._zone(identifier), request.json())
        return _errors(404, 7003, f"no route for {request.target}")

    def _zone(self, identifier: str) -> str:
        return identifier.removeprefix("id-of-") + "."

    def _listing(self, found: list[Any], page: int, size: int) -> Reply:
        shown = found[(page - 1) * size : page * size]
        told = {"page": page, "per_page": size, "count": len(shown), "total_count": len(found)}
        return Reply(200, {"success": True, "errors": [], "result": shown, "result_info": told})

    def _list(self, zone: str, query: dict[str, str]) -> Reply:
        found = [
            record
            for record in self.zones[zone]
            if query.get("name.exact", record.name.rstrip(".")) == record.name.rstrip(".")
            and query.get("type", record.type) == record.type
        ]
        page = int(query.get("page", "1"))
        size = min(int(query.get("per_page", "100")), self.page_size)
        self.page(found, page, size)
        return self._listing([self._shown(record) for record in found], page, size)

    def _batch(self, zone: str, body: dict[str, list[dict[str, Any]]]) -> Reply:
        assert body and sum(map(len, body.values())) <= 200
        self.write()
        before = list(self.zones[zone])
        kept = [(record, record.ttl, record.rdata) for record in before]
        try:
            for entry in body.get("deletes", []):
                self.remove(zone, self._record(zone, entry))
            for entry in body.get("patches", []):
                record = self._record(zone, entry)
                record.rdata = self.parse(zone, entry["name"] + ".", entry["type"], entry["ttl"], _text(entry))
                record.ttl = entry["ttl"]
                record.more["proxied"] = entry["proxied"]
            for entry in body.get("posts", []):
                assert entry["proxied"] is False
                self.store(zone, entry["name"] + ".", entry["type"], entry["ttl"], _text(entry))
        except RefusalError:
            self.zones[zone] = before
            for record, ttl, rdata in kept:
                record.ttl, record.rdata = ttl, rdata
            raise
        return Reply(200, {"success": True, "errors": [], "result": {}})

    def _record(self, zone: str, entry: dict[str, Any]) -> Stored:
        found = self.by_id(zone, entry["id"])
        if found is None:
            raise RefusalError(_errors(404, 81044, "Record does not exist."))
        return found

    def _shown(self, record: Stored) -> dict[str, Any]:
        """Names lack their final dot; TXT shows as it was written, the structured types also in parts."""
        rdata: Any = record.rdata
        shown: dict[str, Any] = {"id": str(record.id), "name": record.name.rstrip("."), "type": record.type}
        shown |= {"ttl": record.ttl, "proxied": False, "content": record.text, **record.more}
        if record.type == "TXT" and len(rdata.strings) == 1 and rdata.strings[0].isalnum():
            shown["content"] = rdata.strings[0].decode()
        if record.type in ("CNAME", "NS", "PTR"):
            shown["content"] = _undotted(record.text)
        if record.type == "MX":
            shown |= {"priority": rdata.preference, "content": _undotted(rdata.exchange.to_text())}
        if record.type == "SRV":
            shown["data"] = {"priority": rdata.priority, "weight": rdata.weight, "port": rdata.port}
            shown["data"]["target"] = _undotted(rdata.target.to_text())
        if record.type == "CAA":
            shown["data"] = {"flags": rdata.flags, "tag": rdata.tag.decode(), "value": rdata.value.decode()}
        if record.type == "TLSA":
            shown["data"] = {"usage": rdata.usage, "selector": rdata.selector, "matching_type": rdata.mtype}
            shown["data"]["certificate"] = rdata.cert.hex().upper()
        return shown


def _undotted(name: str) -> str:
    return name.rstrip(".") or "."


def _text(entry: dict[str, Any]) -> str:
    data = entry.get("data", {})
    match entry["type"]:
        case "MX":
            return f"{entry['priority']} {_dotted(entry['content'])}"
        case "SRV":
            return f"{data['priority']} {data['weight']} {data['port']} {_target(data['target'])}"
        case "CAA":
            return f'{data["flags"]} {data["tag"]} "{dns.rdata._escapify(data["value"].encode())}"'
        case "TLSA":
            return f"{data['usage']} {data['selector']} {data['matching_type']} {data['certificate']}"
        case "CNAME" | "NS" | "PTR":
            return _dotted(entry["content"])
    return str(entry["content"])


def _target(name: str) -> str:
    assert name == "." or not name.endswith(".")
    return _dotted(name)


def _dotted(name: str) -> str:
    return name if name.endswith(".") else name + "."


def _errors(status: int, code: int, text: str) -> Reply:
    return Reply(status, {"success": False, "errors": [{"code": code, "message": text}], "result": None})
