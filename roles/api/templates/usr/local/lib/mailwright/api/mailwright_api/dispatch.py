# Managed by mailwright: changes are overwritten.
"""The dispatcher: hands what was accepted to Postfix, once, and follows what becomes of it.

A recipient is leased, sent in an SMTP transaction of its own, and its queue id is written down. Where that goes wrong
in the middle, nobody knows whether Postfix has the message: the lease stays, and runs out. Then Postfix is asked what
is in its queue, its log is read to the end, and only what neither has is sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import secrets
import signal
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import aiosmtplib
import psycopg
from ansible_collections.mailwright.server.plugins.module_utils.sending import envelope, postfix_log
from ansible_collections.mailwright.server.plugins.module_utils.sending.warmup import RELAY
from systemd import daemon

from . import bounces, journal
from .outbox import HandedOver, Job, Outbox, Postponed, Rejected, Result, Seen
from .pacing import Pace, now_utc
from .settings import Settings

SUBMISSION = "/var/spool/postfix/public/api"
# the same, but what comes in there leaves by the relay
RELAYED_SUBMISSION = "/var/spool/postfix/public/api-relay"
# Postfix answers within the filter's 30 seconds (milter_content_timeout in master.cf), and goes on that long when its
# client is gone. So after the lease nothing of the transaction is left, with a good margin.
TRANSACTION_SECONDS = 30.0
LEASE_SECONDS = 90.0
# No NOTIFY: it would make each commit wait for the one before.
POLL_SECONDS = 0.1
REAP_SECONDS = 5.0
EXPIRE_SECONDS = 10.0
PRUNE_SECONDS = 3600.0
LOG_NOTE_SECONDS = 10.0
LARGEST_RECORD = 200

_QUEUED = re.compile(r"queued as ([0-9A-Za-z]+)\s*$")
_CODE = re.compile(r"([245]\.\d{1,3}\.\d{1,3})\s")
log = logging.getLogger(__name__)


class Dispatcher:
    """All of it, in one process. The clock is the warm-up's alone."""

    def __init__(self, settings: Settings, clock: Callable[[], datetime] = now_utc) -> None:
        self.settings = settings
        plan = settings.warmup
        pace = None if plan is None else Pace(plan["address"], plan["schedule"], plan["relay"], clock)
        self.outbox = Outbox(settings.connections + 4, pace)
        self.jobs: asyncio.Queue[Job] = asyncio.Queue(2 * settings.connections)
        self.results: asyncio.Queue[Result] = asyncio.Queue(4 * settings.connections)
        self.follower = journal.Follower()
        self.barriers: dict[str, asyncio.Event] = {}
        # a message of many megabytes is held in memory by one sender at a time
        self.large = asyncio.Lock()
        self.reachable = True
        self.stopping = asyncio.Event()
        # leased and not yet written down
        self.under_way = 0

    async def run(self) -> None:
        """Until SIGTERM; what is under way is finished and written down first."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.stopping.set)
        await self.outbox.open()
        async with self.outbox.alone(), asyncio.TaskGroup() as group:
            await self.begin()
            server = await bounces.listen(
                self.settings.hostname, self.outbox.bounced_late, self.outbox.complained, self.outbox.keep_inbound
            )
            tasks = [group.create_task(server.serve_forever())]
            for work in (self.follow, self.record, self.reap, self.expire, self.prune, self.lease):
                tasks.append(group.create_task(self.keep(work)))
            for _number in range(self.settings.connections):
                tasks.append(group.create_task(self.send()))
            daemon.notify("READY=1")
            await self.stopping.wait()
            daemon.notify("STOPPING=1")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TRANSACTION_SECONDS + 5):
                    while self.under_way:
                        await asyncio.sleep(0.05)
            for task in tasks:
                task.cancel()

    async def keep(self, task: Callable[[], Awaitable[None]]) -> None:
        """Go on when the database comes back."""
        while True:
            try:
                return await task()
            except psycopg.OperationalError as error:
                log.warning("%s: the database does not answer: %s", task.__name__, error)
                await asyncio.sleep(1)

    async def begin(self) -> None:
        """Know where to read the log before anything is sent."""
        position = await self.outbox.position()
        if position is None:
            position = await asyncio.to_thread(self.follower.start)
            await self.outbox.begin(position)
        await self.outbox.sort_again()
        await asyncio.to_thread(self.follower.seek, position)

    async def lease(self) -> None:
        """Take what is due, as fast as it is sent."""
        while not self.stopping.is_set():
            room = self.jobs.maxsize - self.jobs.qsize()
            # taken before the lease begins, so never too late
            deadline = asyncio.get_running_loop().time() + LEASE_SECONDS - 2 * TRANSACTION_SECONDS
            jobs = await self.outbox.lease(room, LEASE_SECONDS, deadline) if room > 0 else []
            self.under_way += len(jobs)
            for job in jobs:
                await self.jobs.put(job)
            if not self.reachable:
                await asyncio.sleep(1)
            elif not jobs:
                await asyncio.sleep(POLL_SECONDS)

    async def send(self) -> None:
        """One connection to Postfix, used again and again."""
        client: aiosmtplib.SMTP | None = None
        way = SUBMISSION
        while True:
            job = await self.jobs.get()
            if asyncio.get_running_loop().time() > job.deadline:
                await self.results.put(Postponed(job, "", "waited too long for its turn", False))
                continue
            try:
                content, unsubscribe = await self.outbox.content(job.message)
            except psycopg.OperationalError:
                await self.results.put(Postponed(job, "", "the database does not answer", False))
                continue
            if unsubscribe:
                content = envelope.unsubscribe_headers(self.settings.hostname, job.token) + content
            if client is not None and way != way_of(job):
                client.close()
                client = None
            way = way_of(job)
            if len(content) > 1_000_000:
                async with self.large:
                    client = await self.transmit(client, job, content)
            else:
                client = await self.transmit(client, job, content)

    async def transmit(self, client: aiosmtplib.SMTP | None, job: Job, content: bytes) -> aiosmtplib.SMTP | None:
        """One transaction; gives the connection, if it may be used again."""
        reused = client is not None
        # from here on Postfix may have the message although no answer says so
        unknown = False
        try:
            async with asyncio.timeout(TRANSACTION_SECONDS):
                if client is None:
                    client = await connect(way_of(job))
                await client.mail(envelope.sender(job.token, job.domain), options=["BODY=7BIT"], encoding="ascii")
                await client.rcpt(job.address, encoding="ascii")
                unknown = True
                response = await client.data(content)
            self.reachable = True
            queued = _QUEUED.search(response.message)
            if queued is None:
                # nothing that Postfix says; the log will tell
                log.error("not understood: %s %s", response.code, response.message)
                self.under_way -= 1
                return client
            await self.results.put(HandedOver(job, queued[1]))
            return client
        except aiosmtplib.SMTPResponseException as error:
            if reused and not unknown and error.code == 421:
                return await self.again(client, job, content)
            # an answer is certain, whatever it is
            await self.results.put(answered(job, error.code, error.message))
            self.reachable = True
            if error.code != 421 and client is not None and await reset(client):
                return client
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            if reused and not unknown and isinstance(error, aiosmtplib.SMTPServerDisconnected):
                return await self.again(client, job, content)
            if unknown:
                self.under_way -= 1
                log.warning("%s: no answer after the message (%s); the queue and the log will tell", job.token, error)
            else:
                self.reachable = False
                await self.results.put(Postponed(job, "", f"Postfix does not answer: {error}"[:200], False))
        if client is not None:
            client.close()
        return None

    async def again(self, client: aiosmtplib.SMTP | None, job: Job, content: bytes) -> aiosmtplib.SMTP | None:
        """At once by a new connection: Postfix closes those that were idle for minutes, and all when it is reloaded."""
        if client is not None:
            client.close()
        return await self.transmit(None, job, content)

    async def record(self) -> None:
        """Write answers down, those at hand together."""
        pending = [await self.results.get()]
        while True:
            while len(pending) < LARGEST_RECORD and not self.results.empty():
                pending.append(self.results.get_nowait())
            try:
                await self.outbox.record(pending)
            except psycopg.OperationalError as error:
                log.warning("answers of Postfix wait for the database: %s", error)
                await asyncio.sleep(0.5)
                continue
            self.under_way -= len(pending)
            pending = [await self.results.get()]

    async def follow(self) -> None:
        """Read the log for ever. After an error, again from where it was last written down."""
        position = await self.outbox.position()
        await asyncio.to_thread(self.follower.seek, position or "")
        noted = 0.0
        while True:
            entries = await asyncio.to_thread(self.follower.read, 0.5)
            queued, submitted, seen, passed = [], [], [], []
            for entry in entries:
                if entry.identifier == journal.BARRIER:
                    passed.append(entry.message)
                    continue
                found = postfix_log.parse(entry.identifier, entry.message)
                if isinstance(found, postfix_log.Queued):
                    queued.append(found)
                elif isinstance(found, postfix_log.Submitted):
                    submitted.append((found, entry.at))
                elif found is not None:
                    seen.append(Seen(found, entry.cursor, entry.at))
            if queued or submitted or seen or passed or time.monotonic() - noted > LOG_NOTE_SECONDS:
                cursor = entries[-1].cursor if entries else None
                for token, first, second in await self.outbox.follow(queued, submitted, seen, cursor):
                    log.critical("%s was handed over twice: %s, %s", token, first, second)
                noted = time.monotonic()
            for token in passed:
                if token in self.barriers:
                    self.barriers[token].set()

    async def reap(self) -> None:
        """Find out about leases that ran out."""
        while True:
            await asyncio.sleep(REAP_SECONDS)
            overdue = await self.outbox.overdue()
            if not overdue:
                continue
            try:
                async with asyncio.timeout(60):
                    queue = await postfix_queue()
                    await self.read_to_the_end()
            except (OSError, TimeoutError, ValueError) as error:
                log.warning("%d leases ran out; Postfix cannot be asked: %s", len(overdue), error)
                continue
            there = [postfix_log.Queued(queue[token], token) for token in overdue if token in queue]
            # first those that are there: the rest has neither a queue file nor a line in the log
            await self.outbox.follow(there, [], [], None)
            released = await self.outbox.release([overdue[token] for token in overdue if token not in queue])
            log.warning(
                "%d leases ran out: %d were in the queue, %d are sent again", len(overdue), len(there), released
            )

    async def read_to_the_end(self) -> None:
        """Wait until all that Postfix has logged so far is written down."""
        token = secrets.token_hex(16)
        self.barriers[token] = asyncio.Event()
        try:
            journal.log_barrier(token)
            await self.barriers[token].wait()
        finally:
            del self.barriers[token]

    async def expire(self) -> None:
        """Give up what waits too long."""
        while True:
            await self.outbox.expire()
            await asyncio.sleep(EXPIRE_SECONDS)

    async def prune(self) -> None:
        """Sum up what is over, and forget what is old."""
        while True:
            await self.outbox.sum_up()
            while await self.outbox.prune(self.settings.keep_days):
                await asyncio.sleep(0)
            await asyncio.sleep(PRUNE_SECONDS)


def way_of(job: Job) -> str:
    """The socket by which a message goes out."""
    return RELAYED_SUBMISSION if job.lane == RELAY else SUBMISSION


async def connect(way: str) -> aiosmtplib.SMTP:
    """A connection to Postfix's service for this purpose, which only the dispatcher may open."""
    client = aiosmtplib.SMTP(
        socket_path=way, local_hostname="localhost", timeout=TRANSACTION_SECONDS, start_tls=False, use_tls=False
    )
    await client.connect()
    await client.ehlo()
    # The filter signs what comes from this host, which it knows by its address; a Unix socket has none.
    response = await client.execute_command(b"XCLIENT", b"NAME=localhost", b"ADDR=127.0.0.1")
    if response.code != 220:
        raise aiosmtplib.SMTPConnectError(f"XCLIENT: {response.code} {response.message}")
    await client.ehlo()
    return client


