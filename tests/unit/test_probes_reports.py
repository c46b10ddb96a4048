# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the status report makes of other servers' reports."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ansible_collections.mailwright.server.plugins.module_utils.probes.reports import (
    LISTED,
    Domain,
    Seen,
    evaluate,
    evaluate_sent,
    probe_sent,
)
from ansible_collections.mailwright.server.plugins.module_utils.reports import tls_store

NOW = 1_800_000_000.0
TWO_HOURS_AGO = datetime.fromtimestamp(NOW - 7200, UTC)


def test_nothing_yet() -> None:
    found = evaluate(Seen(0, 0, None, 0, ()), [], NOW)
    assert (found.status, found.summary, found.detail) == ("ok", "0 in 7 d, none yet", ())


def test_failures_by_domain() -> None:
    fine, spoofed = Domain("a.test", 10, 0, 5, 0), Domain("b.test", 10, 4, 100, 4)
    found = evaluate(Seen(5, 3, TWO_HOURS_AGO, 2, (fine, spoofed)), [60.0], NOW)
    assert found.status == "ok"
    assert found.summary == (
        "3 in 7 d, the last one 2 h ago; 2 do not prove their sender and do not count; 2 messages put aside"
    )
    assert found.detail == ("b.test: 4 of 10 messages failed DMARC, 4 of 100 TLS sessions failed",)


def test_many_failures_of_tls_warn() -> None:
    domains = tuple(Domain(f"{number}.test", 10, 10, 100, 5 * (number == 3)) for number in range(LISTED + 2))
    found = evaluate(Seen(1, 1, TWO_HOURS_AGO, 0, domains), [], NOW)
    assert found.status == "warn"
    assert found.detail[0] == "3.test: 10 of 10 messages failed DMARC, 5 of 100 TLS sessions failed"
    assert found.detail[-1] == "and 2 domains more"


def test_reports_that_nobody_reads_warn() -> None:
    found = evaluate(Seen(0, 0, None, 0, ()), [10.0, 7200.0], NOW)
    assert found.status == "warn"
    assert found.detail == ("1 messages wait to be read, since 2 h: journalctl -u mailwright-reports",)


def test_reports_to_others_that_were_not_taken_are_listed() -> None:
    sent = ("a.test", "mailto:tls@a.test", "sent", "")
    found = evaluate_sent([sent, ("b.test", "https://b.test/tls", "given up", "404 Not Found")])
    assert (found.status, found.summary) == ("ok", "1 TLS reports sent in 7 d, 1 given up")
    assert found.detail == ("b.test to https://b.test/tls: 404 Not Found",)


def test_reports_to_others_are_found_in_the_file(tmp_path: Path) -> None:
    store = tmp_path / "results.db"
    assert probe_sent(str(store)) == []
    today = datetime.now(UTC).date()
    with contextlib.closing(tls_store.connect(str(store))) as connection:
        for days in (1, 30):
            row = ((today - timedelta(days=days)).isoformat(), "a.test", "mailto:tls@a.test", "{}", "sent", "")
            connection.execute("INSERT INTO report VALUES (?, ?, ?, ?, ?, ?)", row)
        connection.commit()
    (found,) = probe_sent(str(store))
    assert found.summary == "1 TLS reports sent in 7 d"
