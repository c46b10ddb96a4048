# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the status report says of DKIM keys."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.dkim.state import Key, State, render_state
from ansible_collections.mailwright.server.plugins.module_utils.probes.dkim import evaluate, probe

MADE = datetime(2026, 3, 1, 12, tzinfo=UTC)


def key(selector: str, state: str = "active", **more: Any) -> Key:
    algorithm = "rsa" if "r" in selector else "ed25519"
    return Key(selector, algorithm, "v=DKIM1; p=x", state, **{"created": MADE, "since": MADE, "live": True, **more})


def days(number: float) -> datetime:
    return MADE + timedelta(days=number)


def test_each_key_has_its_state_and_its_next_date() -> None:
    keys = (key("20260301eaaaa"), key("20260301raaaa"), key("20250901raaaa", "retiring", waited=2 * 86400.0),
            key("20260828raaaa", "generated", live=False))  # fmt: skip
    found = evaluate("acme.test", State(keys, clock=days(1)), days(1))
    assert found.status == "ok" and found.group == "dkim"
    assert found.summary == "4 keys, next 2026-03-07: 20250901raaaa revoked"
    assert found.detail == (
        "rsa 20250901raaaa retiring, in the DNS: revoked 2026-03-07",
        "rsa 20260301raaaa active, in the DNS: rotated 2026-08-28",
        "rsa 20260828raaaa generated, not seen in the DNS: published when it is seen",
        "ed25519 20260301eaaaa active, in the DNS: rotated 2026-08-28",
    )
    assert found.data["keys"][1]["next_at"] == "2026-08-28T12:00:00+00:00"


@pytest.mark.parametrize(
    ("one", "day", "said"),
    [
        (key("20260301raaaa"), 193, None),
        (key("20260301raaaa"), 195, "20260301raaaa is used since 2026-03-01 and due: does rotate_dkim run every day?"),
        (key("20260301raaaa", "generated"), 13, None),
        (key("20260301raaaa", "generated"), 14, "20260301raaaa waits as generated since 2026-03-01"),
        (key("20260301raaaa", "retiring"), 400, None),
    ],
)
def test_what_is_forgotten_is_warned_about(one: Key, day: int, said: str | None) -> None:
    found = evaluate("acme.test", State((one,)), days(day))
    assert (found.status == "warn") is bool(said)
    assert said is None or found.summary.startswith(said)


def test_domains_that_left_are_shown_while_they_have_keys(tmp_path: Path) -> None:
    for domain, state in (
        ("acme.test", State((key("20260301raaaa"),))),
        ("left.test", State((key("20260301raaaa", "retiring"),))),
        ("gone.test", State(used=frozenset({"20260301raaaa"}))),
    ):
        (tmp_path / domain).mkdir()
        (tmp_path / domain / "state.json").write_text(render_state(state))
    (tmp_path / "broken.test").mkdir()
    (tmp_path / "broken.test/state.json").write_text("{}")
    found = {one.name: one for one in probe(["acme.test", "new.test", "broken.test"], str(tmp_path))}
    assert set(found) == {"acme.test", "left.test", "new.test", "broken.test"}
    assert found["left.test"].summary == "1 key of a domain that left"
    assert found["new.test"].status == "fail" and "has no keys" in found["new.test"].summary
    assert found["broken.test"].status == "fail" and "cannot be read" in found["broken.test"].summary
