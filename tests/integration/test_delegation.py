# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A customer's zone that we cannot write: its owner sets CNAMEs once, and keys rotate behind them.

far.peer.test lies in peer.test, which is not among the zones that are published; what it leads to lies in acme.test.
Servers and TTLs are real, and so is the resolver that verifies signatures; the clock of the rotation is moved on.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dkim
import dns.rdataclass
import dns.rdatatype
import dns.resolver
import dns.rrset
import pytest
import zones
from ansible.module_utils.testing import patch_module_args
from ansible_collections.mailwright.server.plugins.filter.dns_record_sets import dns_record_sets
from ansible_collections.mailwright.server.plugins.module_utils.dkim.state import numbered_selector
from ansible_collections.mailwright.server.plugins.modules import dkim_rotation, dkim_sightings, dns_records
from connection import Lab, wait_until
from nameservers import Knot

DOMAIN, DELEGATION = "far.peer.test", "far.acme.test"
MODEL: dict[str, Any] = {
    "hostname": "mx.far.lab.test",
    "addresses": {"ipv4": ["203.0.113.250"], "ipv6": []},
    "features": {"pop3": True, "autoconfig": True},
    "tls": {"dane": False, "acme": None},
    "dns": {"parked_domains": [], "delegation": DELEGATION},
    "domains": [{"name": DOMAIN, "enabled": True, "delegated": True, "mta_sts": "enforce"}],
}
# Days after the start: half a year in one leap, then as often as new keys need, then the waits.
DAYS = (181, 181.1, 181.2, *range(183, 250, 2))


class Owner:
    """The customer, who sets what the plan names, once; and the provider, with a rotation of its own."""

    def __init__(self, lab: Lab, resolver: str, directory: Path) -> None:
        self.lab, self.directory = lab, directory
        self.ns1, self.tsig = lab.address("ns1"), json.loads((lab.state / "lab.json").read_text())["tsig"]
        self.resolver = dns.resolver.Resolver(configure=False)
        self.resolver.nameservers = [resolver]
        self.keys: list[dict[str, Any]] = []
        self.set: list[dns.rrset.RRset] = []

    def call(self, module: Any, **arguments: Any) -> dict[str, Any]:
        """Run a module in this process; its result."""
        said = io.StringIO()
        with patch_module_args(arguments), contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            module.main()
        result: dict[str, Any] = json.loads(said.getvalue().strip().splitlines()[-1])
        assert not result.get("failed"), result
        return result

    def rotate(self, days: float) -> list[str]:
        """One run of the rotation, so many days on; the keys' states, the newest numbers last."""
        now = (datetime.now(UTC) + timedelta(days=days)).isoformat(timespec="seconds")
        common = {
            "path": str(self.directory / "dkim"), "domains": [DOMAIN], "delegated": [DOMAIN], "now": now,
            "owner": "root", "group": "root", "retire_for": 3, "queue_lifetime": 72, "revoked_for": 3, "ttl": 5,
        }  # fmt: skip
        records = self.call(dkim_rotation, **common)["records"]
        seen = self.call(dkim_sightings, records=records, zones=["acme.test"], resolvers=[self.ns1])["observations"]
        self.seen = sorted(one["sight"] for one in seen)
        observations = [{**one, "observed": now} for one in seen]
        self.keys = self.call(dkim_rotation, observations=observations, **common)["keys"][DOMAIN]
        self.publish()
        return [key["state"] for key in sorted(self.keys, key=lambda key: key["selector"])]

    def records(self) -> list[dict[str, Any]]:
        return dns_record_sets(MODEL, {DOMAIN: self.keys})

    def publish(self) -> None:
        self.call(
            dns_records,
            owner=MODEL["hostname"],
            ledger=str(self.directory / "ledger.json"),
            providers={"ns1": Knot(self.lab).settings},
            zones={"acme.test": "ns1"},
            records=self.records(),
            force_delete=True,
            verify=True,
            resolvers=[self.ns1],
        )

    def aliases(self) -> set[tuple[str, str]]:
        """What the owner has to set of CNAMEs that lead below the delegation."""
        return {
            (record["name"], record["values"][0])
            for record in self.records()
            if record["type"] == "CNAME" and record["values"][0].endswith(f".{DELEGATION}.")
        }

    def sets(self) -> None:
        """Enter them at the customer's provider."""
        self.set = [dns.rrset.from_text(name, 5, "IN", "CNAME", target) for name, target in sorted(self.aliases())]
        zones.send(self.ns1, self.tsig, "peer.test.", self.set)

    def withdraw(self) -> None:
        if self.set:
            zones.send(self.ns1, self.tsig, "peer.test.", self.set, delete=True)
        names = [record["name"] for record in self.records() if record["name"].endswith(f".{DELEGATION}.")]
        gone = [dns.rrset.RRset(dns.name.from_text(name), dns.rdataclass.IN, dns.rdatatype.TXT) for name in names]
        zones.send(self.ns1, self.tsig, "acme.test.", gone, delete=True)

    def text(self, name: str) -> bytes:
        """A TXT record as a receiver's resolver has it, empty when there is none."""
        try:
            answer = self.resolver.resolve(name, "TXT")
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return b""
        return b"".join(answer[0].strings)

    def asked(self, name: bytes, timeout: float = 5) -> bytes:
        """The same, as dkimpy asks for it."""
        self.resolver.lifetime = 2 * timeout
        return self.text(name.decode())

    def verified(self) -> dict[str, bool]:
        """A message signed with each key that signs, by selector, and whether a receiver can verify it."""
        message = f"From: alice@{DOMAIN}\r\nTo: dave@peer.test\r\nSubject: Hello\r\n\r\nHello.\r\n".encode()
        found = {}
        for key in [key for key in self.keys if key["signs"]]:
            private = Path(key["path"]).read_bytes()
            algorithm = b"ed25519-sha256" if key["algorithm"] == "ed25519" else b"rsa-sha256"
            if key["algorithm"] == "ed25519":
                private = base64.b64encode(base64.b64decode(private)[:32])
            header = dkim.sign(
                message, key["selector"].encode(), DOMAIN.encode(), private, signature_algorithm=algorithm,
                include_headers=[b"from", b"to", b"subject"],
            )  # fmt: skip
            found[key["selector"]] = bool(dkim.verify(header + message, dnsfunc=self.asked))
        return found


