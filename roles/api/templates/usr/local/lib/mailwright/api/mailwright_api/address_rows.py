# Managed by mailwright: changes are overwritten.
"""The directory's mailboxes and aliases of one domain, by the views that the database has for the service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from ansible_collections.mailwright.server.plugins.module_utils.sending.compose import Problem

from . import problems
from .database import Database

_MAILBOX = ("address", "display_name", "quota_bytes", "enabled", "owner")
# the service may write a password, and not read the one that is there
_CHANGE = (
    "UPDATE api.own_mailbox SET display_name = coalesce(%(display_name)s, display_name), "
    "quota_bytes = coalesce(%(quota_bytes)s, quota_bytes), enabled = coalesce(%(enabled)s, enabled)"
)
_CHANGE_WITH_PASSWORD = f"{_CHANGE}, password = %(password)s"


class AddressRows(Database):
    """A part of the store."""

    async def mailboxes(
        self, domain: str, limit: int, after: str = "", only: str | None = None
    ) -> list[dict[str, Any]]:
        """Mailboxes after that one, by address."""
        async with self._domain(domain) as connection:
            cursor = await connection.execute(
                "SELECT address, display_name, quota_bytes, enabled, owner FROM api.mailbox "
                "WHERE address > %s AND (%s::text IS NULL OR address = %s) ORDER BY address LIMIT %s",
                (after, only, only, limit),
            )
            return [dict(zip(_MAILBOX, row, strict=True)) for row in await cursor.fetchall()]

    async def add_mailbox(self, domain: str, row: dict[str, Any]) -> None:
        """row has its columns, the password's hash among them."""
        async with self._change(domain) as connection:
            await _refuse_taken(connection, row["address"])
            await connection.execute(
                "INSERT INTO api.own_mailbox (address, domain, local_part, display_name, password, quota_bytes, "
                "enabled, owner) VALUES (%(address)s, %(domain)s, %(local_part)s, %(display_name)s, %(password)s, "
                "%(quota_bytes)s, %(enabled)s, 'api')",
                {**row, "domain": domain},
            )

    async def change_mailbox(self, domain: str, address: str, change: dict[str, Any]) -> None:
        """Change what is not None."""
        async with self._change(domain) as connection:
            statement = _CHANGE if change["password"] is None else _CHANGE_WITH_PASSWORD
            await connection.execute(statement + " WHERE address = %(address)s", {**change, "address": address})

    async def remove_mailbox(self, domain: str, address: str) -> None:
        """Its mail stays in the store."""
        async with self._change(domain) as connection:
            await _refuse_used(connection, address)
            await connection.execute("DELETE FROM api.own_mailbox WHERE address = %s", (address,))

    async def aliases(self, domain: str, limit: int, after: str = "", only: str | None = None) -> list[dict[str, Any]]:
        """Aliases after that one, by address, with their destinations."""
        async with self._domain(domain) as connection:
            cursor = await connection.execute(
                "SELECT address, array_agg(destination ORDER BY destination), max(owner) FROM api.alias "
                "WHERE address > %s AND (%s::text IS NULL OR address = %s) "
                "GROUP BY address ORDER BY address LIMIT %s",
                (after, only, only, limit),
            )
            names = ("address", "destinations", "owner")
            return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]

    async def add_alias(self, domain: str, address: str, destinations: Sequence[str]) -> None:
        """Mail to the address goes to each of these."""
        async with self._change(domain) as connection:
            await _refuse_taken(connection, address)
            await _lead(connection, domain, address, destinations)

    async def change_alias(self, domain: str, address: str, destinations: Sequence[str]) -> None:
        """To each of these, and to no others any more."""
        async with self._change(domain) as connection:
            await connection.execute(
                "DELETE FROM api.own_alias WHERE address = %s AND NOT destination = ANY(%s)",
                (address, list(destinations)),
            )
            await _lead(connection, domain, address, destinations)

    async def remove_alias(self, domain: str, address: str) -> None:
        """From now on."""
        async with self._change(domain) as connection:
            await _refuse_used(connection, address)
            await connection.execute("DELETE FROM api.own_alias WHERE address = %s", (address,))

    @asynccontextmanager
    async def _change(self, domain: str) -> AsyncIterator[Any]:
        """A transaction that alone changes the directory. Raises ApiError."""
        try:
            async with self._domain(domain) as connection:
                await connection.execute("SELECT api.change_directory()")
                yield connection
        # an address that the views do not show: an inbound route's
        except psycopg.errors.UniqueViolation as error:
            raise _taken() from error


async def _lead(connection: Any, domain: str, address: str, destinations: Sequence[str]) -> None:
    await connection.execute(
        "INSERT INTO api.own_alias (address, destination, domain, owner) "
        "SELECT %s, d, %s, 'api' FROM unnest(%s::text[]) AS d ON CONFLICT DO NOTHING",
        (address, domain, list(destinations)),
    )
    cursor = await connection.execute("SELECT destination, problem FROM api.alias_problems(%s)", (address,))
    found = []
    for destination, problem in await cursor.fetchall():
        if problem == "circle":
            found.append(Problem("/destinations", "leads back to the alias itself"))
        else:
            pointer = f"/destinations/{destinations.index(destination)}"
            found.append(Problem(pointer, f"is no address of {domain}: make a mailbox or an alias first"))
    if found:
        raise problems.ApiError(422, "invalid_request", "The alias cannot be as asked for.", found)


async def _refuse_taken(connection: Any, address: str) -> None:
    cursor = await connection.execute("SELECT api.is_taken(%s)", (address,))
    if (await cursor.fetchone())[0]:
        raise _taken()


async def _refuse_used(connection: Any, address: str) -> None:
    cursor = await connection.execute(
        r"SELECT address FROM api.alias WHERE regexp_replace(lower(destination), '\+[^@]*@', '@') = %s "
        "AND address <> %s ORDER BY address LIMIT 1",
        (address, address),
    )
    row = await cursor.fetchone()
    if row is not None:
        raise problems.ApiError(409, "in_use", f"The alias {row[0]} leads there: change that first.")


def _taken() -> problems.ApiError:
    return problems.ApiError(409, "address_taken", "The address is a mailbox, an alias or a route already.")
