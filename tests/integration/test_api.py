# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sending API from outside: from a key to dave's mailbox, what it refuses, and who sees what.

Real parts all the way: nginx, the service, PostgreSQL, the dispatcher, Postfix, Rspamd, and peer's own verifiers.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import ssl
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.sending.keys import SCOPES
from ansible_collections.mailwright.server.tests.integration.conftest import Server
from ansible_collections.mailwright.server.tests.integration.sending import BASE, Answer, Api, sql
from connection import CHECKOUT, Lab, wait_until


def test_the_description_is_the_one_in_the_documentation(description: dict[str, Any]) -> None:
    committed = json.loads((CHECKOUT / "docs/reference/openapi.json").read_text())
    assert description == committed
    assert description["openapi"].startswith("3.1")


# --- sending ----------------------------------------------------------------------------------------------------------


def test_a_message_is_accepted_signed_and_delivered(lab: Lab, server: Server, token: str) -> None:
    """With the key that the inventory declares."""
    api = Api(lab, server.name, lab.env["LAB_API_KEY"])
    started = time.monotonic()
    accepted = api.send(token, "dave@peer.test")
    assert [entry["status"] for entry in accepted["recipients"]] == ["queued"]
    wait_until(lambda: "delivered" in api.kinds(accepted["id"]), 30, "the event delivered")
    print(f"  {time.monotonic() - started:5.2f} s  accepted to delivered")
    assert api.kinds(accepted["id"]) == ["accepted", "handed_over", "delivered"]
    message = wait_until(lambda: lab.dave_has(token), 30, "the message at peer")
    verdicts = " ".join(re.findall(r"^Authentication-Results: peer.*(?:\n[ \t].*)*", message, re.MULTILINE))
    assert "dkim=pass" in verdicts and "header.d=acme.test" in verdicts
    assert "spf=pass" in verdicts and "dmarc=pass" in verdicts
    assert f"Message-ID: {accepted['message_id']}" in message
    assert "a=ed25519-sha256" in message and "a=rsa-sha256" in message
    shown = api.ask("GET", f"/emails/{accepted['id']}").body
    assert shown["from"] == "news@acme.test" and shown["subject"] == token
    assert [entry["status"] for entry in shown["recipients"]] == ["delivered"]


def test_what_postfix_closed_delays_nothing(server: Server, acme: Api, token: str) -> None:
    """It closes the dispatcher's connections when it is restarted, and those that are idle for five minutes. Each
    message that met one was put off by two seconds, and met the next."""

    def handed_over(email: str) -> bool:
        return "handed_over" in acme.kinds(email)

    def send_in_turn() -> float:
        started = time.monotonic()
        for _number in range(16):
            email = acme.send(token, "dave@peer.test")["id"]
            wait_until(partial(handed_over, email), 60, "the hand-over", every=0.02)
        return time.monotonic() - started

    before = send_in_turn()
    server.run("systemctl restart postfix")
    server.run("until postqueue -p >/dev/null; do sleep 0.2; done")
    after = send_in_turn()
    print(f"  {before:.1f} s for 16 messages in turn, {after:.1f} s after a restart of Postfix")
    assert after < before + 16


def test_what_postgresql_closed_refuses_nobody(lab: Lab, server: Server) -> None:
    """After its restart the service has dead connections: no caller is told that the database does not answer."""

    def ask(_number: int) -> int:
        return Api(lab, server.name, lab.env["LAB_API_KEY"]).ask("GET", "/emails").status

    with ThreadPoolExecutor(16) as callers:
        assert set(callers.map(ask, range(64))) == {200}
    server.run("systemctl restart postgresql@17-main")
    assert [ask(number) for number in range(8)] == [200] * 8