async def reset(client: aiosmtplib.SMTP) -> bool:
    """Whether the connection may be used again."""
    try:
        async with asyncio.timeout(5):
            await client.rset()
    except (aiosmtplib.SMTPException, OSError, TimeoutError):
        return False
    return True


def answered(job: Job, code: int, message: str) -> Result:
    """What follows from an answer that is no success."""
    text = " ".join(message.split()).replace("\0", "")[:1000]
    found = _CODE.match(text + " ")
    status = found[1] if found else f"{code // 100}.0.0"
    if 500 <= code <= 599:
        return Rejected(job, status, f"{code} {text}")
    return Postponed(job, status, f"{code} {text}", True)


async def postfix_queue() -> dict[str, str]:
    """Queue ids of our messages by token. Raises OSError or ValueError when Postfix does not tell."""
    process = await asyncio.create_subprocess_exec(
        "/usr/sbin/postqueue", "-j", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    # whoever is not root gets no half answer: without a running Postfix it fails
    if process.returncode:
        raise OSError(errors.decode("utf-8", "replace").strip()[-200:] or f"postqueue: {process.returncode}")
    found: dict[str, str] = {}
    for line in output.splitlines():
        entry: dict[str, Any] = json.loads(line)
        token = envelope.token_of(str(entry["sender"]))
        if token is not None:
            found[token] = str(entry["queue_id"])
    return found
