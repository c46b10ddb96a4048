# Managed by mailwright: changes are overwritten.
"""The dispatcher's database. Each method is one short transaction; none is open while SMTP is spoken."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence, Set
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from ansible_collections.mailwright.server.plugins.module_utils.sending import (
    arf,
    dsn,
    ids,
    postfix_log,
    suppression,
)
from ansible_collections.mailwright.server.plugins.module_utils.sending.warmup import RELAY

from .leases import Leases
from .pacing import Heard, Pace

LOCK = 0x6D617069


class Job(NamedTuple):
    """A recipient under lease. deadline is on the loop's clock; lane and hour are those of the warm-up."""

    id: UUID
    message: UUID
    domain: str
    address: str
    token: str
    attempt: int
    lane: str | None
    deadline: float
    hour: datetime | None


class HandedOver(NamedTuple):
    """Postfix answered 250."""

    job: Job
    queue_id: str


class Postponed(NamedTuple):
    """Postfix certainly did not take it, and may later. counts: the attempt was one, and the next waits longer."""

    job: Job
    code: str
    detail: str
    counts: bool


class Rejected(NamedTuple):
    """Postfix or the filter will never take it."""

    job: Job
    code: str
    detail: str


Result = HandedOver | Postponed | Rejected


class Seen(NamedTuple):
    """A delivery in the log, where and when."""

    delivery: postfix_log.Delivery
    cursor: str
    at: datetime


