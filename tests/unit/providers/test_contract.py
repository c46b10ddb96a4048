# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The contract of DNS providers, checked on each API's imitation, and Route 53's also on moto."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from ansible_collections.mailwright.server.plugins.module_utils.dns.canonical import text_octets
from ansible_collections.mailwright.server.plugins.module_utils.dns.ledger_file import read_ledger
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.cloudflare import Cloudflare
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.contract import Provider
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.desec import Desec
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.digitalocean import DigitalOcean
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.gandi import Gandi
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.google import Google
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.hetzner import Hetzner
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.http import Transport
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.ovh import Ovh
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.route53 import Route53
from ansible_collections.mailwright.server.plugins.module_utils.dns.publish import Job, publish
from ansible_collections.mailwright.server.plugins.module_utils.dns.records import record_set
from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import RRset, text_value
from ansible_collections.mailwright.server.tests.provider_contract import (
    CHECKS,
    FAULT_CHECKS,
    TTL,
    Case,
    Check,
    create,
    keyed,
    listed,
    wrong_credentials_are_named_and_not_shown,
)
from ansible_collections.mailwright.server.tests.unit.providers.imitations import (
    cloudflare,
    desec,
    digitalocean,
    gandi,
    google,
    hetzner,
    ovh,
    route53,
)
from ansible_collections.mailwright.server.tests.unit.providers.imitations.server import Imitation
from ansible_collections.mailwright.server.tests.unit.test_dns_records import KEYS, MODEL
from moto.server import ThreadedMotoServer

Make = Callable[[str, bool, Transport], Provider]
WRONG = "not-the-secret-f00d"


def _google(url: str, right: bool, transport: Transport) -> Provider:
    account = google.service_account(url, google.KEY if right else google.new_key())
    return Google(service_account=account, api_url=url, transport=transport)


def _ovh(url: str, right: bool, transport: Transport) -> Provider:
    return Ovh(
        application_key=ovh.APPLICATION_KEY,
        application_secret=ovh.APPLICATION_SECRET if right else WRONG,
        consumer_key=ovh.CONSUMER_KEY,
        api_url=url,
        transport=transport,
    )


def _route53(url: str, right: bool, transport: Transport) -> Provider:
    secret = route53.SECRET if right else WRONG
    return Route53(access_key_id=route53.KEY_ID, secret_access_key=secret, api_url=url, transport=transport)


def _by_token(provider: Any, keyword: str, token: str) -> Make:
    def make(url: str, right: bool, transport: Transport) -> Provider:
        made: Provider = provider(**{keyword: token if right else WRONG}, api_url=url, transport=transport)
        return made

    return make


def _digitalocean_refuses(rrset: RRset) -> bool:
    """As the provider's page says."""
    if rrset.type == "TXT":
        return any(b"\\" in text_octets(value) for value in rrset.values)
    return rrset.values == ("0 .",) or (rrset.type == "CAA" and any(";" in value for value in rrset.values))


IMITATED: dict[str, tuple[type[Imitation], Make]] = {
    "cloudflare": (cloudflare.CloudflareImitation, _by_token(Cloudflare, "api_token", cloudflare.TOKEN)),
    "desec": (desec.DesecImitation, _by_token(Desec, "token", desec.TOKEN)),
    "digitalocean": (digitalocean.DigitalOceanImitation, _by_token(DigitalOcean, "token", digitalocean.TOKEN)),
    "gandi": (gandi.GandiImitation, _by_token(Gandi, "token", gandi.TOKEN)),
    "google": (google.GoogleImitation, _google),
    "hetzner": (hetzner.HetznerImitation, _by_token(Hetzner, "api_token", hetzner.TOKEN)),
    "ovh": (ovh.OvhImitation, _ovh),
    "route53": (route53.Route53Imitation, _route53),
}
SECRETS = (
    WRONG,
    cloudflare.TOKEN,
    desec.TOKEN,
    digitalocean.TOKEN,
    gandi.TOKEN,
    google.TOKEN,
    hetzner.TOKEN,
    ovh.APPLICATION_SECRET,
    ovh.CONSUMER_KEY,
    route53.SECRET,
)


def made_case(name: str, server: Imitation) -> Case:
    waits: list[float] = []
    transport = Transport(timeout=0.6, sleep=waits.append)
    make = IMITATED[name][1]
    numbers = itertools.count(1)

    def zone() -> str:
        added = f"zone{next(numbers)}.test."
        server.add_zone(added)
        return added

    return Case(
        name=name,
        provider=make(server.url, True, transport),
        zone=zone,
        faults=server.faults,
        wrong=make(server.url, False, transport),
        secrets=SECRETS,
        refused=_digitalocean_refuses if name == "digitalocean" else lambda _rrset: False,
        stored=lambda zone: len(server.zones[zone]),
        waits=waits,
    )


