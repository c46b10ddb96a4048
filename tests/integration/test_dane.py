# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""DANE: from an empty zone to a domain that peer verifies by TLSA, and a planned change of the key without a gap.

A host of its own gets its certificate from Pebble; its zone is signed and delegated below the lab's root. What a sender
elsewhere sees is asked from peer: Postfix's own posttls-finger, by a resolver that validates and caches.
The tests build on each other, in order.
"""

from __future__ import annotations

import hashlib
import json
import smtplib
import ssl
import threading
import time
from collections.abc import Iterator

import dns.flags
import dns.message
import dns.query
import dns.rdatatype
import dns.rrset
import pytest
import yaml
import zones
from ansible_collections.mailwright.server.tests.integration.throwaway import Target, bare_host, recap
from connection import Lab, wait_until
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from nameservers import Knot

NAME = "mxdane"
ZONE = "dane.test"
HOSTNAME = f"mx.{ZONE}"
RECORD = f"_25._tcp.{HOSTNAME}"
TTL = 4
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


# A host of its own


@pytest.fixture(scope="module")
def host(lab: Lab, lab_resolver: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    assert lab_resolver
    directory = tmp_path_factory.mktemp("dane")
    knot = Knot(lab)
    knot.add({ZONE: ""})
    delegate = f"zone-begin .; zone-set . {ZONE} 3600 NS ns1.lab.test.; zone-commit ."
    lab.ssh("ns1", "; ".join(f"knotc -b {command}" for command in delegate.split("; ")) + f"; lab-chain {ZONE}")
    with bare_host(NAME, directory) as target:
        inventory = yaml.safe_load(target.inventory.read_text())
        variables = inventory["mailservers"]["vars"]
        variables["mail_hostname"] = HOSTNAME
        variables["mail_admin"] = f"postmaster@{ZONE}"
        acme = {"directory": lab.env["LAB_ACME_DIRECTORY"], "ca_file": lab.env["LAB_CA"], "caa": "ca.test"}
        variables["mail_tls"] = {"acme": acme, "dane": True}
        variables["certificates_tlsa_ttl"] = TTL
        variables["mail_domains"] = [
            {"name": ZONE, "mta_sts": "enforce", "mailboxes": [{"name": "postmaster", "password": lab.password}]}
        ]
        del variables["mail_domains__globex"]
        # what has nothing to do with it only takes time
        variables["mail_features"] = dict.fromkeys(("clamav", "webmail", "fulltext", "pop3", "mta_sts_outbound"), False)
        variables["mail_dns"] = {
            "providers": {"ns1": knot.settings}, "zones": {ZONE: "ns1"}, "resolvers": [lab.address("ns1")],
            "ledger": str(directory / "ledger.json"),
        }  # fmt: skip
        target.inventory.write_text(yaml.safe_dump(inventory))
        try:
            yield target
        finally:
            undo = f"zone-begin .; zone-unset . {ZONE}; zone-commit ."
            lab.ssh("ns1", "; ".join(f"knotc -b {command}" for command in undo.split("; ")))
            knot.remove([ZONE])


def published(host: Target) -> set[str]:
    return tlsa(host.lab.address("ns1"), HOSTNAME)[0]


def rotate(host: Target, *arguments: str) -> dict[str, int]:
    return recap(host.playbook("mailwright.server.rotate_tls", *arguments), host.name)


def test_from_an_empty_zone_to_a_verified_host_in_one_apply(host: Target) -> None:
    planned = host.site("--check", "--diff")
    assert recap(planned, host.name)["failed"] == 0
    assert published(host) == set()
    done = host.site()
    assert recap(done, host.name)["failed"] == 0, done.stdout[-4000:]
    key = served(host.lab.address(NAME))
    assert published(host) == {key}
    assert tlsa(host.lab.address("peer"), HOSTNAME, resolver=True) == ({key}, True)
    query = dns.message.make_query(HOSTNAME, "CAA")
    (caa,) = dns.query.udp(query, host.lab.address("ns1"), 5).answer
    account = host.ssh("cat /etc/letsencrypt/accounts/*/dir/*/regr.json")
    assert caa[0].to_text() == f'0 issue "ca.test; accounturi={json.loads(account)["uri"]}"'
    for name in (HOSTNAME, ZONE):
        said = finger(host.lab, name)
        assert f"Verified TLS connection established to {HOSTNAME}" in said, said
    assert recap(host.site(), host.name)["changed"] == 0
    assert recap(host.site("--check", "--diff"), host.name)["changed"] == 0
    assert rotate(host)["changed"] == 0


class Probe:
    """Every 100 ms what a sender meets: the records of the name server and of a cache, and a handshake in between."""

    def __init__(self, host: Target) -> None:
        self.lab, self.address = host.lab, host.lab.address(host.name)
        self.failures: list[str] = []
        self.keys: list[str] = []
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
        before, _secure = tlsa(self.lab.address("ns1"), HOSTNAME)
        key = served(self.address)
        after, _secure = tlsa(self.lab.address("ns1"), HOSTNAME)
        self.keys.append(key)
        for who, records in (("a cache", cached), ("the name server", before), ("the name server then", after)):
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


def finish(host: Target, old: str) -> str:
    """Run until the change of the key is done; the new key."""

    def done() -> str | None:
        assert rotate(host)["failed"] == 0
        return next(iter(published(host))) if len(published(host)) == 1 and old not in published(host) else None

    return wait_until(done, 240, "the old record is gone", every=TTL)


def test_a_planned_change_leaves_no_gap(host: Target) -> None:
    old = served(host.lab.address(NAME))
    with Probe(host) as probe:
        time.sleep(1)
        begun = rotate(host, "-e", '{"rotate_tls_new_key": true}')
        assert begun["failed"] == 0 and begun["changed"] > 0
        # the new key is published, not in use
        both = published(host)
        assert len(both) == 2 and old in both and served(host.lab.address(NAME)) == old
        report = host.playbook("mailwright.server.status", "-v", "-e", f"status_ca_file={host.lab.env['LAB_ACME_CA']}")
        assert "its certificate waits; next: installed by rotate_tls" in report.stdout, report.stdout[-3000:]
        # asking again is the same wish
        rotate(host, "-e", '{"rotate_tls_new_key": true}')
        new = finish(host, old)
        time.sleep(2)
    print(f"  {len(probe.keys)} handshakes with TLSA look-ups, {len(probe.failures)} failed")
    assert probe.failures == []
    assert len(probe.keys) > 100 and set(probe.keys) == {old, new}
    assert served(host.lab.address(NAME)) == new and {new} == both - {old}
    assert f"Verified TLS connection established to {HOSTNAME}" in finger(host.lab, HOSTNAME)
    assert rotate(host)["changed"] == 0
    assert recap(host.site(), host.name)["changed"] == 0
    # certbot goes on with the new key
    renewed = host.ssh(
        "REQUESTS_CA_BUNDLE=/etc/mailwright/acme/ca.pem certbot renew --force-renewal --no-random-sleep-on-renew "
        f"--cert-name {HOSTNAME} 2>&1"
    )
    assert "a new certificate is in use" in renewed
    assert served(host.lab.address(NAME)) == new


def test_a_name_server_that_refuses_only_delays(host: Target) -> None:
    old = served(host.lab.address(NAME))
    right = host.inventory.read_text()
    inventory = yaml.safe_load(right)
    provider = inventory["mailservers"]["vars"]["mail_dns"]["providers"]["ns1"]
    provider["key_secret"] = "d3Jvbmd3cm9uZ3dyb25nd3Jvbmd3cm9uZ3dyb25nd3Jv"
    with Probe(host) as probe:
        host.inventory.write_text(yaml.safe_dump(inventory))
        try:
            assert rotate(host, "-e", '{"rotate_tls_new_key": true}')["failed"] == 1
            time.sleep(3 * TTL)
            assert rotate(host)["failed"] == 1
        finally:
            host.inventory.write_text(right)
        assert published(host) == {old} and served(host.lab.address(NAME)) == old
        new = finish(host, old)
    assert probe.failures == []
    assert set(probe.keys) == {old, new}


def test_killed_between_the_switch_and_the_reload(host: Target) -> None:
    old = served(host.lab.address(NAME))
    # the reload of the services kills the module that asks for it, without a chance to clean up
    killer = '#!/bin/sh\n[ "$1" != try-reload-or-restart ] || kill -9 $PPID\nexec /usr/bin/systemctl "$@"\n'
    with Probe(host) as probe:
        assert rotate(host, "-e", '{"rotate_tls_new_key": true}')["failed"] == 0
        (new,) = published(host) - {old}
        host.ssh("cat > /usr/local/sbin/systemctl; chmod +x /usr/local/sbin/systemctl", data=killer)
        try:
            wait_until(lambda: rotate(host)["failed"] == 1, 120, "the run is killed", every=TTL)
            # the switch is made, nothing has loaded it; both records are there
            assert host.ssh(f"readlink /etc/mailwright/tls/{HOSTNAME}/live") and published(host) == {old, new}
            assert host.ssh(f"ls -A /etc/mailwright/tls/{HOSTNAME}").split().count(".unloaded") == 1
            assert served(host.lab.address(NAME)) in (old, new)
        finally:
            host.ssh("rm /usr/local/sbin/systemctl")
        assert finish(host, old) == new
    assert probe.failures == []
    assert served(host.lab.address(NAME)) == new
    assert rotate(host)["changed"] == 0


def test_records_that_are_not_wanted_any_more_go(host: Target) -> None:
    inventory = yaml.safe_load(host.inventory.read_text())
    inventory["mailservers"]["vars"]["mail_tls"]["dane"] = False
    host.inventory.write_text(yaml.safe_dump(inventory))
    assert recap(host.site(), host.name)["failed"] == 0
    assert published(host) == set()
    gate = f"test -e /etc/mailwright/tls/{HOSTNAME}/tlsa && echo there"
    assert host.ssh(gate, check=False).strip() == "there"

    def gone() -> bool:
        assert recap(host.site(), host.name)["failed"] == 0
        return not host.ssh(gate, check=False).strip()

    wait_until(gone, 180, "no cache can have the record", every=TTL)
    assert recap(host.site(), host.name)["changed"] == 0
