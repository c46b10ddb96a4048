# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which key port 25 of this host hands out."""

from __future__ import annotations

import hashlib
import smtplib
import ssl

try:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
except ImportError:
    pass

TIMEOUT = 10.0


def digest(hostname: str, address: str = "127.0.0.1", port: int = 25) -> str | None:
    """SHA-256 of the public key that STARTTLS shows, as a TLSA record 3 1 1 has it; None when there is no TLS.

    The chain is not verified: what counts is the key.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with smtplib.SMTP(address, port, hostname, TIMEOUT) as connection:
            connection.starttls(context=context)
            sock = connection.sock
            der = sock.getpeercert(binary_form=True) if isinstance(sock, ssl.SSLSocket) else None
    except (OSError, smtplib.SMTPException):
        return None
    if not der:
        return None
    key = x509.load_der_x509_certificate(der).public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
