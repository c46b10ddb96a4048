# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is particular to one API, on its imitation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.contract import (
    Change,
    ConflictError,
    CredentialsError,
    IncompleteError,
    ProviderError,
    UnsupportedError,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.google import Google
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.http import Transport
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.route53 import Route53
from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import RRset, text_value
from ansible_collections.mailwright.server.tests.provider_contract import Case, address, create, listed
from ansible_collections.mailwright.server.tests.unit.providers.imitations import google, route53
from ansible_collections.mailwright.server.tests.unit.providers.imitations.server import Imitation, Reply, Request
from ansible_collections.mailwright.server.tests.unit.providers.test_contract import IMITATED, made_case

NOBODY = Transport(timeout=2.0, sleep=lambda _seconds: None)


@pytest.fixture
def on(request: pytest.FixtureRequest) -> Iterator[tuple[Case, Any, str]]:
    """A case, its imitation and an empty zone; the parameter is the provider's name."""
    server: Imitation = IMITATED[request.param][0]()
    case = made_case(request.param, server)
    yield case, server, case.zone()
    server.close()


def only(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("on", [name], indirect=True)


On = tuple[Case, Any, str]


@pytest.mark.parametrize("on", ["cloudflare", "google", "route53"], indirect=True)
def test_what_goes_away_between_reading_and_writing_is_a_conflict(on: On) -> None:
    case, server, zone = on
    create(case, zone, [address(zone, "www", 1), address(zone, "ftp", 1)])
    server.meanwhile = server.zones[zone].clear
    changes = [Change(address(zone, "www", 1), None), Change(address(zone, "ftp", 1), address(zone, "ftp", 2))]
    with pytest.raises(ConflictError):
        case.provider.apply(zone, changes)
    assert listed(case, zone) == {}


@pytest.mark.parametrize("on", ["google", "hetzner", "route53"], indirect=True)
def test_what_appears_between_reading_and_writing_is_a_conflict(on: On) -> None:
    case, server, zone = on
    server.meanwhile = lambda: server.store(zone, f"www.{zone}", "A", 3600, "192.0.2.99")
    with pytest.raises(ConflictError):
        case.provider.apply(zone, [Change(None, address(zone, "www", 1))])
    assert listed(case, zone) == {(f"www.{zone}", "A"): address(zone, "www", 99)}


@pytest.mark.parametrize("on", ["google", "route53"], indirect=True)
def test_a_change_is_waited_for(on: On) -> None:
    case, server, zone = on
    create(case, zone, [address(zone, "www", 1)])
    assert list(server.changes.values()) == [0]


@only("cloudflare")
def test_cloudflare_splits_batches_between_record_sets(on: On) -> None:
    case, server, zone = on
    wanted = [address(zone, f"host{number}", *range(1, 8)) for number in range(60)]
    create(case, zone, wanted[:28])
    assert server.faults.writes == 1
    create(case, zone, wanted[28:57])
    assert server.faults.writes == 3
    assert len(listed(case, zone)) == 57


@only("cloudflare")
def test_cloudflare_reads_what_its_web_pages_make(on: On, monkeypatch: pytest.MonkeyPatch) -> None:
    case, server, zone = on
    create(case, zone, [RRset(f"plain.{zone}", "TXT", 3600, (text_value("plain"),)), address(zone, "www", 1)])
    shown = server._shown

    def by_hand(record: Any) -> dict[str, Any]:
        entry: dict[str, Any] = shown(record)
        return {**entry, "ttl": 1, "content": 'v=a; "b"' if record.type == "TXT" else entry["content"]}

    monkeypatch.setattr(server, "_shown", by_hand)
    assert set(case.provider.records(zone)) == {
        RRset(f"plain.{zone}", "TXT", 300, (text_value('v=a; "b"'),)),
        address(zone, "www", 1, ttl=300),
    }


@only("cloudflare")
def test_cloudflare_switches_a_proxied_record_back(on: On) -> None:
    case, server, zone = on
    wanted = address(zone, "www", 1, ttl=300)
    create(case, zone, [wanted])
    server.zones[zone][0].more["proxied"] = True
    (found,) = case.provider.records(zone)
    assert found.ttl not in (300, 1)
    case.provider.apply(zone, [Change(found, wanted)])
    assert case.provider.records(zone) == [wanted]


@only("desec")
def test_desec_follows_no_link_elsewhere(on: On, monkeypatch: pytest.MonkeyPatch) -> None:
    case, server, zone = on
    create(case, zone, [address(zone, f"host{number}", number) for number in range(9)])
    listing = server._list

    def linking(zone: str, request: Request) -> Reply:
        reply: Reply = listing(zone, request)
        links = reply.headers["Link"].replace(server.url, "http://192.0.2.1:1")
        return replace(reply, headers={"Link": links})

    monkeypatch.setattr(server, "_list", linking)
    assert len(case.provider.records(zone)) == 9


@only("digitalocean")
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("TXT", text_value("back\\slash")),
        ("TXT", text_value("")),
        ("TXT", text_value('"' * 300)),
        ("CAA", '0 issue "ca.test; accounturi=https://ca.test/1"'),
        ("CAA", '0 issue ";"'),
        ("MX", "0 ."),
        ("TLSA", "3 1 1 " + "ab" * 32),
    ],
)
def test_digitalocean_says_what_it_does_not_take(on: On, kind: str, value: str) -> None:
    case, server, zone = on
    with pytest.raises(UnsupportedError):
        create(case, zone, [address(zone, "www", 1), RRset(f"x.{zone}", kind, 3600, (value,))])
    assert server.faults.writes == 0


