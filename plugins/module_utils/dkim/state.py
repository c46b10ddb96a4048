# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""DKIM keys on disk: selector names, the state file's format, the public text. Pure."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.dns.names import domain_error, selector_error

STATE_FILE = "state.json"
STATE_VERSION = 2
# Order is preference: RSA is what every receiver can verify (RFC 8301 section 3.2, RFC 8463 section 5).
ALGORITHMS = ("rsa", "ed25519")
STATES = ("generated", "published", "propagated", "active", "retiring", "revoked")
# No key is ever generated with this suffix: a plan shows it where the random one will be.
PLANNED_SUFFIX = "0000"
_SUFFIX_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_LETTERS = {"rsa": "r", "ed25519": "e"}
_SELECTOR = re.compile(r"[0-9]{8}([re])[a-z0-9]{4}")
# Selectors that are known ahead: a digest of the domain, so that no two domains' are alike, a number, the algorithm.
_NUMBERED = re.compile(r"mw[0-9a-f]{8}-([1-9][0-9]{0,3})([re])")
# So many of each algorithm are named at a time; the next ones when the last but one is in use.
NUMBERS = 10


@dataclass(frozen=True)
class Key:
    """A key pair of one domain. Times are in UTC.

    `dns` is the text of its TXT record, `since` when it came into its state, `live` whether all authoritative servers
    had its text when they were last asked with success, `verified` whether they have had it for so long that no cache
    denies it, and `proven` whether that was ever so.
    `waited` counts the seconds of the state's wait that have passed for certain; None: the wait has not begun.
    """

    selector: str
    algorithm: str
    dns: str
    state: str
    created: datetime
    since: datetime
    live: bool = False
    verified: bool = False
    proven: bool = False
    waited: float | None = None
    compromised: bool = False


@dataclass(frozen=True)
class Behind:
    """The clock stands before the highest time seen: its last reading, and for how many seconds that has been so."""

    seen: datetime
    waited: float


@dataclass(frozen=True)
class State:
    """What is known of one domain's keys. `clock` is the highest time seen while a wait was running; `used` are the
    selectors of keys that are removed."""

    keys: tuple[Key, ...] = ()
    clock: datetime | None = None
    behind: Behind | None = None
    used: frozenset[str] = frozenset()


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


def planned_selector(now: datetime, algorithm: str) -> str:
    """Selector that stands in a plan for one which is not generated yet."""
    return f"{now:%Y%m%d}{_LETTERS[algorithm]}{PLANNED_SUFFIX}"


def new_selector(now: datetime, algorithm: str, choose: Callable[[str], str]) -> str:
    """Make a selector of date, algorithm letter and random suffix; `choose` picks one character of a string."""
    while True:
        suffix = "".join(choose(_SUFFIX_CHARACTERS) for _position in range(4))
        if suffix != PLANNED_SUFFIX:
            return f"{now:%Y%m%d}{_LETTERS[algorithm]}{suffix}"


def numbered_selector(domain: str, number: int, algorithm: str) -> str:
    """The selector of a delegated domain's key with this number: its owner leads all of them here, once."""
    return f"mw{hashlib.sha256(domain.encode()).hexdigest()[:8]}-{number}{_LETTERS[algorithm]}"


def number_of(selector: str) -> int | None:
    """The number of a selector of a delegated domain; None: it is another one."""
    match = _NUMBERED.fullmatch(selector)
    return int(match[1]) if match else None