@pytest.fixture(params=sorted(IMITATED))
def imitation(request: pytest.FixtureRequest) -> Iterator[tuple[Case, Imitation]]:
    server = IMITATED[request.param][0]()
    yield made_case(request.param, server), server
    server.close()


@pytest.mark.parametrize("check", CHECKS + FAULT_CHECKS, ids=lambda check: check.__name__)
def test_on_the_imitation(imitation: tuple[Case, Imitation], check: Check) -> None:
    check(imitation[0])


def test_foreign_records_outlive_a_listing_that_fails_at_any_page(
    imitation: tuple[Case, Imitation], tmp_path: Path
) -> None:
    """Publish, publish again, remove the domain: before each, one run for every page that fails."""
    case, server = imitation
    zone = case.zone()
    foreign = [
        RRset(zone, "TXT", TTL, (text_value("site-verification=1"), text_value("v=spf1 include:news.example ~all"))),
        RRset(f"other._domainkey.{zone}", "TXT", TTL, (text_value("v=DKIM1; k=rsa; p=AAAA"),)),
        RRset(f"*.{zone}", "TXT", TTL, (text_value("wild"),)),
        *(RRset(f"host{number}.{zone}", "A", TTL, (f"192.0.2.{number}",)) for number in range(20)),
    ]
    create(case, zone, foreign)
    wanted = [
        RRset(zone, "MX", TTL, ("10 mx.example.net.",)),
        RRset(zone, "TXT", TTL, (text_value("v=spf1 mx -all"),)),
        RRset(f"ours._domainkey.{zone}", "TXT", TTL, (text_value("v=DKIM1; k=rsa; p=BBBB"),)),
    ]
    job = Job("mx1", {zone: "main"}, {"main": case.provider}, str(tmp_path / "ledger.json"), force_delete=True)

    def stored() -> list[tuple[str, str, int, str]]:
        return sorted((one.name, one.type, one.ttl, one.text) for one in server.zones[zone])

    def run(records: list[RRset], changes: int) -> None:
        before, ledger = stored(), read_ledger(job.ledger)
        server.faults.pages = 0
        case.provider.records(zone)
        assert server.faults.pages > 3
        for page in range(1, server.faults.pages + 1):
            server.faults.failing_page = page
            failed = publish(job, {zone: records})
            assert len(failed.errors) == 1 and not failed.done
            assert stored() == before and read_ledger(job.ledger) == ledger
        server.faults.failing_page = None
        done = publish(job, {zone: records})
        assert not done.errors and not done.failed and sum(len(plan.changes) for plan in done.plans) == changes

    run(wanted, 3)
    live = listed(case, zone)
    spf = text_value("v=spf1 include:news.example mx ~all")
    assert set(live[zone, "TXT"].values) == {text_value("site-verification=1"), spf}
    assert {key: live[key] for key in keyed(foreign) if key != (zone, "TXT")} == keyed(foreign[1:])
    run(wanted, 0)
    run([], 3)
    assert listed(case, zone) == keyed(foreign)


def test_wrong_credentials(imitation: tuple[Case, Imitation], caplog: pytest.LogCaptureFixture) -> None:
    wrong_credentials_are_named_and_not_shown(imitation[0], caplog)


def test_the_imitation_has_the_declared_limits(imitation: tuple[Case, Imitation]) -> None:
    case, server = imitation
    assert case.provider.capabilities.minimum_ttl == server.minimum_ttl
    assert case.provider.capabilities.types == server.types


def test_it_has_the_types_that_the_playbooks_publish(imitation: tuple[Case, Imitation]) -> None:
    """All but TLSA, which is published where DANE is switched on, and is an error where it is lacking."""
    published = {rrset.type for rrset in record_set(MODEL, KEYS)}
    assert published - {"TLSA"} <= imitation[0].provider.capabilities.types


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_on_moto(moto: str, check: Check) -> None:
    """moto checks neither signatures nor TXT data; what is written comes back as it was written."""
    requests.post(f"{moto}/moto-api/reset", timeout=10).raise_for_status()
    numbers = itertools.count(1)

    def zone() -> str:
        added = f"zone{next(numbers)}.test."
        body = (
            '<CreateHostedZoneRequest xmlns="https://route53.amazonaws.com/doc/2013-04-01/">'
            f"<Name>{added}</Name><CallerReference>{added}</CallerReference></CreateHostedZoneRequest>"
        )
        headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=AKID/20260101/us-east-1/route53/aws4_request"}
        requests.post(f"{moto}/2013-04-01/hostedzone", body, headers=headers, timeout=10).raise_for_status()
        return added

    check(Case(name="moto", provider=_route53(moto, True, Transport(sleep=lambda _seconds: None)), zone=zone))
