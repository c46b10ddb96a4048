# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what Postfix says of its TLS sessions to the report that others get (RFC 8460). Pure.

Postfix hands each result to libtlsrpt, which sends it as a datagram: JSON with the domain `d`, its record `pr` and the
policies that were tried, each with its failures and whether it failed in the end.
"""

from __future__ import annotations

import gzip
import json
import re
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from email.message import EmailMessage
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.reports import values
from ansible_collections.mailwright.server.plugins.module_utils.reports.values import ReportError

PROTOCOL = "1"
# libtlsrpt's numbers for policy types and for results (RFC 8460 sections 4.2 and 4.3).
POLICY_TYPES = {1: "tlsa", 2: "sts", 9: "no-policy-found"}
RESULT_TYPES = {
    201: "starttls-not-supported",
    202: "certificate-host-mismatch",
    203: "certificate-not-trusted",
    204: "certificate-expired",
    205: "validation-failure",
    301: "sts-policy-fetch-error",
    302: "sts-policy-invalid",
    303: "sts-webpki-invalid",
    304: "tlsa-invalid",
    305: "dnssec-invalid",
    306: "dane-required",
}
DETAILS = {
    "s": "sending-mta-ip",
    "n": "receiving-mx-hostname",
    "h": "receiving-mx-helo",
    "r": "receiving-ip",
    "a": "additional-information",
    "f": "failure-reason-code",
}
MAX_LIST = 100
# Destinations of one domain that get the report.
MAX_DESTINATIONS = 10
_VISIBLE = re.compile(r"[!-~]+")
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,253}")


@dataclass(frozen=True)
class Outcome:
    """What became of one delivery's sessions under one policy. `policy` and `failures` are the report's own objects as
    JSON text, the same text for the same content, so that they can be counted."""

    policy: str
    failed: bool
    failures: tuple[str, ...]


@dataclass(frozen=True)
class Results:
    """One datagram."""

    domain: str
    record: str
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True)
class Count:
    """A day's sessions to a domain under one policy, and how often each failure was seen."""

    policy: str
    sessions: int
    failed: int
    failures: tuple[tuple[str, int], ...]


def read(data: bytes) -> Results:
    """Read a datagram. Raises ReportError."""
    try:
        document = json.loads(data)
        # Debian 13's libtlsrpt is of the time before there were versions
        if document.get("dpv", PROTOCOL) != PROTOCOL:
            raise ReportError(f"the datagram's version is {document['dpv']!r}, not {PROTOCOL}")
        domain = values.domain(document["d"], "d")
        return Results(
            domain=domain,
            record=values.text(document["pr"], "pr", 4096),
            outcomes=tuple(_outcome(policy, domain) for policy in document["policies"][:MAX_LIST]),
        )
    except ReportError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ReportError(f"no datagram of libtlsrpt: {type(error).__name__}: {error}") from error


def _outcome(entry: Mapping[str, Any], domain: str) -> Outcome:
    # a domain without policy is its own policy domain
    policy: dict[str, Any] = {
        "policy-type": POLICY_TYPES[entry["policy-type"]],
        "policy-domain": values.optional_text(entry.get("policy-domain"), "policy-domain", 255).lower() or domain,
    }
    for key in ("policy-string", "mx-host"):
        if entry.get(key):
            policy[key] = [values.text(line, key) for line in entry[key][:MAX_LIST]]
    failures = (_failure(failure) for failure in entry.get("failure-details", [])[:MAX_LIST])
    return Outcome(_text(policy), bool(entry["f"]), tuple(failures))


def _failure(entry: Mapping[str, Any]) -> str:
    details = {"result-type": RESULT_TYPES[entry["c"]]}
    details |= {name: values.text(entry[key], name) for key, name in DETAILS.items() if entry.get(key)}
    return _text(details)


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def destinations(record: str) -> list[str]:
    """Where the record wants reports: mailto: and https: URIs that can be used. Others are left out."""
    fields = [field.strip() for field in record.split(";")]
    uris = [uri.strip() for field in fields if field.startswith("rua=") for uri in field[4:].split(",")]
    return [uri for uri in dict.fromkeys(uris) if mail_address(uri) or web_address(uri)][:MAX_DESTINATIONS]


