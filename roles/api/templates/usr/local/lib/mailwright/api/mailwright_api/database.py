# Managed by mailwright: changes are overwritten.
"""Connections of the web service to its database, as the role mailwright_api."""

from __future__ import annotations

import select
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from . import problems
from .outgoing import ACTOR, LIMITED, OWN_TENANT, RATE, Rate
from .settings import DATABASE

CONNECTIONS = 6


def _readable(connection: Any) -> bool:
    """Whether something came unasked: the server has closed its side, as at its restart."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


class Database:
    """A pool of connections."""

    def __init__(self) -> None:
        self.pool = AsyncConnectionPool(
            f"{DATABASE} user=mailwright_api",
            min_size=2,
            max_size=CONNECTIONS,
            timeout=5,
            open=False,
            kwargs={"autocommit": True},
        )

    async def open(self) -> None:
        await self.pool.open()

    async def close(self) -> None:
        await self.pool.close()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        try:
            async with AsyncExitStack() as stack:
                connection = await stack.enter_async_context(self.pool.connection())
                # The pool's own check would cost each request a round trip, and waits for seconds.
                while _readable(connection):
                    await connection.close()
                    await stack.aclose()
                    connection = await stack.enter_async_context(self.pool.connection())
                yield connection
        # the server's own words may quote rows
        except psycopg.OperationalError as error:
            raise problems.unavailable() from error

    @asynccontextmanager
    async def _domain(self, domain: str) -> AsyncIterator[Any]:
        """A transaction that sees the domain's rows."""
        async with self._connection() as connection, connection.transaction():
            await connection.execute(
                "SELECT set_config('api.domain', %s, true), set_config('api.actor', %s, true)", (domain, ACTOR.get())
            )
            yield connection

    @asynccontextmanager
    async def _tenant(self) -> AsyncIterator[Any]:
        """A transaction that sees what the key that asks may see of tenants."""
        async with self._connection() as connection, connection.transaction():
            await connection.execute(
                "SELECT set_config('api.tenant', %s, true), set_config('api.actor', %s, true)",
                (OWN_TENANT.get(), ACTOR.get()),
            )
            yield connection


async def charge(connection: Any, unit: str, amount: int) -> None:
    """Take an amount from what the key and its domain may use. Raises ApiError when it is more than is left."""
    if not LIMITED.get() or not amount:
        return
    cursor = await connection.execute(
        "SELECT most, remaining, reset, granted FROM api.charge(%s, %s, %s)", (ACTOR.get(), unit, amount)
    )
    rows = [(Rate(*row[:3]), row[3]) for row in await cursor.fetchall()]
    refused = [rate for rate, granted in rows if not granted]
    met = refused or [rate for rate, _granted in rows] + [rate for rate in (RATE.get(),) if rate is not None]
    if met:
        RATE.set(min(met, key=lambda rate: (rate.remaining / rate.most, -rate.reset)))
    if any(rate.most < amount for rate in refused):
        raise problems.ApiError(
            422, "over_limit", f"The request has {amount} {unit}, more than the limit ever allows at once."
        )
    if refused:
        wait = max(rate.reset for rate in refused)
        raise problems.ApiError(
            429, "rate_limited", f"There are too many {unit}. Try again in {wait} s.",
            headers={"retry-after": str(wait)},
        )  # fmt: skip
