# Managed by mailwright: changes are overwritten.
"""The web service. Each route declares the scope that it needs; one that declares none does not start."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple, TypeVar
from uuid import UUID, uuid4

from ansible_collections.mailwright.server.plugins.module_utils.model.values import parse_email
from ansible_collections.mailwright.server.plugins.module_utils.sending import compose, ids, keys
from fastapi import APIRouter, Depends, FastAPI, Header, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from . import resources
from .outgoing import ACTOR, Idempotency, Outgoing
from .problems import MEDIA_TYPE, ApiError, not_found
from .settings import Settings

BASE = "/api/v1"
# Nobody has to say who they are for these.
PUBLIC = "public"
# Only on the service's own socket: nginx does not pass it on.
HOST = "host"
# Composing a large message takes several times its size in memory: one at a time.
LARGE = 1_000_000
LOG_AGE_LIMIT = 60.0

F = TypeVar("F", bound=Callable[..., Any])


class Caller(NamedTuple):
    """Who asks: the key, its domain, and what it may do."""

    key_id: str
    domain: str
    scopes: tuple[str, ...]


def scope(name: str) -> Callable[[F], F]:
    """Declare what a route needs."""

    def declare(endpoint: F) -> F:
        # a function has no such attribute for the type checker; the walk over all routes reads it
        endpoint.scope = name  # type: ignore[attr-defined]
        return endpoint

    return declare


class ScopedRoute(APIRoute):
    """Asks for the key before anything of the request's body is read."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        needed = getattr(endpoint, "scope", None)
        if needed not in (*keys.SCOPES, PUBLIC, HOST):
            raise TypeError(f"{path}: declares no scope")
        self.scope: str = needed
        options["openapi_extra"] = {
            "x-scope": needed,
            **({} if needed in (PUBLIC, HOST) else {"security": [{"key": []}]}),
        }
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def run(request: Request) -> Response:
            if self.scope not in (PUBLIC, HOST):
                request.state.caller = await authenticate(request, self.scope)
            return await handler(request)

        return run


async def authenticate(request: Request, needed: str) -> Caller:
    """The key's owner. Raises ApiError: 401 without a key that is known, 403 when it lacks the scope."""
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
    if found is None or not keys.matches(key, found[2]):
        raise refused
    caller = Caller(key.id, found[0], tuple(found[1]))
    ACTOR.set(key.id)
    if needed not in caller.scopes:
        raise ApiError(403, "forbidden", f"The key lacks the scope {needed}.")
    return caller


def caller_of(request: Request) -> Caller:
    """What authenticate found."""
    caller: Caller = request.state.caller
    return caller


Known = Annotated[Caller, Depends(caller_of)]
Limit = Annotated[int, Query(ge=1, le=100, description="How many at most.")]
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

router = APIRouter(prefix=BASE, route_class=ScopedRoute)


@router.post("/emails", status_code=202, response_model=resources.AcceptedEmail, summary="Send a message")
@scope("emails.write")
async def send(
    request: Request, caller: Known, body: resources.EmailInput, idempotency_key: IdempotencyKey = None
) -> Response:
    """202 means that the message is stored on disk and will be sent."""
    async with _room(request):
        outgoing = _outgoing(request.app.state.settings, caller, body)

        def respond(suppressed: set[str]) -> dict[str, Any]:
            return _accepted(outgoing, suppressed)

        return await _accept(request, caller, [outgoing], idempotency_key, respond)


@router.post(
    "/emails/batch", status_code=202, response_model=resources.AcceptedBatch, summary="Send up to 100 messages"
)
@scope("emails.write")
async def send_batch(
    request: Request, caller: Known, body: resources.BatchInput, idempotency_key: IdempotencyKey = None
) -> Response:
    """Each message is accepted or refused by itself; those that are accepted are stored together."""
    async with _room(request):
        results: list[Outgoing | ApiError] = []
        for email in body.emails:
            try:
                results.append(_outgoing(request.app.state.settings, caller, email))
            except ApiError as error:
                results.append(error)

        def respond(suppressed: set[str]) -> dict[str, Any]:
            return {
                "data": [
                    {"email": None, "error": result.body(_request_id(request))}
                    if isinstance(result, ApiError)
                    else {"email": _accepted(result, suppressed), "error": None}
                    for result in results
                ]
            }

        outgoing = [result for result in results if not isinstance(result, ApiError)]
        return await _accept(request, caller, outgoing, idempotency_key, respond)


