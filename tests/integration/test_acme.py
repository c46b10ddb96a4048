# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates by ACME on a host of their own: Pebble issues, and validates for real; renewal, failure and refusal.

The tests build on each other, in order.
"""

from __future__ import annotations

import json
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dns.rrset
import pytest
import yaml
import zones
from ansible_collections.mailwright.server.tests.integration.test_planted_errors import (
    Field,
    Plant,
    plant_and_compare,
    planted_in,
)
from ansible_collections.mailwright.server.tests.integration.throwaway import Target, bare_host, recap
from connection import wait_until

pytestmark = pytest.mark.own_hosts

NAME = "mxacme"
HOSTNAME = "mxacme.acme.test"
STARTTLS, IMPLICIT = (25,), (465, 993, 443)
LIVE = f"/etc/mailwright/tls/{HOSTNAME}/live/fullchain.pem"
RENEW = (
    "REQUESTS_CA_BUNDLE=/etc/mailwright/acme/ca.pem certbot renew --force-renewal --no-random-sleep-on-renew "
    f"--cert-name {HOSTNAME} 2>&1"
)


def set_address(target: Target, *, there: bool) -> None:
    """Publish the host's address in the lab's DNS, or take it away."""
    tsig = json.loads((target.lab.state / "lab.json").read_text())["tsig"]
    line = f"{HOSTNAME}. 300 IN A {target.lab.address(target.name)}"
    if there:
        zones.publish_text(target.lab.address("ns1"), tsig, line)
    else:
        record = dns.rrset.from_text(f"{HOSTNAME}.", 300, "IN", "A", line.split()[-1])
        zones.send(target.lab.address("ns1"), tsig, "acme.test.", [record], delete=True)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with bare_host(NAME, tmp_path_factory.mktemp("acme")) as target:
        inventory = yaml.safe_load(target.inventory.read_text())
        variables = inventory["mailservers"]["vars"]
        variables["mail_hostname"] = HOSTNAME
        acme = {"directory": target.lab.env["LAB_ACME_DIRECTORY"], "ca_file": target.lab.env["LAB_CA"]}
        variables["mail_tls"] = {"acme": acme}
        # the names below the domains are mx1's in the lab's DNS, so Pebble would look for the challenge there
        variables["mail_features"] = {**variables.get("mail_features", {}), "autoconfig": False}
        for name in [name for name in variables if name.startswith("mail_domains")]:
            for domain in variables[name]:
                domain.pop("mta_sts", None)
        target.inventory.write_text(yaml.safe_dump(inventory))
        try:
            yield target
        finally:
            set_address(target, there=False)


def served(target: Target, port: int) -> bytes:
    """The certificate of a port, DER, verified against Pebble's root and the host's name."""
    context = ssl.create_default_context(cafile=target.lab.env["LAB_ACME_CA"])
    address = target.lab.address(target.name)
    if port in STARTTLS:
        with smtplib.SMTP(address, port, "client.example", timeout=20) as connection:
            connection._host = HOSTNAME  # type: ignore[attr-defined]  # what starttls() verifies
            connection.starttls(context=context)
            return connection.sock.getpeercert(binary_form=True) or b""  # type: ignore[union-attr]
    with (
        socket.create_connection((address, port), 20) as plain,
        context.wrap_socket(plain, server_hostname=HOSTNAME) as secured,
    ):
        return secured.getpeercert(binary_form=True) or b""


def spki(target: Target) -> str:
    command = f"openssl x509 -in {LIVE} -pubkey -noout | openssl pkey -pubin -outform DER | sha256sum"
    return target.ssh(command).split()[0]


class Handshakes:
    """A handshake with every port each 100 ms, all verified; what went wrong and how many there were."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.failures: list[str] = []
        self.seen: dict[int, set[bytes]] = {port: set() for port in STARTTLS + IMPLICIT}
        self.count = 0
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(port,)) for port in self.seen]

    def _run(self, port: int) -> None:
        following = time.monotonic()
        while not self._end.is_set():
            try:
                self.seen[port].add(served(self.target, port))
            except (OSError, smtplib.SMTPException) as error:
                self.failures.append(f"{port}: {error!r}")
            self.count += 1
            following += 0.1
            self._end.wait(max(0.0, following - time.monotonic()))

    def __enter__(self) -> Handshakes:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_reason: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


