# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every DNS provider can do, and how it fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import RRset

T = TypeVar("T")
# How often a listing is asked for before one that is cut is an error.
LISTINGS = 3


@dataclass(frozen=True)
class Capabilities:
    """`types`: record types that can be stored. `minimum_ttl`: seconds; less is raised to it.
    `max_text`: octets of one TXT record. `atomic`: apply makes all changes of a call or none.
    `guarded`: the server itself refuses a change whose old value is no longer live."""

    types: frozenset[str]
    minimum_ttl: int
    max_text: int
    atomic: bool
    guarded: bool


@dataclass(frozen=True)
class Change:
    """Replace `old`, what was live when the plan was made, by `new`. None: there is no such record set.
    At most one of them is None; both have the same name and type."""

    old: RRset | None
    new: RRset | None

    @property
    def name(self) -> str:
        """Absolute name of the record set."""
        return (self.new or self.old).name  # type: ignore[union-attr]

    @property
    def type(self) -> str:
        """Type of the record set."""
        return (self.new or self.old).type  # type: ignore[union-attr]


class ProviderError(Exception):
    """The provider did not do what was asked. The text says what and never holds a credential."""


class CredentialsError(ProviderError):
    """The credentials are wrong, or not enough for this zone."""


class ZoneMissingError(ProviderError):
    """The account has no such zone."""


class UnreachableError(ProviderError):
    """No answer, or one that makes no sense; for a change: it may have been made or not."""


class IncompleteError(ProviderError):
    """The listing is not whole: nothing may be concluded from what it lacks."""


def whole(listing: Callable[[], T]) -> T:
    """Ask for a listing, and again where it came cut: a busy server closes the connections of slow clients."""
    for _attempt in range(LISTINGS - 1):
        with contextlib.suppress(IncompleteError):
            return listing()
    return listing()


class ConflictError(ProviderError):
    """What is live is not the change's old value any more; nothing of this change was made."""


class UnsupportedError(ProviderError):
    """The provider cannot store this type, text length or value."""


class Provider(Protocol):
    """One account or server. Zones and names are absolute, in lower case, with their final dot.

    Record data are in master-file form with absolute names; TXT as `text_value` writes it.
    Each method raises ProviderError, of the kind that fits, and retries by itself what may be retried.
    """

    capabilities: Capabilities

    def records(self, zone: str) -> list[RRset]:
        """All record sets of a zone, SOA and the apex's NS included; never a part of them: raises IncompleteError."""

    def get(self, zone: str, name: str, kind: str) -> RRset | None:
        """One record set as the provider's own side has it now; None when there is none."""

    def apply(self, zone: str, changes: Sequence[Change]) -> None:
        """Make the changes and return when the provider says that they are done.

        Made again after an uncertain end, the outcome is the same: what is live already as wanted is no conflict.
        """
