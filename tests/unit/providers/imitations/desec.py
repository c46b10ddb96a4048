# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""deSEC's API v1, as far as record sets need it."""

from __future__ import annotations

from typing import Any

from ansible_collections.mailwright.server.tests.unit.providers.imitations.server import (
    Imitation,
    RefusalError,
    Reply,
    Request,
    Stored,
)

TOKEN = "desec-token-c41e"


class DesecImitation(Imitation):
    minimum_ttl = 3600

    def authorised(self, request: Request) -> bool:
        return request.headers.get("authorization") == f"Token {TOKEN}"

    def unauthorised(self) -> Reply:
        return Reply(401, {"detail": "Invalid token."})

    def failed(self) -> Reply:
        return Reply(503, "<html>maintenance</html>")

    def invalid(self, text: str) -> RefusalError:
        return RefusalError(Reply(400, [{}, {"non_field_errors": [text]}]))

    def handle(self, request: Request) -> Reply:
        _domains, domain, *rest = request.path
        zone = domain + "."
        if zone not in self.zones:
            return Reply(404, {"detail": "Not found."})
        match request.method, rest:
            case "GET", []:
                return Reply(200, {"name": domain, "minimum_ttl": self.minimum_ttl})
            case "GET", ["rrsets"]:
                return self._list(zone, request)
            case "GET", ["rrsets", subname, kind]:
                name = zone if subname == "@" else f"{subname}.{zone}"
                found = self.find(zone, name, kind)
                return Reply(200, _shown(zone, found)) if found else Reply(404, {"detail": "Not found."})
            case "PATCH", ["rrsets"]:
                return self._bulk(zone, request.json())
        return Reply(405, {"detail": f"no route for {request.target}"})

    def _list(self, zone: str, request: Request) -> Reply:
        sets = list(reversed(self.sets(zone).values()))
        cursor = request.query["cursor"]
        page = int(cursor.removeprefix("page=") or 1)
        shown = [_shown(zone, records) for records in self.page(sets, page, 500)]
        base = f"{self.url}/domains/{zone[:-1]}/rrsets/?cursor="
        links = [f'<{base}>; rel="first"']
        if page * self.page_size < len(sets):
            links.append(f'<{base}page%3D{page + 1}>; rel="next"')
        return Reply(200, shown, {"Link": ", ".join(links)})

    def _bulk(self, zone: str, entries: list[dict[str, Any]]) -> Reply:
        """Made as a whole or not at all; the order of the entries does not matter."""
        self.write()
        before = list(self.zones[zone])
        try:
            for entry in sorted(entries, key=lambda entry: bool(entry["records"])):
                assert "@" not in entry["subname"]
                name = f"{entry['subname']}.{zone}" if entry["subname"] else zone
                self.replace(zone, name, entry["type"], entry.get("ttl", 0), entry["records"])
        except RefusalError:
            self.zones[zone] = before
            raise
        return Reply(200, [])


def _shown(zone: str, records: list[Stored]) -> dict[str, Any]:
    first = records[0]
    subname = "" if first.name == zone else first.name.removesuffix("." + zone)
    values = [record.text for record in records]
    return {"subname": subname, "name": first.name, "type": first.type, "ttl": first.ttl, "records": values}
