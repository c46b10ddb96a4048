# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gandi, by the LiveDNS API v5 (https://api.gandi.net/docs/livedns/)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.contract import (
    Capabilities,
    Change,
    IncompleteError,
    ZoneMissingError,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.http import (
    Answer,
    Http,
    Transport,
    header_auth,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.pending import (
    by_key,
    supported,
    unfinished,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.rdata import canonical, relative
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.setting import Setting
from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import RRset

SETTINGS = {
    "token": Setting(
        "personal access token with the permission to manage domain technical configurations", secret=True
    ),
    "api_url": Setting("base URL of the API", required=False),
}
PAGE_SIZE = 100


class Gandi:
    """Record sets, each replaced or deleted by one request, which may be sent again with the same outcome.

    A record set is never half its old and half its new values. A call may stop between two record sets; apply made
    again makes the rest. Gandi does not compare with the old value: a change that somebody else makes between our
    reading and our writing is overwritten. SOA is not shown by this API.
    """

    capabilities = Capabilities(
        types=frozenset({"A", "AAAA", "CAA", "CNAME", "MX", "NS", "PTR", "SRV", "TLSA", "TXT"}),
        minimum_ttl=300,
        # Our bound; Gandi documents none.
        max_text=4096,
        atomic=False,
        guarded=False,
    )

    def __init__(
        self,
        *,
        token: str,
        api_url: str = "https://api.gandi.net/v5/livedns",
        transport: Transport | None = None,
    ) -> None:
        self._http = Http(
            "Gandi",
            api_url,
            header_auth(Authorization=f"Bearer {token}"),
            (token,),
            transport or Transport(),
            explain=_explain,
        )

    def records(self, zone: str) -> list[RRset]:
        """As in the contract; without SOA, which this API does not show."""
        return [_read(entry, zone) for entry in self._entries(zone)]

    def get(self, zone: str, name: str, kind: str) -> RRset | None:
        """As in the contract."""
        answer = self._http.call("GET", _rrset(zone, relative(name, zone, "@"), kind), accept={404})
        if answer.status == 404:
            if self._http.call("GET", _domain(zone), accept={404}).status == 404:
                raise _missing(zone)
            return None
        return _read(answer.json(), zone)

    def apply(self, zone: str, changes: Sequence[Change]) -> None:
        """As in the contract."""
        wanted = supported(changes, self.capabilities)
        if wanted:
            self._http.settle(lambda: self._make(zone, wanted))

    def _make(self, zone: str, changes: Sequence[Change]) -> None:
        entries = self._entries(zone)
        # Gandi tells names that differ in case apart, so an existing one is addressed as it was written.
        written = {entry["rrset_name"].lower(): entry["rrset_name"] for entry in entries}
        for change in unfinished(changes, by_key(_read(entry, zone) for entry in entries)):
            name = relative(change.name, zone, "@")
            path = _rrset(zone, written.get(name, name), change.type)
            if change.new is None:
                self._http.call("DELETE", path, accept={404})
            else:
                self._http.call(
                    "PUT", path, body={"rrset_ttl": change.new.ttl, "rrset_values": list(change.new.values)}
                )

    def _entries(self, zone: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        page, total = 1, 1
        while len(found) < total:
            answer = self._http.call(
                "GET", f"{_domain(zone)}/records", query={"page": page, "per_page": PAGE_SIZE}, accept={404}
            )
            if answer.status == 404:
                raise _missing(zone)
            entries = answer.json(list)
            found += entries
            total = int(answer.headers.get("total-count", len(found)))
            if not entries and len(found) < total:
                raise IncompleteError(f"Gandi: {len(found)} of {total} record sets of {zone} listed")
            page += 1
        return found


def _domain(zone: str) -> str:
    return f"/domains/{zone.rstrip('.')}"


def _rrset(zone: str, name: str, kind: str) -> str:
    return f"{_domain(zone)}/records/{quote(name, safe='@')}/{kind}"


def _missing(zone: str) -> ZoneMissingError:
    return ZoneMissingError(f"Gandi: no domain {zone.rstrip('.')} with LiveDNS, or the token may not see it")


def _read(entry: dict[str, Any], zone: str) -> RRset:
    name, kind = entry["rrset_name"].lower(), entry["rrset_type"]
    values = tuple(sorted({canonical(kind, value, zone) for value in entry["rrset_values"]}))
    return RRset(zone if name == "@" else f"{name}.{zone}", kind, entry["rrset_ttl"], values)


def _explain(answer: Answer) -> str:
    told = answer.json()
    errors = "; ".join(f"{error.get('name')}: {error.get('description')}" for error in told.get("errors", []))
    return errors or str(told.get("message", ""))
