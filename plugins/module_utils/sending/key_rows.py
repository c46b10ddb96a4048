# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys, limits of domains and tenants as rows: what the inventory wants against what the database has (pure)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from . import keys

INVENTORY, API = "inventory", "api"
Place = tuple[str, str]  # domain and name


class Row(NamedTuple):
    """A row of api.key."""

    id: str
    domain: str
    name: str
    hash: bytes
    scopes: tuple[str, ...]
    owner: str
    requests_per_minute: int | None = None
    recipients_per_hour: int | None = None

    @property
    def place(self) -> Place:
        return self.domain, self.name

    def __str__(self) -> str:
        return f"key {self.domain} {self.name!a} id={self.id} scopes={','.join(self.scopes)}{rates(self)}"


class Limit(NamedTuple):
    """A row of api.domain_limit."""

    domain: str
    requests_per_minute: int | None
    recipients_per_hour: int | None

    def __str__(self) -> str:
        return f"limit {self.domain}{rates(self)}"


class OperatorKey(NamedTuple):
    """A row of api.operator_key."""

    id: str
    name: str
    hash: bytes
    scopes: tuple[str, ...]

    def __str__(self) -> str:
        return f"operator key {self.name!a} id={self.id} scopes={','.join(self.scopes)}"


class Tenant(NamedTuple):
    """A row of api.tenant. Its owner owns its domains and keys too."""

    name: str
    owner: str

    def __str__(self) -> str:
        return f"tenant {self.name!a}"


class TenantDomain(NamedTuple):
    """A row of api.tenant_domain."""

    domain: str
    tenant: str

    def __str__(self) -> str:
        return f"tenant {self.tenant!a} domain={self.domain}"


class TenantKey(NamedTuple):
    """A row of api.tenant_key."""

    id: str
    tenant: str
    name: str
    hash: bytes
    scopes: tuple[str, ...]
    requests_per_minute: int | None
    recipients_per_hour: int | None

    def __str__(self) -> str:
        return f"tenant {self.tenant!a} key {self.name!a} id={self.id} scopes={','.join(self.scopes)}{rates(self)}"


class BroughtDomain(NamedTuple):
    """A domain that a tenant brought by the API. It is switched off while the inventory does not have the tenant."""

    domain: str
    tenant: str
    enabled: bool

    def __str__(self) -> str:
        return f"domain {self.domain} by the API tenant={self.tenant!a} enabled={'yes' if self.enabled else 'no'}"


class Claim(NamedTuple):
    """What a tenant says of a domain, and has not proved."""

    domain: str
    tenant: str

    def __str__(self) -> str:
        return f"claim of {self.domain} tenant={self.tenant!a}"


class Brought(NamedTuple):
    """What tenants bring, or what is to become of it."""

    domains: list[BroughtDomain]
    claims: list[Claim]

    def of(self, tenants: Collection[str]) -> Brought:
        """As it should be while there are these tenants."""
        return Brought(
            [row._replace(enabled=row.tenant in tenants) for row in self.domains],
            [row for row in self.claims if row.tenant in tenants],
        )

    def without(self, other: Brought) -> Brought:
        """The rows that the other one lacks."""
        return Brought(
            sorted(set(self.domains) - set(other.domains)), sorted(set(self.claims) - set(other.claims))
        )  # fmt: skip


class Tenants(NamedTuple):
    """What there is of tenants, is to be removed, or to be added."""

    names: list[Tenant]
    domains: list[TenantDomain]
    keys: list[TenantKey]

    def owned_by(self, owner: str) -> Tenants:
        """Those tenants alone."""
        names = {tenant.name for tenant in self.names if tenant.owner == owner}
        return Tenants(
            [tenant for tenant in self.names if tenant.name in names],
            [domain for domain in self.domains if domain.tenant in names],
            [key for key in self.keys if key.tenant in names],
        )

    def without(self, other: Tenants) -> Tenants:
        """The rows that the other one lacks."""
        return Tenants(
            sorted(set(self.names) - set(other.names), key=str),
            sorted(set(self.domains) - set(other.domains), key=str),
            sorted(set(self.keys) - set(other.keys), key=str),
        )

    def lines(self) -> list[str]:
        """For the plan."""
        return [str(row) for row in (*self.names, *self.domains, *self.keys)]