def numbered_ahead(domain: str, selectors: Iterable[str]) -> list[str]:
    """The selectors that a delegated domain's owner has to lead here, when these are in use."""
    highest = max((number_of(selector) or 0 for selector in selectors), default=0)
    last = NUMBERS * ((highest + 1) // NUMBERS + 1)
    return [numbered_selector(domain, number, algorithm) for number in range(1, last + 1) for algorithm in ALGORITHMS]


def algorithm_of(selector: str) -> str | None:
    """Tell the algorithm from a selector's letter; None: it is not one of ours."""
    match, numbered = _SELECTOR.fullmatch(selector), _NUMBERED.fullmatch(selector)
    letter = match[1] if match else numbered[2] if numbered else None
    return next((name for name, own in _LETTERS.items() if own == letter), None)


def record_text(algorithm: str, public_key: bytes) -> str:
    """Text of the TXT record. RSA keys come as DER SubjectPublicKeyInfo (RFC 6376 section 3.6.1), Ed25519 keys as
    their 32 octets (RFC 8463 section 4)."""
    return f"v=DKIM1; k={algorithm}; p={base64.b64encode(public_key).decode()}"


def revoked_text(algorithm: str) -> str:
    """Text of the TXT record of a revoked key: an empty public key (RFC 6376 section 3.6.1)."""
    return f"v=DKIM1; k={algorithm}; p="


def is_revocation(text: str) -> bool:
    """Whether the text of a TXT record is a DKIM record with an empty public key."""
    tags = {name.strip(): value.strip() for name, _sign, value in (part.partition("=") for part in text.split(";"))}
    return tags.get("p") == ""


def wanted_text(key: Key) -> str:
    """Text that the key's TXT record has to have."""
    return revoked_text(key.algorithm) if key.state == "revoked" else key.dns


def parse_time(text: str) -> datetime:
    """Read an ISO 8601 time with its offset. Raises ValueError for what is none."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no offset from UTC, such as +00:00")
    return moment.astimezone(UTC)


def render_state(state: State) -> str:
    """Write the state file."""
    content = {
        "version": STATE_VERSION,
        "clock": state.clock,
        "behind": vars(state.behind) if state.behind else None,
        "keys": [vars(key) for key in state.keys],
        "used": sorted(state.used),
    }
    return json.dumps(content, indent=2, sort_keys=True, default=datetime.isoformat) + "\n"


def parse_state(text: str) -> State:
    """Read a state file of this version or of version 1, whose one key becomes the active one.

    Raises ValueError when it is not JSON, of another version or form, or has a selector that is none.
    """
    content = json.loads(text)
    version = content.get("version") if isinstance(content, dict) else None
    try:
        if version == 1:
            return _parse_version_1(content)
        if version == STATE_VERSION:
            return _parse(content)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not a state of version {version}: {type(error).__name__}: {error}") from error
    raise ValueError(f"state version {version!r} is not {STATE_VERSION}")


def _parse(content: dict[str, Any]) -> State:
    keys = tuple(_parse_key(entry) for entry in content["keys"])
    selectors = [key.selector for key in keys]
    if len(set(selectors)) < len(selectors):
        raise ValueError("a selector stands there twice")
    behind = content["behind"]
    return State(
        keys=keys,
        clock=_optional_time(content["clock"]),
        behind=Behind(parse_time(behind["seen"]), float(behind["waited"])) if behind else None,
        used=frozenset(_checked_selector(selector) for selector in content["used"]),
    )


def _parse_key(entry: dict[str, Any]) -> Key:
    if entry["algorithm"] not in ALGORITHMS or entry["state"] not in STATES:
        raise ValueError(f"{entry['selector']}: unknown algorithm or state {entry['algorithm']!r}, {entry['state']!r}")
    return Key(
        selector=_checked_selector(entry["selector"]),
        algorithm=entry["algorithm"],
        dns=str(entry["dns"]),
        state=entry["state"],
        created=parse_time(entry["created"]),
        since=parse_time(entry["since"]),
        live=bool(entry["live"]),
        verified=bool(entry["verified"]),
        # states of before it was noted have none
        proven=bool(entry.get("proven", entry["verified"])),
        waited=None if entry["waited"] is None else float(entry["waited"]),
        compromised=bool(entry["compromised"]),
    )


def _parse_version_1(content: dict[str, Any]) -> State:
    entry = content["active"].get("rsa")
    if entry is None:
        return State()
    created = parse_time(entry["created"])
    # Version 1 did not look at the DNS. Its key is taken as published: it has signed all mail so far.
    key = Key(_checked_selector(entry["selector"]), "rsa", str(entry["dns"]), "active", created, created, live=True)
    return State(keys=(key,))


def _optional_time(text: str | None) -> datetime | None:
    return None if text is None else parse_time(text)


def _checked_selector(selector: str) -> str:
    problem = selector_error(selector)
    if problem:
        raise ValueError(f"selector: {problem}")
    return selector
