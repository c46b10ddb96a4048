# Managed by mailwright: changes are overwritten.
"""Domains that a tenant brings onto the host. Those of the inventory are shown, and changed there alone."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from ansible_collections.mailwright.server.plugins.module_utils.sending import claims
from ansible_collections.mailwright.server.plugins.module_utils.sending.compose import Problem
from fastapi import Path, Request, Response
from pydantic import BaseModel, Field

from .problems import ApiError, not_found
from .resources import Input, LimitList
from .routing import Caller, Known, check_printable, new_router, scope

State = Literal["pending", "verified", "active", "blocked", "expired"]
NamePath = Annotated[str, Path(max_length=253)]

router = new_router()


class DomainInput(Input):
    """A name; its records are in the answer."""

    name: str = Field(max_length=253, examples=["acme.example"])


class DomainRecord(BaseModel):
    """A record to publish."""

    name: str
    type: str
    value: str = Field(description="That of a TXT record is one text, without quotes.")
    seen: bool | None = Field(description="At the last look; null: the name servers gave no answer, or none was asked.")


class ClaimedDomain(BaseModel):
    """A domain that the tenant brought by the API."""

    name: str
    state: State = Field(
        description="pending: the first record is looked for. verified: it was seen, and the host makes ready. "
        "active: hosted. blocked: see problem. expired: it was never seen."
    )
    problem: str = Field(description="What stands in the way; '' is nothing.")
    records: list[DomainRecord]
    claimed_at: datetime
    looked_at: datetime | None = Field(description="When the name servers were last asked.")
    expires_at: datetime | None = Field(description="Until when the first record is looked for.")


class DomainName(BaseModel):
    """A domain."""

    name: str


class Claim(BaseModel):
    """A domain that the tenant brought."""

    name: str
    state: State


class DomainList(BaseModel):
    """data: what the key may send for. claims: what its tenant brought, ready or not."""

    data: list[DomainName]
    claims: list[Claim]


@router.get("/domains", response_model=DomainList, summary="List the domains that the key may send for")
@scope("domains.read")
async def list_domains(request: Request, caller: Known) -> Any:
    """One, or those of the tenant whose key it is."""
    return {
        "data": [{"name": domain} for domain in caller.domains],
        "claims": await request.app.state.store.claims(),
    }


@router.post("/domains", status_code=201, response_model=ClaimedDomain, summary="Bring a domain onto the host")
@scope("domains.write")
async def claim_domain(request: Request, body: DomainInput) -> Any:
    """It is hosted when the first of its records has been seen. To ask again changes nothing."""
    settings = request.app.state.settings
    try:
        name = claims.check_name(body.name, settings.hostname)
    except ValueError as error:
        problem = Problem("/name", str(error))
        raise ApiError(422, "invalid_request", "The domain cannot be as asked for.", [problem]) from None
    if name in settings.parked_domains:
        raise _owned_by_inventory()
    outcome = await request.app.state.store.claim_domain(name, claims.new_token(), claims.MOST_WAITING)
    if outcome == "not_a_tenant":
        raise ApiError(403, "forbidden", "Only a tenant's key brings domains.")
    if outcome == "owned_by_inventory":
        raise _owned_by_inventory()
    if outcome == "name_taken":
        raise ApiError(409, "name_taken", "Somebody else has proved that the domain is theirs.")
    if outcome == "too_many":
        detail = f"{claims.MOST_WAITING} domains wait for their records: remove one, or publish its records."
        raise ApiError(409, "too_many_claims", detail)
    return await _claim(request, name)


@router.get("/domains/{name}", response_model=ClaimedDomain | DomainName, summary="Show a domain")
@scope("domains.read")
async def show_domain(request: Request, caller: Known, name: NamePath) -> Any:
    """A domain of somebody else does not exist."""
    claim = await _find(request, name)
    return {"name": _reached(caller, name)} if claim is None else claim


@router.get("/domains/{name}/limits", response_model=LimitList, summary="List the limits of key and domain")
@scope("domains.read")
async def list_limits(request: Request, caller: Known, name: NamePath) -> Any:
    """What is left of them is in the headers of every answer that they concern."""
    return {"data": await request.app.state.store.limits(_reached(caller, name), caller.key_id)}


@router.post(
    "/domains/{name}/verify", status_code=202, response_model=ClaimedDomain, summary="Have the records looked at"
)
@scope("domains.write")
async def verify_domain(request: Request, caller: Known, name: NamePath) -> Any:
    """Within seconds; what was seen is in the domain. What stood in the way is tried again."""
    claim = await _own(request, caller, name)
    await request.app.state.store.verify_claim(claim["name"])
    return await _claim(request, claim["name"])


@router.delete("/domains/{name}", status_code=204, response_class=Response, summary="Give a domain back")
@scope("domains.write")
async def release_domain(request: Request, caller: Known, name: NamePath) -> Response:
    """Its mail stays on the host, and is there again if the same tenant brings it again."""
    claim = await _own(request, caller, name)
    outcome = await request.app.state.store.release_domain(claim["name"])
    if outcome is None:
        raise not_found("domain")
    if outcome == "in_use":
        detail = "The domain has mailboxes, aliases or inbound routes, or messages that wait: remove those first."
        raise ApiError(409, "in_use", detail)
    return Response(status_code=204)


def _reached(caller: Caller, name: str) -> str:
    """The hosted domain of that name, if the key reaches it. Raises ApiError."""
    if name.lower() not in caller.domains:
        raise not_found("domain")
    return name.lower()


async def _own(request: Request, caller: Caller, name: str) -> dict[str, Any]:
    claim = await _find(request, name)
    if claim is None:
        _reached(caller, name)
        raise _owned_by_inventory()
    return claim


async def _claim(request: Request, name: str) -> dict[str, Any]:
    claim = await _find(request, name)
    if claim is None:
        raise not_found("domain")
    return claim


async def _find(request: Request, name: str) -> dict[str, Any] | None:
    """The tenant's claim, as it is shown."""
    known = check_printable(name).lower()
    for claim in await request.app.state.store.claims():
        if claim["name"] == known:
            settings = request.app.state.settings
            key = None if claim["selector"] is None else (claim["selector"], claim["dkim"])
            wanted = claims.records(known, claim["token"], key, settings.hostname, settings.features)
            return {
                "name": known,
                "state": claim["state"],
                "problem": claim["problem"],
                "records": [claims.described(record, claim["seen"]) for record in wanted],
                "claimed_at": claim["claimed_at"],
                "looked_at": claim["looked_at"],
                "expires_at": claim["until"] if claim["state"] in ("pending", "expired") else None,
            }
    return None


def _owned_by_inventory() -> ApiError:
    return ApiError(409, "owned_by_inventory", "The domain is in the server's inventory and is changed there.")
