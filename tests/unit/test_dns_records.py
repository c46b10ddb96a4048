# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record set, read back with dnspython's own zone parser."""

from __future__ import annotations

import copy
from typing import Any

import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.zone
import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.mailwright.server.plugins.filter.dns_zone import FilterModule
from ansible_collections.mailwright.server.plugins.module_utils.dkim.state import (
    NUMBERS,
    algorithm_of,
    number_of,
    numbered_selector,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.mta_sts import policy_id, policy_text
from ansible_collections.mailwright.server.plugins.module_utils.dns.names import domain_error, selector_error
from ansible_collections.mailwright.server.plugins.module_utils.dns.records import record_set
from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import RRset, text_value, zone_text
from dns.rdata import Rdata
from dns.rdtypes.ANY.TXT import TXT
from hypothesis import given
from hypothesis import strategies as st

KEYS = {
    "acme.test": [
        {"selector": "20260301rk3x9", "path": "/k", "dns": "v=DKIM1; k=rsa; p=" + "A" * 392},
        {"selector": "20260301ek3x9", "path": "/k", "dns": "v=DKIM1; k=ed25519; p=" + "A" * 44},
        {"selector": "20250901rk3x9", "path": "/k", "dns": "v=DKIM1; k=rsa; p="},
    ],
    "globex.test": [{"selector": "20260301r0a1b", "path": "/k", "dns": "v=DKIM1; k=rsa; p=" + "B" * 392}],
}
MODEL: dict[str, Any] = {
    "hostname": "mx1.acme.test",
    "addresses": {"ipv4": ["198.51.100.10"], "ipv6": ["2001:DB8::0010"]},
    "features": {"pop3": True, "autoconfig": True},
    "tls": {"dane": False, "acme": None},
    "domains": [
        {"name": "acme.test", "enabled": True, "mta_sts": "enforce"},
        {"name": "globex.test", "enabled": True, "mta_sts": "none"},
        {"name": "off.test", "enabled": False, "mta_sts": "enforce"},
    ],
}
LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
DOMAIN = st.lists(LABEL, min_size=2, max_size=5).map(".".join)


def octets_of(rdata: Rdata) -> list[bytes]:
    """The strings of a TXT record."""
    assert isinstance(rdata, TXT)
    return list(rdata.strings)


def parsed(text: str) -> dict[tuple[str, str], set[str]]:
    """Master-file text as {(name, type): record data}, TXT joined to one string, as a resolver's client sees it."""
    zone = dns.zone.from_text(text, origin=dns.name.root, relativize=False, check_origin=False)
    found: dict[tuple[str, str], set[str]] = {}
    for name, _ttl, rdata in zone.iterate_rdatas():
        joined = b"".join(octets_of(rdata)).decode() if rdata.rdtype == dns.rdatatype.TXT else rdata.to_text()
        found.setdefault((name.to_text(), dns.rdatatype.to_text(rdata.rdtype)), set()).add(joined)
    return found


def changed(**values: Any) -> dict[str, Any]:
    model = copy.deepcopy(MODEL)
    model.update(values)
    return model


def test_every_record_of_a_host_and_two_domains() -> None:
    found = parsed(zone_text(record_set(MODEL, KEYS)))
    expected = {
        ("mx1.acme.test.", "A"): {"198.51.100.10"},
        ("mx1.acme.test.", "AAAA"): {"2001:db8::10"},
        ("mx1.acme.test.", "TXT"): {"v=spf1 a -all"},
    }
    for domain, keys in KEYS.items():
        expected |= {(f"{key['selector']}._domainkey.{domain}.", "TXT"): {key["dns"]} for key in keys}
        expected |= {
            (f"{domain}.", "MX"): {"10 mx1.acme.test."},
            (f"{domain}.", "TXT"): {"v=spf1 mx -all"},
            (f"_dmarc.{domain}.", "TXT"): {f"v=DMARC1; p=quarantine; rua=mailto:mail-reports@{domain}"},
            (f"_imaps._tcp.{domain}.", "SRV"): {"0 1 993 mx1.acme.test."},
            (f"_submissions._tcp.{domain}.", "SRV"): {"0 1 465 mx1.acme.test."},
            (f"_submission._tcp.{domain}.", "SRV"): {"0 1 587 mx1.acme.test."},
            (f"_pop3s._tcp.{domain}.", "SRV"): {"0 1 995 mx1.acme.test."},
            (f"_sieve._tcp.{domain}.", "SRV"): {"0 1 4190 mx1.acme.test."},
            (f"_imap._tcp.{domain}.", "SRV"): {"0 0 0 ."},
            (f"_pop3._tcp.{domain}.", "SRV"): {"0 0 0 ."},
            (f"_autodiscover._tcp.{domain}.", "SRV"): {"0 1 443 mx1.acme.test."},
            (f"autoconfig.{domain}.", "CNAME"): {"mx1.acme.test."},
            (f"autodiscover.{domain}.", "CNAME"): {"mx1.acme.test."},
            (f"_smtp._tls.{domain}.", "TXT"): {f"v=TLSRPTv1; rua=mailto:mail-reports@{domain}"},
        }
    expected |= {
        ("mta-sts.acme.test.", "CNAME"): {"mx1.acme.test."},
        ("_mta-sts.acme.test.", "TXT"): {f"v=STSv1; id={policy_id(policy_text('enforce', 'mx1.acme.test'))};"},
    }
    assert found == expected


def test_a_service_that_is_off_is_said_not_to_be_there() -> None:
    found = parsed(zone_text(record_set(changed(features={"pop3": False}), KEYS)))
    assert found["_pop3s._tcp.acme.test.", "SRV"] == {"0 0 0 ."}
    assert found["_imaps._tcp.acme.test.", "SRV"] == {"0 1 993 mx1.acme.test."}


def test_settings_are_announced_only_where_they_are_served() -> None:
    names = {rrset.name for rrset in record_set(changed(features={"autoconfig": False}), KEYS)}
    assert not [name for name in names if "autoconfig" in name or "autodiscover" in name]


def test_dmarc_policy_and_bimi() -> None:
    logo = {"logo_url": "https://acme.test/logo.svg", "authority_url": None}
    certified = {"logo_url": "https://globex.test/logo.svg", "authority_url": "https://globex.test/logo.pem"}
    domains = [
        {"name": "acme.test", "enabled": True, "dmarc": "reject", "bimi": logo},
        {"name": "globex.test", "enabled": True, "dmarc": "quarantine", "bimi": certified},
        {"name": "off.test", "enabled": False, "dmarc": "reject", "bimi": logo},
    ]
    found = parsed(zone_text(record_set(changed(domains=domains), {})))
    assert found["_dmarc.acme.test.", "TXT"] == {"v=DMARC1; p=reject; rua=mailto:mail-reports@acme.test"}
    assert {name: values for (name, _kind), values in found.items() if "_bimi" in name} == {
        "default._bimi.acme.test.": {"v=BIMI1; l=https://acme.test/logo.svg"},
        "default._bimi.globex.test.": {"v=BIMI1; l=https://globex.test/logo.svg; a=https://globex.test/logo.pem"},
    }


@pytest.mark.parametrize("mode", ["none", "testing", "enforce"])
def test_a_policy_is_announced_only_where_there_is_one(mode: str) -> None:
    domains = [{"name": "acme.test", "enabled": True, "mta_sts": mode}]
    found = parsed(zone_text(record_set(changed(domains=domains), KEYS)))
    assert (("mta-sts.acme.test.", "CNAME") in found) is (mode != "none")
    assert (("_mta-sts.acme.test.", "TXT") in found) is (mode != "none")
    assert record_set(changed(domains=[{"name": "acme.test", "enabled": True}]), KEYS) == record_set(
        changed(domains=[{"name": "acme.test", "enabled": True, "mta_sts": "none"}]), KEYS
    )


def test_a_name_with_records_of_its_own_is_no_alias() -> None:
    names = ["acme.test", "autoconfig.acme.test", "mta-sts.acme.test"]
    domains = [{"name": name, "enabled": True, "mta_sts": "enforce"} for name in names]
    rrsets = record_set(changed(hostname="autodiscover.acme.test", domains=domains), {})
    aliases = {rrset.name for rrset in rrsets if rrset.type == "CNAME"}
    assert not aliases & {rrset.name for rrset in rrsets if rrset.type != "CNAME"}
    below = {f"{service}.{name}." for service in ("autoconfig", "autodiscover", "mta-sts") for name in names}
    assert aliases == below - {f"{name}." for name in ("autodiscover.acme.test", *names)}


def test_a_host_that_is_a_mail_domain_has_one_spf_record() -> None:
    found = parsed(zone_text(record_set(changed(hostname="acme.test"), KEYS)))
    assert found["acme.test.", "TXT"] == {"v=spf1 mx -all"}


def test_the_keys_of_the_host_are_announced_where_that_is_asked_for() -> None:
    with_dane = changed(tls={"dane": True, "acme": None})
    dane = {"records": ["bb" * 32, "aa" * 32], "ttl": 60}
    dns_zone = FilterModule().filters()["dns_zone"]
    lines = dns_zone(with_dane, KEYS, dane).splitlines()
    assert [line for line in lines if "TLSA" in line] == [
        f"_25._tcp.mx1.acme.test. 60 IN TLSA 3 1 1 {digest}" for digest in ("aa" * 32, "bb" * 32)
    ]
    assert "TLSA" not in dns_zone(MODEL, KEYS, dane) + dns_zone(with_dane, KEYS, {"records": [], "ttl": 60})
    # without them a publisher would withdraw what it has published
    with pytest.raises(AnsibleFilterError, match="lacks 'records'"):
        dns_zone(with_dane, KEYS)
    with pytest.raises(AnsibleFilterError, match="tlsa: 'nonsense' is not a SHA-256"):
        dns_zone(with_dane, KEYS, {"records": ["nonsense"], "ttl": 60})


def test_only_the_host_s_account_may_issue_where_that_is_asked_for() -> None:
    with_caa = changed(tls={"dane": False, "acme": {"caa": "ca.test"}})
    dns_zone = FilterModule().filters()["dns_zone"]
    lines = dns_zone(with_caa, KEYS, {}, {"uri": "https://ca.test/acct/1"}).splitlines()
    record = 'mx1.acme.test. 3600 IN CAA 0 issue "ca.test; accounturi=https://ca.test/acct/1"'
    assert [line for line in lines if "CAA" in line] == [record]
    assert "CAA" not in dns_zone(with_caa, KEYS, {}, {"uri": None})
    with pytest.raises(AnsibleFilterError, match="lacks 'uri'"):
        dns_zone(with_caa, KEYS)


def test_a_parked_domain_says_that_it_has_no_mail() -> None:
    found = parsed(zone_text(record_set(changed(dns={"parked_domains": ["parked.test"]}), KEYS)))
    assert {key: values for key, values in found.items() if "parked" in key[0]} == {
        ("parked.test.", "MX"): {"0 ."},
        ("parked.test.", "TXT"): {"v=spf1 -all"},
        ("_dmarc.parked.test.", "TXT"): {"v=DMARC1; p=reject"},
    }


def test_a_domain_without_a_key_has_no_dkim_record() -> None:
    names = [rrset.name for rrset in record_set(MODEL, {})]
    assert not any("_domainkey" in name for name in names)


def test_a_domain_that_left_keeps_its_dkim_records_alone() -> None:
    found = parsed(zone_text(record_set(changed(domains=[]), KEYS)))
    assert {name for name, _kind in found if "globex" in name} == {"20260301r0a1b._domainkey.globex.test."}


def test_lines_are_sorted_and_absolute_whatever_the_order_given() -> None:
    rrsets = record_set(MODEL, KEYS)
    text = zone_text(rrsets)
    assert zone_text(rrsets[::-1]) == text
    assert all(line.split()[0].endswith(".") for line in text.splitlines())
    assert text.index("\nacme.test. ") < text.index("\nmx1.acme.test. ") < text.index("\nglobex.test. ")


def test_all_errors_are_reported_at_once() -> None:
    model = changed(
        hostname="mx1",
        addresses={"ipv4": ["2001:db8::1"], "ipv6": ["x\n@ IN NS evil."]},
        domains=[{"name": "a.test\nb", "enabled": True}, {"name": "acme.test", "enabled": True}],
    )
    with pytest.raises(ValueError, match="hostname: 'mx1'") as caught:
        record_set(model, {"acme.test": [{"selector": "a;b", "dns": "p=1"}], "..": []})
    message = str(caught.value)
    for part in (
        "addresses.ipv4",
        "addresses.ipv6",
        "'a.test\\nb'",
        "acme.test[0].selector",
        "acme.test[0].dns",
        "dkim_keys: '..'",
    ):
        assert part in message
    assert "\n" not in message


@given(st.binary(max_size=1200) | st.text('\\"; 09a\n\x7f', max_size=600).map(str.encode))
def test_text_survives_the_presentation_form(octets: bytes) -> None:
    rdata = dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.TXT, text_value(octets))
    assert b"".join(octets_of(rdata)) == octets
    assert all(len(string) <= 255 for string in octets_of(rdata))
    assert all(len(string) == 255 for string in octets_of(rdata)[:-1])
    assert "\n" not in text_value(octets)


