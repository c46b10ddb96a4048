# Managed by mailwright: changes are overwritten.
"""Messages in the database, as far as their senders change their minds about them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from ansible_collections.mailwright.server.plugins.module_utils.sending import ids
from ansible_collections.mailwright.server.plugins.module_utils.sending.envelope import new_token

from .database import Database, charge
from .outgoing import Outgoing


class EmailRows(Database):
    """A part of the store."""

    async def cancel(self, domain: str, email: UUID) -> int:
        """For how many recipients."""
        async with self._domain(domain) as connection:
            cursor = await connection.execute("SELECT api.cancel(%s)", (email,))
            return int((await cursor.fetchone())[0])

    async def reschedule(self, domain: str, email: UUID, send_at: datetime) -> int:
        """For how many recipients."""
        async with self._domain(domain) as connection:
            cursor = await connection.execute("SELECT api.reschedule(%s, %s)", (email, send_at))
            return int((await cursor.fetchone())[0])

    async def retry(self, domain: str, email: UUID) -> int:
        """To how many addresses. Each attempt is a recipient of its own: what comes back tells which it is about."""
        async with self._domain(domain) as connection:
            # two callers at once would both find it failed
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (str(email),))
            cursor = await connection.execute(
                "SELECT r.address FROM (SELECT DISTINCT ON (lower(address)) address, status FROM api.recipient "
                "WHERE domain = %(domain)s AND message = %(email)s ORDER BY lower(address), id DESC) r "
                "JOIN api.message m ON m.id = %(email)s "
                "WHERE r.status IN ('rejected', 'bounced', 'expired', 'cancelled') AND NOT EXISTS ("
                "SELECT FROM api.suppression s WHERE s.domain = %(domain)s AND s.address = lower(r.address) "
                "AND s.stream IN ('', m.stream))",
                {"domain": domain, "email": email},
            )
            rows = [(ids.new_id(), address, new_token()) for (address,) in await cursor.fetchall()]
            if rows:
                await charge(connection, "recipients", len(rows))
                columns = [list(column) for column in zip(*rows, strict=True)]
                await connection.execute(
                    "INSERT INTO api.recipient (id, message, domain, address, token, status) "
                    "SELECT r.id, %s, %s, r.address, r.token, 'queued' "
                    "FROM unnest(%s::uuid[], %s::text[], %s::text[]) AS r(id, address, token)",
                    (email, domain, *columns),
                )
                await connection.execute(
                    "INSERT INTO api.event (domain, message, recipient, kind, address) "
                    "SELECT %s, %s, r.id, 'accepted', r.address FROM unnest(%s::uuid[], %s::text[]) AS r(id, address)",
                    (domain, email, columns[0], columns[1]),
                )
        return len(rows)

    async def suppressed(self, domain: str, messages: Sequence[Outgoing]) -> set[tuple[str, str]]:
        """Addresses of these messages that are suppressed, each with the stream, which is empty for all of them."""
        async with self._domain(domain) as connection:
            return await find_suppressed(connection, domain, messages)


async def find_suppressed(connection: Any, domain: str, messages: Sequence[Outgoing]) -> set[tuple[str, str]]:
    """The same in an open transaction."""
    addresses = {address.lower() for message in messages for address in message.composed.recipients}
    cursor = await connection.execute(
        "SELECT stream, address FROM api.suppression WHERE domain = %s AND address = ANY(%s)", (domain, list(addresses))
    )
    return set(await cursor.fetchall())
