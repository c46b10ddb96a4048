# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""DMARC aggregate reports (RFC 7489 appendix C, and what RFC 9990 adds). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ansible_collections.mailwright.server.plugins.module_utils.reports import values
from ansible_collections.mailwright.server.plugins.module_utils.reports.values import ReportError

MAX_DEPTH = 32
MAX_RECORDS = 100_000
# Signatures and SPF checks of one record that are kept.
MAX_RESULTS = 20
DISPOSITIONS = ("none", "pass", "quarantine", "reject")


@dataclass(frozen=True)
class Record:
    """Messages from one address that were treated alike. Results of checks as domain[/selector]=result."""

    source_ip: str
    messages: int
    disposition: str
    dkim_aligned: bool
    spf_aligned: bool
    header_from: str
    envelope_from: str
    dkim_results: tuple[str, ...]
    spf_results: tuple[str, ...]


@dataclass(frozen=True)
class DmarcReport:
    """What one receiver saw of one domain."""

    reporter: str
    contact: str
    report_id: str
    begin: datetime
    end: datetime
    domain: str
    records: tuple[Record, ...]


def parse(data: bytes) -> DmarcReport:
    """Read the XML. Raises ReportError."""
    reader = _Reader()
    try:
        reader.parser.Parse(data, True)
    except expat.ExpatError as error:
        raise ReportError(f"no XML: {error}") from error
    except (LookupError, UnicodeError) as error:
        raise ReportError(f"no XML: unknown encoding: {error}") from error
    root = reader.root
    if root is None or root.tag != "feedback":
        raise ReportError("no DMARC report: the document is no feedback")
    metadata, policy = _child(root, "report_metadata"), _child(root, "policy_published")
    dates = _child(metadata, "date_range")
    begin, end = values.period(
        values.seconds(dates.findtext("begin"), "date_range/begin"),
        values.seconds(dates.findtext("end"), "date_range/end"),
    )
    return DmarcReport(
        reporter=values.text(metadata.findtext("org_name"), "org_name"),
        contact=values.optional_text(metadata.findtext("email"), "email"),
        report_id=values.text(metadata.findtext("report_id"), "report_id"),
        begin=begin,
        end=end,
        domain=values.domain(policy.findtext("domain"), "policy_published/domain"),
        records=tuple(reader.records),
    )


class _Reader:
    """expat's handlers: they build a tree, from which each record is taken when it ends. No document type, hence no
    entities: those may grow without bounds or name files."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.root: Element | None = None
        self.depth = 0
        self.tree = TreeBuilder()
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.CharacterDataHandler = self.tree.data
        self.parser.StartDoctypeDeclHandler = self.doctype

    def doctype(self, *_args: object) -> None:
        raise ReportError("the XML has a document type, which no report needs")

    def start(self, name: str, _attributes: object) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ReportError(f"the XML is nested deeper than {MAX_DEPTH} levels")
        element = self.tree.start(name.rpartition(" ")[2], {})
        if self.root is None:
            self.root = element

    def end(self, name: str) -> None:
        self.depth -= 1
        element = self.tree.end(name.rpartition(" ")[2])
        if self.depth == 1 and element.tag == "record" and self.root is not None:
            if len(self.records) == MAX_RECORDS:
                raise ReportError(f"the report has more than {MAX_RECORDS} records")
            self.records.append(_record(element))
            self.root.remove(element)


def _child(element: Element, name: str) -> Element:
    found = element.find(name)
    if found is None:
        raise ReportError(f"no DMARC report: {name} is missing")
    return found


def _record(element: Element) -> Record:
    row, identifiers = _child(element, "row"), _child(element, "identifiers")
    evaluated = _child(row, "policy_evaluated")
    results = element.find("auth_results")
    return Record(
        source_ip=values.address(row.findtext("source_ip"), "source_ip"),
        messages=values.count(row.findtext("count"), "count"),
        disposition=values.word(evaluated.findtext("disposition"), "disposition", DISPOSITIONS),
        dkim_aligned=evaluated.findtext("dkim", "").strip().lower() == "pass",
        spf_aligned=evaluated.findtext("spf", "").strip().lower() == "pass",
        header_from=values.domain(identifiers.findtext("header_from"), "header_from"),
        envelope_from=values.optional_text(identifiers.findtext("envelope_from"), "envelope_from", 255).lower(),
        dkim_results=_results(results, "dkim"),
        spf_results=_results(results, "spf"),
    )


def _results(results: Element | None, kind: str) -> tuple[str, ...]:
    found = []
    for result in [] if results is None else results.findall(kind)[:MAX_RESULTS]:
        name = values.optional_text(result.findtext("domain"), "domain", 255).lower()
        selector = values.optional_text(result.findtext("selector"), "selector", 255)
        what = values.optional_text(result.findtext("result"), "result", 40).lower()
        found.append(f"{name}/{selector}={what}" if selector else f"{name}={what}")
    return tuple(found)
