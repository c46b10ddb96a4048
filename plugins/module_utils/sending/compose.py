# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what a caller asks for to the message as it is sent, or to every reason why not (pure).

Nothing of the caller's text reaches a header or an SMTP command unchecked: addresses have one narrow form, header names
are tokens, values hold no control character.
"""

from __future__ import annotations

import base64
import binascii
import email.utils
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from typing import NamedTuple

from ..model.values import has_control, parse_email

MOST_RECIPIENTS = 50
MOST_HEADERS = 50
MOST_ATTACHMENTS = 50
LONGEST_SUBJECT = 998
LONGEST_VALUE = 2000

# 7bit: a relay that must convert 8-bit content on the way would break the signature.
POLICY = SMTP.clone(cte_type="7bit")

_HEADER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,75}")
# What the service writes by itself.
_COMPOSED = frozenset(
    name.lower()
    for name in ("From", "Sender", "Reply-To", "To", "Cc", "Bcc", "Subject", "Date", "Message-ID", "MIME-Version")
)
# What says how the message travelled, and what would contradict the envelope.
_RESERVED = frozenset(
    name.lower()
    for name in (
        *("Return-Path", "Received", "Delivered-To", "Envelope-To", "Original-Recipient", "Errors-To"),
        *("DKIM-Signature", "DomainKey-Signature", "Authentication-Results", "Received-SPF"),
        *("Return-Receipt-To", "Disposition-Notification-To"),
    )
)
_RESERVED_PREFIXES = ("resent-", "arc-", "x-spam", "x-original-", "x-postfix")
_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,63}/[a-z0-9][a-z0-9!#$&^_.+-]{0,63}")
# message/* would be parsed by the receiver, multipart/* needs a boundary of its own.
_TYPE_REFUSED = ("message/", "multipart/")
_NAMED = re.compile(r"\s*(?:\"([^\"\\<>]*)\"|([^\"\\<>@]*?))\s*<([^<>]*)>\s*")


class Problem(NamedTuple):
    """One mistake: where it is (a JSON pointer, RFC 6901) and what would be right."""

    pointer: str
    detail: str


class ComposeError(Exception):
    """The request cannot become a message; problems has every reason."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(f"{problem.pointer}: {problem.detail}" for problem in problems))


class Attachment(NamedTuple):
    """A file: its content in base64."""

    filename: str
    content: str
    content_type: str = "application/octet-stream"


class Draft(NamedTuple):
    """What a caller asks for, of the right types and otherwise unchecked."""

    sender: str
    to: Sequence[str]
    cc: Sequence[str] = ()
    bcc: Sequence[str] = ()
    reply_to: Sequence[str] = ()
    subject: str = ""
    text: str | None = None
    html: str | None = None
    headers: Mapping[str, str] = {}
    attachments: Sequence[Attachment] = ()


class Composed(NamedTuple):
    """A message that may be sent: the author's address, the envelope's recipients, each once, and the content."""

    sender: str
    recipients: tuple[str, ...]
    subject: str
    content: bytes


class _Mailbox(NamedTuple):
    name: str
    address: str


def parse_mailbox(text: str) -> _Mailbox:
    """ "Acme News <news@acme.example>", or the address alone. Raises ValueError."""
    if has_control(text):
        raise ValueError("holds a line break or a control character")
    if len(text) > 2 * 254:
        raise ValueError("is too long")
    found = _NAMED.fullmatch(text)
    name, address = ((found[1] or found[2] or "").strip(), found[3]) if found else ("", text)
    return _Mailbox(name, parse_email(address))


def domain_of(address: str) -> str:
    """The part after the @."""
    return address.rpartition("@")[2]


def is_reserved(name: str) -> bool:
    """Whether no caller may write this header (in small letters), in whatever form he gives the message."""
    return name in _RESERVED or name.startswith(_RESERVED_PREFIXES)


