# Managed by mailwright: changes are overwritten.
"""Posts what happened to webhooks: at least once, with the same id at each attempt, to public addresses alone.

A delivery is leased in a short transaction, posted, and what came of it is written down in a second one. Where that
goes wrong in the middle, the lease runs out and it is posted again.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import logging
import random
import signal
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import httpcore
import psycopg
from ansible_collections.mailwright.server.plugins.module_utils.sending import inbound, webhooks
from systemd import daemon

from .destinations import Destinations
from .guard import Guard, RefusedError
from .leases import Leases
from .proofs import Proofs
from .settings import Settings

LOCK = 0x6D617770
POST_SECONDS = 15.0
LEASE_SECONDS = 60.0
POLL_SECONDS = 0.1
PRUNE_SECONDS = 3600.0
CONNECTIONS = 32
# A slow receiver keeps no more than these waiting, and the others do not notice.
MOST_FOR_ONE = 8
LONGEST_ANSWER = 1024
# Files of a message that came in are posted with it up to so many octets; larger ones are to be fetched.
LARGE = 1_000_000
# After so many seconds of failures alone, the end of a delivery's attempts is the webhook's end.
PATIENCE_SECONDS = 3 * 86400

log = logging.getLogger(__name__)


class Job(NamedTuple):
    """A delivery under lease."""

    id: UUID
    webhook: UUID
    type: str
    data: dict[str, Any]
    attempt: int
    created_at: datetime
    url: str
    keys: tuple[str, ...]


class Outcome(NamedTuple):
    """What came of an attempt: the receiver's status, or why there was none."""

    job: Job
    status: int | None
    error: str

    @property
    def delivered(self) -> bool:
        return self.status is not None and 200 <= self.status <= 299


async def post(guard: Guard, tls: ssl.SSLContext, job: Job, body: bytes, now: int) -> Outcome:
    """One attempt. A redirect is an answer like another, and none that is followed."""
    try:
        async with asyncio.timeout(POST_SECONDS):
            # without a proxy, and a connection for each: an address is checked for every post
            async with (
                httpcore.AsyncConnectionPool(ssl_context=tls, network_backend=guard) as pool,
                pool.stream(
                    "POST", job.url, headers=webhooks.headers(job.keys, str(job.id), now, body), content=body
                ) as response,
            ):
                status = int(response.status)
                text = b""
                if not 200 <= status <= 299:
                    async for chunk in response.aiter_stream():
                        text += chunk
                        if len(text) >= LONGEST_ANSWER:
                            break
        return Outcome(job, status, _printable(text.decode("utf-8", "replace")))
    except TimeoutError:
        return Outcome(job, None, f"no answer within {POST_SECONDS:.0f} s")
    except (RefusedError, OSError, ValueError, httpcore.NetworkError, httpcore.ProtocolError,
            httpcore.TimeoutException) as error:  # fmt: skip
        return Outcome(job, None, _printable(str(error) or type(error).__name__))


def _printable(text: str) -> str:
    """What a stranger says, on one line."""
    return "".join(char for char in " ".join(text.split()) if char.isprintable())[:500]


class Poster:
    """All of it, in one process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.guard = Guard(webhooks.parse_networks(settings.webhook_networks))
        self.tls = ssl.create_default_context()
        self.queue = Queue()
        self.under_way: collections.Counter[UUID] = collections.Counter()
        # a message that came in may have many megabytes: one at a time
        self.large = asyncio.Lock()
        self.stopping = asyncio.Event()

    async def run(self) -> None:
        """Until SIGTERM; what is under way is finished first."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.stopping.set)
        await self.queue.open()
        async with self.queue.alone(), asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self.keep(self.prune)),
                group.create_task(self.keep(Proofs(self.queue.pool, self.settings).watch)),
            ]
            if self.settings.warmup is not None:
                tasks.append(group.create_task(self.keep(Destinations(self.queue.pool).answer)))
            lease = group.create_task(self.keep(lambda: self.lease(group)))
            daemon.notify("READY=1")
            await self.stopping.wait()
            daemon.notify("STOPPING=1")
            await lease
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POST_SECONDS + 5):
                    while self.under_way.total():
                        await asyncio.sleep(0.05)
            for task in tasks:
                task.cancel()

    async def keep(self, work: Callable[[], Awaitable[None]]) -> None:
        """Go on when the database comes back."""
        while not self.stopping.is_set():
            try:
                await work()
                return
            except psycopg.OperationalError as error:
                log.warning("the database does not answer: %s", error)
                await asyncio.sleep(1)

    async def lease(self, group: asyncio.TaskGroup) -> None:
        """Take what is due, as fast as it is posted."""
        while not self.stopping.is_set():
            busy = [webhook for webhook, count in self.under_way.items() if count >= MOST_FOR_ONE]
            room = CONNECTIONS - self.under_way.total()
            jobs = await self.queue.lease(room, busy) if room > 0 else []
            for job in jobs:
                self.under_way[job.webhook] += 1
                group.create_task(self.attempt(job))
            if not jobs:
                await asyncio.sleep(POLL_SECONDS)

    async def attempt(self, job: Job) -> None:
        """Post, and write down what came of it. Without the database it is posted again later."""
        try:
            outcome = await self.send(job)
            await self.queue.record(outcome, random.random())  # noqa: S311 - spreads attempts, guards nothing
        except psycopg.OperationalError as error:
            log.warning("%s: what came of it was not written down: %s", job.id, error)
        finally:
            self.under_way[job.webhook] -= 1
            if not self.under_way[job.webhook]:
                del self.under_way[job.webhook]

    async def send(self, job: Job) -> Outcome:
        """Make the body, and post it."""
        try:
            data: dict[str, Any] | None = job.data
            if job.type == "inbound.received":
                async with self.large:
                    data = await self.message(UUID(job.data["id"]))
            if data is None:
                return Outcome(job, None, "the message is kept no longer")
            # the same at each attempt, octet by octet
            whole = {"type": job.type, "timestamp": job.created_at.isoformat(), "data": data}
            body = json.dumps(whole, sort_keys=True).encode()
            return await post(self.guard, self.tls, job, body, int(time.time()))
        except psycopg.OperationalError:
            raise
        # one delivery that cannot be made must not keep all others from being made
        except Exception as error:
            log.exception("%s", job.id)
            return Outcome(job, None, f"this server failed: {type(error).__name__}")

    async def message(self, message: UUID) -> dict[str, Any] | None:
        """A message that came in, taken apart."""
        found = await self.queue.message(message)
        if found is None:
            return None
        parsed = await asyncio.to_thread(inbound.parse, found.pop("content"))
        return {**found, "content": inbound.shown(parsed, self.settings.hostname, LARGE)}

    async def prune(self) -> None:
        """Forget what is old and finished."""
        while True:
            while await self.queue.prune(self.settings.keep_days):
                await asyncio.sleep(0)
            await asyncio.sleep(PRUNE_SECONDS)