@pytest.fixture
def owner(lab: Lab, lab_resolver: str, tmp_path: Path) -> Iterator[Owner]:
    found = Owner(lab, lab_resolver, tmp_path)
    try:
        yield found
    finally:
        found.withdraw()


def number(count: int) -> set[str]:
    return {numbered_selector(DOMAIN, count, algorithm) for algorithm in ("rsa", "ed25519")}


def test_keys_rotate_behind_cnames_that_are_set_once(owner: Owner) -> None:
    assert owner.rotate(0) == ["active", "active"]
    assert {key["selector"] for key in owner.keys} == number(1)
    # published, but nothing leads there yet
    assert owner.rotate(0.01) == ["active", "active"]
    assert owner.seen == ["absent", "absent"]
    assert set(owner.verified().values()) == {False}
    owner.sets()
    first = owner.aliases()
    owner.rotate(0.02)
    assert owner.seen == ["live", "live"]
    # until the denial of before is forgotten
    wait_until(lambda: owner.verified() == dict.fromkeys(number(1), True), 60, "signatures that can be verified")
    # the id of the policy comes the same way
    assert owner.text(f"_mta-sts.{DOMAIN}").startswith(b"v=STSv1; id=")
    owner.rotate(0.2)
    passed = []
    for days in DAYS:
        passed.append(owner.rotate(days))
        signed = owner.verified()
        assert signed and all(signed.values()), (days, signed, owner.keys)
        if len(passed) > 3 and passed[-1] == ["active", "active"]:
            break
    assert {"generated", "retiring", "revoked", "active"} <= {state for states in passed for state in states}
    assert {key["selector"] for key in owner.keys} == number(2)
    assert owner.aliases() == first
