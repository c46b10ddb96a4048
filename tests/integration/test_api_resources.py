# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sending API's templates, schedules, raw messages, streams, complaints and figures, from outside.

Real parts all the way, as in test_api.py. Where time has to pass, the rows in the database are made older.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from ansible_collections.mailwright.server.tests.integration.conftest import Server
from ansible_collections.mailwright.server.tests.integration.sending import Api, sql
from connection import Lab, wait_until

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def at_peer(lab: Lab, text: str) -> str:
    """dave's message that holds the text."""
    return str(wait_until(lambda: lab.dave_has(text), 60, "the message at peer"))


def return_path(message: str) -> str:
    found = re.search(r"^Return-Path: <(.*)>", message, re.MULTILINE)
    assert found
    return found[1]


def later(hours: float) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours)).isoformat()


# --- templates --------------------------------------------------------------------------------------------------------

WELCOME = {"subject": "Hello {{ name }}", "text": "Dear {{ name }},\n", "html": "<p>{{ name }}</p>"}


@pytest.fixture
def template(acme: Api, token: str) -> Iterator[str]:
    made = acme.ask("POST", "/templates", {"name": token[:30], **WELCOME})
    assert made.status == 201 and made.body["active_version"] == 1
    yield f"/templates/{made.body['id']}"
    acme.ask("DELETE", f"/templates/{made.body['id']}")


def test_a_template_has_versions_and_shows_what_it_makes(acme: Api, template: str, token: str) -> None:
    shown = acme.ask("POST", f"{template}/render", {"variables": {"name": "<Dave>"}})
    assert shown.status == 200
    assert shown.body == {"subject": "Hello <Dave>", "text": "Dear <Dave>,\n", "html": "<p>&lt;Dave&gt;</p>"}
    lacking = acme.ask("POST", f"{template}/render", {})
    assert (lacking.status, lacking.body["code"]) == (422, "template_failed")
    assert lacking.body["errors"] == [{"pointer": "/subject", "detail": "UndefinedError: 'name' is undefined"}]
    second = acme.ask("POST", f"{template}/versions", {"subject": "Second", "text": "{{ name | upper }}"})
    assert second.status == 201 and second.body["version"] == 2
    assert acme.ask("POST", f"{template}/render", {"variables": {"name": "d"}}).body["text"] == "D"
    assert (
        acme.ask("POST", f"{template}/render", {"variables": {"name": "d"}, "version": 1}).body["text"] == "Dear d,\n"
    )
    assert acme.ask("PATCH", template, {"active_version": 3}).status == 404
    assert acme.ask("PATCH", template, {"active_version": 1}).body["active_version"] == 1
    assert [entry["version"] for entry in acme.ask("GET", f"{template}/versions").body["data"]] == [2, 1]
    taken = acme.ask("POST", "/templates", {"name": token[:30], **WELCOME})
    assert (taken.status, taken.body["code"]) == (409, "name_taken")
    wrong = acme.ask("POST", f"{template}/versions", {"subject": "{{ a", "text": "{% if %}"})
    assert (wrong.status, wrong.body["code"], wrong.body["errors"][0]["pointer"]) == (
        422,
        "template_failed",
        "/subject",
    )
    assert acme.ask("POST", f"{template}/versions", {"subject": "a"}).status == 422
    assert acme.ask("POST", f"{template}/versions", {"subject": "a", "text": "a\0"}).status == 422


def test_a_template_s_filters_work_where_no_file_can_be_opened(acme: Api, template: str) -> None:
    source = (
        "{{ name | upper | wordwrap(2) }}{{ name | urlize }}{{ [3, 1] | sort | join(',') }}{{ 1.25 | round(1) }}"
        "{{ {'a': name} | tojson }}{{ name | urlencode }}{{ name | striptags | title | center(9) }}{{ 'é\\n' }}"
        "{{ [{'k': 1}] | groupby('k') | list | length }}{{ 12345 | filesizeformat }}{{ '%05.1f' | format(2) }}"
        "{% set ns = namespace(n=0) %}{% for c in name %}{% set ns.n = ns.n + loop.index %}{% endfor %}{{ ns.n }}"
    )
    assert acme.ask("POST", f"{template}/versions", {"subject": "s", "text": source}).status == 201
    answer = acme.ask("POST", f"{template}/render", {"variables": {"name": "dave"}})
    assert answer.status == 200, answer
    assert answer.body["text"] == 'DA\nVEdave1,31.2{"a": "dave"}dave   Dave  é\n112.3 kB002.010'


