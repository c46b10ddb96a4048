# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A domain comes into the inventory and goes again: its records follow, other people's records stay."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.query
import dns.rdatatype
import dns.tsig
import dns.xfr
import dns.zone
import pytest
import yaml
from connection import Lab
from nameservers import Knot

ZONE = "fresh.test"
FOREIGN = """@ 300 TXT "v=spf1 include:news.test ~all"
@ 300 TXT "site-verification=1"
other._domainkey 300 TXT "v=DKIM1; p=BBBB"
* 300 TXT "wild"
www 300 A 192.0.2.1
"""
SIGNED = {"SOA", "NS", "DNSKEY", "CDS", "CDNSKEY", "RRSIG", "NSEC"}


class Customer:
    """mx1's inventory with or without one more domain, in a zone that holds records of others."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        self.path = directory / "inventory.yml"
        self.plain = yaml.safe_load((lab.state / "inventory.yml").read_text())
        self.host = self.plain["mailservers"]["hosts"]["mx1"]
        self.host["mail_dns"]["zones"][ZONE] = "ns1"
        self.write(self.plain)

    def write(self, inventory: dict[str, Any]) -> None:
        self.path.write_text(yaml.safe_dump(inventory))

    def joins(self) -> None:
        inventory = copy.deepcopy(self.plain)
        inventory["mailservers"]["vars"]["mail_domains__fresh"] = [{"name": ZONE}]
        self.write(inventory)

    def leaves(self) -> None:
        self.write(self.plain)

    def publish(self, *arguments: str) -> str:
        """Run the playbook; what it said. ``failed=0`` is the caller's to look at."""
        # mx1's other zones have the lab's ledger; this one knows nothing of them and leaves them alone
        done = self.lab.playbook("-i", str(self.path), "mailwright.server.publish_dns", *arguments)
        return done.stdout + done.stderr

    def live(self) -> dict[tuple[str, str], set[str]]:
        server = self.lab.address("ns1")
        key = dns.tsig.Key("lab.", self.lab.env["LAB_TSIG"])
        zone = dns.zone.Zone(f"{ZONE}.")
        dns.query.inbound_xfr(server, zone, dns.xfr.make_query(zone, keyring={key.name: key})[0], timeout=30)
        found: dict[tuple[str, str], set[str]] = {}
        for name, rdataset in zone.iterate_rdatasets():
            kind = dns.rdatatype.to_text(rdataset.rdtype)
            if kind not in SIGNED:
                found[str(name), kind] = {record.to_text() for record in rdataset}
        return found


@pytest.fixture(scope="module")
def customer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Customer]:
    lab = Lab.load()
    knot = Knot(lab)
    knot.add({ZONE: FOREIGN})
    try:
        yield Customer(lab, tmp_path_factory.mktemp("publish"))
    finally:
        knot.remove([ZONE])
        lab.ssh("mx1", f"rm -rf /var/lib/mailwright/dkim/{ZONE}")


def test_a_domain_comes(customer: Customer) -> None:
    before = customer.live()
    assert before["@", "TXT"] == {'"v=spf1 include:news.test ~all"', '"site-verification=1"'}
    customer.joins()
    plan = customer.publish("--check", "--diff")
    assert "failed=0" in plan and f"+{ZONE}. 3600 IN MX 10 mx1.acme.test." in plan
    assert customer.live() == before

    done = customer.publish()
    assert "failed=0" in done, done
    after = customer.live()
    assert after["@", "MX"] == {"10 mx1.acme.test."}
    assert after["@", "TXT"] == {'"v=spf1 include:news.test mx ~all"', '"site-verification=1"'}
    assert any("v=DMARC1" in text for text in after["_dmarc", "TXT"])
    selectors = sorted(name for name, kind in after if name.endswith("._domainkey") and kind == "TXT")
    assert len(selectors) == 3 and "other._domainkey" in selectors
    assert all(after[key] == before[key] for key in before if key != ("@", "TXT"))
    again = customer.publish()
    assert "changed=0" in again and "failed=0" in again
    assert customer.live() == after


def test_the_credentials_are_wrong(customer: Customer) -> None:
    inventory = copy.deepcopy(customer.plain)
    own = inventory["mailservers"]["hosts"]["mx1"]["mail_dns"]["providers"]["ns1"]
    own["key_secret"] = "d3JvbmdrZXl3cm9uZ2tleXdyb25na2V5d3Jvbmdr"
    customer.write(inventory)
    before = customer.live()
    said = customer.publish("-vvv")
    assert "failed=1" in said and "Nothing was published" in said and "TSIG" in said, said[-3000:]
    assert own["key_secret"] not in said
    assert customer.lab.env["LAB_TSIG"] not in said
    assert customer.live() == before


def test_the_domain_leaves(customer: Customer) -> None:
    customer.leaves()
    # its DKIM keys stay for a week, for the mail under way, so these records stay too
    said = customer.publish()
    assert "failed=1" in said and "set force_delete" in said, said
    said = customer.publish("-e", json.dumps({"dns_force_delete": True}))
    assert "failed=0" in said, said
    after = customer.live()
    keys = [key for key in after if key[0].endswith("._domainkey") and key[0] != "other._domainkey"]
    assert len(keys) == 2
    assert {key: after[key] for key in after if key not in keys} == {
        ("@", "TXT"): {'"v=spf1 include:news.test ~all"', '"site-verification=1"'},
        ("other._domainkey", "TXT"): {'"v=DKIM1; p=BBBB"'},
        ("*", "TXT"): {'"wild"'},
        ("www", "A"): {"192.0.2.1"},
    }
