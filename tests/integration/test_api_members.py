# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Members of the sending API's tenants: what a role allows at this moment, and who gives what to whom."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.sending import keys
from ansible_collections.mailwright.server.tests.integration.conftest import Server
from ansible_collections.mailwright.server.tests.integration.sending import BASE, Api, sql
from connection import Lab


class Party(NamedTuple):
    """A tenant, and a key of it that has all scopes."""

    name: str
    key: keys.Key
    api: Api


@pytest.fixture(scope="module")
def parties(lab: Lab, server: Server) -> Iterator[tuple[Party, Party]]:
    """Two tenants made by the API; the first has globex.test meanwhile."""
    ends = [uuid.uuid4().hex[:12] for _tenant in range(2)]
    made = [(f"members {end}", keys.generate()) for end in ends]
    found = [Party(name, key, Api(lab, server.name, key.text)) for name, key in made]
    scopes = ",".join(keys.TENANT_SCOPES)
    rows = ", ".join(
        f"('{key.id}', '{name}', 'all', '\\x{key.digest.hex()}', '{{{scopes}}}')" for name, key, _api in found
    )
    try:
        sql(lab, server.name, f"""
            INSERT INTO api.tenant (name, owner) VALUES ('{found[0].name}', 'api'), ('{found[1].name}', 'api');
            INSERT INTO api.tenant_key (id, tenant, name, hash, scopes) VALUES {rows};
            UPDATE api.tenant_domain SET tenant = '{found[0].name}' WHERE domain = 'globex.test'""")  # fmt: skip
        yield found[0], found[1]
    finally:
        sql(lab, server.name, """
            UPDATE api.tenant_domain SET tenant = 'lab' WHERE domain = 'globex.test';
            DELETE FROM api.domain_limit WHERE domain = 'globex.test'; DELETE FROM api.usage;
            DELETE FROM api.key WHERE domain = 'globex.test' AND name LIKE 'member %';
            DELETE FROM api.tenant WHERE owner = 'api'""")  # fmt: skip


@pytest.fixture
def ours(lab: Lab, server: Server, parties: tuple[Party, Party]) -> Iterator[Party]:
    """The first tenant; afterwards neither has members."""
    yield parties[0]
    sql(lab, server.name, "DELETE FROM api.member")


class Person(NamedTuple):
    """A member with a key that has all of the role's scopes."""

    id: str
    key: str
    api: Api


def join(lab: Lab, server: Server, by: Api, role: str, scopes: list[str] | None = None) -> Person:
    email = f"{role}-{uuid.uuid4().hex[:8]}@peer.test"
    made = by.ask("POST", "/members", {"email": email, "name": role, "role": role})
    assert (made.status, made.body["role"], made.body["email"]) == (201, role, email), made
    wanted = {"name": "own", "scopes": scopes or list(keys.ROLES[role])}
    key = by.ask("POST", f"/members/{made.body['id']}/keys", wanted)
    assert key.status == 201, key
    return Person(made.body["id"], key.body["id"], Api(lab, server.name, key.body["key"]))


