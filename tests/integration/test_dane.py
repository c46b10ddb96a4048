# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""DANE: peer verifies mx1 by its TLSA record, and changes of the key leave no gap, whatever goes wrong meanwhile.

What a sender elsewhere sees is asked from peer: by Postfix's own posttls-finger, and by a resolver that validates and
caches. The TTLs are real. The tests build on each other, in order.
"""

from __future__ import annotations

import hashlib
import json
import re
import smtplib
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rdatatype
import dns.rrset
import pytest
import yaml
import zones
from ansible_collections.mailwright.server.tests.integration.throwaway import recap
from connection import Lab, wait_until
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

HOSTNAME = "mx1.acme.test"
TTL = 4
NEW_KEY = '{"rotate_tls_new_key": true}'
VALIDATED = "mount --bind /etc/unbound/resolv.conf /etc/resolv.conf && exec "


def forget(lab: Lab, name: str = ".") -> None:
    lab.ssh("peer", f"unbound-control flush_zone {name}", check=False)


def finger(lab: Lab, name: str) -> str:
    """What posttls-finger says of a host or a domain, with DANE."""
    command = f"posttls-finger -t30 -T180 -c -L verbose,summary -l dane {name}"
    return lab.ssh("peer", f"unshare -m sh -c '{VALIDATED}{command}' 2>&1", check=False)


def tlsa(server: str, name: str, *, resolver: bool = False) -> tuple[set[str], bool]:
    """The digests that a server has, and whether it calls them secure."""
    flags = dns.flags.RD | dns.flags.AD if resolver else 0
    answer = dns.query.udp(dns.message.make_query(f"_25._tcp.{name}", "TLSA", flags=flags), server, 5)
    found = {
        record.to_text().removeprefix("3 1 1 ")
        for rrset in answer.answer
        if rrset.rdtype == dns.rdatatype.TLSA
        for record in rrset
    }
    return found, bool(answer.flags & dns.flags.AD)


def served(address: str) -> str:
    """The digest of the key that port 25 hands out."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with smtplib.SMTP(address, 25, "client.example", timeout=20) as connection:
        connection.starttls(context=context)
        der = connection.sock.getpeercert(binary_form=True)  # type: ignore[union-attr]
    key = x509.load_der_x509_certificate(der).public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


# mx1, as the lab has it


def test_peer_verifies_mx1(lab: Lab, lab_resolver: str) -> None:
    forget(lab)
    records, secure = tlsa(lab_resolver, "mx1.acme.test", resolver=True)
    assert secure and records == {served(lab.address("mx1"))}
    for name in ("mx1.acme.test", "acme.test", "globex.test"):
        said = finger(lab, name)
        assert "Verified TLS connection established to mx1.acme.test" in said, said


@pytest.mark.usefixtures("lab_resolver")
def test_peer_would_notice_another_key(lab: Lab) -> None:
    tsig = json.loads((lab.state / "lab.json").read_text())["tsig"]
    records, _secure = tlsa(lab.address("ns1"), "mx1.acme.test")
    name = "_25._tcp.mx1.acme.test. 3600 IN TLSA 3 1 1"
    try:
        zones.publish_text(lab.address("ns1"), tsig, f"{name} {'00' * 32}")
        forget(lab)
        said = finger(lab, "mx1.acme.test")
        assert "Verified" not in said and "established" in said, said
    finally:
        zones.publish_text(lab.address("ns1"), tsig, "\n".join(f"{name} {digest}" for digest in records))
        forget(lab)


# Changes of the key, with TTLs of seconds


