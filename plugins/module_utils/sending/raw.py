# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A message that the caller wrote himself: what may be sent as it is, or every reason why not (pure).

Its body is never parsed, so no nesting and no compression in it costs anything here.
"""

from __future__ import annotations

import base64
import binascii
import email.errors
import email.header
import email.utils
import re
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from .compose import (
    LONGEST_SUBJECT,
    MOST_RECIPIENTS,
    Composed,
    ComposeError,
    Problem,
    domain_of,
    is_reserved,
    parse_mailbox,
    parse_mailboxes,
)

# RFC 5322 section 2.1.1, without CR LF.
LONGEST_LINE = 998
MOST_FIELDS = 200

_FIELD = re.compile(rb"([!-9;-~]{1,76}):(.*)", re.DOTALL)
_ONCE = frozenset(
    ("from", "sender", "reply-to", "to", "cc", "subject", "date", "message-id", "mime-version", "content-type",
     "content-transfer-encoding")
)  # fmt: skip
_MESSAGE_ID = re.compile(r"<[!-;=?-~]{1,200}@[!-;=?-~]{1,255}>")


class Draft(NamedTuple):
    """What a caller asks for: the message in base64, and who gets it."""

    to: Sequence[str]
    content: str


class Raw(NamedTuple):
    """The message, and its Message-ID."""

    composed: Composed
    message_id: str


class _Field(NamedTuple):
    name: str
    lines: bytes

    @property
    def value(self) -> str:
        """Unfolded."""
        return re.sub(r"\r\n(?=[ \t])", "", self.lines.partition(b":")[2].decode("ascii")).strip(" \t")


def compose(draft: Draft, domain: str, message_id: str, date: datetime, limit: int) -> Raw:
    """The message with what it lacks. message_id: for one that has none. Raises ComposeError with all that is wrong."""
    found: list[Problem] = []
    to = parse_mailboxes(draft.to, "/to", found)
    if not draft.to:
        found.append(Problem("/to", "is empty: write at least one address"))
    if len(draft.to) > MOST_RECIPIENTS:
        found.append(Problem("/to", f"has more than {MOST_RECIPIENTS} recipients"))
    fields, body = _split(draft.content, found)
    by_name: dict[str, list[_Field]] = {}
    for field in fields:
        by_name.setdefault(field.name, []).append(field)
    sender = _check(by_name, domain, found)
    if found:
        raise ComposeError(found)

    kept = [field.lines for field in fields if field.name != "bcc"]
    if "date" not in by_name:
        kept.append(b"Date: " + email.utils.format_datetime(date).encode("ascii"))
    if "message-id" in by_name:
        message_id = by_name["message-id"][0].value
    else:
        kept.append(b"Message-ID: " + message_id.encode("ascii"))
    content = b"\r\n".join([*kept, b"", body])
    if len(content) > limit:
        raise ComposeError([Problem("", f"the message has {len(content)} octets, more than {limit}")])
    unique = {mailbox.address.lower(): mailbox.address for mailbox in to}
    subject = _decoded(by_name["subject"][0].value) if "subject" in by_name else ""
    return Raw(Composed(sender, tuple(unique.values()), subject, content), message_id)


def _split(encoded: str, found: list[Problem]) -> tuple[list[_Field], bytes]:
    try:
        content = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        found.append(Problem("/content", "is not base64"))
        return [], b""
    content = content.replace(b"\r\n", b"\n")
    for what, pattern in (
        ("a NUL", b"\0"),
        ("a carriage return without a line feed", b"\r"),
        # a relay that must convert it would break the signature
        ("8-bit text: encode it as quoted-printable or base64", b"[\x80-\xff]"),
    ):
        if re.search(pattern, content):
            found.append(Problem("/content", f"holds {what}"))
    if re.search(rb"[^\n]{%d}" % (LONGEST_LINE + 1), content):
        found.append(Problem("/content", f"has a line of more than {LONGEST_LINE} characters"))
    if found and found[-1].pointer == "/content":
        return [], b""
    head, separator, body = content.partition(b"\n\n")
    if not separator:
        found.append(Problem("/content", "has no empty line after its headers"))
        return [], b""
    fields = []
    for lines in re.split(rb"\n(?![ \t])", head)[: MOST_FIELDS + 1]:
        parts = _FIELD.fullmatch(lines)
        if parts is None:
            found.append(Problem("/content", "has a line among its headers that is none"))
            return [], b""
        fields.append(_Field(parts[1].decode("ascii").lower(), lines.replace(b"\n", b"\r\n")))
    if len(fields) > MOST_FIELDS:
        found.append(Problem("/content", f"has more than {MOST_FIELDS} headers"))
    return fields, body.replace(b"\n", b"\r\n")


def _check(by_name: dict[str, list[_Field]], domain: str, found: list[Problem]) -> str:
    """The author's address."""
    if any(problem.pointer == "/content" for problem in found):
        return ""
    for name, fields in by_name.items():
        if is_reserved(name):
            found.append(Problem("/content", f"the header {name} is written by servers"))
        elif name in _ONCE and len(fields) > 1:
            found.append(Problem("/content", f"the header {name} is there twice"))
        if any(re.search(r"[^\t\x20-\x7e]", field.value) for field in fields):
            found.append(Problem("/content", f"the header {name} holds a control character"))
    if "from" not in by_name:
        found.append(Problem("/content", "the header from is missing"))
    addresses = []
    for name in ("from", "sender"):
        for field in by_name.get(name, []):
            try:
                addresses.append(parse_mailbox(field.value).address)
            except ValueError as error:
                found.append(Problem("/content", f"the header {name}: {error}"))
                continue
            if domain_of(addresses[-1]) != domain:
                found.append(
                    Problem("/content", f"the header {name} is not of {domain}, the domain that the key is for")
                )
    if "message-id" in by_name and not _MESSAGE_ID.fullmatch(by_name["message-id"][0].value):
        found.append(Problem("/content", "the header message-id is not <something@domain>"))
    return addresses[0] if addresses else ""


def _decoded(value: str) -> str:
    """A subject as people read it."""
    try:
        text = str(email.header.make_header(email.header.decode_header(value)))
    except (LookupError, ValueError, email.errors.HeaderParseError):
        text = value
    return "".join(char for char in text if char.isprintable())[:LONGEST_SUBJECT]
