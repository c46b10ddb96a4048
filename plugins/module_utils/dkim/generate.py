# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Generate private keys, on all cores when there are many, and read them again."""

from __future__ import annotations

import base64
import concurrent.futures
import ctypes
import multiprocessing
import os
import signal
import traceback
from collections.abc import Iterator, Sequence

from ansible_collections.mailwright.server.plugins.module_utils.dkim.state import record_text

LIBRARY_ERROR: str | None = None
try:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
        load_pem_private_key,
    )
except ImportError:
    LIBRARY_ERROR = traceback.format_exc()

RSA_BITS = 2048
# Octets of an Ed25519 private key (RFC 8032 section 5.1.5), and of one with its public key behind it.
SEED = 32
SEED_AND_PUBLIC = 64
# Below this a pool costs more than it saves.
POOL_FROM = 4
# prctl(2): the signal that a process gets when its parent ends.
PR_SET_PDEATHSIG = 1


def generate_key(algorithm: str) -> tuple[bytes, str]:
    """Generate a key: (content of the key file, text of the TXT record).

    RSA keys have 2048 bits, as RFC 8301 section 3.2 asks, in PKCS #8 PEM. Ed25519 keys are one line of base64: the
    seed and the public key, as `rspamadm dkim_keygen -t ed25519` writes them. Rspamd does not read them from PEM.
    """
    if algorithm == "rsa":
        key = generate_private_key(public_exponent=65537, key_size=RSA_BITS)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return pem, record_text(algorithm, _rsa_public(key))
    pair = Ed25519PrivateKey.generate()
    public = pair.public_key().public_bytes_raw()
    return base64.b64encode(pair.private_bytes_raw() + public), record_text(algorithm, public)


def public_text(algorithm: str, content: bytes) -> str | None:
    """Derive the text of the TXT record from a key file's content; None: it is not a key of that algorithm."""
    try:
        if algorithm == "rsa":
            # The file is our own; checking its primes costs 30 ms a key.
            key = load_pem_private_key(content, None, unsafe_skip_rsa_key_validation=True)
            return record_text(algorithm, _rsa_public(key)) if isinstance(key, RSAPrivateKey) else None
        octets = base64.b64decode(content, validate=True)
        public = Ed25519PrivateKey.from_private_bytes(octets[:SEED]).public_key().public_bytes_raw()
    except ValueError:
        return None
    return record_text(algorithm, public) if len(octets) == SEED_AND_PUBLIC and octets[SEED:] == public else None


def _rsa_public(key: RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def generate_keys(algorithms: Sequence[str]) -> Iterator[tuple[bytes, str]]:
    """Yield one key for each algorithm named, in order, as they become ready."""
    if len(algorithms) < POOL_FROM:
        yield from map(generate_key, algorithms)
        return
    # Threads gain nothing: the library holds the interpreter's lock. A fork shares the modules that are loaded.
    context = multiprocessing.get_context("fork")
    workers = min(len(algorithms), os.cpu_count() or 1)
    with concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=_end_with, initargs=(os.getpid(),)
    ) as pool:
        yield from pool.map(generate_key, algorithms)


def _end_with(parent: int) -> None:
    """Let this process end with its parent, even a killed one: it has inherited the parent's lock and connection."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
