# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The pure part of the directory: reading the model, the difference, refusals, passwords, schema, server."""

from __future__ import annotations

import json
from typing import Any

import argon2
import pytest
from ansible_collections.mailwright.server.plugins.module_utils.directory import (
    cluster,
    passwords,
    rows,
    schema,
    webmail,
)
from hypothesis import given, settings
from hypothesis import strategies as st

KEY = b"k" * passwords.KEY_BYTES
HASH = "{ARGON2ID}$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaA"
OTHER_HASH = "{BLF-CRYPT}$2y$10$abcdefghijklmnopqrstuu"


def mailbox(address: str = "alice@acme.test", **changes: Any) -> dict[str, Any]:
    local_part, _at, domain = address.rpartition("@")
    return {
        "address": address,
        "domain": domain,
        "local_part": local_part,
        "display_name": "",
        "password": None,
        "password_hash": HASH,
        "quota_bytes": 1024,
        "enabled": True,
    } | changes


def wanted(
    *mailboxes: dict[str, Any], aliases: Any = (), senders: Any = (), domains: Any = ("acme.test",)
) -> rows.Wanted:
    found, errors = rows.parse(
        [{"name": name, "enabled": True} for name in domains],
        list(mailboxes),
        [{"address": address, "destination": destination} for address, destination in aliases],
        [{"address": address, "login": login} for address, login in senders],
    )
    assert errors == []
    return found


def stored(*mailboxes: rows.Mailbox, owner: str = "inventory", **others: Any) -> rows.Current:
    return rows.current(
        others.get("domains", [("acme.test", True, "inventory")]),
        [(*row, owner) for row in mailboxes],
        others.get("aliases", []),
        others.get("senders", []),
    )


def as_stored(row: dict[str, Any], secret: str | None = HASH) -> rows.Mailbox:
    return rows.Mailbox(
        row["address"],
        row["domain"],
        row["local_part"],
        row["display_name"],
        row["quota_bytes"],
        row["enabled"],
        secret,
    )


def texts(todo: rows.Plan) -> list[str]:
    return [str(line) for line in rows.lines(todo)]


def test_all_errors_at_once_with_key_path_value_and_remedy() -> None:
    _wanted, errors = rows.parse(
        [{"name": "Acme.test", "enabled": True}, {"name": "b.test", "enabled": "yes"}, 7],
        [
            mailbox(quota_bytes=-1, display_name="a\nb"),
            mailbox("bob@acme.test", password="x"),
            mailbox("carl@acme.test", local_part="karl", quota_bytes=2**63),
            mailbox("dan@acme.test", password_hash="$1$secret"),
            mailbox("eve@acme.test", password_hash=None, password="se\0cret"),
            mailbox("fay@acme.test", quota_bytes=True),
        ],
        [{"address": "x@acme.test", "destination": ""}, {"address": "x@", "destination": "y@acme.test"}],
        [{"address": "x@acme.test", "login": "y@acme.test"}] * 2,
    )
    text = "\n".join(errors)
    for part in (
        "domains[0].name: 'Acme.test': must be lower-case",
        "domains[1].enabled: 'yes': must be true or false",
        "domains[2]: must be a mapping with name",
        "mailboxes[0].quota_bytes: -1: must be a number of bytes",
        "mailboxes[0].display_name: 'a\\nb': must be one line",
        "mailboxes[1] (bob@acme.test): exactly one of password and password_hash",
        "mailboxes[2].quota_bytes: 9223372036854775808: must be",
        "mailboxes[3].password_hash (dan@acme.test): must begin with {ARGON2ID}$",
        "mailboxes[4].password (eve@acme.test): must be text",
        "mailboxes[5].quota_bytes: True: must be",
        "aliases[0].destination: '': must be one line of text",
        "aliases[1].address: 'x@': must be local_part@domain",
        "senders[1].address: 'x@acme.test y@acme.test': is listed twice",
    ):
        assert part in text, text
    assert "cret" not in text


