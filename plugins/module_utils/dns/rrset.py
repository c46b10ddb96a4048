# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Record sets, and how they are written. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class RRset:
    """All records of one name and type. `name` is absolute with its final dot, `ttl` is in seconds,
    `values` are sorted record data in master-file form (RFC 1035 section 5.1)."""

    name: str
    type: str
    ttl: int
    values: tuple[str, ...]


def text_value(text: str | bytes) -> str:
    """Write a text as TXT record data: quoted strings of at most 255 octets each (RFC 1035 section 3.3.14).

    A str is taken as UTF-8. Quote, backslash and what is not printable ASCII are escaped.
    """
    octets = text.encode() if isinstance(text, str) else text
    chunks = [octets[start : start + 255] for start in range(0, len(octets), 255)] or [b""]
    return " ".join(f'"{"".join(_character(octet) for octet in chunk)}"' for chunk in chunks)


def _character(octet: int) -> str:
    if octet in b'"\\':
        return "\\" + chr(octet)
    return chr(octet) if 0x20 <= octet <= 0x7E else f"\\{octet:03d}"


def zone_order(rrset: RRset) -> tuple[list[str], str]:
    """Key that sorts as the DNS does (RFC 4034 section 6.1), which keeps a domain's records together."""
    return rrset.name.rstrip(".").split(".")[::-1], rrset.type


def zone_text(rrsets: Iterable[RRset]) -> str:
    """Write record sets as master-file lines (RFC 1035 section 5.1): absolute names, one record a line, sorted."""
    return "".join(
        f"{rrset.name} {rrset.ttl} IN {rrset.type} {value}\n"
        for rrset in sorted(rrsets, key=zone_order)
        for value in rrset.values
    )
