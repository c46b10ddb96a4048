# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The status playbook on the lab's mail server: healthy, with the filter stopped, with a DKIM record revoked.

It runs against mx1 only: the lab's DNS names no other host.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.rdatatype
import dns.rrset
import pytest
import zones
from ansible_collections.mailwright.server.tests.integration.sending import sql
from connection import Lab, wait_until

HOST = "mx1"
GROUPS = {"services", "ports", "certificates", "dns", "dkim", "queue", "system", "delivery", "reports"}
# Alone on the lab's machine it takes 3; the machine may have much else to do.
LIMIT_SECONDS = 20.0


class Status:
    """Runs of the playbook, with the lab's own certificate authority as a trusted one unless told otherwise."""

    def __init__(self, lab: Lab, path: Path) -> None:
        self.lab = lab
        self.path = path

    def run(self, *arguments: str, trusting: bool = True) -> subprocess.CompletedProcess[str]:
        trusted = ["-e", f"status_ca_file={self.lab.env['LAB_CA']}"] if trusting else []
        self.path.unlink(missing_ok=True)
        return self.lab.playbook("mailwright.server.status", "-e", f"status_file={self.path}", *trusted, *arguments)

    def host(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.path.read_text())["hosts"][HOST]
        return found

    def not_ok(self) -> dict[tuple[str, str], dict[str, Any]]:
        return {(r["group"], r["name"]): r for r in self.host()["results"] if r["status"] != "ok"}


@pytest.fixture
def status(lab: Lab, tmp_path: Path) -> Status:
    return Status(lab, tmp_path / "status.json")


def probe_mail(lab: Lab) -> str:
    """What the report's message has left behind, in the mailbox and in the queue."""
    mailbox = lab.ssh(HOST, "doveadm fetch -u status-probe@mailwright.invalid uid mailbox '*' ALL")
    return (mailbox + lab.ssh(HOST, "postqueue -j | grep status-probe@", check=False)).strip()


@pytest.mark.parametrize("mode", [(), ("--check", "--diff")])
def test_a_healthy_host(lab: Lab, status: Status, mode: tuple[str, ...]) -> None:
    start = time.monotonic()
    done = status.run(*mode)
    seconds = time.monotonic() - start
    print(f"  {seconds:5.1f} s  status")
    assert done.returncode == 0, done.stdout
    assert "changed=0" in done.stdout
    assert status.not_ok() == {}
    assert {result["group"] for result in status.host()["results"]} == GROUPS
    assert status.path.stat().st_mode & 0o777 == 0o600
    # what people read
    assert re.search(r"^mx1 \(mx1\.acme\.test\): healthy \(\d+ ok in [\d.]+ s\)$", done.stdout, re.MULTILINE)
    for group in GROUPS:
        assert re.search(rf"^  ok    {group} ", done.stdout, re.MULTILINE)
    assert probe_mail(lab) == ""
    assert seconds < LIMIT_SECONDS


def test_one_json_document_on_standard_output_and_a_private_ca_that_only_warns(status: Status) -> None:
    done = status.run("-e", "status_format=json", trusting=False)
    assert done.returncode == 0, done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert [json.loads(line) for line in lines] == [json.loads(status.path.read_text())]
    found = status.not_ok()
    assert {group for group, _name in found} == {"certificates"}
    assert {result["status"] for result in found.values()} == {"warn"}
    assert all("chain not verified" in result["summary"] for result in found.values())
    assert json.loads(lines[0])["status"] == "warn"


@pytest.fixture
def without_filter(lab: Lab) -> Iterator[None]:
    lab.ssh(HOST, "systemctl stop rspamd")
    yield
    lab.ssh(HOST, "systemctl start rspamd")
    wait_until(lambda: lab.ssh(HOST, "ss -Hlx src /run/rspamd/milter.sock"), 60, "rspamd listens")


@pytest.mark.usefixtures("without_filter")
def test_a_stopped_filter_is_named_and_mail_waits(lab: Lab, status: Status) -> None:
    done = status.run()
    assert done.returncode != 0
    found = status.not_ok()
    assert set(found) == {("services", "rspamd"), ("delivery", "message")}
    assert re.search(r"^  FAIL  services +rspamd: (inactive|failed)", done.stdout, re.MULTILINE)
    assert found["delivery", "message"]["summary"].startswith("not accepted on port 25: 451 4.7.1")
    assert probe_mail(lab) == ""


