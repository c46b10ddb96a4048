# Managed by mailwright: changes are overwritten.
"""What callers send and get about webhooks, inbound mail and the audit log, as OpenAPI shows it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from ansible_collections.mailwright.server.plugins.module_utils.sending import webhooks
from pydantic import BaseModel, Field

from .resources import Input

DeliveryStatus = Literal["pending", "delivered", "failed"]


class WebhookInput(Input):
    """Where to post, and what."""

    name: str = Field(max_length=64)
    url: str = Field(max_length=webhooks.LONGEST_URL, examples=["https://example.org/hooks/mail"])
    events: list[str] = Field(min_length=1, max_length=50, examples=[["email.delivered", "email.bounced"]])


class WebhookChange(Input):
    """What is to change. enabled: true also takes up one again that was given up."""

    name: str | None = Field(default=None, max_length=64)
    url: str | None = Field(default=None, max_length=webhooks.LONGEST_URL)
    events: list[str] | None = Field(default=None, min_length=1, max_length=50)
    enabled: bool | None = None


class Webhook(BaseModel):
    """Where events are posted to, without the secret."""

    id: UUID
    name: str
    url: str
    events: list[str]
    enabled: bool
    disabled_reason: Literal["", "manual", "gone", "failing"]
    failing_since: datetime | None
    old_secret_until: datetime | None = Field(description="Until then posts are signed with both secrets.")
    created_at: datetime


class NewWebhook(Webhook):
    """With the signing secret, which is shown this once."""

    secret: str


class WebhookList(BaseModel):
    """All of the domain."""

    data: list[Webhook]


class Delivery(BaseModel):
    """A post, made or to be made. id is what the receiver sees as webhook-id, the same at each attempt."""

    id: UUID
    type: str
    status: DeliveryStatus
    attempts: int
    next_at: datetime | None = Field(description="When it is tried again.")
    response_status: int | None
    error: str
    created_at: datetime
    changed_at: datetime


class DeliveryPage(BaseModel):
    """Newest first. next is the cursor for after."""

    data: list[Delivery]
    next: UUID | None


class ReplayInput(Input):
    """Which posts are to be made again: those that failed, or all that were made, since then."""

    since: datetime = Field(strict=False)
    status: Literal["failed", "all"] = "failed"


class Replay(BaseModel):
    """How many posts will be made again."""

    count: int


class RouteInput(Input):
    """An address of the domain whose mail the API takes; @domain takes what no other address does."""

    address: str = Field(max_length=254, examples=["orders@acme.example", "@acme.example"])


class Route(BaseModel):
    """An address whose mail the API takes."""

    id: UUID
    address: str
    created_at: datetime


class RouteList(BaseModel):
    """All of the domain."""

    data: list[Route]


class InboundSummary(BaseModel):
    """A message that came in: the envelope."""

    id: UUID
    route: UUID
    sender: str = Field(serialization_alias="from")
    recipient: str
    size: int
    created_at: datetime


class InboundPage(BaseModel):
    """Newest first. next is the cursor for after."""

    data: list[InboundSummary]
    next: UUID | None


class InboundHeader(BaseModel):
    """One header, decoded."""

    name: str
    value: str


class InboundAttachment(BaseModel):
    """A file. content is base64, or null where the files together are large: then get it by itself."""

    index: int
    filename: str
    content_type: str
    content_id: str
    size: int
    sha256: str
    content: str | None


class InboundContent(BaseModel):
    """What is in it: anything at all. Never show html without a sandbox."""

    sender: str = Field(alias="from")
    to: list[str]
    cc: list[str]
    reply_to: list[str]
    subject: str
    date: str | None
    message_id: str
    in_reply_to: str
    references: list[str]
    headers: list[InboundHeader]
    text: str | None
    html: str | None
    authentication: dict[str, str] = Field(description="What this server found: spf, dkim, dmarc.")
    spam: bool
    complete: bool = Field(description="Whether the structure made sense to the end.")
    attachments: list[InboundAttachment]


class InboundMessage(InboundSummary):
    """A message that came in, taken apart."""

    content: InboundContent


class AuditEntry(BaseModel):
    """A change: by which key, or by which role of the database where it was not the API."""

    id: int
    at: datetime
    actor: str
    action: Literal["created", "changed", "removed"]
    kind: str
    target: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class AuditPage(BaseModel):
    """Oldest first. next is the cursor for after."""

    data: list[AuditEntry]
    next: str | None
