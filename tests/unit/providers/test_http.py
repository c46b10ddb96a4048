# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTTP edge against a real server: what is sent again, how long it waits, what an answer means."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.contract import (
    CredentialsError,
    UnreachableError,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.http import (
    Http,
    RefusedError,
    Transport,
    UncertainError,
    header_auth,
)

TOKEN = "t0ken/with+signs"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Scripted:
    """A server that gives the answers of a list, one a request, and the last one for ever; it keeps what it got."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], str]] = []
        self.got: list[tuple[str, str, dict[str, str], bytes]] = []
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                scripted.got.append((self.command, self.path, dict(self.headers.items()), body))
                status, headers, text = scripted.answers[min(len(scripted.got), len(scripted.answers)) - 1]
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

            def log_message(self, *_arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/api"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Scripted]:
    scripted = Scripted()
    yield scripted
    scripted.close()


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def http(server: Scripted, waits: list[float]) -> Http:
    transport = Transport(timeout=2.0, attempts=4, longest_wait=100, sleep=waits.append, now=NOW.timestamp)
    return Http(
        "Test",
        server.url,
        header_auth(Authorization=f"Bearer {TOKEN}"),
        (TOKEN,),
        transport,
        explain=lambda answer: str(answer.json()["message"]),
        busy=lambda answer: answer.status == 400 and "Throttling" in answer.text,
    )


Scene = tuple[int, dict[str, str], str]
OK: Scene = (200, {}, '{"done": true}')
BROKEN: Scene = (502, {}, "<html>")


def test_a_request_carries_what_it_is_given(http: Http, server: Scripted) -> None:
    server.answers = [OK]
    assert http.call("POST", "/x", query={"a": 1, "b c": "d+e f"}, body={"k": "v"}).json() == {"done": True}
    method, path, headers, body = server.got[0]
    assert (method, path, body) == ("POST", "/api/x?a=1&b%20c=d%2Be%20f", b'{"k": "v"}')
    assert headers["Authorization"] == f"Bearer {TOKEN}"
    assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_an_idempotent_request_outlives_failures_of_the_server(
    http: Http, server: Scripted, waits: list[float], method: str
) -> None:
    server.answers = [BROKEN, BROKEN, BROKEN, OK]
    http.call(method, "/x")
    assert waits == [1.0, 2.0, 4.0]


def test_after_the_last_attempt_it_says_so(http: Http, server: Scripted, waits: list[float]) -> None:
    server.answers = [BROKEN]
    with pytest.raises(UnreachableError, match=r"^Test: GET /x: status 502$") as caught:
        http.call("GET", "/x")
    assert not isinstance(caught.value, UncertainError)
    assert len(server.got) == 4
    assert len(waits) == 3


def test_any_other_request_is_sent_once(http: Http, server: Scripted, waits: list[float]) -> None:
    server.answers = [BROKEN, OK]
    with pytest.raises(UncertainError):
        http.call("POST", "/x")
    assert len(server.got) == 1
    assert waits == []


@pytest.mark.parametrize(
    ("asked", "waited"),
    [
        ("17", 17.0),
        (format_datetime(datetime(2026, 1, 2, 3, 4, 35, tzinfo=UTC), usegmt=True), 30.0),
        (format_datetime(datetime(2025, 1, 1, tzinfo=UTC), usegmt=True), 0.0),
        ("soon", 1.0),
    ],
)
def test_a_busy_server_says_how_long_to_wait(
    http: Http, server: Scripted, waits: list[float], asked: str, waited: float
) -> None:
    server.answers = [(429, {"Retry-After": asked}, ""), OK]
    http.call("POST", "/x")
    assert waits == [waited]
    assert len(server.got) == 2


def test_a_wait_beyond_the_bound_is_not_waited(http: Http, server: Scripted, waits: list[float]) -> None:
    server.answers = [(429, {"Retry-After": "101"}, "")]
    with pytest.raises(UnreachableError, match="in 101 s; nothing done"):
        http.call("GET", "/x")
    assert waits == []


def test_an_api_may_say_busy_in_its_own_way(http: Http, server: Scripted, waits: list[float]) -> None:
    server.answers = [(400, {}, "Throttling"), OK]
    http.call("POST", "/x")
    assert waits == [1.0]


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials(http: Http, server: Scripted, status: int) -> None:
    server.answers = [(status, {}, f'{{"message": "the token {TOKEN}\\nis wrong"}}')]
    with pytest.raises(CredentialsError) as caught:
        http.call("GET", "/x")
    assert str(caught.value) == f"Test: GET /x: status {status}: the token *** is wrong"
    assert len(server.got) == 1


def test_another_refusal_can_be_accepted(http: Http, server: Scripted) -> None:
    server.answers = [(404, {}, '{"message": "no such thing"}')]
    assert http.call("GET", "/x", accept={404}).status == 404
    with pytest.raises(RefusedError, match="no such thing") as caught:
        http.call("GET", "/x")
    assert caught.value.answer.status == 404


def test_an_answer_that_makes_no_sense(http: Http, server: Scripted) -> None:
    server.answers = [(200, {}, "<html>"), OK, (200, {}, "[]"), (422, {}, "[]")]
    with pytest.raises(UnreachableError, match="not JSON"):
        http.call("GET", "/x").json()
    with pytest.raises(UnreachableError, match="lacks 'result'"):
        http.call("GET", "/x").json()["result"]
    with pytest.raises(UnreachableError, match="no dict"):
        http.call("GET", "/x").json()
    with pytest.raises(RefusedError, match=r"status 422$"):
        http.call("GET", "/x")


def test_an_answer_is_read_as_utf_8(http: Http, server: Scripted) -> None:
    server.answers = [(200, {"Content-Type": "text/xml"}, "gr\u00fcn \u2603")]
    assert http.call("GET", "/x").text == "gr\u00fcn \u2603"


def test_no_secret_is_in_its_representation(http: Http) -> None:
    assert TOKEN not in repr(http)


def test_a_redirect_is_not_followed(http: Http, server: Scripted) -> None:
    server.answers = [(302, {"Location": server.url + "/elsewhere"}, ""), OK]
    with pytest.raises(UnreachableError, match="status 302"):
        http.call("GET", "/x")
    assert len(server.got) == 1


def test_a_netrc_file_does_not_replace_the_credentials(
    http: Http, server: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server.answers = [OK]
    http.call("GET", "/x")
    assert server.got[0][2]["Authorization"] == f"Bearer {TOKEN}"


def test_nobody_listens(waits: list[float], server: Scripted) -> None:
    server.close()
    http = Http("Test", server.url, header_auth(), (), Transport(attempts=3, sleep=waits.append))
    with pytest.raises(UnreachableError, match=r"Test: GET /x: no answer \(ConnectionError\)"):
        http.call("GET", "/x")
    assert waits == [1.0, 2.0]
    with pytest.raises(UncertainError):
        http.call("POST", "/x")
    assert waits == [1.0, 2.0]


def test_polling_ends(http: Http, waits: list[float]) -> None:
    seen = iter([False, False, True])
    http.poll(lambda: next(seen), "it")
    assert waits == [2.0, 2.0]
    with pytest.raises(UnreachableError, match="it is not done after 10 s"):
        http.poll(lambda: False, "it", longest=10)