@given(st.lists(DOMAIN, min_size=1, max_size=5, unique=True), DOMAIN, LABEL)
def test_a_zone_of_any_names_reads_back_as_the_record_sets(domains: list[str], host: str, selector: str) -> None:
    model = changed(hostname=host, domains=[{"name": name, "enabled": True} for name in domains])
    rrsets = record_set(model, {name: [{"selector": selector, "dns": "v=DKIM1; p=" + "Zm9v" * 90}] for name in domains})
    expected: dict[tuple[str, str], set[str]] = {}
    for rrset in rrsets:
        rdatas = [dns.rdata.from_text("IN", rrset.type, value) for value in rrset.values]
        assert (rrset.name, rrset.type) not in expected
        expected[rrset.name, rrset.type] = {
            b"".join(octets_of(rdata)).decode() if rrset.type == "TXT" else rdata.to_text() for rdata in rdatas
        }
    assert parsed(zone_text(rrsets)) == expected


def test_zone_text_writes_one_line_for_each_value() -> None:
    rrset = RRset("a.test.", "A", 60, ("192.0.2.1", "192.0.2.2"))
    assert zone_text([rrset]) == "a.test. 60 IN A 192.0.2.1\na.test. 60 IN A 192.0.2.2\n"


@pytest.mark.parametrize(
    "name",
    ["", "test", ".test", "a..test", "a.test.", "A.test", "a_b.test", "-a.test", "a-.test", "../a.test", "a.test\n",
     "b\u00fccher.test", "a" * 64 + ".test", "a." * 120 + "test", "a/b.test", "a b.test"],
)  # fmt: skip
def test_a_name_that_could_break_out_is_refused(name: str) -> None:
    assert domain_error(name) is not None


