# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports on DMARC and TLS: taken in from others by mail, and sent to them."""

from __future__ import annotations

import gzip
import json
import random
import shlex
import time
import uuid
from collections.abc import Iterator
from email.message import EmailMessage
from typing import TYPE_CHECKING

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.reports import message as letters
from ansible_collections.mailwright.server.plugins.module_utils.reports.dmarc import DmarcReport
from ansible_collections.mailwright.server.tests.integration.sending import Api, temporary_keys
from connection import Lab, message, wait_until

if TYPE_CHECKING:
    from ansible_collections.mailwright.server.tests.integration.conftest import Server, Stranger, Timer

SPOOL = "/var/spool/mailwright-reports"
SERVICE = "mailwright-reports.service"
DROP_IN = f"/run/systemd/system/{SERVICE}.d/test.conf"


# Keeps messages as keep-report does for Postfix, one after another.
KEEP = """
import json, sys
sys.path.insert(0, "/usr/local/lib/mailwright/python")
from ansible_collections.mailwright.server.plugins.module_utils.reports import intake
for text in json.load(sys.stdin):
    intake.keep(text.encode())
"""
# Times that the intake must have been stopped in the middle of its work.
ENOUGH = 3


def dmarc_report(token: str, domain: str = "acme.test", *dkim: str) -> bytes:
    """One row; `dkim` are the signatures' domains, each verified."""
    results = "".join(f"<dkim><domain>{one}</domain><result>pass</result></dkim>" for one in dkim)
    return gzip.compress(
        f"""<?xml version="1.0"?>
        <feedback>
          <report_metadata>
            <org_name>{token}</org_name><email>dave@peer.test</email><report_id>{uuid.uuid4().hex}</report_id>
            <date_range><begin>1795564800</begin><end>1795651199</end></date_range>
          </report_metadata>
          <policy_published><domain>{domain}</domain><p>quarantine</p></policy_published>
          <record>
            <row>
              <source_ip>203.0.113.66</source_ip><count>7</count>
              <policy_evaluated><disposition>quarantine</disposition><dkim>fail</dkim><spf>fail</spf></policy_evaluated>
            </row>
            <identifiers><header_from>{domain}</header_from></identifiers>
            <auth_results>{results}<spf><domain>spoofer.example</domain><result>none</result></spf></auth_results>
          </record>
        </feedback>
        """.encode()
    )


def tls_report(token: str, *domains: str) -> bytes:
    failure = {
        "result-type": "certificate-host-mismatch", "sending-mta-ip": "203.0.113.7",
        "receiving-mx-hostname": "mx1.acme.test", "failed-session-count": 2,
    }  # fmt: skip
    document = {
        "organization-name": token,
        "date-range": {"start-datetime": "2026-11-25T00:00:00Z", "end-datetime": "2026-11-25T23:59:59Z"},
        "contact-info": "dave@peer.test",
        "report-id": uuid.uuid4().hex,
        "policies": [
            {
                "policy": {"policy-type": "sts", "policy-domain": domain, "mx-host": ["mx1.acme.test"]},
                "summary": {"total-successful-session-count": 8, "total-failure-session-count": 2},
                "failure-details": [failure],
            }
            for domain in domains
        ],
    }
    return gzip.compress(json.dumps(document).encode())


def letter(token: str, data: bytes, recipient: str = "mail-reports@acme.test") -> EmailMessage:
    mail = message("dave@peer.test", recipient, f"Report {token}")
    mail.add_attachment(data, maintype="application", subtype="gzip", filename="report.gz")
    return mail


def waiting(server: Server) -> list[str]:
    return server.run(f"ls {SPOOL}/new").split()


def rows(server: Server, query: str) -> list[str]:
    return server.run("psql -AtX -U mailwright mailwright", data=query).splitlines()


def take(server: Server, count: int) -> None:
    """Wait until so many messages came in, and have them read."""
    wait_until(lambda: len(waiting(server)) >= count, 120, f"{count} messages in the spool")
    server.run(f"systemctl start {SERVICE}")
    assert waiting(server) == []


@pytest.fixture
def intake(server: Server, token: str) -> Iterator[str]:
    """A token for the reporter's name; what came is removed again. The timer rests meanwhile."""
    server.run(f"systemctl stop mailwright-reports.timer {SERVICE}")
    aside = set(server.run(f"ls {SPOOL}/aside").split())
    yield token
    for name in set(server.run(f"ls {SPOOL}/aside").split()) - aside:
        server.run(f"rm {SPOOL}/aside/{name}")
        rows(server, f"DELETE FROM reports.aside WHERE file = '{name}'")
    rows(server, f"DELETE FROM reports.report WHERE reporter = '{token}'")
    server.run(f"rm -f {DROP_IN}; systemctl daemon-reload; systemctl start mailwright-reports.timer")


