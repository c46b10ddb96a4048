# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Publishing on real name servers: Knot by dynamic update, PowerDNS by its HTTP API. Needs ns1 alone."""

from __future__ import annotations

import inspect
import json
import os
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.contract import (
    Change,
    ConflictError,
    CredentialsError,
    IncompleteError,
    Provider,
    ProviderError,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.registry import open_provider
from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import RRset, text_value, zone_text
from ansible_collections.mailwright.server.plugins.module_utils.dns.verify import (
    Server,
    authoritative_servers,
    parse_server,
    verify,
)
from ansible_collections.mailwright.server.tests import provider_contract
from connection import CHECKOUT, Lab
from nameservers import Knot, PowerDns

HERE = Path(__file__).parent
STEPS = (
    "before the intent", "within the intent", "after the intent", "before the first zone", "after the first zone",
    "after the last zone", "within settling", "after settling",
)  # fmt: skip
FOREIGN = """@ 300 TXT "v=spf1 include:news.test ~all"
@ 300 TXT "site-" "verification=1"
other._domainkey 300 TXT "v=DKIM1; p=BBBB"
* 300 TXT "wild"
* 300 A 192.0.2.1
www 300 CNAME @
"""
# What the signer and the server themselves write.
OWN_TYPES = {"SOA", "NS", "DNSKEY", "CDS", "CDNSKEY"}


@dataclass
class Stage:
    """Two zones on a server, and a ledger."""

    name: str
    server: Any
    zones: list[str]
    ledger: Path

    def arguments(self, records: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {
            "owner": "mx1.acme.test",
            "ledger": str(self.ledger),
            "providers": {"main": self.server.settings},
            "zones": dict.fromkeys(self.zones, "main"),
            "records": json.dumps(records),
            "workers": 1,
            "_ansible_diff": True,
        } | more

    def run(self, records: list[dict[str, Any]], die: str = "", **more: Any) -> dict[str, Any]:
        """The module's result; empty when the process was killed."""
        done = subprocess.run(
            [sys.executable, str(HERE / "publisher.py")],
            input=json.dumps({"arguments": self.arguments(records, **more), "die": die}),
            text=True, capture_output=True, check=False, timeout=120,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT / ".collections")},
        )  # fmt: skip
        if die:
            assert done.returncode == -9, done.stdout + done.stderr
            return {}
        assert done.stdout, done.stderr
        for secret in ("key_secret", "key"):
            assert self.server.settings.get(secret, "no such secret") not in done.stdout + done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    @property
    def provider(self) -> Provider:
        return open_provider(self.server.settings)

    def live(self) -> dict[str, set[str]]:
        """The records of each zone, as lines, without what the server itself writes."""
        found = {}
        for zone in self.zones:
            rrsets = [rrset for rrset in self.provider.records(f"{zone}.") if rrset.type not in OWN_TYPES]
            found[zone] = set(zone_text(rrsets).splitlines())
        return found

    def wanted(self, key: str = "A" * 392) -> list[dict[str, Any]]:
        """A mail domain's records in each of the zones."""
        found = []
        for zone in self.zones:
            found += [
                record(zone, "MX", "10 mx1.acme.test."),
                record(zone, "TXT", text_value("v=spf1 mx -all")),
                record(f"s1._domainkey.{zone}", "TXT", text_value(f"v=DKIM1; k=rsa; p={key}")),
                record(f"_dmarc.{zone}", "TXT", text_value('v=DMARC1; p=reject; rua="mailto:x"')),
                record(f"_imaps._tcp.{zone}", "SRV", "0 1 993 mx1.acme.test."),
                record(f"mx.{zone}", "A", "192.0.2.10"),
                record(f"mx.{zone}", "AAAA", "2001:DB8::0010"),
                record(f"_25._tcp.mx.{zone}", "TLSA", "3 1 1 " + "ab" * 32),
                record(f"mx.{zone}", "CAA", '0 issue "ca.test; accounturi=https://ca.test/1"'),
                record(f"mta-sts.{zone}", "CNAME", "mx1.acme.test."),
            ]
        return found


