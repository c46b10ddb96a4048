# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Input and output of the modules: keys, limits, tenants and webhooks, by a connection of the directory's owner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..directory import store
from . import webhooks
from .key_rows import (
    INVENTORY,
    Brought,
    BroughtDomain,
    Claim,
    Limit,
    OperatorKey,
    Plan,
    Row,
    Tenant,
    TenantDomain,
    TenantKey,
    Tenants,
)


def read_keys(owner: Any) -> list[Row]:
    """All keys."""
    with store.translated("reading the keys"):
        rows = owner.execute(
            # as JSON: a plan may meet a schema that does not have these columns yet
            "SELECT id, domain, name, hash, scopes, owner, (to_jsonb(key)->>'requests_per_minute')::int, "
            "(to_jsonb(key)->>'recipients_per_hour')::int FROM api.key"
        ).fetchall()
    return [Row(row[0], row[1], row[2], bytes(row[3]), tuple(row[4]), *row[5:]) for row in rows]


def write_keys(owner: Any, todo: Plan) -> None:
    """Carries the plan out, whole or not at all."""
    with store.translated("writing the keys"), owner.transaction():
        for row in todo.remove:
            owner.execute("DELETE FROM api.key WHERE id = %s AND owner = %s", (row.id, row.owner))
        for row in todo.add:
            owner.execute(
                "INSERT INTO api.key (id, domain, name, hash, scopes, owner, requests_per_minute, "
                "recipients_per_hour) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
                (*row[:4], list(row.scopes), *row[5:]),
            )


def read_limits(owner: Any) -> list[Limit]:
    """The limits of all domains; none where the schema does not know of any yet."""
    with store.translated("reading the limits"):
        if owner.execute("SELECT to_regclass('api.domain_limit')").fetchone()[0] is None:
            return []
        rows = owner.execute("SELECT domain, requests_per_minute, recipients_per_hour FROM api.domain_limit").fetchall()
    return [Limit(*row) for row in rows]


def write_limits(owner: Any, remove: Sequence[Limit], add: Sequence[Limit]) -> None:
    """Carries the plan out, whole or not at all."""
    with store.translated("writing the limits"), owner.transaction():
        for row in remove:
            owner.execute("DELETE FROM api.domain_limit WHERE domain = %s", (row.domain,))
        for row in add:
            owner.execute("INSERT INTO api.domain_limit VALUES (%s, %s, %s)", row)


def read_tenants(owner: Any) -> Tenants:
    """All tenants with their keys and domains, but for those that they brought; none where the schema does not know of
    any yet."""
    with store.translated("reading the tenants"):
        if owner.execute("SELECT to_regclass('api.tenant_key')").fetchone()[0] is None:
            return Tenants([], [], [])
        domains = owner.execute(
            "SELECT domain, tenant FROM api.tenant_domain AS t WHERE NOT EXISTS ("
            "SELECT FROM directory.domain AS d WHERE d.name = t.domain AND d.owner = 'api')"
        ).fetchall()
        rows = owner.execute(
            "SELECT id, tenant, name, hash, scopes, requests_per_minute, recipients_per_hour FROM api.tenant_key"
        ).fetchall()
        names = {row[1] for row in domains} | {row[1] for row in rows}
        # a plan may meet a schema whose tenants are all the inventory's
        tenants = [Tenant(name, INVENTORY) for name in names]
        if owner.execute("SELECT to_regclass('api.tenant')").fetchone()[0] is not None:
            tenants = [Tenant(*row) for row in owner.execute("SELECT name, owner FROM api.tenant").fetchall()]
    return Tenants(
        tenants,
        [TenantDomain(*row) for row in domains],
        [TenantKey._make((*row[:3], bytes(row[3]), tuple(row[4]), *row[5:])) for row in rows],
    )


def write_tenants(owner: Any, remove: Tenants, add: Tenants) -> None:
    """Carries the plan out, whole or not at all."""
    with store.translated("writing the tenants"), owner.transaction():
        for domain in remove.domains:
            owner.execute("DELETE FROM api.tenant_domain WHERE domain = %s", (domain.domain,))
        for key in remove.keys:
            owner.execute("DELETE FROM api.tenant_key WHERE id = %s", (key.id,))
        for tenant in remove.names:
            # of domains that it brought, the claims remember whose they are
            owner.execute("DELETE FROM api.tenant_domain WHERE tenant = %s", (tenant.name,))
            owner.execute("DELETE FROM api.tenant WHERE name = %s", (tenant.name,))
        for tenant in add.names:
            owner.execute("INSERT INTO api.tenant (name, owner) VALUES (%s, %s)", tenant)
        for domain in add.domains:
            owner.execute("INSERT INTO api.tenant_domain (domain, tenant) VALUES (%s, %s)", domain)
        for key in add.keys:
            owner.execute(
                "INSERT INTO api.tenant_key (id, tenant, name, hash, scopes, requests_per_minute, recipients_per_hour) "
                "VALUES (%s, %s, %s, %s, %s, %s, %s)",
                (*key[:4], list(key.scopes), *key[5:]),
            )


