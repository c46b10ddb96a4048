# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's certificate authority."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LIFETIME = datetime.timedelta(days=90)


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _builder(subject: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + LIFETIME)
    )


def _key_usage(*, for_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not for_certificates, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=for_certificates, crl_sign=for_certificates,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def authority(directory: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """The lab's CA, made on first use: directory/ca.pem and directory/ca.key."""
    certificate_file, key_file = directory / "ca.pem", directory / "ca.key"
    if not certificate_file.exists():
        directory.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mailwright lab CA")])
        certificate = (
            _builder("mailwright lab CA", name, key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            # Python 3.13 accepts no authority that does not say so (RFC 5280 section 4.2.1.3)
            .add_extension(_key_usage(for_certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        key_file.touch(mode=0o600)
        key_file.write_text(_pem(key))
        certificate_file.write_text(certificate.public_bytes(serialization.Encoding.PEM).decode())
    loaded = serialization.load_pem_private_key(key_file.read_bytes(), None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    return x509.load_pem_x509_certificate(certificate_file.read_bytes()), loaded


def issue(directory: Path, subject: str, names: list[str]) -> tuple[str, str]:
    """A certificate for the names, signed by the lab's CA: (certificate, key), both PEM."""
    ca, ca_key = authority(directory)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(subject, ca.subject, key)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(for_certificates=False), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), _pem(key)
