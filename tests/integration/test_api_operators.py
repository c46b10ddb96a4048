# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Operators of the sending API: they make tenants and their keys, and reach nobody's mail."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml
from ansible_collections.mailwright.server.plugins.module_utils.sending.keys import ROLES, TENANT_SCOPES
from ansible_collections.mailwright.server.tests.integration.conftest import Server
from ansible_collections.mailwright.server.tests.integration.sending import BASE, Api, sql
from connection import CHECKOUT, Lab

BACK = (
    "INSERT INTO api.tenant_domain (domain, tenant) VALUES ('globex.test', 'lab') "
    "ON CONFLICT (domain) DO UPDATE SET tenant = 'lab'"
)


@pytest.fixture(scope="module")
def operator(lab: Lab, server: Server) -> Api:
    """With the key of the inventory, as the apply stored it."""
    return Api(lab, server.name, lab.env["LAB_OPERATOR_KEY"])


@pytest.fixture
def tenant(lab: Lab, server: Server, operator: Api) -> Iterator[str]:
    """A tenant made by the API, while globex.test is nobody's."""
    try:
        sql(lab, server.name, "DELETE FROM api.tenant_domain WHERE domain = 'globex.test'")
        # the audit log keeps what earlier tests did
        name = f"operator test {uuid.uuid4().hex[:12]}"
        made = operator.ask("POST", "/tenants", {"name": name, "title": "Test Ltd"})
        assert made.status == 201, made
        assert (made.body["owner"], made.body["title"], made.body["domains"]) == ("api", "Test Ltd", [])
        yield name
    finally:
        statements = f"{BACK}; DELETE FROM api.tenant WHERE owner = 'api'; DELETE FROM api.usage"
        sql(lab, server.name, statements)


def path_of(tenant: str, *more: str) -> str:
    return "/".join(("/tenants", tenant.replace(" ", "%20"), *more))