@given(DOMAIN)
def test_ordinary_names_are_accepted(name: str) -> None:
    assert domain_error(name) is None


@pytest.mark.parametrize("selector", ["", "a.b", "../x", "a\n", "A", "a" * 33, "-a"])
def test_a_bad_selector_is_refused(selector: str) -> None:
    assert selector_error(selector) is not None


def test_the_longest_domain_with_the_longest_selector_fits_a_name() -> None:
    domain = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 17])
    assert domain_error(domain) is None
    assert domain_error(f"{domain}d") is not None
    text = zone_text(
        record_set(
            changed(domains=[{"name": domain, "enabled": True}]),
            {domain: [{"selector": "s" * 32, "dns": "v=DKIM1; p="}]},
        )
    )
    assert ("s" * 32 + "._domainkey." + domain + ".", "TXT") in parsed(text)


def test_the_filter_gives_the_zone_and_a_readable_error() -> None:
    dns_zone = FilterModule().filters()["dns_zone"]
    assert dns_zone(MODEL, KEYS) == zone_text(record_set(MODEL, KEYS))
    with pytest.raises(AnsibleFilterError, match="lacks 'addresses'"):
        dns_zone({"hostname": "mx1.acme.test", "domains": [], "tls": {"dane": False, "acme": None}}, {})


