# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the imitations share: a server on loopback, zones in memory, and faults that a test may order.

Record data are parsed and written by dnspython, so that nothing here repeats the providers' own code.
"""

from __future__ import annotations

import itertools
import json
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import dns.exception
import dns.rdata

# An answer that comes after this time is lost: the tests' clients wait for less.
TOO_LATE = 1.5


@dataclass(frozen=True)
class Request:
    """A request as it came. `path` holds the decoded segments."""

    method: str
    path: tuple[str, ...]
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    target: str

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """Status, body (JSON, or text as it is) and headers."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


class RefusalError(Exception):
    """A request is answered by this reply."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply)
        self.reply = reply


@dataclass
class Faults:
    """Faults to come.

    `busy`: so many requests get 429, with `retry_after`. `dropped`: so many get no answer and are not looked at.
    `lost`: so many changes are made, but not answered: the connection is cut, or the answer comes too late, in turn,
    too late for the last. `writes_left`: so many changes are made, all later ones fail. `failing_page`: this page of
    any listing fails. `pages` and `writes` count what was asked.
    """

    busy: int = 0
    retry_after: str = "1"
    dropped: int = 0
    lost: int = 0
    writes_left: int | None = None
    failing_page: int | None = None
    pages: int = 0
    writes: int = 0


@dataclass
class Stored:
    """One record. `name` is absolute, `rdata` in master-file form."""

    id: int
    name: str
    type: str
    ttl: int
    rdata: dns.rdata.Rdata
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return self.rdata.to_text()


class Imitation(ABC):
    """One API over one store. A subclass knows paths and forms; `page_size` is what it lists at once, at most."""

    page_size = 7
    minimum_ttl = 60
    types = frozenset({"A", "AAAA", "CAA", "CNAME", "MX", "NS", "PTR", "SRV", "TLSA", "TXT"})

    def __init__(self) -> None:
        self.zones: dict[str, list[Stored]] = {}
        self.faults = Faults()
        # Run once, before the next change is made: what somebody else does between our reading and our writing.
        self.meanwhile: Callable[[], object] | None = None
        self._numbers = itertools.count(1001)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        imitation = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Otherwise head and body of an answer wait for each other's acknowledgement.
            disable_nagle_algorithm = True

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except ConnectionError:
                    self.close_connection = True

            def log_message(self, *_arguments: Any) -> None:
                pass

            def _serve(self) -> None:
                imitation._serve(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    @abstractmethod
    def authorised(self, request: Request) -> bool:
        """Whether the request carries the right credentials."""

    @abstractmethod
    def handle(self, request: Request) -> Reply:
        """Answer a request that is authorised."""

    def unauthorised(self) -> Reply:
        return Reply(401, {"message": "the credentials are wrong"})

    def failed(self) -> Reply:
        return Reply(500, {"message": "internal error"})

    def invalid(self, text: str) -> RefusalError:
        return RefusalError(Reply(422, {"message": text}))

    # The store.

    def add_zone(self, zone: str) -> None:
        self.zones[zone] = []

    def new_id(self) -> int:
        return next(self._numbers)

    def store(self, zone: str, name: str, kind: str, ttl: int, text: str) -> Stored:
        """Put a record into a zone. Raises what `invalid` makes for one that does not belong there."""
        rdata = self.parse(zone, name, kind, ttl, text)
        self.check_room(zone, name, kind, rdata)
        record = Stored(self.new_id(), name.lower(), kind, ttl, rdata)
        self.zones[zone].append(record)
        return record

    def check_room(self, zone: str, name: str, kind: str, rdata: dns.rdata.Rdata) -> None:
        """A CNAME stands alone, and no record stands twice."""
        for record in self.zones[zone]:
            if record.name == name.lower():
                if record.type == kind and record.rdata == rdata:
                    raise self.invalid("the record exists")
                if "CNAME" in (record.type, kind):
                    raise self.invalid("a CNAME stands alone")

    def parse(self, zone: str, name: str, kind: str, ttl: int, text: str) -> dns.rdata.Rdata:
        if kind not in self.types:
            raise self.invalid(f"no records of type {kind}")
        if ttl < self.minimum_ttl:
            raise self.invalid(f"a TTL of {ttl} is less than {self.minimum_ttl}")
        if name != zone and not name.endswith("." + zone):
            raise self.invalid(f"{name} is not in {zone}")
        try:
            rdata = dns.rdata.from_text("IN", kind, text, relativize=False)
        except (dns.exception.DNSException, ValueError) as error:
            raise self.invalid(f"{kind} data {text!r}: {error}") from None
        for part in ("target", "exchange"):
            target = getattr(rdata, part, None)
            if target is not None and not target.is_absolute():
                raise self.invalid(f"{kind} data {text!r}: not absolute")
        return rdata

    def remove(self, zone: str, record: Stored) -> None:
        self.zones[zone].remove(record)

    def find(self, zone: str, name: str, kind: str) -> list[Stored]:
        return [record for record in self.zones[zone] if (record.name, record.type) == (name, kind)]

    def by_id(self, zone: str, identifier: str) -> Stored | None:
        return next((record for record in self.zones[zone] if str(record.id) == str(identifier)), None)

    def sets(self, zone: str) -> dict[tuple[str, str], list[Stored]]:
        found: dict[tuple[str, str], list[Stored]] = {}
        for record in self.zones[zone]:
            found.setdefault((record.name, record.type), []).append(record)
        return found

    def replace(self, zone: str, name: str, kind: str, ttl: int, texts: list[str]) -> None:
        """Replace a record set by others; as a whole or not at all."""
        before = list(self.zones[zone])
        self.zones[zone] = [record for record in before if (record.name, record.type) != (name, kind)]
        try:
            for text in texts:
                self.store(zone, name, kind, ttl, text)
        except RefusalError:
            self.zones[zone] = before
            raise

    # Faults.

    def page(self, items: list[Any], number: int, asked: int) -> list[Any]:
        """One page of a listing, numbered from 1."""
        self.faults.pages = max(self.faults.pages, number)
        if number == self.faults.failing_page:
            raise RefusalError(self.failed())
        size = min(asked, self.page_size)
        return items[(number - 1) * size : number * size]

    def write(self) -> None:
        """Called for each change before it is made."""
        if self.meanwhile:
            happens = self.meanwhile
            self.meanwhile = None
            happens()
        if self.faults.writes_left == 0:
            raise RefusalError(self.failed())
        if self.faults.writes_left is not None:
            self.faults.writes_left -= 1
        self.faults.writes += 1

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        body = handler.rfile.read(length)
        parts = urlsplit(handler.path)
        request = Request(
            handler.command,
            tuple(unquote(part) for part in parts.path.split("/") if part),
            dict(parse_qsl(parts.query, keep_blank_values=True)),
            {name.lower(): value for name, value in handler.headers.items()},
            body,
            handler.path,
        )
        with self._lock:
            if self.faults.dropped:
                self.faults.dropped -= 1
                self._cut(handler)
                return
            writes = self.faults.writes
            reply = self._reply(request)
            late = self.faults.writes > writes and self.faults.lost > 0
            self.faults.lost -= late
        if late and self.faults.lost % 2:
            self._cut(handler)
            return
        if late:
            self._closing.wait(TOO_LATE)
        text = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
        content = b"" if reply.body is None else text.encode()
        handler.send_response(reply.status)
        for name, value in {"Content-Type": "application/json", **reply.headers}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def _cut(self, handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)

    def _reply(self, request: Request) -> Reply:
        if self.faults.busy:
            self.faults.busy -= 1
            return Reply(429, {"message": "too many requests"}, {"Retry-After": self.faults.retry_after})
        try:
            return self.handle(request) if self.authorised(request) else self.unauthorised()
        except RefusalError as refusal:
            return refusal.reply