@pytest.fixture
def revoked(lab: Lab) -> Iterator[tuple[str, str]]:
    """A DKIM record taken out of the DNS: its name, and its line among the records to publish."""
    tsig = json.loads((lab.state / "lab.json").read_text())["tsig"]
    line = lab.ssh(HOST, "grep -h '_domainkey.globex.test. .*k=rsa' /etc/mailwright/dns/records.zone").strip()
    name, ttl, _class, _type, value = line.split(None, 4)
    record = dns.rrset.from_text(name, int(ttl), "IN", dns.rdatatype.TXT, value)
    # the whole zone: from its cached NSEC records the resolver concludes by itself that a name is not there (RFC 8198)
    forget = "unbound-control -q flush_zone globex.test"
    try:
        zones.send(lab.address("ns1"), tsig, "globex.test.", [record], delete=True)
        lab.ssh(HOST, forget)
        yield name, line
    finally:
        zones.publish_text(lab.address("ns1"), tsig, line)
        lab.ssh(HOST, forget)


def test_a_revoked_dkim_record_is_named_and_printed_as_to_publish(status: Status, revoked: tuple[str, str]) -> None:
    name, line = revoked
    done = status.run()
    assert done.returncode != 0
    found = status.not_ok()
    assert set(found) == {("dns", "globex.test")}
    result = found["dns", "globex.test"]
    assert result["summary"] == f"{name} TXT (v=DKIM1): missing"
    assert result["data"]["publish"] == [line]
    assert f"publish:\n{'':22}{line}\n" in done.stdout


def free_address(lab: Lab) -> str:
    """One of the lab's network that nobody has."""
    head, _dot, tail = lab.address("ns1").rpartition(".")
    return next(f"{head}.{int(tail) + n}" for n in range(20, 28) if f"{head}.{int(tail) + n}" not in lab.env.values())


@pytest.fixture
def blocklists(lab: Lab) -> Iterator[dict[str, list[str]]]:
    """Lists beside the lab's bl.lab.test, which has its test entry alone: one of each kind of trouble."""
    tsig = json.loads((lab.state / "lab.json").read_text())["tsig"]
    host = ".".join(reversed(lab.address(HOST).split(".")))
    records = [
        dns.rrset.from_text(f"{name}.lab.test.", 60, "IN", kind, value)
        for name, kind, value in (
            ("2.0.0.127.listing", "A", "127.0.0.2"),
            (f"{host}.listing", "A", "127.0.0.3"),
            (f"{host}.listing", "TXT", '"sends spam"'),
            # what Spamhaus says to a public resolver, whatever is asked for
            ("*.refusing", "A", "127.255.255.254"),
            # a list that was given up, and its name sold
            ("*.sold", "A", "203.0.113.80"),
            ("*.everything", "A", "127.0.0.2"),
            ("silent", "NS", "ns.silent.lab.test."),
            ("ns.silent", "A", free_address(lab)),
            ("globex.test.domains", "A", "127.0.1.2"),
        )
    ]
    # what was asked for before is known for some time
    forget = "unbound-control -q flush_zone lab.test"
    try:
        zones.send(lab.address("ns1"), tsig, "lab.test.", records)
        lab.ssh(HOST, forget)
        asking(lab, "enable")
        yield {
            "addresses": [f"{name}.lab.test" for name in ("bl", "listing", "refusing", "sold", "everything", "silent")],
            "domains": ["domains.lab.test", "refusing.lab.test"],
        }
    finally:
        asking(lab, "disable")
        zones.send(lab.address("ns1"), tsig, "lab.test.", records, delete=True)
        lab.ssh(HOST, forget)


def asking(lab: Lab, switch: str) -> None:
    """The report also wants that the host asks by itself, which an apply would have switched on."""
    lab.ssh(HOST, f"systemctl {switch} --now mailwright-blocklists.timer")


def test_a_listing_is_named_and_what_is_none_is_not(lab: Lab, status: Status, blocklists: dict[str, list[str]]) -> None:
    done = status.run("-e", json.dumps({"mail_blocklists": blocklists}))
    assert done.returncode != 0
    found = status.not_ok()
    assert set(found) == {("reports", "blocklists")}
    result = found["reports", "blocklists"]
    address = lab.address(HOST)
    assert result["data"]["listed"] == [[address, "listing.lab.test"], ["globex.test", "domains.lab.test"]]
    assert (
        f"FAIL  reports       blocklists: {address} is listed by listing.lab.test: 127.0.0.3 sends spam" in done.stdout
    )
    unusable = {line.partition(" ")[0]: line for line in result["detail"][1:]}
    assert set(unusable) == {f"{name}.lab.test" for name in ("refusing", "sold", "everything", "silent")}
    assert "127.255.255.254: it refuses" in unusable["refusing.lab.test"]
    assert "203.0.113.80 is no answer of a blocklist" in unusable["sold.lab.test"]
    assert "it lists everything" in unusable["everything.lab.test"]
    assert result["seconds"] < LIMIT_SECONDS