class Queue(Leases):
    """The deliveries, as the role mailwright_webhooks. Each method is one short transaction."""

    def __init__(self) -> None:
        super().__init__("mailwright_webhooks", LOCK, 1, 6)

    async def lease(self, most: int, busy: Sequence[UUID]) -> list[Job]:
        """Take what is due, a few of each webhook, in one statement."""
        async with self.pool.connection() as connection:
            cursor = await connection.execute(
                "UPDATE api.webhook_delivery d SET attempts = attempts + 1, changed_at = now(), "
                "next_at = now() + make_interval(secs => %s) FROM api.webhook w WHERE w.id = d.webhook AND d.id IN ("
                "SELECT id FROM (SELECT id, next_at, row_number() OVER (PARTITION BY webhook ORDER BY next_at) AS turn "
                "FROM (SELECT id, webhook, next_at FROM api.webhook_delivery WHERE status = 'pending' "
                "AND next_at <= now() AND NOT webhook = ANY(%s) ORDER BY next_at LIMIT 1000) AS due) AS turns "
                "WHERE turn <= %s ORDER BY next_at LIMIT %s) AND d.status = 'pending' "
                "RETURNING d.id, d.webhook, d.type, d.data, d.attempts, d.created_at, w.url, w.secret, "
                "CASE WHEN w.old_secret_until > now() THEN w.old_secret END",
                (LEASE_SECONDS, list(busy), MOST_FOR_ONE, most),
            )
            return [
                Job._make((*job, (secret,) if old_secret is None else (secret, old_secret)))
                for *job, secret, old_secret in await cursor.fetchall()
            ]

    async def message(self, message: UUID) -> dict[str, Any] | None:
        """A message that came in."""
        async with self.pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT id::text, route::text, sender, recipient, content FROM api.inbound_message WHERE id = %s",
                (message,),
            )
            row = await cursor.fetchone()
        if row is None:
            return None
        found = dict(zip(("id", "route", "from", "recipient", "content"), row, strict=True))
        return {**found, "content": bytes(found["content"])}

    async def record(self, outcome: Outcome, chance: float) -> None:
        """Write down what came of an attempt. The attempt's number fences off one whose lease ran out."""
        job = outcome.job
        delay = None if outcome.status == webhooks.GONE else webhooks.next_delay(job.attempt, chance)
        status = "delivered" if outcome.delivered else "failed" if delay is None else "pending"
        async with self._transaction() as connection:
            cursor = await connection.execute(
                "UPDATE api.webhook_delivery SET status = %s, response_status = %s, error = %s, changed_at = now(), "
                "next_at = now() + make_interval(secs => %s) "
                "WHERE id = %s AND status = 'pending' AND attempts = %s",
                (status, outcome.status, outcome.error, delay or 0, job.id, job.attempt),
            )
            if not cursor.rowcount:
                return
            if outcome.delivered:
                await connection.execute(
                    "UPDATE api.webhook SET failing_since = NULL WHERE id = %s AND failing_since IS NOT NULL",
                    (job.webhook,),
                )
                return
            await connection.execute(
                "UPDATE api.webhook SET failing_since = now() WHERE id = %s AND failing_since IS NULL", (job.webhook,)
            )
            if status == "failed":
                await self._give_up(connection, job.webhook, outcome.status == webhooks.GONE)

    async def _give_up(self, connection: Any, webhook: UUID, gone: bool) -> None:
        """Switch a webhook off that said it is gone, or from which nothing but failures came for days."""
        cursor = await connection.execute(
            "UPDATE api.webhook SET enabled = false, disabled_reason = %s WHERE id = %s AND enabled "
            "AND (%s OR failing_since < now() - make_interval(secs => %s)) RETURNING name, domain",
            ("gone" if gone else "failing", webhook, gone, PATIENCE_SECONDS),
        )
        row = await cursor.fetchone()
        if row is None:
            return
        log.warning("the webhook %s of %s is switched off: %s", *row, "it is gone" if gone else "it fails for days")

    async def prune(self, keep_days: int) -> int:
        """Forget deliveries that are old and finished."""
        async with self._transaction() as connection:
            cursor = await connection.execute(
                "DELETE FROM api.webhook_delivery WHERE id IN (SELECT id FROM api.webhook_delivery "
                "WHERE created_at < now() - make_interval(days => %s) AND status <> 'pending' LIMIT 500)",
                (keep_days,),
            )
            return int(cursor.rowcount)
