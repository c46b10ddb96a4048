# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Wanted rows, rows in the database, and the difference between them (pure)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ansible_collections.mailwright.server.plugins.module_utils.directory import passwords

INVENTORY = "inventory"

# Below this many mailboxes any share of them may go: one of three is no accident.
LIMIT_FROM = 10

_HASH = re.compile(r"\{(ARGON2ID|ARGON2I|BLF-CRYPT|SHA512-CRYPT)\}\$[!-~]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_MAX_BIGINT = 2**63 - 1
_SHOWN = 10


class Mailbox(NamedTuple):
    """A mailbox as the database shows it; secret is inventory_password, the live password is never read."""

    address: str
    domain: str
    local_part: str
    display_name: str
    quota_bytes: int
    enabled: bool
    secret: str | None


class Wanted(NamedTuple):
    """What the inventory asks for. Mailboxes carry no secret yet: it needs the host's key, see sealed()."""

    domains: dict[str, bool]
    mailboxes: dict[str, Mailbox]
    hashes: dict[str, str]
    plain: dict[str, str]
    aliases: set[tuple[str, str]]
    senders: set[tuple[str, str]]


class Current(NamedTuple):
    """All rows of the database, and for each table the keys of those that the inventory does not own."""

    domains: dict[str, bool]
    mailboxes: dict[str, Mailbox]
    aliases: set[tuple[str, str]]
    senders: set[tuple[str, str]]
    foreign_domains: set[str]
    foreign_mailboxes: set[str]
    foreign_aliases: set[tuple[str, str]]
    foreign_senders: set[tuple[str, str]]


class MailboxChange(NamedTuple):
    """A mailbox before and after; secret differs when the inventory set another password."""

    old: Mailbox
    new: Mailbox


class Plan(NamedTuple):
    """The rows to add, change and remove, each list sorted by key."""

    add_domains: list[tuple[str, bool]]
    change_domains: list[tuple[str, bool]]
    remove_domains: list[tuple[str, bool]]
    add_mailboxes: list[Mailbox]
    change_mailboxes: list[MailboxChange]
    remove_mailboxes: list[Mailbox]
    add_aliases: list[tuple[str, str]]
    remove_aliases: list[tuple[str, str]]
    add_senders: list[tuple[str, str]]
    remove_senders: list[tuple[str, str]]

    @property
    def empty(self) -> bool:
        """True when there is nothing to do."""
        return not any(self)

    def counts(self) -> dict[str, dict[str, int]]:
        """Numbers of added, changed and removed rows by table."""
        return {
            "domain": _counts(self.add_domains, self.change_domains, self.remove_domains),
            "mailbox": _counts(self.add_mailboxes, self.change_mailboxes, self.remove_mailboxes),
            "alias": _counts(self.add_aliases, (), self.remove_aliases),
            "sender": _counts(self.add_senders, (), self.remove_senders),
        }

    def new_passwords(self) -> set[str]:
        """Addresses of the mailboxes whose live password is to be set."""
        return {row.address for row in self.add_mailboxes} | {
            change.new.address for change in self.change_mailboxes if change.old.secret != change.new.secret
        }


def _counts(added: Sequence[Any], changed: Sequence[Any], removed: Sequence[Any]) -> dict[str, int]:
    return {"added": len(added), "changed": len(changed), "removed": len(removed)}


class Line(NamedTuple):
    """A row of the plan before and after (None: absent)."""

    before: str | None
    after: str | None

    def __str__(self) -> str:
        """One line for people: + added, - removed, ~ the new form of a changed row."""
        if self.after is None:
            return f"- {self.before}"
        return f"{'+' if self.before is None else '~'} {self.after}"


EMPTY = Current({}, {}, set(), set(), set(), set(), set(), set())


def listed(value: Any) -> Any:
    """The value, decoded if it is JSON text; text that is no JSON comes back as it is, for parse() to refuse."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def parse(domains: Any, mailboxes: Any, aliases: Any, senders: Any) -> tuple[Wanted, list[str]]:
    """The wanted rows from the normalised model, and all errors as "key path: value: what would be right".

    No error quotes a password.
    """
    wanted = Wanted({}, {}, {}, {}, set(), set())
    lists = {"domains": domains, "mailboxes": mailboxes, "aliases": aliases, "senders": senders}
    errors = [
        f"{name}: must be a list, or the JSON text of one" for name, rows in lists.items() if not isinstance(rows, list)
    ]
    if errors:
        return wanted, errors
    checker = _Checker()
    for index, row in enumerate(domains):
        checker.at = f"domains[{index}]"
        name, enabled = checker.key(row, "name"), checker.boolean(row, "enabled")
        if name is not None and enabled is not None:
            checker.once(name not in wanted.domains, "name", name)
            wanted.domains[name] = enabled
    for index, row in enumerate(mailboxes):
        checker.at = f"mailboxes[{index}]"
        checker.mailbox(row, wanted)
    for table, rows, second, into in (
        ("aliases", aliases, "destination", wanted.aliases),
        ("senders", senders, "login", wanted.senders),
    ):
        for index, row in enumerate(rows):
            checker.at = f"{table}[{index}]"
            pair = (checker.address(row, "address"), checker.text(row, second))
            if pair[0] is not None and pair[1] is not None:
                key = (pair[0], pair[1])
                checker.once(key not in into, "address", " ".join(key))
                into.add(key)
    return wanted, checker.errors


class _Checker:
    """Reads fields of one row after the other and collects what is wrong with them."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.at = ""

    def mailbox(self, row: Any, into: Wanted) -> None:
        address = self.address(row, "address")
        domain = self.key(row, "domain")
        local_part = self.key(row, "local_part")
        display_name = self.text(row, "display_name", empty=True)
        quota = self.field(row, "quota_bytes", int, f"a number of bytes from 0 (unlimited) to {_MAX_BIGINT}")
        enabled = self.boolean(row, "enabled")
        if quota is not None and (isinstance(quota, bool) or not 0 <= quota <= _MAX_BIGINT):
            self.error("quota_bytes", quota, f"must be a number of bytes from 0 (unlimited) to {_MAX_BIGINT}")
            quota = None
        if (
            address is None
            or domain is None
            or local_part is None
            or display_name is None
            or quota is None
            or enabled is None
        ):
            return
        if address != f"{local_part}@{domain}":
            self.error("address", address, f"must be local_part@domain, here {local_part}@{domain}")
        if domain not in into.domains:
            self.error("domain", domain, "must be one of domains")
        self.once(address not in into.mailboxes, "address", address)
        into.mailboxes[address] = Mailbox(address, domain, local_part, display_name, quota, enabled, None)
        plain, hashed = row.get("password"), row.get("password_hash")
        if (plain is None) == (hashed is None):
            self.errors.append(f"{self.at} ({address}): exactly one of password and password_hash must be given")
        elif hashed is None:
            if isinstance(plain, str) and plain and "\0" not in plain:
                into.plain[address] = plain
            else:
                self.errors.append(f"{self.at}.password ({address}): must be text, not empty, without NUL")
        elif isinstance(hashed, str) and _HASH.fullmatch(hashed):
            into.hashes[address] = hashed
        else:
            self.errors.append(
                f"{self.at}.password_hash ({address}): must begin with {{ARGON2ID}}$, {{ARGON2I}}$, {{BLF-CRYPT}}$ or "
                "{SHA512-CRYPT}$ and hold neither spaces nor control characters"
            )

    def error(self, key: str, value: Any, right: str) -> None:
        self.errors.append(f"{self.at}.{key}: {value!r}: {right}")

    def once(self, new: bool, key: str, value: str) -> None:
        if not new:
            self.error(key, value, "is listed twice")

    def field(self, row: Any, key: str, kind: type, right: str) -> Any:
        if not isinstance(row, Mapping):
            self.errors.append(f"{self.at}: must be a mapping with {key}")
            return None
        value = row.get(key)
        if not isinstance(value, kind):
            self.error(key, value, f"must be {right}")
            return None
        return value

    def boolean(self, row: Any, key: str) -> bool | None:
        found: bool | None = self.field(row, key, bool, "true or false")
        return found

    def text(self, row: Any, key: str, empty: bool = False) -> str | None:
        found: str | None = self.field(row, key, str, "text")
        if found is None:
            return None
        if (not found and not empty) or _CONTROL.search(found):
            right = "must be one line of text without control characters"
            self.error(key, found, right if empty else f"{right}, not empty")
            return None
        return found

    def key(self, row: Any, key: str) -> str | None:
        """Text in the form that Postfix and Dovecot look up: lower-case."""
        found = self.text(row, key)
        if found is not None and found != found.lower():
            self.error(key, found, "must be lower-case")
            return None
        return found

    def address(self, row: Any, key: str) -> str | None:
        found = self.key(row, key)
        if found is not None and not found.rpartition("@")[2]:
            self.error(key, found, "must be local_part@domain")
            return None
        return found


def current(
    domains: Iterable[Any], mailboxes: Iterable[Any], aliases: Iterable[Any], senders: Iterable[Any]
) -> Current:
    """Rows as the database returns them: columns in order, the owner last."""
    found = Current({}, {}, set(), set(), set(), set(), set(), set())
    for name, enabled, owner in domains:
        found.domains[name] = enabled
        if owner != INVENTORY:
            found.foreign_domains.add(name)
    for *columns, owner in mailboxes:
        found.mailboxes[columns[0]] = Mailbox._make(columns)
        if owner != INVENTORY:
            found.foreign_mailboxes.add(columns[0])
    for rows, into, foreign in (
        (aliases, found.aliases, found.foreign_aliases),
        (senders, found.senders, found.foreign_senders),
    ):
        for first, second, owner in rows:
            into.add((first, second))
            if owner != INVENTORY:
                foreign.add((first, second))
    return found


def sealed(wanted: Wanted, key: bytes) -> dict[str, Mailbox]:
    """The wanted mailboxes with what inventory_password is to hold: the given hash, or the plain one's fingerprint."""
    return {
        address: row._replace(
            secret=wanted.hashes[address]
            if address in wanted.hashes
            else passwords.fingerprint(key, address, wanted.plain[address])
        )
        for address, row in wanted.mailboxes.items()
    }


def needs_key(found: Current) -> bool:
    """True when the database holds fingerprints, which only the key that made them can compare."""
    return any((row.secret or "").startswith(passwords.FINGERPRINT_PREFIX) for row in found.mailboxes.values())


def plan(found: Current, wanted: Wanted, key: bytes) -> Plan:
    """The difference. Rows that the inventory does not own are left out; conflicts() tells where that cannot be."""
    mailboxes = sealed(wanted, key)
    return Plan(
        add_domains=sorted((name, on) for name, on in wanted.domains.items() if name not in found.domains),
        change_domains=sorted(
            (name, on)
            for name, on in wanted.domains.items()
            if found.domains.get(name, on) is not on and name not in found.foreign_domains
        ),
        remove_domains=sorted(
            (name, on)
            for name, on in found.domains.items()
            if name not in wanted.domains and name not in found.foreign_domains
        ),
        add_mailboxes=sorted(row for address, row in mailboxes.items() if address not in found.mailboxes),
        change_mailboxes=sorted(
            MailboxChange(found.mailboxes[address], row)
            for address, row in mailboxes.items()
            if found.mailboxes.get(address, row) != row and address not in found.foreign_mailboxes
        ),
        remove_mailboxes=sorted(
            row
            for address, row in found.mailboxes.items()
            if address not in mailboxes and address not in found.foreign_mailboxes
        ),
        add_aliases=sorted(wanted.aliases - found.aliases),
        remove_aliases=sorted(found.aliases - wanted.aliases - found.foreign_aliases),
        add_senders=sorted(wanted.senders - found.senders),
        remove_senders=sorted(found.senders - wanted.senders - found.foreign_senders),
    )


def conflicts(found: Current, wanted: Wanted) -> list[str]:
    """Rows of the API that stand in the way: wanted by the inventory too, or hanging on a row that is to go."""
    errors = [
        f"domain {name}: exists, owned by the API" for name in sorted(found.foreign_domains & set(wanted.domains))
    ]
    errors += [
        f"mailbox {address}: exists, owned by the API"
        for address in sorted(found.foreign_mailboxes & set(wanted.mailboxes))
    ]
    errors += [
        f"{table} {address} {other}: exists, owned by the API"
        for table, pairs in (
            ("alias", found.foreign_aliases & wanted.aliases),
            ("sender", found.foreign_senders & wanted.senders),
        )
        for address, other in sorted(pairs)
    ]
    # mail follows an alias before it reaches a mailbox, and goes to all destinations of an address
    leads = {address for address, _destination in found.foreign_aliases}
    goes = {address for address, _destination in wanted.aliases}
    errors += [f"mailbox {address}: the API has an alias there" for address in sorted(leads & set(wanted.mailboxes))]
    errors += [f"alias {address}: the API has a mailbox there" for address in sorted(goes & found.foreign_mailboxes)]
    errors += [
        f"alias {address}: the API has one that leads to {destination}"
        for address, destination in sorted(found.foreign_aliases - wanted.aliases)
        if address in goes
    ]
    going = set(found.domains) - set(wanted.domains) - found.foreign_domains
    errors += [
        f"domain {found.mailboxes[address].domain}: cannot be removed while the API's mailbox {address} is in it"
        for address in sorted(found.foreign_mailboxes)
        if found.mailboxes[address].domain in going
    ]
    errors += [
        f"domain {domain_of(address)}: cannot be removed while the API's alias {address} {destination} is in it"
        for address, destination in sorted(found.foreign_aliases)
        if domain_of(address) in going
    ]
    leaving = set(found.mailboxes) - set(wanted.mailboxes) - found.foreign_mailboxes
    errors += [
        f"mailbox {login}: cannot be removed while the API lets it send as {address}"
        for address, login in sorted(found.foreign_senders)
        if login in leaving
    ]
    return errors


def over_limit(found: Current, todo: Plan, percent: int) -> str | None:
    """Why the plan removes too many mailboxes, or None. percent is of the mailboxes that the inventory owns."""
    owned = len(found.mailboxes) - len(found.foreign_mailboxes)
    going = len(todo.remove_mailboxes)
    if owned <= LIMIT_FROM or going * 100 <= percent * owned:
        return None
    share = -(-going * 100 // owned)
    shown = ", ".join(row.address for row in todo.remove_mailboxes[:_SHOWN]) + (", ..." if going > _SHOWN else "")
    return (
        f"remove_limit: {percent}: this would remove {going} of {owned} mailboxes ({share} %) from the directory: "
        f"{shown}. If that is meant, set remove_limit to {share} or more for this run. "
        "Mail in the store is never touched."
    )


def domain_of(address: str) -> str:
    """What follows the last @."""
    return address.rpartition("@")[2]


def lines(todo: Plan) -> list[Line]:
    """The plan, a line for each row, table by table.

    A mailbox may send as itself: the sender row that says so comes and goes with the mailbox and has no line then.
    """
    with_mailbox = [
        {(row.address, row.address) for row in rows} for rows in (todo.add_mailboxes, todo.remove_mailboxes)
    ]
    found = [Line(None, _domain(row)) for row in todo.add_domains]
    found += [Line(_domain((name, not on)), _domain((name, on))) for name, on in todo.change_domains]
    found += [Line(_domain(row), None) for row in todo.remove_domains]
    found += [Line(None, _mailbox(row, "<set>")) for row in todo.add_mailboxes]
    found += [
        Line(_mailbox(old, "<set>"), _mailbox(new, "<set>" if old.secret == new.secret else "<changed>"))
        for old, new in todo.change_mailboxes
    ]
    found += [Line(_mailbox(row, "<set>"), None) for row in todo.remove_mailboxes]
    for table, added, removed in (
        ("alias", todo.add_aliases, todo.remove_aliases),
        (
            "sender",
            [row for row in todo.add_senders if row not in with_mailbox[0]],
            [row for row in todo.remove_senders if row not in with_mailbox[1]],
        ),
    ):
        label = "destination" if table == "alias" else "login"
        found += [Line(None, f"{table} {first} {label}={second}") for first, second in added]
        found += [Line(f"{table} {first} {label}={second}", None) for first, second in removed]
    return found


def _domain(row: tuple[str, bool]) -> str:
    return f"domain {row[0]} enabled={_yes(row[1])}"


def _mailbox(row: Mailbox, password: str) -> str:
    name = json.dumps(row.display_name, ensure_ascii=False)
    return f"mailbox {row.address} quota={row.quota_bytes} enabled={_yes(row.enabled)} name={name} password={password}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
