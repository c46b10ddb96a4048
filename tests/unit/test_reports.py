# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports as they come by mail: what is read, and what strangers may send without harm."""

from __future__ import annotations

import gzip
import io
import json
import re
import zipfile
from email.message import EmailMessage
from typing import Any

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.reports import dmarc, intake, message, tls, values
from ansible_collections.mailwright.server.plugins.module_utils.reports.dmarc import DmarcReport
from ansible_collections.mailwright.server.plugins.module_utils.reports.tls import TlsReport
from hypothesis import given, settings
from hypothesis import strategies as st

HOST = "mx1.acme.test"
RECORD = """
<record>
  <row><source_ip>203.0.113.9</source_ip><count>3</count>
    <policy_evaluated><disposition>quarantine</disposition><dkim>fail</dkim><spf>pass</spf></policy_evaluated></row>
  <identifiers><header_from>acme.test</header_from><envelope_from>Bounce.Example</envelope_from></identifiers>
  <auth_results>
    <dkim><domain>acme.test</domain><selector>s1</selector><result>fail</result></dkim>
    <dkim><domain>list.example</domain><result>pass</result></dkim>
    <spf><domain>bounce.example</domain><result>pass</result></spf>
  </auth_results>
</record>"""
FEEDBACK = f"""<?xml version="1.0" encoding="UTF-8" ?>
<feedback>
  <report_metadata>
    <org_name>Example Receiver</org_name><email>noreply@receiver.example</email><report_id>42@receiver</report_id>
    <date_range><begin>1700000000</begin><end>1700086399</end></date_range>
  </report_metadata>
  <policy_published><domain>Acme.Test.</domain><p>reject</p><pct>100</pct></policy_published>{RECORD}
</feedback>
""".encode()
# The report of RFC 8460, appendix B, on another domain.
TLS: dict[str, Any] = {
    "organization-name": "Company-X",
    "date-range": {"start-datetime": "2026-04-01T00:00:00Z", "end-datetime": "2026-04-01T23:59:59Z"},
    "contact-info": "sts-reporting@company-x.example",
    "report-id": "5065427c-23d3-47ca-b6e0-946ea0e8c4be",
    "policies": [
        {
            "policy": {
                "policy-type": "sts",
                "policy-string": ["version: STSv1", "mode: testing", "mx: *.acme.test", "max_age: 86400"],
                "policy-domain": "acme.test",
                "mx-host": ["*.acme.test"],
            },
            "summary": {"total-successful-session-count": 5326, "total-failure-session-count": 303},
            "failure-details": [
                {
                    "result-type": "certificate-expired",
                    "sending-mta-ip": "2001:db8:abcd:12::1",
                    "receiving-mx-hostname": "mx1.acme.test",
                    "failed-session-count": 100,
                },
                {
                    "result-type": "validation-failure",
                    "sending-mta-ip": "198.51.100.62",
                    "receiving-ip": "203.0.113.58",
                    "receiving-mx-hostname": "mx-backup.acme.test",
                    "failed-session-count": 3,
                    "failure-reason-code": "X509_V_ERR_PROXY_PATH_LENGTH_EXCEEDED",
                },
            ],
        }
    ],
}


def letter(*attachments: tuple[str, bytes], headers: str = "") -> bytes:
    mail = EmailMessage()
    mail["From"], mail["To"] = "noreply@receiver.example", "mail-reports@acme.test"
    mail["Subject"] = "Report domain: acme.test"
    mail.set_content("<p>This text is no report.</p>")
    for name, data in attachments:
        mail.add_attachment(data, maintype="application", subtype="octet-stream", filename=name)
    return headers.encode() + bytes(mail)


def zipped(*files: bytes, **options: Any) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for number, data in enumerate(files):
            archive.writestr(f"{number}.xml", data)
    return out.getvalue()


# --- what is read ---------------------------------------------------------------------------------------------------


def test_a_dmarc_report() -> None:
    report = dmarc.parse(FEEDBACK)
    assert (report.reporter, report.report_id, report.domain) == ("Example Receiver", "42@receiver", "acme.test")
    assert (report.end - report.begin).total_seconds() == 86399
    (record,) = report.records
    assert record == dmarc.Record(
        "203.0.113.9", 3, "quarantine", False, True, "acme.test", "bounce.example",
        ("acme.test/s1=fail", "list.example=pass"), ("bounce.example=pass",),
    )  # fmt: skip


@pytest.mark.parametrize("space", ["http://dmarc.org/dmarc-xml/0.1", "urn:ietf:params:xml:ns:dmarc-2.0"])
def test_a_dmarc_report_with_a_namespace(space: str) -> None:
    assert dmarc.parse(FEEDBACK.replace(b"<feedback>", f'<feedback xmlns="{space}">'.encode())) == dmarc.parse(FEEDBACK)


