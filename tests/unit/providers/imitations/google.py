# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Google Cloud DNS, REST API v1, with its token server."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

from ansible_collections.mailwright.server.tests.unit.providers.imitations.server import (
    Imitation,
    RefusalError,
    Reply,
    Request,
    Stored,
)
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

PROJECT = "mail-project"
TOKEN = "ya29.token-60d2"
CLIENT = "dns@mail-project.iam.gserviceaccount.com"


def new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


KEY = new_key()


def service_account(url: str, key: rsa.RSAPrivateKey = KEY) -> dict[str, str]:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return {
        "type": "service_account",
        "project_id": PROJECT,
        "private_key": pem.decode(),
        "client_email": CLIENT,
        "token_uri": f"{url}/token",
    }


class GoogleImitation(Imitation):
    minimum_ttl = 0

    def __init__(self) -> None:
        super().__init__()
        self.changes: dict[str, int] = {}

    def authorised(self, request: Request) -> bool:
        return request.path == ("token",) or request.headers.get("authorization") == f"Bearer {TOKEN}"

    def unauthorised(self) -> Reply:
        return _error(401, "Request had invalid authentication credentials.", "authError")

    def failed(self) -> Reply:
        return _error(503, "Backend Error", "backendError")

    def invalid(self, text: str) -> RefusalError:
        if "exists" in text:
            return RefusalError(_error(409, text, "alreadyExists"))
        return RefusalError(_error(400, text, "invalid"))

    def handle(self, request: Request) -> Reply:
        if request.path == ("token",):
            return self._token(dict(part.split("=") for part in request.body.decode().split("&")))
        assert request.path[:3] == ("projects", PROJECT, "managedZones")
        if len(request.path) == 3:
            return self._zones(request.query)
        zone = request.path[3].removeprefix("zone-").replace("-", ".") + "."
        if zone not in self.zones:
            return _error(404, "The 'parameters.managedZone' resource does not exist.", "notFound")
        match request.method, request.path[4:]:
            case "GET", ("rrsets",):
                return self._list(zone, request.query)
            case "POST", ("changes",):
                return self._change(zone, request.json())
            case "GET", ("changes", identifier):
                self.changes[identifier] -= 1
                return Reply(200, self._status(identifier))
        return _error(404, f"no route for {request.target}", "notFound")

    def _token(self, form: dict[str, str]) -> Reply:
        assert form["grant_type"] == "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer"
        signed, _dot, signature = form["assertion"].rpartition(".")
        claims = json.loads(_decoded(signed.partition(".")[2]))
        try:
            KEY.public_key().verify(_decoded(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return Reply(400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."})
        assert claims["iss"] == CLIENT and claims["aud"] == f"{self.url}/token" and "clouddns" in claims["scope"]
        assert claims["iat"] <= time.time() < claims["exp"] <= claims["iat"] + 3600
        return Reply(200, {"access_token": TOKEN, "expires_in": 3599, "token_type": "Bearer"})

    def _zones(self, query: dict[str, str]) -> Reply:
        zone = query["dnsName"]
        found = [
            {"name": f"private-{zone[:-1]}", "dnsName": zone, "visibility": "private"},
            {"name": "zone-" + zone[:-1].replace(".", "-"), "dnsName": zone, "visibility": "public"},
        ]
        return Reply(200, {"managedZones": found if zone in self.zones else []})

    def _list(self, zone: str, query: dict[str, str]) -> Reply:
        sets = [
            records
            for (name, kind), records in self.sets(zone).items()
            if query.get("name", name) == name and query.get("type", kind) == kind
        ]
        number = int(query.get("pageToken", "1"))
        shown = [_shown(records) for records in self.page(sets, number, int(query["maxResults"]))]
        more = {"nextPageToken": str(number + 1)} if number * self.page_size < len(sets) else {}
        return Reply(200, {"rrsets": shown, **more})

    def _change(self, zone: str, body: dict[str, list[dict[str, Any]]]) -> Reply:
        """Deletions must be live exactly so, additions must not be live; all or none."""
        self.write()
        before = list(self.zones[zone])
        try:
            for entry in body["deletions"]:
                found = self.find(zone, entry["name"], entry["type"])
                if sorted(record.text for record in found) != sorted(entry["rrdatas"]) or any(
                    record.ttl != entry["ttl"] for record in found
                ):
                    raise RefusalError(_error(412, "Precondition not met", "conditionNotMet"))
                self.replace(zone, entry["name"], entry["type"], entry["ttl"], [])
            for entry in body["additions"]:
                if self.find(zone, entry["name"], entry["type"]):
                    raise self.invalid("the resource exists")
                self.replace(zone, entry["name"], entry["type"], entry["ttl"], entry["rrdatas"])
        except RefusalError:
            self.zones[zone] = before
            raise
        identifier = str(self.new_id())
        self.changes[identifier] = 2
        return Reply(200, self._status(identifier))

    def _status(self, identifier: str) -> dict[str, str]:
        return {"id": identifier, "status": "pending" if self.changes[identifier] > 0 else "done"}


def _shown(records: list[Stored]) -> dict[str, Any]:
    first = records[0]
    return {"name": first.name, "type": first.type, "ttl": first.ttl, "rrdatas": [record.text for record in records]}


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _error(status: int, text: str, reason: str) -> Reply:
    return Reply(status, {"error": {"code": status, "message": text, "errors": [{"reason": reason}]}})
