# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Webhooks: which URLs and addresses may be posted to, how a post is signed, and when it is tried again (pure).

Signatures are those of Standard Webhooks: HMAC-SHA256 over "id.timestamp.body".
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias
from urllib.parse import urlsplit

from ..model.values import has_control

EVENTS = (
    "email.accepted",
    "email.suppressed",
    "email.handed_over",
    "email.rejected",
    "email.delivered",
    "email.deferred",
    "email.bounced",
    "email.expired",
    "email.cancelled",
    "email.rescheduled",
    "email.complained",
    "email.unsubscribed",
    "inbound.received",
)
TEST = "webhook.test"
LONGEST_URL = 2000
# Seconds before each attempt; the last comes some three days after the first.
DELAYS = (0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
# A receiver that was down comes back to posts that are spread out.
JITTER = 0.2
GONE = 410

_SECRET_PREFIX = "whsec_"
_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*\.?")
# An IPv4 address in IPv6's clothes: the translator's well-known prefix (RFC 6052).
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")

Network: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"


class Row(NamedTuple):
    """What a row of api.webhook says of where to post what."""

    id: str
    domain: str
    name: str
    url: str
    events: tuple[str, ...]

    def __str__(self) -> str:
        return f"webhook {self.domain} {self.name!a} url={self.url} events={','.join(self.events)}"


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Networks of one's own that may be posted to. Raises ValueError."""
    return tuple(ipaddress.ip_network(text) for text in texts)


def reachable(address: str, networks: Sequence[Network]) -> bool:
    """Whether an address may be connected to: one of the internet, or of these networks."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        # 6to4 and Teredo lead through a tunnel to an IPv4 address
        if found.scope_id is not None or found.sixtofour is not None or found.teredo is not None:
            return False
        inner = found.ipv4_mapped or (ipaddress.IPv4Address(found.packed[12:]) if found in _TRANSLATED else None)
        if inner is not None:
            return reachable(str(inner), networks)
    if any(found.version == network.version and found in network for network in networks):
        return True
    return found.is_global and not found.is_multicast and not found.is_reserved


def check_url(text: str, networks: Sequence[Network]) -> str:
    """A URL that may be posted to, as far as it can be told without the DNS. Raises ValueError.

    What its name leads to is checked again at every post.
    """
    if has_control(text) or not text.isascii() or " " in text or "\\" in text:
        raise ValueError("holds a space, a backslash, a control character or what is not ASCII: write it encoded")
    if len(text) > LONGEST_URL:
        raise ValueError(f"is longer than {LONGEST_URL} characters")
    parts = urlsplit(text)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise ValueError("is not a URL such as https://example.org/hooks/mail")
    if "@" in parts.netloc or parts.fragment:
        raise ValueError("holds a user, a password or a #fragment: leave it out, the signature says who posts")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("has no port from 1 to 65535")
    address = _literal(parts.hostname)
    if address is None and not _HOST.fullmatch(parts.hostname):
        raise ValueError("has no host name such as hooks.example.org")
    if parts.hostname.rstrip(".").rpartition(".")[2] == "localhost":
        raise ValueError("leads to this host itself")
    if address is not None and not reachable(address, networks):
        raise ValueError(f"leads to {address}, which is no address of the internet")
    if parts.scheme == "http" and not (address and networks and _within(address, networks)):
        raise ValueError("is not encrypted: write https://")
    return text


def _within(address: str, networks: Sequence[Network]) -> bool:
    found = ipaddress.ip_address(address)
    return any(found.version == network.version and found in network for network in networks)


def _literal(host: str) -> str | None:
    """The address that a host is, in whatever way the resolver would read it; None for a name."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    # 2130706433, 0x7f.1, 017700000001: addresses to the C library, and so to what connects
    try:
        return socket.inet_ntoa(socket.inet_aton(host.rstrip(".")))
    except (OSError, UnicodeError):
        return None


def check_events(events: Iterable[str]) -> list[str]:
    """The kinds of events, sorted and each once. Raises ValueError."""
    found = sorted(set(events))
    unknown = [event for event in found if event not in EVENTS]
    if unknown or not found:
        what = f"{unknown[0][:64]!a} is not an event" if unknown else "there is no event"
        raise ValueError(f"{what}: write some of {', '.join(EVENTS)}")
    return found


def new_secret() -> str:
    """A new signing secret, in the form that libraries of Standard Webhooks take."""
    return _SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def sign(secret: str, delivery: str, timestamp: int, body: bytes) -> str:
    """The signature of a post."""
    key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX))
    digest = hmac.new(key, f"{delivery}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def headers(keys: Sequence[str], delivery: str, timestamp: int, body: bytes) -> dict[str | bytes, str | bytes]:
    """The headers of a post; while a secret is being changed, signed with both."""
    return {
        "content-type": "application/json",
        "user-agent": "mailwright-webhooks",
        "webhook-id": delivery,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(sign(key, delivery, timestamp, body) for key in keys),
    }


def next_delay(attempts: int, chance: float) -> float | None:
    """Seconds until the next attempt after so many; None when that was the last. chance: from 0 to 1."""
    if attempts >= len(DELAYS):
        return None
    return DELAYS[attempts] * (1 + JITTER * chance)
