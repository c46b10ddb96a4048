# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Mailcow, Mail-in-a-Box, iRedMail and Stalwart write about their accounts, read. Pure: text in, accounts out.

Tables and columns are those of their own set-up: Mailcow data/web/inc/init_db.inc.php, Mail-in-a-Box
setup/mail-users.sh, iRedMail samples/iredmail/iredmail.mysql, Stalwart's management API.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from .accounts import Accounts, Mailbox, split
from .sqldump import DumpError, Row, tables

MIB = 2**20
_MAILCOW = ("domain", "mailbox", "alias", "alias_domain", "sender_acl", "sieve_filters")
_MAILINABOX = ("users", "aliases", "auto_aliases")
_IREDMAIL = ("domain", "mailbox", "forwardings", "alias_domain")
# Mailcow's names for throwing away and for learning
_MAILCOW_SPECIAL = ("null@localhost", "spam@localhost", "ham@localhost")


def _text(row: Row, column: str) -> str:
    return str(row.get(column) or "")


def _number(row: Row, column: str) -> int:
    text = _text(row, column)
    return int(text) if text.lstrip("-").isdecimal() else 0


def _on(row: Row) -> bool:
    return _text(row, "active") not in ("0", "f", "")


def mailcow(text: str) -> Accounts:
    """A mysqldump of Mailcow's database."""
    found, accounts = tables(text, _MAILCOW, backslashes=True), Accounts()
    _need(found, "mailbox", "domain")
    for row in found["domain"]:
        if _number(row, "backupmx"):
            accounts.warnings.append(f"{_text(row, 'domain')}: is only relayed, and is left out")
        else:
            accounts.domains[_text(row, "domain").lower()] = _on(row)
    for row in found["mailbox"]:
        address = _text(row, "username").lower()
        if _text(row, "kind") not in ("", "NULL"):
            accounts.warnings.append(f"{address}: is a resource of the calendar, and is left out")
            continue
        active = _text(row, "active")
        if active == "2":
            accounts.warnings.append(f"{address}: receives, but may not log in; here it may")
        accounts.mailboxes[address] = Mailbox(
            address, _text(row, "password"), _text(row, "name"), _number(row, "quota"), active != "0"
        )
    for row in found.get("alias", []):
        address, goto = _text(row, "address").lower(), split(_text(row, "goto").lower())
        special = [other for other in goto if other in _MAILCOW_SPECIAL]
        if special:
            accounts.warnings.append(f"{address}: leads to {', '.join(special)}, which there is not here")
        if _on(row) and goto != [address]:
            accounts.add_alias(address, [other for other in goto if other not in _MAILCOW_SPECIAL])
    for row in found.get("alias_domain", []):
        if _on(row):
            accounts.domain_aliases[_text(row, "alias_domain").lower()] = _text(row, "target_domain").lower()
    for row in found.get("sender_acl", []):
        login, other = _text(row, "logged_in_as").lower(), _text(row, "send_as").lower()
        if other.partition("@")[0] and "*" not in other and login in accounts.mailboxes:
            accounts.mailboxes[login].send_as.append(other)
        else:
            accounts.warnings.append(f"{login}: may send as {other}, which cannot be said here")
    for row in found.get("sieve_filters", []):
        name = f"{_text(row, 'filter_type')}-{_text(row, 'script_desc')}" + (
            "" if _text(row, "script_name") == "active" else " (inactive)"
        )
        accounts.sieve.setdefault(_text(row, "username").lower(), {})[name] = _text(row, "script_data")
    return accounts


def mailinabox(text: str) -> Accounts:
    """A ``sqlite3 users.sqlite .dump`` of Mail-in-a-Box. Aliases that it makes by itself are among them."""
    found, accounts = tables(text, _MAILINABOX, backslashes=False), Accounts()
    _need(found, "users")
    for row in found["users"]:
        address = _text(row, "email").lower()
        accounts.mailboxes[address] = Mailbox(
            address, _text(row, "password"), quota=_size(_text(row, "quota"), address, accounts)
        )
    for row in found.get("aliases", []) + found.get("auto_aliases", []):
        accounts.add_alias(_text(row, "source"), split(_text(row, "destination")))
        for login in split(_text(row, "permitted_senders").lower()):
            if login in accounts.mailboxes:
                accounts.mailboxes[login].send_as.append(_text(row, "source").lower())
    return accounts


