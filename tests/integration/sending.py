# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A client of the sending API, by HTTPS as anybody would, and a look at what came of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from ansible_collections.mailwright.server.plugins.module_utils.sending import keys
from connection import CHECKOUT, Lab

HOSTNAME = "mx1.acme.test"
BASE = "/api/v1"
IDLE_SECONDS = 20.0


class Answer(NamedTuple):
    """What the service said; body is JSON's value, or bytes when it is none."""

    status: int
    headers: dict[str, str]
    body: Any


class Api:
    """One connection at a time, kept open; with a key or without."""

    def __init__(self, lab: Lab, host: str, key: str | None, timeout: float = 100) -> None:
        self.lab, self.host, self.key, self.timeout = lab, host, key, timeout
        self.connection: http.client.HTTPSConnection | None = None
        self.used = 0.0

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        *,
        raw: bytes | None = None,
    ) -> Answer:
        """One request. Raises OSError or http.client.HTTPException when there is no answer."""
        # nginx closes a connection that is idle for a minute or so
        if self.connection is not None and time.monotonic() - self.used > IDLE_SECONDS:
            self.connection.close()
            self.connection = None
        self.used = time.monotonic()
        if self.connection is None:
            context = self.lab.tls()
            self.connection = http.client.HTTPSConnection(HOSTNAME, timeout=self.timeout, context=context)
            self.connection.sock = self._socket(context)
        content = raw if raw is not None else None if body is None else json.dumps(body).encode()
        given = {"Content-Type": "application/json"} if content is not None else {}
        if self.key is not None:
            given["Authorization"] = f"Bearer {self.key}"
        try:
            self.connection.request(method, BASE + path, content, {**given, **(headers or {})})
            response = self.connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException):
            self.connection.close()
            self.connection = None
            raise
        if response.will_close:
            self.connection.close()
            self.connection = None
        kind = response.headers.get_content_type()
        value = json.loads(text) if text and kind.endswith("json") else text
        return Answer(response.status, {name.lower(): text for name, text in response.headers.items()}, value)

    def _socket(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        plain = socket.create_connection((self.lab.address(self.host), 443), timeout=self.timeout)
        return context.wrap_socket(plain, server_hostname=HOSTNAME)

    def send(self, subject: str, *to: str, **more: Any) -> dict[str, Any]:
        """Send a message; it must be accepted."""
        message = {"from": "News <news@acme.test>", "to": list(to), "subject": subject, "text": "Hello.\n", **more}
        answer = self.ask("POST", "/emails", message)
        assert answer.status == 202, answer
        accepted: dict[str, Any] = answer.body
        return accepted

    def events(self, email: str) -> list[dict[str, Any]]:
        """What happened to a message so far."""
        answer = self.ask("GET", f"/emails/{email}/events")
        assert answer.status == 200, answer
        found: list[dict[str, Any]] = answer.body["data"]
        return found

    def kinds(self, email: str) -> list[str]:
        return [event["kind"] for event in self.events(email)]


def sql(lab: Lab, host: str, statement: str) -> str:
    """Run a statement as the database's administrator."""
    return lab.ssh(host, "su postgres -c 'psql -qAtX -v ON_ERROR_STOP=1 -d mailwright'", data=statement).strip()


@contextlib.contextmanager
def temporary_keys(lab: Lab, host: str, *wanted: dict[str, Any]) -> Iterator[list[str]]:
    """Keys that are made on the host by the module, as an operator would by ansible."""
    play = str(CHECKOUT / "tests/integration/api_keys.yml")

    def module(state: str, *options: str) -> str:
        extra = json.dumps({"wanted_state": state, "wanted_keys": wanted})
        done = lab.playbook("-e", extra, "-l", host, *options, play)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr
        return done.stdout

    made = re.findall(r"mw_[0-9a-f]{12}_[0-9a-f]{48}", module("present"))
    try:
        yield made
    finally:
        module("absent")


@contextlib.contextmanager
def direct_keys(lab: Lab, host: str, *domains: str) -> Iterator[list[str]]:
    """A key with all scopes for each domain, without a run of Ansible."""
    made = [keys.generate() for _domain in domains]
    rows = ", ".join(
        f"('{key.id}', '{domain}', 'test {key.id}', '\\x{key.digest.hex()}', '{{{','.join(keys.SCOPES)}}}', 'api')"
        for key, domain in zip(made, domains, strict=True)
    )
    sql(lab, host, f"INSERT INTO api.key (id, domain, name, hash, scopes, owner) VALUES {rows}")
    try:
        yield [key.text for key in made]
    finally:
        ids = ", ".join(f"'{key.id}'" for key in made)
        sql(lab, host, f"DELETE FROM api.key WHERE id IN ({ids})")
