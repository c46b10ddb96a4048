# Managed by mailwright: changes are overwritten.
"""Routes of tenants: for keys of operators, which manage them all, and for a tenant's own keys, which see theirs."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from ansible_collections.mailwright.server.plugins.module_utils.model.values import parse_domain
from ansible_collections.mailwright.server.plugins.module_utils.sending import compose, keys
from fastapi import Path, Query, Request, Response
from pydantic import BaseModel, Field

from . import resources
from .problems import ApiError, not_found
from .resources_hooks import AuditPage
from .routing import OPERATOR, TENANT, KeyId, Known, Limit, check_printable, checked_key, new_router, scope

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$"
LARGEST_RATE = 1_000_000_000

TenantName = Annotated[str, Path(pattern=NAME_PATTERN, description="The tenant's name.")]
Title = Annotated[str, Field(max_length=200, description="For people.", examples=["Acme Ltd"])]
Rate = Annotated[int, Field(ge=1, le=LARGEST_RATE)]
AuditCursor = Annotated[int, Query(ge=0, lt=2**63, description="The entry after which to go on.")]

router = new_router()


class TenantInput(resources.Input):
    """A customer. The name stays; it is what programs know the tenant by."""

    name: str = Field(pattern=NAME_PATTERN, examples=["acme"])
    title: Title = ""


class TenantChange(resources.Input):
    """What is to change."""

    title: Title


class Tenant(BaseModel):
    """A customer with domains."""

    name: str
    title: str
    owner: Literal["inventory", "api"] = Field(description="Who changes it, its domains and its keys.")
    domains: list[str]
    created_at: datetime


class TenantPage(BaseModel):
    """By name. next is the cursor for after."""

    data: list[Tenant]
    next: str | None


class TenantDomainInput(resources.Input):
    """A domain to be given to the tenant."""

    name: str = Field(max_length=253, description="One of the inventory's domains that no tenant has.")


class TenantKeyInput(resources.Input):
    """A key to be made for all domains of the tenant."""

    name: str = Field(max_length=64)
    scopes: list[str] = Field(min_length=1, max_length=50)
    requests_per_minute: Rate | None = Field(default=None, description="No limit, if none is named.")
    recipients_per_hour: Rate | None = Field(default=None, description="No limit, if none is named.")


class TenantKey(BaseModel):
    """A key without its secret."""

    id: str
    name: str
    tenant: str
    scopes: list[str]
    created_at: datetime
    requests_per_minute: int | None = Field(description="null: no limit of its own.")
    recipients_per_hour: int | None = Field(description="null: no limit of its own.")


class NewTenantKey(TenantKey):
    """A key with its secret, which is shown this once."""

    key: str


class TenantKeyList(BaseModel):
    """All of the tenant."""

    data: list[TenantKey]


@router.post("/tenants", status_code=201, response_model=Tenant, summary="Make a tenant")
@scope("tenants.write", OPERATOR)
async def make_tenant(request: Request, body: TenantInput) -> Any:
    """Without domains and keys."""
    await request.app.state.store.add_tenant(keys.check_name(body.name.strip()), check_printable(body.title))
    return await _tenant(request, body.name.strip())


@router.get("/tenants", response_model=TenantPage, summary="List the tenants")
@scope("tenants.read", OPERATOR)
async def list_tenants(
    request: Request, limit: Limit = 100, after: Annotated[str, Query(max_length=64)] = ""
) -> Any:  # fmt: skip
    """Those of the inventory too."""
    found = await request.app.state.store.tenants(limit + 1, check_printable(after))
    return {"data": found[:limit], "next": found[limit - 1]["name"] if len(found) > limit else None}


@router.get("/tenants/{tenant}", response_model=Tenant, summary="Show a tenant")
@scope("tenants.read", OPERATOR)
async def show_tenant(request: Request, tenant: TenantName) -> Any:
    """With its domains."""
    return await _tenant(request, tenant)


@router.patch("/tenants/{tenant}", response_model=Tenant, summary="Change a tenant")
@scope("tenants.write", OPERATOR)
async def change_tenant(request: Request, tenant: TenantName, body: TenantChange) -> Any:
    """Its title."""
    await _own_tenant(request, tenant)
    await request.app.state.store.change_tenant(tenant, check_printable(body.title))
    return await _tenant(request, tenant)


@router.delete("/tenants/{tenant}", status_code=204, response_class=Response, summary="Remove a tenant")
@scope("tenants.write", OPERATOR)
async def remove_tenant(request: Request, tenant: TenantName) -> Response:
    """With its keys. Not while it has domains."""
    await _own_tenant(request, tenant)
    await request.app.state.store.remove_tenant(tenant)
    return Response(status_code=204)


@router.post(
    "/tenants/{tenant}/domains", status_code=201, response_model=Tenant, summary="Give a domain to a tenant"
)  # fmt: skip
@scope("tenants.write", OPERATOR)
async def give_domain(request: Request, tenant: TenantName, body: TenantDomainInput) -> Any:
    """Whoever has the domain has all that belongs to it: messages, mailboxes, keys."""
    await _own_tenant(request, tenant)
    try:
        domain = parse_domain(body.name)
    except ValueError as error:
        raise _refused_domain(str(error)) from None
    if await request.app.state.store.domain_owner(domain) != "inventory":
        raise _refused_domain("is not a domain of the server's inventory")
    await request.app.state.store.give_domain(tenant, domain)
    return await _tenant(request, tenant)


@router.delete(
    "/tenants/{tenant}/domains/{domain}", status_code=204, response_class=Response, summary="Take a domain away"
)
@scope("tenants.write", OPERATOR)
async def take_domain(
    request: Request, tenant: TenantName, domain: Annotated[str, Path(max_length=253)]
) -> Response:  # fmt: skip
    """At once: the tenant's keys no longer reach it. Keys of the domain alone stay."""
    if check_printable(domain).lower() not in (await _own_tenant(request, tenant))["domains"]:
        raise not_found("domain")
    if await request.app.state.store.domain_owner(domain.lower()) == "api":
        raise ApiError(409, "owned_by_tenant", "The tenant brought this domain itself, and removes it itself.")
    await request.app.state.store.take_domain(tenant, domain.lower())
    return Response(status_code=204)