def test_a_tls_report() -> None:
    report = tls.parse(json.dumps(TLS).encode())
    (policy,) = report.policies
    assert (policy.domain, policy.policy_type, policy.successful, policy.failed) == ("acme.test", "sts", 5326, 303)
    assert [failure.sessions for failure in policy.failures] == [100, 3]
    assert policy.failures[0].sending_ip == "2001:db8:abcd:12::1"
    assert policy.failures[0].receiving_ip is None
    assert policy.failures[1].reason == "X509_V_ERR_PROXY_PATH_LENGTH_EXCEEDED"


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(FEEDBACK, id="plain"),
        pytest.param(b"\xef\xbb\xbf" + FEEDBACK, id="plain with a byte order mark"),
        pytest.param(gzip.compress(FEEDBACK), id="gzip"),
        pytest.param(gzip.compress(FEEDBACK[:99]) + gzip.compress(FEEDBACK[99:]), id="gzip of two members"),
        pytest.param(zipped(FEEDBACK), id="zip"),
    ],
)
def test_attachments_in_every_packing(packed: bytes) -> None:
    found = message.read(letter(("whatever.bin", packed)), HOST)
    assert found.problems == ()
    assert [document.report for document in found.documents] == [dmarc.parse(FEEDBACK)]


def test_what_is_read_is_one_report_however_it_is_packed() -> None:
    packings = (FEEDBACK, gzip.compress(FEEDBACK, 1), gzip.compress(FEEDBACK, 9), zipped(FEEDBACK))
    digests = {message.read(letter(("x", packed)), HOST).documents[0].digest for packed in packings}
    assert len(digests) == 1


def test_several_reports_and_one_that_is_none() -> None:
    both = (("a.gz", gzip.compress(FEEDBACK)), ("b", json.dumps(TLS).encode()), ("c.xml", b"<feedback></feedback>"))
    found = message.read(letter(*both), HOST)
    assert [type(document.report) for document in found.documents] == [DmarcReport, TlsReport]
    assert found.problems == ("no DMARC report: report_metadata is missing",)


RESULTS = f"Authentication-Results: {HOST};\n\t"


@pytest.mark.parametrize(
    ("headers", "authenticated"),
    [
        ("", False),
        (f"{RESULTS}dmarc=pass (policy=reject) header.from=receiver.example\n", True),
        (f"{RESULTS}dmarc=fail header.from=receiver.example\n", False),
        (f"{RESULTS}dkim=pass header.d=receiver.example header.s=s1;\n\tdmarc=none\n", True),
        (f"{RESULTS}dkim=pass header.d=evil.example header.s=s1;\n\tdmarc=none\n", False),
        (f"{RESULTS}dkim=fail header.d=receiver.example;\n\tdkim=pass header.d=evil.example\n", False),
        # beneath ours, the sender's own words
        (f"{RESULTS}dmarc=fail\n{RESULTS}dmarc=pass\n", False),
        ("Authentication-Results: mx.evil.example; dmarc=pass\n", False),
    ],
)
def test_who_proves_to_be_the_sender(headers: str, authenticated: bool) -> None:
    found = message.read(letter(("x", FEEDBACK), headers=headers), HOST)
    assert (found.sender_domain, found.authenticated) == ("receiver.example", authenticated)


# --- what is refused ------------------------------------------------------------------------------------------------

BOUND = 2**20
BOMB = b"""<!DOCTYPE feedback [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]><feedback>&b;</feedback>"""
FILE = b"""<!DOCTYPE feedback [<!ENTITY f SYSTEM "file:///etc/passwd">]><feedback>&f;</feedback>"""


