# Managed by mailwright: changes are overwritten.
"""Messages: sending them now or later, changing one's mind, and what became of them."""

from __future__ import annotations

import email
import email.policy
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage, MIMEPart
from typing import Annotated, Any, Literal
from uuid import UUID

from ansible_collections.mailwright.server.plugins.module_utils.sending import compose, ids, raw, suppression
from fastapi import Header, Path, Request, Response
from fastapi.responses import JSONResponse

from . import resources, streams, templates
from .outgoing import Idempotency, Outgoing
from .problems import ApiError, not_found
from .routing import LARGE, Caller, EventCursor, Known, Limit, new_router, request_id, scope

FURTHEST = timedelta(hours=72)
BINARY = {"schema": {"type": "string", "format": "binary"}}

EmailId = Annotated[UUID, Path(description="The message's id.")]
EventId = Annotated[int, Path(ge=1, lt=2**63, description="The event's id.")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[!-~]{1,255}$",
        description="Any text of yours for this request. Sent again within 24 hours, it gives the same answer, and "
        "nothing is sent twice.",
    ),
]

router = new_router()


@router.post("/emails", status_code=202, response_model=resources.AcceptedEmail, summary="Send a message")
@scope("emails.write")
async def send(
    request: Request, caller: Known, body: resources.EmailInput, idempotency_key: IdempotencyKey = None
) -> Response:
    """202 means that the message is stored on disk and will be sent."""
    async with _room(request):
        return await _accept_one(request, caller, await _outgoing(request, caller, body), idempotency_key)


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
        for entry in body.emails:
            try:
                results.append(await _outgoing(request, caller, entry))
            except ApiError as error:
                if error.status >= 500:
                    raise
                results.append(error)

        def respond(suppressed: set[tuple[str, str]]) -> dict[str, Any]:
            return {
                "data": [
                    {"email": None, "error": result.body(request_id(request))}
                    if isinstance(result, ApiError)
                    else {"email": _accepted(result, suppressed), "error": None}
                    for result in results
                ]
            }

        outgoing = [result for result in results if not isinstance(result, ApiError)]
        return await _accept(request, caller, outgoing, idempotency_key, respond)


@router.post(
    "/emails/raw", status_code=202, response_model=resources.AcceptedEmail, summary="Send a message that is written"
)
@scope("emails.write")
async def send_raw(
    request: Request, caller: Known, body: resources.RawInput, idempotency_key: IdempotencyKey = None
) -> Response:
    """Its headers Date and Message-ID are added where they are missing, Bcc is taken out, the rest stays as it is."""
    async with _room(request):
        email_id, message_id = _new_ids(caller)
        try:
            made = raw.compose(
                raw.Draft(body.to, body.content), caller.domain, message_id, datetime.now(UTC),
                request.app.state.settings.message_size_limit,
            )  # fmt: skip
        except compose.ComposeError as error:
            raise _refused(error.problems) from error
        own_link = b"\nlist-unsubscribe:" in made.composed.content.partition(b"\r\n\r\n")[0].lower()
        outgoing = await _dispatched(request, caller, body, email_id, made.message_id, made.composed, own_link)
        return await _accept_one(request, caller, outgoing, idempotency_key)


@router.post("/emails/validate", response_model=resources.ValidEmail, summary="Check a message without sending it")
@scope("emails.write")
async def validate(request: Request, caller: Known, body: resources.EmailInput) -> Any:
    """What sending it would say, problems included."""
    async with _room(request):
        outgoing = await _outgoing(request, caller, body)
    composed = outgoing.composed
    suppressed = await request.app.state.store.suppressed(caller.domain, [outgoing])
    return {
        "size": len(composed.content), "sender": composed.sender, "subject": composed.subject,
        "recipients": _accepted(outgoing, suppressed)["recipients"],
    }  # fmt: skip


@asynccontextmanager
async def _room(request: Request) -> AsyncIterator[None]:
    if int(request.headers.get("content-length") or LARGE) < LARGE:
        yield
        return
    async with request.app.state.large:
        yield


def _new_ids(caller: Caller) -> tuple[UUID, str]:
    email_id = ids.new_id()
    return email_id, f"<{email_id.hex}@{caller.domain}>"


def _refused(problems: list[compose.Problem]) -> ApiError:
    return ApiError(422, "invalid_request", "The message cannot be sent as it is.", problems)


