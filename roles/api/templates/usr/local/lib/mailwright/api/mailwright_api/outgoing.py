# Managed by mailwright: changes are overwritten.
"""What the web service hands to its store."""

from __future__ import annotations

from contextvars import ContextVar
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from ansible_collections.mailwright.server.plugins.module_utils.sending.compose import Composed

# The id of the key that asks, for the audit log.
ACTOR: ContextVar[str] = ContextVar("actor", default="")


class Idempotency(NamedTuple):
    """The caller's key for a request, and the request's hash."""

    key: str
    request: bytes


class Outgoing(NamedTuple):
    """A composed message with its identifiers."""

    id: UUID
    message_id: str
    composed: Composed
    stream: str
    unsubscribe: bool
    send_at: datetime | None
    valid_for: int

    def is_suppressed(self, address: str, suppressed: set[tuple[str, str]]) -> bool:
        """Whether it is not sent there: suppressed has streams and addresses."""
        return not suppressed.isdisjoint({("", address.lower()), (self.stream, address.lower())})