class Changing:
    """mx1 with other settings for its certificate, published as the lab does it."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        self.path = directory / "inventory.yml"
        self.files: dict[str, Any] = self.read(lab.state / "inventory.yml")["mailservers"]["vars"]["mail_tls"]
        # by DNS, since Pebble's resolver does not follow aliases from one zone into another
        acme = {
            "directory": lab.env["LAB_ACME_DIRECTORY"], "ca_file": lab.env["LAB_CA"], "caa": "ca.test",
            "challenge": "dns-01",
            "dns": {"server": lab.address("ns1"), "key_name": "acme", "key_secret": lab.env["LAB_ACME_TSIG"]},
        }  # fmt: skip
        self.acme = {"acme": acme, "dane": True}
        self.write(self.files)

    def read(self, path: Path) -> Any:
        return yaml.safe_load(path.read_text())

    def write(self, tls: dict[str, Any], **dns: Any) -> None:
        """The lab's inventory with this mail_tls, and with these settings of the DNS provider."""
        inventory = self.read(self.lab.state / "inventory.yml")
        inventory["mailservers"]["vars"] |= {"mail_tls": tls, "certificates_tlsa_ttl": TTL, "acme_dns_propagation": 2}
        settings = inventory["mailservers"]["hosts"]["mx1"]["mail_dns"]
        settings["ledger"] = str(self.lab.state / "dns-ledger.json")
        settings["providers"]["ns1"] |= dns
        self.path.write_text(yaml.safe_dump(inventory))

    def play(self, name: str, *arguments: str) -> dict[str, int]:
        """Run a playbook; the host's line of the recap."""
        done = self.lab.playbook("-i", str(self.path), f"mailwright.server.{name}", *arguments)
        self.said = done.stdout
        return recap(done, "mx1")

    def run(self, command: str, *, check: bool = True, data: str | None = None) -> str:
        return self.lab.ssh("mx1", command, check=check, data=data)

    @property
    def served(self) -> str:
        return served(self.lab.address("mx1"))

    @property
    def published(self) -> set[str]:
        return tlsa(self.lab.address("ns1"), HOSTNAME)[0]

    def finish(self, old: str) -> str:
        """Run rotate_tls until the change of the key is done; the new key."""

        def done() -> str | None:
            assert self.play("rotate_tls")["failed"] == 0, self.said[-3000:]
            records = self.published
            return next(iter(records)) if len(records) == 1 and old not in records else None

        return wait_until(done, 300, "the old record is gone", every=TTL)


@pytest.fixture(scope="module")
def host(lab: Lab, lab_resolver: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Changing]:
    assert lab_resolver
    host = Changing(lab, tmp_path_factory.mktemp("dane"))
    assert host.play("site")["failed"] == 0, host.said[-3000:]
    # what is cached has the TTL from before
    forget(lab)
    lab.ssh("mx1", "unbound-control flush_zone .")
    yield host
    done = lab.playbook("mailwright.server.site")
    assert recap(done, "mx1")["failed"] == 0, done.stdout[-3000:]
    lab.ssh("mx1", "apt-get -qy purge certbot python3-certbot && rm -rf /etc/letsencrypt /var/log/letsencrypt")
    assert recap(lab.playbook("mailwright.server.site"), "mx1")["changed"] == 0


class Probe:
    """Every 100 ms what a sender meets: the records of a cache and of the name server, and then a handshake."""

    def __init__(self, host: Changing) -> None:
        self.lab, self.address = host.lab, host.lab.address("mx1")
        self.failures: list[str] = []
        self.keys: list[str] = []
        self.count = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        following = time.monotonic()
        while not self._end.is_set():
            try:
                self.look()
            except (OSError, smtplib.SMTPException, dns.exception.DNSException) as error:
                self.failures.append(repr(error))
            following = max(following + 0.1, time.monotonic())
            self._end.wait(max(0.0, following - time.monotonic()))

    def look(self) -> None:
        cached, secure = tlsa(self.lab.address("peer"), HOSTNAME, resolver=True)
        current, _secure = tlsa(self.lab.address("ns1"), HOSTNAME)
        key = served(self.address)
        if not self.keys or self.keys[-1] != key:
            self.keys.append(key)
        self.count += 1
        # A sender asks first. What the name server has after the handshake is another matter: a session that began just
        # before the change may outlast the old record.
        for who, records in (("a cache", cached), ("the name server", current)):
            if key not in records:
                self.failures.append(f"{key[:8]} is not in what {who} has: {sorted(one[:8] for one in records)}")
        if not secure:
            self.failures.append("a cache calls it insecure")

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(self, *_reason: object) -> None:
        self._end.set()
        self._thread.join()
        print(f"  {self.count} handshakes with TLSA look-ups, {len(self.failures)} failed")


def test_a_certificate_by_acme_in_place_of_files_waits_for_its_record(host: Changing) -> None:
    old = host.served
    host.write(host.acme)
    with Probe(host) as probe:
        done = host.play("site")
        assert done["failed"] == 0, host.said[-3000:]
        # the certificate is there, and its record; it is not in use
        both = host.published
        assert len(both) == 2 and old in both and host.served == old
        new = host.finish(old)
    assert probe.failures == []
    assert probe.keys == [old, new] and both == {old, new}
    assert "Verified TLS connection established to mx1.acme.test" in finger(host.lab, "acme.test")
    # the ACME server's account, in a CAA record
    (caa,) = dns.query.udp(dns.message.make_query(HOSTNAME, "CAA"), host.lab.address("ns1"), 5).answer
    account = json.loads(host.run("cat /etc/letsencrypt/accounts/*/dir/*/regr.json"))
    assert caa[0].to_text() == f'0 issue "ca.test; accounturi={account["uri"]}"'
    assert host.play("site")["changed"] == 0
    assert host.play("site", "--check", "--diff")["changed"] == 0
    assert host.play("rotate_tls")["changed"] == 0