def test_a_mailbox_must_agree_with_its_parts_and_be_listed_once() -> None:
    _wanted, errors = rows.parse(
        [{"name": "acme.test", "enabled": True}],
        [mailbox(local_part="bob"), mailbox(), mailbox("carol@globex.test")],
        [],
        [],
    )
    assert errors == [
        "mailboxes[0].address: 'alice@acme.test': must be local_part@domain, here bob@acme.test",
        "mailboxes[1].address: 'alice@acme.test': is listed twice",
        "mailboxes[2].domain: 'globex.test': must be one of domains",
    ]


def test_json_text_is_as_good_as_a_list() -> None:
    assert rows.listed(json.dumps([mailbox()])) == [mailbox()]
    assert rows.listed([1]) == [1]
    for value in ("[1", "7", "{}", None, 7):
        _wanted, errors = rows.parse([], rows.listed(value), [], [])
        assert errors == ["mailboxes: must be a list, or the JSON text of one"]


def test_nothing_to_do() -> None:
    todo = rows.plan(
        stored(as_stored(mailbox()), aliases=[("a@acme.test", "b@x.test", "inventory")]),
        wanted(mailbox(), aliases=[("a@acme.test", "b@x.test")]),
        KEY,
    )
    assert todo.empty
    assert rows.lines(todo) == []


def test_one_new_mailbox_is_one_line() -> None:
    found = stored(*(as_stored(mailbox(f"u{number}@acme.test")) for number in range(50)))
    new = mailbox(display_name='Al "ice"', quota_bytes=2147483648)
    todo = rows.plan(found, wanted(*(mailbox(f"u{number}@acme.test") for number in range(50)), new), KEY)
    assert texts(todo) == [
        '+ mailbox alice@acme.test quota=2147483648 enabled=yes name="Al \\"ice\\"" password=<set>',
    ]
    assert todo.counts()["mailbox"] == {"added": 1, "changed": 0, "removed": 0}


def test_a_mailbox_and_the_right_to_send_as_itself_are_one_line() -> None:
    senders = [{"address": a, "login": "alice@acme.test"} for a in ("alice@acme.test", "sales@acme.test")]
    want, errors = rows.parse([{"name": "acme.test", "enabled": True}], [mailbox()], [], senders)
    assert errors == []
    todo = rows.plan(rows.EMPTY, want, KEY)
    assert [str(line) for line in rows.lines(todo)] == [
        "+ domain acme.test enabled=yes",
        '+ mailbox alice@acme.test quota=1024 enabled=yes name="" password=<set>',
        "+ sender sales@acme.test login=alice@acme.test",
    ]
    assert todo.counts()["sender"] == {"added": 2, "changed": 0, "removed": 0}


def test_lines_of_every_kind_of_change() -> None:
    found = rows.current(
        [("acme.test", True, "inventory"), ("gone.test", False, "inventory")],
        [(*as_stored(mailbox()), "inventory"), (*as_stored(mailbox("old@gone.test")), "inventory")],
        [("a@acme.test", "b@x.test", "inventory")],
        [("old@gone.test", "old@gone.test", "inventory")],
    )
    want, errors = rows.parse(
        [{"name": "acme.test", "enabled": False}, {"name": "new.test", "enabled": True}],
        [mailbox(quota_bytes=0, enabled=False, password_hash=OTHER_HASH)],
        [{"address": "@acme.test", "destination": "alice@acme.test"}],
        [{"address": "alice@acme.test", "login": "alice@acme.test"}],
    )
    assert errors == []
    todo = rows.plan(found, want, KEY)
    assert [(line.before, line.after) for line in rows.lines(todo)] == [
        (None, "domain new.test enabled=yes"),
        ("domain acme.test enabled=yes", "domain acme.test enabled=no"),
        ("domain gone.test enabled=no", None),
        (
            'mailbox alice@acme.test quota=1024 enabled=yes name="" password=<set>',
            'mailbox alice@acme.test quota=0 enabled=no name="" password=<changed>',
        ),
        ('mailbox old@gone.test quota=1024 enabled=yes name="" password=<set>', None),
        (None, "alias @acme.test destination=alice@acme.test"),
        ("alias a@acme.test destination=b@x.test", None),
        (None, "sender alice@acme.test login=alice@acme.test"),
    ]
    assert todo.counts()["domain"] == {"added": 1, "changed": 1, "removed": 1}
    assert "$" not in "".join(texts(todo))


