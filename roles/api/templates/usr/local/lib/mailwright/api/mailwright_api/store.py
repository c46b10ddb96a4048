# Managed by mailwright: changes are overwritten.
"""The web service's database. Each method is one transaction that sees one domain's rows, by row-level security."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from ansible_collections.mailwright.server.plugins.module_utils.sending import ids, key_rows, keys
from ansible_collections.mailwright.server.plugins.module_utils.sending.envelope import new_token

from . import problems
from .address_rows import AddressRows
from .database import charge
from .domain_rows import DomainRows
from .email_rows import EmailRows, find_suppressed
from .member_rows import MemberRows
from .outgoing import Idempotency, Outgoing
from .statistic_rows import StatisticRows
from .store_hooks import HookStore
from .stream_rows import StreamRows
from .template_rows import TemplateRows
from .tenant_rows import TenantRows


class FoundKey(NamedTuple):
    """Whose key it is and what it may do; limited says whether it or its domain may have limits."""

    kind: str
    tenant: str
    domains: tuple[str, ...]
    scopes: tuple[str, ...]
    hash: bytes
    limited: bool


class Store(
    AddressRows, DomainRows, EmailRows, HookStore, MemberRows, StatisticRows, StreamRows, TemplateRows, TenantRows
):  # fmt: skip
    """All of it."""

    async def find_key(self, key_id: str) -> FoundKey | None:
        """A key of any kind."""
        async with self._connection() as connection:
            cursor = await connection.execute(
                "SELECT kind, coalesce(tenant, ''), domains, scopes, role, hash, limited FROM api.find_caller(%s)",
                (key_id,),
            )
            row = await cursor.fetchone()
        if row is None:
            return None
        return FoundKey(row[0], row[1], tuple(row[2]), keys.allowed(row[3], row[4]), bytes(row[5]), row[6])

    async def count_request(self, domain: str) -> None:
        """Take a request from what key and domain may make; the domain is '' for none. Raises ApiError."""
        async with self._domain(domain) as connection:
            await charge(connection, "requests", 1)

    async def limits(self, domain: str, key_id: str) -> list[dict[str, Any]]:
        """The limits of the key and the domain."""
        async with self._domain(domain) as connection:
            cursor = await connection.execute(
                "SELECT split_part(subject, ' ', 1), unit, most, seconds FROM api.limits(%s) ORDER BY 1, 2", (key_id,)
            )
            names = ("subject", "unit", "limit", "window_seconds")
            return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]

    async def accept(
        self, domain: str, key_id: str, messages: Sequence[Outgoing], idempotency: Idempotency | None, respond: Any
    ) -> tuple[dict[str, Any], bool]:
        """Store the messages, whole or not at all; gives the response and whether it is that of an earlier request.

        respond makes the response from the suppressed addresses. It is stored with the idempotency key.
        """
        async with self._domain(domain) as connection:
            if idempotency is not None:
                earlier = await self._earlier(connection, domain, idempotency)
                if earlier is not None:
                    return earlier, True
            suppressed = await find_suppressed(connection, domain, messages)
            recipients = [
                (
                    ids.new_id(), message.id, address, new_token(), message.is_suppressed(address, suppressed),
                    message.send_at, message.valid_for,
                )
                for message in messages
                for address in message.composed.recipients
            ]  # fmt: skip
            response: dict[str, Any] = respond(suppressed)
            await charge(connection, "recipients", sum(not row[4] for row in recipients))
            async with connection.pipeline():
                await connection.execute(
                    "INSERT INTO api.message (id, domain, key_id, message_id, sender, subject, content, stream, "
                    "unsubscribe, send_at) "
                    "SELECT m.id, %s, %s, m.message_id, m.sender, m.subject, m.content, m.stream, m.unsubscribe, "
                    "m.send_at FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::bytea[], %s::text[], "
                    "%s::boolean[], %s::timestamptz[]) "
                    "AS m(id, message_id, sender, subject, content, stream, unsubscribe, send_at)",
                    (
                        domain,
                        key_id,
                        [message.id for message in messages],
                        [message.message_id for message in messages],
                        [message.composed.sender for message in messages],
                        [message.composed.subject for message in messages],
                        [message.composed.content for message in messages],
                        [message.stream for message in messages],
                        [message.unsubscribe for message in messages],
                        [message.send_at for message in messages],
                    ),
                )
                columns: list[list[Any]] = [list(column) for column in zip(*recipients, strict=True)] or [[]] * 7
                await connection.execute(
                    "INSERT INTO api.recipient (id, message, domain, address, token, status, not_before, "
                    "expires_at) "
                    "SELECT r.id, r.message, %s, r.address, r.token, "
                    "CASE WHEN r.suppressed THEN 'suppressed' ELSE 'queued' END, coalesce(r.send_at, now()), "
                    "coalesce(r.send_at, now()) + make_interval(secs => r.valid_for) "
                    "FROM unnest(%s::uuid[], %s::uuid[], %s::text[], %s::text[], %s::boolean[], %s::timestamptz[], "
                    "%s::int[]) AS r(id, message, address, token, suppressed, send_at, valid_for)",
                    (domain, *columns),
                )
                await connection.execute(
                    "INSERT INTO api.event (domain, message, recipient, kind, address) "
                    "SELECT %s, r.message, r.id, CASE WHEN r.suppressed THEN 'suppressed' ELSE 'accepted' END, "
                    "r.address FROM unnest(%s::uuid[], %s::uuid[], %s::text[], %s::boolean[]) "
                    "AS r(id, message, address, suppressed)",
                    (domain, columns[0], columns[1], columns[2], columns[4]),
                )
                if idempotency is not None:
                    await connection.execute(
                        "UPDATE api.idempotency SET response = %s WHERE domain = %s AND key = %s",
                        (json.dumps(response), domain, idempotency.key),
                    )
        return response, False

    async def _earlier(self, connection: Any, domain: str, idempotency: Idempotency) -> dict[str, Any] | None:
        """Take the key for this request, or the response of the request that took it. Waits for one under way."""
        await connection.execute(
            "DELETE FROM api.idempotency WHERE domain = %s AND key = %s AND created_at < now() - interval '24 hours'",
            (domain, idempotency.key),
        )
        cursor = await connection.execute(
            "INSERT INTO api.idempotency (domain, key, request) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            (domain, idempotency.key, idempotency.request),
        )
        if cursor.rowcount == 1:
            return None
        cursor = await connection.execute(
            "SELECT request, response FROM api.idempotency WHERE domain = %s AND key = %s", (domain, idempotency.key)
        )
        row = await cursor.fetchone()
        if row is None or row[1] is None:
            raise problems.unavailable()
        if bytes(row[0]) != idempotency.request:
            raise problems.ApiError(
                409, "idempotency_mismatch", "This Idempotency-Key was used for another request in the last 24 hours."
            )
        response: dict[str, Any] = row[1]
        return response

    async def emails(
        self, domain: str, limit: int, after: UUID | None = None, only: UUID | None = None
    ) -> list[dict[str, Any]]:
        """Messages older than that one with their recipients, newest first."""
        async with self._domain(domain) as connection:
            cursor = await connection.execute(
                "SELECT id, message_id, sender, subject, created_at, stream, send_at "
                "FROM api.message WHERE domain = %(domain)s "
                "AND (%(after)s::uuid IS NULL OR id < %(after)s) AND (%(only)s::uuid IS NULL OR id = %(only)s) "
                "ORDER BY id DESC LIMIT %(limit)s",
                {"domain": domain, "after": after, "only": only, "limit": limit},
            )
            found = {
                row[0]: {
                    "id": row[0], "message_id": row[1], "sender": row[2], "subject": row[3], "created_at": row[4],
                    "stream": row[5], "send_at": row[6], "recipients": [],
                }
                for row in await cursor.fetchall()
            }  # fmt: skip
            cursor = await connection.execute(
                "SELECT message, address, status, attempts, changed_at FROM api.recipient "
                "WHERE message = ANY(%s) ORDER BY id",
                (list(found),),
            )
            for message, address, status, attempts, changed_at in await cursor.fetchall():
                found[message]["recipients"].append(
                    {"address": address, "status": status, "attempts": attempts, "changed_at": changed_at}
                )
        return list(found.values())

    async def content(self, domain: str, email: UUID) -> bytes | None:
        """The message as it is sent, before the signature."""
        async with self._domain(domain) as connection:
            cursor = await connection.execute(
                "SELECT content FROM api.message WHERE domain = %s AND id = %s", (domain, email)
            )
            row = await cursor.fetchone()
        return None if row is None else bytes(row[0])

    async def events(
        self,
        domain: str,
        limit: int,
        after: int = 0,
        email: UUID | None = None,
        kinds: Sequence[str] | None = None,
    ) -> list[dict[str, Any]] | None:
        """Events after that one, oldest first; None when the message does not exist."""
        async with self._domain(domain) as connection:
            if email is not None:
                cursor = await connection.execute(
                    "SELECT 1 FROM api.message WHERE domain = %s AND id = %s", (domain, email)
                )
                if await cursor.fetchone() is None:
                    return None
            cursor = await connection.execute(
                "SELECT e.id, e.message, e.kind, e.at, r.address, e.address, e.relay, e.code, e.detail "
                "FROM api.event e JOIN api.recipient r ON r.id = e.recipient "
                "WHERE e.domain = %(domain)s AND e.id > %(after)s "
                "AND (%(email)s::uuid IS NULL OR e.message = %(email)s) "
                "AND (%(kinds)s::text[] IS NULL OR e.kind = ANY(%(kinds)s)) ORDER BY e.id LIMIT %(limit)s",
                {"domain": domain, "after": after, "email": email, "kinds": kinds, "limit": limit},
            )
            names = ("id", "email", "kind", "at", "recipient", "address", "relay", "code", "detail")
            return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]

    async def suppressions(
        self, domain: str, limit: int, after: tuple[str, str] = ("", ""), only: tuple[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """Suppressed addresses after that one, by address and stream; only is one of them."""
        async with self._domain(domain) as connection:
            cursor = await connection.execute(
                "SELECT address, nullif(stream, ''), reason, detail, created_at FROM api.suppression "
                "WHERE domain = %s AND (address, stream) > (%s, %s) "
                "AND (%s::text IS NULL OR (address, stream) = (%s, %s)) "
                "ORDER BY address, stream LIMIT %s",
                (domain, *after, only and only[0], *(only or ("", "")), limit),
            )
            names = ("address", "stream", "reason", "detail", "created_at")
            return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]

    async def suppress(self, domain: str, address: str, stream: str) -> None:
        """Add an address by hand; one that is there already stays as it is."""
        async with self._domain(domain) as connection:
            await connection.execute(
                "INSERT INTO api.suppression (domain, address, stream, reason) VALUES (%s, %s, %s, 'manual') "
                "ON CONFLICT DO NOTHING",
                (domain, address, stream),
            )

    async def lift_suppression(self, domain: str, address: str, stream: str) -> bool:
        """Whether it was lifted: row-level security keeps complaints."""
        async with self._domain(domain) as connection:
            cursor = await connection.execute(
                "DELETE FROM api.suppression WHERE domain = %s AND address = %s AND stream = %s",
                (domain, address, stream),
            )
        return bool(cursor.rowcount)

    async def list_keys(self, domain: str, only: str | None = None) -> list[dict[str, Any]]:
        """The domain's keys, oldest first, without their hashes."""
        async with self._domain(domain) as connection:
            cursor = await connection.execute(
                "SELECT id, name, domain, scopes, owner, created_at, requests_per_minute, recipients_per_hour "
                "FROM api.key WHERE domain = %s AND (%s::text IS NULL OR id = %s) ORDER BY created_at, id",
                (domain, only, only),
            )
            names = (
                "id", "name", "domain", "scopes", "owner", "created_at", "requests_per_minute", "recipients_per_hour"
            )  # fmt: skip
            return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]

    async def add_key(self, domain: str, name: str, scopes: list[str]) -> tuple[keys.Key, dict[str, Any]]:
        """Make a key; gives also what the database made of it."""
        made = keys.generate()
        row = key_rows.row(domain, name, scopes, made, key_rows.API)
        try:
            async with self._domain(domain) as connection:
                cursor = await connection.execute(
                    "INSERT INTO api.key (id, domain, name, hash, scopes, owner) VALUES (%s, %s, %s, %s, %s, %s) "
                    "RETURNING created_at, requests_per_minute, recipients_per_hour",
                    (row.id, domain, name, row.hash, list(row.scopes), row.owner),
                )
                names = ("created_at", "requests_per_minute", "recipients_per_hour")
                more = dict(zip(names, await cursor.fetchone(), strict=True))
        except psycopg.errors.UniqueViolation as error:
            raise _name_taken() from error
        return made, more

    async def change_key(self, domain: str, key_id: str, name: str | None, scopes: list[str] | None) -> None:
        """Change what is not None."""
        try:
            async with self._domain(domain) as connection:
                await connection.execute(
                    "UPDATE api.key SET name = coalesce(%s, name), scopes = coalesce(%s, scopes) "
                    "WHERE domain = %s AND id = %s AND owner = 'api'",
                    (name, scopes, domain, key_id),
                )
        except psycopg.errors.UniqueViolation as error:
            raise _name_taken() from error

    async def remove_key(self, domain: str, key_id: str) -> None:
        """From now on it opens nothing."""
        async with self._domain(domain) as connection:
            await connection.execute(
                "DELETE FROM api.key WHERE domain = %s AND id = %s AND owner = 'api'", (domain, key_id)
            )

    async def log_age(self) -> float | None:
        """Seconds since the dispatcher last looked at Postfix's log; None when it never did."""
        async with asyncio.timeout(10), self._connection() as connection:
            cursor = await connection.execute("SELECT extract(epoch FROM now() - read_at) FROM api.log_position")
            row = await cursor.fetchone()
        return None if row is None else float(row[0])

    async def counts(self) -> dict[str, int]:
        """How many recipients wait, by status."""
        async with self._connection() as connection:
            cursor = await connection.execute("SELECT status, count FROM api.counts()")
            return dict(await cursor.fetchall())

    async def figures(self) -> list[tuple[str, str, int]]:
        """For the metrics: name, label, how many."""
        async with self._connection() as connection:
            cursor = await connection.execute("SELECT name, label, count FROM api.figures()")
            found = {(row[0], row[1]): row[2] for row in await cursor.fetchall()}
        # there from the start, so that the first one is an increase
        for status in ("pending", "delivered", "failed"):
            found.setdefault(("webhook_deliveries", status), 0)
        return [(name, label, count) for (name, label), count in found.items()]


def _name_taken() -> problems.ApiError:
    return problems.ApiError(409, "name_taken", "The domain has a key of this name already.")
