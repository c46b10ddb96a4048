# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mailboxes and aliases made by the sending API: real mail, real log-ins, and applies that leave them alone."""

from __future__ import annotations

import json
import smtplib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from ansible_collections.mailwright.server.tests.integration.conftest import Server
from ansible_collections.mailwright.server.tests.integration.sending import Api, direct_keys, sql
from connection import CHECKOUT, Lab, message, wait_until

SECRET = "a long enough secret"


@pytest.fixture(scope="module")
def keys(lab: Lab, server: Server) -> Iterator[list[str]]:
    """All scopes for acme.test, all for globex.test."""
    with direct_keys(lab, server.name, "acme.test", "globex.test") as made:
        yield made


@pytest.fixture
def name(lab: Lab, server: Server, token: str) -> Iterator[str]:
    """What all local parts of a test begin with; nothing of them stays."""
    made = f"t{token[5:15]}"
    yield made
    for table in ("alias", "mailbox", "sender"):
        sql(lab, server.name, f"DELETE FROM directory.{table} WHERE address LIKE '{made}%' AND owner = 'api'")
    server.run(f"rm -rf /var/vmail/acme.test/{made}* /var/vmail/globex.test/{made}*")


def mailbox(api: Api, address: str, **more: Any) -> dict[str, Any]:
    answer = api.ask("POST", "/mailboxes", {"address": address, "password": SECRET, **more})
    assert answer.status == 201, answer
    made: dict[str, Any] = answer.body
    return made


def alias(api: Api, address: str, *destinations: str) -> dict[str, Any]:
    answer = api.ask("POST", "/aliases", {"address": address, "destinations": list(destinations)})
    assert answer.status == 201, answer
    made: dict[str, Any] = answer.body
    return made


def arrived(lab: Lab, server: Server, address: str, token: str, password: str = SECRET) -> bool:
    with lab.imap(address, server.name, password) as box:
        box.select(readonly=True)
        return bool(box.search(None, "HEADER", "Subject", f'"{token}"')[1][0])


def owners(lab: Lab, server: Server, name: str) -> list[str]:
    rows = " UNION ALL ".join(
        f"SELECT '{table} ' || address || ' ' || owner FROM directory.{table} WHERE address LIKE '{name}%'"
        for table in ("alias", "mailbox", "sender")
    )
    return sorted(sql(lab, server.name, rows).splitlines())


def test_a_mailbox_receives_sends_changes_and_goes(lab: Lab, server: Server, acme: Api, name: str, token: str) -> None:
    address = f"{name}@acme.test"
    made = mailbox(acme, address.upper(), display_name="Temp Örary", quota_bytes=50_000_000)
    shown = {"address": address, "display_name": "Temp Örary", "quota_bytes": 50_000_000, "enabled": True}
    assert made == {**shown, "owner": "api"} == acme.ask("GET", f"/mailboxes/{address}").body
    assert made in acme.ask("GET", "/mailboxes").body["data"]
    stored = sql(lab, server.name, f"SELECT password FROM directory.mailbox WHERE address = '{address}'")
    assert stored.startswith("{ARGON2ID}$argon2id$v=19$m=19456,t=2,p=1$")
    lab.dave_sends(message("dave@peer.test", address, token), server.name)
    wait_until(lambda: arrived(lab, server, address, token), 60, "the mail")
    with lab.imap(address, server.name, SECRET) as box:
        assert b" 48829)" in box.getquotaroot("INBOX")[1][1][0]  # KiB, rounded up
    with lab.submission(address, server.name, SECRET) as smtp:
        smtp.send_message(message(address, "dave@peer.test", f"{token} back"))
        with pytest.raises(smtplib.SMTPRecipientsRefused, match="not owned"):
            smtp.sendmail("alice@acme.test", ["dave@peer.test"], "Subject: x\n\nx\n")
    wait_until(lambda: lab.dave_has(f"{token} back"), 60, "the answer at peer")

    changed = acme.ask("PATCH", f"/mailboxes/{address}", {"password": "another secret"})
    assert (changed.status, changed.body) == (200, made)
    assert arrived(lab, server, address, token, "another secret")
    assert acme.ask("PATCH", f"/mailboxes/{address}", {"enabled": False, "quota_bytes": 0}).body["enabled"] is False
    assert sql(lab, server.name, f"SELECT count(*) FROM directory.sender WHERE address = '{address}'") == "0"
    assert acme.ask("DELETE", f"/mailboxes/{address}").status == 204
    assert acme.ask("GET", f"/mailboxes/{address}").status == 404
    assert owners(lab, server, name) == []
    entries = [entry for entry in acme.ask("GET", "/audit?limit=100").body["data"] if entry["target"] == address]
    noted = sql(
        lab, server.name,
        f"SELECT string_agg(action, ' ' ORDER BY id) || ' ' || bool_or((before || after)::text LIKE '%ARGON2%') "
        f"FROM api.audit WHERE target = '{address}'",
    )  # fmt: skip
    assert noted == "created changed changed removed false", entries


