# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading mailboxes by IMAP: a foreign server over TLS, this host's own through Dovecot without a password."""

from __future__ import annotations

import calendar
import contextlib
import hashlib
import imaplib
import re
import shlex
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from .compare import Message

TIMEOUT = 60.0
BATCH = 50
_LIST = re.compile(rb'\((?P<flags>[^)]*)\) (?:"(?P<separator>(?:\\.|[^"\\]))"|NIL) (?P<name>.+)', re.DOTALL)
_UNSELECTABLE = ("\\noselect", "\\nonexistent")


class MigrationError(Exception):
    """Why a mailbox could not be read or copied, for people."""


@dataclass(frozen=True)
class Source:
    """A server elsewhere. There is no way to speak to it without TLS."""

    host: str
    port: int = 993
    starttls: bool = False
    verify: bool = True
    ca_pem: str | None = None

    def context(self) -> ssl.SSLContext:
        """What its certificate is checked by."""
        context = ssl.create_default_context(cadata=self.ca_pem)
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


class Folder(NamedTuple):
    """Its name as the server wants it, and as it is called here: / between levels, no prefix, modified UTF-7."""

    raw: str
    name: str


@contextlib.contextmanager
def connect(source: Source, user: str, password: str) -> Iterator[imaplib.IMAP4]:
    """A connection to the source that is logged in. Raises MigrationError."""
    where = f"{source.host}:{source.port}"
    try:
        if source.starttls:
            connection = imaplib.IMAP4(source.host, source.port, timeout=TIMEOUT)
            connection.starttls(source.context())
        else:
            connection = imaplib.IMAP4_SSL(source.host, source.port, ssl_context=source.context(), timeout=TIMEOUT)
    except (OSError, imaplib.IMAP4.error) as error:
        raise MigrationError(f"{where}: {error}") from None
    try:
        if (user + password).isascii():
            connection.login(_quoted(user), password)
        else:
            connection.authenticate("PLAIN", lambda _challenge: f"\0{user}\0{password}".encode())
    except imaplib.IMAP4.error:
        connection.shutdown()
        raise MigrationError(f"{where}: does not let {user} in with the password given") from None
    with _closing(connection, where):
        yield connection


@contextlib.contextmanager
def local(address: str) -> Iterator[imaplib.IMAP4]:
    """A connection to a mailbox of this host, by Dovecot's own program. Raises MigrationError."""
    connection = imaplib.IMAP4_stream(f"exec doveadm exec imap -u {shlex.quote(address)} 2>/dev/null")
    with _closing(connection, address):
        yield connection


@contextlib.contextmanager
def _closing(connection: imaplib.IMAP4, where: str) -> Iterator[None]:
    try:
        yield
    except (OSError, imaplib.IMAP4.error) as error:
        raise MigrationError(f"{where}: {error}") from None
    finally:
        with contextlib.suppress(OSError, imaplib.IMAP4.error):
            connection.logout()


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def folders(connection: imaplib.IMAP4) -> tuple[list[Folder], str]:
    """The folders that can be opened, and the prefix of the names (``INBOX.`` on some servers)."""
    found, separator = [], "/"
    for line in connection.list()[1]:
        # a name with odd characters comes as a literal: (head, name)
        text = line[0].rpartition(b"{")[0] + line[1] if isinstance(line, tuple) else line
        match = _LIST.fullmatch(text or b"")
        if match is None:
            continue
        separator = (match["separator"] or b"/").decode()[-1]
        flags = match["flags"].decode().lower().split()
        raw = match["name"].decode("utf-8")
        if raw.startswith('"') and raw.endswith('"') and not isinstance(line, tuple):
            raw = re.sub(r"\\(.)", r"\1", raw[1:-1])
        if not any(flag in flags for flag in _UNSELECTABLE):
            found.append(raw)
    others = [name for name in found if name.upper() != "INBOX"]
    prefix = f"INBOX{separator}"
    if not others or not all(name.startswith(prefix) for name in others) or separator == "/":
        prefix = ""
    return [Folder(raw, _name(raw, prefix, separator)) for raw in found], prefix