PRINT = passwords.fingerprint(KEY, "alice@acme.test", "s3cret")


@pytest.mark.parametrize(
    ("before", "given_now", "changes"),
    [
        (HASH, {"password_hash": HASH}, False),
        (HASH, {"password_hash": OTHER_HASH}, True),
        (HASH, {"password_hash": None, "password": "s3cret"}, True),
        (PRINT, {"password_hash": None, "password": "s3cret"}, False),
        (PRINT, {"password_hash": None, "password": "s3cret2"}, True),
        (PRINT, {"password_hash": HASH}, True),
        (None, {"password_hash": HASH}, True),
    ],
    ids=["hash same", "hash other", "hash to plain", "plain same", "plain other", "plain to hash", "never set"],
)
def test_password_transitions(before: str | None, given_now: dict[str, Any], changes: bool) -> None:
    row = mailbox(**given_now)
    todo = rows.plan(stored(as_stored(mailbox(), before)), wanted(row), KEY)
    assert todo.new_passwords() == ({"alice@acme.test"} if changes else set())
    assert bool(rows.lines(todo)) is changes
    # Another change of the same row must leave the password alone.
    todo = rows.plan(stored(as_stored(mailbox(), before)), wanted(row | {"quota_bytes": 9}), KEY)
    assert todo.new_passwords() == ({"alice@acme.test"} if changes else set())
    assert len(todo.change_mailboxes) == 1


def test_fingerprint_depends_on_key_address_and_password() -> None:
    assert PRINT.startswith("hmac-sha256:")
    assert len(PRINT) == len("hmac-sha256:") + 64
    others = {
        passwords.fingerprint(b"x" * 32, "alice@acme.test", "s3cret"),
        passwords.fingerprint(KEY, "bob@acme.test", "s3cret"),
        passwords.fingerprint(KEY, "alice@acme.test", "s3creT"),
    }
    assert len(others) == 3
    assert PRINT not in others


def test_plain_passwords_become_argon2id_with_the_recommended_cost() -> None:
    hashes = passwords.hash_all({"a@acme.test": "one", "b@acme.test": "zwei ü"})
    assert list(hashes) == ["a@acme.test", "b@acme.test"]
    for address, password in (("a@acme.test", "one"), ("b@acme.test", "zwei ü")):
        scheme, value = hashes[address][:10], hashes[address][10:]
        assert scheme == "{ARGON2ID}"
        assert value.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
        assert argon2.PasswordHasher().verify(value, password)


def test_rows_of_the_api_stay() -> None:
    found = rows.current(
        [("acme.test", True, "inventory"), ("api.test", True, "api")],
        [(*as_stored(mailbox("robot@acme.test"), None), "api")],
        [("r@acme.test", "robot@acme.test", "api")],
        [("robot@acme.test", "robot@acme.test", "api")],
    )
    assert rows.conflicts(found, wanted()) == []
    assert rows.plan(found, wanted(), KEY).empty


def test_conflicts_with_the_api_are_all_named() -> None:
    found = rows.current(
        [("acme.test", True, "api"), ("gone.test", True, "inventory")],
        [
            (*as_stored(mailbox()), "api"),
            (*as_stored(mailbox("x@gone.test")), "api"),
            (*as_stored(mailbox("leaver@gone.test")), "inventory"),
        ],
        [("a@acme.test", "b@x.test", "api"), ("z@gone.test", "b@x.test", "api")],
        [("alice@acme.test", "alice@acme.test", "api"), ("sales@acme.test", "leaver@gone.test", "api")],
    )
    want = wanted(mailbox(), aliases=[("a@acme.test", "b@x.test")], senders=[("alice@acme.test", "alice@acme.test")])
    assert rows.conflicts(found, want) == [
        "domain acme.test: exists, owned by the API",
        "mailbox alice@acme.test: exists, owned by the API",
        "alias a@acme.test b@x.test: exists, owned by the API",
        "sender alice@acme.test alice@acme.test: exists, owned by the API",
        "domain gone.test: cannot be removed while the API's mailbox x@gone.test is in it",
        "domain gone.test: cannot be removed while the API's alias z@gone.test b@x.test is in it",
        "mailbox leaver@gone.test: cannot be removed while the API lets it send as sales@acme.test",
    ]


