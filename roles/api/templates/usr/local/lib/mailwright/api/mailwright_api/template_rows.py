# Managed by mailwright: changes are overwritten.
"""Templates in the database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import psycopg

from . import problems
from .database import Database


class TemplateRows(Database):
    """A part of the store."""

    async def templates(
        self, domain: str, limit: int, after: UUID | None = None, only: UUID | None = None
    ) -> list[dict[str, Any]]:
        """Templates older than that one, newest first."""
        async with self._domain(domain) as connection:
            cursor = await connection.execute(
                "SELECT id, name, active, created_at FROM api.template WHERE domain = %(domain)s "
                "AND (%(after)s::uuid IS NULL OR id < %(after)s) AND (%(only)s::uuid IS NULL OR id = %(only)s) "
                "ORDER BY id DESC LIMIT %(limit)s",
                {"domain": domain, "after": after, "only": only, "limit": limit},
            )
            names = ("id", "name", "active_version", "created_at")
            return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]

    async def add_template(self, domain: str, template: UUID, name: str, sources: Mapping[str, str | None]) -> None:
        """With its first version."""
        try:
            async with self._domain(domain) as connection:
                await connection.execute(
                    "INSERT INTO api.template (id, domain, name) VALUES (%s, %s, %s)", (template, domain, name)
                )
                await _insert_version(connection, domain, template, 1, sources)
        except psycopg.errors.UniqueViolation as error:
            raise _name_taken() from error

    async def change_template(self, domain: str, template: UUID, name: str | None, active: int | None) -> None:
        """Change what is not None."""
        try:
            async with self._domain(domain) as connection:
                await connection.execute(
                    "UPDATE api.template SET name = coalesce(%s, name), active = coalesce(%s, active) "
                    "WHERE domain = %s AND id = %s",
                    (name, active, domain, template),
                )
        except psycopg.errors.UniqueViolation as error:
            raise _name_taken() from error

    async def remove_template(self, domain: str, template: UUID) -> bool:
        """Whether it was there."""
        async with self._domain(domain) as connection:
            cursor = await connection.execute(
                "DELETE FROM api.template WHERE domain = %s AND id = %s", (domain, template)
            )
        return bool(cursor.rowcount)

    async def versions(self, domain: str, template: UUID, only: int | None = None) -> list[dict[str, Any]]:
        """Newest first."""
        async with self._domain(domain) as connection:
            cursor = await connection.execute(
                "SELECT version, subject, text, html, created_at FROM api.template_version "
                "WHERE domain = %(domain)s AND template = %(template)s "
                "AND (%(only)s::int IS NULL OR version = %(only)s) "
                "ORDER BY version DESC",
                {"domain": domain, "template": template, "only": only},
            )
            names = ("version", "subject", "text", "html", "created_at")
            return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]

    async def add_version(
        self, domain: str, template: UUID, sources: Mapping[str, str | None], most: int
    ) -> int | None:
        """Its number, or None when there are too many, or the template has just gone."""
        async with self._domain(domain) as connection:
            # one at a time: the row stays locked until the version is there
            cursor = await connection.execute(
                "UPDATE api.template SET active = (SELECT max(version) + 1 FROM api.template_version "
                "WHERE template = %(template)s) WHERE domain = %(domain)s AND id = %(template)s "
                "AND (SELECT max(version) FROM api.template_version WHERE template = %(template)s) < %(most)s "
                "RETURNING active",
                {"template": template, "domain": domain, "most": most},
            )
            row = await cursor.fetchone()
            if row is None:
                return None
            await _insert_version(connection, domain, template, row[0], sources)
        return int(row[0])


async def _insert_version(
    connection: Any, domain: str, template: UUID, version: int, sources: Mapping[str, str | None]
) -> None:
    await connection.execute(
        "INSERT INTO api.template_version (template, domain, version, subject, text, html) "
        "VALUES (%s, %s, %s, %s, %s, %s)",
        (template, domain, version, sources["subject"], sources["text"], sources["html"]),
    )


def _name_taken() -> problems.ApiError:
    return problems.ApiError(409, "name_taken", "The domain has a template of this name already.")