def test_each_recipient_gets_one_message_and_bcc_stays_hidden(lab: Lab, acme: Api, token: str) -> None:
    accepted = acme.send(
        token,
        "Dave <dave+one@peer.test>",
        cc=["dave+two@peer.test", "DAVE+one@peer.test"],
        bcc=["dave+three@peer.test"],
    )
    assert len(accepted["recipients"]) == 3
    wait_until(lambda: acme.kinds(accepted["id"]).count("delivered") == 3, 60, "three deliveries")
    files = lab.ssh("peer", f"grep -rl {token} ~dave/Maildir/new ~dave/Maildir/cur").split()
    assert len(files) == 3
    texts = lab.ssh("peer", f"cat {' '.join(files)}")
    assert len(set(re.findall(r"^Return-Path: <b\+([a-z2-7]{26})@acme\.test>", texts, re.MULTILINE))) == 3
    assert "dave+three" not in re.sub(r"(?im)^(delivered-to|x-original-to|\s+for|received):?.*$", "", texts)


def test_text_html_headers_and_attachments_arrive(lab: Lab, acme: Api, token: str) -> None:
    accepted = acme.send(
        f"{token} Grüße €", "dave@peer.test", html="<p>Grüße</p>", reply_to=["Help <help@elsewhere.example>"],
        headers={"X-Campaign": "spring", "List-Unsubscribe": "<https://acme.example/u/1>"},
        attachments=[{"filename": "zahlen.csv", "content": "YSxiCg==", "content_type": "text/csv"}],
    )  # fmt: skip
    wait_until(lambda: "delivered" in acme.kinds(accepted["id"]), 30, "the delivery")
    message = lab.ssh("peer", f"cat $(grep -rl '{accepted['message_id']}' ~dave/Maildir/new ~dave/Maildir/cur)")
    assert "X-Campaign: spring" in message and 'filename="zahlen.csv"' in message and "YSxiCg==" in message
    assert "Reply-To: Help <help@elsewhere.example>" in message and "multipart/alternative" in message
    content = acme.ask("GET", f"/emails/{accepted['id']}/content")
    assert content.headers["content-type"] == "message/rfc822" and b"zahlen.csv" in content.body


def test_a_batch_gives_a_result_for_each(acme: Api, token: str) -> None:
    good = {"from": "news@acme.test", "to": ["dave@peer.test"], "subject": token, "text": "Hello.\n"}
    bad = {**good, "from": "news@globex.test"}
    answer = acme.ask("POST", "/emails/batch", {"emails": [good, bad, good]})
    assert answer.status == 202
    first, second, third = answer.body["data"]
    assert second["email"] is None and second["error"]["errors"][0]["pointer"] == "/from"
    both = [item["email"]["id"] for item in (first, third)]
    wait_until(lambda: all("delivered" in acme.kinds(email) for email in both), 60, "both deliveries")


def test_the_same_idempotency_key_sends_once(lab: Lab, acme: Api, globex: Api, token: str) -> None:
    key = {"Idempotency-Key": token}
    body = {"from": "news@acme.test", "to": ["dave@peer.test"], "subject": token, "text": "Hello.\n"}
    first, again = (acme.ask("POST", "/emails", body, key) for _number in range(2))
    assert (first.status, again.status) == (202, 202)
    assert again.body == first.body and again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    other = acme.ask("POST", "/emails", {**body, "text": "Something else.\n"}, key)
    assert (other.status, other.body["code"]) == (409, "idempotency_mismatch")
    # another domain's keys are its own
    assert globex.ask("POST", "/emails", {**body, "from": "a@globex.test"}, key).status == 202
    wait_until(lambda: "delivered" in acme.kinds(first.body["id"]), 30, "the delivery")
    assert len(lab.ssh("peer", f"grep -rl '{first.body['message_id']}' ~dave/Maildir/new").split()) == 1


# --- what comes back --------------------------------------------------------------------------------------------------