def mail_address(uri: str) -> str:
    """The address of a mailto: URI, empty when it is none that can be used."""
    scheme, _colon, rest = uri.partition(":")
    address = urllib.parse.unquote(rest.partition("?")[0])
    return address if scheme.lower() == "mailto" and _ADDRESS.fullmatch(address) else ""


def web_address(uri: str) -> tuple[str, int, str] | None:
    """Host, port and path of an https: URI, None when it is none that can be used."""
    try:
        parts = urllib.parse.urlsplit(uri)
        port = parts.port or 443
    except ValueError:
        return None
    if parts.scheme != "https" or not parts.hostname or "@" in parts.netloc or not _VISIBLE.fullmatch(uri):
        return None
    return parts.hostname, port, urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))


@dataclass(frozen=True)
class Sender:
    """Who reports: this host, and the address that the reports come from."""

    hostname: str
    address: str

    @property
    def domain(self) -> str:
        return self.address.rpartition("@")[2]


def document(sender: Sender, day: date, domain: str, counts: Iterable[Count]) -> str:
    """The report of one day to one domain (RFC 8460 section 4.4). The same counts give the same text."""
    return json.dumps(
        {
            "organization-name": sender.hostname,
            "date-range": {
                "start-datetime": f"{day.isoformat()}T00:00:00Z",
                "end-datetime": f"{day.isoformat()}T23:59:59Z",
            },
            "contact-info": sender.address,
            "report-id": f"{day.isoformat()}.{domain}@{sender.hostname}",
            "policies": [
                {
                    "policy": json.loads(count.policy),
                    "summary": {
                        "total-successful-session-count": count.sessions - count.failed,
                        "total-failure-session-count": count.failed,
                    },
                    "failure-details": [
                        {**json.loads(failure), "failed-session-count": times} for failure, times in count.failures
                    ],
                }
                for count in counts
            ],
        }
    )


def packed(report: str) -> bytes:
    """The report as it travels."""
    return gzip.compress(report.encode(), mtime=0)


def letter(sender: Sender, day: date, domain: str, recipient: str, report: str) -> EmailMessage:
    """The message that carries the report (RFC 8460 section 5.3)."""
    identity = json.loads(report)["report-id"]
    message = EmailMessage()
    message["From"] = sender.address
    message["To"] = recipient
    message["Subject"] = f"Report Domain: {domain} Submitter: {sender.domain} Report-ID: <{identity}>"
    # the same at a second try
    message["Message-ID"] = f"<tls-report.{identity}>"
    message["TLS-Report-Domain"] = domain
    message["TLS-Report-Submitter"] = sender.domain
    # what is reported must not keep the report away (RFC 8689 section 5)
    message["TLS-Required"] = "No"
    message.set_content(f"This is an aggregate TLS report from {sender.hostname}.\n")
    begin = int(datetime.combine(day, time(), UTC).timestamp())
    name = f"{sender.domain}!{domain}!{begin}!{begin + 86399}!001.json.gz"
    message.add_attachment(packed(report), maintype="application", subtype="tlsrpt+gzip", filename=name)
    message.replace_header("Content-Type", "multipart/report")
    message.set_param("report-type", "tlsrpt")
    return message


def describe(sent: Sequence[str], waiting: Sequence[str], given_up: Sequence[str]) -> str:
    """One line for the log, empty when there was nothing to do."""
    parts = [f"{len(sent)} TLS reports sent"] if sent else []
    parts += [f"not yet: {word}" for word in waiting] + [f"given up: {word}" for word in given_up]
    return "; ".join(parts)
