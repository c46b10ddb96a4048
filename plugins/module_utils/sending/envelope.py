# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The envelope sender of a message to one recipient (VERP), so that what comes back tells whom it is about (pure)."""

from __future__ import annotations

import base64
import re
import secrets

# 130 random bits: nobody guesses one. The database knows them, so there is no key to keep or to change.
TOKEN = "[a-z2-7]{26}"
_SENDER = re.compile(rf"b\+({TOKEN})@[a-z0-9.-]+", re.IGNORECASE)


def new_token() -> str:
    """A token that no other recipient has."""
    return base64.b32encode(secrets.token_bytes(17)).decode().lower()[:26]


def sender(token: str, domain: str) -> str:
    """The envelope sender, in the domain that the message is from, so that SPF agrees with the header From."""
    return f"b+{token}@{domain}"


def unsubscribe_headers(hostname: str, token: str) -> bytes:
    """What lets a mail program unsubscribe the recipient with one click (RFC 8058)."""
    link = f"https://{hostname}/api/v1/unsubscribe/{token}"
    return f"List-Unsubscribe: <{link}>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n".encode("ascii")


def token_of(address: str) -> str | None:
    """The token in an envelope sender of ours, or None for any other address."""
    found = _SENDER.fullmatch(address)
    return found[1].lower() if found else None