@only("gandi")
def test_gandi_keeps_the_case_of_names(on: On) -> None:
    case, server, zone = on
    server.store(zone, f"www.{zone}", "A", 3600, "192.0.2.1").name = f"WWW.{zone}"
    case.provider.apply(zone, [Change(address(zone, "www", 1), address(zone, "www", 2))])
    assert [(record.name, record.text) for record in server.zones[zone]] == [(f"www.{zone}", "192.0.2.2")]


@only("hetzner")
def test_hetzner_reports_a_failed_action(on: On, monkeypatch: pytest.MonkeyPatch) -> None:
    case, server, zone = on
    failed = {"id": 1, "status": "error", "error": {"code": "action_failed", "message": "the disk is full"}}
    monkeypatch.setattr(server, "_action", lambda _number: failed)
    with pytest.raises(ProviderError, match="the disk is full"):
        create(case, zone, [address(zone, "www", 1)])


@only("hetzner")
def test_hetzner_waits_for_each_action(on: On) -> None:
    case, server, zone = on
    create(case, zone, [address(zone, "www", 1), address(zone, "ftp", 1)])
    assert set(server.actions.values()) == {0}
    assert len(server.actions) == 2


@only("ovh")
def test_ovh_serves_what_was_changed(on: On) -> None:
    case, server, zone = on
    server.faults.writes_left = 1
    change = Change(None, address(zone, "www", 1))
    with pytest.raises(ProviderError):
        case.provider.apply(zone, [change])
    assert listed(case, zone)
    assert zone not in server.served
    server.faults.writes_left = None
    case.provider.apply(zone, [change])
    assert server.served[zone] == [(f"www.{zone}", "A", 3600, "192.0.2.1")]


@only("ovh")
def test_a_record_that_goes_away_while_ovh_lists_breaks_the_listing(on: On, monkeypatch: pytest.MonkeyPatch) -> None:
    case, server, zone = on
    create(case, zone, [address(zone, "www", 1, 2)])
    filtered = server._filtered

    def then_gone(zone: str, query: dict[str, str]) -> list[Any]:
        found: list[Any] = filtered(zone, query)
        server.zones[zone].pop()
        return found

    monkeypatch.setattr(server, "_filtered", then_gone)
    with pytest.raises(IncompleteError):
        case.provider.records(zone)


@only("ovh")
def test_ovh_shows_its_own_kinds_of_text_as_texts(on: On) -> None:
    case, server, zone = on
    server.store(zone, zone, "TXT", 600, '"v=spf1 -all"').more["fieldType"] = "SPF"
    found = RRset(zone, "TXT", 600, (text_value("v=spf1 -all"),))
    assert case.provider.get(zone, zone, "TXT") == found
    wanted = replace(found, values=(text_value("v=spf1 mx -all"),))
    case.provider.apply(zone, [Change(found, wanted)])
    assert listed(case, zone) == {(zone, "TXT"): wanted}


@only("route53")
def test_route53_leaves_aliases_alone(on: On, monkeypatch: pytest.MonkeyPatch) -> None:
    case, _server, zone = on
    alias = (
        f"<ResourceRecordSet><Name>{zone}</Name><Type>A</Type><AliasTarget><DNSName>lb.test.</DNSName></AliasTarget>"
        f"</ResourceRecordSet><ResourceRecordSet><Name>w.{zone}</Name><Type>A</Type><SetIdentifier>one</SetIdentifier>"
        "<TTL>60</TTL><ResourceRecords><ResourceRecord><Value>192.0.2.1</Value></ResourceRecord></ResourceRecords>"
        "</ResourceRecordSet>"
    )
    monkeypatch.setattr(route53, "_shown", lambda _records: alias)
    create(case, zone, [address(zone, "www", 1)])
    found = case.provider.records(zone)
    assert [rrset.values for rrset in found] == [("ALIAS lb.test.",), ("ROUTED one 192.0.2.1",)]
    for rrset in found:
        with pytest.raises(UnsupportedError):
            case.provider.apply(zone, [Change(rrset, None)])


