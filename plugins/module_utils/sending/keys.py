# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""API keys: their form, their hash and their scopes (pure)."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# resource.read and resource.write; what a key does not name is denied.
SCOPES = (
    "aliases.read",
    "aliases.write",
    "api_keys.read",
    "api_keys.write",
    "audit.read",
    "domains.read",
    "domains.write",
    "emails.read",
    "emails.write",
    "inbound.read",
    "inbound.write",
    "mailboxes.read",
    "mailboxes.write",
    "statistics.read",
    "streams.read",
    "streams.write",
    "suppressions.read",
    "suppressions.write",
    "templates.read",
    "templates.write",
    "webhooks.read",
    "webhooks.write",
)
# What a tenant's keys may have.
TENANT_SCOPES = tuple(sorted((*SCOPES, "members.read", "members.write", "tenants.read")))
OPERATOR_SCOPES = ("tenants.read", "tenants.write")
# What a member's keys may do at most. A domain's key outlives the member who makes it, so only owners make any.
ROLES = {
    "owner": TENANT_SCOPES,
    "admin": tuple(scope for scope in TENANT_SCOPES if scope != "api_keys.write"),
    "developer": (
        "aliases.read",
        "domains.read",
        "emails.read",
        "emails.write",
        "inbound.read",
        "inbound.write",
        "mailboxes.read",
        "statistics.read",
        "streams.read",
        "streams.write",
        "suppressions.read",
        "suppressions.write",
        "templates.read",
        "templates.write",
        "tenants.read",
        "webhooks.read",
        "webhooks.write",
    ),
    "viewer": tuple(scope for scope in TENANT_SCOPES if scope.endswith(".read")),
}
PREFIX = "mw"
LONGEST_NAME = 64

_KEY = re.compile(rf"{PREFIX}_([0-9a-f]{{12}})_[0-9a-f]{{48}}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")


class Key(NamedTuple):
    """A key as its owner holds it: the id is no secret, the whole text is."""

    id: str
    text: str

    @property
    def digest(self) -> bytes:
        """What is stored. 192 random bits need no slow hash."""
        return hashlib.sha256(self.text.encode()).digest()


def generate() -> Key:
    """A new key."""
    return parse(f"{PREFIX}_{secrets.token_hex(6)}_{secrets.token_hex(24)}")


def parse(text: str) -> Key:
    """The key that the text is. Raises ValueError, which never quotes it."""
    found = _KEY.fullmatch(text)
    if found is None:
        raise ValueError(f"is not a key: {PREFIX}_, 12 hexadecimal digits, _, 48 hexadecimal digits (it is not shown)")
    return Key(found[1], text)


def matches(key: Key, stored: bytes) -> bool:
    """Whether the stored hash is this key's, in a time that tells nothing."""
    return hmac.compare_digest(key.digest, stored)


def check_name(name: str) -> str:
    """The name of a key or a webhook. Raises ValueError."""
    if not _NAME.fullmatch(name) or name != name.strip():
        raise ValueError(
            f"{name[:LONGEST_NAME]!a} is not a name: write letters, digits, spaces and . _ -, "
            f"at most {LONGEST_NAME}, a letter or a digit first"
        )
    return name


def check_scopes(scopes: Iterable[str], known: Sequence[str] = SCOPES) -> list[str]:
    """The scopes, sorted and each once. Raises ValueError for one that is not known, and for none at all."""
    found = sorted(set(scopes))
    unknown = [scope for scope in found if scope not in known]
    if unknown or not found:
        what = f"{unknown[0][:LONGEST_NAME]!a} is not a scope" if unknown else "there is no scope"
        raise ValueError(f"{what}: write some of {', '.join(known)}")
    return found


def allowed(scopes: Iterable[str], role: str | None) -> tuple[str, ...]:
    """What is left of a key's scopes by the role of the member whose key it is; all, where it is no member's."""
    return tuple(scope for scope in scopes if role is None or scope in ROLES[role])


def roles_within(scopes: Iterable[str]) -> list[str]:
    """The roles that stand for no more than these scopes."""
    return [role for role, needed in ROLES.items() if set(needed) <= set(scopes)]
