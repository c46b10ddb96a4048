# Managed by mailwright: changes are overwritten.
"""Streams: mail of one kind, with suppressions of its own. And the link by which a recipient leaves one (RFC 8058)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from ansible_collections.mailwright.server.plugins.module_utils.sending.compose import Problem
from ansible_collections.mailwright.server.plugins.module_utils.sending.envelope import TOKEN
from fastapi import Path, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from . import resources
from .problems import ApiError, not_found
from .routing import PUBLIC, Caller, Known, new_router, scope

Kind = Literal["transactional", "broadcast"]
# Every domain has these.
BUILT_IN: tuple[Kind, ...] = ("transactional", "broadcast")
MOST_STREAMS = 100

StreamPath = Annotated[str, Path(pattern=resources.STREAM_PATTERN, description="The stream's name.")]
Token = Annotated[str, Path(pattern=f"^{TOKEN}$", description="Of one message to one recipient.")]

# Not a word of it is anybody else's. GET must not unsubscribe: programs follow links, to look for viruses, say.
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="robots" content="noindex"><title>Unsubscribe</title></head>
<body><h1>Unsubscribe</h1>{body}</body></html>
"""
_QUESTION = '<p>Do you no longer want these messages?</p><form method="post"><button>Unsubscribe</button></form>'
_DONE = "<p>You will get no more of these messages.</p>"
_HEADERS = {"referrer-policy": "no-referrer", "cache-control": "no-store"}

router = new_router()


class StreamInput(resources.Input):
    """A stream."""

    name: resources.StreamName
    kind: Kind


class Stream(BaseModel):
    """Messages of a broadcast stream get a link to unsubscribe from it, each recipient his own."""

    name: str
    kind: Kind
    built_in: bool
    created_at: datetime | None


class StreamList(BaseModel):
    """All of the domain."""

    data: list[Stream]


@router.post("/streams", status_code=201, response_model=Stream, summary="Make a stream")
@scope("streams.write")
async def make_stream(request: Request, caller: Known, body: StreamInput) -> Any:
    """A name that was used before has the suppressions of then."""
    if body.name in BUILT_IN or not await request.app.state.store.add_stream(
        caller.domain, body.name, body.kind, MOST_STREAMS
    ):
        raise ApiError(
            409, "name_taken", f"The domain has a stream of this name already, or {MOST_STREAMS} other ones."
        )
    return await _stream(request, caller, body.name)


@router.get("/streams", response_model=StreamList, summary="List the domain's streams")
@scope("streams.read")
async def list_streams(request: Request, caller: Known) -> Any:
    """With those that every domain has."""
    return {"data": [*map(_built_in, BUILT_IN), *await request.app.state.store.streams(caller.domain)]}


@router.get("/streams/{stream}", response_model=Stream, summary="Show a stream")
@scope("streams.read")
async def show_stream(request: Request, caller: Known, stream: StreamPath) -> Any:
    """Its kind."""
    return await _stream(request, caller, stream)


@router.delete("/streams/{stream}", status_code=204, response_class=Response, summary="Remove a stream")
@scope("streams.write")
async def remove_stream(request: Request, caller: Known, stream: StreamPath) -> Response:
    """What was sent on it stays, and so do its suppressions: nobody is subscribed again by making it anew."""
    if stream in BUILT_IN:
        raise ApiError(409, "built_in", "Every domain has this stream.")
    if not await request.app.state.store.remove_stream(caller.domain, stream):
        raise not_found("stream")
    return Response(status_code=204)


def _built_in(name: Kind) -> dict[str, Any]:
    return {"name": name, "kind": name, "built_in": True, "created_at": None}


async def _stream(request: Request, caller: Caller, name: str) -> dict[str, Any]:
    for known in BUILT_IN:
        if name == known:
            return _built_in(known)
    found: list[dict[str, Any]] = await request.app.state.store.streams(caller.domain, name)
    if not found:
        raise not_found("stream")
    return found[0]


async def kind(request: Request, caller: Caller, name: str) -> Kind:
    """Of the stream that a message names. Raises ApiError."""
    try:
        found: Kind = (await _stream(request, caller, name))["kind"]
    except ApiError as error:
        if error.status != 404:
            raise
        problem = Problem("/stream", "is not a stream of the domain")
        raise ApiError(422, "invalid_request", "The message cannot be sent as it is.", [problem]) from error
    return found


PAGE: dict[int | str, dict[str, Any]] = {200: {"content": {"text/html": {"schema": {"type": "string"}}}}}


@router.get("/unsubscribe/{token}", response_class=HTMLResponse, responses=PAGE, summary="Ask whether to unsubscribe")
@scope(PUBLIC)
async def ask_unsubscribe(token: Token) -> Response:
    """For people: a page with a button."""
    del token
    return HTMLResponse(_PAGE.format(body=_QUESTION), headers=_HEADERS)


@router.post("/unsubscribe/{token}", response_class=HTMLResponse, responses=PAGE, summary="Unsubscribe")
@scope(PUBLIC)
async def unsubscribe(request: Request, token: Token) -> Response:
    """By a mail program (RFC 8058), or by the button. Done twice, it changes nothing."""
    if not await request.app.state.store.unsubscribe(token):
        raise not_found("subscription")
    return HTMLResponse(_PAGE.format(body=_DONE), headers=_HEADERS)
