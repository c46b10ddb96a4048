# Managed by mailwright: changes are overwritten.
"""Mailboxes and aliases of the key's domain. Those of the inventory are shown, and changed there alone."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from ansible_collections.mailwright.server.plugins.module_utils.directory import passwords
from ansible_collections.mailwright.server.plugins.module_utils.model import values
from ansible_collections.mailwright.server.plugins.module_utils.sending.compose import Problem, domain_of
from fastapi import Path, Query, Request, Response
from pydantic import BaseModel, Field

from .problems import ApiError, not_found
from .resources import Input
from .routing import Caller, Known, Limit, check_printable, new_router, scope

MOST_DESTINATIONS = 100

T = TypeVar("T")
Owner = Literal["inventory", "api"]
AddressPath = Annotated[str, Path(max_length=254, description="The full address.")]
After = Annotated[str, Query(max_length=254, description="The address after which to go on.")]
Quota = Annotated[int, Field(ge=0, le=values.LARGEST_SIZE, description="0 is unlimited.")]
Password = Annotated[str, Field(max_length=1024, description="Plain; stored as an Argon2id hash.")]
Hash = Annotated[str, Field(max_length=1024, description="Instead of password, in Dovecot's form.")]
Destinations = Annotated[list[Annotated[str, Field(max_length=508)]], Field(min_length=1, max_length=MOST_DESTINATIONS)]

router = new_router()


class MailboxInput(Input):
    """A mailbox. Either password or password_hash is to be given."""

    address: str = Field(max_length=254, examples=["alice@acme.example"])
    display_name: str = Field(default="", max_length=1000)
    password: Password | None = None
    password_hash: Hash | None = None
    quota_bytes: Quota = 0
    enabled: bool = True


class MailboxChange(Input):
    """What is to change."""

    display_name: str | None = Field(default=None, max_length=1000)
    password: Password | None = None
    password_hash: Hash | None = None
    quota_bytes: Quota | None = None
    enabled: bool | None = None


class Mailbox(BaseModel):
    """A mailbox, without its password."""

    address: str
    display_name: str
    quota_bytes: int
    enabled: bool
    owner: Owner


class MailboxPage(BaseModel):
    """By address. next is the cursor for after."""

    data: list[Mailbox]
    next: str | None


class AliasInput(Input):
    """An alias; @domain takes what no other address of the domain does."""

    address: str = Field(max_length=254, examples=["sales@acme.example", "@acme.example"])
    destinations: Destinations


class AliasChange(Input):
    """What is to change."""

    destinations: Destinations


class Alias(BaseModel):
    """An address whose mail goes to others."""

    address: str
    destinations: list[str]
    owner: Owner


class AliasPage(BaseModel):
    """By address. next is the cursor for after."""

    data: list[Alias]
    next: str | None


@router.post("/mailboxes", status_code=201, response_model=Mailbox, summary="Make a mailbox")
@scope("mailboxes.write")
async def make_mailbox(request: Request, caller: Known, body: MailboxInput) -> Any:
    """It receives at once, and its owner can log in."""
    checks = _Checks()
    address = checks.take("/address", lambda: _address(caller, body.address, values.parse_mailbox_name))
    row = await _columns(request, checks, body)
    if address is not None and row["password"] is None and not checks.problems:
        checks.problems.append(Problem("/password", "is missing: write one, or a password_hash"))
    checks.end("The mailbox cannot be as asked for.")
    assert address is not None
    await request.app.state.store.add_mailbox(
        caller.domain, {**row, "address": address, "local_part": address.partition("@")[0]}
    )
    return await _mailbox(request, caller, address)


@router.get("/mailboxes", response_model=MailboxPage, summary="List the domain's mailboxes")
@scope("mailboxes.read")
async def list_mailboxes(request: Request, caller: Known, limit: Limit = 100, after: After = "") -> Any:
    """Those of the inventory too."""
    found = await request.app.state.store.mailboxes(caller.domain, limit + 1, check_printable(after))
    return _page(found, limit)


@router.get("/mailboxes/{address}", response_model=Mailbox, summary="Show a mailbox")
@scope("mailboxes.read")
async def show_mailbox(request: Request, caller: Known, address: AddressPath) -> Any:
    """Without its password."""
    return await _mailbox(request, caller, address)


@router.patch("/mailboxes/{address}", response_model=Mailbox, summary="Change a mailbox")
@scope("mailboxes.write")
async def change_mailbox(request: Request, caller: Known, address: AddressPath, body: MailboxChange) -> Any:
    """What is not named stays."""
    found = _own("mailbox", await _mailbox(request, caller, address))
    checks = _Checks()
    change = await _columns(request, checks, body)
    checks.end("The mailbox cannot be as asked for.")
    await request.app.state.store.change_mailbox(caller.domain, found["address"], change)
    return await _mailbox(request, caller, address)


@router.delete("/mailboxes/{address}", status_code=204, response_class=Response, summary="Remove a mailbox")
@scope("mailboxes.write")
async def remove_mailbox(request: Request, caller: Known, address: AddressPath) -> Response:
    """Its mail stays on the host, and is there again if the mailbox is."""
    found = _own("mailbox", await _mailbox(request, caller, address))
    await request.app.state.store.remove_mailbox(caller.domain, found["address"])
    return Response(status_code=204)


@router.post("/aliases", status_code=201, response_model=Alias, summary="Make an alias")
@scope("aliases.write")
async def make_alias(request: Request, caller: Known, body: AliasInput) -> Any:
    """Mail to its address goes to each destination. Mailboxes of the domain that are one may send as the alias."""
    checks = _Checks()
    address = checks.take("/address", lambda: _address(caller, body.address, values.parse_local_part, catch_all=True))
    destinations = _destinations(caller, checks, body.destinations)
    checks.end("The alias cannot be as asked for.")
    await request.app.state.store.add_alias(caller.domain, address, destinations)
    return await _alias(request, caller, str(address))


@router.get("/aliases", response_model=AliasPage, summary="List the domain's aliases")
@scope("aliases.read")
async def list_aliases(request: Request, caller: Known, limit: Limit = 100, after: After = "") -> Any:
    """Those of the inventory too."""
    found = await request.app.state.store.aliases(caller.domain, limit + 1, check_printable(after))
    return _page(found, limit)


@router.get("/aliases/{address}", response_model=Alias, summary="Show an alias")
@scope("aliases.read")
async def show_alias(request: Request, caller: Known, address: AddressPath) -> Any:
    """Where it leads."""
    return await _alias(request, caller, address)


@router.patch("/aliases/{address}", response_model=Alias, summary="Change where an alias leads")
@scope("aliases.write")
async def change_alias(request: Request, caller: Known, address: AddressPath, body: AliasChange) -> Any:
    """To these destinations instead."""
    found = _own("alias", await _alias(request, caller, address))
    checks = _Checks()
    destinations = _destinations(caller, checks, body.destinations)
    checks.end("The alias cannot be as asked for.")
    await request.app.state.store.change_alias(caller.domain, found["address"], destinations)
    return await _alias(request, caller, address)


@router.delete("/aliases/{address}", status_code=204, response_class=Response, summary="Remove an alias")
@scope("aliases.write")
async def remove_alias(request: Request, caller: Known, address: AddressPath) -> Response:
    """At once."""
    found = _own("alias", await _alias(request, caller, address))
    await request.app.state.store.remove_alias(caller.domain, found["address"])
    return Response(status_code=204)


class _Checks:
    """Collects what is wrong with a request, each with its place."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def take(self, pointer: str, parse: Callable[[], T]) -> T | None:
        try:
            return parse()
        except ValueError as error:
            self.problems.append(Problem(pointer, str(error)))
            return None

    def end(self, detail: str) -> None:
        if self.problems:
            raise ApiError(422, "invalid_request", detail, self.problems)


