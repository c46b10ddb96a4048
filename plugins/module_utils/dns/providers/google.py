# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Google Cloud DNS, by its REST API v1 (https://cloud.google.com/dns/docs/reference/rest/v1)."""

from __future__ import annotations

import base64
import json
import traceback
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.contract import (
    Capabilities,
    Change,
    CredentialsError,
    ProviderError,
    UnreachableError,
    UnsupportedError,
    ZoneMissingError,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.http import (
    Answer,
    Http,
    RefusedError,
    Transport,
    UncertainError,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.pending import (
    by_key,
    supported,
    unfinished,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.rdata import canonical
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.setting import Setting
from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import RRset

if TYPE_CHECKING:
    from requests import PreparedRequest

LIBRARY_ERROR: str | None = None
try:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
except ImportError:
    LIBRARY_ERROR = traceback.format_exc()

SETTINGS = {
    "service_account": Setting("the JSON key file of a service account, as text", secret=True),
    "project": Setting("project that holds the zone, if it is not the service account's", required=False),
    "managed_zone": Setting("name of the managed zone, where several have the zone's domain", required=False),
    "api_url": Setting("base URL of the API", required=False),
}
SCOPE = "https://www.googleapis.com/auth/ndev.clouddns.readwrite"
PAGE_SIZE = 1000
# Record data in the additions, or in the deletions, of one request.
MOST_RECORDS = 1000
# Seconds a token is asked for, and seconds before its end from which a new one is fetched.
TOKEN_LIFE = 3600
TOKEN_MARGIN = 60


class Google:
    """Record sets, changed by "changes". One deletes exactly the old values and adds the new ones, is made as a whole
    or not at all, and is refused when the old values are not live: the server itself guards each change. apply
    returns when the change is "done", which means that it was sent to the authoritative servers; they may not
    serve it yet.

    A call within 1000 records is one change; a larger one may stop between two. apply made again makes the rest.
    Record sets with a routing policy are listed, with values that no plain record set has, and never changed.
    """

    capabilities = Capabilities(
        types=frozenset({"A", "AAAA", "CAA", "CNAME", "MX", "NS", "PTR", "SRV", "TLSA", "TXT"}),
        minimum_ttl=0,
        # Our bound; Google documents none.
        max_text=4096,
        atomic=False,
        guarded=True,
    )

    def __init__(
        self,
        *,
        service_account: str | Mapping[str, Any],
        project: str | None = None,
        managed_zone: str | None = None,
        api_url: str = "https://dns.googleapis.com/dns/v1",
        transport: Transport | None = None,
    ) -> None:
        account = _account(service_account)
        self._managed_zone = managed_zone
        self._zone_names: dict[str, str] = {}
        self._tokens = _Tokens(account, transport or Transport())
        self._http = Http(
            "Google Cloud DNS",
            f"{api_url}/projects/{project or account['project_id']}",
            self._authorize,
            (account["private_key"],),
            transport or Transport(),
            explain=_explain,
        )

    def _authorize(self, request: PreparedRequest) -> PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._tokens.current()}"
        return request

    def records(self, zone: str) -> list[RRset]:
        """As in the contract."""
        return self._rrsets(zone, {})

    def get(self, zone: str, name: str, kind: str) -> RRset | None:
        """As in the contract."""
        found = self._rrsets(zone, {"name": name, "type": kind})
        return next((rrset for rrset in found if (rrset.name, rrset.type) == (name, kind)), None)

    def apply(self, zone: str, changes: Sequence[Change]) -> None:
        """As in the contract."""
        wanted = supported(changes, self.capabilities)
        if wanted:
            self._http.settle(lambda: self._make(zone, wanted))

    def _make(self, zone: str, changes: Sequence[Change]) -> None:
        left = unfinished(changes, by_key(self.records(zone)))
        for change in left:
            if change.old and any(value.startswith("ROUTED ") for value in change.old.values):
                raise UnsupportedError(f"{change.name} {change.type}: a routing policy is not replaced")
        path = f"/managedZones/{self._zone_name(zone)}/changes"
        for batch in _batches(left):
            body = {
                "deletions": [_written(change.old) for change in batch if change.old],
                "additions": [_written(change.new) for change in batch if change.new],
            }
            try:
                made = self._http.call("POST", path, body=body).json()
            except RefusedError as error:
                # What is live was changed by somebody else meanwhile: read again, and see.
                if error.answer.status in (404, 409, 412):
                    raise UncertainError(str(error)) from None
                raise
            self._http.poll(partial(self._done, path, made), f"change {made['id']}")

    def _done(self, path: str, made: dict[str, Any]) -> bool:
        if made["status"] != "done":
            made.update(self._http.call("GET", f"{path}/{made['id']}").json())
        return bool(made["status"] == "done")

    def _zone_name(self, zone: str) -> str:
        if self._managed_zone:
            return self._managed_zone
        if zone not in self._zone_names:
            names = [
                found["name"]
                for found in self._pages("/managedZones", {"dnsName": zone}, "managedZones")
                if found["dnsName"] == zone and found.get("visibility", "public") == "public"
            ]
            if not names:
                raise ZoneMissingError(f"Google Cloud DNS: the project has no public managed zone for {zone}")
            if len(names) > 1:
                raise ProviderError(f"Google Cloud DNS: several managed zones are for {zone}; set managed_zone")
            self._zone_names[zone] = names[0]
        return self._zone_names[zone]

    def _rrsets(self, zone: str, only: dict[str, str]) -> list[RRset]:
        path = f"/managedZones/{self._zone_name(zone)}/rrsets"
        try:
            return [_read(entry, zone) for entry in self._pages(path, only, "rrsets")]
        except RefusedError as error:
            if error.answer.status == 404:
                raise ZoneMissingError(str(error)) from None
            raise

    def _pages(self, path: str, query: dict[str, str], key: str) -> Iterator[dict[str, Any]]:
        token: str | None = None
        while True:
            page: dict[str, str | int] = {**query, "maxResults": PAGE_SIZE}
            if token:
                page["pageToken"] = token
            answer = self._http.call("GET", path, query=page).json()
            yield from answer.get(key, [])
            token = answer.get("nextPageToken")
            if not token:
                return


class _Tokens:
    """Access tokens of a service account: a signed assertion is exchanged for one (RFC 7523 section 2.1).

    Source: https://developers.google.com/identity/protocols/oauth2/service-account#httprest.
    """

    def __init__(self, account: Mapping[str, str], transport: Transport) -> None:
        self._account = account
        self._transport = transport
        self._http = Http(
            "Google's token server",
            account["token_uri"],
            lambda request: request,
            (account["private_key"],),
            transport,
            explain=lambda answer: str(answer.json().get("error_description") or answer.json()["error"]),
        )
        self._token = ""
        self._until = 0.0

    def current(self) -> str:
        """A token with some time left. Raises CredentialsError when the account is not accepted."""
        now = self._transport.now()
        if now >= self._until:
            form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": self._assertion(int(now))}
            content = ("application/x-www-form-urlencoded", urlencode(form).encode())
            try:
                told = self._http.call("POST", "", content=content, idempotent=True).json()
            except RefusedError as error:
                raise CredentialsError(str(error)) from None
            except UncertainError as error:
                # No change was asked for, so there is nothing to be uncertain of.
                raise UnreachableError(str(error)) from None
            self._token = told["access_token"]
            self._until = now + told["expires_in"] - TOKEN_MARGIN
        return self._token

    def _assertion(self, now: int) -> str:
        claims = {
            "iss": self._account["client_email"],
            "scope": SCOPE,
            "aud": self._account["token_uri"],
            "iat": now,
            "exp": now + TOKEN_LIFE,
        }
        signed = b".".join(_base64(json.dumps(part).encode()) for part in ({"alg": "RS256", "typ": "JWT"}, claims))
        try:
            key = load_pem_private_key(self._account["private_key"].encode(), None)
        except ValueError:
            raise CredentialsError("the service account's private_key is not a PEM key") from None
        if not isinstance(key, rsa.RSAPrivateKey):
            raise CredentialsError("the service account's private_key is not an RSA key")
        return b".".join([signed, _base64(key.sign(signed, padding.PKCS1v15(), hashes.SHA256()))]).decode()


def _base64(octets: bytes) -> bytes:
    return base64.urlsafe_b64encode(octets).rstrip(b"=")


def _account(given: str | Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        account = json.loads(given) if isinstance(given, str) else given
        missing = {"client_email", "private_key", "project_id", "token_uri"} - set(account)
    except (ValueError, TypeError):
        raise CredentialsError("service_account is not the JSON of a service account's key") from None
    if missing:
        raise CredentialsError(f"service_account lacks {', '.join(sorted(missing))}")
    return dict(account)


def _batches(changes: Sequence[Change]) -> Iterator[list[Change]]:
    batch: list[Change] = []
    deletions = additions = 0
    for change in changes:
        old, new = (len(rrset.values) if rrset else 0 for rrset in (change.old, change.new))
        if batch and (deletions + old > MOST_RECORDS or additions + new > MOST_RECORDS):
            yield batch
            batch, deletions, additions = [], 0, 0
        batch.append(change)
        deletions, additions = deletions + old, additions + new
    if batch:
        yield batch


def _read(entry: dict[str, Any], zone: str) -> RRset:
    kind = entry["type"]
    values = {canonical(kind, value, zone) for value in entry.get("rrdatas", [])}
    if "routingPolicy" in entry:
        values.add(f"ROUTED {json.dumps(entry['routingPolicy'], sort_keys=True)}")
    return RRset(entry["name"].lower(), kind, entry.get("ttl", 0), tuple(sorted(values)))


def _written(rrset: RRset) -> dict[str, Any]:
    return {"name": rrset.name, "type": rrset.type, "ttl": rrset.ttl, "rrdatas": list(rrset.values)}


def _explain(answer: Answer) -> str:
    return str(answer.json()["error"]["message"])