def compose(draft: Draft, domain: str, message_id: str, date: datetime, limit: int) -> Composed:
    """The message. limit: the most octets it may have. Raises ComposeError with all that is wrong."""
    found: list[Problem] = []
    authors = parse_mailboxes([draft.sender], "/from", found, indexed=False)
    if authors and domain_of(authors[0].address) != domain:
        found.append(Problem("/from", f"is not of {domain}, the domain that the key is for"))
    to, cc, bcc, reply_to = (
        parse_mailboxes(given, pointer, found)
        for given, pointer in ((draft.to, "/to"), (draft.cc, "/cc"), (draft.bcc, "/bcc"), (draft.reply_to, "/reply_to"))
    )
    if not draft.to:
        found.append(Problem("/to", "is empty: write at least one address"))
    if len(draft.to) + len(draft.cc) + len(draft.bcc) > MOST_RECIPIENTS:
        found.append(Problem("/to", f"with cc and bcc there are more than {MOST_RECIPIENTS} recipients"))
    _check_line(draft.subject, "/subject", LONGEST_SUBJECT, found)
    if draft.text is None and draft.html is None:
        found.append(Problem("/text", "is missing: write text, html or both"))
    for pointer, body in (("/text", draft.text), ("/html", draft.html)):
        # NUL is forbidden in messages (RFC 5322 section 4); a lone surrogate cannot be written at all
        if body is not None and re.search("[\0\ud800-\udfff]", body):
            found.append(Problem(pointer, "holds a NUL or half of a surrogate pair"))
    _check_headers(draft.headers, found)
    files = _attachments(draft.attachments, found)
    if found:
        raise ComposeError(found)

    message = EmailMessage(policy=POLICY)
    message["From"] = _address(authors[0])
    message["To"] = [_address(mailbox) for mailbox in to]
    if cc:
        message["Cc"] = [_address(mailbox) for mailbox in cc]
    if reply_to:
        message["Reply-To"] = [_address(mailbox) for mailbox in reply_to]
    message["Subject"] = draft.subject
    message["Date"] = email.utils.format_datetime(date)
    message["Message-ID"] = message_id
    for name, value in draft.headers.items():
        message[name] = value
    if draft.text is not None:
        message.set_content(draft.text)
        if draft.html is not None:
            message.add_alternative(draft.html, subtype="html")
    elif draft.html is not None:
        message.set_content(draft.html, subtype="html")
    for file, content in files:
        main, _slash, sub = file.content_type.lower().partition("/")
        message.add_attachment(content, maintype=main, subtype=sub, filename=file.filename)
    content = message.as_bytes()
    if len(content) > limit:
        raise ComposeError([Problem("", f"the message has {len(content)} octets, more than {limit}")])
    # the local part's case may matter; the same mailbox in another case is not worth a second message
    unique = {mailbox.address.lower(): mailbox.address for mailbox in (*to, *cc, *bcc)}
    return Composed(authors[0].address, tuple(unique.values()), draft.subject, content)


def _address(mailbox: _Mailbox) -> Address:
    return Address(display_name=mailbox.name, addr_spec=mailbox.address)


def parse_mailboxes(
    texts: Sequence[str], pointer: str, found: list[Problem], *, indexed: bool = True
) -> list[_Mailbox]:
    """Those that are well formed; the others are added to found."""
    mailboxes = []
    for index, text in enumerate(texts):
        try:
            mailboxes.append(parse_mailbox(text))
        except ValueError as error:
            found.append(Problem(f"{pointer}/{index}" if indexed else pointer, str(error)))
    return mailboxes


def _check_line(text: str, pointer: str, longest: int, found: list[Problem]) -> None:
    if has_control(text):
        found.append(Problem(pointer, "holds a line break or a control character"))
    elif len(text) > longest:
        found.append(Problem(pointer, f"is longer than {longest} characters"))


def _check_headers(headers: Mapping[str, str], found: list[Problem]) -> None:
    if len(headers) > MOST_HEADERS:
        found.append(Problem("/headers", f"has more than {MOST_HEADERS} entries"))
        return
    seen = set()
    for name, value in headers.items():
        pointer = "/headers/" + name.replace("~", "~0").replace("/", "~1")[:80]
        lower = name.lower()
        if not _HEADER_NAME.fullmatch(name):
            found.append(Problem("/headers", f"{name[:80]!a} is not a header's name: letters, digits and -"))
            continue
        if lower in _COMPOSED or lower.startswith("content-") or is_reserved(lower):
            found.append(Problem(pointer, "is written by the server"))
        if lower in seen:
            found.append(Problem(pointer, "is there twice"))
        seen.add(lower)
        _check_line(value, pointer, LONGEST_VALUE, found)


def _attachments(given: Sequence[Attachment], found: list[Problem]) -> list[tuple[Attachment, bytes]]:
    if len(given) > MOST_ATTACHMENTS:
        found.append(Problem("/attachments", f"has more than {MOST_ATTACHMENTS} entries"))
        return []
    files = []
    for index, file in enumerate(given):
        pointer = f"/attachments/{index}"
        _check_line(file.filename, f"{pointer}/filename", 255, found)
        if not file.filename or "/" in file.filename or "\\" in file.filename:
            found.append(Problem(f"{pointer}/filename", "is not the name of a file, without a path"))
        kind = file.content_type.lower()
        if not _TYPE.fullmatch(kind) or kind.startswith(_TYPE_REFUSED):
            found.append(Problem(f"{pointer}/content_type", "is not a type such as application/pdf"))
        try:
            files.append((file, base64.b64decode(file.content, validate=True)))
        except (binascii.Error, ValueError):
            found.append(Problem(f"{pointer}/content", "is not base64"))
    return files


__all__ = ["Attachment", "ComposeError", "Composed", "Draft", "Problem", "compose", "is_reserved", "parse_mailbox"]