def operations(description: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            if operation["x-scope"] not in ("public", "host"):
                yield method.upper(), path.removeprefix(BASE), operation


def test_a_member_can_do_what_the_role_says_and_no_more(
    lab: Lab, server: Server, ours: Party, description: dict[str, Any]
) -> None:
    """By every route, with a key that has all scopes of the role; then with the same key, while the role is lower."""
    owner = join(lab, server, ours.api, "owner")

    def opened(api: Api) -> dict[bool, set[str]]:
        found: dict[bool, set[str]] = {True: set(), False: set()}
        for method, path, operation in operations(description):
            if operation.get("x-key-of") != "operator":
                place = re.sub(r"{(\w+)}", "none", path)
                answer = api.ask(method, place, {} if method in ("POST", "PATCH") else None)
                found[answer.status != 403].add(operation["x-scope"])
        return found

    for role, scopes in keys.ROLES.items():
        changed = ours.api.ask("PATCH", f"/members/{owner.id}", {"role": role})
        assert (changed.status, changed.body["role"]) == (200, role)
        found = opened(owner.api)
        assert found[True] == set(scopes) and not found[False] & set(scopes), role
        shown = ours.api.ask("GET", f"/members/{owner.id}/keys").body["data"][0]
        assert set(shown["allowed_scopes"]) == set(scopes) and set(shown["scopes"]) == set(keys.TENANT_SCOPES)
    assert ours.api.ask("DELETE", f"/members/{owner.id}").status == 204
    assert owner.api.ask("GET", "/domains").status == 401


def test_members_are_made_changed_listed_and_removed(lab: Lab, server: Server, ours: Party) -> None:
    erin = join(lab, server, ours.api, "developer", ["domains.read", "emails.write"])
    shown = ours.api.ask("GET", f"/members/{erin.id}").body
    again = ours.api.ask("POST", "/members", {"email": shown["email"].upper(), "role": "viewer"})
    assert (again.status, again.body["code"]) == (409, "address_taken")
    change = {"email": f"Other-{shown['email']}", "name": "Erin"}
    changed = ours.api.ask("PATCH", f"/members/{erin.id}", change).body
    assert changed == {**shown, "email": f"other-{shown['email']}", "name": "Erin"}
    assert erin.api.ask("GET", "/domains").body["data"] == [{"name": "globex.test"}]
    message = {"from": "a@globex.test", "to": ["b@peer.test"], "subject": "x", "text": "x"}
    assert erin.api.ask("POST", "/emails/validate", message).status == 200
    listed = ours.api.ask("GET", f"/members/{erin.id}/keys").body["data"]
    assert [(key["id"], key["name"]) for key in listed] == [(erin.key, "own")] and "hash" not in listed[0]
    taken = ours.api.ask("POST", f"/members/{erin.id}/keys", {"name": "own", "scopes": ["emails.write"]})
    assert (taken.status, taken.body["code"]) == (409, "name_taken")
    assert ours.api.ask("DELETE", f"/members/{erin.id}/keys/{erin.key}").status == 204
    assert ours.api.ask("DELETE", f"/members/{erin.id}/keys/{erin.key}").status == 404
    assert erin.api.ask("GET", "/domains").status == 401
    frank = join(lab, server, ours.api, "viewer")
    page = ours.api.ask("GET", "/members?limit=1").body
    following = ours.api.ask("GET", f"/members?limit=1&after={page['next']}").body
    assert [page["data"][0]["id"], following["data"][0]["id"]] == [erin.id, frank.id] and following["next"] is None
    for place, body, pointer in (
        ("/members", {"email": "erin", "role": "viewer"}, "/email"),
        ("/members", {"email": "e@peer.test", "role": "root"}, "/role"),
        (f"/members/{erin.id}/keys", {"name": "x", "scopes": ["members.write"]}, "/scopes"),
        (f"/members/{erin.id}/keys", {"name": "x", "scopes": ["tenants.write"]}, "/scopes"),
        (f"/members/{erin.id}/keys", {"name": "x/y", "scopes": ["emails.read"]}, "/name"),
    ):
        answer = ours.api.ask("POST", place, body)
        assert (answer.status, answer.body["errors"][0]["pointer"]) == (422, pointer), (place, body)


def test_nobody_gives_more_than_they_have(lab: Lab, server: Server, ours: Party) -> None:
    """An admin has all but api_keys.write, which is an owner's: what an owner is or has is not an admin's to change."""
    owner, admin = join(lab, server, ours.api, "owner"), join(lab, server, ours.api, "admin")
    small = join(lab, server, ours.api, "admin", ["members.read", "members.write"])
    developer = join(lab, server, admin.api, "developer")
    for api in (admin.api, small.api):
        for method, path, body in (
            ("POST", "/members", {"email": "more@peer.test", "role": "owner"}),
            ("PATCH", f"/members/{admin.id}", {"role": "owner"}),
            ("PATCH", f"/members/{developer.id}", {"role": "owner"}),
            ("PATCH", f"/members/{owner.id}", {"role": "viewer"}),
            ("PATCH", f"/members/{owner.id}", {"email": "mine@peer.test"}),
            ("DELETE", f"/members/{owner.id}", None),
            ("POST", f"/members/{owner.id}/keys", {"name": "mine", "scopes": ["domains.read"]}),
            ("DELETE", f"/members/{owner.id}/keys/{owner.key}", None),
        ):
            answer = api.ask(method, path, body)
            assert (answer.status, answer.body["code"]) == (403, "forbidden"), (method, path, body)
    # a key with less than its role has gives no more than the key has
    for path, body in (("/members", {"email": "more@peer.test", "role": "viewer"}),
                       (f"/members/{developer.id}/keys", {"name": "mine", "scopes": ["emails.read"]})):  # fmt: skip
        answer = small.api.ask("POST", path, body)
        assert (answer.status, answer.body["code"]) == (403, "forbidden"), path
    for path, body in (("/members", {"email": "more@peer.test", "role": "viewer"}), (f"/members/{admin.id}/keys", {})):
        assert developer.api.ask("POST", path, body).status == 403
    assert ours.api.ask("GET", f"/members/{owner.id}").body["role"] == "owner"
    assert owner.api.ask("GET", "/domains").status == 200
    assert admin.api.ask("DELETE", f"/members/{developer.id}").status == 204
    assert developer.api.ask("GET", "/domains").status == 401


def test_the_last_owner_stays_whoever_asks_at_the_same_time(lab: Lab, server: Server, ours: Party) -> None:
    for _round in range(5):
        people = [join(lab, server, ours.api, "owner") for _person in range(2)]

        def lower(who: tuple[Person, Person], method: str) -> int:
            body = {"role": "viewer"} if method == "PATCH" else None
            return who[0].api.ask(method, f"/members/{who[1].id}", body).status

        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lower, (tuple(people), tuple(reversed(people))), ("PATCH", "DELETE")))
        assert sorted(answers) in ([200, 409], [204, 403], [204, 401], [204, 409], [200, 403], [200, 401]), answers
        roles = [entry["role"] for entry in ours.api.ask("GET", "/members").body["data"]]
        assert roles.count("owner") == 1
        last = next(person for person in people
                    if ours.api.ask("GET", f"/members/{person.id}").body.get("role") == "owner")  # fmt: skip
        for method, body in (("DELETE", None), ("PATCH", {"role": "admin"})):
            answer = last.api.ask(method, f"/members/{last.id}", body)
            assert (answer.status, answer.body["code"]) == (409, "last_owner")
        # what is no role is no matter; and the tenant's own key is no member's
        assert last.api.ask("PATCH", f"/members/{last.id}", {"name": "Last", "role": "owner"}).status == 200
        for person in ours.api.ask("GET", "/members").body["data"]:
            assert ours.api.ask("DELETE", f"/members/{person['id']}").status == 204