def record(name: str, kind: str, *values: str, ttl: int = 300) -> dict[str, Any]:
    return {"name": f"{name}.", "type": kind, "ttl": ttl, "values": list(values)}


@pytest.fixture(params=["knot", "powerdns"])
def stage(request: pytest.FixtureRequest, lab: Lab, tmp_path: Path) -> Iterator[Stage]:
    server = Knot(lab) if request.param == "knot" else PowerDns(lab)
    token = uuid.uuid4().hex[:8]
    zones = [f"a{token}.test", f"b{token}.test"]
    server.add(dict.fromkeys(zones, FOREIGN))
    yield Stage(request.param, server, zones, tmp_path / "ledger.json")
    server.remove(zones)


def test_from_empty_to_full_and_back_beside_what_others_wrote(stage: Stage) -> None:
    before = stage.live()
    plan = stage.run(stage.wanted(), _ansible_check_mode=True)
    assert plan["changed"] and stage.live() == before and not stage.ledger.exists()

    first = stage.run(stage.wanted(), verify=True, verify_servers=dict.fromkeys(stage.zones, stage.server.server))
    assert first["changes"] == plan["changes"] and len(first["changes"]) == 20, first
    assert sorted(first["zones_done"]) == [f"{zone}." for zone in stage.zones] and not first["zones_failed"]
    assert all(one["agree"] and not one["disagree"] for one in first["verified"]) and len(first["verified"]) == 20
    assert {one["before_header"] for one in first["diff"]} >= {f"_dmarc.{stage.zones[0]}. TXT"}
    full = stage.live()
    for zone in stage.zones:
        assert f'{zone}. 300 IN TXT "v=spf1 include:news.test mx ~all"' in full[zone]
        assert len(full[zone]) == len(before[zone]) + 9

    for check in (True, False):
        second = stage.run(stage.wanted(), _ansible_check_mode=check)
        assert not second["changed"] and second["changes"] == second["diff"] == []
    assert stage.live() == full

    changed = stage.run(stage.wanted("C" * 392))
    assert [one["name"] for one in changed["changes"]] == [f"s1._domainkey.{zone}." for zone in stage.zones]

    refused = stage.run([])
    assert refused["failed"] and "would delete 10 of 10" in refused["msg"]
    last = stage.run([], force_delete=True)
    assert last["changed"] and stage.live() == before
    assert not stage.run([])["changed"]


def test_by_a_playbook_on_the_controller(stage: Stage, lab: Lab, tmp_path: Path) -> None:
    arguments = {key: value for key, value in stage.arguments(stage.wanted()).items() if not key.startswith("_")}
    task = {"mailwright.server.dns_records": arguments, "delegate_to": "localhost"}
    play = [{"hosts": "all", "gather_facts": False, "tasks": [task]}]
    (tmp_path / "play.yml").write_text(yaml.safe_dump(play))
    python = f"ansible_python_interpreter={sys.executable}"
    for changed in (1, 0):
        done = lab.playbook(
            "-i", "localhost,", "-c", "local", "-e", python, str(tmp_path / "play.yml"), "--diff", "-vvv"
        )
        assert f"ok=1    changed={changed} " in done.stdout, done.stdout + done.stderr
        assert ("+_dmarc." in done.stdout) is bool(changed)
        secret = stage.server.settings["key_secret" if stage.name == "knot" else "key"]
        assert secret not in done.stdout + done.stderr


def test_an_alias_takes_an_address_place_and_the_other_way_round(stage: Stage) -> None:
    name = f"turn.{stage.zones[0]}"
    for kind, value in (("A", "192.0.2.1"), ("CNAME", "mx1.acme.test."), ("A", "192.0.2.1"), ("CNAME", "a.test.")):
        assert stage.run([record(name, kind, value)])["zones_done"]
        there = {one.type: one.values for one in stage.provider.records(f"{stage.zones[0]}.") if one.name == f"{name}."}
        assert there == {kind: (value,)}


