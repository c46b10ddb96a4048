# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""DigitalOcean, by its API v2 (https://docs.digitalocean.com/reference/api/reference/domain-records/)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.dns.canonical import text_octets
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.contract import (
    Capabilities,
    Change,
    IncompleteError,
    UnsupportedError,
    ZoneMissingError,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.http import (
    Answer,
    Http,
    Transport,
    header_auth,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.pending import (
    Record,
    compose,
    record_steps,
    supported,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.rdata import (
    canonical,
    relative,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.setting import Setting
from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import RRset, text_value

SETTINGS = {
    "token": Setting("personal access token with the scopes domain:read, :create, :update and :delete", secret=True),
    "api_url": Setting("base URL of the API", required=False),
}
PAGE_SIZE = 200
# The length that is checked is that of the quoted text; no page of theirs says so, DNSControl found it out.
LONGEST_QUOTED = 509


class DigitalOcean:
    """Records, changed one by one: new ones first, then old ones are deleted; a CNAME is turned into the new one.

    A call may stop between any two records. Then all old or all new values of the record set in work are live,
    perhaps with some of the others. apply made again makes the rest. There is no TLSA, no text with a backslash,
    no CAA value with a parameter, no null MX.
    """

    capabilities = Capabilities(
        types=frozenset({"A", "AAAA", "CAA", "CNAME", "MX", "NS", "SRV", "TXT"}),
        minimum_ttl=30,
        max_text=500,
        atomic=False,
        guarded=False,
    )

    def __init__(
        self,
        *,
        token: str,
        api_url: str = "https://api.digitalocean.com/v2",
        transport: Transport | None = None,
    ) -> None:
        self._http = Http(
            "DigitalOcean",
            api_url,
            header_auth(Authorization=f"Bearer {token}"),
            (token,),
            transport or Transport(),
            explain=_explain,
        )

    def records(self, zone: str) -> list[RRset]:
        """As in the contract."""
        return compose(self._records(zone))

    def get(self, zone: str, name: str, kind: str) -> RRset | None:
        """As in the contract."""
        found = compose(self._records(zone, {"name": name.rstrip("."), "type": kind}))
        return next((rrset for rrset in found if (rrset.name, rrset.type) == (name, kind)), None)

    def apply(self, zone: str, changes: Sequence[Change]) -> None:
        """As in the contract."""
        wanted = supported(changes, self.capabilities)
        for change in wanted:
            _check(change)
        if wanted:
            self._http.settle(lambda: self._make(zone, wanted))

    def _make(self, zone: str, changes: Sequence[Change]) -> None:
        path = f"{_domain(zone)}/records"
        for _change, steps in record_steps(changes, self._records(zone)):
            for identifier, record in steps.update:
                self._http.call("PUT", f"{path}/{identifier}", body=_written(record, zone))
            for record in steps.add:
                self._http.call("POST", path, body=_written(record, zone))
            for record in steps.delete:
                self._http.call("DELETE", f"{path}/{record.id}", accept={404})

    def _records(self, zone: str, only: dict[str, str] | None = None) -> list[Record]:
        found: list[Record] = []
        page, total = 1, 1
        while len(found) < total:
            answer = self._http.call(
                "GET",
                f"{_domain(zone)}/records",
                query={**(only or {}), "page": page, "per_page": PAGE_SIZE},
                accept={404},
            )
            if answer.status == 404:
                raise ZoneMissingError(f"DigitalOcean: the account has no domain {zone.rstrip('.')}")
            told = answer.json()
            found += [_read(entry, zone) for entry in told["domain_records"]]
            total = told["meta"]["total"]
            if not told["domain_records"] and len(found) < total:
                raise IncompleteError(f"DigitalOcean: {len(found)} of {total} records of {zone} listed")
            page += 1
        return found


def _domain(zone: str) -> str:
    return f"/domains/{zone.rstrip('.')}"


def _check(change: Change) -> None:
    """Raise UnsupportedError for values that DigitalOcean refuses or garbles."""
    for value in change.new.values if change.new else ():
        problem = None
        if change.type == "TXT":
            if b"\\" in text_octets(value) or not text_octets(value):
                problem = "an empty text or one with a backslash"
            elif len(value) > LONGEST_QUOTED:
                problem = f"a text of more than {LONGEST_QUOTED} characters, quotes and escapes counted"
        elif change.type == "CAA" and set(_caa_text(value)) & set("; "):
            problem = "a CAA value with a parameter, or one that forbids all"
        elif change.type == "MX" and value.endswith(" ."):
            problem = "a null MX"
        if problem:
            raise UnsupportedError(f"{change.name} {change.type}: DigitalOcean does not take {problem}")


def _caa_text(value: str) -> str:
    return text_octets(value.split(None, 2)[2]).decode()


def _read(entry: dict[str, Any], zone: str) -> Record:
    kind, data = entry["type"], entry["data"]
    if kind in ("CNAME", "MX", "NS", "SRV"):
        # Names are absolute without their final dot, but @ is the domain itself and a lone dot the root.
        data = data if data in ("@", ".") or data.endswith(".") else data + "."
    if kind == "MX":
        data = f"{entry['priority']} {data}"
    elif kind == "SRV":
        data = f"{entry['priority']} {entry['weight']} {entry['port']} {data}"
    elif kind == "CAA":
        data = f"{entry['flags']} {entry['tag']} {text_value(data.rstrip('.'))}"
    elif kind == "TXT":
        data = text_value(data)
    name = entry["name"].lower()
    return Record(
        entry["id"], zone if name == "@" else f"{name}.{zone}", kind, entry["ttl"], canonical(kind, data, zone)
    )


def _written(record: Record, zone: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": record.type, "name": relative(record.name, zone, "@"), "ttl": record.ttl}
    fields = record.value.split()
    if record.type == "MX":
        return entry | {"priority": int(fields[0]), "data": fields[1]}
    if record.type == "SRV":
        numbers = {"priority": int(fields[0]), "weight": int(fields[1]), "port": int(fields[2])}
        return entry | numbers | {"data": fields[3]}
    if record.type == "CAA":
        # The value is wanted with a final dot and given back without it.
        domain = _caa_text(record.value)
        data = domain if fields[1] == "iodef" else domain + "."
        return entry | {"flags": int(fields[0]), "tag": fields[1], "data": data}
    if record.type == "TXT":
        return entry | {"data": text_octets(record.value).decode()}
    return entry | {"data": record.value}


def _explain(answer: Answer) -> str:
    return str(answer.json()["message"])
