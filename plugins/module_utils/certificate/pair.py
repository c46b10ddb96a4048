# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A TLS certificate chain with its key: parsing, checking and self-signing. No I/O; needs python3-cryptography."""

from __future__ import annotations

import hashlib
import itertools
import traceback
from dataclasses import dataclass
from datetime import datetime, timedelta

LIBRARY_ERROR: str | None = None
try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
        load_pem_private_key,
    )
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError:
    LIBRARY_ERROR = traceback.format_exc()

# The longest lifetime browsers accept (CA/Browser Forum baseline requirements, section 6.3.2).
SELF_SIGNED_DAYS = 398
RENEW_BEFORE = timedelta(days=30)
# A client whose clock is a little behind accepts a new certificate at once.
BACKDATE = timedelta(hours=1)


@dataclass(frozen=True)
class Pair:
    """A chain in PEM, leaf first, and its unencrypted PKCS #8 PEM key, with what a reader wants to know of the leaf.

    `fingerprint` is the lower-case hexadecimal SHA-256 of the leaf's DER, `spki` that of its public key, which is what
    a TLSA record `3 1 1` holds (RFC 6698 section 2.1); times are aware and in UTC.
    """

    chain_pem: bytes
    key_pem: bytes
    subject: str
    names: tuple[str, ...]
    not_after: datetime
    fingerprint: str
    spki: str
    self_signed: bool


def covers(pattern: str, hostname: str) -> bool:
    """Whether a certificate's DNS name covers a host: equal, or a wildcard for its first label (RFC 9525, 6.3)."""
    pattern, hostname = pattern.lower().rstrip("."), hostname.lower().rstrip(".")
    if pattern.startswith("*."):
        return "." in pattern[2:] and hostname.partition(".")[2] == pattern[2:]
    return pattern == hostname


def _dns_names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(extension.value.get_values_for_type(x509.DNSName))


def _public(key: PrivateKeyTypes | x509.Certificate) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _pair(chain: list[x509.Certificate], key: PrivateKeyTypes) -> Pair:
    leaf = chain[0]
    return Pair(
        chain_pem=b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain),
        key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        subject=leaf.subject.rfc4514_string(),
        names=_dns_names(leaf),
        not_after=leaf.not_valid_after_utc,
        fingerprint=leaf.fingerprint(hashes.SHA256()).hex(),
        spki=hashlib.sha256(_public(leaf)).hexdigest(),
        self_signed=leaf.issuer == leaf.subject,
    )


def _issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def describe(pair: Pair | None, fingerprint: str | None) -> str:
    """Lines for a diff; without a fingerprint the certificate is yet to be made."""
    if pair is None:
        return "certificate: absent\n"
    return (
        f"subject: {pair.subject}\nnames: {', '.join(pair.names)}\n"
        f"not after: {pair.not_after:%Y-%m-%d %H:%M} UTC\nsha256: {fingerprint or '(new)'}\n"
    )


def parse_pair(certificate_pem: bytes, key_pem: bytes) -> Pair:
    """Read a chain and its key; the key must be the leaf's. Raises ValueError that names the input which is wrong."""
    chain, key = _load(certificate_pem, key_pem)
    if _public(key) != _public(chain[0]):
        for position, certificate in enumerate(chain[1:], start=2):
            if _public(key) == _public(certificate):
                raise ValueError(f"certificate_pem: the key belongs to certificate {position}; put that one first")
        raise ValueError(f"key_pem: the key is not that of the certificate {chain[0].subject.rfc4514_string()!r}")
    return _pair(chain, key)


def _load(certificate_pem: bytes, key_pem: bytes) -> tuple[list[x509.Certificate], PrivateKeyTypes]:
    errors = []
    try:
        chain = x509.load_pem_x509_certificates(certificate_pem)
    except ValueError:
        errors.append("certificate_pem: not a chain of PEM certificates, server certificate first")
    try:
        key = load_pem_private_key(key_pem, None)
    except TypeError:
        errors.append("key_pem: the key is encrypted; give it without a passphrase (keep it in a vault)")
    except (ValueError, UnsupportedAlgorithm):
        errors.append("key_pem: not a private key in PEM form")
    if errors:
        raise ValueError("; ".join(errors))
    return chain, key


def check_given(certificate_pem: bytes, key_pem: bytes, names: list[str], now: datetime) -> Pair:
    """Read and check a chain and key which a user gave for `names` at the time `now`.

    Raises ValueError with all that is wrong: form, key, validity of every certificate, names, order of the chain.
    """
    pair = parse_pair(certificate_pem, key_pem)
    chain = x509.load_pem_x509_certificates(pair.chain_pem)
    errors = []
    for position, certificate in enumerate(chain, start=1):
        where = f"certificate_pem: certificate {position} ({certificate.subject.rfc4514_string()})"
        if certificate.not_valid_after_utc <= now:
            errors.append(f"{where} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
        if certificate.not_valid_before_utc > now:
            errors.append(f"{where} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
    held = ", ".join(pair.names) or "none"
    errors.extend(
        f"certificate_pem: no name of the certificate ({held}) covers {name}"
        for name in names
        if not any(covers(pattern, name) for pattern in pair.names)
    )
    for position, (certificate, issuer) in enumerate(itertools.pairwise(chain), start=1):
        if not _issued_by(certificate, issuer):
            errors.append(
                f"certificate_pem: certificate {position} was not issued by certificate {position + 1} "
                f"({issuer.subject.rfc4514_string()}); order: server certificate, then each issuer in turn"
            )
    if errors:
        raise ValueError("; ".join(errors))
    return pair


def still_good(pair: Pair, names: list[str], now: datetime) -> bool:
    """Whether a self-signed pair can stay: ours, for exactly these names, and not near its end."""
    return pair.self_signed and set(pair.names) == set(names) and pair.not_after - now >= RENEW_BEFORE


def self_sign(names: list[str], now: datetime, key_pem: bytes | None) -> Pair:
    """Make a self-signed certificate for `names` (the first is the subject), with the given P-256 key or a new one.

    Raises TypeError when the given key is of another kind.
    """
    key = ec.generate_private_key(ec.SECP256R1()) if key_pem is None else load_pem_private_key(key_pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("a self-signed certificate is made with a P-256 key")
    # A common name has at most 64 characters (RFC 5280, ub-common-name); clients read the alternative names only.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now - BACKDATE + timedelta(days=SELF_SIGNED_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pair([certificate], key)


def reusable_key(pair: Pair | None) -> bytes | None:
    """Key to keep on renewal: that of a self-signed P-256 pair, so that what clients pinned stays valid."""
    if pair is None or not pair.self_signed:
        return None
    key = load_pem_private_key(pair.key_pem, None)
    return pair.key_pem if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == "secp256r1" else None