@router.post(
    "/tenants/{tenant}/api-keys", status_code=201, response_model=NewTenantKey, summary="Make a key of a tenant"
)
@scope("tenants.write", OPERATOR)
async def make_tenant_key(request: Request, tenant: TenantName, body: TenantKeyInput) -> Any:
    """The answer shows the key; nothing shows it again."""
    await _own_tenant(request, tenant)
    name, scopes = checked_key(body.name, body.scopes, keys.TENANT_SCOPES)
    assert name is not None and scopes is not None
    made, created_at = await request.app.state.store.add_tenant_key(
        tenant, name, scopes, body.requests_per_minute, body.recipients_per_hour
    )
    return {
        "id": made.id, "key": made.text, "name": name, "tenant": tenant, "scopes": scopes, "created_at": created_at,
        "requests_per_minute": body.requests_per_minute, "recipients_per_hour": body.recipients_per_hour,
    }  # fmt: skip


@router.get("/tenants/{tenant}/api-keys", response_model=TenantKeyList, summary="List a tenant's keys")
@scope("tenants.read", OPERATOR)
async def list_tenant_keys(request: Request, tenant: TenantName) -> Any:
    """Without their secrets. Keys of its domains are not among them."""
    await _tenant(request, tenant)
    return {"data": await request.app.state.store.tenant_keys(tenant)}


@router.delete(
    "/tenants/{tenant}/api-keys/{key_id}", status_code=204, response_class=Response, summary="Remove a tenant's key"
)
@scope("tenants.write", OPERATOR)
async def remove_tenant_key(request: Request, tenant: TenantName, key_id: KeyId) -> Response:
    """At once."""
    await _own_tenant(request, tenant)
    if not await request.app.state.store.remove_tenant_key(tenant, key_id):
        raise not_found("key")
    return Response(status_code=204)


@router.get("/tenants/{tenant}/audit", response_model=AuditPage, summary="List who changed what about a tenant")
@scope("tenants.read", OPERATOR)
async def list_tenant_audit(
    request: Request, tenant: TenantName, limit: Limit = 100, after: AuditCursor = 0
) -> Any:  # fmt: skip
    """The tenant, its domains and its keys, oldest first; also of tenants that were removed."""
    return await _audit(request, tenant, limit, after)


@router.get("/tenant", response_model=Tenant, summary="Show the tenant whose key it is")
@scope("tenants.read", TENANT)
async def show_own_tenant(request: Request, caller: Known) -> Any:
    """With its domains."""
    return await _tenant(request, caller.tenant)


@router.get("/tenant/audit", response_model=AuditPage, summary="List who changed what about the tenant")
@scope("audit.read", TENANT)
async def list_own_audit(
    request: Request, caller: Known, limit: Limit = 100, after: AuditCursor = 0
) -> Any:  # fmt: skip
    """The tenant, its domains and its keys, oldest first. What belongs to a domain is in its own log."""
    return await _audit(request, caller.tenant, limit, after)


async def _tenant(request: Request, name: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = await request.app.state.store.tenants(1, only=name)
    if not found:
        raise not_found("tenant")
    return found[0]


async def _own_tenant(request: Request, name: str) -> dict[str, Any]:
    """One that may be changed."""
    found = await _tenant(request, name)
    if found["owner"] != "api":
        raise ApiError(409, "owned_by_inventory", "The tenant is in the server's inventory and is changed there.")
    return found


async def _audit(request: Request, tenant: str, limit: int, after: int) -> dict[str, Any]:
    found = await request.app.state.store.tenant_audit(tenant, limit + 1, after)
    return {"data": found[:limit], "next": str(found[limit - 1]["id"]) if len(found) > limit else None}


def _refused_domain(why: str) -> ApiError:
    problem = compose.Problem("/name", why)
    return ApiError(422, "invalid_request", "The domain cannot be given to a tenant.", [problem])