def test_another_tenant_s_members_do_not_exist(
    lab: Lab, server: Server, ours: Party, parties: tuple[Party, Party], description: dict[str, Any]
) -> None:
    mine = join(lab, server, ours.api, "owner")
    theirs, foreign = parties[1].api, join(lab, server, parties[1].api, "owner")
    bodies: dict[str, dict[str, Any]] = {"POST": {"name": "x", "scopes": ["domains.read"]}, "PATCH": {"role": "viewer"}}
    tried = 0
    for method, path, _operation in operations(description):
        if not path.startswith("/members/"):
            continue
        tried += 1
        for key_id in (mine.key, foreign.key):
            place = path.replace("{member}", mine.id).replace("{key_id}", key_id)
            for api in (theirs, foreign.api):
                answer = api.ask(method, place, bodies.get(method))
                assert (answer.status, answer.body["code"]) == (404, "not_found"), (method, path)
        # nor is a key found below a member of its own
        place = path.replace("{member}", foreign.id).replace("{key_id}", mine.key)
        if "{key_id}" in path:
            assert theirs.ask(method, place).status == 404
    assert tried == 6
    assert [entry["id"] for entry in theirs.ask("GET", "/members").body["data"]] == [foreign.id]
    assert mine.id not in str(theirs.ask("GET", "/tenant/audit").body)
    assert foreign.api.ask("GET", "/domains").body["data"] == []
    assert foreign.api.ask("GET", "/emails", headers={"Mail-Domain": "globex.test"}).status == 404
    assert mine.api.ask("GET", f"/members/{mine.id}").body["role"] == "owner"


