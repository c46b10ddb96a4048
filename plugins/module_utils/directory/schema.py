# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The directory's schema: forward-only migrations, each identified by its number and the SHA-256 of its text.

A migration that has been released is never edited: the next change is a new entry at the end of MIGRATIONS.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class SchemaError(Exception):
    """The database's schema is not one that this code may touch."""


class Migration(NamedTuple):
    """One step of the schema: its number (from 1, without gaps), a title for the plan, and the SQL text."""

    version: int
    title: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the SQL text, in hexadecimal."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


_FIRST = r"""
CREATE SCHEMA directory;

CREATE TABLE directory.schema_version (
    version integer PRIMARY KEY,
    title text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE directory.domain (
    name text PRIMARY KEY,
    enabled boolean NOT NULL DEFAULT true,
    owner text NOT NULL CHECK (owner IN ('inventory', 'api'))
);

CREATE TABLE directory.mailbox (
    address text PRIMARY KEY,
    domain text NOT NULL REFERENCES directory.domain (name),
    local_part text NOT NULL,
    display_name text NOT NULL DEFAULT '',
    password text NOT NULL CHECK (password LIKE '{%}_%'),
    inventory_password text,
    quota_bytes bigint NOT NULL DEFAULT 0 CHECK (quota_bytes >= 0),
    enabled boolean NOT NULL DEFAULT true,
    owner text NOT NULL CHECK (owner IN ('inventory', 'api')),
    CHECK (address = local_part || '@' || domain)
);
-- Removing a domain looks for its mailboxes by the foreign key.
CREATE INDEX mailbox_domain ON directory.mailbox (domain);

CREATE TABLE directory.alias (
    address text NOT NULL,
    destination text NOT NULL,
    domain text NOT NULL,
    owner text NOT NULL CHECK (owner IN ('inventory', 'api')),
    PRIMARY KEY (address, destination)
);

CREATE TABLE directory.sender (
    address text NOT NULL,
    login text NOT NULL,
    owner text NOT NULL CHECK (owner IN ('inventory', 'api')),
    PRIMARY KEY (address, login)
);

-- Written by Dovecot's quota_clone, which knows nothing of mailbox: hence no foreign key.
CREATE TABLE directory.quota_usage (
    address text PRIMARY KEY,
    bytes bigint NOT NULL DEFAULT 0,
    messages bigint NOT NULL DEFAULT 0
);

-- True when the password was replaced; false for an unknown or disabled mailbox and for anything but the two kinds of
-- hash that webmail makes. The bounds on Argon2's cost keep a caller from making every later log-in exhaust memory.
CREATE FUNCTION directory.change_password(address text, new_hash text) RETURNS boolean
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    IF change_password.new_hash !~ ('^\{ARGON2ID\}\$argon2id\$v=19\$m=\d{1,6},t=\d{1,2},p=\d{1,2}'
                                    '\$[A-Za-z0-9+/]{11,86}\$[A-Za-z0-9+/]{22,171}$')
       AND change_password.new_hash !~ '^\{BLF-CRYPT\}\$2y\$(0[4-9]|1[0-6])\$[./A-Za-z0-9]{53}$' THEN
        RETURN false;
    END IF;
    UPDATE directory.mailbox AS mailbox
       SET password = change_password.new_hash
      FROM directory.domain AS domain
     WHERE mailbox.address = lower(change_password.address)
       AND mailbox.enabled
       AND domain.name = mailbox.domain
       AND domain.enabled;
    RETURN FOUND;
END
$body$;

REVOKE ALL ON SCHEMA public FROM PUBLIC;
REVOKE ALL ON FUNCTION directory.change_password(text, text) FROM PUBLIC;
GRANT USAGE ON SCHEMA directory TO postfix, dovecot, roundcube;
GRANT SELECT ON directory.domain, directory.alias, directory.sender TO postfix;
GRANT SELECT (address, domain, enabled) ON directory.mailbox TO postfix;
GRANT SELECT ON directory.domain TO dovecot;
GRANT SELECT (address, domain, password, quota_bytes, enabled) ON directory.mailbox TO dovecot;
GRANT SELECT, INSERT, UPDATE, DELETE ON directory.quota_usage TO dovecot;
GRANT EXECUTE ON FUNCTION directory.change_password(text, text) TO roundcube;
"""

MIGRATIONS: tuple[Migration, ...] = (Migration(1, "domains, mailboxes, aliases, senders", _FIRST),)


def pending(
    applied: Mapping[int, str], migrations: Sequence[Migration] = MIGRATIONS, name: str = "directory"
) -> list[Migration]:
    """The migrations of the schema of this name that are still to run, oldest first.

    applied maps the versions in its table schema_version to their checksums.
    Raises SchemaError when the database is newer than the code, has a gap, or was made by another text.
    """
    known = {migration.version: migration for migration in migrations}
    newer = sorted(set(applied) - set(known))
    if newer:
        raise SchemaError(
            f"{name} schema: the database is at version {newer[-1]}, this collection knows {max(known)} at most. "
            "Use the collection's version that made it, or a newer one; schemas never go back."
        )
    for version, checksum in sorted(applied.items()):
        if checksum != known[version].checksum:
            raise SchemaError(
                f"{name} schema: version {version} in the database has checksum {checksum}, in this collection "
                f"{known[version].checksum}. A released migration must not change: use an unmodified collection."
            )
    todo = [migration for migration in migrations if migration.version not in applied]
    if applied and todo and todo[0].version < max(applied):
        raise SchemaError(
            f"{name} schema: the database is at version {max(applied)} but never got version {todo[0].version}. "
            f"Restore {name}.schema_version from the backup; migrations run in order only."
        )
    return todo
