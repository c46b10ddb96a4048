# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""TLS reports to others: peer.test asks for them, by mail and by HTTPS, and is told how TLS with its server went."""

from __future__ import annotations

import base64
import email
import email.policy
import gzip
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.reports import message as letters
from ansible_collections.mailwright.server.plugins.module_utils.reports import tls
from ansible_collections.mailwright.server.tests.integration.peer import Peer, publishing
from connection import Lab, message, wait_until

if TYPE_CHECKING:
    from ansible_collections.mailwright.server.tests.integration.conftest import Server, Timer

COUNTER = "mailwright-tls-results"
STORE = "/var/lib/mailwright-tls-results/results.db"
NAME = "reports.peer.test"
# Takes what is posted, at the second try of each.
RECEIVER = """
import http.server, ssl
class Receiver(http.server.BaseHTTPRequestHandler):
    seen = set()
    def do_POST(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        again = data in self.seen
        self.seen.add(data)
        if again:
            with open("/root/posted", "wb") as stream:
                stream.write(self.headers["Content-Type"].encode() + b"\\n" + data)
        self.send_response(201 if again else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()
server = http.server.ThreadingHTTPServer(("", 8443), Receiver)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/root/receiver.pem")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def peer(lab: Lab, server: Server) -> Iterator[Peer]:
    """peer.test with a record that asks for reports; what was counted before and during the tests is forgotten."""
    with publishing(lab, server) as found:
        try:
            forget(server)
            lab.ssh("peer", "cat > /root/receiver.pem", data="".join(found.certificate(NAME)))
            lab.ssh("peer", "cat > /root/receiver.py; rm -f /root/posted", data=RECEIVER)
            lab.ssh("peer", "systemd-run -q --collect --unit=receiver python3 /root/receiver.py")
            found.publish(
                f"{NAME}. 5 IN A {lab.address('peer')}\n"
                f'_smtp._tls.peer.test. 5 IN TXT "v=TLSRPTv1; rua=mailto:dave@peer.test,https://{NAME}:8443/tls"\n'
            )
            yield found
        finally:
            lab.ssh("peer", "systemctl stop receiver", check=False)
            found.withdraw((f"{NAME}.", "A"), ("_smtp._tls.peer.test.", "TXT"))
            forget(server)


def forget(server: Server) -> None:
    server.run(f"systemctl stop {COUNTER}.service && rm -f {STORE}* && systemctl start {COUNTER}.service")


def ask(server: Server, query: str) -> list[tuple[object, ...]]:
    """The answer of the file of results."""
    program = f"""import json, sqlite3