def test_the_database_holds_it_without_the_service(
    lab: Lab, server: Server, ours: Party, parties: tuple[Party, Party]
) -> None:
    """The same questions as the service's role, for the other tenant, for none, and as an operator."""
    mine = join(lab, server, ours.api, "owner")

    def as_service(tenant: str, statements: str, actor: str = "") -> str:
        settings = f"SET api.tenant = '{tenant}'; SET api.actor = '{actor}'; SET api.domain = 'globex.test'"
        return sql(lab, server.name, f"SET ROLE mailwright_api; {settings}; {statements}")

    count = "SELECT (SELECT count(*) FROM api.member) || ' ' || (SELECT count(id) FROM api.member_key);"
    assert as_service(ours.name, count) == "1 1"
    for tenant in (parties[1].name, "", "lab"):
        assert as_service(tenant, count) == "0 0"
        assert as_service(tenant, "UPDATE api.member SET role = 'viewer' RETURNING id;") == ""
        assert as_service(tenant, "DELETE FROM api.member_key RETURNING id; DELETE FROM api.member RETURNING id;") == ""
        assert as_service(tenant, f"SELECT count(*) FROM api.audit WHERE target = '{mine.id}';") == "0"
        row = f"'{uuid.uuid4()}', '{ours.name}', 'x@peer.test', 'owner'"
        with pytest.raises(RuntimeError, match="row-level security"):
            as_service(tenant, f"INSERT INTO api.member (id, tenant, email, role) VALUES ({row});")
    # a key for a member of somebody else, under one's own name
    key = f"'{'2' * 12}', '{parties[1].name}', '{mine.id}', 'x', '\\x{'0' * 64}', '{{}}'"
    with pytest.raises(RuntimeError, match="foreign key"):
        as_service(
            parties[1].name, f"INSERT INTO api.member_key (id, tenant, member, name, hash, scopes) VALUES ({key});"
        )  # fmt: skip
    operator = lab.env["LAB_OPERATOR_KEY"][3:15]
    assert as_service("", count, operator) == "0 0"
    assert as_service("", "SELECT count(*) FROM api.audit WHERE kind LIKE 'member%';", operator) == "0"
    for statement in ("SELECT hash FROM api.member_key", "UPDATE api.member_key SET scopes = '{}'",
                      "UPDATE api.member SET tenant = 'lab'"):  # fmt: skip
        with pytest.raises(RuntimeError, match="permission denied"):
            as_service(ours.name, f"{statement};")
    # the last owner is the database's own rule
    with pytest.raises(RuntimeError, match="the last owner"):
        as_service(ours.name, "UPDATE api.member SET role = 'viewer';", mine.key)


def test_limits_and_the_audit_log_know_members_keys(lab: Lab, server: Server, ours: Party, token: str) -> None:
    rate = f"UPDATE api.tenant_key SET requests_per_minute = {{}} WHERE id = '{ours.key.id}'"
    sql(lab, server.name, rate.format(4000))
    try:
        owner = join(lab, server, ours.api, "owner")
    finally:
        sql(lab, server.name, rate.format("NULL"))
    # bound as the key that made it; and so is what it makes
    assert owner.api.ask("GET", "/domains").headers["ratelimit-limit"] == "4000"
    made = owner.api.ask("POST", "/api-keys", {"name": f"member {token[5:15]}", "scopes": ["domains.read"]})
    assert (made.status, made.body["requests_per_minute"]) == (201, 4000)
    # the domain's limit is the member's key's too
    sql(lab, server.name, "INSERT INTO api.domain_limit (domain, recipients_per_hour) VALUES ('globex.test', 1)")
    message = {"from": "a@globex.test", "to": ["dave@peer.test", "dave+2@peer.test"], "subject": token, "text": "x"}
    answer = owner.api.ask("POST", "/emails", message)
    assert (answer.status, answer.body["code"]) == (422, "over_limit")

    viewer = join(lab, server, owner.api, "viewer")
    assert owner.api.ask("PATCH", f"/members/{viewer.id}", {"role": "developer"}).status == 200
    assert owner.api.ask("DELETE", f"/members/{viewer.id}").status == 204
    entries = ours.api.ask("GET", "/tenant/audit").body["data"]
    seen = [(entry["actor"], entry["action"], entry["kind"], entry["target"]) for entry in entries]
    mine, actor = f"key {ours.key.id}", f"key {owner.key}"
    for expected in (
        (mine, "created", "member", owner.id),
        (mine, "created", "member_key", owner.key),
        (actor, "created", "member", viewer.id),
        (actor, "created", "member_key", viewer.key),
        (actor, "changed", "member", viewer.id),
        (actor, "removed", "member", viewer.id),
        (actor, "removed", "member_key", viewer.key),
    ):
        assert seen.count(expected) == 1, (expected, seen)
    assert not any("hash" in (entry["after"] or {}) for entry in entries)
    domain = owner.api.ask("GET", "/audit?limit=100").body
    while domain["next"]:
        domain = owner.api.ask("GET", f"/audit?limit=100&after={domain['next']}").body
    assert (domain["data"][-1]["actor"], domain["data"][-1]["target"]) == (actor, made.body["id"])
