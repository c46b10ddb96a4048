# Managed by mailwright: changes are overwritten.
"""Domains that the tenant brought, by the functions that the database has for the service."""

from __future__ import annotations

from typing import Any

from .database import Database

_CLAIM = ("name", "state", "problem", "token", "selector", "dkim", "seen", "claimed_at", "until", "looked_at")


class DomainRows(Database):
    """A part of the store. Whose claims these are, the database finds by the key that asks."""

    async def claims(self) -> list[dict[str, Any]]:
        """The tenant's, by name; none for a domain's key."""
        async with self._domain("") as connection:
            cursor = await connection.execute(
                "SELECT name, state, problem, token, selector, dkim, seen, claimed_at, until, looked_at "
                "FROM api.claims()"
            )
            return [dict(zip(_CLAIM, row, strict=True)) for row in await cursor.fetchall()]

    async def claim_domain(self, name: str, token: str, most: int) -> str:
        """What came of it: see the function."""
        return str(await self._call("SELECT api.claim_domain(%s, %s, %s)", name, token, most))

    async def verify_claim(self, name: str) -> None:
        """Have the DNS looked at."""
        await self._call("SELECT api.verify_claim(%s)", name)

    async def release_domain(self, name: str) -> str | None:
        """Give the domain back: released, in_use, or None where there is no such claim."""
        found: str | None = await self._call("SELECT api.release_domain(%s)", name)
        return found

    async def _call(self, statement: str, *values: Any) -> Any:
        async with self._domain("") as connection:
            cursor = await connection.execute(statement, values)
            return (await cursor.fetchone())[0]
