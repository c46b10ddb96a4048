# Managed by mailwright: changes are overwritten.
"""Streams, and who left them, in the database."""

from __future__ import annotations

from typing import Any

from .database import Database


class StreamRows(Database):
    """A part of the store."""

    async def streams(self, domain: str, only: str | None = None) -> list[dict[str, Any]]:
        """By name."""
        async with self._domain(domain) as connection:
            cursor = await connection.execute(
                "SELECT name, kind, false, created_at FROM api.stream WHERE domain = %s "
                "AND (%s::text IS NULL OR name = %s) ORDER BY name",
                (domain, only, only),
            )
            names = ("name", "kind", "built_in", "created_at")
            return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]

    async def add_stream(self, domain: str, name: str, kind: str, most: int) -> bool:
        """Whether it could be made: the name was free, and there are not too many."""
        async with self._domain(domain) as connection:
            cursor = await connection.execute(
                "INSERT INTO api.stream (domain, name, kind) SELECT %s, %s, %s "
                "WHERE (SELECT count(*) FROM api.stream WHERE domain = %s) < %s ON CONFLICT DO NOTHING",
                (domain, name, kind, domain, most),
            )
        return bool(cursor.rowcount)

    async def remove_stream(self, domain: str, name: str) -> bool:
        """Whether it was there."""
        async with self._domain(domain) as connection:
            cursor = await connection.execute("DELETE FROM api.stream WHERE domain = %s AND name = %s", (domain, name))
        return bool(cursor.rowcount)

    async def unsubscribe(self, token: str) -> bool:
        """Whether the token is of a link that was sent."""
        async with self._connection() as connection:
            cursor = await connection.execute("SELECT api.unsubscribe(%s)", (token,))
            return bool((await cursor.fetchone())[0])
