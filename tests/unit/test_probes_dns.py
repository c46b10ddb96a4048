# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the status report compares the derived records, the reverse names and the keys with what is published."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.dns.records import record_set
from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import RRset, text_value
from ansible_collections.mailwright.server.plugins.module_utils.probes import dns
from ansible_collections.mailwright.server.plugins.module_utils.probes.dns import Key
from ansible_collections.mailwright.server.plugins.module_utils.probes.resolver import Reply
from ansible_collections.mailwright.server.plugins.module_utils.probes.result import Result

HOST = "mx1.acme.test"
DKIM = "v=DKIM1; k=rsa; p=" + "A" * 300
KEYS = {"acme.test": [{"selector": "s1", "dns": DKIM}]}
MODEL: dict[str, Any] = {
    "hostname": HOST,
    "addresses": {"ipv4": ["192.0.2.10"], "ipv6": []},
    "features": {"pop3": True, "autoconfig": True},
    "domains": [
        {"name": "acme.test", "enabled": True, "mta_sts": "testing"},
        {"name": "off.test", "enabled": False, "mta_sts": "none"},
    ],
}


def published(records: list[RRset]) -> dict[tuple[str, str], Reply]:
    return {(rrset.name, rrset.type): Reply(rrset.values) for rrset in records}


@pytest.mark.parametrize("hostname", [HOST, "acme.test", "mail.elsewhere.test"])
def test_every_record_has_one_owner(hostname: str) -> None:
    more = [{"name": name, "enabled": True} for name in ("globex.test", "mta-sts.acme.test")]
    model = {**MODEL, "hostname": hostname, "domains": [*MODEL["domains"], *more]}
    owners = dns.wanted_by_owner(model, KEYS)
    assert set(owners) == {hostname, "acme.test", "globex.test", "mta-sts.acme.test"}
    together = [rrset for records in owners.values() for rrset in records]
    assert sorted(together, key=repr) == sorted(record_set(model, KEYS), key=repr)


def test_all_published_is_ok() -> None:
    for owner, records in dns.wanted_by_owner(MODEL, KEYS).items():
        found = dns.evaluate_owner(owner, records, published(records))
        assert (found.status, found.detail) == ("ok", ())


def test_missing_records_are_printed_as_to_publish() -> None:
    records = dns.wanted_by_owner(MODEL, KEYS)["acme.test"]
    replies = published(records)
    replies["s1._domainkey.acme.test.", "TXT"] = Reply()
    replies["_imaps._tcp.acme.test.", "SRV"] = Reply()
    found = dns.evaluate_owner("acme.test", records, replies)
    assert (found.status, found.summary) == ("fail", "s1._domainkey.acme.test. TXT (v=DKIM1): missing")
    assert found.detail == (
        "_imaps._tcp.acme.test. SRV: missing 0 1 993 mx1.acme.test.",
        "publish:",
        f"s1._domainkey.acme.test. 3600 IN TXT {text_value(DKIM)}",
        "_imaps._tcp.acme.test. 3600 IN SRV 0 1 993 mx1.acme.test.",
    )


def test_a_resolver_that_fails_is_not_a_missing_record() -> None:
    records = dns.wanted_by_owner(MODEL, KEYS)["acme.test"]
    replies = {**published(records), ("acme.test.", "MX"): Reply(error="SERVFAIL")}
    found = dns.evaluate_owner("acme.test", records, replies)
    assert (found.status, found.summary) == ("fail", "acme.test. MX: cannot be asked for: SERVFAIL")
    assert not found.data["publish"]


def rrset(name: str, kind: str, *values: str) -> RRset:
    return RRset(name, kind, 3600, values)


MX = rrset("acme.test.", "MX", "10 mx1.acme.test.")
A = rrset("mx1.acme.test.", "A", "192.0.2.10")
SRV = rrset("_imaps._tcp.acme.test.", "SRV", "0 1 993 mx1.acme.test.")
SPF = rrset("acme.test.", "TXT", '"v=spf1 mx -all"')
DMARC = rrset("_dmarc.acme.test.", "TXT", '"v=DMARC1; p=quarantine; rua=mailto:mail-reports@acme.test"')
ALIAS = rrset("mta-sts.acme.test.", "CNAME", "mx1.acme.test.")
POLICY = rrset("_mta-sts.acme.test.", "TXT", '"v=STSv1; id=1;"')
REPORTS = rrset("_smtp._tls.acme.test.", "TXT", '"v=TLSRPTv1; rua=mailto:mail-reports@acme.test"')
SIGNING = rrset("s1._domainkey.acme.test.", "TXT", text_value(DKIM))


