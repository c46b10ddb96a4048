# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures for Prometheus: real pages, read by a real Prometheus, and what mail does to them. In order."""

from __future__ import annotations

import http.client
import json
import re
import socket
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.rrset
import pytest
import yaml
import zones
from ansible_collections.mailwright.server.tests.integration.conftest import Server, Stranger
from ansible_collections.mailwright.server.tests.integration.sending import Api, temporary_keys
from ansible_collections.mailwright.server.tests.integration.throwaway import recap
from connection import CHECKOUT, Lab, message, wait_until

HOSTNAME = "mx1.acme.test"
SOURCES = ("mail", "rspamd", "dovecot", "node", "postgresql", "api")
UNITS = ("mailwright-exporter", "prometheus-node-exporter", "prometheus-postgres-exporter", "prometheus")
RULES = "/etc/prometheus/mailwright/alerts.yml"
# peer asks: http.client would look the name up
READ = f"""
import http.client, socket, ssl, sys
connection = http.client.HTTPSConnection({HOSTNAME!r}, timeout=20, context=ssl._create_unverified_context())
plain = socket.create_connection((sys.argv[1], 443), 20)
connection.sock = connection._context.wrap_socket(plain, server_hostname={HOSTNAME!r})
connection.request("GET", sys.argv[2])
answer = connection.getresponse()
print(answer.status)
print(answer.read().decode())
"""