async def _outgoing(request: Request, caller: Caller, body: resources.EmailInput) -> Outgoing:
    email_id, message_id = _new_ids(caller)
    draft = body.draft()
    if body.template is not None:
        given = [name for name in ("subject", "text", "html") if getattr(body, name) is not None]
        if given:
            raise _refused([compose.Problem(f"/{name}", "is what the template makes") for name in given])
        parts = await templates.fill(request, caller, body.template)
        draft = draft._replace(subject=parts["subject"], text=parts["text"], html=parts["html"])
    elif body.subject is None:
        raise _refused([compose.Problem("/subject", "is missing")])
    try:
        composed = compose.compose(
            draft, caller.domain, message_id, datetime.now(UTC), request.app.state.settings.message_size_limit
        )
    except compose.ComposeError as error:
        raise _refused(error.problems) from error
    own_link = any(name.lower() == "list-unsubscribe" for name in body.headers)
    return await _dispatched(request, caller, body, email_id, message_id, composed, own_link)


async def _dispatched(
    request: Request, caller: Caller, body: resources.Dispatch, email_id: UUID, message_id: str,
    composed: compose.Composed, own_link: bool,
) -> Outgoing:  # fmt: skip
    """The message with how and when it is to be sent. own_link: it says itself how to unsubscribe."""
    kind = await streams.kind(request, caller, body.stream)
    send_at = None if body.send_at is None else _time(body.send_at)
    unsubscribe = kind == "broadcast" and not own_link
    return Outgoing(email_id, message_id, composed, body.stream, unsubscribe, send_at, body.valid_for)


def _time(text: str) -> datetime:
    """When to send. What is past is now. Raises ApiError."""
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is None:
            raise ValueError(text)
        found = found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise _refused([compose.Problem("/send_at", "is not a time such as 2026-11-26T18:00:00Z")]) from None
    now = datetime.now(UTC)
    if found > now + FURTHEST:
        raise _refused([compose.Problem("/send_at", "is more than 72 hours ahead")])
    return max(found, now)


def _accepted(outgoing: Outgoing, suppressed: set[tuple[str, str]]) -> dict[str, Any]:
    return {
        "id": str(outgoing.id),
        "message_id": outgoing.message_id,
        "recipients": [
            {"address": address, "status": "suppressed" if outgoing.is_suppressed(address, suppressed) else "queued"}
            for address in outgoing.composed.recipients
        ],
    }


async def _accept_one(request: Request, caller: Caller, outgoing: Outgoing, idempotency_key: str | None) -> Response:
    def respond(suppressed: set[tuple[str, str]]) -> dict[str, Any]:
        return _accepted(outgoing, suppressed)

    return await _accept(request, caller, [outgoing], idempotency_key, respond)


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
    return await _email(request, caller, email_id)


async def _email(request: Request, caller: Caller, email_id: UUID) -> dict[str, Any]:
    found: list[dict[str, Any]] = await request.app.state.store.emails(caller.domain, 1, only=email_id)
    if not found:
        raise not_found("message")
    return found[0]


@router.patch("/emails/{email_id}", response_model=resources.Email, summary="Send a message at another time")
@scope("emails.write")
async def reschedule(request: Request, caller: Known, email_id: EmailId, body: resources.EmailChange) -> Any:
    """As long as it waits here; 409 afterwards."""
    await _email(request, caller, email_id)
    if not await request.app.state.store.reschedule(caller.domain, email_id, _time(body.send_at)):
        raise _too_late()
    return await _email(request, caller, email_id)


@router.post("/emails/{email_id}/cancel", response_model=resources.Email, summary="Cancel a message")
@scope("emails.write")
async def cancel(request: Request, caller: Known, email_id: EmailId) -> Any:
    """For each recipient for whom it waits here; 409 when there is none. What the mail server has goes its way."""
    await _email(request, caller, email_id)
    if not await request.app.state.store.cancel(caller.domain, email_id):
        raise _too_late()
    return await _email(request, caller, email_id)


def _too_late() -> ApiError:
    return ApiError(409, "too_late", "The message waits for nobody any more: it was sent, cancelled or expired.")


@router.post("/emails/{email_id}/retry", response_model=resources.Email, summary="Send a message that failed again")
@scope("emails.write")
async def retry(request: Request, caller: Known, email_id: EmailId) -> Any:
    """To each address where its last attempt was rejected, bounced, expired or cancelled, unless it is suppressed."""
    await _email(request, caller, email_id)
    if not await request.app.state.store.retry(caller.domain, email_id):
        raise ApiError(409, "nothing_to_retry", "The message failed nowhere, or only where it is suppressed now.")
    return await _email(request, caller, email_id)


@router.get("/emails/{email_id}/events", response_model=resources.EventPage, summary="List what happened to a message")
@scope("emails.read")
async def list_email_events(
    request: Request, caller: Known, email_id: EmailId, limit: Limit = 100, after: EventCursor = 0
) -> Any:
    """Oldest first."""
    found = await request.app.state.store.events(caller.domain, limit + 1, after, email_id)
    if found is None:
        raise not_found("message")
    return _event_page(found, limit)


