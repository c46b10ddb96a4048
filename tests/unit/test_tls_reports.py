# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""TLS reports to others: what Postfix says is counted, and the report is one that our own intake takes."""

from __future__ import annotations

import contextlib
import email
import email.policy
import gzip
import json
import socket
import sqlite3
import threading
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.reports import message, tls, tls_results, tls_store
from ansible_collections.mailwright.server.plugins.module_utils.reports.tls_results import Sender
from ansible_collections.mailwright.server.plugins.module_utils.reports.values import ReportError
from hypothesis import given
from hypothesis import strategies as st

SENDER = Sender("mx1.acme.test", "mail-reports@acme.test")
DAY = date(2026, 3, 1)
DANE = {
    "policy-type": 1,
    "policy-domain": "peer.peer.test",
    "policy-string": ["3 1 1 0011"],
    "t": 0,
    "f": 0,
}
FAILURE = {
    "c": 205, "s": "203.0.113.7", "n": "peer.peer.test", "r": "203.0.113.9", "f": "TLSA records do not match\n",
}  # fmt: skip
RECORD = "v=TLSRPTv1; rua=mailto:dave@peer.test,https://peer.test/tls"


def datagram(*policies: dict[str, Any], domain: str = "peer.test", record: str = RECORD) -> bytes:
    return json.dumps({"d": domain, "pr": record, "policies": policies}).encode()


def failed(policy: dict[str, Any], *failures: dict[str, Any]) -> dict[str, Any]:
    return {**policy, "failure-details": list(failures), "t": len(failures), "f": 1}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(tls_store.connect(str(tmp_path / "results.db"))) as connection:
        yield connection


def counted(store: sqlite3.Connection, *datagrams: bytes, day: date = DAY) -> list[str]:
    complaints: list[str] = []
    tls_store.count(store, day, list(datagrams), complaints.append)
    return complaints


def reports(store: sqlite3.Connection) -> list[tuple[str, str, str]]:
    return store.execute("SELECT domain, destination, state FROM report ORDER BY 1, 2").fetchall()


def test_the_report_is_one_that_an_intake_takes(store: sqlite3.Connection) -> None:
    sts = {"policy-type": 2, "policy-domain": "peer.test", "policy-string": ["version: STSv1", "mode: enforce"],
           "mx-host": ["*.peer.test"], "t": 0, "f": 0}  # fmt: skip
    assert counted(store, datagram(DANE), datagram(sts)) == []
    assert counted(store, datagram(DANE), datagram(failed(DANE, FAILURE)), datagram(failed(DANE, FAILURE))) == []
    tls_store.close_days(store, DAY + timedelta(days=1), SENDER)
    (text,) = store.execute("SELECT DISTINCT report FROM report").fetchone()
    report = tls.parse(text.encode())
    assert (report.reporter, report.contact) == ("mx1.acme.test", "mail-reports@acme.test")
    assert (report.begin.isoformat(), report.end.isoformat()) == (
        "2026-03-01T00:00:00+00:00",
        "2026-03-01T23:59:59+00:00",
    )
    found = {policy.policy_type: policy for policy in report.policies}
    assert (found["sts"].domain, found["sts"].successful, found["sts"].failed) == ("peer.test", 1, 0)
    assert (found["tlsa"].domain, found["tlsa"].successful, found["tlsa"].failed) == ("peer.peer.test", 2, 2)
    (failure,) = found["tlsa"].failures
    assert (failure.result_type, failure.sessions) == ("validation-failure", 2)
    assert (failure.receiving_host, failure.reason) == ("peer.peer.test", "TLSA records do not match")
    document = json.loads(text)
    assert document["policies"][0]["policy"]["mx-host"] == ["*.peer.test"]
    # the counts are gone, and the next day begins anew
    assert store.execute("SELECT count(*) FROM policy").fetchone() == (0,)


def test_a_domain_without_a_policy_is_named(store: sqlite3.Connection) -> None:
    counted(store, datagram({"policy-type": 9, "t": 0, "f": 0}, domain="Peer.Test."))
    tls_store.close_days(store, DAY + timedelta(days=1), SENDER)
    (policy,) = json.loads(store.execute("SELECT report FROM report").fetchone()[0])["policies"]
    assert policy["policy"] == {"policy-type": "no-policy-found", "policy-domain": "peer.test"}