@asynccontextmanager
async def _room(request: Request) -> AsyncIterator[None]:
    if int(request.headers.get("content-length") or LARGE) < LARGE:
        yield
        return
    async with request.app.state.large:
        yield


def _outgoing(settings: Settings, caller: Caller, body: resources.EmailInput) -> Outgoing:
    email_id = ids.new_id()
    message_id = f"<{email_id.hex}@{caller.domain}>"
    try:
        composed = compose.compose(
            body.draft(), caller.domain, message_id, datetime.now(UTC), settings.message_size_limit
        )
    except compose.ComposeError as error:
        raise ApiError(422, "invalid_request", "The message cannot be sent as it is.", error.problems) from error
    return Outgoing(email_id, message_id, composed)


def _accepted(outgoing: Outgoing, suppressed: set[str]) -> dict[str, Any]:
    return {
        "id": str(outgoing.id),
        "message_id": outgoing.message_id,
        "recipients": [
            {"address": address, "status": "suppressed" if address.lower() in suppressed else "queued"}
            for address in outgoing.composed.recipients
        ],
    }


async def _accept(
    request: Request, caller: Caller, outgoing: list[Outgoing], idempotency_key: str | None, respond: Any
) -> JSONResponse:
    idempotency = None
    if idempotency_key is not None:
        digest = hashlib.sha256(request.url.path.encode() + b"\0" + await request.body()).digest()
        idempotency = Idempotency(idempotency_key, digest)
    if outgoing or idempotency:
        response, again = await request.app.state.store.accept(
            caller.domain, caller.key_id, outgoing, idempotency, respond
        )
    else:
        response, again = respond(set()), False
    if not again:
        request.app.state.accepted += len(outgoing)
    return JSONResponse(response, status_code=202, headers={"idempotent-replayed": "true"} if again else {})


@router.get("/emails", response_model=resources.EmailPage, summary="List messages, newest first")
@scope("emails.read")
async def list_emails(request: Request, caller: Known, limit: Limit = 20, after: UUID | None = None) -> Any:
    """With the state of each recipient."""
    found = await request.app.state.store.emails(caller.domain, limit + 1, after)
    return {"data": found[:limit], "next": str(found[limit - 1]["id"]) if len(found) > limit else None}


@router.get("/emails/{email_id}", response_model=resources.Email, summary="Show a message")
@scope("emails.read")
async def show_email(request: Request, caller: Known, email_id: EmailId) -> Any:
    """With the state of each recipient."""
    found = await request.app.state.store.emails(caller.domain, 1, only=email_id)
    if not found:
        raise not_found("message")
    return found[0]


@router.get("/emails/{email_id}/events", response_model=resources.EventPage, summary="List what happened to a message")
@scope("emails.read")
async def list_email_events(
    request: Request, caller: Known, email_id: EmailId, limit: Limit = 100, after: Annotated[int, Query(ge=0)] = 0
) -> Any:
    """Oldest first."""
    return _event_page(await request.app.state.store.events(caller.domain, limit + 1, after, email_id), limit)


@router.get(
    "/emails/{email_id}/content",
    response_class=Response,
    responses={200: {"content": {"message/rfc822": {"schema": {"type": "string", "format": "binary"}}}}},
    summary="Get the message itself",
)
@scope("emails.read")
async def get_content(request: Request, caller: Known, email_id: EmailId) -> Response:
    """As it is sent, before it is signed."""
    found = await request.app.state.store.content(caller.domain, email_id)
    if found is None:
        raise not_found("message")
    # never shown by a browser, whatever is in it
    return Response(found, media_type="message/rfc822", headers={"content-disposition": "attachment"})