# --- a zone elsewhere, by CNAME -------------------------------------------------------------------------------------

FAR = "far.example"
R1, E1 = (numbered_selector(FAR, 1, algorithm) for algorithm in ("rsa", "ed25519"))


def delegated(keys: dict[str, Any], **domain: Any) -> dict[tuple[str, str], tuple[str, ...]]:
    model = {**MODEL, "dns": {"delegation": "dns.acme.test", "parked_domains": []},
             "domains": [{"name": FAR, "enabled": True, "delegated": True, **domain}] if domain else []}  # fmt: skip
    return {(rrset.name, rrset.type): rrset.values for rrset in record_set(model, keys)}


def key(selector: str) -> dict[str, str]:
    return {"selector": selector, "path": "/k", "dns": "v=DKIM1; k=rsa; p=AAAA"}


def test_what_changes_lies_below_the_delegation() -> None:
    found = delegated({FAR: [key(R1), key(E1)]}, mta_sts="enforce")
    name = f"{R1}._domainkey.{FAR}."
    assert found[name, "CNAME"] == (f"{name}dns.acme.test.",)
    assert found[f"{name}dns.acme.test.", "TXT"] == ('"v=DKIM1; k=rsa; p=AAAA"',)
    assert (name, "TXT") not in found
    assert found[f"_mta-sts.{FAR}.", "CNAME"] == (f"_mta-sts.{FAR}.dns.acme.test.",)
    assert found[f"_mta-sts.{FAR}.dns.acme.test.", "TXT"][0].startswith('"v=STSv1; id=')
    # the others are entered once, as ever
    assert found[f"{FAR}.", "MX"] == ("10 mx1.acme.test.",)
    aliases = {name for name, kind in found if kind == "CNAME" and "._domainkey." in name}
    assert len(aliases) == 2 * NUMBERS


