# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The directory modules against a real PostgreSQL on a Debian 13 host, run through Ansible.

All rows go to databases of their own, dropped at the end; what the host's own mail uses is not touched.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import argon2
import pytest
from ansible_collections.mailwright.server.plugins.module_utils.directory import schema
from connection import STATE, Lab

ROOT = Path(__file__).resolve().parents[2]
HOST = os.environ.get("MAILWRIGHT_TEST_HOST") or "mx1"
SSH = ["-F", str(STATE / "ssh_config")]

DBNAME = "mailwright_test"
WEBMAIL = "roundcube_test"
KEY_FILE = "/var/tmp/mailwright-test/directory.key"
HASH = "{ARGON2ID}$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaA"
NEW_HASH = "{ARGON2ID}$argon2id$v=19$m=65536,t=4,p=1$c2FsdHNhbHRzYWx0$" + "a" * 43


def shell(command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs a command on the host as root."""
    return subprocess.run(["ssh", *SSH, HOST, command], capture_output=True, text=True, check=check)


def sql(statement: str, user: str = "postgres", dbname: str = DBNAME, os_user: str = "root") -> list[list[str]]:
    """Rows of a statement. Raises PermissionError with the server's message when it is refused."""
    psql = f"psql -XAtq -F '|' -v ON_ERROR_STOP=1 -U {user} -d {dbname} -c {shlex.quote(statement)}"
    done = shell(f"cd / && setpriv --reuid {os_user} --clear-groups {psql}", check=False)
    if done.returncode:
        raise PermissionError(done.stderr)
    return [line.split("|") for line in done.stdout.splitlines()]


def start(name: str, arguments: dict[str, Any], into: Path, check: bool = False) -> subprocess.Popen[str]:
    """Starts the module through Ansible; its result comes into the directory."""
    into.mkdir(exist_ok=True)
    environment = os.environ | {
        "PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}",
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
        "ANSIBLE_PIPELINING": "true",
        "ANSIBLE_SSH_ARGS": " ".join([*SSH, "-o ControlMaster=auto -o ControlPersist=60s"]),
    }
    # by address: connections that Ansible keeps open are shared by host name, with other labs' too
    command = [
        "ansible",
        "all",
        "-i",
        f"{Lab.load().address(HOST)},",
        "-m",
        f"mailwright.server.{name}",
        "-a",
        json.dumps(arguments),
    ]
    command += ["--diff", "--tree", str(into), *(["--check"] if check else [])]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def result(process: subprocess.Popen[str], into: Path) -> dict[str, Any]:
    output, _none = process.communicate(timeout=120)
    try:
        found: dict[str, Any] = json.loads((into / Lab.load().address(HOST)).read_text())
    except FileNotFoundError:
        pytest.fail(output)
    # Neither a password nor a hash may come back, in whatever form.
    assert "$argon2id" not in output
    assert "s3cret" not in output
    assert "hmac-sha256:" not in output
    return found


class Directory:
    """Runs the module with a small model."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.runs = 0
        self.domains = ["acme.test"]
        self.mailboxes = {"alice": self.mailbox("alice", password="s3cret one"), "bob": self.mailbox("bob")}
        self.aliases = [{"address": "postmaster@acme.test", "destination": "alice@acme.test"}]

    @staticmethod
    def mailbox(name: str, **changes: Any) -> dict[str, Any]:
        secret: dict[str, Any] = {"password": None, "password_hash": None}
        secret |= {} if "password" in changes else {"password_hash": HASH}
        return {
            "address": f"{name}@acme.test",
            "domain": "acme.test",
            "local_part": name,
            "display_name": f'{name} "\\\t'.replace("\t", "é\\n"),
            "quota_bytes": 5,
            "enabled": True,
        } | (secret | changes)

    def begin(self, check: bool = False, **others: Any) -> tuple[subprocess.Popen[str], Path]:
        self.runs += 1
        into = self.work / str(self.runs)
        arguments = {
            "domains": [{"name": name, "enabled": True} for name in self.domains],
            "mailboxes": list(self.mailboxes.values()),
            "aliases": self.aliases,
            "senders": [{"address": box["address"], "login": box["address"]} for box in self.mailboxes.values()],
            "dbname": DBNAME,
            "key_file": KEY_FILE,
        } | others
        return start("directory", arguments, into, check), into

    def run(self, check: bool = False, **others: Any) -> dict[str, Any]:
        return result(*self.begin(check, **others))

    def apply(self) -> list[str]:
        """The rows of an apply, which the check before it must have foretold and after which nothing is to do."""
        foretold = self.run(check=True)
        done = self.run()
        for outcome in (foretold, done):
            assert "rows" in outcome, outcome["msg"]
        assert done["rows"] == foretold["rows"]
        assert done["changed"] is bool(done["rows"])
        again = self.run(check=True)
        assert (again["changed"], again["rows"]) == (False, [])
        rows: list[str] = done["rows"]
        return rows


def drop() -> None:
    for name in (DBNAME, WEBMAIL):
        shell(f"dropdb -U postgres --force --if-exists {name}")
    shell("rm -rf /var/tmp/mailwright-test")


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Directory]:
    drop()
    yield Directory(tmp_path)
    drop()


@pytest.fixture
def directory(bare: Directory) -> Directory:
    assert bare.run()["changed"]
    return bare


def live(address: str) -> str:
    return sql(f"SELECT password FROM directory.mailbox WHERE address = '{address}'")[0][0]


def verifies(stored: str, password: str) -> bool:
    assert stored.startswith("{ARGON2ID}")
    try:
        return argon2.PasswordHasher().verify(stored.removeprefix("{ARGON2ID}"), password)
    except argon2.exceptions.VerifyMismatchError:
        return False


def test_from_nothing_to_everything_and_nothing_more_to_do(bare: Directory) -> None:
    nowhere = bare.run(check=True, socket="/nonexistent")
    assert nowhere["changed"]
    assert [row for row in nowhere["rows"] if row.startswith("+ role")] == [
        f"+ role {name}" for name in ("mailwright", "postfix", "dovecot", "roundcube", "reports", "monitor")
    ]
    assert shell(f"test -e {KEY_FILE}", check=False).returncode
    rows = bare.apply()
    for row in (
        f"+ database {DBNAME} owner=mailwright connect=dovecot,monitor,postfix,reports,roundcube",
        "+ migration 1 domains, mailboxes, aliases, senders",
        f"+ key {KEY_FILE}",
        "+ domain acme.test enabled=yes",
        '+ mailbox bob@acme.test quota=5 enabled=yes name="bob \\"\\\\é\\\\n" password=<set>',
        "+ alias postmaster@acme.test destination=alice@acme.test",
    ):
        assert row in rows
    # a mailbox's right to send as itself is part of its line
    assert sql("SELECT login FROM directory.sender WHERE address = 'bob@acme.test'") == [["bob@acme.test"]]
    assert set(rows) <= set(nowhere["rows"])
    assert sql("SELECT display_name FROM directory.mailbox WHERE local_part = 'bob'") == [['bob "\\é\\n']]
    assert shell(f"stat -c '%a %U %s' {KEY_FILE}").stdout == "600 root 32\n"
    assert live("bob@acme.test") == HASH
    assert verifies(live("alice@acme.test"), "s3cret one")
    fingerprint = sql("SELECT inventory_password FROM directory.mailbox WHERE local_part = 'alice'")[0][0]
    assert fingerprint.startswith("hmac-sha256:")
    assert bare.run()["rows"] == []


def test_one_new_mailbox_then_changes_and_removals(directory: Directory) -> None:
    directory.mailboxes["carol"] = directory.mailbox("carol", display_name="")
    assert directory.apply() == [
        '+ mailbox carol@acme.test quota=5 enabled=yes name="" password=<set>',
    ]
    sql("INSERT INTO directory.quota_usage VALUES ('carol@acme.test', 1, 1), ('bob@acme.test', 1, 1)")
    del directory.mailboxes["carol"]
    directory.mailboxes["bob"] |= {"quota_bytes": 2**40, "enabled": False, "display_name": "Bob"}
    directory.domains.append("globex.test")
    directory.aliases = []
    assert directory.apply() == [
        "+ domain globex.test enabled=yes",
        '~ mailbox bob@acme.test quota=1099511627776 enabled=no name="Bob" password=<set>',
        '- mailbox carol@acme.test quota=5 enabled=yes name="" password=<set>',
        "- alias postmaster@acme.test destination=alice@acme.test",
    ]
    assert sql("SELECT address FROM directory.quota_usage") == [["bob@acme.test"]]
    directory.domains.remove("acme.test")
    directory.mailboxes.clear()
    assert len(directory.apply()) == 3
    assert sql("SELECT count(*) FROM directory.mailbox") == [["0"]]


def test_a_password_from_webmail_stays_until_the_inventory_changes(directory: Directory) -> None:
    for name in ("alice", "bob"):
        assert sql(
            f"SELECT directory.change_password('{name}@acme.test', '{NEW_HASH}')", "roundcube", os_user="www-data"
        ) == [["t"]]
    assert directory.apply() == []
    directory.mailboxes["alice"]["quota_bytes"] = 6
    assert len(directory.apply()) == 1
    assert live("alice@acme.test") == live("bob@acme.test") == NEW_HASH
    directory.mailboxes["alice"]["password"] = "s3cret two"
    directory.mailboxes["bob"] |= {"password": "s3cret bob", "password_hash": None}
    assert [row.rpartition(" ")[2] for row in directory.apply()] == ["password=<changed>"] * 2
    assert verifies(live("alice@acme.test"), "s3cret two")
    assert verifies(live("bob@acme.test"), "s3cret bob")
    directory.mailboxes["bob"] |= {"password": None, "password_hash": HASH}
    assert len(directory.apply()) == 1
    assert live("bob@acme.test") == HASH


def test_a_lost_or_damaged_key_is_an_error(directory: Directory) -> None:
    shell(f"mv {KEY_FILE} {KEY_FILE}.away")
    before = live("alice@acme.test")
    for check in (True, False):
        outcome = directory.run(check=check)
        assert "rows" not in outcome
        assert "Restore it from the backup" in outcome["msg"]
    assert shell(f"test -e {KEY_FILE}", check=False).returncode
    shell(f"head -c 31 /dev/zero > {KEY_FILE}")
    assert "has 31 bytes, must have 32" in directory.run()["msg"]
    shell(f"mv {KEY_FILE}.away {KEY_FILE}")
    assert directory.apply() == []
    assert live("alice@acme.test") == before


def test_rows_of_the_api(directory: Directory) -> None:
    sql("INSERT INTO directory.domain VALUES ('api.test', true, 'api')")
    sql(
        "INSERT INTO directory.mailbox VALUES "
        f"('robot@api.test', 'api.test', 'robot', '', '{HASH}', NULL, 0, true, 'api'), "
        f"('carol@acme.test', 'acme.test', 'carol', '', '{HASH}', NULL, 0, true, 'api')"
    )
    assert directory.apply() == []
    directory.mailboxes["carol"] = directory.mailbox("carol")
    directory.mailboxes["bob"]["quota_bytes"] = 77
    for check in (True, False):
        outcome = directory.run(check=check)
        assert "rows" not in outcome
        assert "mailbox carol@acme.test: exists, owned by the API" in outcome["msg"]
    assert sql("SELECT count(*) FROM directory.mailbox WHERE quota_bytes = 77") == [["0"]]


def test_remove_limit(directory: Directory) -> None:
    for number in range(20):
        directory.mailboxes[f"u{number:02}"] = directory.mailbox(f"u{number:02}")
    directory.apply()
    for number in range(10):
        del directory.mailboxes[f"u{number:02}"]
    for check in (True, False):
        outcome = directory.run(check=check)
        assert "remove 10 of 22 mailboxes (46 %)" in outcome["msg"]
        assert "set remove_limit to 46 or more" in outcome["msg"]
    assert directory.run(remove_limit=46)["counts"]["mailbox"]["removed"] == 10


@pytest.mark.usefixtures("directory")
def test_least_privilege() -> None:
    def refused(user: str, os_user: str, statement: str, dbname: str = DBNAME) -> str:
        with pytest.raises(PermissionError) as caught:
            sql(statement, user, dbname, os_user)
        return str(caught.value)

    assert len(sql("SELECT address, domain, enabled FROM directory.mailbox", "postfix", os_user="postfix")) == 2
    assert sql("SELECT login FROM directory.sender, directory.alias, directory.domain", "postfix", os_user="postfix")
    for column in ("password", "inventory_password", "quota_bytes", "*"):
        assert "permission denied" in refused("postfix", "postfix", f"SELECT {column} FROM directory.mailbox")
    for table in ("quota_usage", "schema_version"):
        assert "permission denied" in refused("postfix", "postfix", f"SELECT * FROM directory.{table}")
    assert "permission denied" in refused("postfix", "postfix", "DELETE FROM directory.domain")
    assert "permission denied" in refused("postfix", "postfix", "CREATE TABLE public.x (y int)")
    assert "permission denied" in refused("postfix", "postfix", "CREATE TEMPORARY TABLE x (y int)")
    assert "Peer authentication failed" in refused("dovecot", "postfix", "SELECT 1")
    assert "permission denied" in refused(
        "postfix", "postfix", f"SELECT directory.change_password('bob@acme.test', '{NEW_HASH}')"
    )
    assert "permission denied for database" in refused("postfix", "postfix", "SELECT 1", "roundcube")

    assert sql(
        "SELECT address, domain, password, quota_bytes, enabled FROM directory.mailbox", "dovecot", os_user="dovecot"
    )
    assert "permission denied" in refused("dovecot", "dovecot", "SELECT inventory_password FROM directory.mailbox")
    assert "permission denied" in refused("dovecot", "dovecot", "UPDATE directory.mailbox SET password = 'x'")
    assert "permission denied" in refused("dovecot", "dovecot", "SELECT * FROM directory.alias")
    upsert = (
        "INSERT INTO directory.quota_usage (bytes, address) VALUES (7, 'bob@acme.test') "
        "ON CONFLICT (address) DO UPDATE SET bytes = 7 RETURNING bytes, messages"
    )
    assert sql(upsert, "dovecot", os_user="vmail") == [["7", "0"]]
    assert sql("DELETE FROM directory.quota_usage RETURNING bytes", "dovecot", os_user="dovecot") == [["7"]]

    for table in ("domain", "mailbox", "alias", "sender", "quota_usage", "schema_version"):
        assert "permission denied" in refused("roundcube", "www-data", f"SELECT 1 FROM directory.{table}")
    assert "permission denied" in refused("roundcube", "www-data", "CREATE TABLE public.x (y int)")


@pytest.mark.parametrize(
    ("address", "new_hash", "accepted"),
    [
        ("bob@acme.test", NEW_HASH, True),
        ("BOB@acme.test", "{BLF-CRYPT}$2y$10$" + "a" * 53, True),
        ("bob@acme.test", "{PLAIN}secret", False),
        ("bob@acme.test", "secret", False),
        ("bob@acme.test", "{BLF-CRYPT}$2y$10$short", False),
        ("bob@acme.test", "{BLF-CRYPT}$2y$31$" + "a" * 53, False),
        ("bob@acme.test", NEW_HASH + "\nx", False),
        ("bob@acme.test", NEW_HASH.replace("m=65536", "m=99999999"), False),
        ("nobody@acme.test", NEW_HASH, False),
        ("off@acme.test", NEW_HASH, False),
        ("user@off.test", NEW_HASH, False),
    ],
)
@pytest.mark.usefixtures("shared")
def test_change_password(address: str, new_hash: str, accepted: bool) -> None:
    before = sql("SELECT address, password FROM directory.mailbox ORDER BY 1")
    call = f"SELECT directory.change_password('{address}', '{new_hash}')"
    assert sql(call, "roundcube", os_user="www-data") == [["t" if accepted else "f"]]
    after = sql("SELECT address, password FROM directory.mailbox ORDER BY 1")
    assert after == (
        [[key, new_hash if key == address.lower() else old] for key, old in before] if accepted else before
    )


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    drop()
    directory = Directory(tmp_path_factory.mktemp("shared"))
    directory.mailboxes["off"] = directory.mailbox("off", enabled=False)
    assert directory.run()["changed"]
    sql("INSERT INTO directory.domain VALUES ('off.test', false, 'api')")
    values = f"'user@off.test', 'off.test', 'user', '', '{HASH}', NULL, 0, true, 'api'"
    sql(f"INSERT INTO directory.mailbox VALUES ({values})")
    yield
    drop()


def slow_sender_inserts() -> None:
    sql(
        "CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_sleep(4); RETURN NEW; END $$; CREATE TRIGGER slow BEFORE INSERT ON directory.sender "
        "FOR EACH ROW EXECUTE FUNCTION public.slow(); GRANT USAGE ON SCHEMA public TO mailwright"
    )


def wait_for(condition: str) -> None:
    for _attempt in range(100):
        if sql(f"SELECT 1 FROM pg_stat_activity WHERE datname = '{DBNAME}' AND {condition}"):
            return
        time.sleep(0.1)
    pytest.fail(f"never seen: {condition}")


def test_kill_in_the_middle_of_the_transaction_leaves_the_old_rows(directory: Directory) -> None:
    everything = "SELECT * FROM directory.mailbox, directory.sender, directory.alias, directory.domain ORDER BY 1, 10"
    before = sql(everything)
    slow_sender_inserts()
    directory.mailboxes["bob"]["quota_bytes"] = 99
    directory.mailboxes["carol"] = directory.mailbox("carol")
    process, _into = directory.begin()
    wait_for("query LIKE '%INSERT INTO directory.sender%' AND state = 'active' AND pid <> pg_backend_pid()")
    ((name,),) = sql(
        "SELECT application_name FROM pg_stat_activity WHERE query LIKE '%INSERT INTO directory.sender%' "
        "AND application_name LIKE 'mailwright %'"
    )
    shell(f"kill -KILL {int(name.removeprefix('mailwright '))}")
    process.communicate(timeout=60)
    for _attempt in range(100):
        if not sql("SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'mailwright %'"):
            break
        time.sleep(0.1)
    else:
        pytest.fail("the server still serves the killed run")
    assert sql(everything) == before
    sql("DROP TRIGGER slow ON directory.sender; DROP FUNCTION public.slow()")
    assert len(directory.apply()) == 2


def test_two_runs_at_once_take_turns(directory: Directory) -> None:
    slow_sender_inserts()
    directory.mailboxes["carol"] = directory.mailbox("carol")
    runs = [directory.begin(), directory.begin()]
    outcomes = [result(*run) for run in runs]
    assert sorted(len(outcome["rows"]) for outcome in outcomes) == [0, 1]
    assert sql("SELECT count(*) FROM directory.sender") == [["3"]]


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE directory.schema_version SET checksum = 'x'", "version 1 in the database has checksum x"),
        (
            "INSERT INTO directory.schema_version (version, title, checksum) VALUES (99, 'later', 'y')",
            "the database is at version 99, this collection knows",
        ),
    ],
)
def test_a_foreign_schema_is_refused(directory: Directory, statement: str, message: str) -> None:
    sql(statement)
    for check in (True, False):
        outcome = directory.run(check=check)
        assert "rows" not in outcome
        assert message in outcome["msg"]


def test_every_lookup_uses_a_primary_key(directory: Directory) -> None:
    assert directory.run()["schema_version"] == schema.MIGRATIONS[-1].version
    for table, column in (("domain", "name"), ("mailbox", "address"), ("alias", "address"), ("sender", "address")):
        plan = sql(f"SET enable_seqscan = off; EXPLAIN SELECT * FROM directory.{table} WHERE {column} = 'x'")
        assert f"{table}_pkey" in str(plan)


def test_roundcube(bare: Directory, tmp_path: Path) -> None:
    def run(check: bool = False, **others: Any) -> dict[str, Any]:
        into = tmp_path / f"webmail{time.monotonic_ns()}"
        return result(start("roundcube_schema", {"dbname": WEBMAIL} | others, into, check), into)

    nowhere = run(check=True, socket="/nonexistent", sql="/nonexistent")
    assert (nowhere["changed"], nowhere["version"]) == (True, None)
    assert run(check=True)["rows"] == ["+ webmail schema postgres.initial.sql"]
    assert f'database "{WEBMAIL}" does not exist' in run()["msg"]
    assert bare.run()["changed"]
    shell(f"createdb -U postgres -O roundcube {WEBMAIL}")
    foretold, done = run(check=True), run()
    assert foretold["rows"] == done["rows"] == ["+ webmail schema postgres.initial.sql"]
    assert foretold["version"] == done["version"] > 2022000000
    assert run()["changed"] is False
    owners = sql("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'", dbname=WEBMAIL)
    assert owners == [["roundcube"]]
    sql("UPDATE system SET value = '2021081000' WHERE name = 'roundcube-version'", dbname=WEBMAIL)
    foretold, done = run(check=True), run()
    assert foretold["rows"] == done["rows"] != []
    assert (done["before"], done["version"]) == (2021081000, foretold["version"])
    assert run()["rows"] == []
    sql("DELETE FROM system", dbname=WEBMAIL)
    assert "no number under roundcube-version" in run()["msg"]
