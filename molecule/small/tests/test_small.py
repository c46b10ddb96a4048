# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small host: nothing of ClamAV, a certificate of its own, an internationalised domain."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.mailwright.server.molecule.resources.server import Server

DOMAIN = "xn--bcher-kva.test"
GRETE = (f"grete@{DOMAIN}", "margarete liest leise")


@pytest.mark.parametrize("unit", ["clamav-daemon.service", "clamav-daemon.socket", "clamav-freshclam.service"])
def test_no_scanner(host: Any, unit: str) -> None:
    answer = host.run(f"systemctl is-active {unit}")
    assert answer.stdout.strip() == "inactive"
    assert not host.file("/etc/clamav").exists
    assert host.run("pgrep -x 'clamd|freshclam'").rc == 1


def test_the_filter_does_not_ask_for_a_scanner(host: Any) -> None:
    assert not host.file("/etc/rspamd/local.d/antivirus.conf").exists


def test_mail_from_the_host_arrives(server: Server) -> None:
    for recipient in (GRETE[0], f"lesen@{DOMAIN}", f"postmaster@{DOMAIN}", "root"):
        assert b"Hello." in server.arrived(*GRETE, server.inject(recipient))


def test_the_certificate_is_the_host_s_own(server: Server, host: Any) -> None:
    live = f"/etc/mailwright/tls/{server.hostname}/live/fullchain.pem"
    names = host.check_output(f"openssl x509 -noout -subject -issuer -nameopt RFC2253 -in {live}").splitlines()
    subject, issuer = (name.partition("=")[2] for name in names)
    assert subject == issuer
    with server.tls(443, server.trust()) as connection:
        certificate = connection.getpeercert()
    wanted = {f"mail.{DOMAIN}", f"autoconfig.{DOMAIN}", f"autodiscover.{DOMAIN}"}
    assert certificate and set(certificate["subjectAltName"]) == {("DNS", name) for name in wanted}


def test_the_records_name_the_address_that_the_host_has(server: Server, host: Any) -> None:
    records = host.file("/etc/mailwright/dns/records.zone").content_string.splitlines()
    assert [line.split()[4] for line in records if line.split()[:1] == [f"mail.{DOMAIN}."] and " A " in line] == [
        server.address
    ]
    assert not [line for line in records if " AAAA " in line]
