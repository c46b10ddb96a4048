# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""DKIM keys on disk: selector names, the state file's format, the public text. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from ansible_collections.mailwright.server.plugins.module_utils.dns.names import domain_error, selector_error

STATE_FILE = "state.json"
STATE_VERSION = 1
ALGORITHM = "rsa"
# No key is ever generated with this suffix: a plan shows it where the random one will be.
PLANNED_SUFFIX = "0000"
_SUFFIX_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


@dataclass(frozen=True)
class ActiveKey:
    """The RSA key that signs: `created` is an ISO 8601 time in UTC, `dns` the text of its TXT record."""

    selector: str
    created: str
    dns: str


def parse_domains(domains: list[str]) -> list[str]:
    """Check a list of domains and report all that is wrong, each with its key path."""
    errors = []
    first: dict[str, int] = {}
    for index, domain in enumerate(domains):
        problem = domain_error(domain)
        if problem:
            errors.append(f"domains[{index}]: {problem}")
        elif domain in first:
            errors.append(f"domains[{index}]: {domain!r} is already domains[{first[domain]}]")
        first.setdefault(domain, index)
    return errors


def planned_selector(now: datetime) -> str:
    """Selector that stands in a plan for one which is not generated yet."""
    return f"{now:%Y%m%d}r{PLANNED_SUFFIX}"


def new_selector(now: datetime, choose: Callable[[str], str]) -> str:
    """Make a selector of date, algorithm letter and random suffix; `choose` picks one character of a string."""
    while True:
        suffix = "".join(choose(_SUFFIX_CHARACTERS) for _position in range(4))
        if suffix != PLANNED_SUFFIX:
            return f"{now:%Y%m%d}r{suffix}"


def record_text(public_key: bytes) -> str:
    """Text of the TXT record for an RSA public key given as DER SubjectPublicKeyInfo (RFC 6376 section 3.6.1)."""
    return f"v=DKIM1; k=rsa; p={base64.b64encode(public_key).decode()}"


def render_state(key: ActiveKey) -> str:
    """Write the state file: a version, and for each algorithm the key that signs."""
    active = {ALGORITHM: {"selector": key.selector, "created": key.created, "dns": key.dns}}
    return json.dumps({"version": STATE_VERSION, "active": active}, indent=2, sort_keys=True) + "\n"


def parse_state(text: str) -> ActiveKey | None:
    """Read a state file; None when it has no active RSA key.

    Raises ValueError when it is not JSON, of another version or form, or its selector is not one.
    """
    state = json.loads(text)
    if not isinstance(state, dict) or state.get("version") != STATE_VERSION:
        version = state.get("version") if isinstance(state, dict) else None
        raise ValueError(f"state version {version!r} is not {STATE_VERSION}")
    active = state.get("active")
    if not isinstance(active, dict):
        raise ValueError(f"active: {active!r} is not a key for each algorithm")
    entry = active.get(ALGORITHM)
    if entry is None:
        return None
    try:
        key = ActiveKey(str(entry["selector"]), str(entry["created"]), str(entry["dns"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"active.{ALGORITHM} lacks {error}") from error
    problem = selector_error(key.selector)
    if problem:
        raise ValueError(f"active.{ALGORITHM}.selector: {problem}")
    return key