def test_today_is_not_reported_and_no_report_is_made_twice(store: sqlite3.Connection) -> None:
    counted(store, datagram(DANE))
    tls_store.close_days(store, DAY, SENDER)
    assert reports(store) == []
    for _again in range(2):
        tls_store.close_days(store, DAY + timedelta(days=1), SENDER)
        assert reports(store) == [
            ("peer.test", "https://peer.test/tls", "waiting"),
            ("peer.test", "mailto:dave@peer.test", "waiting"),
        ]
    tls_store.close_days(store, DAY + tls_store.KEEP + timedelta(days=1), SENDER)
    assert reports(store) == []


def test_the_last_record_of_the_day_says_where_to(store: sqlite3.Connection) -> None:
    counted(store, datagram(DANE), datagram(DANE, record="v=TLSRPTv1;rua=mailto:tls@peer.test"))
    tls_store.close_days(store, DAY + timedelta(days=1), SENDER)
    assert [destination for _domain, destination, _state in reports(store)] == ["mailto:tls@peer.test"]


@pytest.mark.parametrize(
    ("record", "found"),
    [
        ("v=TLSRPTv1; rua=mailto:a@b.test , https://b.test/x?y=1;", ["mailto:a@b.test", "https://b.test/x?y=1"]),
        ("v=TLSRPTv1;rua=mailto:a%2Bb@b.test", ["mailto:a%2Bb@b.test"]),
        ("v=TLSRPTv1; rua=mailto:a@b.test,mailto:a@b.test", ["mailto:a@b.test"]),
        # nothing that is no address, no other scheme, no user names, no line breaks
        ("v=TLSRPTv1; rua=mailto:a@b.test%0aBcc:c@d.test", []),
        ("v=TLSRPTv1; rua=mailto:a@b.test%2Cc@d.test", []),
        ("v=TLSRPTv1; rua=http://b.test/,https://u:p@b.test/,ftp://b.test,https://b.test:0x/,https:///x", []),
        ("v=TLSRPTv1; rua=https://b.test/%0d%0aX", ["https://b.test/%0d%0aX"]),
        ("v=TLSRPTv1", []),
    ],
)
def test_where_a_record_wants_reports(record: str, found: list[str]) -> None:
    assert tls_results.destinations(record) == found


def test_a_web_address_is_taken_apart() -> None:
    assert tls_results.web_address("https://b.test:8443/x/y?z=1#there") == ("b.test", 8443, "/x/y?z=1")
    assert tls_results.web_address("https://b.test") == ("b.test", 443, "/")
    assert tls_results.web_address("https://b.test/a b") is None


def test_the_message_is_as_the_rfc_asks() -> None:
    report = tls_results.document(SENDER, DAY, "peer.test", [])
    text = tls_results.letter(SENDER, DAY, "peer.test", "dave@peer.test", report).as_bytes()
    found = email.message_from_bytes(text, policy=email.policy.default)
    assert found.get_content_type() == "multipart/report"
    assert found["Content-Type"].params["report-type"] == "tlsrpt"
    assert (found["TLS-Report-Domain"], found["TLS-Report-Submitter"]) == ("peer.test", "acme.test")
    assert found["TLS-Required"] == "No"
    (part,) = found.iter_attachments()
    assert part.get_content_type() == "application/tlsrpt+gzip"
    assert part.get_filename() == "acme.test!peer.test!1772323200!1772409599!001.json.gz"
    assert json.loads(gzip.decompress(part.get_content()))["report-id"] == "2026-03-01.peer.test@mx1.acme.test"
    letter = message.read(text, "peer.peer.test")
    assert (letter.problems, len(letter.documents)) == ((), 1)
    # told to be the same if it comes twice
    again = tls_results.letter(SENDER, DAY, "peer.test", "dave@peer.test", report)
    assert again["Message-ID"] == found["Message-ID"]
    assert tls_results.packed(report) == tls_results.packed(report)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xff", b"[]", b"null", b"{}", b"[" * 100_000,
        datagram({"policy-type": 3, "t": 0, "f": 0}),
        datagram(failed(DANE, {"c": 999})),
        datagram({"policy-type": 1, "policy-string": [7], "f": 0}),
        datagram(DANE).replace(b'{"d"', b'{"dpv": "2", "d"'),
        datagram(DANE, domain=""),
    ],
)  # fmt: skip
def test_what_is_no_datagram_is_said_and_left_out(store: sqlite3.Connection, data: bytes) -> None:
    with pytest.raises(ReportError):
        tls_results.read(data)
    (complaint,) = counted(store, data, datagram(DANE))
    assert complaint
    assert store.execute("SELECT sum(sessions) FROM policy").fetchone() == (1,)