def test_a_message_made_from_a_template_arrives(lab: Lab, acme: Api, template: str, token: str) -> None:
    use = {"id": template.rpartition("/")[2], "variables": {"name": f"{token}\r\nBcc: <eve@peer.test>"}}
    message = {"from": "news@acme.test", "to": ["dave@peer.test"], "template": use}
    answer = acme.ask("POST", "/emails", message)
    assert answer.status == 202, answer
    arrived = at_peer(lab, token)
    # a line break becomes a space in a subject, and text is text
    assert f"Subject: Hello {token} Bcc: <eve@peer.test>" in re.sub(r"\n[ \t]+", " ", arrived)
    assert not re.search("^Bcc:", arrived.partition("\n\n")[0], re.MULTILINE)
    assert "&lt;eve@peer.test&gt;" in arrived
    both = acme.ask("POST", "/emails", {**message, "subject": "s", "text": "t"})
    assert [error["pointer"] for error in both.body["errors"]] == ["/subject", "/text"]
    gone = {**message, "template": {"id": "0" * 8 + "-0000-7000-8000-" + "0" * 12}}
    assert acme.ask("POST", "/emails", gone).body["errors"][0]["pointer"] == "/template"
    batch = acme.ask("POST", "/emails/batch", {"emails": [gone, {**message, "template": {"id": use["id"]}}]})
    assert [item["error"]["code"] for item in batch.body["data"]] == ["invalid_request", "template_failed"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "too long"),
        ("{{ 9 ** (9 ** 9) }}", "too long"),
        ("{{ 'a' * 10 ** 9 }}", "too much memory"),
        ("{{ 'a' * 600000 }}", "longer than"),
        ("{% for a in range(999999999) %}{% endfor %}", "Range too big"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "nested too deeply"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", ""),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ ''|attr('__class__') }}", "unsafe"),
        ("{{ '{0.__class__}'.format(1) }}", "unsafe"),
        ("{{ cycler.__init__.__globals__.os.system('id') }}", "unsafe"),
        ("{% include '/etc/passwd' %}", "loader"),
        ("{% set a = [] %}{{ a.append(1) }}", "unsafe"),
        ("{{ lipsum(n=100000) }}", "undefined"),
        ("{{ '\\ud800' }}", "surrogate"),
    ],
)
def test_a_template_cannot_do_harm(server: Server, acme: Api, token: str, source: str, said: str) -> None:
    made = acme.ask("POST", "/templates", {"name": token[:30], "subject": "s", "text": source})
    if made.status == 422:
        detail = made.body["errors"][0]["detail"]
        assert said in detail
        return
    try:
        answer = acme.ask("POST", f"/templates/{made.body['id']}/render", {})
        assert (answer.status, answer.body["code"]) == (422, "template_failed"), answer
        assert said in answer.body["errors"][0]["detail"], answer
        # the next one is none the worse
        assert acme.ask("POST", "/templates", {"name": token[:30], **WELCOME}).status == 409
        assert acme.ask("GET", "/livez").status == 200
    finally:
        assert acme.ask("DELETE", f"/templates/{made.body['id']}").status == 204
    assert int(server.show("mailwright-api.service", "NRestarts")) == 0


# --- later, never, again ----------------------------------------------------------------------------------------------


def test_a_scheduled_message_waits_moves_and_is_cancelled(lab: Lab, acme: Api, token: str) -> None:
    sent, moved, cancelled = (
        acme.send(f"{token}-{name}", "dave@peer.test", send_at=later(hours))["id"]
        for name, hours in (("soon", 3 / 3600), ("moved", 1), ("cancelled", 1))
    )
    assert acme.kinds(moved) == ["accepted"]
    wait_until(lambda: "delivered" in acme.kinds(sent), 60, "the one that was due")
    accepted, _handed, _delivered = (datetime.fromisoformat(event["at"]) for event in acme.events(sent))
    shown = acme.ask("GET", f"/emails/{sent}").body
    assert datetime.fromisoformat(acme.events(sent)[1]["at"]) >= datetime.fromisoformat(shown["send_at"]) > accepted

    answer = acme.ask("POST", f"/emails/{cancelled}/cancel")
    assert answer.status == 200 and answer.body["recipients"][0]["status"] == "cancelled"
    again = acme.ask("POST", f"/emails/{cancelled}/cancel")
    assert (again.status, again.body["code"]) == (409, "too_late")
    assert acme.ask("PATCH", f"/emails/{cancelled}", {"send_at": later(1)}).status == 409

    moved_to = acme.ask("PATCH", f"/emails/{moved}", {"send_at": later(2)})
    assert moved_to.status == 200 and moved_to.body["recipients"][0]["status"] == "queued"
    assert acme.ask("PATCH", f"/emails/{moved}", {"send_at": "2020-01-01T00:00:00Z"}).status == 200
    wait_until(lambda: "delivered" in acme.kinds(moved), 60, "the one that was moved")
    assert acme.kinds(moved).count("rescheduled") == 2
    assert acme.ask("POST", f"/emails/{moved}/cancel").status == 409
    assert acme.kinds(cancelled) == ["accepted", "cancelled"] and not lab.dave_has(f"{token}-cancelled")

    # once more, and once only
    assert acme.ask("POST", f"/emails/{cancelled}/retry").status == 200
    assert acme.ask("POST", f"/emails/{cancelled}/retry").body["code"] == "nothing_to_retry"
    wait_until(lambda: "delivered" in acme.kinds(cancelled), 60, "the one that was cancelled and sent again")
    assert len(lab.ssh("peer", f"grep -rl {token}-cancelled ~dave/Maildir/new").split()) == 1
    assert acme.ask("POST", f"/emails/{cancelled}/retry").status == 409


