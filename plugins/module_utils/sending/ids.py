# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Identifiers of messages and recipients: UUID version 7 (RFC 9562), so that they sort by time."""

from __future__ import annotations

import secrets
import time
import uuid


def new_id(milliseconds: int | None = None) -> uuid.UUID:
    """A new identifier; later ones are greater, from one millisecond to the next."""
    now = time.time_ns() // 1_000_000 if milliseconds is None else milliseconds
    value = (now & (2**48 - 1)) << 80 | 7 << 76 | secrets.randbits(12) << 64 | 2 << 62 | secrets.randbits(62)
    return uuid.UUID(int=value)
