# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All features on: the scanner works, mail arrives, a certificate that was given is used."""

from __future__ import annotations

import poplib
import smtplib
from typing import Any

import pytest
from ansible_collections.mailwright.server.molecule.resources.server import Server
from connection import message

ALICE = ("alice@acme.test", "alice wrote a scenario")
BOB = ("bob@acme.test", "bob checked the scenario")
CAROL = ("carol@globex.test", "carol is a customer")


@pytest.mark.parametrize("unit", ["clamav-daemon.service", "clamav-freshclam.service"])
def test_scanner_runs(host: Any, unit: str) -> None:
    assert host.service(unit).is_running
    assert host.service(unit).is_enabled


@pytest.mark.parametrize(
    ("recipient", "boxes"),
    [
        ("carol@globex.test", [CAROL]),
        ("sales@acme.test", [ALICE, BOB]),
        ("bob+tag@acme.test", [BOB]),
        ("nobody-yet@acme.test", [ALICE]),
        ("postmaster@globex.test", [ALICE]),
        ("root", [ALICE]),
    ],
)
def test_mail_from_the_host_arrives(server: Server, recipient: str, boxes: list[tuple[str, str]]) -> None:
    mail = server.inject(recipient)
    for box in boxes:
        assert b"Hello." in server.arrived(*box, mail)


def test_mail_is_read_by_pop3(server: Server) -> None:
    mail = server.inject(CAROL[0])
    server.arrived(*CAROL, mail)
    context = server.trust()
    context.check_hostname = False
    box = poplib.POP3_SSL(server.address, 995, context=context, timeout=30)
    box.user(CAROL[0])
    box.pass_(CAROL[1])
    headers = [b"\n".join(box.top(number + 1, 0)[1]) for number in range(box.stat()[0])]
    box.quit()
    assert [mail["Subject"].encode() in text for text in headers].count(True) == 1


def test_a_virus_is_refused(server: Server) -> None:
    mail = message(ALICE[0], BOB[0])
    # EICAR's test file, in two parts so that no scanner stops at this one
    sample = "X5O!P%@AP[4\\PZX54(P^)7CC)7}" + "$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
    mail.add_attachment(sample.encode(), maintype="application", subtype="octet-stream", filename="sample.com")
    context = server.trust()
    context.check_hostname = False
    with smtplib.SMTP_SSL(server.address, 465, "client.example", context=context, timeout=60) as submission:
        submission.login(*ALICE)
        with pytest.raises(smtplib.SMTPDataError) as refused:
            submission.send_message(mail)
    assert refused.value.smtp_code == 554
    assert b"virus" in refused.value.smtp_error.lower()


def test_the_records_name_the_given_address(server: Server, host: Any) -> None:
    records = host.file("/etc/mailwright/dns/records.zone").content_string.splitlines()
    assert [line.split()[4] for line in records if line.split()[:1] == ["mx1.acme.test."] and " A " in line] == [
        server.address
    ]
