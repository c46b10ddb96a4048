# Managed by mailwright: changes are overwritten.
"""What callers send and get, as OpenAPI shows it. What a type cannot say is checked in sending/compose.py."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from ansible_collections.mailwright.server.plugins.module_utils.sending import compose
from pydantic import BaseModel, ConfigDict, Field

LARGEST_BATCH = 100
UUID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
STREAM_PATTERN = r"^[a-z0-9][a-z0-9-]{0,31}$"
SHORTEST_VALIDITY, USUAL_VALIDITY, LONGEST_VALIDITY = 60, 5 * 86_400, 30 * 86_400

Address = Annotated[str, Field(max_length=508, examples=["dave@peer.example"])]
Addresses = Annotated[list[Address], Field(max_length=compose.MOST_RECIPIENTS)]
Status = Literal[
    "queued", "sending", "handed_over", "deferred", "delivered", "bounced", "expired", "rejected", "suppressed",
    "cancelled",
]  # fmt: skip
Kind = Literal[
    "accepted", "suppressed", "handed_over", "rejected", "delivered", "deferred", "bounced", "expired", "cancelled",
    "rescheduled", "complained", "unsubscribed",
]  # fmt: skip
Reason = Literal[
    "invalid_recipient", "bad_domain", "inactive_mailbox", "expired", "manual", "complaint", "unsubscribed"
]
StreamName = Annotated[str, Field(pattern=STREAM_PATTERN, examples=["newsletter"])]
Time = Annotated[
    str,
    Field(
        max_length=40,
        description="At most 72 hours ahead (RFC 3339).",
        examples=["2026-11-26T18:00:00Z"],
        json_schema_extra={"format": "date-time"},
    ),
]


class Input(BaseModel):
    """Nothing is guessed: a key that is not known, or a number for a string, is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)


class AttachmentInput(Input):
    """A file."""

    filename: str = Field(max_length=255)
    content: str = Field(description="In base64.")
    content_type: str = Field(default="application/octet-stream", max_length=130)


class TemplateUse(Input):
    """A template of the domain instead of subject, text and html."""

    id: str = Field(pattern=UUID_PATTERN, description="The template's id.")
    version: int | None = Field(default=None, ge=1, le=1_000_000, description="The active one, if none is named.")
    variables: dict[str, Any] = {}


class Dispatch(Input):
    """How and when a message is sent."""

    stream: StreamName = "transactional"
    send_at: Time | None = None
    valid_for: int = Field(
        default=USUAL_VALIDITY,
        ge=SHORTEST_VALIDITY,
        le=LONGEST_VALIDITY,
        description="Seconds. What could not be handed to the mail server until then expires.",
    )


class EmailInput(Dispatch):
    """A message. to, cc and bcc together have at most 50 addresses, and each gets a message of its own."""

    sender: str = Field(
        alias="from", max_length=508, description="Of the key's domain.", examples=["Acme News <news@acme.example>"]
    )
    to: Addresses = Field(min_length=1)
    cc: Addresses = []
    bcc: Addresses = []
    reply_to: Addresses = []
    subject: str | None = Field(default=None, max_length=compose.LONGEST_SUBJECT)
    text: str | None = None
    html: str | None = None
    template: TemplateUse | None = None
    headers: dict[str, str] = Field(default={}, description="Further headers, none of those the server writes.")
    attachments: list[AttachmentInput] = Field(default=[], max_length=compose.MOST_ATTACHMENTS)

    def draft(self) -> compose.Draft:
        """The same for compose."""
        files = [compose.Attachment(file.filename, file.content, file.content_type) for file in self.attachments]
        return compose.Draft(
            self.sender, self.to, self.cc, self.bcc, self.reply_to,
            self.subject or "", self.text, self.html, self.headers, files,
        )  # fmt: skip


class RawInput(Dispatch):
    """A whole message."""

    to: Addresses = Field(min_length=1, description="Who gets it, whatever its headers say.")
    content: str = Field(description="The message (RFC 5322) in base64, in 7-bit text. Its header From is the sender.")


class EmailChange(Input):
    """What is to change."""

    send_at: Time


class BatchInput(Input):
    """Up to 100 messages."""

    emails: list[EmailInput] = Field(min_length=1, max_length=LARGEST_BATCH)


class KeyInput(Input):
    """A key to be made, for the domain of the key that asks."""

    name: str = Field(max_length=64)
    scopes: list[str] = Field(min_length=1, max_length=50, description="No more than the key that asks has.")


