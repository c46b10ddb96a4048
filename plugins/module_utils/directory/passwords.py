# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Passwords of the inventory: fingerprints that tell a changed one from an unchanged one, and Argon2id hashes."""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

FINGERPRINT_PREFIX = "hmac-sha256:"
KEY_BYTES = 32

# OWASP Password Storage Cheat Sheet, Argon2id: m=19456 KiB, t=2, p=1.
_MEMORY_KIB = 19456
_TIME = 2
_PARALLELISM = 1


class HashingError(Exception):
    """Plain passwords cannot be hashed on this host."""


def fingerprint(key: bytes, address: str, password: str) -> str:
    """A keyed digest of the plain password: equal when nothing changed, worth nothing without the key.

    The address is part of the input, so that equal passwords of two mailboxes cannot be told from the table.
    """
    # An address holds no NUL, so the pair is unambiguous.
    return FINGERPRINT_PREFIX + hmac.digest(key, f"{address}\0{password}".encode(), "sha256").hex()


def hash_all(passwords: Mapping[str, str]) -> dict[str, str]:
    """Argon2id hashes in Dovecot's form, {ARGON2ID}$argon2id$..., for plain passwords by address.

    Raises HashingError when argon2-cffi is not installed.
    """
    if not passwords:
        return {}
    try:
        import argon2
    except ImportError as error:
        raise HashingError("python3-argon2 is not installed: plain passwords cannot be hashed") from error
    hasher = argon2.PasswordHasher(time_cost=_TIME, memory_cost=_MEMORY_KIB, parallelism=_PARALLELISM)
    # The library releases the interpreter's lock while it hashes.
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        hashes = pool.map(hasher.hash, passwords.values())
        return {address: "{ARGON2ID}" + value for address, value in zip(passwords, hashes, strict=True)}
