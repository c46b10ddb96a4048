# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Domains that tenants bring: names, records, and what counts as seen."""

from __future__ import annotations

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.dns.records import record_set
from ansible_collections.mailwright.server.plugins.module_utils.sending import claims, key_rows
from ansible_collections.mailwright.server.plugins.module_utils.sending.claims import Record

HOST = "mx1.acme.test"
KEY = ("20261127rab12", f"v=DKIM1; k=rsa; p={'A' * 300}")


@pytest.mark.parametrize(("text", "name"), [("Bücher.Example", "xn--bcher-kva.example"), ("acme.test", "acme.test")])
def test_names(text: str, name: str) -> None:
    assert claims.check_name(text, HOST) == name


@pytest.mark.parametrize(
    "text", ["acme", "", "a b.test", HOST, f"x.{HOST}", HOST.upper(), f"{'x' * 63}." * 3 + f"{'y' * 20}.test"]
)
def test_names_that_cannot_be(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        claims.check_name(text, HOST)


def test_records_are_those_of_the_inventory_s_domains() -> None:
    """But for names that the host's certificate would have to have; the proof comes first."""
    found = claims.records("new.test", "t0ken", KEY, HOST, {"pop3": False})
    assert found[0] == Record("_mailwright.new.test", "TXT", "mailwright-verification=t0ken")
    model = {
        "hostname": HOST,
        "addresses": {"ipv4": ["198.51.100.1"], "ipv6": []},
        "features": {"pop3": False},
        "domains": [{"name": "new.test", "enabled": True}],
    }
    wanted = record_set(model, {"new.test": [{"selector": KEY[0], "dns": KEY[1]}]})
    assert {record.key for record in found[1:]} == {
        f"{rrset.type} {rrset.name[:-1]}" for rrset in wanted if rrset.name != f"{HOST}."
    }
    values = {record.key: record.value for record in found}
    assert values["MX new.test"] == f"10 {HOST}."
    assert values[f"TXT {KEY[0]}._domainkey.new.test"] == KEY[1]
    assert not [record for record in claims.records("new.test", "t", None, HOST, {}) if "_domainkey" in record.name]
    # the host's own records are not the domain's, also where it is the domain above
    assert not [record for record in claims.records("acme.test", "t", None, HOST, {}) if record.name == HOST]


@pytest.mark.parametrize(
    ("record", "found", "seen"),
    [
        (Record("a.test", "MX", "10 mx1.acme.test."), {"10 mx1.acme.test.", "20 b.test."}, True),
        (Record("a.test", "MX", "10 mx1.acme.test."), {"10 b.test."}, False),
        (Record("a.test", "TXT", "v=spf1 mx -all"), {"x", "v=spf1 include:b.test mx ~all"}, True),
        (Record("a.test", "TXT", "v=spf1 mx -all"), {"v=spf1 include:b.test ~all"}, False),
        (Record("_dmarc.a.test", "TXT", "v=DMARC1; p=quarantine"), {"v=DMARC1;p=reject"}, True),
        (Record("_dmarc.a.test", "TXT", "v=DMARC1; p=quarantine"), {"v=DMARC"}, False),
        (claims.proof("a.test", "one"), {"mailwright-verification=other", "mailwright-verification=one"}, True),
        (claims.proof("a.test", "one"), {"mailwright-verification=one2"}, False),
        (claims.proof("a.test", "one"), set(), False),
    ],
)
def test_what_counts_as_seen(record: Record, found: set[str], seen: bool) -> None:
    assert claims.is_seen(record, found) is seen


def test_tokens_are_not_to_be_guessed() -> None:
    assert len({claims.new_token() for _number in range(100)}) == 100
    assert len(claims.new_token()) >= 32


def test_domains_of_a_tenant_that_left_are_switched_off_and_its_claims_removed() -> None:
    found = key_rows.Brought(
        [key_rows.BroughtDomain("a.test", "acme", True), key_rows.BroughtDomain("b.test", "back", False)],
        [key_rows.Claim("c.test", "acme"), key_rows.Claim("d.test", "back")],
    )
    wanted = found.of({"back"})
    assert found.without(wanted) == found._replace(claims=[key_rows.Claim("c.test", "acme")])
    assert wanted.without(found) == (
        [key_rows.BroughtDomain("a.test", "acme", False), key_rows.BroughtDomain("b.test", "back", True)],
        [],
    )
    assert found.of({"acme", "back"}).claims == found.claims
