# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A domain comes into the inventory and goes again: its records follow, other people's records stay. In trouble nothing
is published, and the next run completes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import dns.query
import dns.rdatatype
import dns.tsig
import dns.xfr
import dns.zone
import pytest
import yaml
from ansible_collections.mailwright.server.tests.unit.providers.imitations.digitalocean import (
    TOKEN,
    DigitalOceanImitation,
)
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

    def __init__(self, lab: Lab, directory: Path, ocean: DigitalOceanImitation) -> None:
        self.lab, self.ocean = lab, ocean
        self.path = directory / "inventory.yml"
        self.plain = yaml.safe_load((lab.state / "inventory.yml").read_text())
        self.host = self.plain["mailservers"]["hosts"]["mx1"]
        self.host["mail_dns"]["zones"][ZONE] = "ns1"
        self.write(self.plain)

    def write(self, inventory: dict[str, Any]) -> None:
        self.path.write_text(yaml.safe_dump(inventory))

    def joins(self, trouble: Callable[[Customer, dict[str, Any]], None] | None = None) -> None:
        """Add the domain, perhaps with something wrong in the host's variables."""
        inventory = copy.deepcopy(self.plain)
        inventory["mailservers"]["vars"]["mail_domains__fresh"] = [{"name": ZONE}]
        if trouble:
            trouble(self, inventory["mailservers"]["hosts"]["mx1"])
        self.write(inventory)

    def leaves(self) -> None:
        self.write(self.plain)

    def publish(self, *arguments: str, playbook: str = "publish_dns") -> str:
        """Run the playbook; what it said. ``failed=0`` is the caller's to look at."""
        # mx1's other zones have the lab's ledger; this one knows nothing of them and leaves them alone
        done = self.lab.playbook("-i", str(self.path), f"mailwright.server.{playbook}", *arguments)
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


def is_key(key: tuple[str, str]) -> bool:
    """Whether a record set is a DKIM key of ours, which stays a week longer than its domain."""
    return key[0].endswith("._domainkey") and key[0] != "other._domainkey"


@pytest.fixture(scope="module")
def customer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Customer]:
    lab = Lab.load()
    knot = Knot(lab)
    knot.add({ZONE: FOREIGN})
    # the one provider without TLSA
    ocean = DigitalOceanImitation()
    ocean.add_zone("acme.test.")
    try:
        yield Customer(lab, tmp_path_factory.mktemp("publish"), ocean)
    finally:
        ocean.close()
        knot.remove([ZONE])
        lab.ssh("mx1", f"cd /var/lib/mailwright/dkim && rm -rf {ZONE} nosuch.test")


WRONG_SECRET = "d3JvbmdrZXl3cm9uZ2tleXdyb25na2V5d3Jvbmdr"
Trouble: TypeAlias = Callable[[Customer, dict[str, Any]], None]


def wrong_credentials(_customer: Customer, host: dict[str, Any]) -> None:
    host["mail_dns"]["providers"]["ns1"]["key_secret"] = WRONG_SECRET


def refused_connection(customer: Customer, host: dict[str, Any]) -> None:
    # nobody listens there (discard)
    host["mail_dns"]["providers"]["ns1"] |= {"server": customer.lab.address("peer"), "port": 9}


def silent_server(customer: Customer, host: dict[str, Any]) -> None:
    # mx1's firewall drops what is not for a mail server
    host["mail_dns"]["providers"]["ns1"] |= {"server": customer.lab.address("mx1"), "timeout": 2}


def missing_zone(_customer: Customer, host: dict[str, Any]) -> None:
    host["mail_dns"]["zones"]["nosuch.test"] = "ns1"
    host["mail_domains__nosuch"] = [{"name": "nosuch.test"}]


def missing_type(customer: Customer, host: dict[str, Any]) -> None:
    # the host's own zone, where the TLSA record belongs
    host["mail_dns"]["providers"]["ocean"] = {"type": "digitalocean", "token": TOKEN, "api_url": customer.ocean.url}
    host["mail_dns"]["zones"]["acme.test"] = "ocean"


# What is wrong, and how the error says it.
TROUBLES: dict[Trouble, str] = {
    wrong_credentials: "the TSIG key is refused",
    refused_connection: "Connection refused",
    silent_server: "no answer within 2 s",
    missing_zone: "zone nosuch.test.: provider ns1: nosuch.test. at ",
    missing_type: "provider ocean has no records of type TLSA",
}


def fails(customer: Customer, playbook: str, trouble: Trouble) -> None:
    """A whole run of the playbook, with a new domain, ends with one clear error and publishes nothing."""
    before = customer.live()
    assert ("@", "MX") not in before
    customer.joins(trouble)
    said = customer.publish("-vvv", playbook=playbook)
    assert "failed=1" in said and said.count("fatal: [mx1") == 1, said[-3000:]
    failure = said[said.index("fatal: [mx1") :]
    assert "Nothing was published" in failure and TROUBLES[trouble] in failure, failure[:3000]
    assert WRONG_SECRET not in said and customer.lab.env["LAB_TSIG"] not in said and TOKEN not in said
    assert customer.live() == before and customer.ocean.faults.writes == 0


@pytest.mark.parametrize(
    "trouble", [wrong_credentials, refused_connection, missing_type], ids=lambda trouble: trouble.__name__
)
def test_publishing_in_trouble_publishes_nothing(customer: Customer, trouble: Trouble) -> None:
    fails(customer, "publish_dns", trouble)


def test_a_whole_apply_in_trouble_publishes_nothing_and_the_next_completes(customer: Customer) -> None:
    try:
        fails(customer, "site", missing_zone)
    finally:
        customer.leaves()
        said = customer.publish(playbook="site")
    assert "failed=0" in said, said[-3000:]


@pytest.mark.faults
@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.__name__)
def test_after_every_trouble_the_next_apply_completes(customer: Customer, trouble: Trouble) -> None:
    try:
        fails(customer, "site", trouble)
        customer.joins()
        said = customer.publish(playbook="site")
        assert "failed=0" in said, said[-3000:]
        assert customer.live()["@", "MX"] == {"10 mx1.acme.test."}
    finally:
        customer.leaves()
        said = customer.publish("-e", json.dumps({"dns_force_delete": True}), playbook="site")
    assert "failed=0" in said, said[-3000:]


def test_a_domain_comes(customer: Customer) -> None:
    before = {key: values for key, values in customer.live().items() if not is_key(key)}
    assert before["@", "TXT"] == {'"v=spf1 include:news.test ~all"', '"site-verification=1"'}
    customer.joins()
    plan = customer.publish("--check", "--diff")
    assert "failed=0" in plan and f"+{ZONE}. 3600 IN MX 10 mx1.acme.test." in plan
    assert {key: values for key, values in customer.live().items() if not is_key(key)} == before

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


def test_the_domain_leaves(customer: Customer) -> None:
    customer.leaves()
    # its DKIM keys stay for a week, for the mail under way, so these records stay too
    said = customer.publish()
    assert "failed=1" in said and "set force_delete" in said, said
    said = customer.publish("-e", json.dumps({"dns_force_delete": True}))
    assert "failed=0" in said, said
    after = customer.live()
    keys = [key for key in after if is_key(key)]
    assert len(keys) == 2
    assert {key: after[key] for key in after if key not in keys} == {
        ("@", "TXT"): {'"v=spf1 include:news.test ~all"', '"site-verification=1"'},
        ("other._domainkey", "TXT"): {'"v=DKIM1; p=BBBB"'},
        ("*", "TXT"): {'"wild"'},
        ("www", "A"): {"192.0.2.1"},
    }