class Outbox(Leases):
    """A pool of connections as the role mailwright_dispatch."""

    def __init__(self, connections: int, pace: Pace | None) -> None:
        super().__init__("mailwright_dispatch", LOCK, 2, connections)
        self.pace = pace
        # The recorder and the follower change the same rows; one at a time they cannot block each other.
        self.writing = asyncio.Lock()

    async def lease(self, most: int, seconds: float, deadline: float) -> list[Job]:
        """Take what is due; during the warm-up, of that what may go out now."""
        if self.pace is None:
            # one statement is a transaction, and ten times a second BEGIN and COMMIT would cost more
            async with self.pool.connection() as connection:
                cursor = await connection.execute(
                    "UPDATE api.recipient SET status = 'sending', attempts = attempts + 1, changed_at = now(), "
                    "leased_until = now() + make_interval(secs => %s) WHERE id IN ("
                    "SELECT id FROM api.recipient WHERE status = 'queued' AND not_before <= now() "
                    "ORDER BY not_before LIMIT %s FOR UPDATE SKIP LOCKED) "
                    "RETURNING id, message, domain, address, token, attempts, lane",
                    (seconds, most),
                )
                return [Job._make((*row, deadline, None)) for row in await cursor.fetchall()]
        # the time first, and all of what came before it: else broadcast mail may go before what is not sorted yet
        now = self.pace.clock()
        while await self._sort(self.pace):
            pass
        async with self.writing, self._transaction() as connection:
            chosen, hour = await self.pace.choose(connection, most, now)
            return await _lease(connection, chosen, seconds, deadline, hour)

    async def _sort(self, pace: Pace) -> int:
        async with self.writing, self._transaction() as connection:
            return await pace.sort(connection)

    async def content(self, message: UUID) -> tuple[bytes, bool]:
        """The message, and whether each recipient gets a link to unsubscribe with it."""
        async with self.pool.connection() as connection:
            cursor = await connection.execute("SELECT content, unsubscribe FROM api.message WHERE id = %s", (message,))
            row = await cursor.fetchone()
        return bytes(row[0]), row[1]

    async def record(self, results: Sequence[Result]) -> None:
        """Write down what Postfix said. Done twice, it changes nothing more."""
        handed = [result for result in results if isinstance(result, HandedOver)]
        postponed = [result for result in results if isinstance(result, Postponed)]
        rejected = [result for result in results if isinstance(result, Rejected)]
        async with self.writing, self._transaction() as connection:
            await _adopt(connection, [(result.job.token, result.queue_id) for result in handed])
            if postponed:
                # the attempt's number fences off a lease that ran out meanwhile
                cursor = await connection.execute(
                    "UPDATE api.recipient r SET status = 'queued', leased_until = NULL, changed_at = now(), "
                    "attempts = CASE WHEN p.counts THEN r.attempts ELSE r.attempts - 1 END, "
                    "not_before = now() + CASE WHEN p.counts "
                    "THEN least(interval '30 seconds' * 2 ^ least(p.attempt - 1, 10), interval '15 minutes') "
                    "ELSE interval '2 seconds' END "
                    "FROM unnest(%s::uuid[], %s::int[], %s::boolean[]) AS p(id, attempt, counts) "
                    "WHERE r.id = p.id AND r.attempts = p.attempt AND r.status = 'sending' RETURNING r.id",
                    (
                        [result.job.id for result in postponed],
                        [result.job.attempt for result in postponed],
                        [result.counts for result in postponed],
                    ),
                )
                if self.pace is not None:
                    unsent = {id_ for (id_,) in await cursor.fetchall()}
                    jobs = [result.job for result in postponed if result.job.id in unsent]
                    await self.pace.give_back(connection, [(job.lane, job.hour) for job in jobs])
            if rejected:
                await connection.execute(
                    "WITH r AS (UPDATE api.recipient r SET status = 'rejected', leased_until = NULL, "
                    "changed_at = now() "
                    "FROM unnest(%s::uuid[], %s::int[], %s::text[], %s::text[]) AS p(id, attempt, code, detail) "
                    "WHERE r.id = p.id AND r.attempts = p.attempt AND r.status = 'sending' "
                    "RETURNING r.*, p.code, p.detail) "
                    "INSERT INTO api.event (domain, message, recipient, kind, address, code, detail) "
                    "SELECT domain, message, id, 'rejected', address, code, detail FROM r ON CONFLICT DO NOTHING",
                    (
                        [result.job.id for result in rejected],
                        [result.job.attempt for result in rejected],
                        [result.code for result in rejected],
                        [result.detail for result in rejected],
                    ),
                )

    async def position(self) -> str | None:
        """Where reading the log goes on; None before the first time."""
        async with self.pool.connection() as connection:
            cursor = await connection.execute("SELECT cursor FROM api.log_position")
            row = await cursor.fetchone()
        return None if row is None else str(row[0])

    async def begin(self, cursor: str) -> None:
        """Begin reading the log here."""
        async with self._transaction() as connection:
            await connection.execute(
                "INSERT INTO api.log_position (cursor, read_at) VALUES (%s, now()) ON CONFLICT DO NOTHING", (cursor,)
            )

    async def sort_again(self) -> None:
        """Without a relay, what was to go by one goes another way."""
        if self.pace is None or not self.pace.relay:
            async with self._transaction() as connection:
                await connection.execute(
                    "UPDATE api.recipient SET lane = NULL WHERE status IN ('queued', 'sending') AND lane = %s", (RELAY,)
                )

    async def follow(
        self,
        queued: Sequence[postfix_log.Queued],
        submitted: Sequence[tuple[postfix_log.Submitted, datetime]],
        seen: Sequence[Seen],
        cursor: str | None,
    ) -> list[tuple[str, str, str]]:
        """Write down what the log says, and how far it was read, together.

        Gives recipients that Postfix has a second queue file for (token, first and second queue id): there are none.
        """
        async with self.writing, self._transaction() as connection:
            twice = await _adopt(connection, [(entry.token, entry.queue_id) for entry in queued])
            heard, others = await _record_deliveries(connection, seen)
            await self._hear(connection, heard)
            await _record_submissions(connection, submitted, others)
            await connection.execute(
                "UPDATE api.log_position SET cursor = coalesce(%s, cursor), read_at = now()", (cursor,)
            )
        return twice

    async def _hear(self, connection: Any, heard: Sequence[Heard]) -> None:
        if self.pace is not None:
            await self.pace.hear(connection, heard)

    async def bounced_late(self, token: str, report: dsn.Report) -> None:
        """A report from elsewhere: the message was not delivered after all, or not yet."""
        outcome = dsn.outcome(report)
        if outcome is None:
            return
        async with self.writing, self._transaction() as connection:
            # a delay is no news after an end, and of two ends the first counts
            cursor = await connection.execute(
                "WITH r AS (UPDATE api.recipient SET changed_at = now(), status = CASE "
                "WHEN %(outcome)s <> 'deferred' OR status = 'handed_over' THEN %(outcome)s ELSE status END "
                "WHERE token = %(token)s AND status NOT IN ('bounced', 'expired') RETURNING *) "
                "INSERT INTO api.event (domain, message, recipient, kind, address, relay, code, detail, source) "
                "SELECT domain, message, id, %(outcome)s, address, %(relay)s, %(code)s, %(detail)s, 'report' FROM r "
                "ON CONFLICT DO NOTHING RETURNING domain, address, (SELECT lane FROM r)",
                {
                    "outcome": outcome,
                    "token": token,
                    "relay": report.reporter[:255],
                    "code": report.code,
                    "detail": report.detail,
                },
            )
            row = await cursor.fetchone()
            reason = suppression.reason(report.code) if outcome == "bounced" else None
            if row is not None and reason is not None:
                await _suppress(connection, [(row[0], row[1], reason, report.detail)])
            if row is not None and outcome == "expired":
                await _suppress_expired(connection, {(row[0], row[1])})
            if row is not None:
                await self._hear(connection, [Heard(row[2], outcome, report.code, report.detail)])

    async def complained(self, token: str, complaint: arf.Complaint) -> None:
        """Somebody called a message unwanted: on its stream, he gets no more, and its sender cannot change that."""
        async with self.writing, self._transaction() as connection:
            cursor = await connection.execute(
                "WITH r AS (SELECT r.*, m.stream FROM api.recipient r JOIN api.message m ON m.id = r.message "
                "WHERE r.token = %(token)s), "
                "s AS (INSERT INTO api.suppression (domain, address, stream, reason, detail) "
                "SELECT domain, lower(address), stream, 'complaint', %(detail)s FROM r "
                "ON CONFLICT (domain, address, stream) "
                "DO UPDATE SET reason = excluded.reason, detail = excluded.detail) "
                "INSERT INTO api.event (domain, message, recipient, kind, address, detail) "
                "SELECT domain, message, id, 'complained', address, %(detail)s FROM r ON CONFLICT DO NOTHING "
                "RETURNING (SELECT lane FROM r)",
                {"token": token, "detail": f"{complaint.kind} {complaint.reporter}".strip()},
            )
            heard = [Heard(lane, "complained", "", "") for (lane,) in await cursor.fetchall()]
            await self._hear(connection, heard)

    async def expire(self) -> int:
        """Give up what could not be handed to Postfix in its time. What is under lease is left alone."""
        async with self.writing, self._transaction() as connection:
            cursor = await connection.execute(
                "WITH r AS (UPDATE api.recipient SET status = 'expired', changed_at = now() "
                "WHERE status = 'queued' AND expires_at < now() RETURNING *) "
                "INSERT INTO api.event (domain, message, recipient, kind, address, code, detail) "
                "SELECT domain, message, id, 'expired', address, '4.4.7', 'was not handed over in its time' FROM r "
                "ON CONFLICT DO NOTHING"
            )
            return int(cursor.rowcount)

    async def sum_up(self) -> None:
        """Count the days that are over, the last two of them again, before their events are forgotten."""
        async with self._transaction() as connection:
            await connection.execute(
                "WITH first AS (SELECT coalesce(max(day) - 1, '-infinity') AS day FROM api.statistic), "
                "gone AS (DELETE FROM api.statistic WHERE day >= (SELECT day FROM first)) "
                "INSERT INTO api.statistic SELECT f.* "
                "FROM api.daily_figures((SELECT day FROM first)::timestamp AT TIME ZONE 'UTC') f "
                "WHERE f.day < (now() AT TIME ZONE 'UTC')::date"
            )

    async def keep_inbound(self, sender: str, route: str, local_part: str, content: bytes) -> bool:
        """Store a message that came in; whether there is such a route. The same a second time changes nothing."""
        async with self._transaction() as connection:
            cursor = await connection.execute("SELECT id, domain FROM api.inbound_route WHERE id = %s", (UUID(route),))
            row = await cursor.fetchone()
            if row is None:
                return False
            await connection.execute(
                "INSERT INTO api.inbound_message (id, domain, route, sender, recipient, content, digest) "
                "VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                (
                    ids.new_id(), row[1], row[0], sender.replace("\0", ""),
                    f"{local_part}@{row[1]}".replace("\0", ""), content, hashlib.sha256(content).digest(),
                ),
            )  # fmt: skip
        return True

    async def overdue(self) -> dict[str, UUID]:
        """Recipients whose lease ran out, by token: a dispatcher died, or an answer never came."""
        async with self.pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT token, id FROM api.recipient WHERE status = 'sending' AND leased_until < now()"
            )
            return dict(await cursor.fetchall())

    async def release(self, recipients: Sequence[UUID]) -> int:
        """Let these be sent, of which Postfix certainly has nothing."""
        async with self.writing, self._transaction() as connection:
            cursor = await connection.execute(
                "UPDATE api.recipient SET status = 'queued', leased_until = NULL, changed_at = now() "
                "WHERE id = ANY(%s) AND status = 'sending' AND leased_until < now() AND queue_id IS NULL",
                (list(recipients),),
            )
            return int(cursor.rowcount)

    async def prune(self, keep_days: int) -> int:
        """Forget what is old and finished; what is not finished stays, however old it is."""
        async with self._transaction() as connection:
            await connection.execute("DELETE FROM api.idempotency WHERE created_at < now() - interval '24 hours'")
            await connection.execute("DELETE FROM api.unsubscribe_link WHERE created_at < now() - interval '400 days'")
            await connection.execute("DELETE FROM api.statistic WHERE day < now() - interval '400 days'")
            await connection.execute(
                "DELETE FROM api.inbound_message WHERE created_at < now() - make_interval(days => %s)", (keep_days,)
            )
            await connection.execute(
                "DELETE FROM api.submission WHERE at < now() - make_interval(days => %s)", (keep_days,)
            )
            await connection.execute("DELETE FROM api.audit WHERE at < now() - interval '1 year'")
            await connection.execute("DELETE FROM api.usage WHERE since < now() - interval '1 day'")
            # looked up anew with the next message
            await connection.execute("DELETE FROM api.destination WHERE asked_at < now() - interval '1 day'")
            cursor = await connection.execute(
                "WITH gone AS (DELETE FROM api.message WHERE id IN (SELECT id FROM api.message m "
                "WHERE created_at < now() - make_interval(days => %s) AND NOT EXISTS ("
                "SELECT FROM api.recipient r WHERE r.message = m.id "
                "AND r.status IN ('queued', 'sending', 'handed_over', 'deferred')) LIMIT 500) RETURNING *), "
                "kept AS (INSERT INTO api.unsubscribe_link "
                "SELECT r.token, r.domain, lower(r.address), gone.stream, gone.created_at "
                "FROM gone JOIN api.recipient r ON r.message = gone.id WHERE gone.unsubscribe) "
                "SELECT count(*) FROM gone",
                (keep_days,),
            )
            return int((await cursor.fetchone())[0])


