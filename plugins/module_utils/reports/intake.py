# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The spool of reports and what becomes of it. Runs on the host, as a user who may do nothing else.

    new/    messages as Postfix handed them over
    aside/  those that hold no report, or none about a domain hosted here; table reports.aside says why

A message leaves new/ after its transaction is committed. Whatever stops the program in between, the next run reads the
message again and finds its reports stored.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.reports import message
from ansible_collections.mailwright.server.plugins.module_utils.reports.dmarc import DmarcReport
from ansible_collections.mailwright.server.plugins.module_utils.reports.tls import TlsReport

SPOOL = "/var/spool/mailwright-reports"
# What new/ and aside/ may hold together; beyond it mail waits in Postfix's queue.
MAX_SPOOL = 2**30


class FullError(Exception):
    """The spool holds as much as it may."""


@dataclass(frozen=True)
class Tally:
    """What one run did."""

    stored: int = 0
    known: int = 0
    aside: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.stored + other.stored, self.known + other.known, self.aside + other.aside)

    def __str__(self) -> str:
        return f"{self.stored} reports stored, {self.known} known before, {self.aside} messages put aside"


def keep(data: bytes, spool: str = SPOOL) -> None:
    """Put a message into new/, on disk when this returns. The same message twice is one file: Postfix delivers again
    when it did not hear that we had it. Raises OSError, FullError."""
    used = sum(entry.stat().st_size for folder in ("new", "aside") for entry in os.scandir(os.path.join(spool, folder)))
    if used + len(data) > MAX_SPOOL:
        raise FullError(f"{spool} holds {used} bytes")
    name = hashlib.sha256(data).hexdigest()
    staged = os.path.join(spool, "tmp", f"{name}.{os.getpid()}")
    with open(staged, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(staged, os.path.join(spool, "new", name))
    _sync(os.path.join(spool, "new"))


def take(connection: Any, hostname: str, keep_days: int, spool: str = SPOOL) -> Tally:
    """Read all of new/, one transaction a message, and forget what is older than `keep_days`.

    `connection` is psycopg's, in autocommit mode. Raises psycopg.Error when the database is at fault and not a
    message: what is left is left for the next run.
    """
    tally = Tally()
    for name in sorted(os.listdir(os.path.join(spool, "new"))):
        tally += _take_one(connection, hostname, spool, name)
    _forget(connection, keep_days, spool)
    return tally


def _take_one(connection: Any, hostname: str, spool: str, name: str) -> Tally:
    import psycopg

    path = os.path.join(spool, "new", name)
    with open(path, "rb") as stream:
        data = stream.read()
        received = datetime.fromtimestamp(os.fstat(stream.fileno()).st_mtime, UTC)
    letter = message.read(data, hostname)
    try:
        with connection.transaction():
            tally, reasons = store(connection, letter, received)
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        tally, reasons = Tally(), (f"the database refuses it: {error.diag.message_primary}",)
    with connection.transaction():
        connection.execute("DELETE FROM reports.aside WHERE file = %s", (name,))
        if reasons:
            connection.execute(
                "INSERT INTO reports.aside (file, received_at, sender_domain, reason) VALUES (%s, %s, %s, %s)",
                (name, received, letter.sender_domain, "; ".join(reasons)[:1000]),
            )
    if not reasons:
        os.unlink(path)
        return tally
    os.rename(path, os.path.join(spool, "aside", name))
    _sync(os.path.join(spool, "aside"))
    return tally + Tally(aside=1)


def store(connection: Any, letter: message.Letter, received: datetime) -> tuple[Tally, tuple[str, ...]]:
    """Store a message's reports, within the caller's transaction. Returns what is not stored beside the tally."""
    hosted = {name for (name,) in connection.execute("SELECT name FROM directory.domain")}
    tally, reasons = Tally(), list(letter.problems)
    for document in letter.documents:
        report = document.report
        named = {report.domain} if isinstance(report, DmarcReport) else {policy.domain for policy in report.policies}
        if not named & hosted:
            names = ", ".join(sorted(named)[:3]) or "none"
            reasons.append(f"a report on a domain that is not hosted here: {names}")
            continue
        number = _insert_report(connection, letter, document, received)
        if number is None:
            tally += Tally(known=1)
            continue
        if isinstance(report, DmarcReport):
            _insert_dmarc(connection, number, report)
        else:
            _insert_tls(connection, number, report, hosted)
        tally += Tally(stored=1)
    return tally, tuple(reasons)


def _insert(connection: Any, table: str, row: Mapping[str, object], more: str = "") -> Any:
    """INSERT of constants of this file and parameters."""
    marks = ", ".join(["%s"] * len(row))
    statement = f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks}) {more}"  # noqa: S608
    return connection.execute(statement, list(row.values()))


def _insert_report(connection: Any, letter: message.Letter, document: message.Document, received: datetime) -> Any:
    """The new report's number; None when it came before. One that proves its sender takes the place of one that did
    not: who forges a report must not keep the true one out."""
    report = document.report
    if letter.authenticated:
        connection.execute(
            "DELETE FROM reports.report WHERE sender_domain = %s AND digest = %s AND NOT authenticated",
            (letter.sender_domain, document.digest),
        )
    row = {
        "kind": "dmarc" if isinstance(report, DmarcReport) else "tls",
        "sender_domain": letter.sender_domain,
        "authenticated": letter.authenticated,
        "digest": document.digest,
        "reporter": report.reporter,
        "contact": report.contact,
        "report_id": report.report_id,
        "period_begin": report.begin,
        "period_end": report.end,
        "received_at": received,
    }
    found = _insert(connection, "reports.report", row, "ON CONFLICT (sender_domain, digest) DO NOTHING RETURNING id")
    number = found.fetchone()
    return number and number[0]


def _insert_dmarc(connection: Any, number: int, report: DmarcReport) -> None:
    for record in report.records:
        row = {
            "report": number,
            "domain": report.domain,
            "source_ip": record.source_ip,
            "messages": record.messages,
            "disposition": record.disposition,
            "dkim_aligned": record.dkim_aligned,
            "spf_aligned": record.spf_aligned,
            "header_from": record.header_from,
            "envelope_from": record.envelope_from,
            "dkim_results": list(record.dkim_results),
            "spf_results": list(record.spf_results),
        }
        _insert(connection, "reports.dmarc", row)


def _insert_tls(connection: Any, number: int, report: TlsReport, hosted: Collection[str]) -> None:
    for policy in report.policies:
        if policy.domain not in hosted:
            continue
        row = {
            "report": number,
            "domain": policy.domain,
            "policy_type": policy.policy_type,
            "successful": policy.successful,
            "failed": policy.failed,
        }
        (identity,) = _insert(connection, "reports.tls", row, "RETURNING id").fetchone()
        for failure in policy.failures:
            _insert(connection, "reports.tls_failure", {"tls": identity, **vars(failure)})


def _forget(connection: Any, keep_days: int, spool: str) -> None:
    """Remove what came more than `keep_days` ago."""
    connection.execute("DELETE FROM reports.report WHERE received_at < now() - make_interval(days => %s)", (keep_days,))
    old = connection.execute(
        "SELECT file FROM reports.aside WHERE received_at < now() - make_interval(days => %s)", (keep_days,)
    ).fetchall()
    for (name,) in old:
        path = os.path.join(spool, "aside", name)
        if os.path.exists(path):
            os.unlink(path)
        connection.execute("DELETE FROM reports.aside WHERE file = %s", (name,))


def _sync(directory: str) -> None:
    """Wait until the names in a directory are on disk."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
