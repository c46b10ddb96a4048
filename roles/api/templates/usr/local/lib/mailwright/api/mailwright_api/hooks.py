# Managed by mailwright: changes are overwritten.
"""Routes of webhooks, inbound mail and the audit log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, TypeVar
from uuid import UUID

from ansible_collections.mailwright.server.plugins.module_utils.model.values import parse_email
from ansible_collections.mailwright.server.plugins.module_utils.sending import compose, inbound, keys, webhooks
from fastapi import Path, Query, Request, Response

from . import resources_hooks as resources
from .problems import ApiError, not_found
from .routing import LARGE, Caller, Known, Limit, new_router, scope

router = new_router()

WebhookId = Annotated[UUID, Path(description="The webhook's id.")]
DeliveryId = Annotated[UUID, Path(description="The delivery's id.")]
RouteId = Annotated[UUID, Path(description="The route's id.")]
InboundId = Annotated[UUID, Path(description="The message's id.")]
T = TypeVar("T")


@router.post("/webhooks", status_code=201, response_model=resources.NewWebhook, summary="Make a webhook")
@scope("webhooks.write")
async def make_webhook(request: Request, caller: Known, body: resources.WebhookInput) -> Any:
    """The answer shows the signing secret; nothing shows it again."""
    checked = _checked(request, body.name, body.url, body.events)
    secret = webhooks.new_secret()
    made = await request.app.state.store.add_webhook(
        caller.domain, checked["name"], checked["url"], checked["events"], secret
    )
    return {**await _webhook(request, caller, made), "secret": secret}


@router.get("/webhooks", response_model=resources.WebhookList, summary="List the domain's webhooks")
@scope("webhooks.read")
async def list_webhooks(request: Request, caller: Known) -> Any:
    """Without their secrets."""
    return {"data": await request.app.state.store.webhooks(caller.domain)}


@router.get("/webhooks/{webhook_id}", response_model=resources.Webhook, summary="Show a webhook")
@scope("webhooks.read")
async def show_webhook(request: Request, caller: Known, webhook_id: WebhookId) -> Any:
    """Without its secret."""
    return await _webhook(request, caller, webhook_id)


@router.patch("/webhooks/{webhook_id}", response_model=resources.Webhook, summary="Change a webhook")
@scope("webhooks.write")
async def change_webhook(request: Request, caller: Known, webhook_id: WebhookId, body: resources.WebhookChange) -> Any:
    """What is not named stays."""
    await _webhook(request, caller, webhook_id)
    checked = _checked(request, body.name, body.url, body.events)
    await request.app.state.store.change_webhook(caller.domain, webhook_id, {**checked, "enabled": body.enabled})
    return await _webhook(request, caller, webhook_id)


@router.delete("/webhooks/{webhook_id}", status_code=204, response_class=Response, summary="Remove a webhook")
@scope("webhooks.write")
async def remove_webhook(request: Request, caller: Known, webhook_id: WebhookId) -> Response:
    """With its deliveries; what was to be posted is not."""
    if not await request.app.state.store.remove_webhook(caller.domain, webhook_id):
        raise not_found("webhook")
    return Response(status_code=204)


@router.post(
    "/webhooks/{webhook_id}/rotate-secret", response_model=resources.NewWebhook, summary="Change the signing secret"
)
@scope("webhooks.write")
async def rotate_secret(request: Request, caller: Known, webhook_id: WebhookId) -> Any:
    """For a day, posts are signed with the old one too."""
    await _webhook(request, caller, webhook_id)
    secret = webhooks.new_secret()
    await request.app.state.store.change_secret(caller.domain, webhook_id, secret)
    return {**await _webhook(request, caller, webhook_id), "secret": secret}


@router.post("/webhooks/{webhook_id}/test", status_code=202, response_model=resources.Delivery, summary="Try a webhook")
@scope("webhooks.write")
async def test_webhook(request: Request, caller: Known, webhook_id: WebhookId) -> Any:
    """Posts a webhook.test; its delivery says what came of it."""
    if not (await _webhook(request, caller, webhook_id))["enabled"]:
        raise ApiError(409, "webhook_disabled", "The webhook is switched off.")
    return await request.app.state.store.test_webhook(caller.domain, webhook_id)


@router.get(
    "/webhooks/{webhook_id}/deliveries", response_model=resources.DeliveryPage, summary="List a webhook's deliveries"
)
@scope("webhooks.read")
async def list_deliveries(
    request: Request,
    caller: Known,
    webhook_id: WebhookId,
    limit: Limit = 20,
    after: UUID | None = None,
    status: resources.DeliveryStatus | None = None,
) -> Any:
    """Newest first."""
    await _webhook(request, caller, webhook_id)
    found = await request.app.state.store.deliveries(caller.domain, webhook_id, limit + 1, after, status)
    return _page(found, limit)


@router.post(
    "/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver",
    status_code=202,
    response_model=resources.Delivery,
    summary="Post again",
)
@scope("webhooks.write")
async def redeliver(request: Request, caller: Known, webhook_id: WebhookId, delivery_id: DeliveryId) -> Any:
    """With the same id, whatever came of it before."""
    if not (await _webhook(request, caller, webhook_id))["enabled"]:
        raise ApiError(409, "webhook_disabled", "The webhook is switched off.")
    found = await request.app.state.store.redeliver(caller.domain, webhook_id, delivery_id)
    if found is None:
        raise not_found("delivery")
    return found


@router.post(
    "/webhooks/{webhook_id}/replay", status_code=202, response_model=resources.Replay, summary="Post many again"
)
@scope("webhooks.write")
async def replay(request: Request, caller: Known, webhook_id: WebhookId, body: resources.ReplayInput) -> Any:
    """With the same ids."""
    if not (await _webhook(request, caller, webhook_id))["enabled"]:
        raise ApiError(409, "webhook_disabled", "The webhook is switched off.")
    if body.since.tzinfo is None:
        raise _refused("/since", "has no time zone: write 2026-01-31T12:00:00Z")
    statuses = ["failed"] if body.status == "failed" else ["failed", "delivered"]
    return {"count": await request.app.state.store.replay(caller.domain, webhook_id, body.since, statuses)}


async def _webhook(request: Request, caller: Caller, webhook: UUID) -> dict[str, Any]:
    found: list[dict[str, Any]] = await request.app.state.store.webhooks(caller.domain, webhook)
    if not found:
        raise not_found("webhook")
    return found[0]


def _page(found: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    return {"data": found[:limit], "next": found[limit - 1]["id"] if len(found) > limit else None}


def _checked(request: Request, name: str | None, url: str | None, events: list[str] | None) -> dict[str, Any]:
    """The same, if all of it can be."""
    networks = webhooks.parse_networks(request.app.state.settings.webhook_networks)
    problems: list[compose.Problem] = []

    def tried(pointer: str, check: Callable[[T], Any], value: T | None) -> Any:
        try:
            return None if value is None else check(value)
        except ValueError as error:
            problems.append(compose.Problem(pointer, str(error)))
            return None

    checked = {
        "name": tried("/name", keys.check_name, name),
        "url": tried("/url", lambda text: webhooks.check_url(text, networks), url),
        "events": tried("/events", webhooks.check_events, events),
    }
    if problems:
        raise ApiError(422, "invalid_request", "The webhook cannot be as asked for.", problems)
    return checked


def _refused(pointer: str, detail: str) -> ApiError:
    return ApiError(422, "invalid_request", "The request cannot be carried out.", [compose.Problem(pointer, detail)])


@router.post("/inbound/routes", status_code=201, response_model=resources.Route, summary="Take an address's mail")
@scope("inbound.write")
async def make_route(request: Request, caller: Known, body: resources.RouteInput) -> Any:
    """From now on. An address that is a mailbox or an alias is refused."""
    made = await request.app.state.store.add_route(caller.domain, _route_address(caller, body.address))
    return await _route(request, caller, made)


@router.get("/inbound/routes", response_model=resources.RouteList, summary="List the domain's inbound routes")
@scope("inbound.read")
async def list_routes(request: Request, caller: Known) -> Any:
    """By address."""
    return {"data": await request.app.state.store.routes(caller.domain)}


@router.get("/inbound/routes/{route_id}", response_model=resources.Route, summary="Show an inbound route")
@scope("inbound.read")
async def show_route(request: Request, caller: Known, route_id: RouteId) -> Any:
    """Its address."""
    return await _route(request, caller, route_id)


@router.delete(
    "/inbound/routes/{route_id}", status_code=204, response_class=Response, summary="Take an address's mail no longer"
)
@scope("inbound.write")
async def remove_route(request: Request, caller: Known, route_id: RouteId) -> Response:
    """What came in stays."""
    if not await request.app.state.store.remove_route(caller.domain, route_id):
        raise not_found("route")
    return Response(status_code=204)


async def _route(request: Request, caller: Caller, route: UUID) -> dict[str, Any]:
    found: list[dict[str, Any]] = await request.app.state.store.routes(caller.domain, route)
    if not found:
        raise not_found("route")
    return found[0]


def _route_address(caller: Caller, text: str) -> str:
    """An address of the domain in small letters, or @ and the domain."""
    if text.lower() == f"@{caller.domain}":
        return text.lower()
    try:
        address = parse_email(text).lower()
    except ValueError as error:
        raise _refused("/address", str(error)) from None
    if compose.domain_of(address) != caller.domain:
        raise _refused("/address", f"is not of {caller.domain}, the domain that the key is for")
    if "+" in address:
        raise _refused("/address", "has a +: the address without what follows it takes that mail too")
    return address


@router.get("/inbound/messages", response_model=resources.InboundPage, summary="List messages that came in")
@scope("inbound.read")
async def list_inbound(request: Request, caller: Known, limit: Limit = 20, after: UUID | None = None) -> Any:
    """Newest first."""
    return _page(await request.app.state.store.inbound(caller.domain, limit + 1, after), limit)


@router.get(
    "/inbound/messages/{inbound_id}", response_model=resources.InboundMessage, summary="Show a message that came in"
)
@scope("inbound.read")
async def show_inbound(request: Request, caller: Known, inbound_id: InboundId) -> Any:
    """Taken apart."""
    found = await request.app.state.store.inbound(caller.domain, 1, only=inbound_id)
    if not found:
        raise not_found("message")
    parsed = await _parsed(request, caller, inbound_id)
    return {**found[0], "content": inbound.shown(parsed, request.app.state.settings.hostname, LARGE)}


@router.get(
    "/inbound/messages/{inbound_id}/raw",
    response_class=Response,
    responses={200: {"content": {"message/rfc822": {"schema": {"type": "string", "format": "binary"}}}}},
    summary="Get a message as it came in",
)
@scope("inbound.read")
async def get_raw(request: Request, caller: Known, inbound_id: InboundId) -> Response:
    """Octet by octet."""
    return _file(await _raw(request, caller, inbound_id), "message/rfc822")


@router.get(
    "/inbound/messages/{inbound_id}/attachments/{index}",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}},
    summary="Get a file of a message that came in",
)
@scope("inbound.read")
async def get_attachment(
    request: Request, caller: Known, inbound_id: InboundId, index: Annotated[int, Path(ge=0, le=inbound.MOST_PARTS)]
) -> Response:
    """By its index."""
    files = (await _parsed(request, caller, inbound_id)).attachments
    if index >= len(files):
        raise not_found("attachment")
    return _file(files[index].content, "application/octet-stream")


async def _raw(request: Request, caller: Caller, message: UUID) -> bytes:
    found: bytes | None = await request.app.state.store.inbound_content(caller.domain, message)
    if found is None:
        raise not_found("message")
    return found


async def _parsed(request: Request, caller: Caller, message: UUID) -> inbound.Parsed:
    # a message may have many megabytes: one at a time, and others are served meanwhile
    async with request.app.state.large:
        return await asyncio.to_thread(inbound.parse, await _raw(request, caller, message))


def _file(content: bytes, kind: str) -> Response:
    # never shown by a browser, whatever is in it
    return Response(content, media_type=kind, headers={"content-disposition": "attachment"})


@router.get("/audit", response_model=resources.AuditPage, summary="List who changed what")
@scope("audit.read")
async def list_audit(
    request: Request, caller: Known, limit: Limit = 100, after: Annotated[int, Query(ge=0, lt=2**63)] = 0
) -> Any:
    """Keys, webhooks, routes, suppressions, and the API's mailboxes and aliases, oldest first."""
    found = await request.app.state.store.audit(caller.domain, limit + 1, after)
    return {"data": found[:limit], "next": str(found[limit - 1]["id"]) if len(found) > limit else None}
