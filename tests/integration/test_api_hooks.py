# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Webhooks, inbound routes and the audit log, with a receiver on peer: real posts, real mail, real DNS."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.rrset
import pytest
import zones
from ansible_collections.mailwright.server.plugins.module_utils.sending.webhooks import DELAYS
from ansible_collections.mailwright.server.tests.integration.conftest import Server
from ansible_collections.mailwright.server.tests.integration.posts import ENCRYPTED, Receiver, receiving, signature
from ansible_collections.mailwright.server.tests.integration.sending import Api, direct_keys, sql
from connection import CHECKOUT, Lab, message, wait_until

UNIT = "mailwright-webhooks.service"


@pytest.fixture(scope="module")
def receiver(lab: Lab) -> Iterator[Receiver]:
    with receiving(lab) as listening:
        yield listening


@pytest.fixture(scope="module")
def keys(lab: Lab, server: Server) -> Iterator[list[str]]:
    """All scopes for acme.test, all for globex.test."""
    with direct_keys(lab, server.name, "acme.test", "globex.test") as made:
        yield made


@pytest.fixture(scope="module")
def acme(lab: Lab, server: Server, keys: list[str]) -> Api:
    return Api(lab, server.name, keys[0])


@pytest.fixture(scope="module")
def globex(lab: Lab, server: Server, keys: list[str]) -> Api:
    return Api(lab, server.name, keys[1])


class Hooks:
    """Makes webhooks and removes them afterwards."""

    def __init__(self) -> None:
        self.made: list[tuple[Api, str]] = []

    def make(self, api: Api, name: str, url: str, *events: str) -> dict[str, Any]:
        answer = api.ask("POST", "/webhooks", {"name": name, "url": url, "events": list(events) or ["email.bounced"]})
        assert answer.status == 201, answer
        self.made.append((api, answer.body["id"]))
        webhook: dict[str, Any] = answer.body
        return webhook


@pytest.fixture
def hooks() -> Iterator[Hooks]:
    hooks = Hooks()
    try:
        yield hooks
    finally:
        for api, webhook in hooks.made:
            api.ask("DELETE", f"/webhooks/{webhook}")


def attempt(api: Api, webhook: dict[str, Any]) -> dict[str, Any]:
    """A test post, as it stands after its first attempt."""
    made = api.ask("POST", f"/webhooks/{webhook['id']}/test")
    assert made.status == 202, made

    def done() -> dict[str, Any] | None:
        found = delivery(api, webhook, made.body["id"])
        return found if found["error"] or found["response_status"] or found["status"] != "pending" else None

    return wait_until(done, 60, "the attempt")


def delivery(api: Api, webhook: dict[str, Any], wanted: str) -> dict[str, Any]:
    page = api.ask("GET", f"/webhooks/{webhook['id']}/deliveries?limit=100").body["data"]
    found: dict[str, Any] = next(entry for entry in page if entry["id"] == wanted)
    return found


def due(lab: Lab, host: str, webhook: dict[str, Any]) -> None:
    """Let the time until the next attempt be over."""
    sql(lab, host, f"UPDATE api.webhook_delivery SET next_at = now() WHERE webhook = '{webhook['id']}'")


# --- posting ----------------------------------------------------------------------------------------------------------