def test_a_mailbox_that_is_off_takes_no_mail(lab: Lab, server: Server, acme: Api, name: str) -> None:
    address = f"{name}@acme.test"
    mailbox(acme, address, enabled=False, password_hash="{BLF-CRYPT}$2y$05$" + "a" * 53, password=None)
    with smtplib.SMTP_SSL(server.address, 465, context=insecure(lab), timeout=60) as smtp:
        smtp.login("alice@acme.test", lab.password)
        smtp.mail("alice@acme.test")
        assert smtp.rcpt(address)[0] == 550
    assert acme.ask("PATCH", f"/mailboxes/{address}", {"enabled": True}).body["enabled"]
    assert owners(lab, server, name) == [f"mailbox {address} api", f"sender {address} api"]


def insecure(lab: Lab) -> Any:
    context = lab.tls()
    context.check_hostname = False
    return context


def test_an_alias_leads_where_it_says(lab: Lab, server: Server, acme: Api, name: str, token: str) -> None:
    first, second, sales = f"{name}-1@acme.test", f"{name}-2@acme.test", f"{name}-sales@acme.test"
    mailbox(acme, first)
    mailbox(acme, second)
    made = alias(acme, sales, second, first.upper(), "Someone@peer.test")
    assert made == {"address": sales, "destinations": ["Someone@peer.test", first, second], "owner": "api"}
    assert f"sender {sales} api" in owners(lab, server, name)
    assert acme.ask("PATCH", f"/aliases/{sales}", {"destinations": [first]}).body["destinations"] == [first]
    lab.dave_sends(message("dave@peer.test", sales, token), server.name)
    wait_until(lambda: arrived(lab, server, first, token), 60, "the mail")
    assert not arrived(lab, server, second, token)
    with lab.submission(first, server.name, SECRET) as smtp:
        smtp.send_message(message(sales, "dave@peer.test", f"{token} as alias"))
    used = acme.ask("DELETE", f"/mailboxes/{first}")
    assert (used.status, used.body["code"]) == (409, "in_use") and sales in used.body["detail"]
    assert acme.ask("DELETE", f"/aliases/{sales}").status == 204
    assert acme.ask("DELETE", f"/mailboxes/{first}").status == 204
    assert owners(lab, server, name) == [f"mailbox {second} api", f"sender {second} api"]


