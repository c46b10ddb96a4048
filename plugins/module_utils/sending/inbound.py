# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A message that came in, taken apart: headers, text, HTML, attachments, and what the filter found out (pure).

Whatever a stranger sends can be read: what makes no sense is left as it is, never an error.
"""

from __future__ import annotations

import base64
import contextlib
import email
import email.errors
import email.policy
import hashlib
import re
from email.header import decode_header, make_header
from email.message import Message
from email.utils import getaddresses, parsedate_to_datetime
from typing import Any, NamedTuple

DOMAIN = "inbound.mailwright.invalid"
# What an alias of a route leads to: the local part as it was written, the route's id as a label.
_RECIPIENT = re.compile(rf"(.+)@([0-9a-f]{{32}})\.{re.escape(DOMAIN)}", re.DOTALL)
_METHOD = re.compile(r"\b(spf|dkim|dmarc)=([a-z]+)")
MOST_PARTS = 1000


class Attachment(NamedTuple):
    """A part of the message that is not its text."""

    filename: str
    content_type: str
    content_id: str
    content: bytes


class Parsed(NamedTuple):
    """The message taken apart. complete: whether its structure made sense to the end."""

    headers: list[tuple[str, str]]
    text: str | None
    html: str | None
    attachments: list[Attachment]
    complete: bool


def route_of(address: str) -> tuple[str, str] | None:
    """The local part and the route's id in hexadecimal that an envelope recipient names, or None."""
    found = _RECIPIENT.fullmatch(address)
    return (found[1], found[2]) if found else None


def parse(content: bytes) -> Parsed:
    """Take a message apart."""
    # compat32 raises least; a message that is nested like a bomb exhausts the stack
    try:
        message = email.message_from_bytes(content, policy=email.policy.compat32)
        leaves, complete = _leaves(message)
    except RecursionError:
        message = email.message_from_bytes(content.partition(b"\n\n")[0].partition(b"\r\n\r\n")[0] + b"\n\n")
        leaves, complete = [], False
    text: str | None = None
    html: str | None = None
    attachments = []
    for part in leaves:
        kind = part.get_content_type()
        inline = part.get_content_disposition() != "attachment" and part.get_filename() is None
        if kind == "text/plain" and inline and text is None:
            text = _text(part)
        elif kind == "text/html" and inline and html is None:
            html = _text(part)
        else:
            attachments.append(_attachment(part, kind))
    return Parsed([(name, decoded(value)) for name, value in message.items()], text, html, attachments, complete)


def _leaves(message: Message) -> tuple[list[Message], bool]:
    """The parts that hold something, in order, and whether these are all; a forwarded message is one part."""
    leaves: list[Message] = []
    stack = [message]
    for _number in range(MOST_PARTS):
        if not stack:
            break
        part = stack.pop()
        if part.is_multipart() and part.get_content_maintype() == "multipart":
            stack.extend(reversed([sub for sub in part.get_payload() if isinstance(sub, Message)]))
        else:
            leaves.append(part)
    return leaves, not stack


def _bytes(part: Message) -> bytes:
    try:
        if part.is_multipart():
            return b"".join(sub.as_bytes() for sub in part.get_payload() if isinstance(sub, Message))
        content = part.get_payload(decode=True)
    # what the library trips over in what strangers send: the message itself is kept, and can be had as it came
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        content = None
    return content if isinstance(content, bytes) else b""


def _text(part: Message) -> str:
    content = _bytes(part)
    charset = str(part.get_param("charset") or "utf-8")
    try:
        text = content.decode(charset, "replace")
    except (LookupError, ValueError):
        text = content.decode("utf-8", "replace")
    return text.replace("\r\n", "\n")


def _attachment(part: Message, kind: str) -> Attachment:
    try:
        filename = part.get_filename() or ""
    except (ValueError, LookupError):
        filename = ""
    identity = str(part.get("Content-ID", "")).strip().strip("<>")
    return Attachment(decoded(filename), kind, _clean(identity), _bytes(part))


def decoded(value: Any) -> str:
    """A header's value as people read it, on one line."""
    text = str(value)
    with contextlib.suppress(email.errors.HeaderParseError, LookupError, ValueError):
        text = str(make_header(decode_header(text)))
    return _clean(text)


def _clean(text: str) -> str:
    """Without line breaks, and of characters that every program can write."""
    return re.sub(r"\s*[\r\n]+\s*", " ", text).encode("utf-8", "replace").decode()


def authentication(headers: list[tuple[str, str]], hostname: str) -> dict[str, str]:
    """What this host's filter found: the topmost Authentication-Results, if it is this host's.

    The filter writes its own on top; lower ones may be anybody's. Of several DKIM signatures one that passes counts.
    """
    results = next((value for name, value in headers if name.lower() == "authentication-results"), "")
    found: dict[str, str] = {}
    if results.partition(";")[0].split()[:1] == [hostname]:
        # comments may hold anything
        for method, result in _METHOD.findall(re.sub(r"\([^()]*\)", "", results)):
            if method not in found or result == "pass":
                found[method] = result
    return {method: found.get(method, "none") for method in ("spf", "dkim", "dmarc")}


def shown(parsed: Parsed, hostname: str, largest: int) -> dict[str, Any]:
    """The message as JSON; attachments with their content if they have no more octets than that together."""
    first = {name.lower(): value for name, value in reversed(parsed.headers)}
    whole = sum(len(file.content) for file in parsed.attachments) <= largest
    return {
        "from": first.get("from", ""),
        "to": _addresses(first.get("to", "")),
        "cc": _addresses(first.get("cc", "")),
        "reply_to": _addresses(first.get("reply-to", "")),
        "subject": first.get("subject", ""),
        "date": _date(first.get("date", "")),
        "message_id": first.get("message-id", ""),
        "in_reply_to": first.get("in-reply-to", ""),
        "references": first.get("references", "").split(),
        "headers": [{"name": name, "value": value} for name, value in parsed.headers],
        "text": parsed.text,
        "html": parsed.html,
        "authentication": authentication(parsed.headers, hostname),
        "spam": first.get("x-spam", "").lower() == "yes",
        "complete": parsed.complete,
        "attachments": [
            {
                "index": index,
                "filename": file.filename,
                "content_type": file.content_type,
                "content_id": file.content_id,
                "size": len(file.content),
                "sha256": hashlib.sha256(file.content).hexdigest(),
                "content": base64.b64encode(file.content).decode() if whole else None,
            }
            for index, file in enumerate(parsed.attachments)
        ],
    }


def _addresses(value: str) -> list[str]:
    return [address for _name, address in getaddresses([value]) if address]


def _date(value: str) -> str | None:
    try:
        return parsedate_to_datetime(value).isoformat()
    except (TypeError, ValueError, OverflowError):
        return None