def test_an_address_is_the_inventory_s_or_the_api_s() -> None:
    found = rows.current(
        [("acme.test", True, "inventory")],
        [(*as_stored(mailbox("robot@acme.test")), "api")],
        [("alice@acme.test", "thief@x.test", "api"), ("sales@acme.test", "b@x.test", "api")],
        [],
    )
    want = wanted(mailbox(), aliases=[("robot@acme.test", "a@x.test"), ("sales@acme.test", "a@x.test")])
    assert rows.conflicts(found, want) == [
        "mailbox alice@acme.test: the API has an alias there",
        "alias robot@acme.test: the API has a mailbox there",
        "alias sales@acme.test: the API has one that leads to b@x.test",
    ]


@pytest.mark.parametrize(
    ("total", "gone", "percent", "refused"),
    [
        (10, 10, 30, False),
        (11, 4, 30, True),
        (11, 3, 30, False),
        (100, 30, 30, False),
        (100, 31, 30, True),
        (100, 1, 0, True),
        (100, 100, 100, False),
        (3, 3, 0, False),
    ],
)
def test_remove_limit(total: int, gone: int, percent: int, refused: bool) -> None:
    everyone = [mailbox(f"u{number:03}@acme.test") for number in range(total)]
    found = stored(*map(as_stored, everyone))
    message = rows.over_limit(found, rows.plan(found, wanted(*everyone[gone:]), KEY), percent)
    assert bool(message) is refused
    if message:
        share = int(message.split("set remove_limit to ")[1].split(" ")[0])
        assert rows.over_limit(found, rows.plan(found, wanted(*everyone[gone:]), KEY), share) is None
        assert rows.over_limit(found, rows.plan(found, wanted(*everyone[gone:]), KEY), share - 1)


def test_mailboxes_of_the_api_do_not_raise_the_limit() -> None:
    ours = [as_stored(mailbox(f"u{number:03}@acme.test")) for number in range(12)]
    theirs = [(*as_stored(mailbox(f"api{number:03}@acme.test")), "api") for number in range(1000)]
    found = rows.current([("acme.test", True, "inventory")], [*[(*row, "inventory") for row in ours], *theirs], [], [])
    assert rows.over_limit(found, rows.plan(found, wanted(), KEY), 30)


ADDRESSES = st.sampled_from([f"{name}@{domain}" for name in "abcd" for domain in ("acme.test", "b.test")])
MAILBOXES = st.dictionaries(
    ADDRESSES,
    st.tuples(st.integers(0, 3), st.booleans(), st.sampled_from([HASH, OTHER_HASH]), st.text(max_size=3)),
)


@settings(max_examples=200)
@given(before=MAILBOXES, after=MAILBOXES)
def test_plan_carried_out_gives_what_is_wanted(before: dict[str, Any], after: dict[str, Any]) -> None:
    def make(source: dict[str, Any]) -> rows.Wanted:
        made, errors = rows.parse(
            [{"name": "acme.test", "enabled": True}, {"name": "b.test", "enabled": True}],
            [
                mailbox(address, quota_bytes=quota, enabled=on, password_hash=hashed, display_name=json.dumps(name))
                for address, (quota, on, hashed, name) in source.items()
            ],
            [],
            [],
        )
        assert errors == []
        return made

    domains = [("acme.test", True, "inventory"), ("b.test", True, "inventory")]
    old, new = (rows.sealed(make(source), KEY) for source in (before, after))
    todo = rows.plan(stored(*old.values(), domains=domains), make(after), KEY)
    result = dict(old)
    for row in todo.remove_mailboxes:
        del result[row.address]
    for row in todo.add_mailboxes:
        assert row.address not in result
        result[row.address] = row
    for change in todo.change_mailboxes:
        assert result[change.old.address] == change.old != change.new
        result[change.new.address] = change.new
    assert result == new
    assert all("\n" not in line for line in texts(todo))


FIRST, SECOND = schema.Migration(1, "one", "SELECT 1"), schema.Migration(2, "two", "SELECT 2")


def test_migrations_are_numbered_without_gaps() -> None:
    assert [migration.version for migration in schema.MIGRATIONS] == list(range(1, len(schema.MIGRATIONS) + 1))