async def _columns(request: Request, checks: _Checks, body: MailboxInput | MailboxChange) -> dict[str, Any]:
    """The columns that the request names, the others None; of the password its hash."""
    name, plain, given = body.display_name, body.password, body.password_hash
    row: dict[str, Any] = {
        "display_name": name and checks.take("/display_name", lambda: values.parse_text(name)),
        "quota_bytes": body.quota_bytes and checks.take("/quota_bytes", lambda: values.parse_size(body.quota_bytes)),
        "enabled": body.enabled,
        "password": None,
    }
    if plain is not None and given is not None:
        checks.problems.append(Problem("/password_hash", "is given beside password: give only one of them"))
    elif given is not None:
        row["password"] = checks.take("/password_hash", lambda: values.parse_password_hash(given))
    elif plain is not None:
        checks.take("/password", lambda: values.parse_password(plain))
    if plain is not None and not checks.problems:
        # each takes its time and 19 MiB: one at a time, and others are served meanwhile
        async with request.app.state.large:
            row["password"] = (await asyncio.to_thread(passwords.hash_all, {"": plain}))[""]
    return row


def _address(caller: Caller, text: str, parse: Callable[[str], str], *, catch_all: bool = False) -> str:
    local_part, _at, domain = text.rpartition("@")
    if domain.lower() != caller.domain:
        raise ValueError(f"is not of {caller.domain}, the domain that the key is for")
    if catch_all and not local_part:
        return f"@{caller.domain}"
    return values.join_address(parse(local_part), caller.domain)


def _destinations(caller: Caller, checks: _Checks, given: list[str]) -> list[str]:
    found = [
        checks.take(f"/destinations/{index}", functools.partial(_destination, caller, text))
        for index, text in enumerate(given)
    ]
    return list(dict.fromkeys(address for address in found if address is not None))


def _destination(caller: Caller, text: str) -> str:
    address = values.parse_email(text)
    if domain_of(address) == caller.domain:
        return address.lower()
    if address.endswith(".mailwright.invalid"):
        raise ValueError("leads into the server itself")
    return address


async def _mailbox(request: Request, caller: Caller, address: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = await request.app.state.store.mailboxes(caller.domain, 1, only=_known(address))
    if not found:
        raise not_found("mailbox")
    return found[0]


async def _alias(request: Request, caller: Caller, address: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = await request.app.state.store.aliases(caller.domain, 1, only=_known(address))
    if not found:
        raise not_found("alias")
    return found[0]


def _known(address: str) -> str:
    return check_printable(address).lower()


def _own(what: str, found: dict[str, Any]) -> dict[str, Any]:
    if found["owner"] != "api":
        raise ApiError(409, "owned_by_inventory", f"The {what} is in the server's inventory and is changed there.")
    return found


def _page(found: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    return {"data": found[:limit], "next": found[limit - 1]["address"] if len(found) > limit else None}
