# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Generate RSA keys, on all cores when there are many."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import traceback
from collections.abc import Iterator

from ansible_collections.mailwright.server.plugins.module_utils.dkim.state import record_text

LIBRARY_ERROR: str | None = None
try:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
except ImportError:
    LIBRARY_ERROR = traceback.format_exc()

RSA_BITS = 2048
# Below this a pool costs more than it saves.
POOL_FROM = 4


def generate_key() -> tuple[bytes, str]:
    """Generate an RSA-2048 key: (PKCS #8 PEM, text of the TXT record). RFC 8301 section 3.2 asks for this size."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), record_text(public)


def _generate(_index: int) -> tuple[bytes, str]:
    return generate_key()


def generate_keys(count: int) -> Iterator[tuple[bytes, str]]:
    """Yield `count` keys as they become ready."""
    if count < POOL_FROM:
        yield from map(_generate, range(count))
        return
    # Threads gain nothing: the library holds the interpreter's lock. A fork shares the modules that are loaded.
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(min(count, os.cpu_count() or 1), mp_context=context) as pool:
        yield from pool.map(_generate, range(count))
