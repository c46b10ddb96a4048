# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tenants of the sending API: one key for several domains, and for none that is another tenant's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.sending import keys
from ansible_collections.mailwright.server.tests.integration.conftest import Server
from ansible_collections.mailwright.server.tests.integration.sending import BASE, Api, sql
from connection import Lab, wait_until

ACME, GLOBEX = {"Mail-Domain": "acme.test"}, {"Mail-Domain": "globex.test"}
TENANT = "tests"


@pytest.fixture(scope="module")
def tenant_key(lab: Lab, server: Server) -> Iterator[keys.Key]:
    """A key with all scopes of a tenant that has both domains; afterwards they are the inventory's tenant's again."""
    made = keys.generate()
    before = sql(lab, server.name, "SELECT domain || ' ' || tenant FROM api.tenant_domain").splitlines()
    back = ", ".join("('{}', '{}')".format(*line.split(" ", 1)) for line in before)
    try:
        statements = f"""
            INSERT INTO api.tenant (name, owner) VALUES ('{TENANT}', 'api'), ('somebody else', 'api');
            UPDATE api.tenant_domain SET tenant = '{TENANT}' WHERE domain IN ('acme.test', 'globex.test');
            INSERT INTO api.tenant_key (id, tenant, name, hash, scopes) VALUES
            ('{made.id}', '{TENANT}', 'all', '\\x{made.digest.hex()}', '{{{",".join(keys.TENANT_SCOPES)}}}')"""
        sql(lab, server.name, statements)
        yield made
    finally:
        statements = f"""
            DELETE FROM api.tenant_key WHERE tenant = '{TENANT}';
            DELETE FROM api.domain_limit WHERE domain IN ('acme.test', 'globex.test');
            DELETE FROM api.usage;
            DELETE FROM api.tenant_domain;
            DELETE FROM api.tenant WHERE name IN ('{TENANT}', 'somebody else');
            INSERT INTO api.tenant_domain (domain, tenant) VALUES {back}"""
        sql(lab, server.name, statements)


@pytest.fixture(scope="module")
def tenant(lab: Lab, server: Server, tenant_key: keys.Key) -> Api:
    return Api(lab, server.name, tenant_key.text)


@contextlib.contextmanager
def globex_elsewhere(lab: Lab, server: Server) -> Iterator[None]:
    """globex.test is another tenant's meanwhile."""
    change = "UPDATE api.tenant_domain SET tenant = '{}' WHERE domain = 'globex.test'"
    sql(lab, server.name, change.format("somebody else"))
    try:
        yield
    finally:
        sql(lab, server.name, change.format(TENANT))


def message(domain: str, token: str) -> dict[str, Any]:
    return {"from": f"news@{domain}", "to": ["dave@peer.test"], "subject": token, "text": "Hello.\n"}


def delivered(tenant: Api, email: str, place: dict[str, str]) -> bool:
    events = tenant.ask("GET", f"/emails/{email}/events", headers=place).body["data"]
    return "delivered" in [event["kind"] for event in events]


def test_the_inventory_s_tenant_has_its_domains(lab: Lab, server: Server) -> None:
    """As the apply made it: the key, its scopes and both domains."""
    api = Api(lab, server.name, lab.env["LAB_TENANT_KEY"])
    assert [entry["name"] for entry in api.ask("GET", "/domains").body["data"]] == ["acme.test", "globex.test"]
    assert api.ask("GET", "/emails", headers=ACME).status == 403


def test_one_key_sends_from_each_domain(tenant: Api, token: str) -> None:
    for place in (ACME, GLOBEX):
        domain, other = place["Mail-Domain"], (GLOBEX if place is ACME else ACME)["Mail-Domain"]
        answer = tenant.ask("POST", "/emails", message(domain, token), place)
        assert answer.status == 202, answer
        refused = tenant.ask("POST", "/emails", message(other, token), place)
        assert (refused.status, refused.body["errors"][0]["pointer"]) == (422, "/from")
        email = answer.body["id"]
        wait_until(partial(delivered, tenant, email, place), 60, f"the delivery from {domain}")
        elsewhere = tenant.ask("GET", f"/emails/{email}", headers=GLOBEX if place is ACME else ACME)
        assert elsewhere.status == 404


def test_which_domain_must_be_said(tenant: Api, token: str) -> None:
    """Where there are several; what shows domains needs none."""
    for answer in (tenant.ask("GET", "/emails"), tenant.ask("POST", "/emails", message("acme.test", token))):
        assert (answer.status, answer.body["code"]) == (422, "invalid_request")
        assert "Mail-Domain" in answer.body["detail"]
    assert [entry["name"] for entry in tenant.ask("GET", "/domains").body["data"]] == ["acme.test", "globex.test"]
    assert tenant.ask("GET", "/domains/globex.test").status == 200
    assert tenant.ask("GET", "/domains/peer.test").status == 404