def test_an_unknown_recipient_bounces_and_is_suppressed(acme: Api, globex: Api, token: str) -> None:
    address = f"nobody-{token[5:15]}@peer.test"
    first = acme.send(token, address)
    wait_until(lambda: "bounced" in acme.kinds(first["id"]), 60, "the bounce")
    event = acme.events(first["id"])[-1]
    assert event["code"] == "5.1.1" and event["recipient"] == address and event["relay"].startswith("peer.peer.test")
    found = acme.ask("GET", f"/suppressions/{address}").body
    assert found["reason"] == "invalid_recipient"
    # the next one is not sent; another domain's is
    second = acme.send(token, address, "dave@peer.test")
    assert [entry["status"] for entry in second["recipients"]] == ["suppressed", "queued"]
    wait_until(lambda: "delivered" in acme.kinds(second["id"]), 30, "the other recipient's delivery")
    assert acme.kinds(second["id"]).count("suppressed") == 1 and "bounced" not in acme.kinds(second["id"])
    assert globex.ask("GET", f"/suppressions/{address}").status == 404
    assert acme.ask("DELETE", f"/suppressions/{address}").status == 204
    assert acme.send(token, address)["recipients"][0]["status"] == "queued"


def test_a_policy_rejection_suppresses_nobody(lab: Lab, acme: Api, token: str) -> None:
    address = f"dave+{token[5:15]}@peer.test"
    rule = f"/^{re.escape(address)}$/ REJECT 5.7.1 Not from you"
    before = lab.ssh("peer", "postconf -h smtpd_recipient_restrictions").strip()
    # restarted: after a reload, processes that wait for a connection take one more by the old rules
    setting = "postconf -e 'smtpd_recipient_restrictions={}' && systemctl restart postfix"
    lab.ssh("peer", "cat > /etc/postfix/refuse", data=rule + "\n")
    lab.ssh("peer", setting.format(f"check_recipient_access regexp:/etc/postfix/refuse {before}"))
    try:
        accepted = acme.send(token, address)
        wait_until(lambda: "bounced" in acme.kinds(accepted["id"]), 60, "the bounce")
        assert acme.events(accepted["id"])[-1]["code"] == "5.7.1"
        assert acme.ask("GET", f"/suppressions/{address}").status == 404
    finally:
        lab.ssh("peer", f"{setting.format(before)}; rm /etc/postfix/refuse")


def test_a_late_report_from_elsewhere_bounces_what_was_delivered(lab: Lab, acme: Api, token: str) -> None:
    accepted = acme.send(token, "dave+late@peer.test")
    wait_until(lambda: "delivered" in acme.kinds(accepted["id"]), 30, "the delivery")
    message = wait_until(lambda: lab.dave_has(token), 30, "the message at peer")
    found = re.search(r"^Return-Path: <(.*)>", message, re.MULTILINE)
    assert found
    report = (
        f"From: MAILER-DAEMON@inner.peer.test\nTo: {found[1]}\nSubject: Undelivered\nMIME-Version: 1.0\n"
        'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\n\n--b\n'
        "Content-Type: text/plain\n\nSorry.\n\n--b\nContent-Type: message/delivery-status\n\n"
        "Reporting-MTA: dns; inner.peer.test\n\nFinal-Recipient: rfc822; dave+late@peer.test\nAction: failed\n"
        "Status: 5.2.1\nDiagnostic-Code: smtp; 550 5.2.1 mailbox closed\n\n--b--\n"
    )
    try:
        # a stranger without the token changes nothing
        for recipient in (f"b+{'a' * 26}@acme.test", found[1]):
            lab.ssh("peer", f"sendmail -i -f '<>' '{recipient}'", data=report)
        wait_until(lambda: "bounced" in acme.kinds(accepted["id"]), 60, "the late bounce")
        event = acme.events(accepted["id"])[-1]
        assert (event["code"], event["detail"]) == ("5.2.1", "550 5.2.1 mailbox closed")
        assert acme.ask("GET", "/suppressions/dave+late@peer.test").body["reason"] == "inactive_mailbox"
        # the same report again is no second event
        lab.ssh("peer", f"sendmail -i -f '<>' '{found[1]}'", data=report)
        wait_until(lambda: not json_queue(lab), 60, "peer's queue is empty")
        assert acme.kinds(accepted["id"]).count("bounced") == 1
    finally:
        acme.ask("DELETE", "/suppressions/dave+late@peer.test")