@pytest.mark.parametrize("time_", ["tomorrow", "2026-11-26T18:00:00", "2099-01-01T00:00:00Z", "", "9999-99-99T00:00Z"])
def test_a_time_that_is_none_is_refused(acme: Api, time_: str) -> None:
    answer = acme.ask(
        "POST", "/emails",
        {"from": "news@acme.test", "to": ["dave@peer.test"], "subject": "s", "text": "t", "send_at": time_},
    )  # fmt: skip
    assert answer.status == 422 and answer.body["errors"][0]["pointer"] == "/send_at"


def test_a_message_that_waits_too_long_expires_and_suppresses_nobody(
    lab: Lab, server: Server, acme: Api, token: str
) -> None:
    address = f"dave+{token[5:15]}@peer.test"
    sent = [acme.send(token, address, send_at=later(1), valid_for=60)["id"] for _number in range(3)]
    ids = ", ".join(map(repr, sent))
    # an hour and a minute pass
    sql(lab, server.name, f"UPDATE api.recipient SET expires_at = now() WHERE message IN ({ids})")
    wait_until(lambda: all(acme.kinds(email) == ["accepted", "expired"] for email in sent), 60, "all expired")
    assert acme.events(sent[0])[-1]["code"] == "4.4.7"
    assert acme.ask("GET", f"/suppressions/{address}").status == 404
    assert acme.ask("POST", f"/emails/{sent[0]}/retry").status == 200
    wait_until(lambda: "delivered" in acme.kinds(sent[0]), 60, "the retry is delivered")


def test_a_check_says_what_sending_would_and_stores_nothing(acme: Api, token: str) -> None:
    good = {"from": "News <news@acme.test>", "to": ["dave@peer.test"], "subject": token, "text": "Hello.\n"}
    answer = acme.ask("POST", "/emails/validate", good)
    assert answer.status == 200 and answer.body["recipients"] == [{"address": "dave@peer.test", "status": "queued"}]
    assert answer.body["from"] == "news@acme.test" and answer.body["size"] > 200
    wrong = acme.ask("POST", "/emails/validate", {**good, "to": ["dave"]})
    assert wrong.status == 422 and wrong.body["errors"][0]["pointer"] == "/to/0"
    assert token not in [email["subject"] for email in acme.ask("GET", "/emails?limit=100").body["data"]]


# --- messages that are written ----------------------------------------------------------------------------------------

HEAD = "From: News <news@acme.test>\r\nTo: Dave <dave@peer.test>\r\nSubject: {}\r\n"


def raw(content: str | bytes, *to: str, **more: Any) -> dict[str, Any]:
    octets = content.encode() if isinstance(content, str) else content
    return {"to": list(to) or ["dave@peer.test"], "content": base64.b64encode(octets).decode(), **more}


