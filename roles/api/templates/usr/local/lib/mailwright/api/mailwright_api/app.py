# Managed by mailwright: changes are overwritten.
"""The web service. Each route declares the scope that it needs; one that declares none does not start."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from ansible_collections.mailwright.server.plugins.module_utils.sending import compose, keys
from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from . import (
    addresses,
    domains,
    emails,
    hooks,
    members,
    reports,
    resources,
    statistics,
    streams,
    templates,
    tenants,
    warmup,
)
from .outgoing import rate_headers
from .problems import MEDIA_TYPE, ApiError, not_found
from .renderer import Renderer
from .routing import (
    BASE,
    DOMAIN_HEADER,
    HOST,
    PUBLIC,
    Caller,
    KeyId,
    Known,
    Limit,
    check_printable,
    checked_address,
    checked_key,
    new_router,
    request_id,
    scope,
)
from .settings import Settings

LOG_AGE_LIMIT = 60.0
DESCRIPTION_OF_KEYS = (
    f"A key of one domain, or of a tenant. With a tenant's, the header {DOMAIN_HEADER} names the domain that the "
    "request is for; it may be left out where the tenant has one domain, and for the paths below /domains. Where "
    "x-key-of says so, the key must be a tenant's, or an operator's, which opens nothing else."
)

router = new_router()


@router.post("/api-keys", status_code=201, response_model=resources.NewKey, summary="Make a key")
@scope("api_keys.write")
async def make_key(request: Request, caller: Known, body: resources.KeyInput) -> Any:
    """The answer shows the key; nothing shows it again."""
    name, scopes = _checked(caller, body.name, body.scopes)
    assert name is not None and scopes is not None
    made, more = await request.app.state.store.add_key(caller.domain, name, scopes)
    return {
        "id": made.id, "key": made.text, "name": name, "domain": caller.domain, "scopes": scopes, "owner": "api",
        **more,
    }  # fmt: skip


@router.get("/api-keys", response_model=resources.KeyList, summary="List the domain's keys")
@scope("api_keys.read")
async def list_keys(request: Request, caller: Known) -> Any:
    """Without their secrets."""
    return {"data": await request.app.state.store.list_keys(caller.domain)}


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
    name, scopes = checked_key(name, scopes, keys.SCOPES)
    more = sorted(set(scopes or ()) - set(caller.scopes))
    if more:
        raise ApiError(403, "forbidden", f"The key that asks lacks the scope {more[0]} itself.")
    return name, scopes


StreamQuery = Annotated[
    str | None, Query(pattern=resources.STREAM_PATTERN, description="The stream; if none is named, all of the domain.")
]


@router.post("/suppressions", status_code=201, response_model=resources.Suppression, summary="Suppress an address")
@scope("suppressions.write")
async def add_suppression(request: Request, caller: Known, body: resources.SuppressionInput) -> Any:
    """Messages to it are no longer sent. An address that is suppressed already keeps its reason."""
    address = checked_address(body.address)
    if body.stream is not None:
        await streams.kind(request, caller, body.stream)
    await request.app.state.store.suppress(caller.domain, address, body.stream or "")
    return await _suppression(request, caller, address, body.stream)


@router.get("/suppressions", response_model=resources.SuppressionPage, summary="List suppressed addresses")
@scope("suppressions.read")
async def list_suppressions(
    request: Request, caller: Known, limit: Limit = 100, after: Annotated[str, Query(max_length=300)] = ""
) -> Any:
    """By address and stream."""
    address, _space, stream = check_printable(after).partition(" ")
    found = await request.app.state.store.suppressions(caller.domain, limit + 1, (address, stream))
    last = found[limit - 1] if len(found) > limit else None
    cursor = last and f"{last['address']} {last['stream'] or ''}"
    return {"data": found[:limit], "next": cursor}


AddressPath = Annotated[str, Path(max_length=254)]


@router.get("/suppressions/{address}", response_model=resources.Suppression, summary="Show a suppressed address")
@scope("suppressions.read")
async def show_suppression(request: Request, caller: Known, address: AddressPath, stream: StreamQuery = None) -> Any:
    """Why, and since when."""
    return await _suppression(request, caller, checked_address(address), stream)


@router.delete(
    "/suppressions/{address}", status_code=204, response_class=Response, summary="Let an address be written to again"
)
@scope("suppressions.write")
async def lift_suppression(
    request: Request, caller: Known, address: AddressPath, stream: StreamQuery = None
) -> Response:
    """At once. A complaint stays."""
    address = checked_address(address)
    if (await _suppression(request, caller, address, stream))["reason"] == "complaint":
        raise ApiError(409, "complaint", "The recipient complained; that is not for the sender to lift.")
    if not await request.app.state.store.lift_suppression(caller.domain, address, stream or ""):
        raise not_found("suppression")
    return Response(status_code=204)


async def _suppression(request: Request, caller: Caller, address: str, stream: str | None) -> dict[str, Any]:
    found: list[dict[str, Any]] = await request.app.state.store.suppressions(
        caller.domain, 1, only=(address, stream or "")
    )
    if not found:
        raise not_found("suppression")
    return found[0]


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
        f"process_resident_memory_bytes {resident}\n"
        + metric_lines(await request.app.state.store.figures())
        + metric_lines(await request.app.state.store.warmup_figures())
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


def _problem(request: Request, error: ApiError) -> Response:
    headers = {**error.headers, **rate_headers()}
    return JSONResponse(error.body(request_id(request)), error.status, headers, media_type=MEDIA_TYPE)


def _pointer(location: tuple[Any, ...]) -> str:
    """FastAPI's place of an error as a JSON pointer; a parameter by its name alone."""
    parts = location[1:] if location and location[0] == "body" else location[-1:]
    # half of a surrogate pair cannot be sent back
    names = (str(part)[:80].encode("utf-8", "replace").decode() for part in parts)
    return "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in names)


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

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await app.state.store.open()
        app.state.large = asyncio.Lock()
        app.state.renderer = Renderer()
        yield
        await app.state.renderer.close()
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
    for part in (emails, templates, streams, statistics, reports, warmup, hooks, addresses, domains, tenants, members):
        app.include_router(part.router)
    app.include_router(router)
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
        text["components"]["securitySchemes"] = {
            "key": {"type": "http", "scheme": "bearer", "description": DESCRIPTION_OF_KEYS}
        }
        for unused in ("HTTPValidationError", "ValidationError"):
            text["components"]["schemas"].pop(unused, None)
        for path in text["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
                problem = {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}
                operation["responses"]["default"]["content"] = {MEDIA_TYPE: problem}
        app.openapi_schema = text
    return app.openapi_schema
