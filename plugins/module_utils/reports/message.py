# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A message that carries reports: who sent it, and what is attached to it, unpacked within bounds. Pure."""

from __future__ import annotations

import email
import email.utils
import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message

from ansible_collections.mailwright.server.plugins.module_utils.reports import dmarc, tls, values
from ansible_collections.mailwright.server.plugins.module_utils.reports.dmarc import DmarcReport
from ansible_collections.mailwright.server.plugins.module_utils.reports.tls import TlsReport
from ansible_collections.mailwright.server.plugins.module_utils.reports.values import ReportError

# What all attachments of a message may unpack to, and how many of them are looked at.
MAX_BYTES = 32 * 2**20
MAX_PARTS = 50
# Characters of an error, which may hold a name out of the report.
MAX_PROBLEM = 1000
_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
_BOM = b"\xef\xbb\xbf"
# What people read; a report there would have a file's name.
_BODIES = ("text/plain", "text/html")
_RESULT = re.compile(r"\b(dmarc|dkim)\s*=\s*([a-z]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Document:
    """A report, and the SHA-256 of what it was read from. That tells whether it came before: the report's own number
    does not, as servers that share a name and a program may all number theirs in the same way."""

    digest: str
    report: DmarcReport | TlsReport


@dataclass(frozen=True)
class Letter:
    """What a message holds. `authenticated`: DMARC or DKIM passed for the From header's domain, as our own filter saw
    it; `problems` are why something in it is no report."""

    sender_domain: str
    authenticated: bool
    documents: tuple[Document, ...]
    problems: tuple[str, ...]


def read(data: bytes, hostname: str) -> Letter:
    """Read a message as it was delivered; `hostname` is the name under which our filter writes its results."""
    try:
        message = email.message_from_bytes(data)
        sender_domain = _sender_domain(message)
        authenticated = _authenticated(message, hostname, sender_domain)
        documents: list[Document] = []
        problems: list[str] = []
        budget = _Budget()
        for number, part in enumerate(_parts(message)):
            if number == MAX_PARTS:
                problems.append(f"more than {MAX_PARTS} parts")
                break
            try:
                documents += [_parse(data) for data in _unpacked(part, budget)]
            except ReportError as error:
                problems.append(str(error)[:MAX_PROBLEM])
    except (RecursionError, LookupError, AttributeError, TypeError, ValueError) as error:
        # the email package has no error of its own for a message beyond its understanding
        return Letter("", False, (), (f"no message: {type(error).__name__}",))
    if not documents and not problems:
        problems.append("holds no report")
    return Letter(sender_domain, authenticated, tuple(documents), tuple(problems))


class _Budget:
    """How many bytes may still be unpacked."""

    def __init__(self) -> None:
        self.left = MAX_BYTES

    def take(self, data: bytes) -> bytes:
        if len(data) > self.left:
            raise ReportError(f"unpacks to more than {MAX_BYTES} bytes")
        self.left -= len(data)
        return data


def _parts(message: Message) -> Iterator[Message]:
    return (part for part in message.walk() if not part.is_multipart())


def _unpacked(part: Message, budget: _Budget) -> Iterator[bytes]:
    """What may be a report in a part: told by its content, since senders label it in many ways."""
    data = part.get_payload(decode=True)
    if not isinstance(data, bytes):
        return
    if data.startswith(_GZIP):
        yield budget.take(_gunzip(data, budget.left))
    elif data.startswith(_ZIP):
        yield from _unzip(data, budget)
    elif _first(data) in (b"<", b"{") and (part.get_filename() or part.get_content_type() not in _BODIES):
        yield budget.take(data)


def _first(data: bytes) -> bytes:
    """The first character that is no space."""
    return data.removeprefix(_BOM).lstrip()[:1]


def _gunzip(data: bytes, limit: int) -> bytes:
    found = b""
    try:
        while data:  # a gzip file is one or more members
            unpacker = zlib.decompressobj(wbits=31)
            found += unpacker.decompress(data, limit + 1 - len(found))
            if len(found) > limit:
                break  # the budget says what is wrong with it
            if not unpacker.eof:
                raise ReportError("the gzip file ends too early")
            data = unpacker.unused_data.lstrip(b"\0")
    except zlib.error as error:
        raise ReportError(f"no gzip file: {error}") from error
    return found


def _unzip(data: bytes, budget: _Budget) -> Iterator[bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in [entry for entry in archive.infolist() if not entry.is_dir()][:MAX_PARTS]:
                # others may take memory without bounds
                if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ReportError("the zip file is packed in an unusual way")
                with archive.open(entry) as stream:
                    yield budget.take(stream.read(budget.left + 1))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, ValueError) as error:
        if isinstance(error, ReportError):
            raise
        raise ReportError(f"no zip file: {error}") from error


def _parse(data: bytes) -> Document:
    report = tls.parse(data) if _first(data) == b"{" else dmarc.parse(data)
    return Document(hashlib.sha256(data).hexdigest(), report)


def _sender_domain(message: Message) -> str:
    addresses = email.utils.getaddresses([str(value) for value in message.get_all("From", [])])
    if len(addresses) != 1:
        return ""
    return values.optional_text(addresses[0][1].rpartition("@")[2], "From", 255).lower().rstrip(".")


def _authenticated(message: Message, hostname: str, sender_domain: str) -> bool:
    """Our own results are the first ones under our name: the filter adds them above all that was there."""
    for value in message.get_all("Authentication-Results", []):
        name, _semicolon, results = str(value).partition(";")
        if name.split()[:1] == [hostname]:
            verdicts = {kind.lower(): result.lower() for kind, result in reversed(_RESULT.findall(results))}
            signed = re.search(rf"dkim\s*=\s*pass[^;]*header\.d={re.escape(sender_domain)}(?=[\s;]|$)", results)
            return bool(sender_domain) and (verdicts.get("dmarc") == "pass" or signed is not None)
    return False
