# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What other servers reported about the domains here, whether reports are read, and what is reported to others."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from ansible_collections.mailwright.server.plugins.module_utils.probes.result import Result, Status, duration
from ansible_collections.mailwright.server.plugins.module_utils.reports.intake import SPOOL
from ansible_collections.mailwright.server.plugins.module_utils.reports.tls_store import STORE

DAYS = 7
# The intake runs every five minutes.
LATE = 1800.0
# Share of TLS sessions that fail, from which there is more to it than a network's hiccup.
TLS_WARN = 0.05
# Domains listed, the worst first.
LISTED = 10


class Domain(NamedTuple):
    """What the last days' reports say of a domain: messages under DMARC, and sessions under TLS."""

    name: str
    messages: int
    messages_failed: int
    sessions: int
    sessions_failed: int


class Seen(NamedTuple):
    """The last days' reports: how many, how many of them from senders that prove who they are, when the last one came,
    and messages that were none."""

    reports: int
    authenticated: int
    last: datetime | None
    aside: int
    domains: tuple[Domain, ...]


QUERY = """
SELECT count(*), count(*) FILTER (WHERE authenticated),
       (SELECT max(received_at) FROM reports.report WHERE authenticated)
  FROM reports.report WHERE received_at > now() - make_interval(days => %(days)s)
"""
ASIDE = "SELECT count(*) FROM reports.aside WHERE received_at > now() - make_interval(days => %(days)s)"
DOMAINS = """
SELECT domain, sum(messages)::bigint, sum(messages_failed)::bigint, sum(sessions)::bigint, sum(sessions_failed)::bigint
  FROM (SELECT report, domain, messages, CASE WHEN dkim_aligned OR spf_aligned THEN 0 ELSE messages END, 0, 0
          FROM reports.dmarc
         UNION ALL
        SELECT report, domain, 0, 0, successful + failed, failed FROM reports.tls)
       AS entry (report, domain, messages, messages_failed, sessions, sessions_failed)
  JOIN reports.report ON report.id = entry.report
 WHERE authenticated AND received_at > now() - make_interval(days => %(days)s)
 GROUP BY domain ORDER BY domain
"""


def evaluate(seen: Seen, waiting: Sequence[float], now: float) -> Result:
    """Judge what was seen; `waiting` are the ages in seconds of messages that are still to be read."""
    lines: list[str] = []
    status: Status = "ok"
    late = [age for age in waiting if age >= LATE]
    if late:
        status = "warn"
        words = f"{len(late)} messages wait to be read, since {duration(max(late))}: journalctl -u mailwright-reports"
        lines.append(words)
    failing = [domain for domain in seen.domains if domain.messages_failed or domain.sessions_failed]
    failing.sort(key=lambda domain: (-domain.sessions_failed, -domain.messages_failed, domain.name))
    for domain in failing[:LISTED]:
        lines.append(_line(domain))
    if len(failing) > LISTED:
        lines.append(f"and {len(failing) - LISTED} domains more")
    if any(domain.sessions_failed >= TLS_WARN * domain.sessions for domain in failing if domain.sessions_failed):
        status = "warn"
    last = "none yet" if seen.last is None else f"the last one {duration(max(0.0, now - seen.last.timestamp()))} ago"
    words = f"{seen.authenticated} in {DAYS} d, {last}"
    if seen.reports > seen.authenticated:
        words += f"; {seen.reports - seen.authenticated} do not prove their sender and do not count"
    if seen.aside:
        words += f"; {seen.aside} messages put aside"
    data = {"reports": seen.reports, "authenticated": seen.authenticated, "aside": seen.aside,
            "last": seen.last.isoformat() if seen.last else None, "waiting": len(waiting),
            "domains": {domain.name: domain._asdict() for domain in seen.domains}}  # fmt: skip
    return Result("others", "reports", status, words, tuple(lines), data=data)


def _line(domain: Domain) -> str:
    parts = []
    if domain.messages_failed:
        parts.append(f"{domain.messages_failed} of {domain.messages} messages failed DMARC")
    if domain.sessions_failed:
        parts.append(f"{domain.sessions_failed} of {domain.sessions} TLS sessions failed")
    return f"{domain.name}: {', '.join(parts)}"


def evaluate_sent(states: Sequence[tuple[str, str, str, str]]) -> Result:
    """Say what became of the last days' TLS reports: domain, destination, state, problem. That others do not take
    theirs is no fault here."""
    counted = {state: [row for row in states if row[2] == state] for state in ("sent", "waiting", "given up")}
    words = f"{len(counted['sent'])} TLS reports sent in {DAYS} d"
    words += "".join(f", {len(counted[state])} {state}" for state in ("waiting", "given up") if counted[state])
    missed = [*counted["given up"], *counted["waiting"]]
    lines = [f"{domain} to {target}: {problem or 'not tried yet'}" for domain, target, _state, problem in missed]
    if len(lines) > LISTED:
        lines = [*lines[:LISTED], f"and {len(lines) - LISTED} more"]
    data = {state.replace(" ", "_"): len(rows) for state, rows in counted.items()}
    return Result("to others", "reports", "ok", words, tuple(lines), data=data)


def probe_sent(store: str = STORE) -> list[Result]:
    """Look into the file of TLS results; nothing where no mail was counted yet."""
    if not os.path.exists(store):
        return []
    with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=5)) as connection:
        query = "SELECT domain, destination, state, problem FROM report WHERE day >= date('now', ?) ORDER BY 1, 2"
        return [evaluate_sent(connection.execute(query, (f"-{DAYS} days",)).fetchall())]


def probe() -> list[Result]:
    """Ask the database, and look into the spool."""
    try:
        import psycopg
    except ImportError:
        return [Result("others", "reports", "fail", "python3-psycopg is not installed on the host")]
    now = time.time()
    with os.scandir(os.path.join(SPOOL, "new")) as entries:
        waiting = [max(0.0, now - entry.stat().st_mtime) for entry in entries]
    address = "dbname=mailwright host=/run/postgresql user=reports connect_timeout=5"
    with psycopg.connect(address, autocommit=True) as connection:
        days = {"days": DAYS}
        reports, authenticated, last = connection.execute(QUERY, days).fetchone()
        (aside,) = connection.execute(ASIDE, days).fetchone()
        domains = tuple(Domain(*row) for row in connection.execute(DOMAINS, days))
    return [evaluate(Seen(reports, authenticated, last, aside, domains), waiting, now)]