def json_queue(lab: Lab) -> list[str]:
    return lab.ssh("peer", "postqueue -j").splitlines()


# --- what is refused --------------------------------------------------------------------------------------------------

CRLF = "\r\n"
GOOD: dict[str, Any] = {"from": "news@acme.test", "to": ["dave@peer.test"], "subject": "s", "text": "t"}


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        pytest.param({"to": [f"dave@peer.test{CRLF}RCPT TO:<alice@acme.test>"]}, "/to/0", id="second-rcpt"),
        pytest.param({"to": ["dave@peer.test>\r\nDATA\r\n"]}, "/to/0", id="data"),
        pytest.param({"to": ["dave@peer.test\0"]}, "/to/0", id="nul-in-address"),
        pytest.param({"to": ["<dave@peer.test> SIZE=1"]}, "/to/0", id="parameter"),
        pytest.param({"to": ["dave@peer.test, eve@peer.test"]}, "/to/0", id="two-in-one"),
        pytest.param({"to": ["dave"]}, "/to/0", id="no-domain"),
        pytest.param({"to": ["dave@[127.0.0.1]"]}, "/to/0", id="literal"),
        pytest.param({"to": []}, "/to", id="nobody"),
        pytest.param({"to": ["dave@peer.test"] * 51}, "/to", id="too-many"),
        pytest.param({"cc": ["eve@peer.test\nX: y"]}, "/cc/0", id="cc"),
        pytest.param({"from": "News\r\nBcc: eve@peer.test <news@acme.test>"}, "/from", id="from-name"),
        pytest.param({"from": "news@globex.test"}, "/from", id="others-domain"),
        pytest.param({"from": "news@sub.acme.test"}, "/from", id="subdomain"),
        pytest.param({"from": "news@acme.test <news@globex.test>"}, "/from", id="two-senders"),
        pytest.param({"subject": "s\r\nBcc: eve@peer.test"}, "/subject", id="subject"),
        pytest.param({"subject": "s\u2028x"}, "/subject", id="line-separator"),
        pytest.param({"headers": {"X-A": "1\r\nBcc: eve@peer.test"}}, "/headers/X-A", id="header-value"),
        pytest.param({"headers": {"X-A\r\nBcc": "eve@peer.test"}}, "/headers", id="header-name"),
        pytest.param({"headers": {"X A": "1"}}, "/headers", id="space-in-name"),
        pytest.param({"headers": {"Bcc": "eve@peer.test"}}, "/headers/Bcc", id="bcc"),
        pytest.param({"headers": {"DKIM-Signature": "v=1"}}, "/headers/DKIM-Signature", id="signature"),
        pytest.param({"headers": {"Content-Type": "text/html"}}, "/headers/Content-Type", id="content-type"),
        pytest.param({"headers": {"X-A": "1", "x-a": "2"}}, "/headers/x-a", id="twice"),
        pytest.param({"text": "a\0b"}, "/text", id="nul-in-text"),
        pytest.param({"text": None}, "/text", id="no-body"),
        pytest.param({"attachments": [{"filename": "a\n", "content": ""}]}, "/attachments/0/filename", id="file-name"),
        pytest.param({"attachments": [{"filename": "../a", "content": ""}]}, "/attachments/0/filename", id="path"),
        pytest.param({"attachments": [{"filename": "a", "content": "%%"}]}, "/attachments/0/content", id="no-base64"),
        pytest.param(
            {"attachments": [{"filename": "a", "content": "", "content_type": "message/rfc822"}]},
            "/attachments/0/content_type", id="type",
        ),
        pytest.param({"unknown": 1}, "/unknown", id="unknown-key"),
        pytest.param({"subject": 1}, "/subject", id="number"),
    ],
)  # fmt: skip
def test_what_cannot_be_sent_is_refused_with_its_place(acme: Api, change: dict[str, Any], pointer: str) -> None:
    answer = acme.ask("POST", "/emails", {**GOOD, **change})
    assert answer.status == 422, answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.body["code"] == "invalid_request"
    assert pointer in [error["pointer"] for error in answer.body["errors"]]
    assert re.fullmatch(r"[0-9a-f]{32}", answer.body["request_id"])


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 2000, b'{"from": "\\ud800"}'])
def test_what_is_no_request_is_refused(acme: Api, raw: bytes) -> None:
    answer = acme.ask("POST", "/emails", raw=raw)
    assert answer.status in (400, 422), answer
    assert answer.headers["content-type"] == "application/problem+json"


