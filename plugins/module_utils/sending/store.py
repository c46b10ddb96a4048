# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Input and output of the modules: the rows of api.key, by a connection of the directory's owner."""

from __future__ import annotations

from typing import Any

from ..directory import store
from .key_rows import Plan, Row


def read_keys(owner: Any) -> list[Row]:
    """All keys."""
    with store.translated("reading the keys"):
        rows = owner.execute("SELECT id, domain, name, hash, scopes, owner FROM api.key").fetchall()
    return [Row(row[0], row[1], row[2], bytes(row[3]), tuple(row[4]), row[5]) for row in rows]


def write_keys(owner: Any, todo: Plan) -> None:
    """Carries the plan out, whole or not at all."""
    with store.translated("writing the keys"), owner.transaction():
        for row in todo.remove:
            owner.execute("DELETE FROM api.key WHERE id = %s AND owner = %s", (row.id, row.owner))
        for row in todo.add:
            owner.execute(
                "INSERT INTO api.key (id, domain, name, hash, scopes, owner) VALUES (%s, %s, %s, %s, %s, %s)",
                (row.id, row.domain, row.name, row.hash, list(row.scopes), row.owner),
            )


def hosted_domains(owner: Any) -> set[str]:
    """The directory's domains."""
    with store.translated("reading the domains"):
        return {name for (name,) in owner.execute("SELECT name FROM directory.domain").fetchall()}