def test_a_domain_of_another_tenant_does_not_exist(
    lab: Lab, server: Server, tenant: Api, globex: Api, description: dict[str, Any]
) -> None:
    """By every route, at once, and with the same answer as for a domain that nobody has."""
    with globex_elsewhere(lab, server):
        tried = 0
        for path, methods in description["paths"].items():
            for method, operation in methods.items():
                if operation["x-scope"] in ("public", "host"):
                    continue
                tried += 1
                place = path.removeprefix(BASE).replace("{", "").replace("}", "")
                body: dict[str, Any] | None = {} if method in ("post", "patch") else None
                answers = [tenant.ask(method.upper(), place, body, {"Mail-Domain": name})
                           for name in ("globex.test", "nobody.test", "sub.acme.test")]  # fmt: skip
                assert {(answer.status, answer.body["detail"]) for answer in answers} == {
                    (404, "There is no such domain.")
                }, (method, path)
        assert tried > 70
        assert [entry["name"] for entry in tenant.ask("GET", "/domains").body["data"]] == ["acme.test"]
        assert tenant.ask("GET", "/domains/globex.test").status == 404
        # with one domain left, nothing has to be said
        assert tenant.ask("GET", "/emails").status == 200
    # nor does a domain's own key get further by the header
    assert globex.ask("GET", "/emails", headers=ACME).status == 404
    assert globex.ask("GET", "/emails", headers=GLOBEX).status == 200


def test_the_database_holds_it_without_the_service(
    lab: Lab, server: Server, tenant: Api, tenant_key: keys.Key, token: str
) -> None:
    """The same questions as the service's role."""

    def as_service(statements: str) -> str:
        return sql(lab, server.name, f"SET ROLE mailwright_api; {statements}")

    email = tenant.ask("POST", "/emails", message("acme.test", token), ACME).body["id"]
    count = f"SELECT count(*) FROM api.message WHERE id = '{email}';"
    assert as_service(f"SET api.domain = 'acme.test'; {count}") == "1"
    assert as_service(f"SET api.domain = 'globex.test'; {count}") == "0"
    assert as_service(count) == "0"
    me = f"SET api.domain = 'acme.test'; SET api.tenant = '{TENANT}'; SET api.actor = '{tenant_key.id}';"
    for statement in ("SELECT * FROM api.tenant_key", "SELECT hash FROM api.tenant_key",
                      "UPDATE api.tenant_key SET scopes = '{}'", "UPDATE api.tenant_domain SET tenant = 'x'",
                      "UPDATE api.tenant SET owner = 'api'", "SELECT * FROM api.operator_key",
                      "DELETE FROM api.audit"):  # fmt: skip
        with pytest.raises(RuntimeError, match="permission denied"):
            as_service(f"{me} {statement};")
    # a tenant sees itself, and changes nothing of itself
    for statement in (f"INSERT INTO api.tenant_domain VALUES ('x.test', '{TENANT}')",
                      "INSERT INTO api.tenant (name, owner) VALUES ('mine', 'api')"):  # fmt: skip
        with pytest.raises(RuntimeError, match="row-level security"):
            as_service(f"{me} {statement};")
    changes = "DELETE FROM api.tenant_key; DELETE FROM api.tenant_domain; UPDATE api.tenant SET title = 'mine';"
    assert as_service(f"{me} {changes} SELECT name, title FROM api.tenant;") == f"{TENANT}|"
    assert as_service(f"{me} SELECT count(*) FROM api.tenant_domain;") == "2"
    assert as_service(f"{me} SELECT count(id) FROM api.tenant_key;") == "0"
    assert as_service("SELECT count(*) FROM api.tenant, api.tenant_domain;") == "0"
    assert as_service(f"SELECT domains FROM api.find_tenant_key('{tenant_key.id}');") == "{acme.test,globex.test}"
    with globex_elsewhere(lab, server):
        assert as_service(f"SELECT domains FROM api.find_tenant_key('{tenant_key.id}');") == "{acme.test}"


def test_limits_of_a_domain_hold_for_its_tenant_s_key(lab: Lab, server: Server, tenant: Api, token: str) -> None:
    sql(lab, server.name, "INSERT INTO api.domain_limit (domain, recipients_per_hour) VALUES ('acme.test', 1)")
    over = {**message("acme.test", token), "to": ["dave@peer.test", "dave+two@peer.test"]}
    answer = tenant.ask("POST", "/emails", over, ACME)
    assert (answer.status, answer.body["code"]) == (422, "over_limit")
    assert tenant.ask("GET", "/domains/acme.test/limits").body["data"] == [
        {"subject": "domain", "unit": "recipients", "limit": 1, "window_seconds": 3600}
    ]
    # the other domain has none
    assert tenant.ask("GET", "/domains/globex.test/limits").body["data"] == []
    two = {**message("globex.test", token), "to": over["to"]}
    assert tenant.ask("POST", "/emails", two, GLOBEX).status == 202


def test_a_key_that_it_makes_is_of_one_domain_and_bound_as_it_is(
    lab: Lab, server: Server, tenant: Api, tenant_key: keys.Key, token: str
) -> None:
    rate = "UPDATE api.tenant_key SET requests_per_minute = {} WHERE id = '" + tenant_key.id + "'"
    sql(lab, server.name, rate.format(5000))
    try:
        made = tenant.ask("POST", "/api-keys", {"name": token[:20], "scopes": ["domains.read"]}, GLOBEX)
        assert (made.status, made.body["domain"], made.body["requests_per_minute"]) == (201, "globex.test", 5000)
        small = Api(lab, server.name, made.body["key"])
        assert small.ask("GET", "/domains").body["data"] == [{"name": "globex.test"}]
        assert small.ask("GET", "/domains", headers=ACME).status == 404
        shown = [key["id"] for key in tenant.ask("GET", "/api-keys", headers=GLOBEX).body["data"]]
        assert made.body["id"] in shown and tenant_key.id not in shown
        assert tenant.ask("DELETE", f"/api-keys/{made.body['id']}", headers=GLOBEX).status == 204
    finally:
        sql(lab, server.name, rate.format("NULL"))