def test_a_planned_change_leaves_no_gap(host: Changing) -> None:
    old = host.served
    with Probe(host) as probe:
        time.sleep(1)
        begun = host.play("rotate_tls", "-e", NEW_KEY)
        assert begun["failed"] == 0 and begun["changed"] > 0, host.said[-3000:]
        # the new key is published, not in use
        both = host.published
        assert len(both) == 2 and old in both and host.served == old
        host.play("status", "-v", "-e", f"status_ca_file={host.lab.env['LAB_ACME_CA']}")
        # whether every name server has it is seen by the first run after the publication
        waits = "its certificate waits; next: (seen everywhere|installed by rotate_tls)"
        assert re.search(waits, host.said), host.said[-3000:]
        # asking again is the same wish
        host.play("rotate_tls", "-e", NEW_KEY)
        new = host.finish(old)
        time.sleep(2)
    assert probe.failures == []
    assert probe.count > 50 and probe.keys == [old, new] and both == {old, new}
    assert "Verified TLS connection established to mx1.acme.test" in finger(host.lab, HOSTNAME)
    assert host.play("rotate_tls")["changed"] == 0
    assert host.play("site")["changed"] == 0
    # certbot goes on with the new key
    renewed = host.run(
        "REQUESTS_CA_BUNDLE=/etc/mailwright/acme/ca.pem certbot renew --force-renewal --no-random-sleep-on-renew "
        f"--cert-name {HOSTNAME} 2>&1"
    )
    assert "a new certificate is in use" in renewed
    assert host.served == new


def test_a_name_server_that_refuses_only_delays(host: Changing) -> None:
    old = host.served
    with Probe(host) as probe:
        host.write(host.acme, key_secret="d3Jvbmd3cm9uZ3dyb25nd3Jvbmd3cm9uZ3dyb25nd3Jv")
        assert host.play("rotate_tls", "-e", NEW_KEY)["failed"] == 1
        time.sleep(3 * TTL)
        assert host.play("rotate_tls")["failed"] == 1
        assert host.published == {old} and host.served == old
        host.write(host.acme)
        new = host.finish(old)
    assert probe.failures == []
    assert probe.keys == [old, new]


def test_killed_between_the_switch_and_the_reload(host: Changing) -> None:
    old = host.served
    # the reload of the services kills the module that asks for it, without a chance to clean up
    killer = '#!/bin/sh\n[ "$1" != try-reload-or-restart ] || kill -9 $PPID\nexec /usr/bin/systemctl "$@"\n'
    with Probe(host) as probe:
        assert host.play("rotate_tls", "-e", NEW_KEY)["failed"] == 0
        (new,) = host.published - {old}
        host.run("cat > /usr/local/sbin/systemctl; chmod +x /usr/local/sbin/systemctl", data=killer)
        try:
            wait_until(lambda: host.play("rotate_tls")["failed"] == 1, 120, "the run is killed", every=TTL)
            # the switch is made, not everything may have loaded it; both records are there
            assert host.published == {old, new}
            assert ".unloaded" in host.run(f"ls -A /etc/mailwright/tls/{HOSTNAME}").split()
        finally:
            host.run("rm /usr/local/sbin/systemctl")
        assert host.finish(old) == new
    assert probe.failures == []
    assert probe.keys == [old, new]
    assert host.play("rotate_tls")["changed"] == 0


def test_back_to_files_and_records_that_are_not_wanted_any_more(host: Changing) -> None:
    old = host.served
    host.write(host.files)
    with Probe(host) as probe:
        assert host.play("site")["failed"] == 0
        assert host.served == old and len(host.published) == 2
        new = host.finish(old)
    assert probe.failures == []
    assert probe.keys == [old, new]

    host.write({**host.files, "dane": False})
    assert host.play("site")["failed"] == 0
    assert host.published == set()
    gate = f"ls /etc/mailwright/tls/{HOSTNAME}/tlsa"
    assert host.run(gate, check=False)

    def open_again() -> bool:
        assert host.play("site")["failed"] == 0
        return not host.run(gate, check=False)

    wait_until(open_again, 240, "no cache can have the record", every=TTL)
    assert host.play("site")["changed"] == 0
