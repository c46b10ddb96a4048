# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which roles and databases the server must have, and the statements that make it so (pure: state in, steps out)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

# Database roles that log in by peer authentication; none of them has a password.
ROLES = ("mailwright", "postfix", "dovecot", "roundcube", "reports", "monitor")
OWNER = "mailwright"
# reads the server's own statistics, and no table
MONITOR = "monitor"
WEBMAIL = "roundcube"

_ATTRIBUTES = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")


class Role(NamedTuple):
    """A row of pg_roles: may log in, has a power it should not have, or a password; settings as name=value."""

    login: bool
    powerful: bool
    settings: tuple[str, ...]


class Database(NamedTuple):
    """A row of pg_database: its owner and its grants as (role or '' for PUBLIC, privilege)."""

    owner: str
    grants: frozenset[tuple[str, str]]


class Step(NamedTuple):
    """One line of the plan, how it read before (None: absent), and the statements that bring it about."""

    before: str | None
    after: str
    statements: tuple[str, ...]


def database_name(value: str) -> str:
    """The name, if it needs no quoting in SQL. Raises ValueError otherwise."""
    if not _NAME.fullmatch(value):
        raise ValueError(f"dbname: {value!r}: must be lower-case letters, digits and _, at most 63, not a digit first")
    return value


def steps(roles: Mapping[str, Role], databases: Mapping[str, Database], dbname: str) -> list[Step]:
    """What is missing on the server for the directory in dbname and for webmail's own database."""
    return [
        *_role_steps(roles, ROLES),
        *_database_steps(databases.get(dbname), dbname, OWNER, [role for role in ROLES if role != OWNER]),
        *_database_steps(databases.get(WEBMAIL), WEBMAIL, WEBMAIL, []),
    ]


def guest_steps(
    roles: Mapping[str, Role], databases: Mapping[str, Database], dbname: str, guests: Collection[str]
) -> list[Step]:
    """What is missing for further roles that use the directory's database, which is there or is planned."""
    grants = databases[dbname].grants if dbname in databases else frozenset()
    lacking = [role for role in guests if (role, "CONNECT") not in grants]
    connect = [f'GRANT CONNECT ON DATABASE "{dbname}" TO "{role}"' for role in lacking]
    found = _role_steps(roles, guests)
    if connect:
        found.append(Step(None, f"database {dbname} connect={','.join(sorted(lacking))}", tuple(connect)))
    return found


def _role_steps(roles: Mapping[str, Role], names: Collection[str]) -> list[Step]:
    found = []
    for name in names:
        role = roles.get(name)
        statements = []
        if role is None:
            statements.append(f'CREATE ROLE "{name}" {_ATTRIBUTES}')
        elif not role.login or role.powerful:
            statements.append(f'ALTER ROLE "{name}" {_ATTRIBUTES}')
        if statements and name == MONITOR:
            statements.append(f'GRANT pg_monitor TO "{MONITOR}"')
        # Details of a failed statement hold whole rows, hashes included: they must not reach the server's log.
        if name == OWNER and "log_error_verbosity=terse" not in (role.settings if role else ()):
            statements.append(f"ALTER ROLE \"{name}\" SET log_error_verbosity = 'terse'")
        if statements:
            before = None if role is None else f"role {name} (other attributes)"
            found.append(Step(before, f"role {name}", tuple(statements)))
    return found


def _database_steps(database: Database | None, name: str, owner: str, connect: Collection[str]) -> list[Step]:
    statements = []
    if database is None:
        # The builtin provider sorts by code point for ever: no index breaks when the C library's locales change.
        statements.append(
            f'CREATE DATABASE "{name}" OWNER "{owner}" TEMPLATE template0 ENCODING \'UTF8\' '
            "LOCALE_PROVIDER builtin LOCALE 'C.UTF-8'"
        )
    elif database.owner != owner:
        statements.append(f'ALTER DATABASE "{name}" OWNER TO "{owner}"')
    grants = database.grants if database else frozenset({("", "CONNECT")})
    if any(grantee == "" for grantee, _privilege in grants):
        statements.append(f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC')
    statements += [
        f'GRANT CONNECT ON DATABASE "{name}" TO "{role}"' for role in connect if (role, "CONNECT") not in grants
    ]
    if not statements:
        return []
    line = f"database {name} owner={owner}" + (f" connect={','.join(sorted(connect))}" if connect else "")
    return [Step(None if database is None else f"database {name} (other owner or grants)", line, tuple(statements))]
