# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which failures say that an address must not be written to again (pure). Codes: RFC 3463 and IANA's registry."""

from __future__ import annotations

# The mailbox does not exist, moved without a trace, or its domain does not take mail. 5.7.x is about us, not about the
# recipient; a full mailbox (5.2.2), a message that is too large (5.3.4) and an unknown 5.0.0 say nothing for good.
_REASONS = {
    "5.1.1": "invalid_recipient",
    "5.1.2": "bad_domain",
    "5.1.3": "invalid_recipient",
    "5.1.6": "invalid_recipient",
    "5.1.10": "bad_domain",
    "5.2.1": "inactive_mailbox",
    "5.4.4": "bad_domain",
}
EXPIRED_LIMIT = 3


def reason(code: str) -> str | None:
    """Why the address is to be suppressed after a failure with this code, or None when it is not."""
    return _REASONS.get(code)


# The second part of a status code (RFC 3463 section 3).
_CATEGORIES = {
    "0": "other",
    "1": "address",
    "2": "mailbox",
    "3": "system",
    "4": "network",
    "5": "protocol",
    "6": "content",
    "7": "policy",
}


def category(code: str) -> str:
    """What a failure with this code is about."""
    return _CATEGORIES.get([*code.split("."), ""][1], "other")