def _size(text: str, address: str, accounts: Accounts) -> int:
    """Mail-in-a-Box writes 0, 500M or 2G."""
    number, unit = text[:-1], text[-1:].upper()
    if unit in ("M", "G") and number.isdecimal():
        return int(number) * (MIB if unit == "M" else 1024 * MIB)
    if text not in ("", "0"):
        accounts.warnings.append(f"{address}: its quota {text!r} is not understood: unlimited")
    return 0


def iredmail(text: str) -> Accounts:
    """A mysqldump or a pg_dump of iRedMail's database vmail. Quotas are in MiB there."""
    found, accounts = tables(text, _IREDMAIL, backslashes=True), Accounts()
    _need(found, "mailbox", "domain")
    for row in found["domain"]:
        if _number(row, "backupmx"):
            accounts.warnings.append(f"{_text(row, 'domain')}: is only relayed, and is left out")
        else:
            accounts.domains[_text(row, "domain").lower()] = _on(row)
    for row in found["mailbox"]:
        address = _text(row, "username").lower()
        accounts.mailboxes[address] = Mailbox(
            address, _text(row, "password"), _text(row, "name"), _number(row, "quota") * MIB, _on(row)
        )
    for row in found.get("forwardings", []):
        address, other = _text(row, "address").lower(), _text(row, "forwarding").lower()
        if _text(row, "is_maillist") in ("1", "t"):
            accounts.warnings.append(f"{address}: is a mailing list of mlmmj, and is left out")
        elif _on(row) and address != other:
            # a catch-all has the bare domain as its address
            accounts.add_alias(address if "@" in address else f"@{address}", [other])
    for row in found.get("alias_domain", []):
        if _on(row):
            accounts.domain_aliases[_text(row, "alias_domain").lower()] = _text(row, "target_domain").lower()
    return accounts


def stalwart(text: str) -> Accounts:
    """Principals as Stalwart's management API gives them up to 0.15: a list, or what ``GET /api/principal`` answers."""
    try:
        document: Any = json.loads(text)
    except ValueError as error:
        raise DumpError(f"is not JSON: {error}") from None
    for key in ("data", "items"):
        if isinstance(document, dict) and key in document:
            document = document[key]
    if not isinstance(document, list):
        raise DumpError("is not a list of principals")
    accounts = Accounts()
    by_name: dict[str, str] = {}
    for entry in (entry for entry in document if entry.get("type") == "individual"):
        emails = [email.lower() for email in _listed(entry.get("emails"))]
        if not emails:
            accounts.warnings.append(f"{entry.get('name')}: has no address, and is left out")
            continue
        # what else is there are passwords of applications and second factors
        secrets = [s for s in _listed(entry.get("secrets")) if not s.startswith(("$app$", "otpauth:"))]
        if any(secret.startswith("otpauth:") for secret in _listed(entry.get("secrets"))):
            accounts.warnings.append(f"{emails[0]}: had a second factor, which there is not here")
        mailbox = Mailbox(
            emails[0], secrets[0] if secrets else "", str(entry.get("description") or ""), int(entry.get("quota") or 0)
        )
        accounts.mailboxes[emails[0]] = mailbox
        by_name[str(entry.get("name")).lower()] = emails[0]
        for other in emails[1:]:
            accounts.add_alias(other, [emails[0]])
    for entry in document:
        kind = entry.get("type")
        if kind == "domain":
            accounts.domains[str(entry["name"]).lower()] = True
        elif kind in ("list", "group"):
            members = [by_name.get(m.lower(), m) for m in _listed(entry.get("members"))]
            members += _listed(entry.get("externalMembers"))
            for address in _listed(entry.get("emails")):
                accounts.add_alias(address, [member for member in members if "@" in member])
            if kind == "group":
                accounts.warnings.append(f"{entry.get('name')}: was a group with a shared inbox, and becomes an alias")
    return accounts


def _listed(value: object) -> list[str]:
    """One is as good as a list of one."""
    if value is None:
        return []
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _need(found: dict[str, list[Row]], *names: str) -> None:
    missing = [name for name in names if name not in found]
    if missing:
        raise DumpError(f"has no rows of {' and '.join(missing)}: is it a dump of the whole database?")


CONVERTERS: dict[str, Callable[[str], Accounts]] = {
    "mailcow": mailcow,
    "mailinabox": mailinabox,
    "iredmail": iredmail,
    "stalwart": stalwart,
}
