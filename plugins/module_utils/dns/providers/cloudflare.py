# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cloudflare, by its API v4 (https://developers.cloudflare.com/api/resources/dns/)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.contract import (
    Capabilities,
    Change,
    ConflictError,
    IncompleteError,
    ZoneMissingError,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.http import (
    Answer,
    Http,
    RefusedError,
    Transport,
    header_auth,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.pending import (
    MIXED_TTL,
    Record,
    Steps,
    compose,
    record_steps,
    supported,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.rdata import canonical, text_or_plain
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.setting import Setting
from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import RRset, text_value

SETTINGS = {
    "api_token": Setting("API token with the permissions Zone: Read and DNS: Edit for the zone", secret=True),
    "api_url": Setting("base URL of the API", required=False),
}
# TTL 1 means "automatic", which is 300 s (developers.cloudflare.com/dns/manage-dns-records/reference/ttl).
AUTOMATIC_TTL = 1
PAGE_SIZE = 100
# Records in one batch, on the smallest plan
# (developers.cloudflare.com/dns/manage-dns-records/how-to/batch-record-changes).
BATCH_SIZE = 200


class Cloudflare:
    """Records, changed by batches. A batch is one transaction of the provider's database, at most 200 records;
    a call that fits into one is made as a whole or not at all, a larger one may stop between two batches. Each record
    set is changed within one batch. apply made again completes what is missing.

    Nothing is ever proxied, since mail cannot pass Cloudflare's proxy. A proxied record is listed with a TTL that
    nobody wants, so that a plan sees a difference and switches it back. SOA and the apex's NS are not shown by this
    API.
    """

    capabilities = Capabilities(
        types=frozenset({"A", "AAAA", "CAA", "CNAME", "MX", "NS", "PTR", "SRV", "TLSA", "TXT"}),
        minimum_ttl=60,
        max_text=2048,
        atomic=False,
        guarded=False,
    )

    def __init__(
        self,
        *,
        api_token: str,
        api_url: str = "https://api.cloudflare.com/client/v4",
        transport: Transport | None = None,
    ) -> None:
        self._zone_ids: dict[str, str] = {}
        self._http = Http(
            "Cloudflare",
            api_url,
            header_auth(Authorization=f"Bearer {api_token}"),
            (api_token,),
            transport or Transport(),
            explain=_explain,
        )

    def records(self, zone: str) -> list[RRset]:
        """As in the contract; without SOA and the apex's NS, which this API does not show."""
        return compose(self._records(zone))

    def get(self, zone: str, name: str, kind: str) -> RRset | None:
        """As in the contract."""
        found = compose(self._records(zone, {"name.exact": name.rstrip("."), "type": kind}))
        return next((rrset for rrset in found if (rrset.name, rrset.type) == (name, kind)), None)

    def apply(self, zone: str, changes: Sequence[Change]) -> None:
        """As in the contract."""
        wanted = supported(changes, self.capabilities)
        if wanted:
            self._http.settle(lambda: self._make(zone, wanted))

    def _make(self, zone: str, changes: Sequence[Change]) -> None:
        batches: list[Steps] = []
        size = BATCH_SIZE
        for _change, steps in record_steps(changes, self._records(zone)):
            if size + len(steps) > BATCH_SIZE:
                batches.append(Steps([], [], []))
                size = 0
            size += len(steps)
            batches[-1].update.extend(steps.update)
            batches[-1].add.extend(steps.add)
            batches[-1].delete.extend(steps.delete)
        path = f"/zones/{self._zone_id(zone)}/dns_records/batch"
        for batch in batches:
            body = {
                "deletes": [{"id": record.id} for record in batch.delete],
                "patches": [{"id": identifier, **_written(record)} for identifier, record in batch.update],
                "posts": [_written(record) for record in batch.add],
            }
            try:
                self._http.call("POST", path, body={key: value for key, value in body.items() if value})
            except RefusedError as error:
                if _codes(error.answer) & CONFLICTS:
                    raise ConflictError(str(error)) from None
                raise

    def _zone_id(self, zone: str) -> str:
        if zone not in self._zone_ids:
            name = zone.rstrip(".")
            found = self._http.call("GET", "/zones", query={"name": name}).json()["result"]
            identifiers = [entry["id"] for entry in found if entry["name"] == name]
            if not identifiers:
                raise ZoneMissingError(f"Cloudflare: no zone {name}, or the token may not see it")
            self._zone_ids[zone] = identifiers[0]
        return self._zone_ids[zone]

    def _records(self, zone: str, only: dict[str, str] | None = None) -> Iterator[Record]:
        path = f"/zones/{self._zone_id(zone)}/dns_records"
        page, seen, total = 1, 0, 1
        while seen < total:
            answer = self._http.call(
                "GET", path, query={**(only or {}), "page": page, "per_page": PAGE_SIZE, "order": "name"}
            ).json()
            total = answer["result_info"]["total_count"]
            if not answer["result"] and seen < total:
                raise IncompleteError(f"Cloudflare: {seen} of {total} records of {zone} listed")
            for entry in answer["result"]:
                seen += 1
                yield _read(entry, zone)
            page += 1


# Records that exist already in another form, or that are gone: 81044 (no such record), 81053 and 81054 (an address or
# CNAME record of that name exists), 81057 and 81058 (the same record exists).
CONFLICTS = frozenset({81044, 81053, 81054, 81057, 81058})


def _codes(answer: Answer) -> set[int]:
    return {error["code"] for error in answer.json()["errors"]}


def _explain(answer: Answer) -> str:
    errors = answer.json()["errors"]
    return "; ".join(
        f"{error['message']} ({error['code']})" for top in errors for error in [top, *top.get("error_chain", [])]
    )


def _read(entry: dict[str, Any], zone: str) -> Record:
    kind, content, data = entry["type"], entry.get("content") or "", entry.get("data") or {}
    if kind == "TXT":
        value = text_value(text_or_plain(content))
    elif kind == "MX":
        value = f"{entry['priority']} {_dotted(content)}"
    elif kind == "SRV":
        # A target of "." was once given as false.
        value = f"{data['priority']} {data['weight']} {data['port']} {_dotted(data['target'] or '.')}"
    elif kind == "CAA":
        value = f"{data['flags']} {data['tag']} {text_value(data['value'])}"
    elif kind == "TLSA":
        value = f"{data['usage']} {data['selector']} {data['matching_type']} {data['certificate']}"
    elif kind in ("CNAME", "NS", "PTR"):
        value = _dotted(content)
    else:
        value = content
    ttl = 300 if entry["ttl"] == AUTOMATIC_TTL else entry["ttl"]
    if entry.get("proxied"):
        ttl = MIXED_TTL
    return Record(entry["id"], _dotted(entry["name"]).lower(), kind, ttl, canonical(kind, value, zone))


def _dotted(name: str) -> str:
    return name if name.endswith(".") else name + "."


def _written(record: Record) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": record.type, "name": record.name.rstrip("."), "ttl": record.ttl, "proxied": False}
    fields = record.value.split()
    if record.type == "MX":
        entry |= {"priority": int(fields[0]), "content": fields[1]}
    elif record.type == "SRV":
        numbers = {"priority": int(fields[0]), "weight": int(fields[1]), "port": int(fields[2])}
        entry["data"] = {**numbers, "target": fields[3].rstrip(".") or "."}
    elif record.type == "CAA":
        flags, tag, text = record.value.split(None, 2)
        entry["data"] = {"flags": int(flags), "tag": tag, "value": text_or_plain(text).decode()}
    elif record.type == "TLSA":
        numbers = {"usage": int(fields[0]), "selector": int(fields[1]), "matching_type": int(fields[2])}
        entry["data"] = {**numbers, "certificate": fields[3]}
    else:
        entry["content"] = record.value
    return entry