def test_reports_by_mail_become_rows_once(server: Server, intake: str, timer: Timer) -> None:
    dmarc = dmarc_report(intake)
    for mail in (
        letter(intake, dmarc),
        letter(intake, dmarc, "mail-reports@globex.test"),
        letter(intake, tls_report(intake, "globex.test", "elsewhere.example")),
        letter(intake, dmarc_report(intake, "elsewhere.example")),
        letter(intake, b"\x1f\x8b no gzip file"),
    ):
        server.lab.dave_sends(mail, server.name)
    take(server, 5)
    timer.say("five messages came by SMTP and were read")
    reports = f"SELECT kind, sender_domain, authenticated FROM reports.report WHERE reporter = '{intake}' ORDER BY kind"
    assert rows(server, reports) == ["dmarc|peer.test|t", "tls|peer.test|t"]
    mine = f"JOIN reports.report r ON r.id = report WHERE reporter = '{intake}'"
    dmarc_rows = f"SELECT domain, source_ip, messages, disposition, dkim_aligned, spf_results FROM reports.dmarc {mine}"
    assert rows(server, dmarc_rows) == ["acme.test|203.0.113.66|7|quarantine|f|{spoofer.example=none}"]
    tls_rows = f"SELECT domain, policy_type, successful, failed FROM reports.tls {mine}"
    assert rows(server, tls_rows) == ["globex.test|sts|8|2"]
    reasons = rows(server, "SELECT reason FROM reports.aside WHERE received_at > now() - interval '5 min' ORDER BY 1")
    assert [reason.split(":")[0] for reason in reasons] == [
        "a report on a domain that is not hosted here",
        "no gzip file",
    ]
    assert len(server.run(f"ls {SPOOL}/aside").split()) >= 2


def test_a_report_that_proves_its_sender_takes_the_place_of_one_that_does_not(
    server: Server, stranger: Stranger, intake: str
) -> None:
    genuine = letter(intake, dmarc_report(intake))
    text = genuine.as_string().replace("\n", "\r\n")
    # the same from somewhere else: no signature, and an address that SPF does not allow
    forged = text.replace("From: dave@peer.test", "From: dave@nowhere.lab.test")
    assert forged != text
    answers = stranger.smtp(
        "EHLO peer.peer.test", "MAIL FROM:<>", "RCPT TO:<mail-reports@acme.test>", "DATA", f"{forged}\r\n."
    )
    assert answers[-1].startswith("250"), answers
    take(server, 1)
    query = f"SELECT sender_domain, authenticated FROM reports.report WHERE reporter = '{intake}'"
    assert rows(server, query) == ["nowhere.lab.test|f"]
    assert rows(server, f"SELECT domain FROM reports.dmarc_sources WHERE '{intake}' = ANY (reporters)") == []
    rows(server, f"UPDATE reports.report SET sender_domain = 'peer.test' WHERE reporter = '{intake}'")
    server.lab.dave_sends(genuine, server.name)
    take(server, 1)
    assert rows(server, query) == ["peer.test|t"]
    assert rows(server, f"SELECT domain FROM reports.dmarc_sources WHERE '{intake}' = ANY (reporters)") == ["acme.test"]


def test_the_view_takes_any_number_of_results(server: Server, intake: str) -> None:
    signers: tuple[tuple[str, ...], ...] = ((), ("other.example",), ("other.example", "list.example"))
    for dkim in signers:
        server.lab.dave_sends(letter(intake, dmarc_report(intake, "acme.test", *dkim)), server.name)
    take(server, len(signers))
    (row,) = rows(
        server, f"SELECT messages, failed, dkim, spf FROM reports.dmarc_sources WHERE '{intake}' = ANY (reporters)"
    )
    assert row == '21|21|{other.example=pass,"other.example=pass list.example=pass"}|{spoofer.example=none}'