def test_what_cannot_be_is_refused_with_its_place(acme: Api, name: str) -> None:
    box, sales = f"{name}@acme.test", f"{name}-sales@acme.test"
    mailbox(acme, box)
    alias(acme, sales, box)
    for path, body, pointer in (
        ("/mailboxes", {"address": "x@globex.test", "password": SECRET}, "/address"),
        ("/mailboxes", {"address": f"{name}+x@acme.test", "password": SECRET}, "/address"),
        ("/mailboxes", {"address": f"../{name}@acme.test", "password": SECRET}, "/address"),
        ("/mailboxes", {"address": f"{name}-2@acme.test"}, "/password"),
        ("/mailboxes", {"address": f"{name}-2@acme.test", "password": "x\0"}, "/password"),
        ("/mailboxes", {"address": f"{name}-2@acme.test", "password": "x", "password_hash": "x"}, "/password_hash"),
        ("/mailboxes", {"address": f"{name}-2@acme.test", "password_hash": "{PLAIN}x"}, "/password_hash"),
        ("/mailboxes", {"address": f"{name}-2@acme.test", "password": SECRET, "quota_bytes": 7}, "/quota_bytes"),
        ("/mailboxes", {"address": f"{name}-2@acme.test", "password": SECRET, "display_name": "a\nb"}, "/display_name"),
        ("/aliases", {"address": "x@globex.test", "destinations": ["dave@peer.test"]}, "/address"),
        ("/aliases", {"address": f"{name}-2@acme.test", "destinations": [f"{name}-no@acme.test"]}, "/destinations/0"),
        ("/aliases", {"address": f"{name}-2@acme.test", "destinations": ["x@y.mailwright.invalid"]}, "/destinations/0"),
        ("/aliases", {"address": f"{name}-2@acme.test", "destinations": [f"{name}-2@acme.test"]}, "/destinations"),
        ("/aliases", {"address": f"{name}-2@acme.test", "destinations": [f"{name}-2+x@acme.test"]}, "/destinations"),
        ("/aliases", {"address": "@acme.test", "destinations": [f"{name}-no@acme.test"]}, "/destinations/0"),
    ):
        answer = acme.ask("POST", path, body)
        assert answer.status == 422, (body, answer)
        assert answer.body["errors"][0]["pointer"] == pointer, (body, answer)
        assert SECRET not in json.dumps(answer.body)
    # in a circle of two
    second = f"{name}-2@acme.test"
    alias(acme, second, sales)
    circle = acme.ask("PATCH", f"/aliases/{sales}", {"destinations": [second]})
    assert (circle.status, circle.body["errors"][0]["pointer"]) == (422, "/destinations")
    assert acme.ask("GET", f"/aliases/{sales}").body["destinations"] == [box]
    for path, body in (
        ("/mailboxes", {"address": box, "password": SECRET}),
        ("/mailboxes", {"address": sales, "password": SECRET}),
        ("/aliases", {"address": box, "destinations": ["dave@peer.test"]}),
        ("/aliases", {"address": sales, "destinations": ["dave@peer.test"]}),
        ("/mailboxes", {"address": "alice@acme.test", "password": SECRET}),
        ("/aliases", {"address": "alice@acme.test", "destinations": ["dave@peer.test"]}),
    ):
        answer = acme.ask("POST", path, body)
        assert (answer.status, answer.body["code"]) == (409, "address_taken"), body
    route = acme.ask("POST", "/inbound/routes", {"address": f"{name}-in@acme.test"})
    assert route.status == 201
    try:
        assert acme.ask("GET", f"/aliases/{name}-in@acme.test").status == 404
        taken = acme.ask("POST", "/aliases", {"address": f"{name}-in@acme.test", "destinations": [box]})
        assert (taken.status, taken.body["code"]) == (409, "address_taken")
    finally:
        acme.ask("DELETE", f"/inbound/routes/{route.body['id']}")


def test_what_the_inventory_owns_is_shown_and_changed_there(acme: Api) -> None:
    assert acme.ask("GET", "/mailboxes/alice@acme.test").body["owner"] == "inventory"
    declared = next(entry for entry in acme.ask("GET", "/aliases").body["data"] if entry["owner"] == "inventory")
    for method, path, body in (
        ("PATCH", "/mailboxes/alice@acme.test", {"password": SECRET}),
        ("DELETE", "/mailboxes/alice@acme.test", None),
        ("PATCH", f"/aliases/{declared['address']}", {"destinations": ["dave@peer.test"]}),
        ("DELETE", f"/aliases/{declared['address']}", None),
    ):
        answer = acme.ask(method, path, body)
        assert (answer.status, answer.body["code"]) == (409, "owned_by_inventory"), path
        assert "inventory" in answer.body["detail"]