def test_on_no_list(lab: Lab, status: Status) -> None:
    asking(lab, "enable")
    try:
        done = status.run("-v", "-e", json.dumps({"mail_blocklists": {"addresses": ["bl.lab.test"], "domains": []}}))
    finally:
        asking(lab, "disable")
    assert done.returncode == 0, done.stdout
    assert re.search(r"^  ok    reports +blocklists: 1 on none of 1 lists", done.stdout, re.MULTILINE)


@pytest.fixture
def refused_ramp(lab: Lab) -> Iterator[str]:
    """Where the address stands: on its third day in all, and refused by a provider. The lab itself has no warm-up."""
    address = lab.address(HOST)
    sql(
        lab, HOST,
        "INSERT INTO api.ramp (address, provider, stage, hour, sent_day, paused_until, refused_on) "
        "SELECT *, (now() AT TIME ZONE 'UTC')::date FROM (VALUES "
        f"('{address}', '*', 2, date_trunc('hour', now(), 'UTC'), 42, NULL::timestamptz), "
        f"('{address}', 'slow.example', 0, date_trunc('hour', now(), 'UTC'), 7, now() + interval '50 min')) AS v; "
        "UPDATE api.ramp SET refused_on = NULL WHERE provider = '*'",
    )  # fmt: skip
    yield "slow.example"
    sql(lab, HOST, f"DELETE FROM api.ramp WHERE address = '{address}'")


def test_where_the_warm_up_stands_and_who_refuses(status: Status, refused_ramp: str) -> None:
    done = status.run("-e", json.dumps({"mail_api": {"warmup": {"schedule": [50, 100, 200, 400]}}}))
    assert done.returncode == 0, done.stdout
    found = status.not_ok()
    assert set(found) == {("queue", "warm-up")}
    result = found["queue", "warm-up"]
    assert result["status"] == "warn"
    assert result["summary"] == "step 3 of 4, 42 of 200 sent today"
    (line,) = result["detail"]
    assert re.fullmatch(
        rf"{refused_ramp}: step 1 of 4, 7 of 50 sent today, refused this address on \d{{4}}-\d\d-\d\d: 2 steps back, "
        r"nothing is sent until \d\d:\d\d UTC",
        line,
    )
    assert result["data"]["*"] == {"step": 3, "day_cap": 200, "sent_today": 42, "waiting": 0, "refused_on": None}


def test_hosts_that_cannot_be_probed_are_in_the_report(lab: Lab, status: Status, tmp_path: Path) -> None:
    """An address without a host, and a mistake in the inventory, beside a healthy host."""
    silent = free_address(lab)
    more = tmp_path / "more.yml"
    more.write_text(
        "mailservers:\n  hosts:\n"
        f"    silent: {{ansible_host: {silent}, mail_addresses: [{silent}], ansible_ssh_timeout: 2}}\n"
        "    mistaken: {mail_admin: nobody, mail_addresses: [192.0.2.1]}\n"
    )
    done = status.run("-i", str(lab.state / "inventory.yml"), "-i", str(more))
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    hosts = json.loads(status.path.read_text())["hosts"]
    assert {name: part["status"] for name, part in hosts.items()} == {HOST: "ok", "silent": "fail", "mistaken": "fail"}
    assert hosts["silent"]["error"].startswith("cannot be reached")
    assert "mail_admin" in hosts["mistaken"]["error"]
    assert re.search(r"^mistaken: NOT HEALTHY\n  FAIL  host ", done.stdout, re.MULTILINE)
    assert re.search(rf"^{HOST} .*failed=0 ", done.stdout, re.MULTILINE)


def test_only_this_host_can_send_to_the_probes_mailbox_and_nobody_logs_in(lab: Lab, stranger: Any) -> None:
    address = "status-probe@mailwright.invalid"
    replies = stranger.smtp("EHLO peer.peer.test", "MAIL FROM:<dave@peer.test>", f"RCPT TO:<{address}>")
    assert "Relay access denied" in replies[-1]
    with lab.submission("alice@acme.test") as connection:
        assert connection.mail("alice@acme.test")[0] == 250
        assert connection.rcpt(address)[0] >= 400
    assert "auth succeeded" not in lab.ssh(HOST, f"doveadm auth test {address} x 2>&1", check=False)
    # the lookup that delivers to it finds it
    assert "mailwright.invalid" in lab.ssh(HOST, f"doveadm user {address}")
