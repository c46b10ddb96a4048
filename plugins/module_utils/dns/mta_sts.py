# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The MTA-STS policy of a mail host and its id (RFC 8461). Pure."""

from __future__ import annotations

import hashlib

from ansible_collections.mailwright.server.plugins.module_utils.dns.names import domain_error

MODES = ("testing", "enforce")
# RFC 8461 section 3.2 asks for weeks or more, and allows a year. A week is also what a mistake may cost.
MAX_AGE = 7 * 86400


def policy_text(mode: str, hostname: str, max_age: int = MAX_AGE) -> str:
    """Write the policy file (RFC 8461 section 3.2), lines ended by CR LF; `max_age` in seconds.

    Every domain of a mode has the same policy, as all have the same mail host.
    Raises ValueError for an unknown mode, a name that is none and an age out of range.
    """
    errors = []
    if mode not in MODES:
        errors.append(f"mode: {mode!r} is not one of {', '.join(MODES)}")
    problem = domain_error(hostname)
    if problem:
        errors.append(f"hostname: {problem}")
    if not 0 <= max_age <= 31557600:
        errors.append(f"max_age: {max_age} is not between 0 and 31557600 seconds")
    if errors:
        raise ValueError("; ".join(errors))
    return f"version: STSv1\r\nmode: {mode}\r\nmx: {hostname}\r\nmax_age: {max_age}\r\n"


def policy_id(policy: str) -> str:
    """Derive the id of a policy from its text: other text, other id (1 to 32 letters and digits, section 3.1)."""
    return hashlib.sha256(policy.encode("ascii")).hexdigest()[:32]


def record_text(policy: str) -> str:
    """The text of the TXT record at _mta-sts.<domain> (section 3.1)."""
    return f"v=STSv1; id={policy_id(policy)};"
