# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Input and output of the directory: PostgreSQL by Unix socket, and the key file of the fingerprints."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.directory import cluster, passwords, rows, schema

ADMIN = "postgres"

# One lock for all that changes the directory; the number is arbitrary and must only stay the same.
_LOCK = 0x6D61696C
_LOCK_TIMEOUT = "60s"


class StoreError(Exception):
    """PostgreSQL or the key file refused; the message holds no row's content."""


class UnavailableError(StoreError):
    """There is no server, database, role or driver to talk to."""


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Turns the driver's errors into StoreError without their details, which quote whole rows."""
    import psycopg

    try:
        yield
    except psycopg.errors.LockNotAvailable as error:
        raise StoreError(f"{action}: another run has held the directory's lock for {_LOCK_TIMEOUT}") from error
    except psycopg.Error as error:
        raise StoreError(f"{action}: {error.diag.message_primary or error} (SQLSTATE {error.sqlstate})") from error


def connect(socket: str, dbname: str, user: str) -> Any:
    """An open connection in autocommit mode. socket is the directory of the server's Unix socket.

    Raises UnavailableError.
    """
    try:
        import psycopg
    except ImportError as error:
        raise UnavailableError("python3-psycopg is not installed") from error
    try:
        # The process id lets an administrator find the run behind a session in pg_stat_activity.
        return psycopg.connect(
            host=socket,
            dbname=dbname,
            user=user,
            autocommit=True,
            connect_timeout=10,
            application_name=f"mailwright {os.getpid()}",
        )
    except psycopg.OperationalError as error:
        raise UnavailableError(f"cannot connect to database {dbname} as {user} at {socket}: {error}") from error


def server_exists(socket: str) -> bool:
    """True when a server listens in this directory, or did not end cleanly."""
    return any(Path(socket).glob(".s.PGSQL.*"))


def take_run_lock(admin: Any) -> None:
    """Waits until no other run is under way; the lock goes with the connection."""
    with translated("waiting for another run"):
        admin.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'")
        admin.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))


def read_cluster(admin: Any) -> tuple[dict[str, cluster.Role], dict[str, cluster.Database]]:
    """The server's roles and databases by name."""
    with translated("reading roles and databases"):
        roles = admin.execute(
            "SELECT rolname, rolcanlogin, rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls, "
            "coalesce(rolconfig, '{}') FROM pg_roles"
        ).fetchall()
        databases = admin.execute(
            "SELECT datname, pg_get_userbyid(datdba), array_agg(CASE grantee WHEN 0 THEN '' "
            "ELSE pg_get_userbyid(grantee) END || '=' || privilege_type) "
            "FROM pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba))) GROUP BY datname, datdba"
        ).fetchall()
    return (
        {name: cluster.Role(login, powerful, tuple(settings)) for name, login, powerful, settings in roles},
        {
            name: cluster.Database(owner, frozenset(tuple(grant.rsplit("=", 1)) for grant in grants))
            for name, owner, grants in databases
        },
    )


def apply_cluster(admin: Any, steps: Sequence[cluster.Step]) -> None:
    """Runs the steps one by one: CREATE DATABASE cannot be part of a transaction."""
    for step in steps:
        with translated(step.after):
            for statement in step.statements:
                admin.execute(statement)


def applied_versions(owner: Any, name: str = "directory") -> dict[int, str]:
    """Checksums in the schema's schema_version by version; empty when the schema does not exist."""
    with translated("reading the schema's version"):
        if owner.execute("SELECT to_regclass(%s)", (f"{name}.schema_version",)).fetchone()[0] is None:
            return {}
        return dict(owner.execute(f"SELECT version, checksum FROM {name}.schema_version").fetchall())


def migrate(owner: Any, migrations: Sequence[schema.Migration], name: str = "directory") -> list[schema.Migration]:
    """Runs what is pending, each in a transaction of its own under the lock, and returns it."""
    done = []
    while todo := schema.pending(applied_versions(owner, name), migrations, name):
        with translated(f"migration {todo[0].version}"), owner.transaction():
            _lock(owner)
            # Read again under the lock: somebody else may have been faster.
            for migration in schema.pending(applied_versions(owner, name), migrations, name)[:1]:
                run_migration(owner, migration, name)
                done.append(migration)
    return done