def test_events_are_posted_signed_to_their_domain_s_webhook(
    acme: Api, globex: Api, receiver: Receiver, hooks: Hooks, token: str
) -> None:
    path, others = f"/own-{token}", f"/others-{token}"
    events = ("email.accepted", "email.handed_over", "email.delivered")
    webhook = hooks.make(acme, token, receiver.base + path, *events)
    hooks.make(globex, token, receiver.base + others, *events)
    assert webhook["secret"].startswith("whsec_")
    assert "secret" not in acme.ask("GET", f"/webhooks/{webhook['id']}").body
    sent = acme.send(token, "dave@peer.test")["id"]
    requests = receiver.wait(path, 3)
    bodies = [json.loads(request["body"]) for request in requests]
    assert sorted(body["type"] for body in bodies) == sorted(events)
    assert {body["data"]["email"] for body in bodies} == {sent}
    assert {body["data"]["recipient"] for body in bodies} == {"dave@peer.test"}
    known = {event["id"]: event["kind"] for event in acme.events(sent)}
    assert {body["data"]["id"]: body["data"]["kind"] for body in bodies} == known
    for request in requests:
        assert request["headers"]["webhook-signature"] == signature(webhook["secret"], request)
        assert abs(int(request["headers"]["webhook-timestamp"]) - request["at"]) < 120
    ids = {request["headers"]["webhook-id"] for request in requests}
    assert len(ids) == 3
    listed = acme.ask("GET", f"/webhooks/{webhook['id']}/deliveries").body["data"]
    assert {entry["id"] for entry in listed} == ids
    wait_until(
        lambda: all(
            entry["status"] == "delivered"
            for entry in acme.ask("GET", f"/webhooks/{webhook['id']}/deliveries").body["data"]
        ), 30, "all are known as delivered",
    )  # fmt: skip
    assert receiver.requests(others) == []


def test_a_repeat_has_the_same_id_and_body(
    lab: Lab, server: Server, acme: Api, receiver: Receiver, hooks: Hooks, token: str
) -> None:
    webhook = hooks.make(acme, token, f"{receiver.base}/flaky/{token}")
    first = attempt(acme, webhook)
    assert (first["status"], first["response_status"], first["attempts"]) == ("pending", 500, 1)
    assert acme.ask("GET", f"/webhooks/{webhook['id']}").body["failing_since"] is not None
    receiver.wait(f"/flaky/{token}", 2)
    due(lab, server.name, webhook)
    requests = receiver.wait(f"/flaky/{token}", 3)
    assert len({(request["headers"]["webhook-id"], request["body"]) for request in requests}) == 1
    wait_until(lambda: delivery(acme, webhook, first["id"])["status"] == "delivered", 30, "the delivery")
    assert acme.ask("GET", f"/webhooks/{webhook['id']}").body["failing_since"] is None


@pytest.mark.faults
def test_a_death_while_posting_repeats_the_post(
    lab: Lab, server: Server, acme: Api, receiver: Receiver, hooks: Hooks, token: str
) -> None:
    slow = hooks.make(acme, token, f"{receiver.base}/slow/{token}")
    acme.ask("POST", f"/webhooks/{slow['id']}/test")
    receiver.wait(f"/slow/{token}")
    server.run(f"kill -9 $(systemctl show -P MainPID {UNIT})")
    wait_until(lambda: server.show(UNIT, "ActiveState") == "active", 30, "the service is back")
    due(lab, server.name, slow)
    again = receiver.wait(f"/slow/{token}", 2)
    assert len({(request["headers"]["webhook-id"], request["body"]) for request in again}) == 1


def test_a_post_can_be_made_again(acme: Api, receiver: Receiver, hooks: Hooks, token: str) -> None:
    webhook = hooks.make(acme, token, f"{receiver.base}/{token}")
    first = attempt(acme, webhook)
    place = f"/webhooks/{webhook['id']}"
    assert acme.ask("POST", f"{place}/deliveries/{first['id']}/redeliver").status == 202
    requests = receiver.wait(f"/{token}", 2)
    assert {request["headers"]["webhook-id"] for request in requests} == {first["id"]}
    wait_until(lambda: delivery(acme, webhook, first["id"])["status"] == "delivered", 30, "the delivery")
    assert acme.ask("POST", f"{place}/replay", {"since": "2020-01-01T00:00:00Z"}).body == {"count": 0}
    assert acme.ask("POST", f"{place}/replay", {"since": "2020-01-01T00:00:00Z", "status": "all"}).body == {"count": 1}
    receiver.wait(f"/{token}", 3)
    naive = acme.ask("POST", f"{place}/replay", {"since": "2020-01-01T00:00:00"})
    assert (naive.status, naive.body["errors"][0]["pointer"]) == (422, "/since")