@pytest.mark.parametrize("step", STEPS)
def test_a_run_that_is_killed_is_completed_by_the_next(stage: Stage, step: str) -> None:
    before = stage.live()
    for wanted in (stage.wanted(), stage.wanted("C" * 392)):
        stage.run(wanted, step)
        again = stage.run(wanted)
        assert again["zones_failed"] == {}, again
        assert not stage.run(wanted)["changed"]
    assert all("C" * 20 in " ".join(lines) and "A" * 20 not in " ".join(lines) for lines in stage.live().values())
    stage.run([], step, force_delete=True)
    stage.run([], force_delete=True)
    assert stage.live() == before and json.loads(stage.ledger.read_text())["zones"] == {}


def test_a_stale_old_value_is_a_conflict_and_nothing_of_the_call_is_made(stage: Stage) -> None:
    zone = f"{stage.zones[0]}."
    live = stage.provider.get(zone, zone, "TXT")
    assert live
    stale = RRset(zone, "TXT", 300, (text_value("older"),))
    new = RRset(f"new.{zone}", "A", 300, ("192.0.2.7",))
    before = stage.live()
    for old, name in ((stale, "TXT"), (None, "TXT")):
        with pytest.raises(ConflictError, match=name):
            stage.provider.apply(zone, [Change(None, new), Change(old, RRset(zone, "TXT", 300, (text_value("x"),)))])
        assert stage.live() == before
    # Twice the same is no conflict.
    for _again in range(2):
        stage.provider.apply(zone, [Change(None, new)])
    assert stage.provider.get(zone, new.name, "A") == new


