# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""peer.test as somebody else's domain with an MTA-STS policy, TLSA records and certificates that change."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import zones
from certificates import issue
from connection import Lab
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

if TYPE_CHECKING:
    from ansible_collections.mailwright.server.tests.integration.conftest import Server

CA = "/usr/local/share/ca-certificates/mailwright-lab.crt"
RESOLVER = "postfix-mta-sts-resolver"
POLICY = "version: STSv1\r\nmode: enforce\r\nmx: peer.peer.test\r\nmax_age: 86400\r\n"
# Somebody else's web server with somebody else's policy.
POLICY_HOST = f"""
import http.server, ssl
class Policy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        known = self.path == "/.well-known/mta-sts.txt"
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write({POLICY.encode()!r} if known else b"")
server = http.server.ThreadingHTTPServer(("", 443), Policy)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/root/policy-host.pem")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


class Peer:
    """peer.test as somebody who publishes a policy and changes certificates."""

    def __init__(self, lab: Lab, server: Server) -> None:
        self.lab, self.server = lab, server
        self.tsig = json.loads((lab.state / "lab.json").read_text())["tsig"]

    def publish(self, text: str) -> None:
        zones.publish_text(self.lab.address("ns1"), self.tsig, text)
        self.server.run("unbound-control -q flush_zone peer.test")

    def withdraw(self, *names: tuple[str, str]) -> None:
        records = [
            dns.rrset.RRset(dns.name.from_text(name), dns.rdataclass.IN, dns.rdatatype.from_text(kind))
            for name, kind in names
        ]
        zones.send(self.lab.address("ns1"), self.tsig, "peer.test.", records, delete=True)
        self.server.run("unbound-control -q flush_zone peer.test")

    def serves(self, certificate: str, key: str) -> None:
        """Give peer's Postfix another certificate."""
        self.lab.ssh("peer", "cat > /etc/ssl/peer.pem", data=certificate)
        self.lab.ssh("peer", "cat > /etc/ssl/peer.key && systemctl restart postfix", data=key)

    def certificate(self, name: str) -> tuple[str, str]:
        return issue(self.lab.state / "ca", name, [name])

    def tlsa(self, certificate: str) -> str:
        """The record that names the certificate's key."""
        key = x509.load_pem_x509_certificate(certificate.encode()).public_key()
        digest = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
        return f"_25._tcp.peer.peer.test. 5 IN TLSA 3 1 1 {digest}"


def forget_policies(server: Server) -> None:
    server.run(f"systemctl stop {RESOLVER} && rm -f /var/lib/mta-sts/cache.db* && systemctl start {RESOLVER}")


@contextlib.contextmanager
def publishing(lab: Lab, server: Server) -> Iterator[Peer]:
    """peer.test with a policy that is enforced; the host under test knows the lab's CA as it knows public ones."""
    found = Peer(lab, server)
    before = (lab.ssh("peer", "cat /etc/ssl/peer.pem"), lab.ssh("peer", "cat /etc/ssl/peer.key"))
    lab.ssh("peer", "cat > /root/policy-host.pem", data="".join(found.certificate("mta-sts.peer.test")))
    lab.ssh("peer", "cat > /root/policy-host.py", data=POLICY_HOST)
    lab.ssh("peer", "systemd-run -q --collect --unit=policy-host python3 /root/policy-host.py")
    server.run(f"cat > {CA} && update-ca-certificates >/dev/null 2>&1", data=Path(lab.env["LAB_CA"]).read_text())
    identity = base64.b32encode(hashlib.sha256(POLICY.encode()).digest())[:20].decode()
    found.publish(
        f'mta-sts.peer.test. 5 IN A {lab.address("peer")}\n_mta-sts.peer.test. 5 IN TXT "v=STSv1; id={identity};"\n'
    )
    forget_policies(server)
    yield found
    found.serves(*before)
    lab.ssh("peer", "systemctl stop policy-host", check=False)
    found.withdraw(("mta-sts.peer.test.", "A"), ("_mta-sts.peer.test.", "TXT"), ("_25._tcp.peer.peer.test.", "TLSA"))
    server.run(f"rm {CA} && update-ca-certificates --fresh >/dev/null 2>&1")
    forget_policies(server)
    server.run("postqueue -f")
