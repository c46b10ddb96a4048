# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hetzner DNS, by the Cloud API v1 (https://docs.hetzner.cloud/reference/cloud#zones).

The API of the older DNS Console (dns.hetzner.com) is another one; it cannot change a zone that has moved here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.contract import (
    Capabilities,
    Change,
    IncompleteError,
    ProviderError,
    ZoneMissingError,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.http import (
    Answer,
    Http,
    RefusedError,
    Transport,
    UncertainError,
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
    "api_token": Setting("API token with the permission Read & Write of the project that holds the zone", secret=True),
    "api_url": Setting("base URL of the API", required=False),
}
PAGE_SIZE = 50


class Hetzner:
    """Record sets, each changed by an action of its own that runs on Hetzner's side; the next begins when it is done.

    A record set is never half its old and half its new values. New values and a new TTL are two actions, though, and
    a call may stop between any two. apply made again takes up from there: it counts what is as wanted already as
    made, and new values with the old TTL as made in part.
    """

    capabilities = Capabilities(
        types=frozenset({"A", "AAAA", "CAA", "CNAME", "MX", "NS", "PTR", "SRV", "TLSA", "TXT"}),
        minimum_ttl=60,
        # Our bound; Hetzner documents none.
        max_text=4096,
        atomic=False,
        guarded=False,
    )

    def __init__(
        self,
        *,
        api_token: str,
        api_url: str = "https://api.hetzner.cloud/v1",
        transport: Transport | None = None,
    ) -> None:
        self._http = Http(
            "Hetzner",
            api_url,
            header_auth(Authorization=f"Bearer {api_token}"),
            (api_token,),
            transport or Transport(),
            explain=_explain,
        )

    def records(self, zone: str) -> list[RRset]:
        """As in the contract."""
        default_ttl = self._default_ttl(zone)
        found: list[RRset] = []
        page: int | None = 1
        while page is not None:
            answer = self._http.call("GET", f"{_zone(zone)}/rrsets", query={"page": page, "per_page": PAGE_SIZE}).json()
            found += [_read(entry, zone, default_ttl) for entry in answer["rrsets"]]
            told = answer["meta"]["pagination"]
            page = told["next_page"]
            if page is None and told["total_entries"] is not None and len(found) != told["total_entries"]:
                raise IncompleteError(f"Hetzner: {len(found)} of {told['total_entries']} record sets of {zone} listed")
        return found

    def get(self, zone: str, name: str, kind: str) -> RRset | None:
        """As in the contract."""
        default_ttl = self._default_ttl(zone)
        answer = self._http.call("GET", _rrset(zone, name, kind), accept={404})
        return None if answer.status == 404 else _read(answer.json()["rrset"], zone, default_ttl)

    def apply(self, zone: str, changes: Sequence[Change]) -> None:
        """As in the contract."""
        wanted = supported(changes, self.capabilities)
        if wanted:
            self._http.settle(lambda: self._make(zone, wanted))

    def _make(self, zone: str, changes: Sequence[Change]) -> None:
        live = by_key(self.records(zone))
        for change in unfinished(changes, live, halfway=_values_made):
            now, new = live.get((change.name, change.type)), change.new
            path = _rrset(zone, change.name, change.type)
            if new is None:
                self._act("DELETE", path)
                continue
            records = [{"value": value} for value in new.values]
            if now is None:
                name = relative(change.name, zone, "@")
                body = {"name": name, "type": change.type, "ttl": new.ttl, "records": records}
                self._act("POST", f"{_zone(zone)}/rrsets", body)
                continue
            if now.values != new.values:
                self._act("POST", f"{path}/actions/set_records", {"records": records})
            if now.ttl != new.ttl:
                self._act("POST", f"{path}/actions/change_ttl", {"ttl": new.ttl})

    def _act(self, method: str, path: str, body: dict[str, Any] | None = None) -> None:
        try:
            action = self._http.call(method, path, body=body, idempotent=False).json()["action"]
        except RefusedError as error:
            # Somebody else was faster (404, 409) or holds the zone (423): read again, and see what is live now.
            if error.answer.status in (404, 409, 423):
                raise UncertainError(str(error)) from None
            raise

        def done() -> bool:
            nonlocal action
            if action["status"] == "running":
                action = self._http.call("GET", f"/actions/{action['id']}").json()["action"]
            return bool(action["status"] != "running")

        self._http.poll(done, f"{method} {path}")
        if action["status"] != "success":
            told = self._http.clean(str((action.get("error") or {}).get("message")))
            raise ProviderError(f"Hetzner: {method} {path} failed: {told}")

    def _default_ttl(self, zone: str) -> int:
        answer = self._http.call("GET", _zone(zone), accept={404})
        if answer.status == 404:
            raise ZoneMissingError(f"Hetzner: the token's project has no zone {zone.rstrip('.')}")
        return int(answer.json()["zone"]["ttl"])


def _zone(zone: str) -> str:
    return f"/zones/{zone.rstrip('.')}"


def _rrset(zone: str, name: str, kind: str) -> str:
    return f"{_zone(zone)}/rrsets/{quote(relative(name, zone, '@'), safe='@')}/{kind}"


def _values_made(live: RRset | None, change: Change) -> bool:
    return bool(live and change.old and change.new and live == replace(change.new, ttl=change.old.ttl))


def _read(entry: dict[str, Any], zone: str, default_ttl: int) -> RRset:
    name = zone if entry["name"] == "@" else f"{entry['name'].lower()}.{zone}"
    values = tuple(sorted({canonical(entry["type"], record["value"], zone) for record in entry["records"]}))
    return RRset(name, entry["type"], entry["ttl"] or default_ttl, values)


def _explain(answer: Answer) -> str:
    error = answer.json()["error"]
    return f"{error['message']} ({error['code']})"
