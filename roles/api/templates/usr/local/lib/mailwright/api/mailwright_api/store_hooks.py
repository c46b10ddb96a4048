# Managed by mailwright: changes are overwritten.
"""The web service's rows of webhooks, inbound mail and the audit log: a part of the Store."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from ansible_collections.mailwright.server.plugins.module_utils.sending import ids, webhooks

from . import problems
from .database import Database

_WEBHOOK = ("id", "name", "url", "events", "enabled", "disabled_reason", "failing_since", "old_secret_until",
            "created_at")  # fmt: skip
_DELIVERY = ("id", "type", "status", "attempts", "next_at", "response_status", "error", "created_at", "changed_at")
_AUDIT = ("id", "at", "actor", "action", "kind", "target", "before", "after")


class HookStore(Database):
    """Each method is one transaction that sees one domain's rows."""

    async def webhooks(self, domain: str, only: UUID | None = None) -> list[dict[str, Any]]:
        """The domain's webhooks, oldest first, without their secrets."""
        async with self._domain(domain) as connection:
            cursor = await connection.execute(
                f"SELECT {', '.join(_WEBHOOK)} FROM api.webhook WHERE domain = %s "
                "AND (%s::uuid IS NULL OR id = %s) ORDER BY created_at, id",
                (domain, only, only),
            )
            return [dict(zip(_WEBHOOK, row, strict=True)) for row in await cursor.fetchall()]

    async def add_webhook(self, domain: str, name: str, url: str, events: list[str], secret: str) -> UUID:
        """Make a webhook."""
        made = ids.new_id()
        try:
            async with self._domain(domain) as connection:
                await connection.execute(
                    "INSERT INTO api.webhook (id, domain, name, url, events, secret) VALUES (%s, %s, %s, %s, %s, %s)",
                    (made, domain, name, url, events, secret),
                )
        except psycopg.errors.UniqueViolation as error:
            raise _webhook_taken() from error
        return made

    async def change_webhook(self, domain: str, webhook: UUID, change: dict[str, Any]) -> None:
        """Change what is not None. A webhook that is switched on begins anew, one that is switched off is told why."""
        try:
            async with self._domain(domain) as connection:
                await connection.execute(
                    "UPDATE api.webhook SET name = coalesce(%(name)s, name), url = coalesce(%(url)s, url), "
                    "events = coalesce(%(events)s, events), enabled = coalesce(%(enabled)s, enabled), "
                    "disabled_reason = CASE WHEN %(enabled)s IS NULL THEN disabled_reason "
                    "WHEN %(enabled)s THEN '' ELSE 'manual' END, "
                    "failing_since = CASE WHEN %(enabled)s THEN NULL ELSE failing_since END "
                    "WHERE domain = %(domain)s AND id = %(id)s",
                    {**change, "domain": domain, "id": webhook},
                )
        except psycopg.errors.UniqueViolation as error:
            raise _webhook_taken() from error

    async def change_secret(self, domain: str, webhook: UUID, secret: str) -> None:
        """Sign with this secret; the database keeps the old one for a day."""
        async with self._domain(domain) as connection:
            await connection.execute(
                "UPDATE api.webhook SET secret = %s WHERE domain = %s AND id = %s", (secret, domain, webhook)
            )

    async def remove_webhook(self, domain: str, webhook: UUID) -> bool:
        """With its deliveries. Whether it was there."""
        async with self._domain(domain) as connection:
            cursor = await connection.execute(
                "DELETE FROM api.webhook WHERE domain = %s AND id = %s", (domain, webhook)
            )
        return bool(cursor.rowcount)

    async def test_webhook(self, domain: str, webhook: UUID) -> dict[str, Any]:
        """Have something posted that says it is a test."""
        async with self._domain(domain) as connection:
            cursor = await connection.execute(
                "INSERT INTO api.webhook_delivery (webhook, domain, type, data) VALUES (%s, %s, %s, %s) "
                f"RETURNING {', '.join(_DELIVERY)}",
                (webhook, domain, webhooks.TEST, json.dumps({"webhook": str(webhook)})),
            )
            return _delivery(await cursor.fetchone())

    async def deliveries(
        self, domain: str, webhook: UUID, limit: int, after: UUID | None, status: str | None
    ) -> list[dict[str, Any]]:
        """A webhook's deliveries older than that one, newest first."""
        async with self._domain(domain) as connection:
            cursor = await connection.execute(
                f"SELECT {', '.join(_DELIVERY)} FROM api.webhook_delivery d WHERE domain = %(domain)s "
                "AND webhook = %(webhook)s AND (%(status)s::text IS NULL OR status = %(status)s) "
                "AND (%(after)s::uuid IS NULL OR (created_at, id) < "
                "(SELECT a.created_at, a.id FROM api.webhook_delivery a WHERE a.id = %(after)s)) "
                "ORDER BY created_at DESC, id DESC LIMIT %(limit)s",
                {"domain": domain, "webhook": webhook, "status": status, "after": after, "limit": limit},
            )
            return [_delivery(row) for row in await cursor.fetchall()]

    async def redeliver(self, domain: str, webhook: UUID, delivery: UUID) -> dict[str, Any] | None:
        """Post it again, with the same id, from the first attempt on; None when it does not exist."""
        async with self._domain(domain) as connection:
            cursor = await connection.execute(
                "UPDATE api.webhook_delivery SET status = 'pending', attempts = 0, next_at = now(), changed_at = now() "
                f"WHERE domain = %s AND webhook = %s AND id = %s RETURNING {', '.join(_DELIVERY)}",
                (domain, webhook, delivery),
            )
            row = await cursor.fetchone()
        return None if row is None else _delivery(row)

    async def replay(self, domain: str, webhook: UUID, since: datetime, statuses: list[str]) -> int:
        """Post again what has one of these states, with the same ids."""
        async with self._domain(domain) as connection:
            cursor = await connection.execute(
                "UPDATE api.webhook_delivery SET status = 'pending', attempts = 0, next_at = now(), changed_at = now() "
                "WHERE domain = %s AND webhook = %s AND created_at >= %s AND status = ANY(%s)",
                (domain, webhook, since, statuses),
            )
        return int(cursor.rowcount)

    async def routes(self, domain: str, only: UUID | None = None) -> list[dict[str, Any]]:
        """The domain's inbound routes, by address."""
        async with self._domain(domain) as connection:
            cursor = await connection.execute(
                "SELECT id, address, created_at FROM api.inbound_route WHERE domain = %s "
                "AND (%s::uuid IS NULL OR id = %s) ORDER BY address",
                (domain, only, only),
            )
            return [dict(zip(("id", "address", "created_at"), row, strict=True)) for row in await cursor.fetchall()]

    async def add_route(self, domain: str, address: str) -> UUID:
        """Take an address's mail from now on."""
        made = ids.new_id()
        try:
            async with self._domain(domain) as connection:
                await connection.execute(
                    "INSERT INTO api.inbound_route (id, domain, address) VALUES (%s, %s, %s)", (made, domain, address)
                )
        except psycopg.errors.UniqueViolation as error:
            raise problems.ApiError(
                409, "address_taken", "The address is a mailbox, an alias or a route already."
            ) from error
        return made

    async def remove_route(self, domain: str, route: UUID) -> bool:
        """What came in stays. Whether it was there."""
        async with self._domain(domain) as connection:
            cursor = await connection.execute(
                "DELETE FROM api.inbound_route WHERE domain = %s AND id = %s", (domain, route)
            )
        return bool(cursor.rowcount)

    async def inbound(
        self, domain: str, limit: int, after: UUID | None = None, only: UUID | None = None
    ) -> list[dict[str, Any]]:
        """Messages that came in before that one, newest first."""
        async with self._domain(domain) as connection:
            cursor = await connection.execute(
                "SELECT id, route, sender, recipient, octet_length(content), created_at FROM api.inbound_message "
                "WHERE domain = %(domain)s AND (%(after)s::uuid IS NULL OR id < %(after)s) "
                "AND (%(only)s::uuid IS NULL OR id = %(only)s) ORDER BY id DESC LIMIT %(limit)s",
                {"domain": domain, "after": after, "only": only, "limit": limit},
            )
            names = ("id", "route", "sender", "recipient", "size", "created_at")
            return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]

    async def inbound_content(self, domain: str, message: UUID) -> bytes | None:
        """A message as it came in."""
        async with self._domain(domain) as connection:
            cursor = await connection.execute(
                "SELECT content FROM api.inbound_message WHERE domain = %s AND id = %s", (domain, message)
            )
            row = await cursor.fetchone()
        return None if row is None else bytes(row[0])

    async def audit(self, domain: str, limit: int, after: int) -> list[dict[str, Any]]:
        """Changes after that one, oldest first."""
        async with self._domain(domain) as connection:
            cursor = await connection.execute(
                f"SELECT {', '.join(_AUDIT)} FROM api.audit WHERE domain = %s AND id > %s ORDER BY id LIMIT %s",
                (domain, after, limit),
            )
            return [dict(zip(_AUDIT, row, strict=True)) for row in await cursor.fetchall()]


def _delivery(row: Any) -> dict[str, Any]:
    found = dict(zip(_DELIVERY, row, strict=True))
    return found if found["status"] == "pending" else {**found, "next_at": None}


def _webhook_taken() -> problems.ApiError:
    return problems.ApiError(409, "name_taken", "The domain has a webhook of this name already.")
