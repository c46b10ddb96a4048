# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Roundcube's own schema: the steps that its bin/initdb.sh and bin/updatedb.sh would take, without PHP."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.directory import cluster, store

_UPDATE = re.compile(r"(\d{10})\.sql")

# The files of 2013 create the table that holds the version; Roundcube itself starts from here without one.
_FIRST_WITH_VERSION = 2013011000


class WebmailError(Exception):
    """The package or the database is not what a Roundcube installation looks like."""


def updates(names: Iterable[str]) -> list[int]:
    """Schema versions among the file names of SQL/postgres, oldest first (a version is a date and two digits)."""
    return sorted(int(match[1]) for match in map(_UPDATE.fullmatch, names) if match)


def steps(current: int | None, available: list[int]) -> list[int | None]:
    """What is to run: None stands for the initial file, a number for that update. current is None without a schema.

    A database newer than the package is left alone: so it is after the package was rolled back.
    Raises WebmailError for a schema from before 2013.
    """
    if current is None:
        return [None]
    if current < _FIRST_WITH_VERSION:
        raise WebmailError(f"Roundcube's schema is version {current}, from before 2013: update it with bin/updatedb.sh")
    return [version for version in available if version > current]


def available(sql: Path) -> list[int] | None:
    """Versions in the package's SQL directory, or None when the package is not installed."""
    try:
        return updates(entry.name for entry in (sql / "postgres").iterdir())
    except FileNotFoundError:
        return None


def connect(socket: str, dbname: str) -> Any:
    """A connection that acts as Roundcube's role, so that the role owns what is created. Raises UnavailableError."""
    connection = store.connect(socket, dbname, store.ADMIN)
    with store.translated(f"acting as role {cluster.WEBMAIL}"):
        connection.execute(f'SET SESSION AUTHORIZATION "{cluster.WEBMAIL}"')
    return connection


def version(connection: Any) -> int | None:
    """The version in table "system", or None when there is no table at all. Raises WebmailError."""
    with store.translated("reading Roundcube's version"):
        system, users = connection.execute(
            "SELECT to_regclass('public.system'), to_regclass('public.users')"
        ).fetchone()
        if system is None and users is None:
            return None
        row = None
        if system is not None:
            row = connection.execute("SELECT value FROM public.system WHERE name = 'roundcube-version'").fetchone()
    if row is None or not str(row[0]).isdigit():
        raise WebmailError(
            "Roundcube's database has tables but no number under roundcube-version in table system: "
            "it is damaged or was not made by Roundcube. Restore it from the backup, or empty it."
        )
    return int(row[0])


def run(connection: Any, sql: Path, step: int | None) -> None:
    """Runs one of Roundcube's files and records its version, in one transaction.

    Raises WebmailError when the file cannot be read and StoreError when PostgreSQL refuses it.
    """
    path = sql / ("postgres.initial.sql" if step is None else f"postgres/{step}.sql")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise WebmailError(f"{path}: cannot be read: {error.strerror}") from error
    with store.translated(str(path)), connection.transaction():
        connection.execute(text)
        if step is not None:
            connection.execute(
                "INSERT INTO public.system (name, value) VALUES ('roundcube-version', %s) "
                "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (str(step),),
            )
