# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the answers of several servers for one selector are summed up."""

from __future__ import annotations

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.dns.sight import (
    DEFAULT_NEGATIVE_TTL,
    DEFAULT_TTL,
    Answer,
    _followed,
    judge,
)

WANTED = "v=DKIM1; k=rsa; p=AAAA"
REVOKED = "v=DKIM1; k=rsa; p="
HAS = Answer(frozenset({WANTED}), 600)
NONE = Answer(frozenset(), None)
ALIAS = Answer(frozenset(), 900, "there.test.")
OTHER = Answer(frozenset({"v=DKIM1; p=BBBB"}), 300)


@pytest.mark.parametrize(
    ("answers", "sight", "text"),
    [
        ([HAS, HAS], "live", None),
        ([NONE, NONE], "absent", None),
        ([HAS, NONE], "mixed", None),
        ([HAS, None], "unknown", None),
        ([None, None], "unknown", None),
        ([], "unknown", None),
        ([OTHER, OTHER], "other", "v=DKIM1; p=BBBB"),
        ([OTHER, HAS], "mixed", "v=DKIM1; p=BBBB"),
        ([OTHER, None], "unknown", "v=DKIM1; p=BBBB"),
        ([Answer(frozenset({WANTED, "v=DKIM1; p=BBBB"}), 60)], "other", "v=DKIM1; p=BBBB"),
        # of several, a revocation tells most
        ([Answer(frozenset({"v=DKIM1; p=", "v=DKIM1; p=0"}), 60)], "other", "v=DKIM1; p="),
    ],
)
def test_judge(answers: list[Answer | None], sight: str, text: str | None) -> None:
    seen = judge(WANTED, answers, 300)
    assert (seen.sight, seen.text) == (sight, text)


def test_times() -> None:
    seen = judge(WANTED, [HAS, Answer(frozenset({WANTED}), 1200)], 300)
    assert (seen.ttl, seen.negative_ttl) == (1200, 300)
    seen = judge(WANTED, [NONE], None)
    assert (seen.ttl, seen.negative_ttl) == (DEFAULT_TTL, DEFAULT_NEGATIVE_TTL)


def test_an_alias_is_kept_as_long_as_it_says() -> None:
    answers, negative = _followed([ALIAS], 300, {"there.test.": ([HAS], None)})
    assert (judge(WANTED, answers, negative).ttl, negative) == (900, None)


def test_a_revocation_is_what_is_wanted() -> None:
    assert judge(REVOKED, [Answer(frozenset({REVOKED}), 60)], 300).sight == "live"


@pytest.mark.parametrize(
    ("here", "there", "sight"),
    [
        ([ALIAS, ALIAS], [HAS, HAS], "live"),
        # some servers of the owner's do not have the alias yet
        ([ALIAS, NONE], [HAS, HAS], "mixed"),
        ([NONE, NONE], [HAS], "absent"),
        ([ALIAS], [NONE], "absent"),
        ([ALIAS], [HAS, None], "unknown"),
        ([ALIAS], [], "unknown"),
        ([ALIAS], [OTHER], "other"),
        ([HAS, ALIAS], [HAS], "live"),
    ],
)
def test_an_alias_is_as_its_target(here: list[Answer | None], there: list[Answer | None], sight: str) -> None:
    found = judge(WANTED, *_followed(here, 300, {"there.test.": (there, 900)}))
    assert found.sight == sight
    assert found.negative_ttl == (300 if ALIAS not in here else 900)
