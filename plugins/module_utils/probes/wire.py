# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections to the host's own ports, with deadlines, by whatever protocol speaks in lines."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ansible_collections.mailwright.server.plugins.module_utils.probes.result import Result, Status
from ansible_collections.mailwright.server.plugins.module_utils.probes.runner import reason

LIMIT = 1 << 20


@dataclass(frozen=True)
class Answer:
    """What came back from one address of a port: an error, or problems with what it said (none: all is well)."""

    address: str
    local: bool
    problems: tuple[str, ...]
    said: str = ""


class Stream:
    """A TCP connection that reads lines and can turn to TLS. Raises OSError (TimeoutError among it) when it breaks."""

    def __init__(self, address: str, port: int, timeout: float) -> None:
        self._end = time.monotonic() + timeout
        self._socket: socket.socket = socket.create_connection((address, port), timeout)
        self._buffer = b""
        self.tls: str | None = None

    def _left(self) -> float:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def start_tls(self, hostname: str) -> None:
        """Negotiate TLS without looking at the certificate, which is a probe of its own."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self._socket.settimeout(self._left())
        self._socket = context.wrap_socket(self._socket, server_hostname=hostname)
        self._buffer = b""
        self.tls = self._socket.version()

    def line(self) -> str:
        """The next line without its end. Raises ConnectionError when the peer hung up before it."""
        while b"\n" not in self._buffer:
            piece = self._receive()
            if not piece:
                raise ConnectionError("hung up")
            self._buffer += piece
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line.rstrip(b"\r").decode("utf-8", "replace")

    def rest(self) -> str:
        """Everything until the peer hangs up, at most 1 MiB."""
        while len(self._buffer) < LIMIT:
            piece = self._receive()
            if not piece:
                break
            self._buffer += piece
        return self._buffer.decode("utf-8", "replace")

    def _receive(self) -> bytes:
        self._socket.settimeout(self._left())
        return self._socket.recv(65536)

    def send(self, text: str) -> None:
        """Send a text as it is."""
        self._socket.settimeout(self._left())
        self._socket.sendall(text.encode())

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


@contextlib.contextmanager
def connect(address: str, port: int, timeout: float) -> Iterator[Stream]:
    """A stream that is closed at the end; `timeout` seconds for all of it together."""
    stream = Stream(address, port, timeout)
    try:
        yield stream
    finally:
        stream.close()


def is_local(address: str) -> bool:
    """Whether an interface of this host has the address (behind NAT the public one is elsewhere)."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def failure(address: str, error: Exception) -> Answer:
    """The answer of an address that gave none."""
    return Answer(address, is_local(address), (reason(error),))


def port_result(name: str, answers: Sequence[Answer], seconds: float = 0.0) -> Result:
    """Judge what all addresses of one port said. One that no interface has may be out of reach from here alone."""
    statuses: list[Status] = ["ok" if not a.problems else "fail" if a.local else "warn" for a in answers]
    bad = [answer for answer in answers if answer.problems]
    lines = [
        f"{answer.address}: {problem}" + ("" if answer.local else " (asked from the host itself; no interface has it)")
        for answer in bad
        for problem in answer.problems
    ]
    status: Status = "fail" if "fail" in statuses else "warn" if "warn" in statuses else "ok"
    summary = lines[0] if lines else "answers on " + ", ".join(answer.address for answer in answers)
    data = {answer.address: {"said": answer.said, "problems": list(answer.problems)} for answer in answers}
    return Result(name, "ports", status, summary, tuple(lines[1:]), seconds, data)
