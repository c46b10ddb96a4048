# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the status report makes of other servers' reports."""

from __future__ import annotations

from datetime import UTC, datetime

from ansible_collections.mailwright.server.plugins.module_utils.probes.reports import LISTED, Domain, Seen, evaluate

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
