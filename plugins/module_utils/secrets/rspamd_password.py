# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rspamd's own hash of a controller password.

``rspamadm pw`` takes a password from its argument list or from a terminal only, so the hash is computed here.
Source: rspamd 3.12, src/libcryptobox/cryptobox.c (rspamd_cryptobox_pbkdf2) and src/libutil/str_util.c (z-base-32).
"""

from __future__ import annotations

import hashlib

ROUNDS = 16000
SALT_BYTES = 20
KEY_BYTES = 32
MAX_PASSWORD_BYTES = 64
_ALPHABET = "ybndrfg8ejkmcpqxot1uwisza345h769"


def zbase32(data: bytes) -> str:
    """Encode octets as rspamd does: five bits at a time from the least significant end."""
    number = int.from_bytes(data, "little")
    return "".join(_ALPHABET[number >> (5 * index) & 31] for index in range((8 * len(data) + 4) // 5))


def hash_password(password: bytes, salt: bytes) -> str:
    """Hash a password of 1 to 64 octets with a salt of 20 octets into ``$1$salt$key`` (PBKDF2 over keyed BLAKE2b).

    Raises ValueError for another length: rspamd treats longer passwords in a way of its own.
    """
    if not 1 <= len(password) <= MAX_PASSWORD_BYTES:
        raise ValueError(f"a controller password has 1 to {MAX_PASSWORD_BYTES} octets, not {len(password)}")
    if len(salt) != SALT_BYTES:
        raise ValueError(f"the salt has {SALT_BYTES} octets, not {len(salt)}")
    block = hashlib.blake2b(salt + (1).to_bytes(4, "big"), key=password).digest()
    mixed = int.from_bytes(block, "big")
    for _round in range(ROUNDS - 1):
        block = hashlib.blake2b(block, key=password).digest()
        mixed ^= int.from_bytes(block, "big")
    key = mixed.to_bytes(len(block), "big")[:KEY_BYTES]
    return f"$1${zbase32(salt)}${zbase32(key)}"


def include_text(password_hash: str) -> str:
    """Lines for the controller worker's configuration: the same password reads and writes."""
    return f'password = "{password_hash}";\nenable_password = "{password_hash}";\n'