def test_the_names_to_set_are_the_same_for_years() -> None:
    def aliases(number: int) -> set[str]:
        keys = [key(numbered_selector(FAR, used, "rsa")) for used in range(max(1, number - 2), number + 1)]
        return {
            name for name, kind in delegated({FAR: keys}, mta_sts="none") if kind == "CNAME" and "_domainkey" in name
        }

    assert aliases(1) == aliases(2) == aliases(NUMBERS - 2)
    # the next ones are named while one of the first is left
    assert aliases(NUMBERS - 1) > aliases(1)
    assert len(aliases(NUMBERS - 1)) == 4 * NUMBERS


def test_keys_of_before_stay_where_they_are_and_those_of_a_domain_that_left_below() -> None:
    found = delegated({FAR: [key("20260301rk3x9"), key(R1)]}, mta_sts="none")
    assert (f"20260301rk3x9._domainkey.{FAR}.", "TXT") in found
    left = delegated({FAR: [key(R1)]})
    assert set(left) >= {(f"{R1}._domainkey.{FAR}.dns.acme.test.", "TXT")}
    assert not [name for name, kind in left if kind == "CNAME"]


def test_numbered_selectors_are_the_domains_own() -> None:
    assert selector_error(numbered_selector(FAR, 9999, "rsa")) is None
    assert algorithm_of(E1) == "ed25519"
    assert (number_of(R1), number_of("20260301rk3x9")) == (1, None)
    assert numbered_selector("other.example", 1, "rsa") != R1
