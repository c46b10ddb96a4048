# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""OVHcloud, by its API v1 (https://eu.api.ovh.com/console/?section=%2Fdomain&branch=v1)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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
    text_or_plain,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.setting import Setting
from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import RRset, text_value

if TYPE_CHECKING:
    from requests import PreparedRequest

SETTINGS = {
    "application_key": Setting("key of the application"),
    "application_secret": Setting("its secret", secret=True),
    "consumer_key": Setting("consumer key, validated for the zone's paths", secret=True),
    "api_url": Setting("base URL of the API; Europe if not given", required=False),
}
# OVH's own kinds of TXT record, made by its web pages.
TEXT_TYPES = frozenset({"DKIM", "DMARC", "SPF"})


class Ovh:
    """Records, changed one by one: new ones first, then old ones are deleted; a CNAME is turned into the new one.
    At the end the zone is refreshed, without which OVH serves none of it.

    A call may stop between any two records, or before the refresh. Then all old or all new values of the record set
    in work are stored, perhaps with some of the others. apply made again makes the rest, and always refreshes.
    Records can only be read one by one, so a listing takes a request a record. SOA is not shown as a record.
    """

    capabilities = Capabilities(
        types=frozenset({"A", "AAAA", "CAA", "CNAME", "MX", "NS", "PTR", "SRV", "TLSA", "TXT"}),
        # The API takes less and stores 60.
        minimum_ttl=60,
        # Our bound; OVH documents none.
        max_text=4096,
        atomic=False,
        guarded=False,
    )

    def __init__(
        self,
        *,
        application_key: str,
        application_secret: str,
        consumer_key: str,
        api_url: str = "https://eu.api.ovh.com/1.0",
        transport: Transport | None = None,
    ) -> None:
        self._transport = transport or Transport()
        self._keys = (application_key, application_secret, consumer_key)
        self._ahead: float | None = None
        secrets = (application_secret, consumer_key)
        self._http = Http("OVH", api_url, self._authorize, secrets, self._transport, explain=_explain)
        self._unsigned = Http("OVH", api_url, lambda request: request, secrets, self._transport, explain=_explain)

    def _authorize(self, request: PreparedRequest) -> PreparedRequest:
        """Sign with the server's time: a SHA-1 over both secrets, the request and the time.

        Source: https://docs.ovhcloud.com/en/guides/manage-and-operate/api/first-steps.
        """
        if self._ahead is None:
            self._ahead = self._unsigned.call("GET", "/auth/time").json(int) - self._transport.now()
        application_key, application_secret, consumer_key = self._keys
        time = str(int(self._transport.now() + self._ahead))
        body = request.body.decode() if isinstance(request.body, bytes) else ""
        signed = "+".join([application_secret, consumer_key, request.method or "", request.url or "", body, time])
        request.headers.update(
            {
                "X-Ovh-Application": application_key,
                "X-Ovh-Consumer": consumer_key,
                "X-Ovh-Timestamp": time,
                "X-Ovh-Signature": "$1$" + hashlib.sha1(signed.encode()).hexdigest(),  # noqa: S324 - OVH's choice
            }
        )
        return request

    def records(self, zone: str) -> list[RRset]:
        """As in the contract; without SOA, which is not a record here."""
        return compose(self._records(zone, {}))

    def get(self, zone: str, name: str, kind: str) -> RRset | None:
        """As in the contract."""
        only = {"subDomain": relative(name, zone, "")}
        if kind != "TXT":
            only["fieldType"] = kind
        found = compose(self._records(zone, only))
        return next((rrset for rrset in found if (rrset.name, rrset.type) == (name, kind)), None)

    def apply(self, zone: str, changes: Sequence[Change]) -> None:
        """As in the contract."""
        wanted = supported(changes, self.capabilities)
        if wanted:
            self._http.settle(lambda: self._make(zone, wanted))

    def _make(self, zone: str, changes: Sequence[Change]) -> None:
        path = f"{_domain(zone)}/record"
        for _change, steps in record_steps(changes, self._records(zone, {})):
            for identifier, record in steps.update:
                self._http.call("PUT", f"{path}/{identifier}", body=_written(record, zone))
            for record in steps.add:
                self._http.call("POST", path, body={"fieldType": record.type, **_written(record, zone)})
            for record in steps.delete:
                self._http.call("DELETE", f"{path}/{record.id}", accept={404})
        self._http.call("POST", f"{_domain(zone)}/refresh")

    def _records(self, zone: str, only: dict[str, str]) -> list[Record]:
        listed = self._http.call("GET", f"{_domain(zone)}/record", query=only, accept={404})
        if listed.status == 404:
            raise ZoneMissingError(f"OVH: the account has no zone {zone.rstrip('.')}")
        found = []
        for identifier in listed.json(list):
            answer = self._http.call("GET", f"{_domain(zone)}/record/{identifier}", accept={404})
            if answer.status == 404:
                raise IncompleteError(f"OVH: a record of {zone} went away while it was listed")
            found.append(answer.json())
        default_ttl = 0
        if any(not entry["ttl"] for entry in found):
            default_ttl = int(self._http.call("GET", f"{_domain(zone)}/soa").json()["ttl"])
        return [_read(entry, zone, default_ttl) for entry in found]


def _domain(zone: str) -> str:
    return f"/domain/zone/{zone.rstrip('.')}"


def _read(entry: dict[str, Any], zone: str, default_ttl: int) -> Record:
    kind, target = entry["fieldType"], entry["target"]
    if kind in TEXT_TYPES:
        kind = "TXT"
    value = text_value(text_or_plain(target)) if kind == "TXT" else canonical(kind, target, zone)
    name = (entry.get("subDomain") or "").lower()
    return Record(entry["id"], f"{name}.{zone}" if name else zone, kind, entry["ttl"] or default_ttl, value)


def _written(record: Record, zone: str) -> dict[str, Any]:
    return {"subDomain": relative(record.name, zone, ""), "target": record.value, "ttl": record.ttl}


def _explain(answer: Answer) -> str:
    told = answer.json()
    return f"{told['message']} ({told.get('errorCode', told.get('class', ''))})"