def test_a_written_message_arrives_as_it_is(lab: Lab, acme: Api, token: str) -> None:
    mime = (
        'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="b"\nX-Own: 1\nBcc: eve@peer.test\n\n--b\n\n'
        '.\nHello.\n--b\nContent-Type: text/csv\nContent-Disposition: attachment; filename="a.csv"\n\n1,2\n--b--\n'
    )
    answer = acme.ask("POST", "/emails/raw", raw(HEAD.format(token).replace("\r", "") + mime))
    assert answer.status == 202, answer
    arrived = at_peer(lab, token)
    assert "X-Own: 1" in arrived and "\n.\nHello.\n" in arrived and "eve@peer.test" not in arrived
    assert f"Message-ID: {answer.body['message_id']}" in arrived and re.search(r"^Date: ", arrived, re.MULTILINE)
    verdicts = " ".join(re.findall(r"^Authentication-Results: peer.*(?:\n[ \t].*)*", arrived, re.MULTILINE))
    assert "dkim=pass" in verdicts and "dmarc=pass" in verdicts
    files = acme.ask("GET", f"/emails/{answer.body['id']}/attachments").body["data"]
    assert files == [{"number": 0, "filename": "a.csv", "content_type": "text/csv", "size": 3}]
    assert acme.ask("GET", f"/emails/{answer.body['id']}/attachments/0").body == b"1,2"
    assert acme.ask("GET", f"/emails/{answer.body['id']}/attachments/1").status == 404


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("Subject: x\r\n\r\n", "from is missing"),
        ("From: a@globex.test\r\n\r\n", "not of acme.test"),
        ("From: a@acme.test, b@globex.test\r\n\r\n", "the header from"),
        ("From: a@acme.test\r\nFrom: b@globex.test\r\n\r\n", "twice"),
        ("From: a@acme.test\r\nSender: b@globex.test\r\n\r\n", "sender is not of"),
        ("From: a@acme.test\r\nReceived: x\r\n\r\n", "written by servers"),
        ("From: a@acme.test\r\nDKIM-Signature: x\r\n\r\n", "written by servers"),
        ("From: a@acme.test\r\nMessage-ID: x\r\n\r\n", "message-id"),
        ("From: a@acme.test\r\nFrom : b@globex.test\r\n\r\n", "that is none"),
        ("From: a@acme.test\rBcc: x@y.test\r\n\r\n", "carriage return"),
        ("From: a@acme.test\r\n\r\na\0b", "NUL"),
        ("From: a@acme.test\r\n\r\né", "8-bit"),
        ("From: a@acme.test\r\n\r\n" + "a" * 999, "998"),
        ("From: a@acme.test\r\nX: \x0b\r\n\r\n", "control"),
        ("From: a@acme.test", "empty line"),
        (" folded\r\n\r\n", "that is none"),
        ("From: a@acme.test\r\n" + "X: 1\r\n" * 300 + "\r\n", "more than 200"),
    ],
)
def test_what_is_no_message_is_refused(acme: Api, content: str, said: str) -> None:
    answer = acme.ask("POST", "/emails/raw", raw(content))
    assert answer.status == 422, answer
    assert any(said in error["detail"] for error in answer.body["errors"]), answer.body["errors"]


def test_a_written_message_goes_to_plain_addresses_alone(acme: Api) -> None:
    for address in ("dave@peer.test\r\nRCPT TO:<eve@peer.test>", "dave", "a@b.test>", "a@b.test\0"):
        answer = acme.ask("POST", "/emails/raw", raw("From: a@acme.test\r\n\r\n", address))
        assert answer.status == 422 and answer.body["errors"][0]["pointer"] == "/to/0"
    assert acme.ask("POST", "/emails/raw", raw("From: a@acme.test\r\n\r\n") | {"content": "%"}).status == 422


@pytest.mark.faults
def test_25_megabytes_are_sent_and_a_bomb_is_not(server: Server, acme: Api, token: str) -> None:
    """An attachment as large as a message may be; and one that says it is none."""
    content = base64.b64encode(b"\0" * 18_000_000).decode()
    accepted = acme.send(token, "dave@peer.test", attachments=[{"filename": "zeros.bin", "content": content}])
    wait_until(lambda: acme.kinds(accepted["id"])[-1] in ("delivered", "bounced", "rejected"), 120, "an end")
    # peer takes 10 MB, as Postfix does unless it is told otherwise
    assert "handed_over" in acme.kinds(accepted["id"])
    files = acme.ask("GET", f"/emails/{accepted['id']}/attachments").body["data"]
    assert [file["size"] for file in files] == [18_000_000]
    # 50 files of many kinds of nesting cost nothing: nothing is unpacked, neither ours nor the caller's
    nested = base64.b64encode(b"PK\x03\x04" + b"\0" * 1000).decode()
    many = [{"filename": f"{n}.zip", "content": nested, "content_type": "application/zip"} for n in range(51)]
    answer = acme.ask("POST", "/emails/validate", {
        "from": "news@acme.test", "to": ["dave@peer.test"], "subject": token, "text": "t", "attachments": many,
    })  # fmt: skip
    assert answer.status == 422 and answer.body["errors"][0]["pointer"] == "/attachments"
    deep = "From: a@acme.test\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\n" + "".join(
        f"--a\r\nContent-Type: multipart/mixed; boundary=a{'b' * (n % 60)}\r\n\r\n" for n in range(5000)
    )
    assert acme.ask("POST", "/emails/raw", raw(deep, send_at=later(1))).status == 202
    assert int(server.show("mailwright-api.service", "NRestarts")) == 0


