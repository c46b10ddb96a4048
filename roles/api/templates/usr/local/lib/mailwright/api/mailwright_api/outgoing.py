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
# The tenant whose key that is; '' where it is none's.
OWN_TENANT: ContextVar[str] = ContextVar("own_tenant", default="")

# Whether that key or its domain has limits.
LIMITED: ContextVar[bool] = ContextVar("limited", default=False)


class Rate(NamedTuple):
    """A limit, what is left of it, and in how many seconds it begins anew."""

    most: int
    remaining: int
    reset: int


# Of the limits that the request met, the one that is nearest to its end.
RATE: ContextVar[Rate | None] = ContextVar("rate", default=None)


def rate_headers() -> dict[str, str]:
    """What the caller is told of it."""
    rate = RATE.get()
    if rate is None:
        return {}
    return {
        "ratelimit-limit": str(rate.most), "ratelimit-remaining": str(rate.remaining),
        "ratelimit-reset": str(rate.reset),
    }  # fmt: skip


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