def test_both_secrets_sign_while_one_is_being_changed(
    lab: Lab, server: Server, acme: Api, receiver: Receiver, hooks: Hooks, token: str
) -> None:
    webhook = hooks.make(acme, token, f"{receiver.base}/{token}")
    new = acme.ask("POST", f"/webhooks/{webhook['id']}/rotate-secret").body
    assert new["secret"] != webhook["secret"] and new["old_secret_until"]
    attempt(acme, webhook)
    both = receiver.wait(f"/{token}")[0]
    wanted = [signature(secret, both) for secret in (new["secret"], webhook["secret"])]
    assert both["headers"]["webhook-signature"].split() == wanted
    sql(lab, server.name, f"UPDATE api.webhook SET old_secret_until = now() WHERE id = '{webhook['id']}'")
    attempt(acme, webhook)
    one = receiver.wait(f"/{token}", 2)[1]
    assert one["headers"]["webhook-signature"] == signature(new["secret"], one)


def test_a_webhook_that_is_gone_or_fails_for_days_is_switched_off(
    lab: Lab, server: Server, acme: Api, receiver: Receiver, hooks: Hooks, token: str
) -> None:
    gone = hooks.make(acme, token, f"{receiver.base}/status/410", "email.accepted")
    assert attempt(acme, gone)["status"] == "failed"
    shown = acme.ask("GET", f"/webhooks/{gone['id']}").body
    assert (shown["enabled"], shown["disabled_reason"]) == (False, "gone")
    refused = acme.ask("POST", f"/webhooks/{gone['id']}/test")
    assert (refused.status, refused.body["code"]) == (409, "webhook_disabled")
    acme.send(token, "dave@peer.test")
    assert len(acme.ask("GET", f"/webhooks/{gone['id']}/deliveries").body["data"]) == 1
    change = {"enabled": True, "url": f"{receiver.base}/{token}"}
    changed = acme.ask("PATCH", f"/webhooks/{gone['id']}", change)
    assert (changed.body["enabled"], changed.body["disabled_reason"]) == (True, "")
    assert attempt(acme, gone)["status"] == "delivered"

    failing = hooks.make(acme, f"{token[:50]} failing", f"{receiver.base}/status/500")
    one = attempt(acme, failing)
    other = attempt(acme, failing)
    # one attempt is left, and nothing else came for days
    sql(
        lab, server.name,
        f"UPDATE api.webhook SET failing_since = now() - interval '4 days' WHERE id = '{failing['id']}'; "
        f"UPDATE api.webhook_delivery SET next_at = now() + interval '1 hour' WHERE webhook = '{failing['id']}'; "
        f"UPDATE api.webhook_delivery SET attempts = {len(DELAYS) - 1}, next_at = now() WHERE id = '{one['id']}'",
    )  # fmt: skip
    wait_until(
        lambda: acme.ask("GET", f"/webhooks/{failing['id']}").body["disabled_reason"] == "failing", 30, "switched off"
    )
    assert {delivery(acme, failing, entry["id"])["status"] for entry in (one, other)} == {"failed"}


# --- where it may post to ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/", "ftp://example.org/", "https:///x", "example.org", "https://user:x@example.org/",
        "https://example.org/#x", "https://example.org:0/", "https://example.org:99999/", "https://exa mple.org/",
        "https://example.org/\r\nHost: x", "https://example.org\\@127.0.0.1/", "https://localhost/", "https://127.0.0.1/",
        "https://127.1/", "https://2130706433/", "https://0x7f000001/", "https://0x7f.1/", "https://017700000001/",
        "https://0/", "https://10.0.0.1/", "https://172.16.1.1/", "https://192.168.1.1/", "https://100.64.0.1/",
        "https://169.254.169.254/latest/meta-data/", "https://224.0.0.1/", "https://[::1]/", "https://[::]/",
        "https://[::ffff:127.0.0.1]/", "https://[::ffff:7f00:1]/", "https://[fe80::1]/", "https://[fc00::1]/",
        "https://[64:ff9b::7f00:1]/", "https://[2002:7f00:1::]/", "https://[ff02::1]/",
    ],
)  # fmt: skip
def test_a_url_that_leads_inside_is_refused(acme: Api, url: str) -> None:
    answer = acme.ask("POST", "/webhooks", {"name": "inside", "url": url, "events": ["email.bounced"]})
    assert answer.status == 422, answer
    assert [error["pointer"] for error in answer.body["errors"]] == ["/url"]