# --- streams ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def newsletter(acme: Api, token: str) -> Iterator[str]:
    name = f"news-{token[5:15]}"
    made = acme.ask("POST", "/streams", {"name": name, "kind": "broadcast"})
    assert made.status == 201 and not made.body["built_in"]
    yield name
    acme.ask("DELETE", f"/streams/{name}")


def test_streams_are_made_and_removed(acme: Api, newsletter: str) -> None:
    taken = acme.ask("POST", "/streams", {"name": newsletter, "kind": "transactional"})
    assert (taken.status, taken.body["code"]) == (409, "name_taken")
    names = [entry["name"] for entry in acme.ask("GET", "/streams").body["data"]]
    assert names[:2] == ["transactional", "broadcast"] and newsletter in names
    assert acme.ask("DELETE", "/streams/broadcast").body["code"] == "built_in"
    assert acme.ask("DELETE", f"/streams/{newsletter}").status == 204
    unknown = {"from": "a@acme.test", "to": ["dave@peer.test"], "subject": "s", "text": "t", "stream": newsletter}
    assert acme.ask("POST", "/emails", unknown).body["errors"][0]["pointer"] == "/stream"


def test_one_click_unsubscribes_from_the_stream_alone(
    lab: Lab, server: Server, acme: Api, anybody: Api, newsletter: str, token: str
) -> None:
    address = f"dave+{token[5:15]}@peer.test"
    first = acme.send(f"{token}-1", address, "dave@peer.test", stream=newsletter)
    message = next(text for text in both_at_peer(lab, f"{token}-1") if f"Delivered-To: {address}" in text
                   or f"X-Original-To: {address}" in text)  # fmt: skip
    link = re.search(r"^List-Unsubscribe: <https://mx1\.acme\.test/api/v1(/unsubscribe/[a-z2-7]{26})>", message, re.M)
    assert link and "List-Unsubscribe-Post: List-Unsubscribe=One-Click" in message
    # both headers are signed (RFC 8058 section 4)
    signed = re.sub(r"\s+", "", re.findall(r"^DKIM-Signature:.*(?:\n[ \t].*)*", message, re.M)[0])
    assert "list-unsubscribe:" in signed.lower() and "list-unsubscribe-post" in signed.lower()

    asked = anybody.ask("GET", link[1])
    assert asked.status == 200 and b"<button>" in asked.body and asked.headers["cache-control"] == "no-store"
    assert "form-action 'self'" in asked.headers["content-security-policy"]
    assert acme.ask("GET", f"/suppressions/{address}?stream={newsletter}").status == 404
    for _twice in range(2):
        assert anybody.ask("POST", link[1], headers=FORM, raw=b"List-Unsubscribe=One-Click").status == 200
    assert acme.ask("GET", f"/suppressions/{address}?stream={newsletter}").body["reason"] == "unsubscribed"
    assert acme.kinds(first["id"]).count("unsubscribed") == 1

    again = acme.send(f"{token}-2", address, "dave@peer.test", stream=newsletter)
    assert [entry["status"] for entry in again["recipients"]] == ["suppressed", "queued"]
    assert acme.send(f"{token}-3", address)["recipients"][0]["status"] == "queued"
    assert acme.send(f"{token}-4", address, stream="broadcast")["recipients"][0]["status"] == "queued"
    # a message of a transactional stream has no link, and its token opens none
    plain = at_peer(lab, f"{token}-3")
    assert "List-Unsubscribe" not in plain
    assert anybody.ask("POST", f"/unsubscribe/{return_path(plain)[2:28]}", headers=FORM, raw=b"").status == 404

    # the link works when its message is forgotten
    assert acme.ask("DELETE", f"/suppressions/{address}?stream={newsletter}").status == 204
    sql(lab, server.name, f"UPDATE api.message SET created_at = now() - interval '31 days' WHERE id = '{first['id']}'")
    server.run("systemctl restart mailwright-dispatch")
    wait_until(lambda: acme.ask("GET", f"/emails/{first['id']}").status == 404, 60, "the message is forgotten")
    assert anybody.ask("POST", link[1], headers=FORM, raw=b"List-Unsubscribe=One-Click").status == 200
    assert acme.ask("DELETE", f"/suppressions/{address}?stream={newsletter}").status == 204


def both_at_peer(lab: Lab, token: str) -> list[str]:
    """The texts of two messages with this subject."""
    find = f"grep -rl {token} ~dave/Maildir/new ~dave/Maildir/cur || true"
    files = wait_until(lambda: len(found := lab.ssh("peer", find).split()) == 2 and found, 60, "two messages")
    assert isinstance(files, list)
    return [lab.ssh("peer", f"cat {file}") for file in files]


