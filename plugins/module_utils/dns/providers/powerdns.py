# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PowerDNS's HTTP API (https://doc.powerdns.com/authoritative/http-api/).

Verified against PowerDNS Authoritative Server 4.9 with the SQLite backend. TXT must come in quotes and names with
their final dot, or the answer is 422; rrset's form has both. A PATCH replaces whole record sets and makes all or none
of a request, but cannot be made to depend on what is live: the zone is read again right before it, and what changes
in the milliseconds between is overwritten. Records that are disabled are not served, so they are not listed; they
stay when their record set is replaced.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from ansible_collections.mailwright.server.plugins.module_utils.dns.canonical import canonical_rrset
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.contract import (
    Capabilities,
    Change,
    ConflictError,
    CredentialsError,
    IncompleteError,
    ProviderError,
    UnreachableError,
    UnsupportedError,
    ZoneMissingError,
    whole,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.pending import in_order, supported
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.setting import Setting
from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import RRset

LIBRARY_ERROR: str | None = None
try:
    import requests
except ImportError:
    LIBRARY_ERROR = traceback.format_exc()

TYPES = frozenset(
    "A AAAA CAA CNAME HTTPS MX NAPTR OPENPGPKEY PTR SMIMEA SRV SSHFP SVCB TLSA TXT URI".split()  # noqa: SIM905
)
ATTEMPTS = 3
# Connections that are kept open: as many as zones are worked on at a time.
CONNECTIONS = 16


SETTINGS: Mapping[str, Setting] = {
    "url": Setting("where the API is, such as https://ns1.example.org:8081"),
    "key": Setting("the API key", secret=True),
    "server_id": Setting("the server's name in the API, localhost unless given", required=False),
    "timeout": Setting("seconds to wait for an answer", required=False, kind=int),
}


class PowerDNS:
    """One server and its API key."""

    capabilities = Capabilities(types=TYPES, minimum_ttl=1, max_text=60_000, atomic=True, guarded=False)

    def __init__(self, url: str, key: str, server_id: str = "localhost", timeout: int = 30) -> None:
        """Raises ValueError for a URL that is none."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/"):
            raise ValueError(f"url: {url!r}: must be http:// or https://, a host and perhaps a port")
        self._where = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
        self._base = f"{url.rstrip('/')}/api/v1/servers/{quote(server_id, safe='')}/zones/"
        self._timeout = timeout
        self._session = requests.Session()
        self._session.headers["X-API-Key"] = key
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=CONNECTIONS)
        self._session.mount(f"{parts.scheme}://", adapter)

    def records(self, zone: str) -> list[RRset]:
        """All record sets of a zone."""
        return [rrset for rrset, _disabled in self._zone(zone).values() if rrset.values]

    def get(self, zone: str, name: str, kind: str) -> RRset | None:
        """One record set."""
        rrset, _disabled = self._zone(zone, rrset_name=name, rrset_type=kind).get((name, kind), (None, []))
        return rrset if rrset and rrset.values else None

    def apply(self, zone: str, changes: Sequence[Change]) -> None:
        """Make all changes in one request. After an uncertain end it looks what is live before it goes on."""
        changes = in_order(supported(changes, self.capabilities))
        for attempt in range(1, ATTEMPTS + 1):
            live = self._zone(zone)
            pending = []
            for change in changes:
                rrset, disabled = live.get((change.name, change.type), (None, []))
                now = rrset if rrset and rrset.values else None
                if now == change.new:
                    continue
                if now != (canonical_rrset(change.old) if change.old else None):
                    raise ConflictError(f"{change.name} {change.type}: is live otherwise than when the plan was made")
                pending.append(_patch(change, disabled))
            if not pending:
                return
            try:
                self._call("PATCH", zone, body={"rrsets": pending})
                return
            except UnreachableError:
                if attempt == ATTEMPTS:
                    raise

    def _zone(self, zone: str, **only: str) -> dict[tuple[str, str], tuple[RRset, list[dict[str, Any]]]]:
        """The record sets by name and type, each with its disabled records."""
        answer = whole(lambda: self._call("GET", zone, only))
        found = {}
        try:
            for rrset in answer["rrsets"]:
                name, kind = rrset["name"].lower(), rrset["type"]
                enabled = tuple(one["content"] for one in rrset["records"] if not one.get("disabled"))
                disabled = [one for one in rrset["records"] if one.get("disabled")]
                found[name, kind] = canonical_rrset(RRset(name, kind, int(rrset["ttl"]), enabled)), disabled
        except (LookupError, TypeError, ValueError) as error:
            raise IncompleteError(f"{zone} at {self._where}: the listing makes no sense ({error!r})") from None
        return found

    def _call(self, method: str, zone: str, query: Mapping[str, str] | None = None, body: Any = None) -> Any:
        label = f"{zone} at {self._where}"
        try:
            response = self._session.request(
                method, self._base + quote(zone, safe=""), params=query, json=body, timeout=self._timeout,
                allow_redirects=False,
            )  # fmt: skip
        except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError):
            raise (IncompleteError if method == "GET" else UnreachableError)(f"{label}: the answer is cut") from None
        except requests.RequestException as error:
            # The library's own text may quote the request; its kind says enough.
            raise UnreachableError(f"{label}: no answer ({type(error).__name__})") from None
        if response.status_code >= 300:
            raise _refusal(label, response)
        if method != "GET":
            return None
        try:
            return json.loads(response.content)
        except ValueError:
            raise IncompleteError(f"{label}: the answer is not JSON, or cut") from None


def _refusal(label: str, response: Any) -> ProviderError:
    try:
        told = str(json.loads(response.content)["error"])
    except (ValueError, LookupError, TypeError):
        told = ""
    text = f"{label}: status {response.status_code}" + (f": {told[:300]}" if told else "")
    if response.status_code in (401, 403):
        return CredentialsError(f"{label}: the API key is refused (status {response.status_code})")
    if response.status_code == 404 or "Could not find domain" in told:
        return ZoneMissingError(f"{label}: the server has no such zone (status {response.status_code})")
    if response.status_code == 422:
        return UnsupportedError(text)
    return UnreachableError(text)


def _patch(change: Change, disabled: list[dict[str, Any]]) -> dict[str, Any]:
    new = change.new
    if new is None and not disabled:
        return {"name": change.name, "type": change.type, "changetype": "DELETE"}
    records = [{"content": value, "disabled": False} for value in new.values] if new else []
    ttl = new.ttl if new else change.old.ttl  # type: ignore[union-attr]
    return {"name": change.name, "type": change.type, "ttl": ttl, "changetype": "REPLACE",
            "records": [*records, *disabled]}  # fmt: skip
