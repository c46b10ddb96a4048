# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Record data as the APIs write them, brought to one form, so that equal records compare equal. Pure."""

from __future__ import annotations

from ansible_collections.mailwright.server.plugins.module_utils.dns.canonical import canonical_value, text_octets

# Types whose record data end with a name.
NAMED = frozenset({"CNAME", "DNAME", "MX", "NS", "PTR", "SRV"})


def canonical(kind: str, value: str, zone: str) -> str:
    """Write record data of a listing in their one form; a name without a final dot is relative to `zone`.

    Data that are not of their type stay as they are: a listing must not lose what somebody else got past the provider.
    """
    try:
        if kind not in NAMED:
            return canonical_value(kind, value)
        *numbers, target = value.split()
        return canonical_value(kind, " ".join([*numbers, absolute(target, zone)]))
    except ValueError:
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


def text_or_plain(content: str) -> bytes:
    """The octets of a text that an API gives quoted as in a master file, or as it is."""
    quoted = len(content) > 1 and content.startswith('"') and content.endswith('"')
    return text_octets(content) if quoted else content.encode()