@pytest.mark.parametrize(
    ("data", "why"),
    [
        pytest.param(BOMB, "document type", id="entities"),
        pytest.param(FILE, "document type", id="a file"),
        pytest.param(b"<a>" * 100, "nested deeper", id="deep XML"),
        pytest.param(b'{"a":' * 100_000, "nested too deeply", id="deep JSON"),
        pytest.param(gzip.compress(b"<" + bytes(BOUND)), "unpacks to more", id="gzip bomb"),
        pytest.param(zipped(b"<" + bytes(BOUND)), "unpacks to more", id="zip bomb"),
        pytest.param(zipped(*[FEEDBACK + b" " * (BOUND // 2)] * 2), "unpacks to more",
                     id="zip bomb in parts"),
        pytest.param(gzip.compress(FEEDBACK)[:-20], "ends too early|no gzip", id="half a gzip file"),
        pytest.param(zipped(FEEDBACK)[:-20], "no zip file", id="half a zip file"),
        pytest.param(FEEDBACK.replace(b"203.0.113.9", b"fe80::1%eth0"), "no IP address", id="an interface"),
        pytest.param(FEEDBACK.replace(b"<count>3", b"<count>-3"), "no number", id="a negative number"),
        pytest.param(FEEDBACK.replace(b"1700086399", b"99999999999999"), "no time", id="a far future"),
        pytest.param(FEEDBACK.replace(b"1700086399", b"1600000000"), "ends before", id="backwards"),
        pytest.param(json.dumps({**TLS, "policies": [1]}).encode(), "a policy is no object", id="no object"),
        pytest.param(json.dumps({**TLS, "policies": None}).encode(), "policies is no list", id="no list"),
    ],
)  # fmt: skip
def test_what_is_refused(data: bytes, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message, "MAX_BYTES", BOUND)
    found = message.read(letter(("report", data)), HOST)
    assert found.documents == ()
    (problem,) = found.problems
    assert re.search(why, problem), problem


def test_too_many_records_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dmarc, "MAX_RECORDS", 3)
    with pytest.raises(values.ReportError, match="more than 3 records"):
        dmarc.parse(FEEDBACK.replace(RECORD.encode(), RECORD.encode() * 4))
    assert len(dmarc.parse(FEEDBACK.replace(RECORD.encode(), RECORD.encode() * 3)).records) == 3


# --- whatever comes -------------------------------------------------------------------------------------------------


def storable(value: Any) -> None:
    """Raises when PostgreSQL would refuse a text or a number."""
    if isinstance(value, str):
        assert "\0" not in value
        value.encode()
        assert len(value) <= 1100
    elif isinstance(value, int):
        assert 0 <= value < 2**63
    elif isinstance(value, tuple):
        for entry in value:
            storable(entry)
    elif hasattr(value, "__dataclass_fields__"):
        storable(tuple(vars(value).values()))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def mutated_json(draw: st.DrawFn) -> bytes:
    """A TLS report in which some values are something else."""
    document = json.loads(json.dumps(TLS))

    def places(node: Any) -> list[tuple[Any, Any]]:
        pairs = list(node.items()) if isinstance(node, dict) else list(enumerate(node))
        below = [place for _key, value in pairs if isinstance(value, dict | list) for place in places(value)]
        return [(node, key) for key, _value in pairs] + below

    for _time in range(draw(st.integers(1, 3))):
        found = places(document)
        if found:
            node, key = draw(st.sampled_from(found))
            node[key] = draw(JSON)
    return json.dumps(document, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


@st.composite
def mutated_bytes(draw: st.DrawFn) -> bytes:
    """A report of which a part is replaced."""
    whole = draw(st.sampled_from([FEEDBACK, json.dumps(TLS).encode(), gzip.compress(FEEDBACK), zipped(FEEDBACK)]))
    start = draw(st.integers(0, len(whole)))
    piece = st.binary(max_size=40) | st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass"))
    return whole[:start] + draw(piece) + whole[start + draw(st.integers(0, 40)) :]


@settings(max_examples=300, deadline=None)
@given(st.one_of(mutated_json(), mutated_bytes(), st.binary(max_size=200)))
def test_any_attachment_is_stored_or_refused(data: bytes) -> None:
    found = message.read(letter(("report", data)), HOST)
    assert found.documents or found.problems
    storable(found)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | mutated_bytes(), st.integers(0, 2000), st.integers(0, 60))
def test_any_message_is_stored_or_refused(piece: bytes, start: int, cut: int) -> None:
    whole = letter(("a.gz", gzip.compress(FEEDBACK)), headers=f"{RESULTS}dmarc=pass\n")
    found = message.read(whole[:start] + piece + whole[start + cut :], HOST)
    assert found.documents or found.problems
    storable(found)


# --- the spool ------------------------------------------------------------------------------------------------------


@pytest.fixture
def spool(tmp_path: Any) -> str:
    for name in ("tmp", "new", "aside"):
        (tmp_path / name).mkdir()
    return str(tmp_path)


def test_a_message_delivered_twice_is_one_file(spool: str, tmp_path: Any) -> None:
    for data in (b"one", b"two", b"one"):
        intake.keep(data, spool)
    assert sorted(path.read_bytes() for path in (tmp_path / "new").iterdir()) == [b"one", b"two"]
    assert not list((tmp_path / "tmp").iterdir())


def test_a_full_spool_takes_nothing_more(spool: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MAX_SPOOL", 10)
    (tmp_path / "aside" / "old").write_bytes(b"1234567")
    intake.keep(b"123", spool)
    with pytest.raises(intake.FullError):
        intake.keep(b"4", spool)
