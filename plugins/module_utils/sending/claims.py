# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Domains that tenants bring onto the host: which names may be claimed, what is to be published for them (pure)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from ansible_collections.mailwright.server.plugins.module_utils.dns import spf
from ansible_collections.mailwright.server.plugins.module_utils.dns.names import domain_error
from ansible_collections.mailwright.server.plugins.module_utils.dns.records import record_set
from ansible_collections.mailwright.server.plugins.module_utils.model.values import parse_domain

# A tenant's claims that are not active: each is looked up again and again.
MOST_WAITING = 20

_STRINGS = re.compile(r'"([^"]*)"')


class Record(NamedTuple):
    """What is to be in the DNS. The name is without its final dot, the value of a TXT record without quotes."""

    name: str
    type: str
    value: str

    @property
    def key(self) -> str:
        """What the record is known by; a name has at most one of ours of each type."""
        return f"{self.type} {self.name}"


def new_token() -> str:
    """What only who claimed the domain knows."""
    return secrets.token_hex(20)


def check_name(text: str, hostname: str) -> str:
    """The name in A-labels and small letters. Raises ValueError."""
    name = parse_domain(text)
    problem = domain_error(name)
    if problem:
        raise ValueError(problem)
    if name == hostname or name.endswith(f".{hostname}"):
        raise ValueError(f"{name} is the name of this host, or below it")
    return name


def proof(domain: str, token: str) -> Record:
    """What shows that a domain is the tenant's."""
    return Record(f"_mailwright.{domain}", "TXT", f"mailwright-verification={token}")


def records(
    domain: str, token: str, key: tuple[str, str] | None, hostname: str, features: Mapping[str, bool]
) -> list[Record]:
    """The proof, and the records that a domain of the inventory would have; key is selector and text of the DKIM key.

    Without names that the host's certificate would have to have: those are an apply's.
    """
    entry = {"name": domain, "enabled": True}
    model = {
        "hostname": hostname,
        "addresses": {"ipv4": [], "ipv6": []},
        "domains": [entry],
        "features": {**features, "autoconfig": False},
    }
    keys = {domain: [{"selector": key[0], "dns": key[1]}]} if key is not None else {}
    derived = [
        Record(found.name.removesuffix("."), found.type, _plain(found.type, value))
        for found in record_set(model, keys)
        if found.name != f"{hostname}."
        for value in found.values
    ]
    return [proof(domain, token), *derived]


def is_seen(record: Record, found: Collection[str]) -> bool:
    """Whether the DNS says what it should, in the same form; it may say more where that does no harm."""
    if record.type == "TXT" and spf.is_spf(record.value):
        wanted = spf.spf_keys(record.value) - {"-all"}
        return any(wanted <= spf.spf_keys(text) for text in found if spf.is_spf(text))
    if record.name.startswith("_dmarc."):
        return any(text.lower().replace(" ", "").startswith("v=dmarc1;") for text in found)
    return record.value in found


def described(record: Record, seen: Mapping[str, Any]) -> dict[str, Any]:
    """As the API shows it: seen is none as long as nobody has an answer of the name servers."""
    return {**record._asdict(), "seen": seen.get(record.key)}


def _plain(kind: str, value: str) -> str:
    # of ours none has a quote or a backslash in it
    return "".join(_STRINGS.findall(value)) if kind == "TXT" else value