def test_another_domain_s_addresses_do_not_exist(lab: Lab, server: Server, acme: Api, globex: Api, name: str) -> None:
    box, sales = f"{name}@acme.test", f"{name}-sales@acme.test"
    mailbox(acme, box)
    alias(acme, sales, box)
    for path, body in ((f"/mailboxes/{box}", {"enabled": False}), (f"/aliases/{sales}", {"destinations": [box]})):
        for method in ("GET", "PATCH", "DELETE"):
            answer = globex.ask(method, path, body if method == "PATCH" else None)
            assert (answer.status, answer.body["code"]) == (404, "not_found"), (method, path)
    for path in ("/mailboxes", "/aliases"):
        assert not [entry for entry in globex.ask("GET", path).body["data"] if entry["address"].endswith("@acme.test")]

    def as_service(domain: str, statement: str) -> str:
        return sql(lab, server.name, f"SET ROLE mailwright_api; SET api.domain = '{domain}'; {statement};")

    count = "(SELECT count(*) FROM api.mailbox) || ' ' || (SELECT count(*) FROM api.alias)"
    assert as_service("nobody.test", f"SELECT {count}") == "0 0"
    assert as_service("globex.test", "SELECT count(*) FROM api.mailbox WHERE address LIKE '%@acme.test'") == "0"
    # without WHERE, as another domain, these change nothing of this one, and as this one nothing of the inventory's
    before = sql(lab, server.name, "SELECT md5(string_agg(m::text, ',' ORDER BY address)) FROM directory.mailbox m")
    as_service("globex.test", "DELETE FROM api.own_mailbox; DELETE FROM api.own_alias")
    assert as_service("globex.test", f"SELECT count(*) FROM api.alias_problems('{sales}')") == "0"
    assert as_service("globex.test", f"SELECT api.is_taken('{box}')") == "f"
    after = sql(lab, server.name, "SELECT md5(string_agg(m::text, ',' ORDER BY address)) FROM directory.mailbox m")
    assert before == after
    columns = "(address, domain, local_part, display_name, password, quota_bytes, enabled, owner)"
    row = "'{0}@acme.test', 'acme.test', '{0}', '', '{{X}}x', 0, true, '{1}'"
    for domain, owner in (("globex.test", "api"), ("acme.test", "inventory")):
        with pytest.raises(RuntimeError, match="check option"):
            as_service(domain, f"INSERT INTO api.own_mailbox {columns} VALUES ({row.format(name + '-9', owner)})")
    for statement in ("SELECT password FROM api.own_mailbox", "SELECT * FROM directory.mailbox",
                      "UPDATE api.mailbox SET enabled = false", "UPDATE api.own_mailbox SET owner = 'api'",
                      "SELECT api.taker('alice@acme.test')", "SELECT * FROM api.wanted_sender"):  # fmt: skip
        with pytest.raises(RuntimeError, match="permission denied"):
            as_service("acme.test", statement)
    as_service("acme.test", "DELETE FROM api.own_mailbox; DELETE FROM api.own_alias")
    assert sql(lab, server.name, "SELECT count(*) FROM directory.mailbox WHERE address = 'alice@acme.test'") == "1"


