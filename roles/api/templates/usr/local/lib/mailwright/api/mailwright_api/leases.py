# Managed by mailwright: changes are overwritten.
"""The database of a service that leases work: the dispatcher, and what posts to webhooks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from .settings import DATABASE


class Leases:
    """A pool of connections as one role; the lock's number is the service's own."""

    def __init__(self, role: str, lock: int, fewest: int, most: int) -> None:
        self.conninfo = f"{DATABASE} user={role}"
        self.lock = lock
        self.pool = AsyncConnectionPool(
            self.conninfo, min_size=fewest, max_size=most, timeout=30, open=False, kwargs={"autocommit": True}
        )

    async def open(self) -> None:
        await self.pool.open()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """While open, no other process of this service works: an older one may still be ending. Raises TimeoutError."""
        async with await psycopg.AsyncConnection.connect(self.conninfo, autocommit=True) as connection:
            async with asyncio.timeout(60):
                await connection.execute("SELECT pg_advisory_lock(%s)", (self.lock,))
            yield

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Any]:
        async with self.pool.connection() as connection, connection.transaction():
            yield connection
