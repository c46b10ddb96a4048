# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a bare host and a zone without any of its records to ACME, DANE and MTA-STS in one apply."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator

import dns.name
import dns.query
import dns.rdatatype
import dns.rrset
import dns.tsigkeyring
import dns.zone
import pytest
import yaml
import zones
from ansible_collections.mailwright.server.tests.integration.test_dane import finger, forget, served, tlsa
from ansible_collections.mailwright.server.tests.integration.throwaway import Target, bare_host, recap
from connection import Lab, wait_until

pytestmark = pytest.mark.own_hosts

NAME = "mxfirst"
ZONE, DOMAIN, HOSTNAME = "lab.test", "first.lab.test", "mx.first.lab.test"


@pytest.fixture(scope="module")
def host(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A bare host for a domain of its own, whose records are taken out of the lab's zone at the end."""
    with bare_host(NAME, tmp_path_factory.mktemp("first")) as target:
        inventory = yaml.safe_load(target.inventory.read_text())
        servers = inventory["mailservers"]
        variables = {key: value for key, value in servers["vars"].items() if not key.startswith("mail_domains")}
        mx1 = yaml.safe_load((lab.state / "inventory.yml").read_text())["mailservers"]["hosts"]["mx1"]
        servers["vars"] = {
            **variables,
            "mail_hostname": HOSTNAME,
            "mail_admin": f"alice@{DOMAIN}",
            "mail_domains": [
                {"name": DOMAIN, "mta_sts": "enforce", "mailboxes": [{"name": "alice", "password": lab.password}]}
            ],
            "mail_tls": {
                "acme": {"directory": lab.env["LAB_ACME_DIRECTORY"], "ca_file": lab.env["LAB_CA"], "caa": "ca.test"},
                "dane": True,
            },
            "mail_dns": {
                "providers": mx1["mail_dns"]["providers"],
                "zones": {ZONE: "ns1"},
                "ledger": str(target.inventory.parent / "dns-ledger.json"),
                "resolvers": [lab.address("ns1")],
            },
        }
        target.inventory.write_text(yaml.safe_dump(inventory))
        try:
            yield target
        finally:
            withdraw(lab)


def withdraw(lab: Lab) -> None:
    """Take all records of the domain out of the zone."""
    key = dns.tsigkeyring.from_text({"lab.": lab.env["LAB_TSIG"]})
    transfer = dns.query.xfr(lab.address("ns1"), ZONE, keyring=key, keyalgorithm="hmac-sha256", relativize=False)
    zone = dns.zone.from_xfr(transfer, relativize=False)
    below = dns.name.from_text(DOMAIN)
    generated = (dns.rdatatype.RRSIG, dns.rdatatype.NSEC, dns.rdatatype.NSEC3)
    records = [
        dns.rrset.RRset(name, one.rdclass, one.rdtype)
        for name, node in zone.items()
        for one in node
        if name.is_subdomain(below) and one.rdtype not in generated
    ]
    tsig = json.loads((lab.state / "lab.json").read_text())["tsig"]
    zones.send(lab.address("ns1"), tsig, f"{ZONE}.", records, delete=True)


@pytest.mark.faults
def test_one_apply_leads_to_acme_with_dane(host: Target, lab: Lab, lab_resolver: str) -> None:
    done = host.site()
    assert recap(done, host.name)["failed"] == 0, done.stdout[-4000:]
    address = host.lab.address(host.name)
    # the certificate is the ACME server's, for every name
    context = ssl.create_default_context(cafile=lab.env["LAB_ACME_CA"])
    for name in (HOSTNAME, f"mta-sts.{DOMAIN}", f"autoconfig.{DOMAIN}"):
        with (
            socket.create_connection((address, 443), 20) as plain,
            context.wrap_socket(plain, server_hostname=name) as secured,
        ):
            assert secured.getpeercert()

    # and peer, which validates, finds its key in the DNS
    def verified() -> bool:
        forget(lab)
        records, secure = tlsa(lab_resolver, HOSTNAME, resolver=True)
        return secure and served(address) in records

    wait_until(verified, 60, "a record of the key that is served")
    assert f"Verified TLS connection established to {HOSTNAME}" in finger(lab, DOMAIN)
    again = host.site()
    assert recap(again, host.name) | {"ok": 0, "skipped": 0} == {
        "ok": 0, "changed": 0, "unreachable": 0, "failed": 0, "skipped": 0, "rescued": 0, "ignored": 0,
    }, again.stdout[-4000:]  # fmt: skip
