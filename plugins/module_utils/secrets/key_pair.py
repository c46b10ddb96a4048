# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A pair of keys of the elliptic curve P-256, as the PEM files that Dovecot's mail_crypt reads, made by openssl."""

from __future__ import annotations

import subprocess


def generate() -> bytes:
    """A new private key."""
    return _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")


def public_key(private: bytes) -> bytes:
    """The public key of a private one. Raises OSError when it is none."""
    return _openssl("pkey", "-pubout", stdin=private)


def _openssl(*arguments: str, stdin: bytes = b"") -> bytes:
    done = subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, check=False)
    if done.returncode:
        raise OSError(f"openssl {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
