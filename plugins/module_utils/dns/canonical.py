# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One spelling for record data, so that equal records compare equal. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import replace

from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import RRset, text_value

# Types whose record data are numbers followed by one name.
_NUMBERS_BEFORE_NAME = {"CNAME": 0, "DNAME": 0, "NS": 0, "PTR": 0, "MX": 1, "SRV": 3}
_STRING = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|((?:[^\s"\\]|\\.)+))', re.DOTALL)
_ESCAPE = re.compile(rb"\\(?:([0-9]{3})|(.))", re.DOTALL)


def canonical_value(kind: str, value: str) -> str:
    """Write record data in their one form: names in lower case, addresses as RFC 5952 has them, TXT as text_value does.

    Names must be absolute. Data of types that are not known here only lose superfluous white space.
    Raises ValueError when the data are not of the type.
    """
    if kind in ("A", "AAAA"):
        address = ipaddress.ip_address(value.strip())
        if address.version != (4 if kind == "A" else 6):
            raise ValueError(f"{value!r} is not an address for type {kind}")
        return str(address)
    if kind in ("TXT", "SPF"):
        return text_value(text_octets(value))
    fields = value.split()
    if kind in _NUMBERS_BEFORE_NAME:
        count = _NUMBERS_BEFORE_NAME[kind]
        if len(fields) != count + 1 or not all(field.isdecimal() for field in fields[:-1]):
            raise ValueError(f"{value!r} is not {count} numbers and a name, as type {kind} has them")
        if not fields[-1].endswith("."):
            raise ValueError(f"{fields[-1]!r} is not absolute: it needs a final dot")
        return " ".join([*(str(int(field)) for field in fields[:-1]), fields[-1].lower()])
    if kind == "CAA":
        if len(fields) < 3 or not fields[0].isdecimal():
            raise ValueError(f"{value!r} is not flags, tag and value, as type CAA has them")
        return f"{int(fields[0])} {fields[1].lower()} {text_value(text_octets(value.split(None, 2)[2]))}"
    if kind == "TLSA":
        digits = "".join(fields[3:]).lower()
        if not digits or not all(field.isdecimal() for field in fields[:3]) or not re.fullmatch("[0-9a-f]+", digits):
            raise ValueError(f"{value!r} is not usage, selector, matching type and hexadecimal data")
        return " ".join([*(str(int(field)) for field in fields[:3]), digits])
    return " ".join(fields)


def canonical_name(name: str) -> str:
    """Write a name absolute and in lower case."""
    return name.lower() if name.endswith(".") else f"{name.lower()}."


def canonical_rrset(rrset: RRset) -> RRset:
    """Bring a record set to its one form. A value that is not of its type stays as it is: it is what is live."""
    return replace(rrset, name=rrset.name.lower(), values=_sorted(_tolerant(rrset.type, one) for one in rrset.values))


def _sorted(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(values)))


def _tolerant(kind: str, value: str) -> str:
    try:
        return canonical_value(kind, value)
    except ValueError:
        return value


def text_octets(value: str, base: int = 10) -> bytes:
    """Join the strings of TXT record data (RFC 1035 section 5.1). `base` is that of three-digit escapes.

    Raises ValueError for an open quote, or for an escape that is no octet.
    """
    octets = bytearray()
    text = value.strip()
    position = 0
    while position < len(text):
        found = _STRING.match(text, position)
        if not found:
            raise ValueError("an open quote or escape in TXT record data")
        written = (found[1] if found[1] is not None else found[2]).encode()
        octets += _ESCAPE.sub(lambda escape: bytes([int(escape[1], base)]) if escape[1] else escape[2], written)
        position = found.end()
    return bytes(octets)