def test_a_redirect_is_not_followed(acme: Api, receiver: Receiver, hooks: Hooks, token: str) -> None:
    webhook = hooks.make(acme, token, f"{receiver.base}/redirect/{receiver.base}/target-{token}")
    assert attempt(acme, webhook)["response_status"] == 307
    assert receiver.requests(f"/target-{token}") == []


@pytest.fixture
def name(lab: Lab) -> Iterator[str]:
    """A name of peer.test for tests to lead where they like."""
    host = f"hook{time.time_ns()}.peer.test."
    yield host.rstrip(".")
    both = [dns.rrset.from_text(host, 1, "IN", kind, text) for kind, text in (("A", "127.0.0.1"), ("AAAA", "::1"))]
    zones.send(lab.address("ns1"), _tsig(lab), "peer.test.", both, delete=True)


def _tsig(lab: Lab) -> str:
    return base64.b64decode(lab.env["LAB_TSIG"]).hex()


def lead(lab: Lab, server: Server, host: str, *addresses: str) -> None:
    """Let a name have these addresses, for a second."""
    text = "\n".join(f"{host}. 1 IN {'AAAA' if ':' in address else 'A'} {address}" for address in addresses)
    zones.publish_text(lab.address("ns1"), _tsig(lab), text)
    # signed denials of other names may prove that this one is not there (RFC 8198)
    server.run("unbound-control -q flush_zone peer.test")


def test_a_name_that_comes_to_lead_inside_is_refused(
    lab: Lab, server: Server, acme: Api, receiver: Receiver, hooks: Hooks, name: str, token: str
) -> None:
    """DNS rebinding. mx1's own web server listens at 127.0.0.1:443 and would answer."""
    peer = lab.address("peer")
    lead(lab, server, name, peer)
    webhook = hooks.make(acme, token, f"https://{name}:{ENCRYPTED}/{token}")
    # it got as far as peer, whose certificate is of a CA that mx1 does not know
    assert "CERTIFICATE_VERIFY_FAILED" in attempt(acme, webhook)["error"]
    acme.ask("PATCH", f"/webhooks/{webhook['id']}", {"url": f"https://{name}/{token}"})
    for addresses, refused in (
        (["127.0.0.1"], "127.0.0.1"),
        ([peer, "10.1.2.3"], "10.1.2.3"),
        ([peer, "::ffff:127.0.0.1"], "127.0.0.1"),
        ([peer, "fd00::1"], "fd00::1"),
    ):
        lead(lab, server, name, *addresses)

        def is_refused(refused: str = refused) -> bool:
            error = attempt(acme, webhook)["error"]
            return refused in error and "no address of the internet" in error

        wait_until(is_refused, 30, f"{addresses} are refused", every=1)
    assert receiver.requests(f"/{token}") == []


@pytest.mark.faults
def test_a_certificate_is_verified(
    lab: Lab, server: Server, acme: Api, receiver: Receiver, hooks: Hooks, token: str
) -> None:
    webhook = hooks.make(acme, token, f"https://peer.peer.test:{ENCRYPTED}/{token}")
    assert "CERTIFICATE_VERIFY_FAILED" in attempt(acme, webhook)["error"]
    place = "/usr/local/share/ca-certificates/lab-test.crt"
    try:
        server.run(f"cat > {place} && update-ca-certificates", data=Path(lab.env["LAB_CA"]).read_text())
        server.run(f"systemctl restart {UNIT}")
        assert attempt(acme, webhook)["status"] == "delivered"
    finally:
        server.run(f"rm -f {place}; update-ca-certificates; systemctl restart {UNIT}")
    assert receiver.requests(f"/{token}")


# --- mail that comes in -----------------------------------------------------------------------------------------------