def test_a_name_that_does_not_exist_is_one_clear_error_and_mail_works(host: Target) -> None:
    done = host.site()
    assert recap(done, host.name)["failed"] == 1
    lines = [line for line in done.stdout.splitlines() if "No certificate from" in line and "msg" in line]
    assert len(lines) == 1, done.stdout[-3000:]
    (line,) = lines
    assert f"{HOSTNAME}: " in line
    assert "self-signed certificate that is valid until" in line
    assert "must" in line.partition(HOSTNAME)[2]
    assert host.ssh("systemctl is-active postfix dovecot nginx").split() == ["active"] * 3
    with smtplib.SMTP(host.lab.address(host.name), 25, "client.example", timeout=20) as connection:
        assert connection.starttls(context=ssl._create_unverified_context())[0] == 220


def test_it_is_issued_as_planned_and_the_next_run_changes_nothing(host: Target) -> None:
    set_address(host, there=True)
    planned = host.site("--check", "--diff")
    assert f"+from: {host.lab.env['LAB_ACME_DIRECTORY']}" in planned.stdout
    assert recap(planned, host.name)["changed"] == 1
    done = host.site("--diff")
    assert recap(done, host.name)["changed"] == 1, done.stdout[-3000:]
    assert recap(done, host.name)["failed"] == 0
    for port in STARTTLS + IMPLICIT:
        wait_until(lambda port=port: served(host, port), 10, f"Pebble's certificate on {port}")  # type: ignore[misc]
    assert recap(host.site("--check", "--diff"), host.name)["changed"] == 0
    assert recap(host.site(), host.name)["changed"] == 0
    assert host.ssh("systemctl is-active certbot.timer").strip() == "active"


@planted_in("acme")
def test_a_planted_error_changes_nothing(host: Target, plant: Plant, tmp_path: Path) -> None:
    collections = Path(host.lab.env["ANSIBLE_COLLECTIONS_PATH"])
    field = Field(host, collections / "ansible_collections/mailwright/server", tmp_path)
    # all templates at once: the DNS challenge has one more
    acme = {
        **host.variables["mail_tls"]["acme"],  # type: ignore[index]
        "challenge": "dns-01",
        "dns": {
            "server": host.lab.address("ns1"),
            "key_name": "acme",
            "key_secret": host.lab.env["LAB_ACME_TSIG"],
        },
    }
    plant_and_compare(field, plant, mail_tls={"acme": acme})


def test_renewed_twice_without_a_failed_handshake_and_with_the_same_key(host: Target) -> None:
    before = spki(host)
    with Handshakes(host) as handshakes:
        for _turn in range(2):
            time.sleep(1)  # handshakes between the renewals, not only during them
            said = host.ssh(RENEW)
            assert "a new certificate is in use" in said
        time.sleep(2)
    print(f"  {handshakes.count} handshakes, {len(handshakes.failures)} failed")
    assert handshakes.failures == []
    assert handshakes.count > 100
    # each port did hand out new ones
    assert {port: len(seen) for port, seen in handshakes.seen.items() if len(seen) < 2} == {}
    assert spki(host) == before
    assert recap(host.site(), host.name)["changed"] == 0


def test_a_closed_port_80_keeps_the_certificate(host: Target) -> None:
    before = served(host, 993)
    host.ssh("nft insert rule inet mailwright input tcp dport 80 reject with tcp reset")
    try:
        said = host.ssh(RENEW, check=False)
        assert "Type:   connection" in said
        assert "renew failure(s)" in said
    finally:
        host.ssh("systemctl reload nftables")
    assert served(host, 993) == before


def test_a_key_that_is_not_published_waits(host: Target) -> None:
    tlsa = f"/etc/mailwright/tls/{HOSTNAME}/tlsa"
    before = served(host, 993)
    host.ssh(f"echo 3 1 1 {'00' * 32} > {tlsa}")
    try:
        said = host.ssh(RENEW, check=False)
        assert f"its key has no TLSA record yet, 3 1 1 {spki(host)}" in said
        assert served(host, 993) == before
        assert recap(host.site(), host.name)["changed"] == 0
        assert served(host, 993) == before
        host.ssh(f"echo 3 1 1 {spki(host)} > {tlsa}")
        assert recap(host.site(), host.name)["changed"] == 1
        assert served(host, 993) != before
    finally:
        host.ssh(f"rm -f {tlsa}")
