# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The addresses that reports about a domain are sent to, and where that mail goes. Pure."""

from __future__ import annotations

# The local part that a domain's DMARC and TLS-RPT records name: in the domain itself, so that no other domain has to
# agree to it (RFC 7489 section 7.1).
LOCAL_PART = "mail-reports"
# What those addresses lead to: no domain of ours (RFC 6761 section 6.4), so nobody else can send to it or log in.
MAILBOX = "reports@mailwright.invalid"


def address(domain: str) -> str:
    """Where reports about the domain go."""
    return f"{LOCAL_PART}@{domain}"