def test_the_api_says_it_to_the_domain_s_key_alone(server: Server, intake: str) -> None:
    server.lab.dave_sends(letter(intake, dmarc_report(intake)), server.name)
    server.lab.dave_sends(letter(intake, tls_report(intake, "globex.test")), server.name)
    take(server, 2)
    wanted = [
        {"name": "reports", "domain": name, "scopes": ["statistics.read"]} for name in ("acme.test", "globex.test")
    ]
    with temporary_keys(server.lab, server.name, *wanted) as (acme, globex):
        said = {
            name: [Api(server.lab, server.name, key).ask("GET", f"/deliverability/{name}") for key in (acme, globex)]
            for name in ("dmarc", "tls")
        }
    assert {answer.status for answers in said.values() for answer in answers} == {200}
    mine, other = ([one for one in answer.body["data"] if intake in one["reporters"]] for answer in said["dmarc"])
    assert other == []
    (source,) = mine
    assert (source["source"], source["messages"], source["failed"]) == ("203.0.113.66", 7, 7)
    assert (source["dkim"], source["spf"]) == ([], ["spoofer.example=none"])
    other, mine = ([one for one in answer.body["failures"] if intake in one["reporters"]] for answer in said["tls"])
    assert other == []
    (failure,) = mine
    assert (failure["policy"], failure["result"], failure["host"]) == (
        "sts",
        "certificate-host-mismatch",
        "mx1.acme.test",
    )
    sessions = {one["policy"]: one for one in said["tls"][1].body["sessions"]}
    assert sessions["sts"]["successful"] >= 8 and sessions["sts"]["failed"] >= 2


def test_nobody_writes_to_the_intakes_own_address(stranger: Stranger) -> None:
    answers = stranger.smtp("EHLO peer.peer.test", "MAIL FROM:<dave@peer.test>", "RCPT TO:<reports@mailwright.invalid>")
    assert answers[-1].startswith(("554", "454")), answers


def test_the_intake_may_do_nothing_else(server: Server, intake: str) -> None:
    assert intake
    program = "\n".join(
        [
            'try() { "$@" >/dev/null 2>&1 && echo "$* works" || echo "$* fails"; }',
            "try ls /var/vmail",
            "try ls /etc/mailwright",
            "try touch /var/lib/x",
            f"try touch {SPOOL}/x",
            "try bash -c '</dev/tcp/127.0.0.1/25'",
            "try psql -X -U reports mailwright -c 'SELECT name FROM directory.domain'",
            "try psql -X -U reports mailwright -c 'SELECT password FROM directory.mailbox'",
            "try psql -X -U reports mailwright -c 'DELETE FROM directory.domain'",
            "try psql -X -U mailwright mailwright -c 'SELECT 1'",
            "try psql -X -U dovecot mailwright -c 'SELECT 1'",
            f"rm -f {SPOOL}/x",
        ]
    )
    server.run(f"mkdir -p $(dirname {DROP_IN}); echo try > {SPOOL}/new/try; cat > {SPOOL}/try.sh", data=program)
    server.run(
        f"cat > {DROP_IN} && systemctl daemon-reload && systemctl start {SERVICE}",
        data=f"[Service]\nExecStart=\nExecStart=/bin/sh {SPOOL}/try.sh\nStandardOutput=truncate:/run/reports-try\n",
    )
    words = [line.rpartition(" ")[2] for line in server.run(f"cat /run/reports-try; rm {SPOOL}/try.sh {SPOOL}/new/try")
             .splitlines()]  # fmt: skip
    assert words == ["fails", "fails", "fails", "works", "fails", "works", "fails", "fails", "fails", "fails"]


def test_no_report_is_lost_or_doubled_whatever_stops_the_intake(server: Server, intake: str, timer: Timer) -> None:
    # enough to be stopped in the middle of, on a host that is slow to stop it
    count = 200
    texts = [letter(intake, dmarc_report(intake)).as_string() for _number in range(count)]
    server.run(f"runuser -u mail-reports -- python3 -c {shlex.quote(KEEP)}", data=json.dumps(texts))
    assert len(waiting(server)) == count
    timer.say(f"{count} messages in the spool")
    stored = f"SELECT count(*) FROM reports.report WHERE reporter = '{intake}'"
    interrupted = kills = 0
    chance = random.Random(intake)
    while waiting(server) and interrupted < ENOUGH and kills < 40:
        before = len(waiting(server))
        # as soon as the first message is done, or some milliseconds later
        stop = "systemctl restart postgresql@17-main" if kills % 3 == 2 else f"systemctl kill --signal=KILL {SERVICE}"
        server.run(
            f"systemctl reset-failed {SERVICE} 2>/dev/null; systemctl start --no-block {SERVICE}; "
            f"while [ $(ls {SPOOL}/new | wc -l) -ge {before} ]; do sleep 0.005; done; "
            f"sleep {chance.uniform(0, 0.05)}; {stop} || true"
        )
        wait_until(lambda: server.show(SERVICE, "ActiveState") in ("inactive", "failed"), 60, "the intake ended")
        after = len(waiting(server))
        interrupted += 0 < after < before
        kills += 1
        # a message whose reports are stored may still be there, never the other way round
        assert int(rows(server, stored)[0]) >= count - after
    server.run(f"systemctl reset-failed {SERVICE}; systemctl start {SERVICE}")
    timer.say(f"stopped {kills} times, {interrupted} times in the middle")
    assert waiting(server) == []
    assert rows(server, stored) == [str(count)]
    assert interrupted


