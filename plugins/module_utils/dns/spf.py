# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SPF records that several parties share: terms go in and out, the rest stays. Pure.

A name has one SPF record at most (RFC 7208 section 3.2), so ours cannot stand beside another one.
"""

from __future__ import annotations

from collections.abc import Set

VERSION = "v=spf1"


def is_spf(text: str) -> bool:
    """Whether a TXT string is an SPF record (RFC 7208 section 4.5)."""
    return text.lower() == VERSION or text.lower().startswith(VERSION + " ")


def spf_terms(text: str) -> list[str]:
    """The terms of an SPF record, as they are written."""
    return text.split()[1:]


def term_key(term: str) -> str:
    """What two equal terms have in common: case does not matter, and + is the default qualifier."""
    return term.lower().removeprefix("+")


def spf_keys(text: str) -> frozenset[str]:
    """The keys of a record's terms."""
    return frozenset(map(term_key, spf_terms(text)))


def _is_all(term: str) -> bool:
    return term.lower().lstrip("+-~?") == "all"


def _is_end(term: str) -> bool:
    """What ends the evaluation: a mechanism behind it would never be asked (RFC 7208 sections 5.1 and 6.1)."""
    return _is_all(term) or term.lower().startswith("redirect=")


def put_in(live: str, wanted: str, ours: Set[str], others: Set[str]) -> tuple[str, frozenset[str]]:
    """Bring our terms into the live record: (the record, keys of its terms that are ours).

    `ours` and `others` are keys that we and other owners claim. Foreign terms stay, in their order, and so does a
    live `all` among them. A record of which every term is ours, or that has none, becomes the wanted one.
    """
    terms = spf_terms(live)
    mine = ours & spf_keys(live)
    keys = spf_keys(wanted)
    if all(term_key(term) in mine - others for term in terms):
        return wanted, keys
    kept = [
        term
        for term in terms
        if term_key(term) not in mine or term_key(term) in others or term_key(term) in keys or _is_all(term)
    ]
    known = set(map(term_key, kept))
    added = [term for term in spf_terms(wanted) if term_key(term) not in known and not _is_all(term)]
    place = next((index for index, term in enumerate(kept) if _is_end(term)), len(kept))
    # What another owner put there and we want too belongs to both.
    claimed = ((mine | (others & known)) & keys) | set(map(term_key, added))
    return _written(live, kept[:place] + added + kept[place:]), frozenset(claimed)


def take_out(live: str, ours: Set[str], others: Set[str]) -> str | None:
    """Take our terms out of the live record; None: nothing is left, the record was all ours.

    `all` stays as long as anything else does: what others wrote was written with it in mind.
    """
    terms = spf_terms(live)
    foreign = [term for term in terms if term_key(term) not in ours or term_key(term) in others]
    if not foreign and terms:
        return None
    return _written(live, [term for term in terms if term in foreign or _is_all(term)])


def _written(live: str, terms: list[str]) -> str:
    # Untouched means untouched: other people's spacing stays too.
    return live if terms == spf_terms(live) else " ".join([live.split()[0], *terms])