def run_migration(owner: Any, migration: schema.Migration, name: str = "directory") -> None:
    """Runs one migration in the open transaction and records it in the schema of this name."""
    owner.execute(migration.sql)
    owner.execute(
        f"INSERT INTO {name}.schema_version (version, title, checksum) VALUES (%s, %s, %s)",
        (migration.version, migration.title, migration.checksum),
    )


def _lock(owner: Any) -> None:
    owner.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
    owner.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))


@contextmanager
def snapshot(owner: Any, migrations: Sequence[schema.Migration] = ()) -> Iterator[None]:
    """A transaction that is always rolled back: reads see one state, and pending migrations are only tried."""
    import psycopg

    with translated("reading the directory"), owner.transaction():
        owner.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ" + ("" if migrations else ", READ ONLY"))
        for migration in migrations:
            run_migration(owner, migration)
        yield
        raise psycopg.Rollback


@contextmanager
def writing(owner: Any) -> Iterator[None]:
    """The transaction that writes: under the lock, and with the tables closed to other writers until it ends."""
    with translated("writing the directory"), owner.transaction():
        _lock(owner)
        owner.execute(
            "LOCK TABLE directory.domain, directory.mailbox, directory.alias, directory.sender "
            "IN SHARE ROW EXCLUSIVE MODE"
        )
        yield


def read_rows(owner: Any) -> rows.Current:
    """All rows. One JSON text for each table: the driver would decode field by field, fifty times slower."""
    found = owner.execute(_READ).fetchone()
    return rows.current(*(json.loads(text) for text in found))


def write_rows(owner: Any, todo: rows.Plan, live: Mapping[str, str]) -> None:
    """Carries the plan out in the open transaction. live maps addresses to the new hashes for logging in.

    Raises StoreError when a row is not as the plan saw it.
    """
    sets: dict[str, list[Mapping[str, Any]]] = {
        "domain.add": [{"name": name, "enabled": on} for name, on in todo.add_domains],
        "domain.change": [{"name": name, "enabled": on} for name, on in todo.change_domains],
        "domain.remove": [{"name": name} for name, _on in todo.remove_domains],
        "mailbox.add": [row._asdict() | {"password": live[row.address]} for row in todo.add_mailboxes],
        "mailbox.change": [
            change.new._asdict() | {"password": live.get(change.new.address)} for change in todo.change_mailboxes
        ],
        "mailbox.remove": [{"address": row.address} for row in todo.remove_mailboxes],
        "alias.add": [
            {"address": address, "destination": other, "domain": rows.domain_of(address)}
            for address, other in todo.add_aliases
        ],
        "alias.remove": [{"address": address, "destination": other} for address, other in todo.remove_aliases],
        "sender.add": [{"address": address, "login": login} for address, login in todo.add_senders],
        "sender.remove": [{"address": address, "login": login} for address, login in todo.remove_senders],
    }
    owner.execute("CREATE TEMPORARY TABLE incoming (change text PRIMARY KEY, content json NOT NULL) ON COMMIT DROP")
    with owner.cursor().copy("COPY pg_temp.incoming FROM STDIN") as copy:
        for change, content in sets.items():
            # json.dumps leaves no raw tab or line feed, so the backslash is all that COPY's text format needs escaped.
            copy.write(f"{change}\t{json.dumps(content)}\n".replace("\\", "\\\\"))
    for change, statement in _STATEMENTS.items():
        if sets[change]:
            count = owner.execute(statement, (change,)).rowcount
            if count != len(sets[change]):
                raise StoreError(
                    f"{change}: {count} of {len(sets[change])} rows were as planned; nothing was written. Run again."
                )
    if todo.remove_mailboxes:
        owner.execute(_FORGET_USAGE)


_READ = """
    SELECT (SELECT coalesce(json_agg(json_build_array(name, enabled, owner)), '[]')::text FROM directory.domain),
           (SELECT coalesce(json_agg(json_build_array(address, domain, local_part, display_name, quota_bytes, enabled,
                                                      inventory_password, owner)), '[]')::text FROM directory.mailbox),
           (SELECT coalesce(json_agg(json_build_array(address, destination, owner)), '[]')::text FROM directory.alias),
           (SELECT coalesce(json_agg(json_build_array(address, login, owner)), '[]')::text FROM directory.sender)"""

