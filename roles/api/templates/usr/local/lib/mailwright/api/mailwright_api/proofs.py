# Managed by mailwright: changes are overwritten.
"""Looks the records of claimed domains up, by the host's resolver, which validates; and rings for what hosts them."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import dns.asyncresolver
import dns.exception
import dns.rdatatype
import dns.resolver
from ansible_collections.mailwright.server.plugins.module_utils.sending import claims
from psycopg_pool import AsyncConnectionPool

from .settings import Settings

SECONDS = 10.0
POLL_SECONDS = 1.0
AT_ONCE = 8
# systemd starts mailwright-domains.service when this changes; again after a while, if that came to nothing.
BELL = Path(os.environ.get("RUNTIME_DIRECTORY", "/run/mailwright-webhooks"), "domains")
RING_SECONDS = 30.0

Answer = frozenset[str] | None


class Proofs:
    """The claims, as the role mailwright_webhooks."""

    def __init__(self, pool: AsyncConnectionPool, settings: Settings) -> None:
        self.pool, self.settings = pool, settings
        self.resolver = dns.asyncresolver.Resolver()
        self.resolver.lifetime = SECONDS
        self.rung: tuple[float, Sequence[tuple[str, str]]] = (0.0, ())

    async def watch(self) -> None:
        """For ever. The host looks once in any case: after a restore, database and keys may be of different times."""
        BELL.write_text("start\n", encoding="ascii")
        while True:
            async with self.pool.connection() as connection:
                cursor = await connection.execute(
                    "SELECT name, token, selector, dkim FROM api.domain_claim WHERE look_at <= now() "
                    "AND state <> 'leaving' ORDER BY look_at LIMIT %s",
                    (AT_ONCE,),
                )
                due = await cursor.fetchall()
            await asyncio.gather(*(self.look(*row) for row in due))
            await self.ring()
            await asyncio.sleep(POLL_SECONDS)

    async def look(self, name: str, token: str, selector: str | None, dkim: str | None) -> None:
        """Compare the DNS with what it should say. What the name servers do not answer stays open."""
        key = None if selector is None or dkim is None else (selector, dkim)
        wanted = claims.records(name, token, key, self.settings.hostname, self.settings.features)
        answers = await asyncio.gather(*(self.ask(record.name, record.type) for record in wanted))
        seen = {
            record.key: None if answer is None else claims.is_seen(record, answer)
            for record, answer in zip(wanted, answers, strict=True)
        }
        proof = wanted[0]
        problem = {
            None: f"The name servers gave no answer for {proof.name}.",
            False: f"{proof.name} has no TXT record {proof.value}.",
        }.get(seen[proof.key], "")
        async with self.pool.connection() as connection:
            await connection.execute(
                "SELECT api.note_look(%s, %s, %s, %s, %s)",
                (name, token, bool(seen[proof.key]), json.dumps(seen), problem),
            )

    async def ask(self, name: str, kind: str) -> Answer:
        """What there is, in the form of claims.Record; None when nobody can say."""
        try:
            answer = await self.resolver.resolve(f"{name}.", kind)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return frozenset()
        except (dns.exception.DNSException, OSError):
            return None
        if answer.rdtype == dns.rdatatype.TXT:
            return frozenset(b"".join(record.strings).decode("utf-8", "replace") for record in answer)
        return frozenset(record.to_text() for record in answer)

    async def ring(self) -> None:
        """Let the host do its part, once for the same work within half a minute."""
        async with self.pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT name, state FROM api.domain_claim WHERE state IN ('verified', 'leaving') ORDER BY name, tenant"
            )
            work = await cursor.fetchall()
        at, before = self.rung
        if work and (work != before or time.monotonic() > at + RING_SECONDS):
            BELL.write_text(f"{len(work)}\n", encoding="ascii")
            self.rung = (time.monotonic(), work)
        elif not work:
            self.rung = (0.0, ())