@pytest.fixture
def route(acme: Api) -> Iterator[str]:
    """Mail to orders@acme.test."""
    made = acme.ask("POST", "/inbound/routes", {"address": "Orders@acme.test"})
    assert made.status == 201 and made.body["address"] == "orders@acme.test", made
    yield made.body["id"]
    assert acme.ask("DELETE", f"/inbound/routes/{made.body['id']}").status == 204


def inbound(api: Api, token: str) -> list[dict[str, Any]]:
    """Messages that came in whose subject holds the token."""
    listed = api.ask("GET", "/inbound/messages?limit=20").body["data"]
    found = [api.ask("GET", f"/inbound/messages/{entry['id']}").body for entry in listed]
    return [entry for entry in found if token in entry["content"]["subject"]]


def arrived(api: Api, token: str) -> dict[str, Any]:
    return wait_until(lambda: inbound(api, token), 60, "the message came in")[0]


@pytest.mark.usefixtures("route")
def test_mail_to_a_route_is_taken_apart_and_posted(
    lab: Lab, acme: Api, globex: Api, receiver: Receiver, hooks: Hooks, token: str
) -> None:
    webhook = hooks.make(acme, token, f"{receiver.base}/{token}", "inbound.received")
    mail = message("dave@peer.test", "orders+42@acme.test", f"{token} Grüße", "Two, please. €\n")
    mail.add_alternative("<p>Two, please.</p>", subtype="html")
    file = bytes(range(256)) * 40
    mail.add_attachment(file, maintype="application", subtype="pdf", filename="Auftrag ä.pdf")
    mail["Authentication-Results"] = "mx1.acme.test; spf=fail smtp.mailfrom=x; dkim=fail; dmarc=fail"
    lab.dave_sends(mail)
    found = arrived(acme, token)
    content = found["content"]
    assert (found["from"], found["recipient"]) == ("dave@peer.test", "orders+42@acme.test")
    assert content["subject"] == f"{token} Grüße" and content["text"] == "Two, please. €\n"
    assert content["html"] == "<p>Two, please.</p>\n" and content["complete"] and not content["spam"]
    assert content["message_id"] == str(mail["Message-ID"]) and content["to"] == ["orders+42@acme.test"]
    # what the filter found, not what the sender claims
    assert content["authentication"] == {"spf": "pass", "dkim": "pass", "dmarc": "pass"}
    [attachment] = content["attachments"]
    assert (attachment["filename"], attachment["content_type"]) == ("Auftrag ä.pdf", "application/pdf")
    assert base64.b64decode(attachment["content"]) == file
    assert attachment["sha256"] == hashlib.sha256(file).hexdigest()
    place = f"/inbound/messages/{found['id']}"
    assert acme.ask("GET", f"{place}/attachments/0").body == file
    raw = acme.ask("GET", f"{place}/raw")
    assert raw.headers["content-disposition"] == "attachment" and token.encode() in raw.body
    assert acme.ask("GET", f"{place}/attachments/1").status == 404
    request = receiver.wait(f"/{token}")[0]
    posted = json.loads(request["body"])
    assert posted["type"] == "inbound.received" and posted["data"]["id"] == found["id"]
    assert posted["data"]["content"] == content and posted["data"]["from"] == "dave@peer.test"
    assert request["headers"]["webhook-signature"] == signature(webhook["secret"], request)
    assert globex.ask("GET", place).status == 404 and not inbound(globex, token)