def test_released_migrations_never_change() -> None:
    released = {1: "951bd9fca765ead60cf899b8417c68bc7a93fdec00dfcedde0c6168c782201b8"}
    for migration in schema.MIGRATIONS:
        assert released.get(migration.version, migration.checksum) == migration.checksum


def test_pending() -> None:
    both = (FIRST, SECOND)
    assert schema.pending({}, both) == [FIRST, SECOND]
    assert schema.pending({1: FIRST.checksum}, both) == [SECOND]
    assert schema.pending({1: FIRST.checksum, 2: SECOND.checksum}, both) == []


@pytest.mark.parametrize(
    ("applied", "message"),
    [
        ({1: FIRST.checksum, 2: SECOND.checksum, 3: "x"}, "the database is at version 3, this collection knows 2"),
        ({1: "x"}, "version 1 in the database has checksum x"),
        ({2: SECOND.checksum}, "is at version 2 but never got version 1"),
    ],
)
def test_refused_schemas(applied: dict[int, str], message: str) -> None:
    with pytest.raises(schema.SchemaError, match=message):
        schema.pending(applied, (FIRST, SECOND))


GOOD_ROLES = {name: cluster.Role(True, False, ()) for name in cluster.ROLES} | {
    "mailwright": cluster.Role(True, False, ("log_error_verbosity=terse",))
}
GOOD_DATABASES = {
    "mailwright": cluster.Database(
        "mailwright",
        frozenset({(role, "CONNECT") for role in cluster.ROLES}),
    ),
    "roundcube": cluster.Database("roundcube", frozenset({("roundcube", "CONNECT")})),
}


def test_a_bare_server_gets_every_role_and_database() -> None:
    steps = cluster.steps({}, {}, "mailwright")
    assert [(step.before, step.after) for step in steps] == [
        (None, "role mailwright"),
        (None, "role postfix"),
        (None, "role dovecot"),
        (None, "role roundcube"),
        (None, "role reports"),
        (None, "role monitor"),
        (None, "database mailwright owner=mailwright connect=dovecot,monitor,postfix,reports,roundcube"),
        (None, "database roundcube owner=roundcube"),
    ]
    assert cluster.steps(GOOD_ROLES, GOOD_DATABASES, "mailwright") == []


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        (cluster.Role(False, False, ()), 'ALTER ROLE "postfix" LOGIN NOSUPERUSER'),
        (cluster.Role(True, True, ()), 'ALTER ROLE "postfix" LOGIN NOSUPERUSER'),
    ],
)
def test_a_role_with_other_attributes_is_corrected(role: cluster.Role, statement: str) -> None:
    (step,) = cluster.steps(GOOD_ROLES | {"postfix": role}, GOOD_DATABASES, "mailwright")
    assert step.statements[0].startswith(statement)


@pytest.mark.parametrize("grant", [("", "CONNECT"), ("", "TEMPORARY")])
def test_what_everybody_may_is_revoked(grant: tuple[str, str]) -> None:
    database = cluster.Database("roundcube", frozenset({grant, ("roundcube", "CONNECT")}))
    (step,) = cluster.steps(GOOD_ROLES, GOOD_DATABASES | {"roundcube": database}, "mailwright")
    assert step.statements == ('REVOKE ALL ON DATABASE "roundcube" FROM PUBLIC',)


@pytest.mark.parametrize("name", ["", "Mail", 'a"b', "1a", "a-b", "a" * 64, "a\n"])
def test_database_names_that_would_need_quoting_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="dbname"):
        cluster.database_name(name)


def test_roundcube_versions() -> None:
    available = webmail.updates(["2022081200.sql", "2021081000.sql", "README", "2021100300.sql", "x2021100300.sql"])
    assert available == [2021081000, 2021100300, 2022081200]
    assert webmail.steps(None, available) == [None]
    assert webmail.steps(2021081000, available) == [2021100300, 2022081200]
    assert webmail.steps(2022081200, available) == []
    assert webmail.steps(2030010100, available) == []
    with pytest.raises(webmail.WebmailError, match="2012080700"):
        webmail.steps(2012080700, available)