def _name(raw: str, prefix: str, separator: str) -> str:
    if raw.upper() == "INBOX":
        return "INBOX"
    return "/".join(raw.removeprefix(prefix).split(separator))


def messages(connection: imaplib.IMAP4, folder: Folder) -> list[tuple[str, Message]]:
    """Every message of a folder with its UID, read whole."""
    _open(connection, folder)
    uids = [_uid(part) for part in _fetch(connection, "1:*", "(UID)")]
    found = []
    for start in range(0, len(uids), BATCH):
        numbers = ",".join(uids[start : start + BATCH])
        for part in _fetch(connection, numbers, "(UID FLAGS INTERNALDATE BODY.PEEK[])"):
            body = part[1] if isinstance(part, tuple) else b""
            digest = hashlib.sha256(body).hexdigest()
            found.append((_uid(part), Message(digest, len(body), _date(part), _flags(part))))
    if len(found) != len(uids):
        raise MigrationError(f"{folder.name}: {len(uids)} messages are listed, {len(found)} could be read")
    return found


def create(connection: imaplib.IMAP4, name: str) -> None:
    """Make a folder and show it in mail programs."""
    for command in (connection.create, connection.subscribe):
        answer, text = command(_quoted(name))
        if answer != "OK":
            raise MigrationError(f"folder {name!r} cannot be made: {text[0]!r}")


def copy(source: imaplib.IMAP4, folder: Folder, uid: str, message: Message, target: imaplib.IMAP4) -> None:
    """Put a message of the source's folder that is open into the target's folder of that name."""
    parts = _fetch(source, uid, "(UID BODY.PEEK[])")
    if len(parts) != 1:
        raise MigrationError(f"{folder.name}: the message with UID {uid} is gone: run again")
    body = parts[0][1] if isinstance(parts[0], tuple) else b""
    flags, date = f"({' '.join(sorted(message.flags))})", imaplib.Time2Internaldate(message.date)
    answer, text = target.append(_quoted(folder.name), flags, date, body)
    if answer != "OK":
        raise MigrationError(f"{folder.name}: a message was not taken: {text[0].decode('utf-8', 'replace')}")


def _open(connection: imaplib.IMAP4, folder: Folder) -> None:
    answer, text = connection.select(_quoted(folder.raw), readonly=True)
    if answer != "OK":
        raise MigrationError(f"folder {folder.name!r} cannot be opened: {text[0]!r}")


def _fetch(connection: imaplib.IMAP4, numbers: str, what: str) -> list[bytes | tuple[bytes, bytes]]:
    """The answer's parts, one for each message: text, or (text, literal) with what follows the literal in the text."""
    answer, data = connection.uid("fetch", numbers, what)
    if answer != "OK":
        raise MigrationError(f"messages cannot be read: {data[0]!r}")
    parts: list[bytes | tuple[bytes, bytes]] = []
    for item in data:
        if isinstance(item, tuple):
            parts.append((bytes(item[0]), bytes(item[1])))
        elif isinstance(item, bytes) and parts and isinstance(parts[-1], tuple) and not re.match(rb"\d+ \(", item):
            head, literal = parts[-1]
            parts[-1] = (head + b" " + item, literal)
        elif isinstance(item, bytes) and b"UID" in item:
            parts.append(item)
    return parts


def _head(part: bytes | tuple[bytes, bytes]) -> str:
    return (part[0] if isinstance(part, tuple) else part).decode("ascii", "replace")


def _uid(part: bytes | tuple[bytes, bytes]) -> str:
    found = re.search(r"\bUID (\d+)", _head(part))
    if found is None:
        raise MigrationError(f"an answer without UID: {_head(part)[:80]!r}")
    return found[1]


def _flags(part: bytes | tuple[bytes, bytes]) -> frozenset[str]:
    found = re.search(r"\bFLAGS \(([^)]*)\)", _head(part))
    return frozenset((found[1] if found else "").split()) - {"\\Recent"}


def _date(part: bytes | tuple[bytes, bytes]) -> int:
    head = _head(part)
    moment = imaplib.Internaldate2tuple(head.encode())
    # Internaldate2tuple gives local time
    return int(time.mktime(moment)) if moment else calendar.timegm((1970, 1, 1, 0, 0, 0))