def read_operator_keys(owner: Any) -> list[OperatorKey]:
    """The operators' keys; none where the schema does not know of any yet."""
    with store.translated("reading the operators' keys"):
        if owner.execute("SELECT to_regclass('api.operator_key')").fetchone()[0] is None:
            return []
        rows = owner.execute("SELECT id, name, hash, scopes FROM api.operator_key").fetchall()
    return [OperatorKey(row[0], row[1], bytes(row[2]), tuple(row[3])) for row in rows]


def write_operator_keys(owner: Any, remove: Sequence[OperatorKey], add: Sequence[OperatorKey]) -> None:
    """Carries the plan out, whole or not at all."""
    with store.translated("writing the operators' keys"), owner.transaction():
        for row in remove:
            owner.execute("DELETE FROM api.operator_key WHERE id = %s", (row.id,))
        for row in add:
            owner.execute(
                "INSERT INTO api.operator_key (id, name, hash, scopes) VALUES (%s, %s, %s, %s)",
                (row.id, row.name, row.hash, list(row.scopes)),
            )


def read_brought(owner: Any) -> Brought:
    """What tenants brought by the API; nothing where the schema does not know of it yet."""
    with store.translated("reading the domains that tenants brought"):
        if owner.execute("SELECT to_regclass('api.domain_claim')").fetchone()[0] is None:
            return Brought([], [])
        domains = owner.execute(
            "SELECT d.name, c.tenant, d.enabled FROM directory.domain AS d "
            "JOIN api.domain_claim AS c ON c.name = d.name AND c.state = 'active' WHERE d.owner = 'api' ORDER BY 1"
        ).fetchall()
        claims = owner.execute(
            "SELECT name, tenant FROM api.domain_claim WHERE state NOT IN ('active', 'leaving') ORDER BY 1, 2"
        ).fetchall()
    return Brought([BroughtDomain(*row) for row in domains], [Claim(*row) for row in claims])


def write_brought(owner: Any, remove: Brought, add: Brought) -> None:
    """Switches domains on and off, and removes claims."""
    with store.translated("writing the domains that tenants brought"), owner.transaction():
        for domain in add.domains:
            owner.execute(
                "UPDATE directory.domain SET enabled = %s WHERE name = %s AND owner = 'api'",
                (domain.enabled, domain.domain),
            )
            if domain.enabled:
                owner.execute(
                    "INSERT INTO api.tenant_domain (domain, tenant) VALUES (%s, %s) ON CONFLICT DO NOTHING",
                    (domain.domain, domain.tenant),
                )
        for claim in remove.claims:
            owner.execute(
                "DELETE FROM api.domain_claim WHERE name = %s AND tenant = %s AND state NOT IN ('active', 'leaving')",
                claim,
            )


def hosted_domains(owner: Any) -> set[str]:
    """The directory's domains."""
    with store.translated("reading the domains"):
        return {name for (name,) in owner.execute("SELECT name FROM directory.domain").fetchall()}


def read_webhook(owner: Any, domain: str, name: str) -> webhooks.Row | None:
    """The webhook of this name, without its secret."""
    with store.translated("reading the webhook"):
        row = owner.execute(
            "SELECT id::text, domain, name, url, events FROM api.webhook WHERE domain = %s AND name = %s",
            (domain, name),
        ).fetchone()
    return None if row is None else webhooks.Row._make((*row[:4], tuple(row[4])))


def write_webhook(owner: Any, before: webhooks.Row | None, wanted: webhooks.Row | None, secret: str | None) -> None:
    """Removes, makes or changes it; the secret is that of a new one."""
    with store.translated("writing the webhook"), owner.transaction():
        if wanted is None and before is not None:
            owner.execute("DELETE FROM api.webhook WHERE id = %s", (before.id,))
        elif wanted is not None and before is None:
            owner.execute(
                "INSERT INTO api.webhook (id, domain, name, url, events, secret) VALUES (%s, %s, %s, %s, %s, %s)",
                (wanted.id, wanted.domain, wanted.name, wanted.url, list(wanted.events), secret),
            )
        elif wanted is not None:
            owner.execute(
                "UPDATE api.webhook SET url = %s, events = %s WHERE id = %s",
                (wanted.url, list(wanted.events), wanted.id),
            )
