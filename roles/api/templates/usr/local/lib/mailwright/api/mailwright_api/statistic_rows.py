# Managed by mailwright: changes are overwritten.
"""Figures from the database."""

from __future__ import annotations

from datetime import date
from typing import Any

from .database import Database

_NAMES = "accepted, delivered, deferred, bounced, expired, complained, unsubscribed"


class StatisticRows(Database):
    """A part of the store."""

    async def daily_figures(self, domain: str, first: date, last: date) -> list[dict[str, Any]]:
        """By day and provider. The days that the dispatcher has not summed up yet are counted now."""
        async with self._domain(domain) as connection:
            cursor = await connection.execute(
                # the dispatcher sums up all days but today, and yesterday's may still change for an hour
                # (S608: put together from a constant; every value is a parameter)
                f"WITH live AS (SELECT (now() AT TIME ZONE 'UTC')::date - 1 AS day) "  # noqa: S608
                f"SELECT day, provider, {_NAMES} FROM api.statistic WHERE domain = %(domain)s "
                "AND day BETWEEN %(first)s AND %(last)s AND day < (SELECT day FROM live) "
                f"UNION ALL SELECT day, provider, {_NAMES} "
                "FROM api.daily_figures((SELECT day FROM live)::timestamp AT TIME ZONE 'UTC') "
                "WHERE domain = %(domain)s AND day BETWEEN %(first)s AND %(last)s ORDER BY day, provider",
                {"domain": domain, "first": first, "last": last},
            )
            names = ("day", "provider", *_NAMES.split(", "))
            return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]

    async def warmup(self, domain: str, address: str) -> list[dict[str, Any]]:
        """The address's ramps, and how much of the domain's mail waits for each."""
        async with self._domain(domain) as connection:
            await connection.execute("SELECT set_config('api.warmup_address', %s, true)", (address,))
            cursor = await connection.execute("SELECT provider, stage, paused_until, waiting FROM api.warmup()")
            names = ("provider", "stage", "paused_until", "waiting")
            return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]

    async def dmarc_sources(self, domain: str) -> list[dict[str, Any]]:
        """Who sent in the domain's name, as others report."""
        names = ("source", "messages", "failed", "reporters", "dkim", "spf", "last")
        async with self._domain(domain) as connection:
            cursor = await connection.execute(
                "SELECT source, messages, failed, reporters, dkim, spf, last FROM api.dmarc_sources()"
            )
            return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]

    async def tls_reports(self, domain: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Sessions by policy, and failures, as others report."""
        names = ("policy", "result", "host", "sessions", "reason", "reporters", "last")
        async with self._domain(domain) as connection:
            cursor = await connection.execute("SELECT policy, successful, failed FROM api.tls_sessions()")
            sessions = [
                dict(zip(("policy", "successful", "failed"), row, strict=True)) for row in await cursor.fetchall()
            ]
            cursor = await connection.execute(
                "SELECT policy, result, host, sessions, reason, reporters, last FROM api.tls_failures()"
            )
            return sessions, [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]

    async def warmup_figures(self) -> list[tuple[str, str, int]]:
        """For the metrics, as figures."""
        async with self._connection() as connection:
            cursor = await connection.execute("SELECT name, label, count FROM api.warmup_figures()")
            return [(row[0], row[1], row[2]) for row in await cursor.fetchall()]