def operations(description: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            if operation["x-scope"] not in ("public", "host"):
                yield method.upper(), path.removeprefix(BASE), operation


def test_an_operator_s_key_opens_no_other_route(operator: Api, description: dict[str, Any]) -> None:
    """Nor does it by naming a domain: to it there are none."""
    opened = 0
    for method, path, operation in operations(description):
        body: dict[str, Any] | None = {} if method in ("POST", "PATCH") else None
        place = re.sub(r"{(\w+)}", "acme.test", path)
        answer = operator.ask(method, place, body)
        if operation.get("x-key-of") == "operator":
            opened += 1
            assert answer.status != 403, (method, path)
        else:
            assert (answer.status, answer.body["code"]) == (403, "forbidden"), (method, path)
        named = operator.ask(method, place, body, {"Mail-Domain": "acme.test"})
        assert (named.status, named.body["detail"]) == (404, "There is no such domain."), (method, path)
    assert opened == 11


def test_no_other_key_opens_an_operator_s_routes(
    lab: Lab, server: Server, acme: Api, description: dict[str, Any]
) -> None:
    """A tenant's key has tenants.read, and sees by it itself alone."""
    tenant = Api(lab, server.name, lab.env["LAB_TENANT_KEY"])
    shown = tenant.ask("GET", "/tenant")
    assert (shown.status, shown.body["name"], shown.body["owner"]) == (200, "lab", "inventory")
    assert shown.body["domains"] == ["acme.test", "globex.test"]
    for method, path, operation in operations(description):
        if operation.get("x-key-of") == "operator":
            body: dict[str, Any] | None = {} if method in ("POST", "PATCH") else None
            for api in (tenant, acme):
                answer = api.ask(method, re.sub(r"{(\w+)}", "lab", path), body)
                assert (answer.status, answer.body["code"]) == (403, "forbidden"), (method, path)


def test_a_tenant_is_made_used_changed_and_removed(lab: Lab, server: Server, operator: Api, tenant: str) -> None:
    path = path_of(tenant)
    again = operator.ask("POST", "/tenants", {"name": tenant})
    assert (again.status, again.body["code"]) == (409, "name_taken")
    assert operator.ask("PATCH", path, {"title": "Other Ltd"}).body["title"] == "Other Ltd"
    listed = {entry["name"]: entry["owner"] for entry in operator.ask("GET", "/tenants").body["data"]}
    assert listed == {"lab": "inventory", tenant: "api"}
    page = operator.ask("GET", "/tenants?limit=1").body
    following = operator.ask("GET", f"/tenants?limit=1&after={page['next']}").body
    assert [page["data"][0]["name"], following["data"][0]["name"]] == ["lab", tenant] and following["next"] is None

    wanted = {"name": "all", "scopes": ["domains.read", "emails.write", "tenants.read"], "requests_per_minute": 500}
    made = operator.ask("POST", f"{path}/api-keys", wanted)
    assert (made.status, made.body["requests_per_minute"], made.body["recipients_per_hour"]) == (201, 500, None)
    key = Api(lab, server.name, made.body["key"])
    assert key.ask("GET", "/domains").body["data"] == []
    assert key.ask("GET", "/domains").headers["ratelimit-limit"] == "500"
    assert operator.ask("POST", f"{path}/domains", {"name": "Globex.test"}).body["domains"] == ["globex.test"]
    assert key.ask("GET", "/domains").body["data"] == [{"name": "globex.test"}]
    message = {"from": "a@globex.test", "to": ["b@peer.test"], "subject": "x", "text": "x"}
    assert key.ask("POST", "/emails/validate", message).status == 200
    assert key.ask("GET", "/tenant").body["title"] == "Other Ltd"

    shown = operator.ask("GET", f"{path}/api-keys")
    assert [entry["id"] for entry in shown.body["data"]] == [made.body["id"]]
    assert made.body["key"] not in str(shown.body) and "hash" not in shown.body["data"][0]
    taken = operator.ask("POST", f"{path}/api-keys", wanted)
    assert (taken.status, taken.body["code"]) == (409, "name_taken")
    used = operator.ask("DELETE", path)
    assert (used.status, used.body["code"]) == (409, "in_use")
    assert operator.ask("DELETE", f"{path}/domains/globex.test").status == 204
    assert key.ask("GET", "/domains").body["data"] == []
    assert key.ask("GET", "/emails", headers={"Mail-Domain": "globex.test"}).status == 404
    assert operator.ask("DELETE", f"{path}/domains/globex.test").status == 404
    assert operator.ask("DELETE", f"{path}/api-keys/{made.body['id']}").status == 204
    assert operator.ask("DELETE", f"{path}/api-keys/{made.body['id']}").status == 404
    # at once; and so does a key whose tenant goes
    assert key.ask("GET", "/domains").status == 401
    second = Api(lab, server.name, operator.ask("POST", f"{path}/api-keys", wanted).body["key"])
    assert second.ask("GET", "/domains").status == 200
    assert operator.ask("DELETE", path).status == 204
    assert second.ask("GET", "/domains").status == 401
    assert operator.ask("GET", path).status == 404


def test_bad_input_is_refused_with_its_place(operator: Api, tenant: str) -> None:
    key = {"name": "x", "scopes": ["emails.read"]}
    for where, body, pointer in (
        ("", {"name": "a/b"}, "/name"),
        ("", {"name": ""}, "/name"),
        ("", {"name": "x", "title": "x" * 201}, "/title"),
        ("", {"name": "x", "owner": "inventory"}, "/owner"),
        ("api-keys", {**key, "scopes": ["tenants.write"]}, "/scopes"),
        ("api-keys", {**key, "scopes": []}, "/scopes"),
        ("api-keys", {**key, "name": "x/y"}, "/name"),
        ("api-keys", {**key, "requests_per_minute": 0}, "/requests_per_minute"),
        ("domains", {"name": "peer.test"}, "/name"),
        ("domains", {"name": "x"}, "/name"),
        ("domains", {"name": "sub.globex.test"}, "/name"),
    ):
        answer = operator.ask("POST", path_of(tenant, where) if where else "/tenants", body)
        assert (answer.status, answer.body["code"]) == (422, "invalid_request"), (where, body)
        assert answer.body["errors"][0]["pointer"] == pointer, (where, body)


def test_the_inventory_s_tenant_is_changed_there(operator: Api, tenant: str) -> None:
    key = next(entry for entry in operator.ask("GET", "/tenants/lab/api-keys").body["data"])
    for method, path, body in (
        ("PATCH", "/tenants/lab", {"title": "x"}),
        ("DELETE", "/tenants/lab", None),
        ("POST", "/tenants/lab/domains", {"name": "globex.test"}),
        ("DELETE", "/tenants/lab/domains/acme.test", None),
        ("POST", "/tenants/lab/api-keys", {"name": "x", "scopes": ["emails.read"]}),
        ("DELETE", f"/tenants/lab/api-keys/{key['id']}", None),
    ):
        answer = operator.ask(method, path, body)
        assert (answer.status, answer.body["code"]) == (409, "owned_by_inventory"), (method, path)
    # nor is a domain that it has given away
    given = operator.ask("POST", path_of(tenant, "domains"), {"name": "acme.test"})
    assert (given.status, given.body["code"]) == (409, "domain_taken")
    assert operator.ask("GET", "/tenants/lab").body["domains"] == ["acme.test"]


def test_what_a_tenant_brought_itself_is_not_the_operator_s(
    lab: Lab, server: Server, operator: Api, tenant: str
) -> None:  # fmt: skip
    """The row as a domain of the API's own has it."""
    try:
        sql(lab, server.name, "INSERT INTO directory.domain (name, owner) VALUES ('own.test', 'api')")
        answer = operator.ask("POST", path_of(tenant, "domains"), {"name": "own.test"})
        assert (answer.status, answer.body["errors"][0]["pointer"]) == (422, "/name")
        sql(lab, server.name, f"INSERT INTO api.tenant_domain VALUES ('own.test', '{tenant}')")
        answer = operator.ask("DELETE", path_of(tenant, "domains", "own.test"))
        assert (answer.status, answer.body["code"]) == (409, "owned_by_tenant")
    finally:
        sql(lab, server.name, "DELETE FROM api.tenant_domain WHERE domain = 'own.test'; "
                              "DELETE FROM directory.domain WHERE name = 'own.test'")  # fmt: skip


def test_a_domain_goes_to_one_tenant_whoever_asks_at_the_same_time(
    lab: Lab, server: Server, operator: Api, tenant: str
) -> None:
    assert operator.ask("POST", "/tenants", {"name": f"{tenant} too"}).status == 201

    def give(name: str) -> int:
        api = Api(lab, server.name, lab.env["LAB_OPERATOR_KEY"])
        return api.ask("POST", path_of(name, "domains"), {"name": "globex.test"}).status

    for _round in range(5):
        with ThreadPoolExecutor(4) as pool:
            answers = sorted(pool.map(give, (tenant, f"{tenant} too") * 2))
        assert answers == [201, 409, 409, 409]
        have = [name for name in (tenant, f"{tenant} too") if operator.ask("GET", path_of(name)).body["domains"]]
        assert len(have) == 1
        assert operator.ask("DELETE", path_of(have[0], "domains", "globex.test")).status == 204


def test_who_changed_what_about_a_tenant(lab: Lab, server: Server, operator: Api, tenant: str, globex: Api) -> None:
    """In the tenant's log and no domain's; and a new tenant of the same name does not see the earlier one's."""
    path = path_of(tenant)
    wanted = {"name": "log", "scopes": ["audit.read", "tenants.read"]}
    made = operator.ask("POST", f"{path}/api-keys", wanted).body
    assert operator.ask("POST", f"{path}/domains", {"name": "globex.test"}).status == 201
    expected = [("created", "tenant", tenant), ("created", "tenant_key", made["id"]),
                ("created", "tenant_domain", "globex.test")]  # fmt: skip

    def log(api: Api, place: str) -> list[tuple[str, str, str]]:
        entries = api.ask("GET", place).body["data"]
        actor = f"key {lab.env['LAB_OPERATOR_KEY'][3:15]}"
        assert {entry["actor"] for entry in entries} <= {actor, "postgres"}
        assert not any("hash" in (entry["after"] or {}) for entry in entries)
        return [(entry["action"], entry["kind"], entry["target"]) for entry in entries]

    assert log(operator, f"{path}/audit")[-3:] == expected
    key = Api(lab, server.name, made["key"])
    assert log(key, "/tenant/audit") == expected
    assert "tenant" not in {entry["kind"].partition("_")[0] for entry in globex.ask("GET", "/audit").body["data"]}
    assert operator.ask("DELETE", f"{path}/domains/globex.test").status == 204
    assert operator.ask("DELETE", path).status == 204
    assert log(operator, f"{path}/audit")[-2:] == [("removed", "tenant", tenant), ("removed", "tenant_key", made["id"])]
    assert operator.ask("POST", "/tenants", {"name": tenant}).status == 201
    second = operator.ask("POST", f"{path}/api-keys", wanted).body
    assert log(Api(lab, server.name, second["key"]), "/tenant/audit") == [
        ("created", "tenant", tenant), ("created", "tenant_key", second["id"])
    ]  # fmt: skip


def test_the_database_holds_it_without_the_service(lab: Lab, server: Server, tenant: str) -> None:
    """The service's role, with an operator's key as who asks: tenants, those of the API to change, and no mail."""

    def as_operator(statements: str, scopes: str = "tenants.read,tenants.write") -> str:
        digest = "0" * 64
        return sql(lab, server.name, f"""
            BEGIN; INSERT INTO api.operator_key VALUES ('{"1" * 12}', 'rls', '\\x{digest}', '{{{scopes}}}');
            SET LOCAL api.actor = '{"1" * 12}'; SET LOCAL ROLE mailwright_api; {statements} ; ROLLBACK""")  # fmt: skip

    assert as_operator("SELECT count(*) FROM api.tenant") == "2"
    tables = ("key", "message", "recipient", "event", "template", "webhook", "inbound_message", "mailbox", "alias")
    for table in tables:
        column = "address" if table in ("mailbox", "alias") else "id"
        assert as_operator(f"SELECT count({column}) FROM api.{table}") == "0"
    assert as_operator("SELECT count(*) FROM api.audit WHERE domain IS NOT NULL") == "0"
    change = "UPDATE api.tenant SET title = 'x' RETURNING name"
    assert as_operator(change) == tenant
    assert as_operator(change, "tenants.read") == ""
    assert as_operator("DELETE FROM api.tenant_domain RETURNING domain") == ""
    assert as_operator("DELETE FROM api.tenant_key RETURNING tenant") == ""
    give = "INSERT INTO api.tenant_domain VALUES ('{}', '{}') RETURNING domain"
    assert as_operator(give.format("globex.test", tenant)) == "globex.test"
    for statement in (
        give.format("globex.test", "lab"),
        give.format("peer.test", tenant),
        "INSERT INTO api.tenant (name, owner) VALUES ('x', 'inventory')",
        f"INSERT INTO api.tenant_key (id, tenant, name, hash, scopes) VALUES ('x', 'lab', '', '\\x{'0' * 64}', '{{}}')",
    ):
        with pytest.raises(RuntimeError, match="row-level security"):
            as_operator(statement)
    with pytest.raises(RuntimeError, match="row-level security"):
        as_operator(give.format("globex.test", tenant), "tenants.read")


def test_an_apply_leaves_the_api_s_tenants_alone_and_names_a_clash(
    lab: Lab, server: Server, operator: Api, tenant: str
) -> None:
    made = operator.ask("POST", path_of(tenant, "api-keys"), {"name": "stays", "scopes": ["domains.read"]}).body
    assert operator.ask("POST", path_of(tenant, "domains"), {"name": "globex.test"}).status == 201
    api = inventory(server)
    declared = api["tenants"][0]

    def apply(*tenants: dict[str, Any], check: bool = False) -> str:
        play = str(CHECKOUT / "tests/integration/api_database.yml")
        extra = json.dumps({"mail_api": {**api, "tenants": tenants}})
        return lab.playbook(play, "-l", server.name, "--diff", "-e", extra, *(["--check"] if check else [])).stdout

    # the API's tenant has globex.test, so the inventory no longer gives it to its own
    smaller = {**declared, "domains": ["acme.test"]}
    for check in (True, False):
        done = apply(smaller, check=check)
        assert " changed=0 " in done and " failed=0 " in done, done[-3000:]
    key = Api(lab, server.name, made["key"])
    assert key.ask("GET", "/domains").body["data"] == [{"name": "globex.test"}]
    for tenants, error in (
        ((declared,), f"tenant 'lab' domain=globex.test: belongs to tenant '{tenant}', owned by the API"),
        ((smaller, {"name": tenant, "domains": ["globex.test"]}), f"tenant '{tenant}': exists, owned by the API"),
    ):
        done = apply(*tenants)
        said = done.partition("FAILED! => ")[2]
        assert said.count("owned by the API") == 1 and error in said, done[-3000:]
    assert operator.ask("GET", "/tenants/lab").body["domains"] == ["acme.test"]
    assert operator.ask("GET", path_of(tenant)).body["domains"] == ["globex.test"]


def inventory(server: Server) -> dict[str, Any]:
    """What the lab's inventory says of the API."""
    text = (CHECKOUT / ".lab/inventory.yml").read_text()
    hosts: dict[str, Any] = yaml.safe_load(text)["mailservers"]["hosts"]
    found: dict[str, Any] = hosts[server.name]["mail_api"]
    return found


def test_a_tenant_s_name_is_not_taken_for_an_earlier_one_s(
    lab: Lab, server: Server, operator: Api, tenant: str
) -> None:  # fmt: skip
    """What an operator's tenant leaves is nobody's; and a tenant that left the inventory may come back."""
    try:
        sql(lab, server.name, f"""
            INSERT INTO api.domain_claim (name, tenant, token, state) VALUES
            ('one.test', '{tenant}', 'x', 'pending'), ('two.test', '{tenant}', 'y', 'verified');
            INSERT INTO api.domain_holder (name, tenant, until) VALUES ('three.test', '{tenant}', now()),
            ('four.test', 'left the inventory', now())""")  # fmt: skip
        assert operator.ask("DELETE", path_of(tenant)).status == 204
        left = f"""
            SELECT (SELECT count(*) FROM api.domain_claim WHERE tenant = '{tenant}' AND state <> 'leaving')
                   + (SELECT count(*) FROM api.domain_holder WHERE tenant = '{tenant}')"""
        assert sql(lab, server.name, left) == "0"
        taken = operator.ask("POST", "/tenants", {"name": "left the inventory"})
        assert (taken.status, taken.body["code"]) == (409, "name_taken")
    finally:
        sql(lab, server.name, "DELETE FROM api.domain_claim WHERE name IN ('one.test', 'two.test'); "
                              "DELETE FROM api.domain_holder WHERE name IN ('three.test', 'four.test')")  # fmt: skip


def test_a_member_claims_domains_as_far_as_the_role_goes(
    lab: Lab, server: Server, operator: Api, tenant: str
) -> None:  # fmt: skip
    """And an apply leaves what a tenant of the API brought switched on."""
    key = operator.ask("POST", path_of(tenant, "api-keys"), {"name": "all", "scopes": list(TENANT_SCOPES)}).body["key"]
    own = Api(lab, server.name, key)
    claimed = {"name": f"{uuid.uuid4().hex[:12]}.peer.test"}
    try:
        for role, status in (("admin", 201), ("developer", 403)):
            who = own.ask("POST", "/members", {"email": f"{role}@peer.test", "role": role}).body["id"]
            wanted = {"name": "own", "scopes": list(ROLES[role])}
            member = Api(lab, server.name, own.ask("POST", f"/members/{who}/keys", wanted).body["key"])
            assert member.ask("POST", "/domains", claimed).status == status
        shown = own.ask("GET", f"/domains/{claimed['name']}")
        assert (shown.status, shown.body["state"]) == (200, "pending")
        sql(lab, server.name, f"""
            UPDATE api.domain_claim SET state = 'active' WHERE name = '{claimed["name"]}';
            INSERT INTO directory.domain (name, owner) VALUES ('{claimed["name"]}', 'api');
            INSERT INTO api.tenant_domain VALUES ('{claimed["name"]}', '{tenant}')""")  # fmt: skip
        api = inventory(server)
        smaller = {**api, "tenants": [{**api["tenants"][0], "domains": ["acme.test"]}]}
        play = str(CHECKOUT / "tests/integration/api_database.yml")
        done = lab.playbook(play, "-l", server.name, "--diff", "-e", json.dumps({"mail_api": smaller})).stdout
        assert " changed=0 " in done and " failed=0 " in done, done[-3000:]
    finally:
        sql(lab, server.name, f"""
            DELETE FROM api.tenant_domain WHERE domain = '{claimed["name"]}';
            DELETE FROM directory.domain WHERE name = '{claimed["name"]}';
            DELETE FROM api.domain_claim WHERE name = '{claimed["name"]}';
            DELETE FROM api.domain_holder WHERE name = '{claimed["name"]}'""")  # fmt: skip