# In this order no foreign key is in the way.
_STATEMENTS = {
    "domain.add": """
        INSERT INTO directory.domain (name, enabled, owner)
        SELECT d.name, d.enabled, 'inventory'
          FROM pg_temp.incoming, json_to_recordset(content) AS d(name text, enabled boolean)
         WHERE change = %s""",
    "domain.change": """
        UPDATE directory.domain t SET enabled = d.enabled
          FROM pg_temp.incoming, json_to_recordset(content) AS d(name text, enabled boolean)
         WHERE change = %s AND t.name = d.name AND t.owner = 'inventory'""",
    "mailbox.remove": """
        DELETE FROM directory.mailbox t
         USING pg_temp.incoming, json_to_recordset(content) AS d(address text)
         WHERE change = %s AND t.address = d.address AND t.owner = 'inventory'""",
    "mailbox.add": """
        INSERT INTO directory.mailbox
               (address, domain, local_part, display_name, password, inventory_password, quota_bytes, enabled, owner)
        SELECT d.address, d.domain, d.local_part, d.display_name, d.password, d.secret, d.quota_bytes, d.enabled,
               'inventory'
          FROM pg_temp.incoming, json_to_recordset(content)
               AS d(address text, domain text, local_part text, display_name text, password text, secret text,
                    quota_bytes bigint, enabled boolean)
         WHERE change = %s""",
    "mailbox.change": """
        UPDATE directory.mailbox t
           SET display_name = d.display_name, quota_bytes = d.quota_bytes, enabled = d.enabled,
               inventory_password = d.secret, password = coalesce(d.password, t.password)
          FROM pg_temp.incoming, json_to_recordset(content)
               AS d(address text, display_name text, password text, secret text, quota_bytes bigint, enabled boolean)
         WHERE change = %s AND t.address = d.address AND t.owner = 'inventory'""",
    "alias.remove": """
        DELETE FROM directory.alias t
         USING pg_temp.incoming, json_to_recordset(content) AS d(address text, destination text)
         WHERE change = %s AND t.address = d.address AND t.destination = d.destination AND t.owner = 'inventory'""",
    "alias.add": """
        INSERT INTO directory.alias (address, destination, domain, owner)
        SELECT d.address, d.destination, d.domain, 'inventory'
          FROM pg_temp.incoming, json_to_recordset(content) AS d(address text, destination text, domain text)
         WHERE change = %s""",
    "sender.remove": """
        DELETE FROM directory.sender t
         USING pg_temp.incoming, json_to_recordset(content) AS d(address text, login text)
         WHERE change = %s AND t.address = d.address AND t.login = d.login AND t.owner = 'inventory'""",
    "sender.add": """
        INSERT INTO directory.sender (address, login, owner)
        SELECT d.address, d.login, 'inventory'
          FROM pg_temp.incoming, json_to_recordset(content) AS d(address text, login text)
         WHERE change = %s""",
    "domain.remove": """
        DELETE FROM directory.domain t
         USING pg_temp.incoming, json_to_recordset(content) AS d(name text)
         WHERE change = %s AND t.name = d.name AND t.owner = 'inventory'""",
}
_FORGET_USAGE = """
    DELETE FROM directory.quota_usage t
     USING pg_temp.incoming, json_to_recordset(content) AS d(address text)
     WHERE change = 'mailbox.remove' AND t.address = d.address"""


def read_key(path: Path) -> bytes | None:
    """The key of the fingerprints, or None when there is no file. Raises StoreError when it is not a key."""
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error
    if len(key) != passwords.KEY_BYTES:
        raise StoreError(f"{path}: has {len(key)} bytes, must have {passwords.KEY_BYTES}: restore it from the backup")
    return key


def create_key(path: Path) -> bytes:
    """Makes the key, 0600, whole or not at all, never over an existing file. Raises StoreError."""
    key = secrets.token_bytes(passwords.KEY_BYTES)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(key)
                file.flush()
                os.fsync(descriptor)
            path.hardlink_to(part)
        finally:
            part.unlink()
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise StoreError(f"{path}: cannot be created: {error.strerror}") from error
    return key