def test_a_message_with_its_own_link_keeps_it(lab: Lab, acme: Api, token: str) -> None:
    acme.send(token, "dave@peer.test", stream="broadcast", headers={"List-Unsubscribe": "<https://acme.example/u>"})
    assert re.findall(r"^List-Unsubscribe: (.*)$", at_peer(lab, token), re.M) == ["<https://acme.example/u>"]


# --- complaints and late reports --------------------------------------------------------------------------------------


def complaint(message: str, kind: str = "abuse") -> str:
    """As mailbox providers send it (RFC 5965)."""
    head = message.partition("\n\n")[0]
    return (
        "From: fbl@peer.test\nTo: fbl@acme.test\nSubject: FW: complaint\nMIME-Version: 1.0\n"
        'Content-Type: multipart/report; report-type=feedback-report; boundary="b"\n\n--b\n'
        "Content-Type: text/plain\n\nAn email abuse report.\n\n--b\nContent-Type: message/feedback-report\n\n"
        f"Feedback-Type: {kind}\nUser-Agent: Peer-FBL/1.0\nVersion: 1\n\n"
        f"--b\nContent-Type: message/rfc822\n\n{head}\n\nBody.\n\n--b--\n"
    )


def test_a_complaint_becomes_an_event_and_a_suppression_that_stays(
    lab: Lab, server: Server, acme: Api, globex: Api, token: str
) -> None:
    address = f"dave+{token[5:15]}@peer.test"
    sent = [acme.send(f"{token}-{number}", address, stream="broadcast")["id"] for number in range(3)]
    messages = [at_peer(lab, f"{token}-{number}") for number in range(3)]
    stranger = re.sub(r"[a-z2-7]{26}(?=@acme\.test|>)", "a" * 26, messages[2])
    try:
        # one that is none, one about nobody, then to the address of complaints and to the message's own sender
        for text, recipient in (
            (complaint(messages[0], "not-spam"), "fbl@acme.test"),
            (complaint(stranger), "fbl@acme.test"),
            (complaint(messages[1]), "fbl@acme.test"),
            (complaint("Subject: x"), return_path(messages[2])),
        ):
            lab.ssh("peer", f"sendmail -i -f fbl@peer.test '{recipient}'", data=text)
        wait_until(lambda: all("complained" in acme.kinds(email) for email in sent[1:]), 60, "the complaints")
        assert "complained" not in acme.kinds(sent[0])
        found = acme.ask("GET", f"/suppressions/{address}?stream=broadcast").body
        assert (found["reason"], found["detail"]) == ("complaint", "abuse Peer-FBL/1.0")
        assert acme.send(token, address, stream="broadcast")["recipients"][0]["status"] == "suppressed"
        assert acme.send(token, address)["recipients"][0]["status"] == "queued"
        # not for the sender to lift, not even past the service
        lifted = acme.ask("DELETE", f"/suppressions/{address}?stream=broadcast")
        assert (lifted.status, lifted.body["code"]) == (409, "complaint")
        delete = "SET ROLE mailwright_api; SET api.domain = 'acme.test'; DELETE FROM api.suppression"
        sql(lab, server.name, f"{delete} WHERE address = '{address}';")
        assert acme.ask("GET", f"/suppressions/{address}?stream=broadcast").status == 200
        listed = acme.ask("GET", "/complaints?limit=100").body["data"]
        ours = [event for event in listed if event["email"] in sent]
        assert sorted(event["email"] for event in ours) == sorted(sent[1:])
        assert acme.ask("GET", f"/complaints/{ours[0]['id']}").body == ours[0]
        assert globex.ask("GET", f"/complaints/{ours[0]['id']}").status == 404
        assert acme.ask("GET", f"/bounces/{ours[0]['id']}").status == 404
    finally:
        sql(lab, server.name, f"DELETE FROM api.suppression WHERE address = '{address}'")


LATE = [
    # action, status, kind, category, reason of the suppression
    ("failed", "5.0.0", "bounced", "other", None),
    ("failed", "5.1.1", "bounced", "address", "invalid_recipient"),
    ("failed", "5.1.2", "bounced", "address", "bad_domain"),
    ("failed", "5.2.1", "bounced", "mailbox", "inactive_mailbox"),
    ("failed", "5.2.2", "bounced", "mailbox", None),
    ("failed", "5.3.4", "bounced", "system", None),
    ("failed", "5.4.4", "bounced", "network", "bad_domain"),
    ("failed", "5.5.4", "bounced", "protocol", None),
    ("failed", "5.6.1", "bounced", "content", None),
    ("failed", "5.7.1", "bounced", "policy", None),
    ("failed", "5.7.26", "bounced", "policy", None),
    ("failed", "4.4.7", "expired", "network", None),
    ("delayed", "4.4.1", "deferred", "network", None),
    ("delivered", "2.0.0", None, "", None),
]