def test_a_catch_all_takes_what_nobody_else_does(lab: Lab, acme: Api, globex: Api, token: str) -> None:
    refused = acme.ask("POST", "/inbound/routes", {"address": "alice@acme.test"})
    assert (refused.status, refused.body["code"]) == (409, "address_taken")
    for address in ("carol@globex.test", "x@sub.acme.test", "a+b@acme.test", "@globex.test", "nonsense"):
        assert acme.ask("POST", "/inbound/routes", {"address": address}).status == 422, address
    made = globex.ask("POST", "/inbound/routes", {"address": "@globex.test"})
    assert made.status == 201, made
    try:
        again = globex.ask("POST", "/inbound/routes", {"address": "@globex.test"})
        assert again.body["code"] == "address_taken"
        lab.dave_sends(message("dave@peer.test", "Any.Body@globex.test", f"{token} any"))
        lab.dave_sends(message("dave@peer.test", "carol@globex.test", f"{token} carol"))
        assert arrived(globex, token)["recipient"].lower() == "any.body@globex.test"
        wait_until(lambda: lab.find("carol@globex.test", f"{token} carol"), 60, "carol's mail")
        assert len(inbound(globex, token)) == 1
    finally:
        assert globex.ask("DELETE", f"/inbound/routes/{made.body['id']}").status == 204


@pytest.mark.faults
def test_no_mail_is_lost_or_stored_twice(lab: Lab, server: Server, acme: Api, route: str, token: str) -> None:
    """While nothing stores it, Postfix has it; delivered once more, it is stored once."""
    server.run("systemctl stop mailwright-dispatch")
    try:
        lab.dave_sends(message("dave@peer.test", "orders@acme.test", token))
        wait_until(lambda: route.replace("-", "") in server.run("postqueue -j"), 60, "Postfix keeps it")
        assert not inbound(acme, token)
    finally:
        server.run("systemctl start mailwright-dispatch")
    wait_until(lambda: server.run("postqueue -f; true") == "" and inbound(acme, token), 60, "it came in", every=2)
    again = (
        "import smtplib, sys\n"
        "with smtplib.LMTP('/run/mailwright-dispatch/lmtp.sock') as lmtp:\n"
        f"    lmtp.sendmail('dave@peer.test', ['orders@{route.replace('-', '')}.inbound.mailwright.invalid'], "
        "b'Subject: {0}\\r\\n\\r\\nx\\r\\n')\n"
    ).replace("{0}", f"{token} again")
    for _number in range(2):
        server.run("python3 -", data=again)
    assert len([entry for entry in inbound(acme, token) if "again" in entry["content"]["subject"]]) == 1
    assert len(inbound(acme, token)) == 2


@pytest.mark.usefixtures("route")
def test_a_bomb_comes_in_as_it_is(lab: Lab, acme: Api, token: str) -> None:
    """Nested a thousand times: kept, and shown as far as it makes sense."""
    parts = "".join(
        f'Content-Type: multipart/mixed; boundary="b{depth}"\r\n\r\n--b{depth}\r\n' for depth in range(1000)
    )
    with lab.submission("alice@acme.test") as smtp:
        smtp.sendmail("alice@acme.test", ["orders@acme.test"], f"From: alice@acme.test\r\nSubject: {token}\r\n{parts}x")
    found = arrived(acme, token)
    assert found["content"]["complete"] is False
    assert acme.ask("GET", "/livez").status == 200


# --- who did what -----------------------------------------------------------------------------------------------------


def test_the_audit_log_says_who_changed_what(
    lab: Lab, server: Server, acme: Api, globex: Api, keys: list[str], receiver: Receiver, hooks: Hooks, token: str
) -> None:
    webhook = hooks.make(acme, token, f"{receiver.base}/status/410")
    secrets = [webhook["secret"], acme.ask("POST", f"/webhooks/{webhook['id']}/rotate-secret").body["secret"]]
    attempt(acme, webhook)
    acme.ask("DELETE", f"/webhooks/{webhook['id']}")

    def entries(api: Api) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        after = "0"
        while after:
            page = api.ask("GET", f"/audit?limit=100&after={after}").body
            found += page["data"]
            after = page["next"]
        return found

    found = [entry for entry in entries(acme) if entry["target"] == webhook["id"]]
    own = f"key {keys[0].split('_')[1]}"
    assert [(entry["action"], entry["actor"]) for entry in found] == [
        ("created", own), ("changed", own), ("changed", "mailwright_webhooks"), ("removed", own),
    ]  # fmt: skip
    assert found[2]["after"]["disabled_reason"] == "gone" and found[2]["before"]["enabled"] is True
    text = json.dumps(entries(acme))
    assert not any(secret in text for secret in secrets) and '"hash"' not in text
    assert webhook["id"] not in {entry["target"] for entry in entries(globex)}
    for statement in ("DELETE FROM api.audit", "UPDATE api.audit SET actor = 'x'", "SELECT secret FROM api.webhook",
                      "INSERT INTO api.inbound_message SELECT * FROM api.inbound_message"):  # fmt: skip
        with pytest.raises(RuntimeError, match="permission denied"):
            sql(lab, server.name, f"SET ROLE mailwright_api; SET api.domain = 'acme.test'; {statement};")