KEYS = st.sampled_from(["dpv", "d", "pr", "policies", "policy-type", "f", "failure-details", "c", "mx-host"])
LEAVES = st.none() | st.booleans() | st.integers() | st.text()


@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner)))
def test_no_json_breaks_the_reader(value: object) -> None:
    with contextlib.suppress(ReportError):
        tls_results.read(json.dumps(value).encode())


def test_a_flood_of_different_failures_has_its_bounds(store: sqlite3.Connection) -> None:
    failures = [failed(DANE, {**FAILURE, "f": f"reason {number}"}) for number in range(tls_store.MAX_FAILURES + 50)]
    policies = [{**DANE, "policy-string": [str(number)]} for number in range(tls_store.MAX_POLICIES + 50)]
    counted(store, *(datagram(one) for one in [*failures, *policies]))
    assert store.execute("SELECT count(*) FROM failure").fetchone() == (tls_store.MAX_FAILURES,)
    assert store.execute("SELECT count(*) FROM policy").fetchone() == (tls_store.MAX_POLICIES,)
    assert store.execute("SELECT max(sessions) FROM policy").fetchone() == (len(failures),)


def test_a_datagram_is_counted_soon_and_a_broken_store_stops_nobody(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    complaints: list[str] = []
    ready = threading.Event()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    def work() -> None:
        connection = tls_store.connect(str(path))
        ready.set()
        with contextlib.suppress(OSError):
            tls_store.collect(theirs, connection, complaints.append)

    threading.Thread(target=work, daemon=True).start()
    assert ready.wait(60)
    with contextlib.closing(tls_store.connect(str(path))) as other:
        other.execute("ALTER TABLE policy RENAME TO elsewhere")
        ours.send(datagram(DANE))
        for _wait in range(200):
            if complaints:
                break
            threading.Event().wait(0.05)
        assert "not counted" in complaints[0]
        other.execute("ALTER TABLE elsewhere RENAME TO policy")
        for _number in range(20):
            ours.send(datagram(DANE))
        for _wait in range(200):
            total = other.execute("SELECT sum(sessions) FROM policy").fetchone()[0]
            if total == 20:
                break
            threading.Event().wait(0.05)
        assert total == 20


# --- delivery -------------------------------------------------------------------------------------------------------


def test_what_cannot_be_sent_waits_and_is_given_up_at_last(
    store: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: dict[str, Exception | None] = {
        "https://peer.test/tls": OSError("503 busy"),
        "mailto:dave@peer.test": tls_store.RefusedError("550 no such user"),
    }

    def deliver(_sender: Sender, _day: date, _domain: str, destination: str, _report: str) -> None:
        answer = answers[destination]
        if answer:
            raise answer

    monkeypatch.setattr(tls_store, "deliver", deliver)
    counted(store, datagram(DANE))
    next_day = DAY + timedelta(days=1)
    tls_store.close_days(store, next_day, SENDER)
    said = tls_store.send(store, next_day, SENDER)
    assert said == (
        "not yet: peer.test to https://peer.test/tls: 503 busy; "
        "given up: peer.test to mailto:dave@peer.test: 550 no such user"
    )
    assert [state for *_what, state in reports(store)] == ["waiting", "given up"]
    answers["https://peer.test/tls"] = None
    assert tls_store.send(store, next_day, SENDER) == "1 TLS reports sent"
    assert [state for *_what, state in reports(store)] == ["sent", "given up"]
    # nothing is left to do
    assert tls_store.send(store, next_day, SENDER) == ""


def test_a_report_is_not_tried_for_ever(store: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    def deliver(*_what: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(tls_store, "deliver", deliver)
    counted(store, datagram(DANE, record="v=TLSRPTv1;rua=mailto:dave@peer.test"))
    for days, state in ((1, "waiting"), (2, "given up")):
        today = DAY + timedelta(days=days)
        tls_store.close_days(store, today, SENDER)
        tls_store.send(store, today, SENDER)
        assert reports(store) == [("peer.test", "mailto:dave@peer.test", state)]