@router.get(
    "/emails/{email_id}/content",
    response_class=Response,
    responses={200: {"content": {"message/rfc822": BINARY}}},
    summary="Get the message itself",
)
@scope("emails.read")
async def get_content(request: Request, caller: Known, email_id: EmailId) -> Response:
    """As it is sent, before it is signed, and without the link to unsubscribe, which each recipient has his own of."""
    # never shown by a browser, whatever is in it
    return Response(
        await _content(request, caller, email_id),
        media_type="message/rfc822",
        headers={"content-disposition": "attachment"},
    )


async def _content(request: Request, caller: Caller, email_id: UUID) -> bytes:
    found: bytes | None = await request.app.state.store.content(caller.domain, email_id)
    if found is None:
        raise not_found("message")
    return found


@router.get(
    "/emails/{email_id}/attachments", response_model=resources.AttachmentList, summary="List a message's attachments"
)
@scope("emails.read")
async def list_attachments(request: Request, caller: Known, email_id: EmailId) -> Any:
    """Of the outermost message; one that is attached is one attachment."""
    async with request.app.state.large:
        parts = _attachments(await _content(request, caller, email_id))
        return {
            "data": [
                {
                    "number": number, "filename": part.get_filename() or "", "content_type": part.get_content_type(),
                    "size": len(_decoded(part)),
                }
                for number, part in enumerate(parts)
            ]
        }  # fmt: skip


@router.get(
    "/emails/{email_id}/attachments/{number}",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": BINARY}}},
    summary="Get an attachment",
)
@scope("emails.read")
async def get_attachment(
    request: Request, caller: Known, email_id: EmailId, number: Annotated[int, Path(ge=0, le=1000)]
) -> Response:
    """Decoded."""
    async with request.app.state.large:
        parts = _attachments(await _content(request, caller, email_id))
        if number >= len(parts):
            raise not_found("attachment")
        return Response(
            _decoded(parts[number]),
            media_type="application/octet-stream",
            headers={"content-disposition": "attachment"},
        )


def _attachments(content: bytes) -> list[MIMEPart]:
    message = email.message_from_bytes(content, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return [part for part in message.iter_parts() if part.is_attachment()] if message.is_multipart() else []


def _decoded(part: MIMEPart) -> bytes:
    """Its content; that of an attached message is its text."""
    found = part.get_payload(decode=True)
    return found if isinstance(found, bytes) else b"".join(entry.as_bytes() for entry in part.iter_parts())


@router.get("/events", response_model=resources.EventPage, summary="List what happened to all messages")
@scope("emails.read")
async def list_events(
    request: Request, caller: Known, limit: Limit = 100, after: EventCursor = 0, kind: resources.Kind | None = None
) -> Any:
    """Oldest first."""
    return _event_page(await request.app.state.store.events(caller.domain, limit + 1, after, kinds=_kinds(kind)), limit)


def _kinds(kind: str | None) -> list[str] | None:
    return None if kind is None else [kind]


def _event_page(found: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    return {"data": found[:limit], "next": str(found[limit - 1]["id"]) if len(found) > limit else None}


Failures = Literal["bounced", "complained"]


@router.get("/bounces", response_model=resources.FailurePage, summary="List bounces")
@scope("emails.read")
async def list_bounces(request: Request, caller: Known, limit: Limit = 100, after: EventCursor = 0) -> Any:
    """Oldest first."""
    return await _failures(request, caller, limit, after, "bounced")


@router.get("/bounces/{event_id}", response_model=resources.Failure, summary="Show a bounce")
@scope("emails.read")
async def show_bounce(request: Request, caller: Known, event_id: EventId) -> Any:
    """Who said what."""
    return await _failure(request, caller, event_id, "bounced")


@router.get("/complaints", response_model=resources.FailurePage, summary="List complaints")
@scope("emails.read")
async def list_complaints(request: Request, caller: Known, limit: Limit = 100, after: EventCursor = 0) -> Any:
    """Oldest first."""
    return await _failures(request, caller, limit, after, "complained")


@router.get("/complaints/{event_id}", response_model=resources.Failure, summary="Show a complaint")
@scope("emails.read")
async def show_complaint(request: Request, caller: Known, event_id: EventId) -> Any:
    """Who complained, by whom we know."""
    return await _failure(request, caller, event_id, "complained")


async def _failures(request: Request, caller: Caller, limit: int, after: int, kind: Failures) -> dict[str, Any]:
    found = await request.app.state.store.events(caller.domain, limit + 1, after, kinds=[kind])
    return _event_page([_categorised(event) for event in found], limit)


async def _failure(request: Request, caller: Caller, event_id: int, kind: Failures) -> dict[str, Any]:
    found = await request.app.state.store.events(caller.domain, 1, event_id - 1, kinds=[kind])
    if not found or found[0]["id"] != event_id:
        raise not_found("event")
    return _categorised(found[0])


def _categorised(event: dict[str, Any]) -> dict[str, Any]:
    return {**event, "category": suppression.category(event["code"])}