def test_what_is_kept_aside_can_be_read_again(server: Server, intake: str) -> None:
    """As after an update that understands more: here the domain was not hosted at first."""
    server.lab.dave_sends(letter(intake, dmarc_report(intake, "later.test")), server.name)
    take(server, 1)
    (name,) = rows(server, "SELECT file FROM reports.aside WHERE reason LIKE '%later.test'")
    rows(server, "INSERT INTO directory.domain (name, owner) VALUES ('later.test', 'api')")
    try:
        server.run(f"mv {SPOOL}/aside/{name} {SPOOL}/new/ && systemctl start {SERVICE}")
        assert rows(server, f"SELECT count(*) FROM reports.report WHERE reporter = '{intake}'") == ["1"]
        assert rows(server, f"SELECT count(*) FROM reports.aside WHERE file = '{name}'") == ["0"]
    finally:
        rows(server, "DELETE FROM directory.domain WHERE name = 'later.test'")


# --- to others ------------------------------------------------------------------------------------------------------


@pytest.fixture
def sending(server: Server) -> Iterator[str]:
    """A service like the timer's that reports on today, and knows the lab's .test as a suffix of domains, without
    which Rspamd takes no address there for one."""
    suffixes = "/usr/share/publicsuffix/effective_tld_names.dat"
    unit = "mailwright-dmarc-reports"
    today = time.strftime("%Y%m%d", time.gmtime())
    server.run(
        f"(cat {suffixes}; echo test) > /run/suffixes.dat; "
        f"(sed 's/^ExecStart=.*/& {today}/' /etc/systemd/system/{unit}.service; cat) "
        "> /run/systemd/system/reports-today.service; systemctl daemon-reload",
        data=f"BindReadOnlyPaths=/run/suffixes.dat:{suffixes}\n",
    )
    yield "reports-today"
    server.run("rm /run/systemd/system/reports-today.service /run/suffixes.dat; systemctl daemon-reload")


def test_others_are_told_how_their_mail_fared(server: Server, lab: Lab, sending: str, token: str, timer: Timer) -> None:
    if server.name != "mx1":
        pytest.skip("peer's records name mx1 alone")
    lab.dave_sends(message("dave@peer.test", "alice@acme.test", token))
    keys = "redis-cli -s /run/redis/redis-server.sock --scan --pattern 'dmarc_rpt;peer.test;*'"
    wait_until(lambda: server.run(keys).strip(), 60, "what Rspamd collected")
    here = f"mailbox INBOX header subject {token}"
    wait_until(lambda: server.run(f"doveadm search -u alice@acme.test {here}").strip(), 60, "dave's message")
    server.run(f"doveadm expunge -u alice@acme.test {here}")
    # a report has no token of ours: look at those that come from now on
    lab.ssh("peer", "touch /run/mark")
    server.run(f"systemctl start {sending}", timeout=400)
    find = "find ~dave/Maildir/new -newer /run/mark -exec grep -l 'Report Domain: peer.test' {} +"
    path = wait_until(lambda: lab.ssh("peer", find, check=False).strip(), 60, "the report in dave's mailbox")
    text = lab.ssh("peer", f"cat {path}; rm {path}")
    timer.say("the report is in dave's mailbox")
    found = letters.read(text.encode(), "peer.peer.test")
    assert found.problems == ()
    assert (found.sender_domain, found.authenticated) == ("acme.test", True)
    (document,) = found.documents
    report = document.report
    assert isinstance(report, DmarcReport)
    assert (report.domain, report.reporter) == ("peer.test", "mx1.acme.test")
    # earlier mail from peer is told of too
    told = [
        (record.disposition, record.dkim_aligned, record.spf_aligned, record.dkim_results)
        for record in report.records
        if record.source_ip == lab.address("peer")
    ]
    assert ("none", True, True, ("peer.test=pass",)) in told
    # what was reported is not reported again
    assert server.run(keys).strip() == ""


def test_the_database_role_has_no_password(server: Server) -> None:
    """Only the intake's user and root are let in as it."""
    answer = server.run("runuser -u www-data -- psql -X -U reports mailwright -c 'SELECT 1' 2>&1", check=False)
    assert "Peer authentication failed" in answer
