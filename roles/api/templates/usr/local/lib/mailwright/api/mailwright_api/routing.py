# Managed by mailwright: changes are overwritten.
"""What all routes have in common: the key, its kind and scope, and the parameters that many of them take."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar
from uuid import UUID, uuid4

from ansible_collections.mailwright.server.plugins.module_utils.model.values import parse_email
from ansible_collections.mailwright.server.plugins.module_utils.sending import compose, keys
from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.routing import APIRoute

from .outgoing import ACTOR, LIMITED, OWN_TENANT, rate_headers
from .problems import ApiError, not_found

BASE = "/api/v1"
# Nobody has to say who they are for these.
PUBLIC = "public"
# Only on the service's own socket: nginx does not pass it on.
HOST = "host"
# Whose keys a route is for: of a domain or a tenant, of a tenant alone, of an operator. And what each may be given.
ANY, TENANT, OPERATOR = "any", "tenant", "operator"
SCOPES = {ANY: keys.SCOPES, TENANT: keys.TENANT_SCOPES, OPERATOR: keys.OPERATOR_SCOPES}
KINDS = {ANY: ("domain", "tenant", "member"), TENANT: ("tenant", "member"), OPERATOR: ("operator",)}
# For which domain of a tenant a request is.
DOMAIN_HEADER = "Mail-Domain"
# Composing a large message takes several times its size in memory: one at a time.
LARGE = 1_000_000

F = TypeVar("F", bound=Callable[..., Any])


class Caller(NamedTuple):
    """Who asks: the key, its tenant if it has one, the domains that it reaches, the one that the request is for, and
    what the key may do."""

    key_id: str
    tenant: str
    domains: tuple[str, ...]
    chosen: str
    scopes: tuple[str, ...]

    @property
    def domain(self) -> str:
        """Raises ApiError when the request does not say which of several it is for."""
        if not self.chosen:
            detail = f"Name the domain that this is for in the header {DOMAIN_HEADER}; GET {BASE}/domains lists them."
            raise ApiError(422, "invalid_request", detail)
        return self.chosen


def scope(name: str, whose: str = ANY) -> Callable[[F], F]:
    """Declare what a route needs, and whose keys it is for."""

    def declare(endpoint: F) -> F:
        # a function has no such attributes for the type checker; the walk over all routes reads them
        endpoint.scope, endpoint.whose = name, whose  # type: ignore[attr-defined]
        return endpoint

    return declare


class ScopedRoute(APIRoute):
    """Asks for the key before anything of the request's body is read."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        needed, self.whose = getattr(endpoint, "scope", None), getattr(endpoint, "whose", ANY)
        if needed not in (*SCOPES[self.whose], PUBLIC, HOST):
            raise TypeError(f"{path}: declares no scope")
        self.scope: str = needed
        options["openapi_extra"] = {
            "x-scope": needed,
            **({} if self.whose == ANY else {"x-key-of": self.whose}),
            **({} if needed in (PUBLIC, HOST) else {"security": [{"key": []}]}),
        }
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def run(request: Request) -> Response:
            if self.scope not in (PUBLIC, HOST):
                request.state.caller = await authenticate(request, self.scope, self.whose)
            response = await handler(request)
            response.headers.update(rate_headers())
            return response

        return run


async def authenticate(request: Request, needed: str, whose: str) -> Caller:
    """The key's owner. Raises ApiError: 401 without a key that is known, 403 when it lacks the scope or is of another
    kind, 429 when it or its domain asks too often."""
    kind, _space, text = request.headers.get("authorization", "").partition(" ")
    refused = ApiError(
        401, "unauthorized", "Send a valid key: Authorization: Bearer mw_…", headers={"www-authenticate": "Bearer"}
    )
    if kind.lower() != "bearer":
        raise refused
    try:
        key = keys.parse(text.strip())
    except ValueError:
        raise refused from None
    found = await request.app.state.store.find_key(key.id)
    if found is None or not keys.matches(key, found.hash):
        raise refused
    ACTOR.set(key.id)
    OWN_TENANT.set(found.tenant)
    caller = Caller(key.id, found.tenant, found.domains, choose(request, found.domains), found.scopes)
    LIMITED.set(found.limited)
    if found.limited:
        await request.app.state.store.count_request(caller.chosen)
    if needed not in caller.scopes:
        raise ApiError(403, "forbidden", f"The key lacks the scope {needed}.")
    if found.kind not in KINDS[whose]:
        raise ApiError(403, "forbidden", f"This is for keys of {'an operator' if whose == OPERATOR else 'a tenant'}.")
    return caller


def choose(request: Request, domains: Sequence[str]) -> str:
    """The domain that the header names, or the only one; '' when it is left open. Raises ApiError."""
    named = request.headers.get(DOMAIN_HEADER, "").lower()
    if named and named not in domains:
        raise not_found("domain")
    return named or (domains[0] if len(domains) == 1 else "")


def caller_of(request: Request) -> Caller:
    """What authenticate found."""
    caller: Caller = request.state.caller
    return caller


Known = Annotated[Caller, Depends(caller_of)]
Limit = Annotated[int, Query(ge=1, le=100, description="How many at most.")]
KeyId = Annotated[str, Path(pattern=r"^[0-9a-f]{12}$", description="The key's id.")]
EmailId = Annotated[UUID, Path(description="The message's id.")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[!-~]{1,255}$",
        description="Any text of yours for this request. Sent again within 24 hours, it gives the same answer, and "
        "nothing is sent twice.",
    ),
]

# bigint's
EventCursor = Annotated[int, Query(ge=0, lt=2**63, description="The event after which to go on.")]


def new_router() -> APIRouter:
    """A router whose routes each declare a scope."""
    return APIRouter(prefix=BASE, route_class=ScopedRoute)


def request_id(request: Request) -> str:
    """What nginx called the request, so that its log can be found."""
    given = request.headers.get("x-request-id", "")
    return given if re.fullmatch(r"[0-9a-f]{32}", given) else uuid4().hex


def checked_address(text: str, pointer: str = "/address") -> str:
    """The address in small letters. Raises ApiError."""
    try:
        return parse_email(text).lower()
    except ValueError as error:
        raise ApiError(
            422, "invalid_request", "This is not an address.", [compose.Problem(pointer, str(error))]
        ) from None


def checked_key(
    name: str | None, scopes: list[str] | None, known: Sequence[str]
) -> tuple[str | None, list[str] | None]:  # fmt: skip
    """Name and scopes of a key, if they are well formed. Raises ApiError."""
    problems = []
    try:
        name = None if name is None else keys.check_name(name)
    except ValueError as error:
        problems.append(compose.Problem("/name", str(error)))
    try:
        scopes = None if scopes is None else keys.check_scopes(scopes, known)
    except ValueError as error:
        problems.append(compose.Problem("/scopes", str(error)))
    if problems:
        raise ApiError(422, "invalid_request", "The key cannot be as asked for.", problems)
    return name, scopes


def check_printable(text: str) -> str:
    """The parameter, if PostgreSQL can compare it: a NUL or half of a surrogate pair is no text there."""
    if not text.isprintable():
        raise ApiError(422, "invalid_request", "A parameter holds a control character.")
    return text
