# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's DNS: what ns1 is told by RFC 2136 updates signed with the lab's TSIG key."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdataset
import dns.rdatatype
import dns.rrset
import dns.tsig
import dns.tsigkeyring
import dns.update
import dns.zone
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

ZONES = ("acme.test.", "globex.test.", "peer.test.", "lab.test.")


def peer_dkim_key(state: Path) -> str:
    """The key peer signs with, PEM; made on first use."""
    path = state / "peer-dkim.pem"
    if not path.exists():
        key = rsa.generate_private_key(65537, 2048)
        path.touch(mode=0o600)
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
            )
        )
    return path.read_text()


def _txt(text: str) -> str:
    return " ".join(f'"{text[i : i + 255]}"' for i in range(0, len(text), 255))


def send(server: str, tsig: str, zone: str, records: list[dns.rrset.RRset], *, delete: bool = False) -> None:
    """Replace (or delete) the given RRsets in one zone, in one update."""
    keyring = dns.tsigkeyring.from_text({"lab.": base64.b64encode(bytes.fromhex(tsig)).decode()})
    update = dns.update.UpdateMessage(zone, keyring=keyring, keyalgorithm=dns.tsig.HMAC_SHA256)
    for rrset in records:
        if delete:
            update.delete(rrset.name, rrset.rdtype)
        elif rrset.rdtype == dns.rdatatype.CNAME:
            # takes the place of another by itself (RFC 2136 section 3.4.2.2); deleted and added at once, Knot has none
            update.add(rrset.name, rrset)
        else:
            update.replace(rrset.name, rrset)
    answer = dns.query.tcp(update, server, timeout=10)
    if answer.rcode() != dns.rcode.NOERROR:
        raise SystemExit(f"lab: ns1 refused the update of {zone}: {dns.rcode.to_text(answer.rcode())}")


def zone_of(name: dns.name.Name) -> str:
    return next(zone for zone in ZONES if name.is_subdomain(dns.name.from_text(zone)))


def publish_text(server: str, tsig: str, text: str) -> int:
    """Publish master-file lines with absolute names; gives the number of RRsets."""
    rrsets: dict[tuple[dns.name.Name, dns.rdatatype.RdataType], dns.rrset.RRset] = {}
    for line in filter(None, (raw.strip() for raw in text.splitlines())):
        if line.startswith(";"):
            continue
        name, ttl, _class, kind, value = line.split(None, 4)
        key = (dns.name.from_text(name), dns.rdatatype.from_text(kind))
        one = dns.rrset.from_text(name, int(ttl), "IN", kind, value)
        if key in rrsets:
            rrsets[key].update(one)
        else:
            rrsets[key] = one
    for zone in ZONES:
        mine = [rrset for (name, _kind), rrset in rrsets.items() if zone_of(name) == zone]
        if mine:
            send(server, tsig, zone, mine)
    return len(rrsets)


def publish_base(state: Path, tsig: str, addresses: dict[str, str]) -> None:
    """What the lab itself owns: the DNSSEC chain below its root, and peer's own records."""
    chain = subprocess.run(
        ["ssh", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
         "-i", str(state / "id_ed25519"), f"root@{addresses['ns1']}", "lab-chain", *ZONES],
        text=True, capture_output=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    if chain.returncode:
        raise SystemExit(f"lab: lab-chain failed on ns1:\n{chain.stdout}{chain.stderr}")
    (state / "root.ds").write_text(chain.stdout)
    key = serialization.load_pem_private_key(peer_dkim_key(state).encode(), None)
    public = base64.b64encode(
        key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).decode()
    peer = addresses["peer"]
    publish_text(
        addresses["ns1"],
        tsig,
        f"""
        peer.peer.test. 300 IN A {peer}
        peer.peer.test. 300 IN TXT "v=spf1 a -all"
        peer.test. 300 IN MX 10 peer.peer.test.
        peer.test. 300 IN TXT "v=spf1 mx -all"
        _dmarc.peer.test. 300 IN TXT "v=DMARC1; p=reject; rua=mailto:dave@peer.test"
        peer._domainkey.peer.test. 300 IN TXT {_txt(f"v=DKIM1; k=rsa; p={public}")}
        """,
    )
