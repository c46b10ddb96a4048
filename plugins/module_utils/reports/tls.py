# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SMTP TLS reports (RFC 8460 section 4). Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.reports import values
from ansible_collections.mailwright.server.plugins.module_utils.reports.values import ReportError

MAX_POLICIES = 1000
MAX_FAILURES = 10_000
POLICY_TYPES = ("tlsa", "sts", "no-policy-found")


@dataclass(frozen=True)
class Failure:
    """Sessions that failed in the same way."""

    result_type: str
    sending_ip: str | None
    receiving_host: str
    receiving_ip: str | None
    sessions: int
    reason: str


@dataclass(frozen=True)
class Policy:
    """What became of the sessions to a domain under one policy."""

    domain: str
    policy_type: str
    successful: int
    failed: int
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class TlsReport:
    """What one sender says of its connections."""

    reporter: str
    contact: str
    report_id: str
    begin: datetime
    end: datetime
    policies: tuple[Policy, ...]


def parse(data: bytes) -> TlsReport:
    """Read the JSON. Raises ReportError."""
    try:
        document = _mapping(json.loads(data), "the report")
    except RecursionError as error:
        raise ReportError("the JSON is nested too deeply") from error
    except ReportError:
        raise
    except ValueError as error:
        raise ReportError(f"no JSON: {error}") from error
    dates = _mapping(document.get("date-range"), "date-range")
    begin, end = values.period(
        values.timestamp(dates.get("start-datetime"), "start-datetime"),
        values.timestamp(dates.get("end-datetime"), "end-datetime"),
    )
    policies = _list(document.get("policies"), "policies", MAX_POLICIES)
    return TlsReport(
        reporter=values.text(document.get("organization-name"), "organization-name"),
        contact=values.optional_text(document.get("contact-info"), "contact-info"),
        report_id=values.text(document.get("report-id"), "report-id"),
        begin=begin,
        end=end,
        policies=tuple(_policy(_mapping(entry, "a policy")) for entry in policies),
    )


def _policy(entry: dict[str, Any]) -> Policy:
    policy, summary = _mapping(entry.get("policy"), "policy"), _mapping(entry.get("summary"), "summary")
    failures = _list(entry.get("failure-details", []), "failure-details", MAX_FAILURES)
    return Policy(
        domain=values.domain(policy.get("policy-domain"), "policy-domain"),
        policy_type=values.word(policy.get("policy-type"), "policy-type", POLICY_TYPES),
        successful=values.count(summary.get("total-successful-session-count"), "total-successful-session-count"),
        failed=values.count(summary.get("total-failure-session-count"), "total-failure-session-count"),
        failures=tuple(_failure(_mapping(failure, "failure-details")) for failure in failures),
    )


def _failure(entry: dict[str, Any]) -> Failure:
    # reporters leave out what they do not know, the number of sessions too when it is one
    reasons = (values.optional_text(entry.get(key), key) for key in ("failure-reason-code", "additional-information"))
    return Failure(
        result_type=values.text(entry.get("result-type"), "result-type", 60).lower(),
        sending_ip=values.optional_address(entry.get("sending-mta-ip"), "sending-mta-ip"),
        receiving_host=values.optional_text(entry.get("receiving-mx-hostname"), "receiving-mx-hostname", 255).lower(),
        receiving_ip=values.optional_address(entry.get("receiving-ip"), "receiving-ip"),
        sessions=values.count(entry.get("failed-session-count", 1), "failed-session-count"),
        reason=" ".join(filter(None, reasons)),
    )


def _mapping(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ReportError(f"no TLS report: {what} is no object")
    return value


def _list(value: object, what: str, limit: int) -> list[Any]:
    if not isinstance(value, list):
        raise ReportError(f"no TLS report: {what} is no list")
    if len(value) > limit:
        raise ReportError(f"{what} has more than {limit} entries")
    return value