class KeyChange(Input):
    """What is to change."""

    name: str | None = Field(default=None, max_length=64)
    scopes: list[str] | None = Field(default=None, min_length=1, max_length=50)


class SuppressionInput(Input):
    """An address that is not to be written to."""

    address: str = Field(max_length=254)
    stream: StreamName | None = Field(default=None, description="All of the domain, if none is named.")


class FieldError(BaseModel):
    """One mistake in the request; pointer is a JSON pointer (RFC 6901) into it."""

    pointer: str
    detail: str


class ProblemDetails(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: list[FieldError]
    request_id: str


class AcceptedRecipient(BaseModel):
    """A recipient, and whether the message will be sent there."""

    address: str
    status: Literal["queued", "suppressed"]


class AcceptedEmail(BaseModel):
    """The message is stored, and will be sent."""

    id: UUID
    message_id: str
    recipients: list[AcceptedRecipient]


class BatchItem(BaseModel):
    """Either the accepted message or what is wrong with it."""

    email: AcceptedEmail | None
    error: ProblemDetails | None


class AcceptedBatch(BaseModel):
    """One item for each message of the batch, in its order."""

    data: list[BatchItem]


class Recipient(BaseModel):
    """A recipient and what became of the message to it."""

    address: str
    status: Status
    attempts: int
    changed_at: datetime


class Email(BaseModel):
    """A message."""

    id: UUID
    message_id: str
    sender: str = Field(serialization_alias="from")
    subject: str
    stream: str
    created_at: datetime
    send_at: datetime | None
    recipients: list[Recipient]


class Event(BaseModel):
    """Something that happened to a message on its way to one recipient."""

    id: int
    email: UUID
    kind: Kind
    at: datetime
    recipient: str
    address: str = Field(description="Where the mail finally went, if an alias led elsewhere.")
    relay: str = Field(description="The other server.")
    code: str = Field(description="The status code (RFC 3463).")
    detail: str = Field(description="What the other server said: any text. Never show it as HTML.")


class Failure(Event):
    """A bounce or a complaint."""

    category: Literal["other", "address", "mailbox", "system", "network", "protocol", "content", "policy"] = Field(
        description="What the code is about (RFC 3463 section 3)."
    )


class FailurePage(BaseModel):
    """Oldest first. next is the cursor for after."""

    data: list[Failure]
    next: str | None


class ValidEmail(BaseModel):
    """The message could be sent. Nothing was stored."""

    size: int
    sender: str = Field(serialization_alias="from")
    subject: str
    recipients: list[AcceptedRecipient]


class Attachment(BaseModel):
    """A part of a message that is a file."""

    number: int
    filename: str
    content_type: str
    size: int


class AttachmentList(BaseModel):
    """In the message's order."""

    data: list[Attachment]


class Key(BaseModel):
    """A key without its secret."""

    id: str
    name: str
    domain: str
    scopes: list[str]
    owner: Literal["inventory", "api"]
    created_at: datetime
    requests_per_minute: int | None = Field(description="null: no limit of its own.")
    recipients_per_hour: int | None = Field(description="null: no limit of its own.")


class NewKey(Key):
    """A key with its secret, which is shown this once."""

    key: str


class Suppression(BaseModel):
    """An address that messages of the domain are not sent to."""

    address: str
    stream: str | None = Field(description="null: all of the domain.")
    reason: Reason
    detail: str
    created_at: datetime


class EmailPage(BaseModel):
    """Newest first. next is the cursor for after."""

    data: list[Email]
    next: str | None


class EventPage(BaseModel):
    """Oldest first. next is the cursor for after."""

    data: list[Event]
    next: str | None


class SuppressionPage(BaseModel):
    """By address. next is the cursor for after."""

    data: list[Suppression]
    next: str | None


class RateLimit(BaseModel):
    """How much of something may be used in a window, which begins with the clock's minute or hour."""

    subject: Literal["key", "domain"] = Field(description="domain: all of its keys together.")
    unit: Literal["requests", "recipients"]
    limit: int
    window_seconds: int


class LimitList(BaseModel):
    """Empty: there are none."""

    data: list[RateLimit]


class KeyList(BaseModel):
    """All of the domain."""

    data: list[Key]


class Health(BaseModel):
    """What a monitor asks."""

    status: Literal["ok"]