def test_rows_of_another_domain_do_not_exist_for_the_service(
    lab: Lab, server: Server, acme: Api, globex: Api, receiver: Receiver, hooks: Hooks, route: str, token: str
) -> None:
    """Every route of these resources, and the service's own role without WHERE."""
    webhook = hooks.make(acme, token, f"{receiver.base}/{token}")
    made = attempt(acme, webhook)
    lab.dave_sends(message("dave@peer.test", "orders@acme.test", token))
    mail = arrived(acme, token)
    values = {"webhook_id": webhook["id"], "delivery_id": made["id"], "route_id": route, "inbound_id": mail["id"],
              "index": "0"}  # fmt: skip
    bodies = {"replay": {"since": "2020-01-01T00:00:00Z"}}
    tried = 0
    for path, methods in acme.ask("GET", "/openapi.json").body["paths"].items():
        if "{" not in path or not re.search("/(webhooks|inbound)/", path):
            continue
        for method in methods:
            there = re.sub(r"{(\w+)}", lambda found: values[found[1]], path.removeprefix("/api/v1"))
            body = bodies.get(path.rpartition("/")[2], {} if method == "patch" else None)
            answer = globex.ask(method.upper(), there, body)
            assert (answer.status, answer.body["code"]) == (404, "not_found"), (method, path)
            tried += 1
    assert tried == 13
    tables = ("webhook", "webhook_delivery", "inbound_route", "inbound_message", "audit")
    count = " || ' ' || ".join(f"(SELECT count(*) FROM api.{table} WHERE domain <> '{{0}}')" for table in tables)
    whole = " || ' ' || ".join(f"(SELECT count(id) FROM api.{table})" for table in tables)
    assert sql(lab, server.name, f"SET ROLE mailwright_api; SELECT {whole};") == "0 0 0 0 0"
    for domain in ("acme.test", "globex.test"):
        statement = f"SET ROLE mailwright_api; SET api.domain = '{domain}'; SELECT {count.replace('{0}', domain)};"
        assert sql(lab, server.name, statement) == "0 0 0 0 0"
    foreign = "INSERT INTO api.webhook_delivery (webhook, domain, type, data) VALUES ('{}', 'globex.test', 'x', '{{}}')"
    with pytest.raises(RuntimeError, match="foreign key"):
        statement = foreign.format(webhook["id"])
        sql(lab, server.name, f"SET ROLE mailwright_api; SET api.domain = 'globex.test'; {statement};")


def test_the_module_makes_changes_and_removes_a_webhook(lab: Lab, server: Server, acme: Api) -> None:
    done = lab.playbook("-l", server.name, "--diff", str(CHECKOUT / "tests/integration/webhooks.yml"))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert not [webhook for webhook in acme.ask("GET", "/webhooks").body["data"] if webhook["name"] == "by module"]


def test_what_posts_has_its_own_sandbox(server: Server) -> None:
    pid = server.show(UNIT, "MainPID")
    status = server.run(f"cat /proc/{pid}/status")
    for line in (r"CapEff:\s+0+", r"NoNewPrivs:\s+1", r"Seccomp:\s+2"):
        assert re.search(f"^{line}$", status, re.MULTILINE)
    user = server.run(f"ps -o user= -p {pid}").strip()
    refused = server.run(f"su -s /bin/sh {user} -c 'psql -d mailwright -U mailwright_api -c \"SELECT 1\"' 2>&1 || true")
    assert "Peer authentication failed" in refused
