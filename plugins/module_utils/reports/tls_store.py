# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""TLS results of mail to others: counted by day as they come, reported when the day is over. Runs on the host.

A file of SQLite: what Postfix says now is counted also while PostgreSQL is down, and nobody else reads it.
"""

from __future__ import annotations

import http.client
import smtplib
import socket
import sqlite3
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta

from ansible_collections.mailwright.server.plugins.module_utils.reports import tls_results
from ansible_collections.mailwright.server.plugins.module_utils.reports.tls_results import Count, Sender
from ansible_collections.mailwright.server.plugins.module_utils.reports.values import ReportError

STORE = "/var/lib/mailwright-tls-results/results.db"
# What a datagram may hold, and how many are counted in one transaction.
MAX_DATAGRAM = 2**20
BATCH = 500
# Different policies and failures of one domain and day that are counted; the sessions are counted in any case.
MAX_POLICIES, MAX_FAILURES = 100, 1000
# RFC 8460 section 5.5: what cannot be delivered is tried again for a day.
TRY_FOR = timedelta(days=2)
KEEP = timedelta(days=14)
SECONDS = 60

SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS domain (day TEXT, domain TEXT, record TEXT NOT NULL, PRIMARY KEY (day, domain));
CREATE TABLE IF NOT EXISTS policy (
    day TEXT, domain TEXT, policy TEXT, sessions INTEGER NOT NULL, failed INTEGER NOT NULL,
    PRIMARY KEY (day, domain, policy)
);
CREATE TABLE IF NOT EXISTS failure (
    day TEXT, domain TEXT, policy TEXT, failure TEXT, times INTEGER NOT NULL,
    PRIMARY KEY (day, domain, policy, failure)
);
-- state: waiting, sent or given up
CREATE TABLE IF NOT EXISTS report (
    day TEXT, domain TEXT, destination TEXT, report TEXT NOT NULL, state TEXT NOT NULL, problem TEXT NOT NULL,
    PRIMARY KEY (day, domain, destination)
);
"""


class RefusedError(Exception):
    """A destination that does not want the report; another try is of no use."""


def connect(path: str = STORE) -> sqlite3.Connection:
    """Open the file, which is made where there is none."""
    connection = sqlite3.connect(path, timeout=SECONDS)
    connection.executescript(SCHEMA)
    return connection


def collect(listener: socket.socket, connection: sqlite3.Connection, complain: Callable[[str], object]) -> None:
    """Count what comes, for ever. What cannot be read or stored is said and left out: mail does not wait for it."""
    while True:
        batch = [listener.recv(MAX_DATAGRAM), *_at_once(listener)]
        try:
            count(connection, datetime.now(UTC).date(), batch, complain)
        except sqlite3.Error as error:
            complain(f"{len(batch)} results are not counted: {error}")