def test_what_is_too_large_is_refused(acme: Api) -> None:
    bomb = {"filename": "a", "content": "QUFB" * 7_000_000}
    answer = acme.ask("POST", "/emails", {**GOOD, "attachments": [bomb]})
    assert answer.status == 422 and "octets" in answer.body["errors"][0]["detail"]
    # nginx may close before all is sent
    with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError, http.client.HTTPException):
        assert acme.ask("POST", "/emails", raw=b"x" * 45_000_000).status == 413
    assert acme.ask("GET", "/domains").status == 200


@pytest.mark.parametrize(
    ("status", "code", "path", "headers"),
    [
        (413, "content_too_large", "/emails", {"Content-Length": "45000000"}),
        (413, "content_too_large", "/emails", {"Content-Length": "99000000"}),
        (414, "uri_too_long", f"/emails?after={'a' * 9000}", {}),
        (400, "headers_too_large", "/emails", {"Idempotency-Key": "a" * 9000}),
    ],
)
def test_what_nginx_refuses_is_a_problem_too(
    acme: Api, status: int, code: str, path: str, headers: dict[str, str]
) -> None:
    _refused_by_nginx(acme.ask("POST", path, raw=b"{}", headers=headers), status, code)
    assert acme.ask("GET", "/domains").status == 200


def test_a_service_that_is_down_is_a_problem_too(server: Server, acme: Api) -> None:
    units = "mailwright-api.socket mailwright-api.service"
    server.run(f"systemctl stop {units}")
    try:
        _refused_by_nginx(acme.ask("GET", "/domains"), 502, "unavailable")
    finally:
        server.run(f"systemctl start {units}")
    assert acme.ask("GET", "/domains").status == 200


def _refused_by_nginx(answer: Answer, status: int, code: str) -> None:
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.body["status"], answer.body["code"]) == (status, code)
    assert answer.body.keys() == {"type", "title", "status", "code", "detail", "errors", "request_id"}
    assert re.fullmatch(r"[0-9a-f]{32}", answer.body["request_id"])


def test_the_database_s_rows_hold_no_key(lab: Lab, server: Server, keys: list[str]) -> None:
    dump = lab.ssh(server.name, "su postgres -c 'pg_dump -a -n api mailwright'", timeout=300)
    assert not any(key in dump or key.rpartition("_")[2] in dump for key in keys)


# --- who sees what ----------------------------------------------------------------------------------------------------