def rates(row: Row | Limit | TenantKey) -> str:
    """What is limited, for the plan."""
    names = ("requests_per_minute", "recipients_per_hour")
    return "".join(f" {name}={getattr(row, name)}" for name in names if getattr(row, name) is not None)


class Plan(NamedTuple):
    """Rows to remove, then rows to add. A changed key is both."""

    remove: list[Row]
    add: list[Row]


def row(domain: str, name: str, scopes: Iterable[str], key: keys.Key, owner: str) -> Row:
    """The row of a key."""
    return Row(key.id, domain, name, key.digest, tuple(scopes), owner)


def wanted(declared: Iterable[Mapping[str, Any]]) -> list[Row]:
    """The rows of the model's keys. Raises ValueError."""
    return [
        row(
            entry["domain"],
            keys.check_name(entry["name"]),
            keys.check_scopes(entry["scopes"]),
            keys.parse(entry["key"]),
            INVENTORY,
        )._replace(requests_per_minute=entry["requests_per_minute"], recipients_per_hour=entry["recipients_per_hour"])
        for entry in declared
    ]


def wanted_tenants(declared: Iterable[Mapping[str, Any]]) -> Tenants:
    """The rows of the model's tenants. Raises ValueError."""
    found = Tenants([], [], [])
    for tenant in declared:
        found.names.append(Tenant(tenant["name"], INVENTORY))
        found.domains.extend(TenantDomain(domain, tenant["name"]) for domain in tenant["domains"])
        for entry in tenant["keys"]:
            key = keys.parse(entry["key"])
            found.keys.append(
                TenantKey(
                    key.id, tenant["name"], keys.check_name(entry["name"]), key.digest,
                    tuple(keys.check_scopes(entry["scopes"], keys.TENANT_SCOPES)), entry["requests_per_minute"],
                    entry["recipients_per_hour"],
                )
            )  # fmt: skip
    return found


def wanted_operator_keys(declared: Iterable[Mapping[str, Any]]) -> list[OperatorKey]:
    """The rows of the model's operators' keys. Raises ValueError."""
    found = []
    for entry in declared:
        key, scopes = keys.parse(entry["key"]), keys.check_scopes(entry["scopes"], keys.OPERATOR_SCOPES)
        found.append(OperatorKey(key.id, keys.check_name(entry["name"]), key.digest, tuple(scopes)))
    return found


def tenant_conflicts(found: Tenants, want: Tenants) -> list[str]:
    """Tenants and domains that the inventory wants, and that were made or given away by the API."""
    foreign = found.owned_by(API)
    names = {tenant.name for tenant in foreign.names}
    holders = {domain.domain: domain.tenant for domain in foreign.domains}
    ids = {key.id for key in foreign.keys}
    return [
        *(f"{tenant}: exists, owned by the API" for tenant in want.names if tenant.name in names),
        *(
            f"{domain}: belongs to tenant {holders[domain.domain]!a}, owned by the API"
            for domain in want.domains
            if domain.domain in holders and domain.tenant not in names
        ),
        *(f"{key}: exists, owned by the API" for key in want.keys if key.id in ids),
    ]


def conflicts(found: Iterable[Row], rows: Iterable[Row]) -> list[str]:
    """Keys that the inventory wants and that were made by the API or by the module."""
    foreign = [known for known in found if known.owner != INVENTORY]
    places, ids = {known.place for known in foreign}, {known.id for known in foreign}
    return [f"{want}: exists, owned by the API" for want in rows if want.place in places or want.id in ids]


def plan(found: Iterable[Row], rows: Iterable[Row]) -> Plan:
    """What makes the inventory's keys those of the model, and leaves the others alone."""
    own = {known for known in found if known.owner == INVENTORY}
    want = set(rows)
    return Plan(sorted(own - want, key=str), sorted(want - own, key=str))
