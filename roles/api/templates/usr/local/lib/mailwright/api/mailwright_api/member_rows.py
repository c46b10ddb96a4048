# Managed by mailwright: changes are overwritten.
"""Members and their keys in the database: row-level security shows those of the tenant whose key asks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import psycopg
from ansible_collections.mailwright.server.plugins.module_utils.sending import ids, keys

from .database import Database
from .problems import ApiError, not_found

_MEMBER = ("id", "email", "name", "role", "created_at")
_KEY = ("id", "member", "name", "scopes", "requests_per_minute", "recipients_per_hour", "created_at")


class MemberRows(Database):
    """A part of the store. What changes a member takes the roles that may be changed."""

    async def members(self, limit: int, after: str = "", only: UUID | None = None) -> list[dict[str, Any]]:
        """By address; only is one of them."""
        async with self._tenant() as connection:
            cursor = await connection.execute(
                "SELECT id, email, name, role, created_at FROM api.member "
                "WHERE email > %s AND (%s::uuid IS NULL OR id = %s) ORDER BY email LIMIT %s",
                (after, only, only, limit),
            )
            return [dict(zip(_MEMBER, row, strict=True)) for row in await cursor.fetchall()]

    async def add_member(self, tenant: str, email: str, name: str, role: str) -> dict[str, Any]:
        """Raises ApiError when there is a member with that address."""
        async with self._member_change() as connection:
            cursor = await connection.execute(
                "INSERT INTO api.member (id, tenant, email, name, role) VALUES (%s, %s, %s, %s, %s) "
                "RETURNING id, email, name, role, created_at",
                (ids.new_id(), tenant, email, name, role),
            )
            return dict(zip(_MEMBER, await cursor.fetchone(), strict=True))

    async def change_member(
        self, member: UUID, roles: Sequence[str], email: str | None, name: str | None, role: str | None
    ) -> bool:
        """Change what is not None; whether the member was there. Raises ApiError."""
        async with self._member_change() as connection:
            cursor = await connection.execute(
                "UPDATE api.member SET email = coalesce(%s, email), name = coalesce(%s, name), "
                "role = coalesce(%s, role) WHERE id = %s AND role = ANY(%s)",
                (email, name, role, member, roles),
            )
        return bool(cursor.rowcount)

    async def remove_member(self, member: UUID, roles: Sequence[str]) -> bool:
        """With all keys; whether the member was there. Raises ApiError."""
        async with self._member_change() as connection:
            cursor = await connection.execute(
                "DELETE FROM api.member WHERE id = %s AND role = ANY(%s)", (member, roles)
            )  # fmt: skip
        return bool(cursor.rowcount)

    async def member_keys(self, member: UUID) -> list[dict[str, Any]]:
        """The member's keys, oldest first, without their hashes."""
        async with self._tenant() as connection:
            cursor = await connection.execute(
                "SELECT id, member, name, scopes, requests_per_minute, recipients_per_hour, created_at "
                "FROM api.member_key WHERE member = %s ORDER BY created_at, id",
                (member,),
            )
            return [dict(zip(_KEY, row, strict=True)) for row in await cursor.fetchall()]

    async def add_member_key(
        self, member: UUID, roles: Sequence[str], name: str, scopes: list[str]
    ) -> tuple[keys.Key, dict[str, Any]]:  # fmt: skip
        """Make a key; gives also its row. Raises ApiError."""
        made = keys.generate()
        try:
            async with self._tenant() as connection:
                cursor = await connection.execute(
                    "INSERT INTO api.member_key (id, tenant, member, name, hash, scopes) "
                    "SELECT %s, m.tenant, m.id, %s, %s, %s FROM api.member AS m WHERE m.id = %s AND m.role = ANY(%s) "
                    "RETURNING id, member, name, scopes, requests_per_minute, recipients_per_hour, created_at",
                    (made.id, name, made.digest, scopes, member, roles),
                )
                row = await cursor.fetchone()
        except psycopg.errors.UniqueViolation as error:
            raise ApiError(409, "name_taken", "The member has a key of this name already.") from error
        except psycopg.errors.ForeignKeyViolation as error:
            raise not_found("member") from error
        if row is None:
            raise not_found("member")
        return made, dict(zip(_KEY, row, strict=True))

    async def remove_member_key(self, member: UUID, key_id: str) -> bool:
        """Whether it was there."""
        async with self._tenant() as connection:
            cursor = await connection.execute(
                "DELETE FROM api.member_key WHERE member = %s AND id = %s", (member, key_id)
            )  # fmt: skip
        return bool(cursor.rowcount)

    @asynccontextmanager
    async def _member_change(self) -> AsyncIterator[Any]:
        try:
            async with self._tenant() as connection:
                yield connection
        except psycopg.errors.UniqueViolation as error:
            raise ApiError(409, "address_taken", "The tenant has a member with this address already.") from error
        except psycopg.errors.ForeignKeyViolation as error:
            raise not_found("tenant") from error
        except psycopg.errors.RestrictViolation as error:
            raise ApiError(409, "last_owner", "The tenant has no other owner.") from error
