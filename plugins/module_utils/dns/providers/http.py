# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The edge to DNS providers that are spoken to by HTTP: requests, retries, and what an answer means."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.contract import (
    CredentialsError,
    ProviderError,
    UnreachableError,
)

if TYPE_CHECKING:
    from requests import PreparedRequest

LIBRARY_ERROR: str | None = None
try:
    import requests
except ImportError:
    LIBRARY_ERROR = traceback.format_exc()

# What may be sent twice with the outcome of once (RFC 9110 section 9.2.2).
IDEMPOTENT = frozenset({"GET", "PUT", "DELETE"})
# More of a server's error text than this helps nobody.
LONGEST_TEXT = 300


@dataclass(frozen=True)
class Transport:
    """How requests are sent. `timeout` and `longest_wait` in seconds; `attempts` counts the first one too.
    A server that asks for a longer wait than `longest_wait` is not waited for. Tests replace the clock."""

    timeout: float = 30.0
    attempts: int = 5
    longest_wait: float = 300.0
    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], float] = time.time


@dataclass(frozen=True)
class Answer:
    """A server's answer. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    text: str

    def json(self, kind: type = dict) -> Any:
        """Parse the body, which must be of a kind: dict, list, int or object.

        Raises UnreachableError when it is not, or later, when a key is asked that an object in it lacks.
        """
        try:
            told = json.loads(self.text, object_hook=_Told)
        except ValueError:
            raise UnreachableError(f"an answer with status {self.status} is not JSON") from None
        if not isinstance(told, kind):
            raise UnreachableError(f"an answer with status {self.status} is no {kind.__name__}")
        return told


class _Told(dict[str, Any]):
    """An object in an answer; one that lacks what it must have makes no sense."""

    def __missing__(self, key: str) -> Any:
        raise UnreachableError(f"an answer lacks {key!r}")


class UncertainError(UnreachableError):
    """A change was sent; whether it was made is not known, or what is live is not what it was sent for."""


class RefusedError(ProviderError):
    """The server understood the request and refused it. `answer` says how."""

    def __init__(self, text: str, answer: Answer) -> None:
        super().__init__(text)
        self.answer = answer


def _session() -> requests.Session:
    # Looked up when it is called: sanity tests import this file without the library.
    return requests.Session()


def _no_text(_answer: Answer) -> str:
    return ""


def _never(_answer: Answer) -> bool:
    return False


@dataclass(frozen=True)
class Http:
    """Requests to one API.

    `authorize` puts the credentials into a request that is ready to be sent; it runs again for each attempt.
    `secrets` are cut out of whatever a server says. `explain` finds the error text in an answer.
    `busy` recognises an answer that says: not done, ask again later; as every 429 does.
    """

    service: str
    base: str
    authorize: Callable[[PreparedRequest], PreparedRequest]
    secrets: tuple[str, ...] = field(repr=False)
    transport: Transport = field(default_factory=Transport)
    explain: Callable[[Answer], str] = _no_text
    busy: Callable[[Answer], bool] = _never
    # Keeps the connection between requests.
    session: requests.Session = field(default_factory=_session, init=False, repr=False)

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: Any = None,
        content: tuple[str, bytes] | None = None,
        accept: Container[int] = (),
        idempotent: bool | None = None,
    ) -> Answer:
        """Send a request below the base URL; give the answer if its status is below 300 or in `accept`.

        `body` is sent as JSON, `content` as (media type, octets). A request that is busy was not made, so it is sent
        again after the wait that the server asks for (Retry-After, RFC 9110 section 10.2.3). One that is idempotent
        is sent again after a failure of the connection or of the server too, with growing waits.
        Raises CredentialsError (401, 403), RefusedError (other 4xx), and for all else UnreachableError, which is
        UncertainError when the request was to change something.
        """
        failure = UnreachableError if method == "GET" else UncertainError
        again = method in IDEMPOTENT if idempotent is None else idempotent
        what = f"{self.service}: {method} {path}"
        # A space is written %20: signatures of APIs do not agree on "+".
        url = self.base + path + (f"?{urlencode(query, quote_via=quote)}" if query else "")
        headers = {"Accept": "application/json"}
        data: bytes | None = None
        if content is not None:
            headers["Content-Type"], data = content
        elif body is not None:
            headers["Content-Type"], data = "application/json", json.dumps(body).encode()
        for attempt in range(self.transport.attempts):
            last = attempt == self.transport.attempts - 1
            try:
                answer = self._send(method, url, headers, data)
            except UnreachableError as error:
                if last or not again:
                    raise failure(f"{what}: {error}") from None
                self.transport.sleep(2.0**attempt)
                continue
            busy = answer.status == 429 or self.busy(answer)
            if not last and (busy or (again and answer.status >= 500)):
                self.transport.sleep(self._wait(what, answer, 2.0**attempt))
                continue
            if answer.status < 300 or answer.status in accept:
                return answer
            raise self._error(what, answer, failure if answer.status >= 500 or answer.status < 400 or busy else None)
        raise AssertionError("attempts is 1 or more")

    def settle(self, attempt: Callable[[], None]) -> None:
        """Run an attempt that begins by reading what is live; again, twice at most, when its end is uncertain."""
        for count in range(2):
            try:
                return attempt()
            except UncertainError:
                self.transport.sleep(2.0**count)
        return attempt()

    def poll(self, done: Callable[[], bool], what: str, every: float = 2.0, longest: float = 600.0) -> None:
        """Wait until `done` says so, asking every so many seconds. Raises UnreachableError after `longest` seconds."""
        for _count in range(int(longest / every)):
            if done():
                return
            self.transport.sleep(every)
        raise UnreachableError(f"{self.service}: {what} is not done after {longest:.0f} s")

    def clean(self, text: str) -> str:
        """Cut the secrets out of a text, and the text to one line of bearable length."""
        for secret in self.secrets:
            text = text.replace(secret, "***") if secret else text
        return " ".join(text.split())[:LONGEST_TEXT]

    def _send(self, method: str, url: str, headers: Mapping[str, str], data: bytes | None) -> Answer:
        try:
            # No redirect is followed: the credentials are for this server alone.
            response = self.session.request(
                method,
                url,
                data=data,
                headers=headers,
                auth=self.authorize,
                timeout=self.transport.timeout,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            # The library's own text may quote the request; its kind says enough.
            raise UnreachableError(f"no answer ({type(error).__name__})") from None
        # The library would guess an encoding where none is named; all these APIs speak UTF-8.
        text = response.content.decode("utf-8", "replace")
        return Answer(response.status_code, {name.lower(): value for name, value in response.headers.items()}, text)

    def _wait(self, what: str, answer: Answer, otherwise: float) -> float:
        asked = answer.headers.get("retry-after", "").strip()
        if not asked:
            return otherwise
        if asked.isdigit():
            seconds = float(asked)
        else:
            try:
                seconds = max(0.0, parsedate_to_datetime(asked).timestamp() - self.transport.now())
            except ValueError:
                return otherwise
        if seconds > self.transport.longest_wait:
            raise UnreachableError(
                f"{what}: status {answer.status}, to be asked again in {seconds:.0f} s; nothing done"
            )
        return seconds

    def _error(self, what: str, answer: Answer, failure: type[UnreachableError] | None) -> ProviderError:
        try:
            told = self.clean(self.explain(answer))
        except (UnreachableError, LookupError, TypeError, AttributeError):
            told = ""
        text = f"{what}: status {answer.status}" + (f": {told}" if told else "")
        if failure is not None:
            return failure(text)
        return CredentialsError(text) if answer.status in (401, 403) else RefusedError(text, answer)


def header_auth(**headers: str) -> Callable[[PreparedRequest], PreparedRequest]:
    """Authorize by fixed headers; an underscore in a keyword stands for a hyphen."""

    def authorize(request: PreparedRequest) -> PreparedRequest:
        for name, value in headers.items():
            request.headers[name.replace("_", "-")] = value
        return request

    return authorize