def test_late_reports_of_every_class_have_the_right_effect(lab: Lab, acme: Api, token: str) -> None:
    subjects = [f"{token}-{number}-" for number in range(len(LATE))]
    addresses = [f"dave+{token[5:15]}-{number}@peer.test" for number in range(len(LATE))]
    batch = [
        {"from": "news@acme.test", "to": [address], "subject": subject, "text": "t"}
        for subject, address in zip(subjects, addresses, strict=True)
    ]
    sent = [item["email"]["id"] for item in acme.ask("POST", "/emails/batch", {"emails": batch}).body["data"]]
    wait_until(lambda: all("delivered" in acme.kinds(email) for email in sent), 120, "all are delivered")
    script = ""
    for (action, status, *_rest), subject, address in zip(LATE, subjects, addresses, strict=True):
        report = (
            "From: MAILER-DAEMON@inner.peer.test\nSubject: Report\nMIME-Version: 1.0\n"
            'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\n\n--b\n'
            "Content-Type: text/plain\n\nSorry.\n\n--b\nContent-Type: message/delivery-status\n\n"
            f"Reporting-MTA: dns; inner.peer.test\n\nFinal-Recipient: rfc822; {address}\nAction: {action}\n"
            f"Status: {status}\nDiagnostic-Code: smtp; 550 {status} said so\n\n--b--\n"
        )
        script += (
            f"to=$(sed -n 's/^Return-Path: <\\(.*\\)>/\\1/p' $(grep -rl '{subject}' ~dave/Maildir/new | head -1))\n"
            f"sendmail -i -f '<>' \"$to\" <<'END'\n{report}END\n"
        )
    lab.ssh("peer", "sh -s", data=script)
    wait_until(
        lambda: all(
            kind is None or kind in acme.kinds(email) for (_a, _s, kind, *_r), email in zip(LATE, sent, strict=True)
        ),
        120,
        "all reports are recorded",
    )
    wait_until(lambda: not lab.ssh("peer", "postqueue -j").splitlines(), 60, "peer's queue is empty")
    bounces = {event["email"]: event for event in acme.ask("GET", f"/bounces?limit=100&after={first_event(acme, sent)}")
               .body["data"]}  # fmt: skip
    for (_action, status, kind, category, reason), email, address in zip(LATE, sent, addresses, strict=True):
        events = acme.events(email)
        if kind is None:
            assert [event["kind"] for event in events][-1] == "delivered"
        else:
            assert (events[-1]["kind"], events[-1]["code"], events[-1]["relay"]) == (kind, status, "inner.peer.test")
        if kind == "bounced":
            assert bounces[email]["category"] == category
        # a delay after the delivery changes nothing of the state
        state = acme.ask("GET", f"/emails/{email}").body["recipients"][0]["status"]
        assert state == (kind if kind in ("bounced", "expired") else "delivered"), status
        found = acme.ask("GET", f"/suppressions/{address}")
        assert (found.body["reason"] if found.status == 200 else None) == reason, status
        if reason:
            acme.ask("DELETE", f"/suppressions/{address}")


def first_event(acme: Api, sent: list[str]) -> int:
    return min(int(acme.events(email)[0]["id"]) for email in sent)


def test_refusals_of_every_class_have_the_right_effect(lab: Lab, acme: Api, token: str) -> None:
    """Peer refuses in the SMTP session, once with each code."""
    cases = [(status, category, reason) for action, status, kind, category, reason in LATE if kind == "bounced"]
    addresses = [f"dave+{token[5:15]}-{number}@peer.test" for number in range(len(cases))]
    rules = "".join(
        f"/^{re.escape(address)}$/ 550 {status} said so\n"
        for address, (status, *_rest) in zip(addresses, cases, strict=True)
    )
    before = lab.ssh("peer", "postconf -h smtpd_recipient_restrictions").strip()
    setting = "postconf -e 'smtpd_recipient_restrictions={}' && postfix reload"
    lab.ssh("peer", "cat > /etc/postfix/refuse", data=rules)
    lab.ssh("peer", setting.format(f"check_recipient_access regexp:/etc/postfix/refuse {before}"))
    try:
        email = acme.send(token, *addresses)["id"]
        wait_until(lambda: acme.kinds(email).count("bounced") == len(cases), 120, "all refused")
        codes = {event["recipient"]: event["code"] for event in acme.events(email) if event["kind"] == "bounced"}
        for address, (status, _category, reason) in zip(addresses, cases, strict=True):
            assert codes[address] == status
            found = acme.ask("GET", f"/suppressions/{address}")
            assert (found.body["reason"] if found.status == 200 else None) == reason, status
            if reason:
                acme.ask("DELETE", f"/suppressions/{address}")
    finally:
        lab.ssh("peer", setting.format(before) + "; rm /etc/postfix/refuse")


