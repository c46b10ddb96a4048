# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Record data as the APIs write them, brought to one form, so that equal records compare equal. Pure."""

from __future__ import annotations

import ipaddress
import re

from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import text_value

_STRING = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|((?:[^\s"\\]|\\.)+))', re.DOTALL)
_ESCAPE = re.compile(rb"\\(?:([0-9]{3})|(.))", re.DOTALL)


def canonical(kind: str, value: str, zone: str) -> str:
    """Write record data in master-file form (RFC 1035 section 5.1) as this project writes them.

    Names are absolute and in lower case (one without a final dot is taken as relative to `zone`), addresses in their
    short form (RFC 5952), TXT and CAA strings quoted, TLSA hexadecimal in one word. Other types stay as they are, and
    so do data that are not of their type: a listing must not lose what somebody else got past the provider.
    """
    try:
        return _canonical(kind, value, zone)
    except ValueError:
        return value


def _canonical(kind: str, value: str, zone: str) -> str:
    if kind in ("A", "AAAA"):
        return str(ipaddress.ip_address(value.strip()))
    if kind in ("TXT", "SPF"):
        return text_value(text_octets(value))
    fields = value.split()
    if kind in ("CNAME", "NS", "PTR", "DNAME"):
        (target,) = fields
        return absolute(target, zone)
    if kind == "MX":
        preference, target = fields
        return f"{int(preference)} {absolute(target, zone)}"
    if kind == "SRV":
        priority, weight, port, target = fields
        return f"{int(priority)} {int(weight)} {int(port)} {absolute(target, zone)}"
    if kind == "CAA":
        flags, tag, text = value.split(None, 2)
        return f"{int(flags)} {tag.lower()} {text_value(text_octets(text))}"
    if kind == "TLSA":
        usage, selector, matching, *digits = fields
        return f"{int(usage)} {int(selector)} {int(matching)} {''.join(digits).lower()}"
    return value


def absolute(name: str, zone: str) -> str:
    """Complete a name with the zone unless it ends with a dot; @ is the zone."""
    name = name.lower()
    if name == "@":
        return zone
    return name if name.endswith(".") else f"{name}.{zone}"


def relative(name: str, zone: str, apex: str) -> str:
    """Cut the zone off an absolute name; `apex` is written for the zone itself."""
    return apex if name == zone else name.removesuffix("." + zone)


def text_octets(value: str, base: int = 10) -> bytes:
    """Join the strings of TXT record data into the text's octets. `base` is that of three-digit escapes.

    Raises ValueError for data with an open quote or an escape beyond an octet.
    """
    octets = bytearray()
    position = 0
    while position < len(value.rstrip()):
        found = _STRING.match(value, position)
        if not found:
            raise ValueError("an open quote or escape in TXT record data")
        written = (found[1] if found[1] is not None else found[2]).encode()
        octets += _ESCAPE.sub(lambda escape: bytes([int(escape[1], base)]) if escape[1] else escape[2], written)
        position = found.end()
    return bytes(octets)


def text_or_plain(content: str) -> bytes:
    """The octets of a text that an API gives quoted as in a master file, or as it is."""
    quoted = len(content) > 1 and content.startswith('"') and content.endswith('"')
    return text_octets(content) if quoted else content.encode()
