# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Accounts of another mail system, and the inventory that they become. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.model.values import parse_password_hash


@dataclass
class Mailbox:
    """A mailbox as the other system has it. ``quota`` in bytes, 0: unlimited."""

    address: str
    password: str = ""
    display_name: str = ""
    quota: int = 0
    enabled: bool = True
    send_as: list[str] = field(default_factory=list)


@dataclass
class Accounts:
    """All that was read. An alias's name may be ``@domain``: all other addresses of the domain."""

    domains: dict[str, bool] = field(default_factory=dict)
    mailboxes: dict[str, Mailbox] = field(default_factory=dict)
    aliases: dict[str, list[str]] = field(default_factory=dict)
    domain_aliases: dict[str, str] = field(default_factory=dict)
    sieve: dict[str, dict[str, str]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def add_alias(self, address: str, destinations: list[str]) -> None:
        """An alias, as far as there is something for it to lead to."""
        wanted = [other.strip().lower() for other in destinations if other.strip()]
        if wanted:
            self.aliases.setdefault(address.lower(), []).extend(
                o for o in wanted if o not in self.aliases.get(address, [])
            )


def split(text: str) -> list[str]:
    """Addresses of a list that is separated by commas or white space."""
    return [word for word in text.replace(",", " ").split() if word]


def inventory(accounts: Accounts) -> tuple[list[dict[str, Any]], list[str]]:
    """The value of ``mail_domains`` and what its owner has to know. A mailbox whose password cannot be taken over gets
    one from ``vault_imported``."""
    warnings = list(accounts.warnings)
    _spread_domain_aliases(accounts)
    domains: dict[str, dict[str, Any]] = {}
    names = set(accounts.domains) | {_domain(a) for a in accounts.mailboxes} | {_domain(a) for a in accounts.aliases}
    for name in sorted(names):
        domains[name] = {"name": name}
        if not accounts.domains.get(name, True):
            domains[name]["enabled"] = False
    for address, mailbox in sorted(accounts.mailboxes.items()):
        domains[_domain(address)].setdefault("mailboxes", []).append(_mailbox(mailbox, warnings))
    for address, destinations in sorted(accounts.aliases.items()):
        local_part = address.rpartition("@")[0]
        others = sorted({other for other in destinations if other != address})
        if address in accounts.mailboxes:
            if others:
                warnings.append(f"{address}: passes mail on to {', '.join(others)}: make a filter of it (redirect)")
        elif local_part:
            domains[_domain(address)].setdefault("aliases", []).append({"name": local_part, "to": others})
        else:
            domains[_domain(address)]["catch_all"] = others
    return list(domains.values()), warnings


def _domain(address: str) -> str:
    return address.rpartition("@")[2]


def _mailbox(mailbox: Mailbox, warnings: list[str]) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": mailbox.address.rpartition("@")[0]}
    if mailbox.display_name.strip():
        entry["display_name"] = mailbox.display_name.strip()
    try:
        entry["password_hash"] = parse_password_hash(mailbox.password)
    except ValueError:
        scheme = mailbox.password.partition("}")[0].lstrip("{") if mailbox.password.startswith("{") else "unknown"
        warnings.append(
            f"{mailbox.address}: the password's hash (scheme {scheme}) cannot be taken over: put a new password into "
            "vault_imported"
        )
        entry["password"] = f"{{{{ vault_imported['{mailbox.address}'] }}}}"
    entry["quota"] = mailbox.quota
    if not mailbox.enabled:
        entry["enabled"] = False
    if mailbox.send_as:
        entry["send_as"] = sorted(set(mailbox.send_as))
    return entry


def _spread_domain_aliases(accounts: Accounts) -> None:
    """A domain that stands for another one becomes an alias for each address of that one."""
    for alias, target in sorted(accounts.domain_aliases.items()):
        accounts.domains.setdefault(alias, accounts.domains.get(target, True))
        for address in [*accounts.mailboxes, *accounts.aliases]:
            local_part, _at, domain = address.rpartition("@")
            twin = f"{local_part}@{alias}"
            if domain == target and twin not in accounts.mailboxes and twin not in accounts.aliases:
                accounts.aliases[twin] = [address] if local_part else list(accounts.aliases[address])
