# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The certificates that the services really hand out."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ansible_collections.mailwright.server.plugins.module_utils.probes.result import Result, Status, worst
from ansible_collections.mailwright.server.plugins.module_utils.probes.runner import reason

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID
except ImportError:
    HAVE_CRYPTOGRAPHY = False
else:
    HAVE_CRYPTOGRAPHY = True

WEB = 443
PORTS = {465: "submissions", 993: "imaps", WEB: "https"}
# Names that are listed before the rest is only counted.
SHOWN = 3
LIVE = "/etc/mailwright/tls/{hostname}/live/fullchain.pem"
WARN_DAYS, FAIL_DAYS = 21.0, 3.0


@dataclass(frozen=True)
class Certificate:
    """What counts of a leaf certificate. `issuer` is the authority's name, empty when it is self-signed."""

    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    fingerprint: str
    issuer: str = ""


@dataclass(frozen=True)
class Served:
    """What a port served: the leaf, and why its chain is not trusted (None: it is)."""

    certificate: Certificate
    distrust: str | None


def read_certificate(data: bytes) -> Certificate:
    """Read a certificate, DER or the first of a PEM chain. Raises ValueError."""
    parsed = x509.load_pem_x509_certificate(data) if data.startswith(b"-----") else x509.load_der_x509_certificate(data)
    try:
        extension = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = tuple(name.lower() for name in extension.value.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        names = ()
    fingerprint = parsed.fingerprint(hashes.SHA256()).hex()
    issuer = "" if parsed.issuer == parsed.subject else _issuer(parsed.issuer)
    return Certificate(names, parsed.not_valid_before_utc, parsed.not_valid_after_utc, fingerprint, issuer)


def _issuer(name: x509.Name) -> str:
    for kind in (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME):
        found = name.get_attributes_for_oid(kind)
        if found:
            return str(found[0].value)
    return "an authority without a name"


def covers(names: tuple[str, ...], hostname: str) -> bool:
    """Whether one of the names is the host's; a wildcard stands for the whole first label (RFC 9525 section 6.3)."""
    return hostname in names or f"*.{hostname.partition('.')[2]}" in names


def evaluate(port: int, served: Served, live: Certificate | None, hostname: str, mode: str, now: datetime) -> Result:
    """Judge what one port served; `live` is the installed certificate, `mode` that of the model's tls."""
    certificate = served.certificate
    left = (certificate.not_after - now).total_seconds() / 86400
    findings: list[tuple[Status, str]] = []
    # Certificates of six days exist (Let's Encrypt's "shortlived"); they are renewed at half their life.
    lifetime = (certificate.not_after - certificate.not_before).total_seconds() / 86400
    warn_days, fail_days = WARN_DAYS, FAIL_DAYS
    if mode == "acme":
        warn_days, fail_days = min(warn_days, lifetime / 4), min(fail_days, lifetime / 10)
    until = f"{certificate.not_after:%Y-%m-%d}"
    if left <= 0:
        findings.append(("fail", f"expired on {until}"))
    elif left < fail_days:
        findings.append(("fail", f"expires in {left:.1f} days, on {until}"))
    elif left < warn_days:
        findings.append(("warn", f"expires in {left:.0f} days, on {until}"))
    if certificate.not_before > now:
        findings.append(("fail", f"not valid before {certificate.not_before:%Y-%m-%d %H:%M} UTC"))
    if not covers(certificate.names, hostname):
        findings.append(("fail", f"is for {', '.join(certificate.names) or 'no name'}, not for {hostname}"))
    if live is None:
        findings.append(("fail", f"{LIVE.format(hostname=hostname)} is not there"))
    elif live.fingerprint != certificate.fingerprint:
        findings.append(("fail", "is not the installed one: the service has not loaded it"))
    if served.distrust and mode != "self_signed" and left > 0:
        findings.append(("warn", f"chain not verified: {served.distrust}"))
    if mode == "acme" and not certificate.issuer:
        findings.append(("warn", "self-signed: the ACME server has not given one yet"))
    status = worst(status for status, _text in findings) if findings else "ok"
    kind = f"{'ACME, ' if mode == 'acme' else ''}by {certificate.issuer}, " if certificate.issuer else ""
    if mode == "self_signed":
        kind = "self-signed, "
    lines = [text for _status, text in findings] or [f"{kind}{left:.0f} days left"]
    data = {
        "names": list(certificate.names),
        "not_after": certificate.not_after.isoformat(),
        "days_left": round(left, 1),
        "issuer": certificate.issuer,
        "fingerprint": certificate.fingerprint,
        "chain_error": served.distrust,
    }
    return Result(f"{port} {PORTS[port]}", "certificates", status, lines[0], tuple(lines[1:]), data=data)


def evaluate_names(port: int, names: tuple[str, ...], wanted: Sequence[str]) -> Result:
    """Judge whether a certificate with `names` has all that mail programs and other servers ask the host by."""
    title = f"{port} names"
    missing = [name for name in wanted if not covers(names, name)]
    if not missing:
        return Result(title, "certificates", "ok", f"all {len(wanted)} in the certificate")
    more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
    words = f"the certificate lacks {', '.join(missing[:SHOWN])}{more}"
    return Result(title, "certificates", "warn", words, data={"missing": missing})


def probe(
    port: int, hostname: str, names: Sequence[str], mode: str, ca_pem: str | None, timeout: float
) -> list[Result]:
    """Fetch and judge the certificate of one port of this host; `timeout` in seconds for each connection.

    `names` are further ones that it ought to have; without any this is not judged.
    """
    name = f"{port} {PORTS[port]}"
    if not HAVE_CRYPTOGRAPHY:
        return [Result(name, "certificates", "fail", "python3-cryptography is not installed on the host")]
    try:
        served = _fetch(port, hostname, ca_pem, timeout)
    except OSError as error:
        return [Result(name, "certificates", "fail", f"none served: {reason(error)}")]
    try:
        live = read_certificate(Path(LIVE.format(hostname=hostname)).read_bytes())
    except FileNotFoundError:
        live = None
    results = [evaluate(port, served, live, hostname, mode, datetime.now(UTC))]
    return [*results, evaluate_names(port, served.certificate.names, names)] if names else results


def _fetch(port: int, hostname: str, ca_pem: str | None, timeout: float) -> Served:
    context = ssl.create_default_context()
    context.check_hostname = False
    # Mail clients and browsers accept private CAs that lack what the strict profile asks for.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if ca_pem:
        context.load_verify_locations(cadata=ca_pem)
    try:
        return Served(read_certificate(_leaf(context, port, hostname, timeout)), None)
    except ssl.SSLCertVerificationError as error:
        distrust = error.verify_message
    context.verify_mode = ssl.CERT_NONE
    return Served(read_certificate(_leaf(context, port, hostname, timeout)), distrust)


def _leaf(context: ssl.SSLContext, port: int, hostname: str, timeout: float) -> bytes:
    with (
        socket.create_connection(("127.0.0.1", port), timeout) as plain,
        context.wrap_socket(plain, server_hostname=hostname) as secured,
    ):
        return secured.getpeercert(binary_form=True) or b""
