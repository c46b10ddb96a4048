# Managed by mailwright: changes are overwritten.
"""Looks up who receives a domain's mail, for the warm-up: the dispatcher, which asks by a row, has no network."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

import dns.asyncresolver
import dns.exception
import dns.resolver
from psycopg_pool import AsyncConnectionPool

SECONDS = 10.0
POLL_SECONDS = 0.5
AT_ONCE = 16

log = logging.getLogger(__name__)


def first_exchange(domain: str, found: Iterable[tuple[int, str]]) -> str:
    """The server that mail goes to first; the domain's own name where none is named, or none is wanted."""
    names = [name.rstrip(".") for _preference, name in sorted(found)]
    return names[0].lower() if names and names[0] else domain


class Destinations:
    """The questions of the dispatcher, as the role mailwright_webhooks."""

    def __init__(self, pool: AsyncConnectionPool) -> None:
        self.pool = pool
        self.resolver = dns.asyncresolver.Resolver()
        self.resolver.lifetime = SECONDS

    async def answer(self) -> None:
        """For ever. What cannot be looked up is left open; the dispatcher waits no longer than a minute."""
        while True:
            async with self.pool.connection() as connection:
                cursor = await connection.execute(
                    "SELECT domain FROM api.destination WHERE provider IS NULL "
                    "AND asked_at > now() - interval '1 minute' ORDER BY asked_at LIMIT %s",
                    (AT_ONCE,),
                )
                domains = [domain for (domain,) in await cursor.fetchall()]
            exchanges = await asyncio.gather(*map(self.look_up, domains))
            for domain, exchange in zip(domains, exchanges, strict=True):
                if exchange is not None:
                    async with self.pool.connection() as connection:
                        await connection.execute(
                            "UPDATE api.destination SET known_at = now(), "
                            "provider = coalesce(nullif(api.provider(%s::text || '['), ''), domain) WHERE domain = %s",
                            (exchange, domain),
                        )
            await asyncio.sleep(POLL_SECONDS)

    async def look_up(self, domain: str) -> str | None:
        """The domain's first mail server; None when nobody knows at present."""
        try:
            answer = await self.resolver.resolve(domain, "MX")
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return domain
        except (dns.exception.DNSException, OSError, ValueError) as error:
            log.warning("%s: who receives its mail is not known: %s", domain, error)
            return None
        return first_exchange(domain, ((record.preference, record.exchange.to_text()) for record in answer))