@only("route53")
def test_route53_splits_batches(on: On) -> None:
    case, server, zone = on
    text = text_value("x" * 2000)
    create(case, zone, [RRset(f"host{number}.{zone}", "TXT", 3600, (text,)) for number in range(16)])
    assert server.faults.writes == 2
    assert len(listed(case, zone)) == 16


@only("route53")
def test_route53_takes_a_hosted_zone_by_its_id(on: On) -> None:
    case, server, zone = on
    create(case, zone, [address(zone, "www", 1)])
    server.add_zone("other.test.")
    provider = Route53(
        access_key_id=route53.KEY_ID,
        secret_access_key=route53.SECRET,
        hosted_zone_id="Zother0test",
        api_url=server.url,
        transport=NOBODY,
    )
    assert provider.records(zone) == []


@only("route53")
def test_route53_retries_when_it_is_throttled(on: On, monkeypatch: pytest.MonkeyPatch) -> None:
    case, server, zone = on
    handle, refused = server.handle, iter([True, True])

    def throttled(request: Request) -> Reply:
        if request.method == "POST" and next(refused, False):
            return route53._error(400, "Throttling", "Rate exceeded")
        reply: Reply = handle(request)
        return reply

    monkeypatch.setattr(server, "handle", throttled)
    create(case, zone, [address(zone, "www", 1)])
    assert case.waits[:2] == [1.0, 2.0]
    assert server.faults.writes == 1


@only("route53")
def test_route53_outlives_a_proxy_that_fails(on: On, monkeypatch: pytest.MonkeyPatch) -> None:
    case, server, zone = on
    handle, failures = server.handle, iter([True, True])

    def behind_a_proxy(request: Request) -> Reply:
        reply: Reply = Reply(503, "<p>no backend") if next(failures, False) else handle(request)
        return reply

    monkeypatch.setattr(server, "handle", behind_a_proxy)
    assert case.provider.records(zone) == []


@only("google")
def test_google_fetches_a_token_when_the_old_one_ends(on: On, monkeypatch: pytest.MonkeyPatch) -> None:
    _case, server, zone = on
    asked = []
    token = server._token

    def counted(form: dict[str, str]) -> Reply:
        asked.append(form)
        reply: Reply = token(form)
        return replace(reply, body={**reply.body, "expires_in": 100})

    monkeypatch.setattr(server, "_token", counted)
    # The imitation compares with the real time, so the provider's runs a little behind.
    start, later = time.time() - 60, [0.0]
    transport = replace(NOBODY, now=lambda: start + later[0])
    provider = Google(service_account=google.service_account(server.url), api_url=server.url, transport=transport)
    for seconds, tokens in ((0, 1), (39, 1), (41, 2)):
        later[0] = seconds
        provider.records(zone)
        assert len(asked) == tokens


@only("google")
def test_google_leaves_routing_policies_alone(on: On, monkeypatch: pytest.MonkeyPatch) -> None:
    case, _server, zone = on
    create(case, zone, [address(zone, "www", 1)])
    routed = {"name": f"www.{zone}", "type": "A", "ttl": 60, "routingPolicy": {"wrr": {"items": []}}}
    monkeypatch.setattr(google, "_shown", lambda _records: routed)
    (found,) = case.provider.records(zone)
    assert found.values[0].startswith("ROUTED ")
    with pytest.raises(UnsupportedError):
        case.provider.apply(zone, [Change(found, None)])


@pytest.mark.parametrize("broken", ["{", '{"private_key": "the secret key"}', '"the secret key"'])
def test_google_says_what_is_wrong_with_an_account(broken: str) -> None:
    with pytest.raises(CredentialsError, match="service_account") as caught:
        Google(service_account=broken)
    assert "the secret key" not in str(caught.value)


def test_google_says_that_a_key_is_none() -> None:
    account = {**google.service_account("http://127.0.0.1:1"), "private_key": "the secret key"}
    with pytest.raises(CredentialsError, match="not a PEM key") as caught:
        Google(service_account=account, transport=NOBODY).records("acme.test.")
    assert "the secret key" not in str(caught.value)
