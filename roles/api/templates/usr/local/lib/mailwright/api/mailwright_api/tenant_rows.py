# Managed by mailwright: changes are overwritten.
"""Tenants in the database: row-level security shows a tenant's keys theirs, and an operator's key all of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import psycopg
from ansible_collections.mailwright.server.plugins.module_utils.sending import keys

from .database import Database
from .problems import ApiError, not_found

_KEY = ("id", "tenant", "name", "scopes", "requests_per_minute", "recipients_per_hour", "created_at")
_AUDIT = ("id", "at", "actor", "action", "kind", "target", "before", "after")


class TenantRows(Database):
    """A part of the store."""

    async def tenants(self, limit: int, after: str = "", only: str | None = None) -> list[dict[str, Any]]:
        """By name, with their domains; only is one of them."""
        async with self._tenant() as connection:
            cursor = await connection.execute(
                "SELECT name, title, owner, created_at, "
                "ARRAY(SELECT d.domain FROM api.tenant_domain AS d WHERE d.tenant = t.name ORDER BY d.domain) "
                "FROM api.tenant AS t WHERE name > %s AND (%s::text IS NULL OR name = %s) ORDER BY name LIMIT %s",
                (after, only, only, limit),
            )
            names = ("name", "title", "owner", "created_at", "domains")
            return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]

    async def add_tenant(self, name: str, title: str) -> None:
        """Raises ApiError when the name is taken."""
        try:
            async with self._tenant() as connection:
                await connection.execute(
                    "INSERT INTO api.tenant (name, title, owner) VALUES (%s, %s, 'api')", (name, title)
                )
        except psycopg.errors.UniqueViolation as error:
            raise ApiError(409, "name_taken", "There is a tenant of this name already.") from error

    async def change_tenant(self, name: str, title: str) -> None:
        """Its title."""
        async with self._tenant() as connection:
            await connection.execute("UPDATE api.tenant SET title = %s WHERE name = %s", (title, name))

    async def remove_tenant(self, name: str) -> None:
        """With its keys. Raises ApiError while it has domains."""
        try:
            async with self._tenant() as connection:
                await connection.execute("DELETE FROM api.tenant WHERE name = %s", (name,))
        except psycopg.errors.ForeignKeyViolation as error:
            raise ApiError(409, "in_use", "The tenant has domains; take these away first.") from error

    async def domain_owner(self, domain: str) -> str | None:
        """Who hosts it, the inventory or the API; None when nobody does."""
        async with self._connection() as connection:
            cursor = await connection.execute("SELECT api.domain_owner(%s)", (domain,))
            owner: str | None = (await cursor.fetchone())[0]
        return owner

    async def give_domain(self, tenant: str, domain: str) -> None:
        """Raises ApiError when a tenant has it, or when this tenant was removed meanwhile."""
        try:
            async with self._tenant() as connection:
                await connection.execute(
                    "INSERT INTO api.tenant_domain (domain, tenant) VALUES (%s, %s)", (domain, tenant)
                )
        except psycopg.errors.UniqueViolation as error:
            raise ApiError(409, "domain_taken", "The domain is a tenant's already.") from error
        except (psycopg.errors.ForeignKeyViolation, psycopg.errors.InsufficientPrivilege) as error:
            raise not_found("tenant") from error

    async def take_domain(self, tenant: str, domain: str) -> None:
        """From now on the tenant's keys do not reach it."""
        async with self._tenant() as connection:
            await connection.execute(
                "DELETE FROM api.tenant_domain WHERE tenant = %s AND domain = %s", (tenant, domain)
            )  # fmt: skip

    async def tenant_keys(self, tenant: str) -> list[dict[str, Any]]:
        """Its keys, oldest first, without their hashes."""
        async with self._tenant() as connection:
            cursor = await connection.execute(
                "SELECT id, tenant, name, scopes, requests_per_minute, recipients_per_hour, created_at "
                "FROM api.tenant_key WHERE tenant = %s ORDER BY created_at, id",
                (tenant,),
            )
            return [dict(zip(_KEY, row, strict=True)) for row in await cursor.fetchall()]

    async def add_tenant_key(
        self, tenant: str, name: str, scopes: list[str], requests: int | None, recipients: int | None
    ) -> tuple[keys.Key, datetime]:
        """Make a key; gives also when. Raises ApiError when the name is taken, or the tenant was removed meanwhile."""
        made = keys.generate()
        try:
            async with self._tenant() as connection:
                cursor = await connection.execute(
                    "INSERT INTO api.tenant_key (id, tenant, name, hash, scopes, requests_per_minute, "
                    "recipients_per_hour) VALUES (%s, %s, %s, %s, %s, %s, %s) RETURNING created_at",
                    (made.id, tenant, name, made.digest, scopes, requests, recipients),
                )
                created_at: datetime = (await cursor.fetchone())[0]
        except psycopg.errors.UniqueViolation as error:
            raise ApiError(409, "name_taken", "The tenant has a key of this name already.") from error
        except (psycopg.errors.ForeignKeyViolation, psycopg.errors.InsufficientPrivilege) as error:
            raise not_found("tenant") from error
        return made, created_at

    async def remove_tenant_key(self, tenant: str, key_id: str) -> bool:
        """Whether it was there."""
        async with self._tenant() as connection:
            cursor = await connection.execute(
                "DELETE FROM api.tenant_key WHERE tenant = %s AND id = %s", (tenant, key_id)
            )  # fmt: skip
        return bool(cursor.rowcount)

    async def tenant_audit(self, tenant: str, limit: int, after: int) -> list[dict[str, Any]]:
        """Changes after that one, oldest first."""
        async with self._tenant() as connection:
            cursor = await connection.execute(
                "SELECT id, at, actor, action, kind, target, before, after FROM api.audit "
                "WHERE tenant = %s AND id > %s ORDER BY id LIMIT %s",
                (tenant, after, limit),
            )
            return [dict(zip(_AUDIT, row, strict=True)) for row in await cursor.fetchall()]