with sqlite3.connect("{STORE}") as connection:
    print(json.dumps(connection.execute({query!r}).fetchall()))"""
    return [tuple(row) for row in json.loads(server.run("python3 -", data=program))]


def counted(server: Server) -> list[tuple[object, ...]]:
    return ask(server, "SELECT policy ->> 'policy-type', sessions, failed FROM policy ORDER BY 1")


def sends(server: Server, token: str) -> None:
    with server.lab.submission("alice@acme.test", server.name) as smtp:
        smtp.send_message(message("alice@acme.test", "dave@peer.test", token))


def arrived(server: Server, token: str) -> None:
    wait_until(lambda: server.lab.dave_has(token), 60, "the message in dave's mailbox")


def test_peer_is_told_by_mail_and_by_https(server: Server, peer: Peer, token: str, timer: Timer) -> None:
    fitting, unfit = peer.certificate("peer.peer.test"), peer.certificate("peer.peer.test")
    peer.serves(*fitting)
    sends(server, f"{token}-sts")
    arrived(server, f"{token}-sts")
    wait_until(lambda: counted(server) == [("sts", 1, 0)], 30, "a session under the policy")
    timer.say("a session under MTA-STS is counted")
    peer.publish(peer.tlsa(fitting[0]))
    try:
        sends(server, f"{token}-dane")
        arrived(server, f"{token}-dane")
        wait_until(lambda: counted(server) == [("sts", 1, 0), ("tlsa", 1, 0)], 30, "a session under DANE")
        peer.serves(*unfit)
        sends(server, f"{token}-unfit")
        wait_until(lambda: any(row[2] for row in counted(server)), 60, "a session that failed")
        timer.say(f"one under DANE, and one that failed: {counted(server)}")
        assert not server.lab.dave_has(f"{token}-unfit")
        day_is_over(server)
        # the report reaches a server whose certificate does not fit: that is what it tells of
        peer.lab.ssh("peer", "touch /run/mark")
        server.run("systemctl start mailwright-tls-reports.service")
        find = "find ~dave/Maildir/new -newer /run/mark -exec grep -l 'TLS-Report-Domain: peer.test' {} +"
        path = wait_until(lambda: peer.lab.ssh("peer", find, check=False).strip(), 60, "the report in dave's mailbox")
        text = peer.lab.ssh("peer", f"cat {path}; rm {path}")
        timer.say("the report is in dave's mailbox")
    finally:
        peer.withdraw(("_25._tcp.peer.peer.test.", "TLSA"))
    judge_letter(text)
    assert "alice" not in text.partition("\n\n")[2]
    # what could not be posted waits, what was sent is not sent again
    states = "SELECT destination, state, problem FROM report ORDER BY 1"
    assert ask(server, states) == [
        (f"https://{NAME}:8443/tls", "waiting", "503 Service Unavailable"),
        ("mailto:dave@peer.test", "sent", ""),
    ]
    server.run("systemctl start mailwright-tls-reports.service")
    assert [state for _destination, state, _problem in ask(server, states)] == ["sent", "sent"]
    posted = server.lab.ssh("peer", "base64 -w0 /root/posted")
    judge_post(posted, text)
    server.run("postqueue -f")
    arrived(server, f"{token}-unfit")


def day_is_over(server: Server) -> None:
    """Let what was counted be of yesterday."""
    for table in ("domain", "policy", "failure"):
        ask(server, f"UPDATE {table} SET day = date('now', '-1 day') RETURNING day")


def judge_letter(text: str) -> None:
    found = letters.read(text.encode(), "peer.peer.test")
    assert found.problems == ()
    # signed by the domain that reports, says peer
    assert (found.sender_domain, found.authenticated) == ("acme.test", True)
    mail = email.message_from_string(text, policy=email.policy.default)
    assert (mail["TLS-Report-Submitter"], mail.get_content_type()) == ("acme.test", "multipart/report")
    (document,) = found.documents
    report = document.report
    assert isinstance(report, tls.TlsReport)
    assert (report.reporter, report.contact) == ("mx1.acme.test", "mail-reports@acme.test")
    told = {policy.policy_type: policy for policy in report.policies}
    assert (told["sts"].domain, told["sts"].successful, told["sts"].failed) == ("peer.test", 1, 0)
    assert told["tlsa"].successful == 1
    assert told["tlsa"].failed >= 1
    assert {(failure.result_type, failure.receiving_host) for failure in told["tlsa"].failures} == {
        ("certificate-not-trusted", "peer.peer.test")
    }


def judge_post(posted: str, text: str) -> None:
    kind, _newline, data = base64.b64decode(posted).partition(b"\n")
    assert kind == b"application/tlsrpt+gzip"
    (part,) = email.message_from_string(text, policy=email.policy.default).iter_attachments()
    assert gzip.decompress(data) == gzip.decompress(part.get_content())


def test_mail_does_not_wait_for_the_counter(server: Server, peer: Peer, token: str) -> None:
    peer.serves(*peer.certificate("peer.peer.test"))
    server.run(f"systemctl stop {COUNTER}.socket {COUNTER}.service")
    try:
        sends(server, token)
        arrived(server, token)
    finally:
        server.run(f"systemctl start {COUNTER}.socket {COUNTER}.service")
