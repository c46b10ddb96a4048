# Managed by mailwright: changes are overwritten.
"""What callers send and get, as OpenAPI shows it. What a type cannot say is checked in sending/compose.py."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from ansible_collections.mailwright.server.plugins.module_utils.sending import compose
from pydantic import BaseModel, ConfigDict, Field

LARGEST_BATCH = 100

Address = Annotated[str, Field(max_length=508, examples=["dave@peer.example"])]
Addresses = Annotated[list[Address], Field(max_length=compose.MOST_RECIPIENTS)]
Status = Literal[
    "queued", "sending", "handed_over", "deferred", "delivered", "bounced", "expired", "rejected", "suppressed"
]
Kind = Literal["accepted", "suppressed", "handed_over", "rejected", "delivered", "deferred", "bounced", "expired"]
Reason = Literal["invalid_recipient", "bad_domain", "inactive_mailbox", "expired", "manual"]


class Input(BaseModel):
    """Nothing is guessed: a key that is not known, or a number for a string, is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)


class AttachmentInput(Input):
    """A file."""

    filename: str = Field(max_length=255)
    content: str = Field(description="In base64.")
    content_type: str = Field(default="application/octet-stream", max_length=130)


class EmailInput(Input):
    """A message. to, cc and bcc together have at most 50 addresses, and each gets a message of its own."""

    sender: str = Field(
        alias="from", max_length=508, description="Of the key's domain.", examples=["Acme News <news@acme.example>"]
    )
    to: Addresses = Field(min_length=1)
    cc: Addresses = []
    bcc: Addresses = []
    reply_to: Addresses = []
    subject: str = Field(max_length=compose.LONGEST_SUBJECT)
    text: str | None = None
    html: str | None = None
    headers: dict[str, str] = Field(default={}, description="Further headers, none of those the server writes.")
    attachments: list[AttachmentInput] = Field(default=[], max_length=compose.MOST_ATTACHMENTS)

    def draft(self) -> compose.Draft:
        """The same for compose."""
        files = [compose.Attachment(file.filename, file.content, file.content_type) for file in self.attachments]
        return compose.Draft(
            self.sender, self.to, self.cc, self.bcc, self.reply_to,
            self.subject, self.text, self.html, self.headers, files,
        )  # fmt: skip


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
    created_at: datetime
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


class Domain(BaseModel):
    """A domain that the key may send for."""

    name: str


class Key(BaseModel):
    """A key without its secret."""

    id: str
    name: str
    domain: str
    scopes: list[str]
    owner: Literal["inventory", "api"]
    created_at: datetime


class NewKey(Key):
    """A key with its secret, which is shown this once."""

    key: str


class Suppression(BaseModel):
    """An address that messages of the domain are not sent to."""

    address: str
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


class DomainList(BaseModel):
    """All of them."""

    data: list[Domain]


class KeyList(BaseModel):
    """All of the domain."""

    data: list[Key]


class Health(BaseModel):
    """What a monitor asks."""

    status: Literal["ok"]