@pytest.fixture(scope="module")
def inventory(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The lab's mx1 with figures for peer, and a Prometheus of its own."""
    inventory = yaml.safe_load((lab.state / "inventory.yml").read_text())
    variables = inventory["mailservers"]["vars"]
    variables["mail_features"] = {**variables.get("mail_features", {}), "metrics": True, "prometheus": True}
    variables["metrics_scrapers"] = [lab.address("peer")]
    variables["mail_blocklists"] = {
        "addresses": ["bl.lab.test", "listing.lab.test", "everything.lab.test"], "domains": ["domains.lab.test"]
    }  # fmt: skip
    path = tmp_path_factory.mktemp("metrics") / "inventory.yml"
    path.write_text(yaml.safe_dump(inventory))
    try:
        done = lab.playbook("-i", str(path), "mailwright.server.site")
        assert recap(done, "mx1")["failed"] == 0, done.stdout[-3000:]
        yield path
    finally:
        # the last test has switched them off, unless it did not come to that
        if lab.ssh("mx1", "systemctl is-active mailwright-exporter", check=False).strip() == "active":
            done = lab.playbook("mailwright.server.site")
            assert recap(done, "mx1")["failed"] == 0, done.stdout[-3000:]


def page(server: Server, name: str) -> tuple[int, str]:
    """What peer gets."""
    answer = server.lab.ssh("peer", f"python3 - {server.address} /metrics/{name}", data=READ)
    status, _newline, text = answer.partition("\n")
    return int(status), text


def figures(server: Server) -> dict[str, float]:
    """The page on mail: name with labels -> value."""
    status, text = page(server, "mail")
    assert status == 200, text
    return {name: float(value) for name, value in re.findall(r"^([^# ].*) (\S+)$", text, re.MULTILINE)}


def asked(server: Server, expression: str) -> list[dict[str, Any]]:
    """What the host's own Prometheus answers."""
    query = urllib.parse.quote(expression)
    code = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:9090/api/v1/query?query={query}').read().decode())"
    answer = json.loads(server.run("python3 -", data=code))
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


@pytest.mark.usefixtures("inventory")
def test_peer_may_read_every_page_and_others_none(lab: Lab, server: Server) -> None:
    for name in SOURCES:
        status, text = page(server, name)
        assert status == 200 and re.search(r"^\w+(\{.*\})? [\d.e+-]+", text, re.MULTILINE), (name, text[:500])
    # this machine is none of the scrapers
    connection = http.client.HTTPSConnection(HOSTNAME, timeout=20)
    plain = socket.create_connection((lab.address("mx1"), 443), 20)
    connection.sock = lab.tls().wrap_socket(plain, server_hostname=HOSTNAME)
    connection.request("GET", "/metrics/mail")
    assert connection.getresponse().status == 403


@pytest.mark.usefixtures("inventory")
def test_mail_is_counted_and_nobody_is_named(server: Server, stranger: Stranger) -> None:
    before = figures(server)
    mail = message("dave@peer.test", "bob@acme.test", "counted", "Good morning.\n").as_string().replace("\n", "\r\n")
    replies = stranger.smtp(
        "EHLO peer.peer.test", "MAIL FROM:<dave@peer.test>", "RCPT TO:<nobody-here@acme.test>",
        "RCPT TO:<bob@acme.test>", "DATA", mail + "\r\n.",
    )  # fmt: skip
    assert replies[-3].startswith("250") and replies[-1].startswith("250"), replies

    def grown() -> dict[str, float] | None:
        now = figures(server)
        wanted = {
            'mailwright_mail_accepted_total{service="smtp"}',
            'mailwright_mail_deliveries_total{status="sent",transport="lmtp"}',
            'mailwright_mail_refused_total{by="postfix",reply="5",service="smtp"}',
            'mailwright_mail_delay_seconds_count{transport="lmtp"}',
        }
        return now if all(now.get(name, 0) >= before.get(name, 0) + 1 for name in wanted) else None

    now = wait_until(grown, 30, "the message is counted")
    assert not [name for name in now if "@" in name or "acme" in name]
    assert now['mailwright_source_up{source="queue"}'] == now['mailwright_source_up{source="certificates"}'] == 1
    server.discard("bob@acme.test", "counted")


@pytest.fixture
def blocklists(lab: Lab) -> Iterator[None]:
    """Beside the lab's bl.lab.test, which has its test entry alone: two that list the host, and one that lists all."""
    tsig = json.loads((lab.state / "lab.json").read_text())["tsig"]
    host = ".".join(reversed(lab.address("mx1").split(".")))
    records = [
        dns.rrset.from_text(f"{name}.lab.test.", 60, "IN", kind, value)
        for name, kind, value in (
            ("2.0.0.127.listing", "A", "127.0.0.2"),
            (f"{host}.listing", "A", "127.0.0.3"),
            (f"{host}.listing", "TXT", '"sends spam"'),
            ("*.everything", "A", "127.0.0.2"),
            ("acme.test.domains", "A", "127.0.1.2"),
            ("globex.test.domains", "A", "127.0.1.2"),
        )
    ]
    forget = "unbound-control -q flush_zone lab.test"
    zones.send(lab.address("ns1"), tsig, "lab.test.", records)
    try:
        lab.ssh("mx1", forget)
        yield
    finally:
        zones.send(lab.address("ns1"), tsig, "lab.test.", records, delete=True)
        lab.ssh("mx1", forget)


@pytest.mark.usefixtures("inventory", "blocklists")
def test_what_blocklists_say_is_a_figure_and_the_api_s_answer(lab: Lab, server: Server) -> None:
    server.run("systemctl start mailwright-blocklists.service")
    now = figures(server)
    names = {"bl": 0, "listing": 1, "everything": 0, "domains": 2}
    assert {name: now[f'mailwright_blocklist_listed{{list="{name}.lab.test"}}'] for name in names} == names
    assert [name for name in names if now[f'mailwright_blocklist_usable{{list="{name}.lab.test"}}'] == 0] == [
        "everything"
    ]
    with temporary_keys(lab, server.name, {"name": "rates", "domain": "acme.test", "scopes": ["statistics.read"]}) as (
        key,
    ):
        answer = Api(lab, server.name, key).ask("GET", "/deliverability/blocklists").body
    address = lab.address("mx1")
    assert answer["asked_at"] is not None
    assert [(one["list"], one["subject"], one["listed"]) for one in answer["data"]] == [
        ("bl.lab.test", address, False),
        # its own domain alone
        ("domains.lab.test", "acme.test", True),
        ("everything.lab.test", address, None),
        ("listing.lab.test", address, True),
    ]
    assert answer["data"][-1]["detail"] == "127.0.0.3 sends spam"
    # what is hours old says nothing about today
    server.run("""sed -i 's/"at": [0-9]*/"at": 1/' /var/lib/mailwright-blocklists/answers.json""")
    assert not [name for name in figures(server) if "blocklist" in name]


@pytest.mark.usefixtures("inventory")
def test_the_queue_and_the_certificate_are_the_real_ones(server: Server) -> None:
    server.run("systemctl stop dovecot.service dovecot.socket", check=False)
    try:
        server.run("printf 'Subject: waits\\n\\nx\\n' | sendmail -f bob@acme.test alice@acme.test")
        wait_until(lambda: figures(server)['mailwright_queue_messages{queue="deferred"}'] >= 1, 60, "a message waits")
        # 993 is gone with Dovecot: the source says so, and the others go on
        assert figures(server)['mailwright_source_up{source="certificates"}'] == 0
    finally:
        server.run("systemctl start dovecot.service && postqueue -f")
    wait_until(lambda: figures(server)['mailwright_queue_messages{queue="deferred"}'] == 0, 60, "nothing waits")
    end = server.run(
        f"openssl x509 -in /etc/mailwright/tls/{HOSTNAME}/live/fullchain.pem -noout -enddate | cut -d= -f2"
    )
    seconds = float(server.run(f"date -d '{end.strip()}' +%s"))
    assert figures(server)['mailwright_certificate_not_after_seconds{port="993"}'] == seconds
    server.discard("alice@acme.test", "waits")


@pytest.mark.usefixtures("inventory")
def test_prometheus_reads_them_all_and_knows_the_rules(server: Server) -> None:
    wait_until(lambda: len(asked(server, "up == 1")) == len(SOURCES), 90, "every source was read", every=3)
    assert {one["metric"]["job"] for one in asked(server, "up")} == set(SOURCES)
    assert {one["metric"]["instance"] for one in asked(server, "up")} == {HOSTNAME}
    server.run("systemctl start mailwright-blocklists.service")
    # a misspelt name in a rule or in the dashboard would be quiet for ever
    words = (CHECKOUT / f"roles/metrics/templates{RULES}").read_text()
    words += (CHECKOUT / "docs/grafana-dashboard.json").read_text()
    wanted = set(re.findall(r"\b((?:mailwright|node|rspamd|dovecot|pg)_\w+)(?=\{)", words))
    # Dovecot names what has happened since it started
    server.subjects("bob@acme.test", "anything")
    wait_until(lambda: all(asked(server, f"count({name})") for name in wanted), 90, f"figures {wanted}", every=3)


@pytest.mark.usefixtures("inventory")
def test_the_rules_fire_when_they_should(server: Server) -> None:
    tests = (CHECKOUT / "tests/integration/alerts.yml").read_text().replace("[alerts.yml]", f"[{RULES}]")
    said = server.run("cat >/tmp/alerts-test.yml && promtool test rules /tmp/alerts-test.yml 2>&1", data=tests)
    assert "SUCCESS" in said


def test_a_second_apply_changes_nothing(lab: Lab, inventory: Path) -> None:
    done = lab.playbook("-i", str(inventory), "mailwright.server.site")
    assert recap(done, "mx1")["changed"] == 0, done.stdout[-3000:]


def test_switched_off_nothing_is_left(lab: Lab, server: Server, inventory: Path) -> None:
    assert inventory.exists()
    done = lab.playbook("mailwright.server.site")
    assert recap(done, "mx1")["failed"] == 0, done.stdout[-3000:]
    for unit in UNITS:
        assert server.show(f"{unit}.service", "ActiveState") == "inactive", unit
    assert server.show("mailwright-blocklists.timer", "ActiveState") == "inactive"
    assert page(server, "mail")[0] == 404
    assert recap(lab.playbook("mailwright.server.site"), "mx1")["changed"] == 0
