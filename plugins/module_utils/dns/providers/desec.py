# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""deSEC, by its API v1 (https://desec.readthedocs.io/en/latest/dns/rrsets.html)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.contract import (
    Capabilities,
    Change,
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
    by_key,
    supported,
    unfinished,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.rdata import canonical, relative
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.setting import Setting
from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import RRset

SETTINGS = {
    "token": Setting("API token; a policy may limit it to the zone's record sets", secret=True),
    "minimum_ttl": Setting("the domain's minimum TTL in seconds, 3600 unless deSEC granted less", required=False),
    "api_url": Setting("base URL of the API", required=False),
}


class Desec:
    """Record sets, changed by one bulk request, which deSEC makes as a whole or not at all. The request may be sent
    again with the same outcome. deSEC does not compare with the old value: a change that somebody else makes between
    our reading and our writing is overwritten. SOA is not shown by this API.
    """

    def __init__(
        self,
        *,
        token: str,
        minimum_ttl: int = 3600,
        api_url: str = "https://desec.io/api/v1",
        transport: Transport | None = None,
    ) -> None:
        self.capabilities = Capabilities(
            types=frozenset({"A", "AAAA", "CAA", "CNAME", "MX", "NS", "PTR", "SRV", "TLSA", "TXT"}),
            minimum_ttl=minimum_ttl,
            # The JSON of a record set may have 64,000 characters; an escaped octet takes five of them.
            max_text=12_000,
            atomic=True,
            guarded=False,
        )
        self._http = Http(
            "deSEC",
            api_url,
            header_auth(Authorization=f"Token {token}"),
            (token,),
            transport or Transport(),
            explain=_explain,
        )

    def records(self, zone: str) -> list[RRset]:
        """As in the contract; without SOA, which this API does not show."""
        found = []
        cursor: str | None = ""
        while cursor is not None:
            answer = self._http.call("GET", f"{_domain(zone)}rrsets/", query={"cursor": cursor}, accept={404})
            if answer.status == 404:
                raise _missing(zone)
            found += [_read(entry, zone) for entry in answer.json(list)]
            cursor = _next_cursor(answer)
        return found

    def get(self, zone: str, name: str, kind: str) -> RRset | None:
        """As in the contract."""
        if kind == "SOA":
            raise UnsupportedError(f"{name} SOA: deSEC does not show it")
        path = f"{_domain(zone)}rrsets/{quote(relative(name, zone, '@'), safe='@')}/{kind}/"
        answer = self._http.call("GET", path, accept={404})
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
        left = unfinished(changes, by_key(self.records(zone)))
        if left:
            body = [_written(change, zone) for change in left]
            self._http.call("PATCH", f"{_domain(zone)}rrsets/", body=body)


def _domain(zone: str) -> str:
    return f"/domains/{zone.rstrip('.')}/"


def _missing(zone: str) -> ZoneMissingError:
    return ZoneMissingError(f"deSEC: no domain {zone.rstrip('.')}, or the token may not see it")


def _next_cursor(answer: Answer) -> str | None:
    # Only the cursor is taken from the link, so that a link elsewhere gets no token.
    for link in answer.headers.get("link", "").split(","):
        target, _semicolon, parameters = link.partition(";")
        if 'rel="next"' in parameters:
            query = urlsplit(target.strip().strip("<>")).query
            return parse_qs(query, keep_blank_values=True)["cursor"][0]
    return None


def _read(entry: dict[str, Any], zone: str) -> RRset:
    kind = entry["type"]
    values = tuple(sorted({canonical(kind, value, zone) for value in entry["records"]}))
    return RRset(entry["name"].lower(), kind, entry["ttl"], values)


def _written(change: Change, zone: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"subname": relative(change.name, zone, ""), "type": change.type}
    if change.new is None:
        return {**entry, "records": []}
    return {**entry, "ttl": change.new.ttl, "records": list(change.new.values)}


def _explain(answer: Answer) -> str:
    told = answer.json(object)
    return str(told["detail"]) if isinstance(told, dict) and "detail" in told else answer.text
