# Managed by mailwright: changes are overwritten.
"""Routes of a tenant's members: people, each with a role that bounds what their keys can do."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from ansible_collections.mailwright.server.plugins.module_utils.sending import compose, keys
from fastapi import Path, Query, Request, Response
from pydantic import BaseModel, Field

from . import resources
from .problems import ApiError, not_found
from .routing import (
    TENANT,
    Caller,
    KeyId,
    Known,
    Limit,
    check_printable,
    checked_address,
    checked_key,
    new_router,
    scope,
)

Role = Literal["owner", "admin", "developer", "viewer"]
Address = Annotated[str, Field(max_length=254, examples=["erin@acme.example"])]
Name = Annotated[str, Field(max_length=200, examples=["Erin Example"])]
MemberId = Annotated[UUID, Path(description="The member's id.")]

router = new_router()


class MemberInput(resources.Input):
    """A person."""

    email: Address
    name: Name = ""
    role: Role


class MemberChange(resources.Input):
    """What is to change. Without a value it stays."""

    email: Address | None = None
    name: Name | None = None
    role: Role | None = None


class Member(BaseModel):
    """A person of the tenant. The role bounds what the member's keys can do."""

    id: UUID
    email: str
    name: str
    role: Role
    created_at: datetime


class MemberPage(BaseModel):
    """By address. next is the cursor for after."""

    data: list[Member]
    next: str | None


class MemberKey(BaseModel):
    """A member's key without its secret."""

    id: str
    member: UUID
    name: str
    scopes: list[str] = Field(description="As it was made.")
    allowed_scopes: list[str] = Field(description="What of that the member's role allows now.")
    created_at: datetime
    requests_per_minute: int | None = Field(description="null: no limit of its own.")
    recipients_per_hour: int | None = Field(description="null: no limit of its own.")


class NewMemberKey(MemberKey):
    """A key with its secret, which is shown this once."""

    key: str


class MemberKeyList(BaseModel):
    """All of the member."""

    data: list[MemberKey]


@router.post("/members", status_code=201, response_model=Member, summary="Make a member")
@scope("members.write", TENANT)
async def make_member(request: Request, caller: Known, body: MemberInput) -> Any:
    """Without keys. The role may stand for no more than the key that asks can do."""
    _check_role(caller, body.role)
    email, name = checked_address(body.email, "/email"), check_printable(body.name)
    return await request.app.state.store.add_member(caller.tenant, email, name, body.role)


@router.get("/members", response_model=MemberPage, summary="List the tenant's members")
@scope("members.read", TENANT)
async def list_members(
    request: Request, limit: Limit = 100, after: Annotated[str, Query(max_length=254)] = ""
) -> Any:  # fmt: skip
    """By address."""
    found = await request.app.state.store.members(limit + 1, check_printable(after))
    return {"data": found[:limit], "next": found[limit - 1]["email"] if len(found) > limit else None}


@router.get("/members/{member}", response_model=Member, summary="Show a member")
@scope("members.read", TENANT)
async def show_member(request: Request, member: MemberId) -> Any:
    """With the role."""
    return await _member(request, member)


@router.patch("/members/{member}", response_model=Member, summary="Change a member")
@scope("members.write", TENANT)
async def change_member(request: Request, caller: Known, member: MemberId, body: MemberChange) -> Any:
    """A role counts at once, for keys that exist too. A member cannot lower the last owner."""
    _check_role(caller, (await _member(request, member))["role"])
    if body.role is not None:
        _check_role(caller, body.role)
    email = None if body.email is None else checked_address(body.email, "/email")
    name = None if body.name is None else check_printable(body.name)
    roles = keys.roles_within(caller.scopes)
    if not await request.app.state.store.change_member(member, roles, email, name, body.role):
        raise not_found("member")
    return await _member(request, member)


@router.delete("/members/{member}", status_code=204, response_class=Response, summary="Remove a member")
@scope("members.write", TENANT)
async def remove_member(request: Request, caller: Known, member: MemberId) -> Response:
    """With the member's keys, at once. A member cannot remove the last owner."""
    _check_role(caller, (await _member(request, member))["role"])
    if not await request.app.state.store.remove_member(member, keys.roles_within(caller.scopes)):
        raise not_found("member")
    return Response(status_code=204)


@router.post("/members/{member}/keys", status_code=201, response_model=NewMemberKey, summary="Make a key of a member")
@scope("members.write", TENANT)
async def make_member_key(request: Request, caller: Known, member: MemberId, body: resources.KeyInput) -> Any:
    """The answer shows the key; nothing shows it again. It has no scope that the role or the key that asks lacks."""
    role = (await _member(request, member))["role"]
    _check_role(caller, role)
    name, scopes = checked_key(body.name, body.scopes, keys.TENANT_SCOPES)
    assert name is not None and scopes is not None
    more = sorted(set(scopes) - set(keys.ROLES[role]))
    if more:
        problem = compose.Problem("/scopes", f"{more[0]} is not a scope of the role {role}")
        raise ApiError(422, "invalid_request", "The key cannot be as asked for.", [problem])
    made, row = await request.app.state.store.add_member_key(member, keys.roles_within(caller.scopes), name, scopes)
    return {**row, "key": made.text, "allowed_scopes": keys.allowed(scopes, role)}


@router.get("/members/{member}/keys", response_model=MemberKeyList, summary="List a member's keys")
@scope("members.read", TENANT)
async def list_member_keys(request: Request, member: MemberId) -> Any:
    """Without their secrets."""
    role = (await _member(request, member))["role"]
    found = await request.app.state.store.member_keys(member)
    return {"data": [{**row, "allowed_scopes": keys.allowed(row["scopes"], role)} for row in found]}


@router.delete(
    "/members/{member}/keys/{key_id}", status_code=204, response_class=Response, summary="Remove a member's key"
)
@scope("members.write", TENANT)
async def remove_member_key(request: Request, caller: Known, member: MemberId, key_id: KeyId) -> Response:
    """At once."""
    _check_role(caller, (await _member(request, member))["role"])
    if not await request.app.state.store.remove_member_key(member, key_id):
        raise not_found("key")
    return Response(status_code=204)


async def _member(request: Request, member: UUID) -> dict[str, Any]:
    found: list[dict[str, Any]] = await request.app.state.store.members(1, only=member)
    if not found:
        raise not_found("member")
    return found[0]


def _check_role(caller: Caller, role: str) -> None:
    """Whoever asks has all that the role stands for. A member's key cannot exceed the role, so this bounds it too."""
    if role not in keys.roles_within(caller.scopes):
        raise ApiError(403, "forbidden", f"The role {role} stands for more than the key that asks can do.")