@router.get("/events", response_model=resources.EventPage, summary="List what happened to all messages")
@scope("emails.read")
async def list_events(
    request: Request, caller: Known, limit: Limit = 100, after: Annotated[int, Query(ge=0, lt=2**63)] = 0
) -> Any:
    """Oldest first."""
    return _event_page(await request.app.state.store.events(caller.domain, limit + 1, after), limit)


def _event_page(found: list[dict[str, Any]] | None, limit: int) -> dict[str, Any]:
    if found is None:
        raise not_found("message")
    return {"data": found[:limit], "next": str(found[limit - 1]["id"]) if len(found) > limit else None}


@router.get("/domains", response_model=resources.DomainList, summary="List the domains that the key may send for")
@scope("domains.read")
async def list_domains(caller: Known) -> Any:
    """A key has one domain."""
    return {"data": [{"name": caller.domain}]}


@router.get("/domains/{name}", response_model=resources.Domain, summary="Show a domain")
@scope("domains.read")
async def show_domain(caller: Known, name: Annotated[str, Path(max_length=253)]) -> Any:
    """A domain of somebody else does not exist."""
    if name.lower() != caller.domain:
        raise not_found("domain")
    return {"name": caller.domain}


@router.post("/api-keys", status_code=201, response_model=resources.NewKey, summary="Make a key")
@scope("api_keys.write")
async def make_key(request: Request, caller: Known, body: resources.KeyInput) -> Any:
    """The answer shows the key; nothing shows it again."""
    name, scopes = _checked(caller, body.name, body.scopes)
    assert name is not None and scopes is not None
    made, created_at = await request.app.state.store.add_key(caller.domain, name, scopes)
    return {
        "id": made.id, "key": made.text, "name": name, "domain": caller.domain, "scopes": scopes, "owner": "api",
        "created_at": created_at,
    }  # fmt: skip


@router.get("/api-keys", response_model=resources.KeyList, summary="List the domain's keys")
@scope("api_keys.read")
async def list_keys(request: Request, caller: Known) -> Any:
    """Without their secrets."""
    return {"data": await request.app.state.store.list_keys(caller.domain)}


KeyId = Annotated[str, Path(pattern=r"^[0-9a-f]{12}$", description="The key's id.")]


@router.get("/api-keys/{key_id}", response_model=resources.Key, summary="Show a key")
@scope("api_keys.read")
async def show_key(request: Request, caller: Known, key_id: KeyId) -> Any:
    """Without its secret."""
    return await _key(request, caller, key_id)


@router.patch("/api-keys/{key_id}", response_model=resources.Key, summary="Change a key")
@scope("api_keys.write")
async def change_key(request: Request, caller: Known, key_id: KeyId, body: resources.KeyChange) -> Any:
    """What is not named stays."""
    _refuse_inventory(await _key(request, caller, key_id))
    name, scopes = _checked(caller, body.name, body.scopes)
    await request.app.state.store.change_key(caller.domain, key_id, name, scopes)
    return await _key(request, caller, key_id)


@router.delete("/api-keys/{key_id}", status_code=204, response_class=Response, summary="Remove a key")
@scope("api_keys.write")
async def remove_key(request: Request, caller: Known, key_id: KeyId) -> Response:
    """At once."""
    _refuse_inventory(await _key(request, caller, key_id))
    await request.app.state.store.remove_key(caller.domain, key_id)
    return Response(status_code=204)