async def _lease(
    connection: Any, chosen: Sequence[UUID], seconds: float, deadline: float, hour: datetime | None
) -> list[Job]:
    """Take these, unless a caller was quicker to change them."""
    if not chosen:
        return []
    cursor = await connection.execute(
        "UPDATE api.recipient SET status = 'sending', attempts = attempts + 1, changed_at = now(), "
        "leased_until = now() + make_interval(secs => %s) "
        "WHERE id = ANY(%s) AND status = 'queued' AND not_before <= now() "
        "RETURNING id, message, domain, address, token, attempts, lane",
        (seconds, chosen),
    )
    return [Job._make((*row, deadline, hour)) for row in await cursor.fetchall()]


async def _adopt(connection: Any, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Note the queue ids by the tokens, whichever of the SMTP answer and the log is first to tell."""
    if not pairs:
        return []
    columns = [list(column) for column in zip(*sorted(set(pairs)), strict=True)]
    await connection.execute(
        "WITH r AS (UPDATE api.recipient r SET queue_id = q.queue_id, leased_until = NULL, changed_at = now(), "
        "status = CASE WHEN r.status IN ('queued', 'sending') THEN 'handed_over' ELSE r.status END "
        "FROM unnest(%s::text[], %s::text[]) AS q(token, queue_id) WHERE r.token = q.token AND r.queue_id IS NULL "
        "RETURNING r.*) "
        "INSERT INTO api.event (domain, message, recipient, kind, address, queue_id) "
        "SELECT domain, message, id, 'handed_over', address, queue_id FROM r ON CONFLICT DO NOTHING",
        columns,
    )
    cursor = await connection.execute(
        "SELECT r.token, r.queue_id, q.queue_id FROM api.recipient r "
        "JOIN unnest(%s::text[], %s::text[]) AS q(token, queue_id) ON r.token = q.token WHERE r.queue_id <> q.queue_id",
        columns,
    )
    return [(row[0], row[1], row[2]) for row in await cursor.fetchall()]


async def _record_deliveries(connection: Any, seen: Sequence[Seen]) -> tuple[list[Heard], list[Seen]]:
    """Gives what was not known before, and what is not about the API's messages."""
    if not seen:
        return [], []
    cursor = await connection.execute(
        "SELECT queue_id, id, message, domain, address, lane FROM api.recipient WHERE queue_id = ANY(%s)",
        (list({entry.delivery.queue_id for entry in seen}),),
    )
    known = {row[0]: row[1:] for row in await cursor.fetchall()}
    rows, suppressed, expired, lanes, others = [], [], set(), {}, []
    for entry in seen:
        if entry.delivery.queue_id not in known:
            others.append(entry)
            continue
        recipient, message, domain, wanted, lane = known[entry.delivery.queue_id]
        lanes[recipient] = lane
        delivery = entry.delivery
        address = delivery.address or wanted
        # only a delay may come more than once for the same address
        source = entry.cursor if delivery.outcome == "deferred" else address
        rows.append(
            (domain, message, recipient, delivery.outcome, entry.at, address, delivery.queue_id, delivery.relay,
             delivery.code, delivery.detail, source)
        )  # fmt: skip
        reason = suppression.reason(delivery.code) if delivery.outcome == "bounced" else None
        # not when an alias led elsewhere: the address that was written to is a good one
        if reason is not None and address.lower() == wanted.lower():
            suppressed.append((domain, wanted, reason, delivery.detail))
        if delivery.outcome == "expired":
            expired.add((domain, wanted))
    if not rows:
        return [], others
    columns = [list(column) for column in zip(*rows, strict=True)]
    cursor = await connection.execute(
        "INSERT INTO api.event (domain, message, recipient, kind, at, address, queue_id, relay, code, "
        "detail, source) SELECT * FROM unnest(%s::text[], %s::uuid[], %s::uuid[], %s::text[], %s::timestamptz[], "
        "%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[]) ON CONFLICT DO NOTHING "
        "RETURNING id, recipient, kind, code, detail",
        columns,
    )
    new = await cursor.fetchall()
    # the status follows the order of the log, and a delay is no news after an end
    await connection.execute(
        "WITH last AS (SELECT DISTINCT ON (recipient) recipient, kind "
        "FROM unnest(%s::bigint[], %s::uuid[], %s::text[]) AS new(id, recipient, kind) "
        "ORDER BY recipient, kind = 'deferred', id DESC) "
        "UPDATE api.recipient r SET status = last.kind, changed_at = now() FROM last WHERE r.id = last.recipient "
        "AND (last.kind <> 'deferred' OR r.status IN ('queued', 'sending', 'handed_over', 'deferred'))",
        ([row[0] for row in new], [row[1] for row in new], [row[2] for row in new]),
    )
    await _suppress(connection, suppressed)
    await _suppress_expired(connection, expired)
    return [Heard(lanes[recipient], kind, code, detail) for _id, recipient, kind, code, detail in new], others


async def _record_submissions(
    connection: Any, submitted: Sequence[tuple[postfix_log.Submitted, datetime]], seen: Sequence[Seen]
) -> None:
    """Count what users sent, for each recipient from the first attempt on. Other mail is nobody's and not counted."""
    if submitted:
        await connection.execute(
            "INSERT INTO api.submission (queue_id, domain, at) "
            "SELECT * FROM unnest(%s::text[], %s::text[], %s::timestamptz[]) ON CONFLICT DO NOTHING",
            (
                [entry.queue_id for entry, _at in submitted],
                [entry.domain for entry, _at in submitted],
                [at for _entry, at in submitted],
            ),
        )
    if not seen:
        return
    # a line about the whole message is about the recipients that had no end before
    await connection.execute(
        "WITH line AS (SELECT s.queue_id, s.domain, l.kind, l.at, l.address, l.relay, s.at AS submitted_at "
        "FROM unnest(%s::text[], %s::text[], %s::timestamptz[], %s::text[], %s::text[]) "
        "AS l(queue_id, kind, at, address, relay) JOIN api.submission s ON s.queue_id = l.queue_id), "
        "found AS (SELECT queue_id, domain, kind, at, address, relay FROM line WHERE address <> '' "
        "UNION ALL SELECT queue_id, domain, 'accepted', submitted_at, address, relay FROM line WHERE address <> '' "
        "UNION ALL SELECT l.queue_id, l.domain, l.kind, l.at, e.address, '' FROM line l "
        "JOIN api.submission_event e ON e.queue_id = l.queue_id AND e.kind = 'accepted' WHERE l.address = '' "
        "AND NOT EXISTS (SELECT FROM api.submission_event o WHERE o.queue_id = e.queue_id AND o.address = e.address "
        "AND o.kind IN ('delivered', 'bounced'))) "
        "INSERT INTO api.submission_event (queue_id, domain, kind, day, address, relay, at) "
        "SELECT queue_id, domain, kind, (at AT TIME ZONE 'UTC')::date, address, relay, at FROM found "
        "ON CONFLICT DO NOTHING",
        (
            [entry.delivery.queue_id for entry in seen],
            [entry.delivery.outcome for entry in seen],
            [entry.at for entry in seen],
            [entry.delivery.address for entry in seen],
            [entry.delivery.relay for entry in seen],
        ),
    )


async def _suppress_expired(connection: Any, expired: Set[tuple[str, str]]) -> None:
    """After some of them. What never left this host says nothing about the recipient."""
    for domain, address in sorted(expired):
        await connection.execute(
            "INSERT INTO api.suppression (domain, address, reason) SELECT %s, lower(%s), 'expired' WHERE %s <= "
            "(SELECT count(*) FROM api.event e JOIN api.recipient r ON r.id = e.recipient "
            "WHERE e.domain = %s AND e.kind = 'expired' AND lower(r.address) = lower(%s) "
            "AND (e.queue_id IS NOT NULL OR e.source = 'report')) ON CONFLICT DO NOTHING",
            (domain, address, suppression.EXPIRED_LIMIT, domain, address),
        )


async def _suppress(connection: Any, rows: Sequence[tuple[str, str, str, str]]) -> None:
    for domain, address, reason, detail in rows:
        await connection.execute(
            "INSERT INTO api.suppression (domain, address, reason, detail) VALUES (%s, lower(%s), %s, %s) "
            "ON CONFLICT DO NOTHING",
            (domain, address, reason, detail),
        )