@pytest.mark.parametrize("check", provider_contract.CHECKS, ids=lambda check: check.__name__)
def test_the_contract_of_providers(
    stage: Stage, check: Callable[..., None], request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    zones: list[str] = []

    def zone() -> str:
        zones.append(f"c{uuid.uuid4().hex[:8]}.test")
        stage.server.add({zones[-1]: ""})
        return f"{zones[-1]}."

    request.addfinalizer(lambda: stage.server.remove(zones) if zones else None)
    secret = "key_secret" if stage.name == "knot" else "key"
    wrong = open_provider({**stage.server.settings, secret: "c2VjcmV0"})
    case = provider_contract.Case(
        stage.name, stage.provider, zone, wrong=wrong, secrets=(stage.server.settings[secret], "c2VjcmV0")
    )
    check(case, caplog) if "caplog" in inspect.signature(check).parameters else check(case)


def test_a_name_under_a_wildcard_is_not_there(stage: Stage) -> None:
    zone = f"{stage.zones[0]}."
    assert stage.provider.get(zone, f"nothing.{zone}", "A") is None


def test_foreign_records_in_the_way_stop_all_zones(stage: Stage) -> None:
    blocked = [record(f"www.{stage.zones[1]}", "A", "192.0.2.9")]
    before = stage.live()
    failed = stage.run(stage.wanted() + blocked, adopt=True)
    assert failed["failed"] and "there is a CNAME at this name" in failed["msg"]
    assert stage.live() == before and not stage.ledger.exists()
    stage.run(stage.wanted())


def wrong(stage: Stage, **settings: Any) -> dict[str, Any]:
    before = stage.live()
    result = stage.run(stage.wanted(), providers={"main": {**stage.server.settings, **settings}})
    assert result["failed"] and stage.live() == before and not stage.ledger.exists()
    assert len(result["msg"].splitlines()) <= 3, result["msg"]
    assert stage.run(stage.wanted())["zones_done"]
    return result


def test_a_wrong_key_is_one_clear_error(stage: Stage) -> None:
    result = wrong(stage, **({"key_secret": "c2VjcmV0"} if stage.name == "knot" else {"key": "secret"}))
    assert "key is refused" in result["msg"]


def test_an_unreachable_server_is_one_clear_error(stage: Stage) -> None:
    result = wrong(stage, **({"port": 9} if stage.name == "knot" else {"url": "http://127.0.0.1:9"}))
    assert "refused" in result["msg"] or "no answer" in result["msg"]


def test_a_zone_that_does_not_exist_is_one_clear_error(stage: Stage) -> None:
    before = stage.live()
    zones = dict.fromkeys([*stage.zones, "nosuch.test"], "main")
    result = stage.run([*stage.wanted(), record("x.nosuch.test", "A", "192.0.2.1")], zones=zones)
    assert "zone nosuch.test.: provider main:" in result["msg"] and "no such zone" in result["msg"]
    assert len(result["msg"].splitlines()) == 2 and stage.live() == before


def test_a_type_that_is_not_supported_is_one_clear_error(stage: Stage) -> None:
    before = stage.live()
    strange = record(f"x.{stage.zones[0]}", "HINFO", '"a" "b"')
    result = stage.run([*stage.wanted(), strange])
    assert "provider main has no records of type HINFO" in result["msg"] and stage.live() == before
    result = stage.run([*stage.wanted(), strange], optional_types=["hinfo"])
    assert len(result["changes"]) == 20 and "left out" in str(result["warnings"])


def test_a_record_outside_all_zones_is_told(stage: Stage) -> None:
    result = stage.run([*stage.wanted(), record("elsewhere.example", "A", "192.0.2.1")])
    assert result["unmanaged"] == ["elsewhere.example. 300 IN A 192.0.2.1"] and "none of the zones" in str(
        result["warnings"]
    )


def test_a_customers_zone_that_delegates_what_changes(stage: Stage) -> None:
    """The customer's own provider has one NS record set more; keys come and go in a zone of ours."""
    parent = f"c{stage.zones[0][1:]}"
    child = f"_domainkey.{parent}"
    stage.server.add(
        {parent: f"{FOREIGN.replace('other._domainkey', 'other')}_domainkey 300 NS ns1.lab.test.\n", child: ""}
    )
    try:
        customer = sorted(map(str, stage.provider.records(f"{parent}.")))

        def publish(*selectors: str) -> dict[str, Any]:
            keys = [record(f"{name}.{child}", "TXT", text_value(f"v=DKIM1; p={name}")) for name in selectors]
            mx = record(parent, "MX", "10 mx1.acme.test.")
            terms: dict[str, Any] = {
                "force_delete": True,
                "verify": True,
                "verify_servers": {child: stage.server.server},
            }
            return stage.run([mx, *keys], zones={child: "main"}, **terms)

        for selectors in (["s1"], ["s1", "s2"], ["s2"]):
            result = publish(*selectors)
            assert not result.get("failed"), result
            assert result["unmanaged"] == [f"{parent}. 300 IN MX 10 mx1.acme.test."]
            assert all(one["agree"] and not one["disagree"] for one in result["verified"])
            live = {rrset.name for rrset in stage.provider.records(f"{child}.") if rrset.type not in OWN_TYPES}
            assert live == {f"{name}.{child}." for name in selectors}
        assert sorted(map(str, stage.provider.records(f"{parent}."))) == customer
    finally:
        stage.server.remove([parent, child])


class Relay:
    """A TCP relay to a name server that cuts or swallows answers."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.cut: int | None = None
        self.cut_once = False
        self.drop: Callable[[bytes], bool] = lambda _request: False
        self.swallow: Callable[[bytes], bool] = lambda _request: False
        self.octets: list[int] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _address = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        self.octets.append(0)
        place = len(self.octets) - 1
        with client, socket.create_connection(self.target) as server:
            request = client.recv(65536)
            if self.drop(request):
                return
            server.sendall(request)
            # A closed direction ends the other one too: a connection carries one exchange here.
            threading.Thread(target=_pump, args=(client, server), daemon=True).start()
            swallowed = self.swallow(request)
            while data := server.recv(65536):
                if swallowed:
                    break
                if self.cut is not None:
                    data = data[: self.cut - self.octets[place]]
                self.octets[place] += len(data)
                client.sendall(data)
                if self.cut is not None and self.octets[place] >= self.cut:
                    self.cut = None if self.cut_once else self.cut
                    break
            # Closing alone says nothing to the other side while a thread still reads.
            client.shutdown(socket.SHUT_RDWR)


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


@contextmanager
def relay(stage: Stage) -> Iterator[tuple[Relay, dict[str, Any]]]:
    host = stage.server.server.partition(":")[0]
    found = Relay((host, 53 if stage.name == "knot" else 8081))
    there = (
        {"server": "127.0.0.1", "port": found.port}
        if stage.name == "knot"
        else {"url": f"http://127.0.0.1:{found.port}"}
    )
    yield found, {**stage.server.settings, **there, "timeout": 5}
    found.listener.close()


def test_a_listing_that_is_cut_anywhere_ends_in_an_error(stage: Stage) -> None:
    zone = f"{stage.zones[0]}."
    # Some hundred records, so that the listing has many parts.
    many = [Change(None, RRset(f"h{n}.{zone}", "TXT", 300, (text_value(f"{n}" * 200),))) for n in range(300)]
    stage.provider.apply(zone, many)
    with relay(stage) as (path, settings):
        provider = open_provider(settings)
        whole = provider.records(zone)
        size = path.octets[-1]
        assert len(whole) > 300 and size > 50_000
        for cut in [1, 2, 30, *range(1000, size, size // 12), size - 1]:
            path.cut = cut
            with pytest.raises(IncompleteError if cut >= 1000 else ProviderError):
                provider.records(zone)
        before = stage.live()
        for cut in (size // 3, size - 1):
            path.cut = cut
            result = stage.run(stage.wanted(), providers={"main": settings})
            assert result["failed"] and stage.live() == before and not stage.ledger.exists()
        assert stage.run(stage.wanted())["zones_done"]
        published, ledger = stage.live(), stage.ledger.read_text()
        for wanted in (stage.wanted("C" * 392), []):
            result = stage.run(wanted, providers={"main": settings}, force_delete=True)
            assert result["failed"] and stage.live() == published and stage.ledger.read_text() == ledger
    assert stage.run([], force_delete=True)["zones_done"]
    assert stage.live() == before


def test_a_listing_that_is_cut_once_is_asked_for_again(stage: Stage) -> None:
    zone = f"{stage.zones[0]}."
    with relay(stage) as (path, settings):
        provider = open_provider(settings)
        found = provider.records(zone)
        path.cut, path.cut_once = path.octets[-1] // 2, True
        assert provider.records(zone) == found
        assert path.cut is None


def is_change(stage: Stage, request: bytes) -> bool:
    """Whether a request is an update: operation code 5 in its third octet, after two octets of length (RFC 1035
    section 4.1.1), or a PATCH."""
    return request[4] >> 3 == 5 if stage.name == "knot" else request.startswith(b"PATCH")


def test_an_answer_that_is_lost_after_the_change_was_made(stage: Stage) -> None:
    zone = f"{stage.zones[0]}."
    live = stage.provider.get(zone, zone, "TXT")
    assert live
    changes = [
        Change(None, RRset(f"new.{zone}", "A", 300, ("192.0.2.7",))),
        Change(live, RRset(zone, "TXT", 60, live.values)),
    ]

    lost: list[bytes] = []

    def once(request: bytes) -> bool:
        if lost or not is_change(stage, request):
            return False
        lost.append(request)
        return True

    with relay(stage) as (path, settings):
        path.swallow = once
        open_provider(settings).apply(zone, changes)
    assert len(lost) == 1
    assert stage.provider.get(zone, f"new.{zone}", "A") == changes[0].new
    assert stage.provider.get(zone, zone, "TXT") == changes[1].new


def test_a_key_that_may_not_list(lab: Lab) -> None:
    knot = Knot(lab)
    provider = open_provider({**knot.settings, "key_name": "nolist."})
    with pytest.raises(CredentialsError, match="may not"):
        provider.records("acme.test.")


def test_a_key_that_may_not_update(lab: Lab) -> None:
    knot = Knot(lab)
    provider = open_provider({**knot.settings, "key_name": "noupdate."})
    new = RRset("may-not.acme.test.", "A", 300, ("192.0.2.1",))
    with pytest.raises(CredentialsError, match="may not"):
        provider.apply("acme.test.", [Change(None, new)])
    assert new not in provider.records("acme.test.")


def test_a_write_that_fails_in_one_zone_says_which(stage: Stage) -> None:
    label = stage.zones[1].partition(".")[0].encode()
    with relay(stage) as (path, settings):
        # The second zone's change never reaches the server.
        path.drop = lambda request: is_change(stage, request) and label in request
        result = stage.run(stage.wanted(), providers={"main": settings})
    assert result["zones_done"] == [f"{stage.zones[0]}."] and list(result["zones_failed"]) == [f"{stage.zones[1]}."], (
        result
    )
    assert f"not done: zone {stage.zones[1]}." in result["msg"] and f"\ndone: zone {stage.zones[0]}." in result["msg"]
    again = stage.run(stage.wanted())
    assert again["zones_done"] == [f"{stage.zones[1]}."] and not stage.run(stage.wanted())["changed"]


def test_big_changes_take_several_messages(stage: Stage) -> None:
    zone = f"{stage.zones[0]}."
    many = [RRset(f"h{n}.{zone}", "TXT", 300, (text_value("x" * 400),)) for n in range(400)]
    stage.provider.apply(zone, [Change(None, one) for one in many])
    assert set(many) <= set(stage.provider.records(zone))
    stage.provider.apply(zone, [Change(one, None) for one in many])
    assert not set(many) & set(stage.provider.records(zone))


def test_verification_tells_who_does_not_serve_what(stage: Stage) -> None:
    zone = f"{stage.zones[0]}."
    server = parse_server(stage.server.server)
    there = RRset(zone, "TXT", 300, (text_value("site-verification=1"),))
    missing = RRset(f"not.there.{zone}", "MX", 300, ("10 mx.test.",))
    seen = verify({zone: [there, missing]}, {zone: [server]}, 0.1)
    assert seen[0].everywhere and not seen[1].everywhere
    assert seen[1].disagree == {str(server): "has none"}
    if stage.name == "knot":
        assert authoritative_servers(zone, [server]) == [server]
        # ns1 is no resolver: it never says that its answers are secure.
        (seen_by_both,) = verify({zone: [there]}, {zone: [server]}, 0.1, validating=Server(server.address, 53))
        assert "not secure" in str(seen_by_both.disagree)


def test_verification_waits_until_it_is_there(stage: Stage) -> None:
    zone = f"{stage.zones[0]}."
    late = RRset(f"late.{zone}", "TXT", 300, (text_value("here"),))
    pauses = []

    def publish_meanwhile(pause: float) -> None:
        pauses.append(pause)
        if len(pauses) == 2:
            stage.provider.apply(zone, [Change(None, late)])
            # what PowerDNS answered before it remembers for as long as it was told to
            pauses.append(0.0)

    server = parse_server(stage.server.server)
    (seen,) = verify({zone: [late]}, {zone: [server]}, 60, sleep=publish_meanwhile)
    assert seen.everywhere and pauses[:2] == [1.0, 2.0]


def test_by_hand_it_waits_until_somebody_has_entered_the_records(stage: Stage, tmp_path: Path) -> None:
    zone = stage.zones[0]
    by_hand: dict[str, Any] = {
        "providers": {"hand": {"type": "manual", "path": str(tmp_path / "zones")}}, "zones": {zone: "hand"},
        "verify": True, "verify_servers": {zone: stage.server.server},
    }  # fmt: skip
    wanted = [record(zone, "MX", "10 mx1.acme.test."), record(f"x.{zone}", "TXT", text_value("entered by hand"))]
    early = stage.run(wanted, verify_timeout=2, **by_hand)
    assert early["failed"] and "not served everywhere after 2 s" in early["msg"] and f"{zone}. MX" in early["msg"]

    def enter() -> None:
        """What a person does: from the file into the zone."""
        file = open_provider(by_hand["providers"]["hand"])
        stage.provider.apply(f"{zone}.", [Change(None, rrset) for rrset in file.records(f"{zone}.")])

    person = threading.Timer(5, enter)
    person.start()
    late = stage.run(wanted, verify_timeout=100, **by_hand)
    person.join()
    assert not late.get("failed") and not late["changed"] and all(not one["disagree"] for one in late["verified"])