async def _key(request: Request, caller: Caller, key_id: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = await request.app.state.store.list_keys(caller.domain, key_id)
    if not found:
        raise not_found("key")
    return found[0]


def _refuse_inventory(key: dict[str, Any]) -> None:
    if key["owner"] != "api":
        raise ApiError(409, "owned_by_inventory", "The key is in the server's inventory and is changed there.")


def _checked(caller: Caller, name: str | None, scopes: list[str] | None) -> tuple[str | None, list[str] | None]:
    """Name and scopes, if they are well formed and no more than the caller has."""
    problems = []
    try:
        name = None if name is None else keys.check_name(name)
    except ValueError as error:
        problems.append(compose.Problem("/name", str(error)))
    try:
        scopes = None if scopes is None else keys.check_scopes(scopes)
    except ValueError as error:
        problems.append(compose.Problem("/scopes", str(error)))
    if problems:
        raise ApiError(422, "invalid_request", "The key cannot be as asked for.", problems)
    more = sorted(set(scopes or ()) - set(caller.scopes))
    if more:
        raise ApiError(403, "forbidden", f"The key that asks lacks the scope {more[0]} itself.")
    return name, scopes


@router.post("/suppressions", status_code=201, response_model=resources.Suppression, summary="Suppress an address")
@scope("suppressions.write")
async def add_suppression(request: Request, caller: Known, body: resources.SuppressionInput) -> Any:
    """Messages to it are no longer sent. An address that is suppressed already keeps its reason."""
    address = _address(body.address)
    await request.app.state.store.suppress(caller.domain, address)
    return await _suppression(request, caller, address)


@router.get("/suppressions", response_model=resources.SuppressionPage, summary="List suppressed addresses")
@scope("suppressions.read")
async def list_suppressions(
    request: Request, caller: Known, limit: Limit = 100, after: Annotated[str, Query(max_length=254)] = ""
) -> Any:
    """By address."""
    _refuse_nul(after)
    found = await request.app.state.store.suppressions(caller.domain, limit + 1, after)
    return {"data": found[:limit], "next": found[limit - 1]["address"] if len(found) > limit else None}


AddressPath = Annotated[str, Path(max_length=254)]


@router.get("/suppressions/{address}", response_model=resources.Suppression, summary="Show a suppressed address")
@scope("suppressions.read")
async def show_suppression(request: Request, caller: Known, address: AddressPath) -> Any:
    """Why, and since when."""
    return await _suppression(request, caller, _address(address))


@router.delete(
    "/suppressions/{address}", status_code=204, response_class=Response, summary="Let an address be written to again"
)
@scope("suppressions.write")
async def lift_suppression(request: Request, caller: Known, address: AddressPath) -> Response:
    """At once."""
    if not await request.app.state.store.lift_suppression(caller.domain, _address(address)):
        raise not_found("suppression")
    return Response(status_code=204)


async def _suppression(request: Request, caller: Caller, address: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = await request.app.state.store.suppressions(caller.domain, 1, only=address)
    if not found:
        raise not_found("suppression")
    return found[0]


def _address(text: str) -> str:
    try:
        return parse_email(text).lower()
    except ValueError as error:
        raise ApiError(
            422, "invalid_request", "This is not an address.", [compose.Problem("/address", str(error))]
        ) from None


def _refuse_nul(text: str) -> None:
    if not text.isprintable():
        raise ApiError(422, "invalid_request", "A parameter holds a control character.")


@router.get("/livez", response_model=resources.Health, summary="Whether the service runs")
@scope(PUBLIC)
async def livez() -> Any:
    """Asks nothing of the database."""
    return {"status": "ok"}


@router.get("/readyz", response_model=resources.Health, summary="Whether the service can accept and send")
@scope(PUBLIC)
async def readyz(request: Request) -> Any:
    """503 when the database does not answer or the dispatcher does not follow Postfix's log."""
    age = await request.app.state.store.log_age()
    if age is None or age > LOG_AGE_LIMIT:
        raise ApiError(503, "dispatcher_down", "The dispatcher is not at work; what is accepted waits for it.")
    return {"status": "ok"}


@router.get("/metrics", response_class=PlainTextResponse, summary="Figures for Prometheus")
@scope(HOST)
async def metrics(request: Request) -> str:
    """Only on the host, by the service's socket."""
    counts = await request.app.state.store.counts()
    age = await request.app.state.store.log_age()
    with open("/proc/self/statm", encoding="ascii") as stream:
        resident = int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return (
        "# TYPE mailwright_api_accepted_total counter\n"
        f"mailwright_api_accepted_total {request.app.state.accepted}\n"
        "# TYPE mailwright_api_recipients gauge\n"
        + "".join(
            f'mailwright_api_recipients{{status="{status}"}} {counts.get(status, 0)}\n'
            for status in ("queued", "sending")
        )
        + "# TYPE mailwright_api_log_age_seconds gauge\n"
        f"mailwright_api_log_age_seconds {'NaN' if age is None else round(age, 3)}\n"
        "# TYPE process_resident_memory_bytes gauge\n"
        f"process_resident_memory_bytes {resident}\n" + metric_lines(await request.app.state.store.figures())
    )


def metric_lines(figures: list[tuple[str, str, int]]) -> str:
    """Gauges: each series of a metric behind its type."""
    lines = []
    for name, label, count in sorted(figures):
        kind = f"# TYPE mailwright_api_{name} gauge"
        if kind not in lines:
            lines.append(kind)
        labels = f'{{status="{label}"}}' if label else ""
        lines.append(f"mailwright_api_{name}{labels} {count}")
    return "".join(f"{line}\n" for line in lines)


def _request_id(request: Request) -> str:
    given = request.headers.get("x-request-id", "")
    return given if re.fullmatch(r"[0-9a-f]{32}", given) else uuid4().hex


def _problem(request: Request, error: ApiError) -> Response:
    return JSONResponse(error.body(_request_id(request)), error.status, error.headers, media_type=MEDIA_TYPE)


def _pointer(location: tuple[Any, ...]) -> str:
    """FastAPI's place of an error as a JSON pointer; a parameter by its name alone."""
    parts = location[1:] if location and location[0] == "body" else location[-1:]
    return "".join("/" + str(part)[:80].replace("~", "~0").replace("/", "~1") for part in parts)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # neither the value nor what a parser says of it: both may hold anything
    found = [compose.Problem(_pointer(entry["loc"]), str(entry["msg"])[:200]) for entry in error.errors()[:100]]
    return _problem(request, ApiError(422, "invalid_request", "The request is not as the API describes it.", found))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    return _problem(request, ApiError(error.status_code, code, str(error.detail), headers=dict(error.headers or {})))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _problem(request, error)


async def _failed(request: Request, _error: Exception) -> Response:
    # Starlette raises it again afterwards, so that it is in the journal
    return _problem(request, ApiError(500, "internal", "The service made a mistake; its log says which."))


def build_app(store: Any, settings: Settings | None) -> FastAPI:
    """The application over a Store. Without one it can only describe itself."""
    # its routes are made of what this module defines
    from . import hooks

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await app.state.store.open()
        app.state.large = asyncio.Lock()
        yield
        await app.state.store.close()

    app = FastAPI(
        title="mailwright sending API",
        version="1",
        description="Send mail from a hosted domain, and see what becomes of it.",
        openapi_url=f"{BASE}/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        separate_input_output_schemas=False,
        responses={"default": {"model": resources.ProblemDetails, "description": "RFC 9457"}},
    )
    app.state.store, app.state.settings, app.state.accepted = store, settings, 0
    app.include_router(router)
    app.include_router(hooks.router)
    app.exception_handlers |= {
        ApiError: _refused, HTTPException: _http, RequestValidationError: _invalid, Exception: _failed
    }  # fmt: skip
    # how FastAPI documents that its description is replaced
    app.openapi = lambda: openapi(app)  # type: ignore[method-assign]
    return app


def openapi(app: FastAPI) -> dict[str, Any]:
    """The description: problems as they are sent, and how to send the key."""
    if app.openapi_schema is None:
        text = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        text["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for unused in ("HTTPValidationError", "ValidationError"):
            text["components"]["schemas"].pop(unused, None)
        for path in text["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
                problem = {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}
                operation["responses"]["default"]["content"] = {MEDIA_TYPE: problem}
        app.openapi_schema = text
    return app.openapi_schema
