# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a user's filters by ManageSieve (RFC 5804): just what a migration needs."""

from __future__ import annotations

import base64
import re
import socket
from dataclasses import dataclass
from types import TracebackType

from .imap import TIMEOUT, MigrationError, Source

_LITERAL = re.compile(rb"\{(\d+)\+?\}\r\n$")
_STRING = re.compile(rb'"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Script:
    """A filter and whether it is the one in use."""

    name: str
    active: bool


class ManageSieve:
    """A connection that is logged in. Raises MigrationError for whatever goes wrong."""

    def __init__(self, source: Source, port: int, user: str, password: str) -> None:
        self.where = f"{source.host}:{port}"
        try:
            plain = socket.create_connection((source.host, port), TIMEOUT)
        except OSError as error:
            raise MigrationError(f"{self.where}: {error}") from None
        self.socket: socket.socket = plain
        self.stream = plain.makefile("rb")
        try:
            self._answer()
            self._command(b"STARTTLS")
            self.socket = source.context().wrap_socket(plain, server_hostname=source.host)
            self.stream = self.socket.makefile("rb")
            self._answer()
            token = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
            self._command(f'AUTHENTICATE "PLAIN" "{token}"'.encode(), secret=True)
        except OSError as error:
            raise MigrationError(f"{self.where}: {error}") from None

    def __enter__(self) -> ManageSieve:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def scripts(self) -> list[Script]:
        """All filters of the user."""
        found = []
        for line in self._command(b"LISTSCRIPTS"):
            name = _STRING.match(line)
            text = name[1] if name else line.partition(b"\n")[2]
            active = line.rstrip().upper().endswith(b" ACTIVE")
            if not name and active:
                text = text.rstrip()[: -len(b" ACTIVE")]
            found.append(Script(re.sub(rb"\\(.)", rb"\1", text).decode(), active))
        return found

    def get(self, name: str) -> str:
        """A filter's text."""
        lines = self._command(b"GETSCRIPT " + _quoted(name))
        if not lines:
            raise MigrationError(f"{self.where}: gives no text for the filter {name!r}")
        found = _STRING.fullmatch(lines[0].rstrip(b"\r\n"))
        return (re.sub(rb"\\(.)", rb"\1", found[1]) if found else lines[0].partition(b"\n")[2]).decode()

    def _command(self, line: bytes, *, secret: bool = False) -> list[bytes]:
        try:
            self.socket.sendall(line + b"\r\n")
            return self._answer()
        except MigrationError as error:
            if secret:
                raise MigrationError(f"{self.where}: does not take this password for ManageSieve") from None
            raise error from None
        except OSError as error:
            raise MigrationError(f"{self.where}: {error}") from None

    def _answer(self) -> list[bytes]:
        """Lines up to OK; a literal is joined to the line that announces it, after a line feed."""
        lines: list[bytes] = []
        while True:
            line = self.stream.readline(65536)
            if not line:
                raise MigrationError(f"{self.where}: ended the connection")
            if line[:2].upper() == b"OK":
                return lines
            if line[:2].upper() == b"NO" or line[:3].upper() == b"BYE":
                raise MigrationError(f"{self.where}: {line.decode('utf-8', 'replace').strip()}")
            literal = _LITERAL.search(line)
            if literal:
                line = line.strip() + b"\n" + self.stream.read(int(literal[1])) + self.stream.readline().rstrip(b"\r\n")
            lines.append(line)


def _quoted(name: str) -> bytes:
    return b'"' + name.encode().replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