# --- figures ----------------------------------------------------------------------------------------------------------

NAMES = ("accepted", "delivered", "bounced", "complained")


def test_figures_count_each_message_by_day_and_provider(
    lab: Lab, server: Server, acme: Api, globex: Api, token: str
) -> None:
    def today(api: Api, provider: str) -> dict[str, int]:
        cells = api.ask("GET", f"/statistics/days-and-providers?since={day}&until={day}").body["data"]
        return next((cell for cell in cells if cell["provider"] == provider), dict.fromkeys(NAMES, 0))

    day = datetime.now(UTC).date().isoformat()
    before, foreign = today(acme, "peer.test"), today(globex, "peer.test")
    unknown = f"nobody-{token[5:15]}@peer.test"
    email = acme.send(token, "dave@peer.test", f"dave+{token[5:15]}@peer.test", unknown)["id"]
    wait_until(lambda: len(acme.kinds(email)) == 9, 60, "all have an end")
    after = today(acme, "peer.test")
    assert [after[name] - before[name] for name in NAMES] == [3, 2, 1, 0]
    assert today(globex, "peer.test") == foreign
    total = acme.ask("GET", "/statistics").body
    days = acme.ask("GET", "/statistics/days").body["data"]
    providers = acme.ask("GET", "/statistics/providers").body["data"]
    for name in NAMES:
        assert total[name] == sum(entry[name] for entry in days) == sum(entry[name] for entry in providers)
    found = acme.ask("GET", "/deliverability").body
    assert 0 < found["overall"]["delivered_rate"] <= 1
    assert "peer.test" in [entry["provider"] for entry in found["providers"]]
    for wrong in ("since=2026-12-31&until=2026-01-01", "since=2020-01-01", "since=x", "until=0001-01-01"):
        assert acme.ask("GET", f"/statistics?{wrong}").status == 422

    # three days pass: the dispatcher sums the day up, and its events are forgotten
    old = (datetime.now(UTC) - timedelta(days=3)).date().isoformat()
    path = f"/statistics/days-and-providers?since={old}&until={old}"
    try:
        sql(lab, server.name, f"UPDATE api.event SET at = at - interval '3 days' WHERE message = '{email}';")
        server.run("systemctl restart mailwright-dispatch")
        wait_until(lambda: acme.ask("GET", path).body["data"], 60, "the day is summed up")
        sql(lab, server.name, f"DELETE FROM api.event WHERE message = '{email}';")
        cell = acme.ask("GET", path).body["data"][0]
        assert (cell["provider"], *(cell[name] for name in NAMES)) == ("peer.test", 3, 2, 1, 0)
        assert globex.ask("GET", path).body["data"] == []
        rows = "SET ROLE mailwright_api; SET api.domain = 'globex.test'; SELECT count(*) FROM api.statistic"
        assert sql(lab, server.name, f"{rows} WHERE domain = 'acme.test';") == "0"
    finally:
        acme.ask("DELETE", f"/suppressions/{unknown}")
        sql(lab, server.name, "DELETE FROM api.statistic WHERE domain = 'acme.test'")


def test_providers_are_known_by_their_servers(lab: Lab, server: Server) -> None:
    names = {
        "gmail-smtp-in.l.google.com[142.250.1.1]:25": "google.com",
        "mx-eu.mail.am0.yahoodns.net[1.2.3.4]:25": "yahoodns.net",
        "acme-example.mail.protection.outlook.com[1.2.3.4]:25": "outlook.com",
        "mx.foo.co.uk[1.2.3.4]:25": "foo.co.uk",
        "MX.Peer.Test[2001:db8::1]:25": "peer.test",
        "mx1[/run/dovecot/lmtp]": "local",
        "": "",
        "nonsense": "",
    }
    values = ", ".join(f"('{relay}')" for relay in names)
    found = sql(lab, server.name, f"SELECT relay || '|' || api.provider(relay) FROM (VALUES {values}) AS v(relay)")
    assert dict(line.split("|") for line in found.splitlines()) == names