@pytest.mark.parametrize(
    ("wanted", "live", "status"),
    [
        (A, ["192.0.2.10"], None),
        (A, [], "fail"),
        (A, ["192.0.2.11"], "fail"),
        (A, ["192.0.2.10", "192.0.2.11"], "warn"),
        (MX, ["10 mx1.acme.test."], None),
        (MX, ["5 mx1.acme.test."], None),
        (MX, ["10 mx1.acme.test.", "20 mx2.acme.test."], "warn"),
        (MX, ["5 mx1.acme.test.", "20 mx2.acme.test."], "warn"),
        (MX, ["10 mx2.acme.test."], "fail"),
        (MX, [], "fail"),
        (SRV, [], "warn"),
        (SRV, ["0 0 0 ."], "warn"),
        (SPF, ['"v=spf1 mx -all"'], None),
        (SPF, ['"v=spf1 mx -all"', '"google-site-verification=x"'], None),
        (SPF, ['"google-site-verification=x"'], "fail"),
        (SPF, ['"v=spf1 mx -all"', '"v=spf1 -all"'], "fail"),
        (SPF, ['"v=spf1 mx include:x.test -all"'], "warn"),
        (DMARC, ['"v=DMARC1; p=reject"'], None),
        (DMARC, ['"v=DMARC1; p=none"'], "warn"),
        (DMARC, [], "warn"),
        (ALIAS, [], "warn"),
        (ALIAS, ["mx2.acme.test."], "warn"),
        (POLICY, [], "warn"),
        (POLICY, ['"v=STSv1; id=2;"'], "warn"),
        (POLICY, ['"v=STSv1; id=1;"', '"v=STSv1; id=2;"'], "warn"),
        (REPORTS, ['"v=TLSRPTv1; rua=https://reports.test/"'], None),
        (REPORTS, [], "warn"),
        (SIGNING, [text_value(DKIM)], None),
        (SIGNING, [text_value("v=DKIM1; k=rsa; p=BBBB")], "fail"),
        (SIGNING, [text_value("v=DKIM1; k=rsa; p=")], "fail"),
        (SIGNING, [], "fail"),
    ],
)
def test_compare(wanted: RRset, live: list[str], status: str | None) -> None:
    found = dns.compare(wanted, live)
    assert (found and found[0]) == status
    assert found is None or found[1].startswith(f"{wanted.name} {wanted.type}")


REVERSE = Reply((f"{HOST}.",))


@pytest.mark.parametrize(
    ("names", "forward", "status"),
    [
        (REVERSE, {f"{HOST}.": Reply(("192.0.2.10",))}, "ok"),
        (REVERSE, {f"{HOST}.": Reply(("192.0.2.99",))}, "fail"),
        (REVERSE, {f"{HOST}.": Reply()}, "fail"),
        (Reply(), {}, "fail"),
        (Reply(error="no answer in time"), {}, "fail"),
        (Reply(("vps7.example.",)), {"vps7.example.": Reply(("192.0.2.10",))}, "warn"),
        (Reply(("vps7.example.",)), {"vps7.example.": Reply()}, "fail"),
    ],
)
def test_reverse(names: Reply, forward: dict[str, Reply], status: str) -> None:
    assert dns.evaluate_reverse("192.0.2.10", HOST, names, forward).status == status


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ([Key("s1", DKIM, True, DKIM, True)], None),
        ([Key("s1", DKIM, True, DKIM, True), Key("s0", DKIM, False, None, False)], None),
        ([], "has no signing key"),
        ([Key("s0", DKIM, False, None, False)], "has no signing key"),
        ([Key("s1", DKIM, True, None, True)], "cannot be read"),
        ([Key("s1", DKIM, True, "v=DKIM1; k=rsa; p=B", True)], "is not the one"),
        ([Key("s1", DKIM, True, DKIM, False)], "is not configured to sign"),
        ([Key("s1", DKIM, True, DKIM, True), Key("s0", DKIM, False, None, True)], "is to sign no longer"),
    ],
)
def test_keys_in_use(keys: list[Key], words: str | None) -> None:
    found = dns.evaluate_keys("acme.test", keys)
    assert [status for status, _text in found] == ([] if words is None else ["fail"])
    assert words is None or words in found[0][1]


def test_addresses_the_inventory_does_not_know() -> None:
    replies = {(f"{HOST}.", "A"): Reply(("192.0.2.10",)), (f"{HOST}.", "AAAA"): Reply(("2001:db8::1",))}
    assert [status for status, _text in dns.unlisted_families(MODEL, replies)] == ["warn"]
    replies[f"{HOST}.", "AAAA"] = Reply()
    assert dns.unlisted_families(MODEL, replies) == []


def test_findings_are_added_to_a_result() -> None:
    fine = Result("acme.test", "dns", "ok", "8 record sets agree")
    assert dns.with_findings(fine, []) is fine
    worse = dns.with_findings(fine, [("fail", "no key")])
    assert (worse.status, worse.summary) == ("fail", "no key")
    both = dns.with_findings(Result("acme.test", "dns", "warn", "odd", ("publish:",)), [("fail", "no key")])
    assert (both.status, both.summary, both.detail) == ("fail", "odd", ("no key", "publish:"))
