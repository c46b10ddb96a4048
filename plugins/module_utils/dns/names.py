# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of names before they reach a file name, a map or a zone."""

from __future__ import annotations

import re

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# The longest name below a domain is <selector>._domainkey.<domain>, 253 octets in all (RFC 1035 section 2.3.4).
MAX_SELECTOR = 32
MAX_NAME = 253
MAX_DOMAIN = MAX_NAME - MAX_SELECTOR - len("._domainkey.")


def domain_error(name: str, longest: int = MAX_DOMAIN) -> str | None:
    """Say what is wrong with a domain; None when it is right: A-labels in lower case, two or more, no final dot.

    Source: RFC 1123 section 2.1, with room left for a DKIM selector; a name that has none below it may be `longest`.
    """
    if not isinstance(name, str):
        return f"{name!r} is not a domain name"
    if len(name) > longest:
        return f"{name!r} is longer than {longest} octets"
    labels = name.split(".")
    if len(labels) < 2:
        return f"{name!r} needs at least two labels, such as example.org"
    for label in labels:
        if not _LABEL.fullmatch(label):
            return f"{name!r} is not a domain name in lower-case A-label form: bad label {label!r}"
    return None


def selector_error(selector: str) -> str | None:
    """Say what is wrong with a DKIM selector; None when it is right: one label of at most 32 octets (RFC 6376, 3.1)."""
    if not isinstance(selector, str) or len(selector) > MAX_SELECTOR or not _LABEL.fullmatch(selector):
        return f"{selector!r} is not a selector of a-z, 0-9 and '-' (at most {MAX_SELECTOR})"
    return None