def test_an_apply_leaves_them_alone_and_refuses_the_same_address(
    lab: Lab, server: Server, globex: Api, name: str
) -> None:
    box, sales = f"{name}@globex.test", f"{name}-sales@globex.test"
    mailbox(globex, box)
    alias(globex, sales, box)
    before = owners(lab, server, name)
    assert len(before) == 4
    play = (str(CHECKOUT / "tests/integration/directory.yml"), "-l", server.name, "--diff")
    for options in (["--check"], []):
        done = lab.playbook(*play, *options)
        assert done.returncode == 0, done.stdout[-3000:]
        assert " changed=0 " in done.stdout and name not in done.stdout, done.stdout[-3000:]
    assert owners(lab, server, name) == before
    alias(globex, f"{name}-2@globex.test", box)
    domain = {
        "name": "globex.test",
        "mailboxes": [{"name": local, "password": lab.password} for local in ("carol", f"{name}-sales")],
        "aliases": [{"name": local, "to": ["carol"]} for local in (name, f"{name}-2")],
    }
    before = owners(lab, server, name)
    done = lab.playbook(*play, "-e", json.dumps({"mail_domains__globex": [domain]}))
    assert done.returncode
    for said in (
        f"mailbox {sales}: the API has an alias there",
        f"alias {box}: the API has a mailbox there",
        f"alias {name}-2@globex.test: the API has one that leads to {box}",
    ):
        assert said in done.stdout, done.stdout[-3000:]
    assert owners(lab, server, name) == before


def test_smtp_submission_is_counted_once(lab: Lab, server: Server, acme: Api, globex: Api, token: str) -> None:
    day = datetime.now(UTC).date().isoformat()
    kinds = ("accepted", "delivered", "deferred", "bounced")

    def today(api: Api, provider: str = "peer.test") -> list[int]:
        cells = api.ask("GET", f"/statistics/days-and-providers?since={day}&until={day}").body["data"]
        return next(([cell[kind] for kind in kinds] for cell in cells if cell["provider"] == provider), [0] * 4)

    before, foreign, inside = today(acme), today(globex), today(acme, "local")
    start = sql(lab, server.name, "SELECT cursor FROM api.log_position")
    moody = "smtpd_recipient_restrictions"
    restrictions = lab.ssh("peer", f"postconf -h {moody}").strip()
    lab.ssh("peer", "cat > /etc/postfix/counted", data="/^dave\\+later-/ 451 4.7.1 Not now\n")
    lab.ssh("peer", f"postconf -e '{moody}=check_recipient_access regexp:/etc/postfix/counted {restrictions}'; "
                    "postfix reload")  # fmt: skip
    mail = message("alice@acme.test", "dave@peer.test", token)
    to = ["dave@peer.test", f"dave+later-{token[5:15]}@peer.test", f"nobody-{token[5:15]}@peer.test", "bob@acme.test"]
    try:
        with lab.submission("alice@acme.test", server.name) as smtp:
            smtp.send_message(mail, to_addrs=to, rcpt_options=["NOTIFY=NEVER"])

        def counted(wanted: list[int]) -> bool:
            return [after - earlier for after, earlier in zip(today(acme), before, strict=True)] == wanted

        wait_until(lambda: counted([3, 1, 1, 1]), 60, "three to peer are counted")
        assert [a - b for a, b in zip(today(acme, "local"), inside, strict=True)] == [1, 1, 0, 0]
        # killed, and the log read again from before
        server.run("kill -9 $(systemctl show -P MainPID mailwright-dispatch)")
        sql(lab, server.name, f"UPDATE api.log_position SET cursor = '{start}'")
        server.run("systemctl restart mailwright-dispatch")
        moved = f"SELECT cursor <> '{start}' FROM api.log_position"
        wait_until(lambda: sql(lab, server.name, moved) == "t", 60, "the log is read again")
        lab.ssh("peer", f"postconf -e '{moody}={restrictions}'; postfix reload")
        server.run("postqueue -f")
        wait_until(lambda: counted([3, 2, 1, 1]), 90, "the late one is counted, the others not again")
        assert today(globex) == foreign
        count = "SELECT count(*) FROM api.submission_event"
        rows = f"SET ROLE mailwright_api; SET api.domain = 'globex.test'; {count} WHERE domain <> 'globex.test';"
        assert sql(lab, server.name, rows) == "0"
    finally:
        lab.ssh("peer", f"postconf -e '{moody}={restrictions}'; rm -f /etc/postfix/counted; postfix reload")
        server.discard("bob@acme.test", token)
        server.discard("alice@acme.test", token)