def _at_once(listener: socket.socket) -> Iterator[bytes]:
    """What came in the meantime."""
    for _number in range(BATCH):
        try:
            yield listener.recv(MAX_DATAGRAM, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return


def count(connection: sqlite3.Connection, day: date, datagrams: list[bytes], complain: Callable[[str], object]) -> None:
    """Count results as of this day, all or none of them. Raises sqlite3.Error."""
    with connection:
        for data in datagrams:
            try:
                results = tls_results.read(data)
            except ReportError as error:
                complain(str(error))
                continue
            key = (day.isoformat(), results.domain)
            # the record may change during the day: the last word counts
            connection.execute("INSERT OR REPLACE INTO domain VALUES (?, ?, ?)", (*key, results.record))
            for outcome in results.outcomes:
                _count_outcome(connection, key, outcome)


def _count_outcome(connection: sqlite3.Connection, key: tuple[str, str], outcome: tls_results.Outcome) -> None:
    under = (*key, outcome.policy)
    counted = "UPDATE policy SET sessions = sessions + 1, failed = failed + ? WHERE (day, domain, policy) = (?, ?, ?)"
    if not connection.execute(counted, (outcome.failed, *under)).rowcount:
        known = connection.execute("SELECT count(*) FROM policy WHERE (day, domain) = (?, ?)", key).fetchone()[0]
        if known == MAX_POLICIES:
            return
        connection.execute("INSERT INTO policy VALUES (?, ?, ?, 1, ?)", (*under, outcome.failed))
    for failure in outcome.failures:
        counted = "UPDATE failure SET times = times + 1 WHERE (day, domain, policy, failure) = (?, ?, ?, ?)"
        if not connection.execute(counted, (*under, failure)).rowcount:
            known = connection.execute("SELECT count(*) FROM failure WHERE (day, domain) = (?, ?)", key).fetchone()[0]
            if known < MAX_FAILURES:
                connection.execute("INSERT INTO failure VALUES (?, ?, ?, ?, 1)", (*under, failure))


def close_days(connection: sqlite3.Connection, today: date, sender: Sender) -> None:
    """Make reports of the days before today, and forget the counts that they are made from and old reports."""
    over = connection.execute("SELECT * FROM domain WHERE day < ? ORDER BY day, domain", (today.isoformat(),))
    for day, domain, record in over.fetchall():
        with connection:
            report = tls_results.document(sender, date.fromisoformat(day), domain, _counts(connection, day, domain))
            for destination in tls_results.destinations(record):
                row = (day, domain, destination, report)
                connection.execute("INSERT OR IGNORE INTO report VALUES (?, ?, ?, ?, 'waiting', '')", row)
            connection.execute("DELETE FROM domain WHERE (day, domain) = (?, ?)", (day, domain))
            connection.execute("DELETE FROM policy WHERE (day, domain) = (?, ?)", (day, domain))
            connection.execute("DELETE FROM failure WHERE (day, domain) = (?, ?)", (day, domain))
    with connection:
        connection.execute("DELETE FROM report WHERE day < ?", ((today - KEEP).isoformat(),))


def _counts(connection: sqlite3.Connection, day: str, domain: str) -> list[Count]:
    policies = "SELECT policy, sessions, failed FROM policy WHERE (day, domain) = (?, ?) ORDER BY policy"
    failures = "SELECT failure, times FROM failure WHERE (day, domain, policy) = (?, ?, ?) ORDER BY failure"
    return [
        Count(policy, sessions, failed, tuple(connection.execute(failures, (day, domain, policy))))
        for policy, sessions, failed in connection.execute(policies, (day, domain)).fetchall()
    ]


def send(connection: sqlite3.Connection, today: date, sender: Sender) -> str:
    """Hand over the reports that wait; returns what became of them in one line, empty when there were none.

    A report is noted as sent after it was handed over. Killed in between, it goes a second time: with the same number
    and the same content, by which its receiver knows it.
    """
    sent: list[str] = []
    waiting: list[str] = []
    given_up: list[str] = []
    rows = "SELECT day, domain, destination, report FROM report WHERE state = 'waiting' ORDER BY day, domain"
    for text, domain, destination, report in connection.execute(rows).fetchall():
        day, problem = date.fromisoformat(text), ""
        try:
            deliver(sender, day, domain, destination, report)
            state = "sent"
            sent.append(domain)
        except (OSError, smtplib.SMTPException, http.client.HTTPException, RefusedError) as error:
            problem = " ".join(str(error).split())[:500]
            last = isinstance(error, RefusedError) or today - day >= TRY_FOR
            state = "given up" if last else "waiting"
            (given_up if last else waiting).append(f"{domain} to {destination}: {problem}")
        with connection:
            connection.execute(
                "UPDATE report SET state = ?, problem = ? WHERE (day, domain, destination) = (?, ?, ?)",
                (state, problem, text, domain, destination),
            )
    return tls_results.describe(sent, waiting, given_up)


def deliver(sender: Sender, day: date, domain: str, destination: str, report: str) -> None:
    """Send one report to a mailto: or https: URI. Raises RefusedError; OSError and the like when it may go later."""
    web = tls_results.web_address(destination)
    if web:
        _post(*web, tls_results.packed(report))
        return
    recipient = tls_results.mail_address(destination)
    message = tls_results.letter(sender, day, domain, recipient, report)
    try:
        with smtplib.SMTP("127.0.0.1", local_hostname=sender.hostname, timeout=SECONDS) as smtp:
            smtp.send_message(message, sender.address, [recipient])
    except smtplib.SMTPRecipientsRefused as error:
        _refused(*error.recipients[recipient])
    except smtplib.SMTPResponseException as error:
        _refused(error.smtp_code, error.smtp_error)


def _refused(code: int, answer: bytes | str) -> None:
    words = f"{code} {answer.decode('utf-8', 'replace') if isinstance(answer, bytes) else answer}"
    raise RefusedError(words) if code >= 500 else OSError(words)


def _post(host: str, port: int, path: str, data: bytes) -> None:
    connection = http.client.HTTPSConnection(host, port, timeout=SECONDS, context=ssl.create_default_context())
    try:
        connection.request("POST", path, data, {"Content-Type": "application/tlsrpt+gzip"})
        answer = connection.getresponse()
        # another address is not followed: whoever answers decides where else this host would connect to
        if not 200 <= answer.status < 300:
            raise OSError(f"{answer.status} {answer.reason}")
    finally:
        connection.close()
