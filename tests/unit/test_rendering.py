# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sending API's templates, without the limits of the process that renders them."""

from __future__ import annotations

import pytest
from mailwright_api.renderer import RenderError
from mailwright_api.rendering import LONGEST_OUTPUT, render


def test_html_is_escaped_and_text_is_not() -> None:
    sources = {"subject": "{{ a }}", "text": "{{ a }}\n", "html": "<p>{{ a }}</p>"}
    assert render(sources, {"a": "<b>"}) == {"subject": "<b>", "text": "<b>\n", "html": "<p>&lt;b&gt;</p>"}
    assert render({"subject": "s", "text": None, "html": None}, {})["html"] is None
    # without variables it is only looked at
    assert render(sources, None)["text"] == ""


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ missing }}", "'missing' is undefined"),
        ("a\n{% if %}", "line 2"),
        ("{{ 'a' * 600000 }}", f"longer than {LONGEST_OUTPUT}"),
        ("{{ ''.__class__.mro() }}", "unsafe"),
        ("{{ a.append(1) }}", "unsafe"),
        ("{% extends 'x' %}", "no loader"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "too deeply"),
    ],
)
def test_a_mistake_names_the_part(source: str, said: str) -> None:
    with pytest.raises(RenderError, match=said) as caught:
        render({"subject": "s", "text": source}, {"a": []})
    assert caught.value.part == "text"