def operations(description: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path.removeprefix(BASE), operation


def filled(path: str) -> str:
    values = {
        "key_id": "0" * 12, "address": "a@b.example", "name": "acme.test", "index": "0", "version": "1",
        "stream": "some", "event_id": "1", "number": "0",
    }  # fmt: skip
    return re.sub(r"{(\w+)}", lambda found: values.get(found[1]) or str(uuid.uuid4()), path)


# What a request must hold to come as far as the question whether the thing is there.
BODIES: dict[str, Mapping[str, object]] = {
    "POST /domains": {"name": "acme.test"},
    "PATCH /emails/{email_id}": {"send_at": "2026-01-01T00:00:00Z"},
    "POST /templates/{template_id}/versions": {"subject": "s", "text": "t"},
    "PATCH /aliases/{address}": {"destinations": ["dave@peer.test"]},
}


def body_of(method: str, path: str) -> Mapping[str, object] | None:
    return BODIES.get(f"{method} {path}", {}) if method in ("POST", "PATCH") else None


def test_every_route_wants_a_key_and_its_scope(
    lab: Lab, server: Server, acme: Api, anybody: Api, keys: list[str], description: dict[str, Any]
) -> None:
    wrong = keys[0][:-1] + ("0" if keys[0][-1] != "0" else "1")
    unknown = f"mw_{'0' * 12}_{'0' * 48}"
    strangers = [anybody, *(Api(lab, server.name, key) for key in (wrong, "mw_", "x" * 5000, unknown))]
    seen = {}
    for method, path, operation in operations(description):
        scope = operation["x-scope"]
        seen[f"{method} {path}"] = scope
        if scope in ("public", "host"):
            continue
        assert operation["security"] == [{"key": []}]
        for stranger in strangers:
            answer = stranger.ask(method, filled(path), body_of(method, path))
            assert (answer.status, answer.body["code"]) == (401, "unauthorized"), (method, path)
        # a key with all scopes but this one
        others = [name for name in SCOPES if name != scope]
        made = acme.ask("POST", "/api-keys", {"name": f"all but {scope}", "scopes": others})
        assert made.status == 201
        try:
            lacking = Api(lab, server.name, made.body["key"])
            answer = lacking.ask(method, filled(path), body_of(method, path))
            assert (answer.status, answer.body["code"]) == (403, "forbidden"), (method, path)
        finally:
            assert acme.ask("DELETE", f"/api-keys/{made.body['id']}").status == 204
    assert {path for path, scope in seen.items() if scope == "public"} == {
        "GET /livez", "GET /readyz", "GET /unsubscribe/{token}", "POST /unsubscribe/{token}"
    }  # fmt: skip
    assert {path for path, scope in seen.items() if scope == "host"} == {"GET /metrics"}
    assert len(seen) == 110


def test_another_domain_s_things_do_not_exist(acme: Api, globex: Api, description: dict[str, Any], token: str) -> None:
    email = acme.send(token, "dave@peer.test")["id"]
    key = acme.ask("POST", "/api-keys", {"name": token[:20], "scopes": ["emails.read"]}).body["id"]
    address = f"{token[5:15]}@peer.test"
    assert acme.ask("POST", "/suppressions", {"address": address}).status == 201
    template = acme.ask("POST", "/templates", {"name": token[:20], "subject": "s", "text": "t"}).body["id"]
    stream = f"s-{token[5:15]}"
    assert acme.ask("POST", "/streams", {"name": stream, "kind": "broadcast"}).status == 201
    values = {
        "email_id": email, "key_id": key, "address": address, "name": "acme.test", "template_id": template,
        "version": "1", "stream": stream, "event_id": str(acme.events(email)[0]["id"]), "number": "0",
    }  # fmt: skip
    tried = 0
    try:
        for method, path, operation in operations(description):
            # those of webhooks and inbound mail: test_api_hooks.py; of mailboxes and aliases: test_api_addresses.py;
            # of tenants: test_api_operators.py
            if (
                "{" not in path
                or operation["x-scope"] == "public"
                or "x-key-of" in operation
                or re.match("/(webhooks|inbound|mailboxes|aliases)/", path)
            ):
                continue
            tried += 1
            there = re.sub(r"{(\w+)}", lambda found: values[found[1]], path)
            answer = globex.ask(method, there, body_of(method, path))
            assert (answer.status, answer.body["code"]) == (404, "not_found"), (method, path)
        assert tried == 28
        for path, name in (
            ("/emails", "id"), ("/api-keys", "id"), ("/suppressions", "address"), ("/templates", "id"),
            ("/streams", "name"),
        ):  # fmt: skip
            listed = [entry[name] for entry in globex.ask("GET", path).body["data"]]
            assert not {email, key, address, template, stream} & set(listed)
        assert email not in {event["email"] for event in globex.ask("GET", "/events?limit=100").body["data"]}
        # and all of it is still there
        assert acme.ask("GET", f"/emails/{email}").status == 200
        assert acme.ask("GET", f"/suppressions/{address}").status == 200
        assert acme.ask("GET", f"/templates/{template}/versions/1").status == 200
        assert acme.ask("GET", f"/streams/{stream}").status == 200
        assert "cancelled" not in acme.kinds(email)
    finally:
        assert acme.ask("DELETE", f"/templates/{template}").status == 204
        assert acme.ask("DELETE", f"/streams/{stream}").status == 204
        assert acme.ask("DELETE", f"/api-keys/{key}").status == 204
        assert acme.ask("DELETE", f"/suppressions/{address}").status == 204


def test_row_level_security_holds_without_the_service(lab: Lab, server: Server, acme: Api, token: str) -> None:
    """The same questions as the service's role, without WHERE: one domain at a time, none when none is named."""
    acme.send(token, "dave@peer.test")
    acme.ask("POST", "/suppressions", {"address": "rls@peer.test"})
    acme.ask("POST", "/streams", {"name": "rls", "kind": "broadcast"})
    template = acme.ask("POST", "/templates", {"name": token[:20], "subject": "s", "text": "t"}).body["id"]
    tables = ("key", "message", "recipient", "event", "suppression", "template", "template_version", "stream")
    count = " || ' ' || ".join(f"(SELECT count(*) FROM api.{table})" for table in tables)

    def as_service(statements: str) -> str:
        return sql(lab, server.name, f"SET ROLE mailwright_api; {statements}")

    try:
        assert as_service(f"SELECT {count};") == " ".join("0" * len(tables))
        assert as_service(f"SET api.domain = 'nobody.test'; SELECT {count};") == " ".join("0" * len(tables))
        assert "0" not in as_service(f"SET api.domain = 'acme.test'; SELECT {count};").split()
        domains = as_service("SET api.domain = 'globex.test'; SELECT DISTINCT domain FROM api.key;")
        assert domains == "globex.test"
        foreign = "INSERT INTO api.suppression (domain, address, reason) VALUES ('acme.test', 'x@y.example', 'manual');"
        with pytest.raises(RuntimeError, match="row-level security"):
            as_service(f"SET api.domain = 'globex.test'; {foreign}")
        version = f"INSERT INTO api.template_version VALUES ('{template}', 'globex.test', 2, 's', 't', NULL);"
        with pytest.raises(RuntimeError, match="foreign key"):
            as_service(f"SET api.domain = 'globex.test'; {version}")
        # nor do the functions that change recipients look further
        email = acme.send(token, "dave@peer.test", send_at=(datetime.now(UTC) + timedelta(hours=1)).isoformat())["id"]
        for call in (f"api.cancel('{email}')", f"api.reschedule('{email}', now())"):
            assert as_service(f"SET api.domain = 'globex.test'; SELECT {call};") == "0"
            assert as_service(f"SELECT {call};") == "0"
        assert acme.kinds(email) == ["accepted"]
        for statement in ("UPDATE api.recipient SET status = 'queued'", "DELETE FROM api.event",
                          "SELECT * FROM directory.mailbox", "SELECT hash FROM directory.domain"):  # fmt: skip
            with pytest.raises(RuntimeError, match=r"permission denied|does not exist"):
                as_service(f"SET api.domain = 'acme.test'; {statement};")
    finally:
        acme.ask("DELETE", "/suppressions/rls@peer.test")
        acme.ask("DELETE", "/streams/rls")
        acme.ask("DELETE", f"/templates/{template}")


def test_keys_give_away_no_more_than_they_have(lab: Lab, server: Server, acme: Api) -> None:
    made = acme.ask("POST", "/api-keys", {"name": "keys only", "scopes": ["api_keys.write", "api_keys.read"]})
    assert made.status == 201
    small = Api(lab, server.name, made.body["key"])
    try:
        more = small.ask("POST", "/api-keys", {"name": "more", "scopes": ["emails.write"]})
        assert (more.status, more.body["code"]) == (403, "forbidden")
        again = acme.ask("POST", "/api-keys", {"name": "keys only", "scopes": ["emails.read"]})
        assert (again.status, again.body["code"]) == (409, "name_taken")
        unknown = acme.ask("POST", "/api-keys", {"name": "x", "scopes": ["root"]})
        assert (unknown.status, unknown.body["errors"][0]["pointer"]) == (422, "/scopes")
        changed = acme.ask("PATCH", f"/api-keys/{made.body['id']}", {"scopes": ["emails.read"]})
        assert changed.status == 200 and changed.body["scopes"] == ["emails.read"] and "key" not in changed.body
        assert small.ask("GET", "/api-keys").status == 403
    finally:
        assert acme.ask("DELETE", f"/api-keys/{made.body['id']}").status == 204
    # at once
    assert small.ask("GET", "/emails").status == 401
    inventory = next(key for key in acme.ask("GET", "/api-keys").body["data"] if key["owner"] == "inventory")
    for method in ("DELETE", "PATCH"):
        answer = acme.ask(method, f"/api-keys/{inventory['id']}", {} if method == "PATCH" else None)
        assert (answer.status, answer.body["code"]) == (409, "owned_by_inventory")


def test_pages_show_each_message_once(acme: Api, token: str) -> None:
    sent = [acme.send(token, "dave@peer.test")["id"] for _number in range(5)]
    found: list[str] = []
    after = ""
    while len(found) < 200:
        page = acme.ask("GET", f"/emails?limit=2{after}").body
        found += [email["id"] for email in page["data"]]
        if page["next"] is None or set(sent) <= set(found):
            break
        after = f"&after={page['next']}"
    assert found[:5] == sent[::-1]


def test_figures_are_for_the_host_alone(server: Server, anybody: Api) -> None:
    assert anybody.ask("GET", "/metrics").status == 404
    ask = (
        "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/mailwright-api.sock'); "
        "s.sendall(b'GET /api/v1/metrics HTTP/1.0\\r\\n\\r\\n'); print(s.makefile().read())"
    )
    text = server.run(f'python3 -c "{ask}"')
    assert re.search(r"^mailwright_api_accepted_total \d+$", text, re.MULTILINE)
    assert float(re.findall(r"^mailwright_api_log_age_seconds (.*)$", text, re.MULTILINE)[0]) < 30
    assert re.search(r"^mailwright_api_inbound_messages \d+$", text, re.MULTILINE)
    # a misspelt name in a rule would be quiet for ever
    rules = (CHECKOUT / "roles/metrics/templates/etc/prometheus/mailwright/alerts.yml").read_text()
    named = set(re.findall(r"mailwright_api_\w+", rules))
    assert named and all(re.search(rf"^{name}[ {{]", text, re.MULTILINE) for name in named)
    assert all(
        re.fullmatch(r'# TYPE \w+ (counter|gauge)|\w+({status="\w+"})? \S+', line)
        for line in text.partition("\n\n")[2].strip().splitlines()
    )


def test_the_services_reach_no_network(server: Server) -> None:
    """systemd's sandbox, as the running processes see it: no interface but loopback, and not even that answers."""
    for unit in ("mailwright-api", "mailwright-dispatch"):
        pid = server.show(f"{unit}.service", "MainPID")
        links = server.run(f"nsenter -t {pid} -n ip -o link show").splitlines()
        assert len(links) == 1 and " lo:" in links[0]
        status = server.run(f"cat /proc/{pid}/status")
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE) and re.search(
            r"^NoNewPrivs:\s+1$", status, re.MULTILINE
        )
        assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)


def test_nobody_else_opens_the_dispatcher_s_way_in(server: Server) -> None:
    """Another user of the host cannot hand Postfix mail there, which would be signed."""
    script = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/var/spool/postfix/public/api')"
    for user, works in (("www-data", False), ("nobody", False), ("mailwright-dispatch -G postdrop", True)):
        said = server.run(f'runuser -u {user} -- python3 -c "{script}" 2>&1 || true')
        assert ("PermissionError" not in said) is works, (user, said)
