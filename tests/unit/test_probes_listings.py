# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file with what blocklists last said."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.probes.listings import (
    SECONDS,
    Answers,
    Listing,
    counts,
    is_address,
    load,
    parse,
    render,
)

ANSWERS = Answers(
    1000.0,
    (
        Listing("a.test", "192.0.2.1", True, '127.0.0.2 "spam"'),
        Listing("a.test", "2001:db8::1", None, "no answer in time"),
        Listing("d.test", "acme.test", False, ""),
    ),
)


def test_it_is_read_as_it_was_written_until_it_is_old() -> None:
    text = render(ANSWERS)
    assert parse(text, 1000.0) == parse(text, 1000.0 + SECONDS - 1) == ANSWERS
    assert parse(text, 1000.0 + SECONDS) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"at": 1, "listings": [[]]}', '{"at": null, "listings": []}'])
def test_anything_else_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse(text, 2.0)


def test_where_none_is_asked_there_is_no_file(tmp_path: Path) -> None:
    assert load(0.0, str(tmp_path / "none")) is None


def test_a_list_that_did_not_answer_everything_is_not_wholly_usable() -> None:
    assert counts(ANSWERS.listings) == {"a.test": (1, False), "d.test": (0, True)}


def test_addresses_and_domains() -> None:
    assert [is_address(one.subject) for one in ANSWERS.listings] == [True, True, False]
