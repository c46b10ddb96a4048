# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pure parts of the sending API: what becomes a message, what is refused, what logs and reports say."""

from __future__ import annotations

import base64
import email
import email.policy
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.directory import schema as directory_schema
from ansible_collections.mailwright.server.plugins.module_utils.sending import (
    arf,
    compose,
    dsn,
    envelope,
    ids,
    key_rows,
    keys,
    postfix_log,
    raw,
    schema,
    suppression,
)
from ansible_collections.mailwright.server.plugins.module_utils.sending.compose import Attachment, ComposeError, Draft
from hypothesis import given, settings
from hypothesis import strategies as st

WHEN = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
ID = "<0123456789abcdef@acme.test>"
GOOD = Draft("News <news@acme.test>", ["dave@peer.test"], subject="Hello", text="Hi\n")


def made(draft: Draft, limit: int = 10**6) -> compose.Composed:
    return compose.compose(draft, "acme.test", ID, WHEN, limit)


def pointers(draft: Draft) -> list[str]:
    with pytest.raises(ComposeError) as caught:
        made(draft)
    return [problem.pointer for problem in caught.value.problems]


# --- messages ---------------------------------------------------------------------------------------------------------


def test_a_message_has_what_was_asked_for() -> None:
    files = [Attachment("a.csv", base64.b64encode(b"1,2\r\n").decode(), "text/csv"), Attachment("é.bin", "AAEC")]
    draft = GOOD._replace(
        to=["Dave <dave@peer.test>", "DAVE@peer.test"], cc=["eve@peer.test"], bcc=["hidden@peer.test"],
        reply_to=["help@elsewhere.example"], subject="Grüße", html="<p>ü</p>", headers={"X-A": "ü"}, attachments=files,
    )  # fmt: skip
    composed = made(draft)
    # the same mailbox once, in the case that was given last
    assert composed.recipients == ("DAVE@peer.test", "eve@peer.test", "hidden@peer.test")
    assert composed.content.isascii() and b"hidden" not in composed.content
    message = email.message_from_bytes(composed.content, policy=email.policy.default)
    assert message["Subject"] == "Grüße" and message["X-A"] == "ü" and message["Message-ID"] == ID
    assert message["From"] == "News <news@acme.test>" and message["Reply-To"] == "help@elsewhere.example"
    kinds = [part.get_content_type() for part in message.walk()]
    assert kinds == ["multipart/mixed", "multipart/alternative", "text/plain", "text/html", "text/csv",
                     "application/octet-stream"]  # fmt: skip
    assert [part.get_filename() for part in message.iter_attachments()] == ["a.csv", "é.bin"]


def test_every_mistake_is_reported_at_once() -> None:
    draft = Draft("a@globex.test", ["x"], cc=["y\n@b.example"], subject="a\nb", headers={"To": "x"})
    assert pointers(draft) == ["/from", "/to/0", "/cc/0", "/subject", "/text", "/headers/To"]


def test_the_limit_counts_the_whole_message() -> None:
    size = len(made(GOOD).content)
    assert len(made(GOOD, size).content) == size
    with pytest.raises(ComposeError, match=f"has {size} octets, more than {size - 1}"):
        made(GOOD, size - 1)


@pytest.mark.parametrize(
    "address",
    ["a@b.test\r\nRCPT TO:<c@d.test>", "a@b.test>", "<a@b.test", "a@b.test\0", "a b@c.test", "a@b.test,c@d.test",
     "@b.test", "a@", "a", '"a b"@c.test', "a@[127.0.0.1]", "a|b@c.test", "-a@b.test", "a@b..test", "é@b.test",
     "a@b.test ", "", "a%c@b.test", "a!b@c.test", "a@b@c.test\u2028", "N\n <a@b.test>", '"N <a@b.test>',
     "a@x.test <a@b.test>"],
)  # fmt: skip
def test_an_address_is_one_plain_address(address: str) -> None:
    assert pointers(GOOD._replace(to=[address])) == ["/to/0"]


# letters, and what is special to headers, addresses, SMTP and MIME
HOSTILE = st.text(
    st.one_of(st.sampled_from("\r\n\0\t <>@:;,.\"'\\()[]=?%!|/-+_aZ0é€\u2028\x85\x0b\x7f"), st.characters(codec=None)),
    max_size=60,
)
NICE = st.sampled_from(["a@b.example", "News <news@acme.test>", "X-A", "x", "Hello", "news@acme.test", "QUJD"])
ANY = st.one_of(HOSTILE, NICE)
DRAFTS = st.builds(
    Draft,
    sender=ANY,
    to=st.lists(ANY, max_size=3),
    cc=st.lists(ANY, max_size=2),
    bcc=st.lists(ANY, max_size=2),
    reply_to=st.lists(ANY, max_size=2),
    subject=ANY,
    text=st.none() | ANY,
    html=st.none() | ANY,
    headers=st.dictionaries(ANY, ANY, max_size=3),
    attachments=st.lists(st.builds(Attachment, filename=ANY, content=ANY, content_type=ANY), max_size=2),
)
SAFE = st.builds(
    Draft,
    sender=st.sampled_from(["news@acme.test", "News, \u201cfresh\u201d <news@acme.test>", '"A (b)" <news@acme.test>']),
    to=st.just(["dave@peer.test"]),
    subject=ANY,
    text=ANY,
    headers=st.dictionaries(st.sampled_from(["X-A", "X-Long-Name", "List-Id"]), ANY, max_size=3),
    attachments=st.lists(st.builds(Attachment, filename=ANY, content=st.just("AAAA")), max_size=2),
)


@settings(max_examples=150, deadline=None)
@given(st.one_of(DRAFTS, SAFE))
def test_whatever_is_asked_for_becomes_a_sound_message_or_a_list_of_mistakes(draft: Draft) -> None:
    try:
        composed = made(draft)
    except ComposeError as error:
        assert error.problems
        assert all(problem.pointer.isprintable() and problem.detail.isprintable() for problem in error.problems)
        return
    assert composed.sender.endswith("@acme.test")
    for address in (composed.sender, *composed.recipients):
        assert re.fullmatch(r"[!-;=?A-~]+@[a-z0-9.-]+", address)
    content = composed.content
    # RFC 5321: lines end in CR LF, and hold neither alone; no line is too long; 7 bits; no NUL
    assert content.isascii() and b"\0" not in content
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", content)
    assert max(map(len, content.split(b"\r\n"))) <= 998
    # exactly the headers that were asked for
    names = [line.partition(b":")[0].decode().lower() for line in content.partition(b"\r\n\r\n")[0].split(b"\r\n")
             if not line.startswith((b" ", b"\t"))]  # fmt: skip
    expected = {"from", "to", "subject", "date", "message-id", "mime-version", "content-type",
                "content-transfer-encoding", *map(str.lower, draft.headers)}  # fmt: skip
    expected |= ({"cc"} if draft.cc else set()) | ({"reply-to"} if draft.reply_to else set())
    assert set(names) <= expected and len(names) == len(set(names))
    message = email.message_from_bytes(content, policy=email.policy.default)
    assert [part.addr_spec for part in message["From"].addresses] == [composed.sender]


# --- envelope senders, keys, ids --------------------------------------------------------------------------------------


def test_a_token_comes_back_from_its_sender() -> None:
    tokens = {envelope.new_token() for _number in range(1000)}
    assert len(tokens) == 1000
    for token in tokens:
        assert envelope.token_of(envelope.sender(token, "acme.test")) == token
    for other in (
        "b@acme.test",
        "b+@acme.test",
        f"b+{'a' * 25}@acme.test",
        f"b+{'1' * 26}@acme.test",
        "alice@acme.test",
    ):
        assert envelope.token_of(other) is None


def test_keys_are_parsed_and_matched() -> None:
    key = keys.generate()
    assert keys.parse(key.text) == key and keys.matches(key, key.digest)
    assert not keys.matches(keys.generate(), key.digest)


@given(st.text())
def test_what_is_no_key_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ValueError, match="is not a key") as caught:
        keys.parse(text)
    assert len(text) < 6 or text not in str(caught.value)


def test_scopes_are_denied_unless_they_exist() -> None:
    assert keys.check_scopes(["emails.write", "emails.read", "emails.write"]) == ["emails.read", "emails.write"]
    for wrong in ([], ["emails"], ["*"], ["emails.write", "root"]):
        with pytest.raises(ValueError, match="scope"):
            keys.check_scopes(wrong)


@given(st.lists(st.integers(0, 2**48 - 1), min_size=2, max_size=2, unique=True))
def test_ids_sort_by_time(times: list[int]) -> None:
    first, second = sorted(times)
    one, two = ids.new_id(first), ids.new_id(second)
    assert one < two and one.version == 7 and one.variant == "specified in RFC 4122"


def test_tenants_that_changed_are_removed_and_added() -> None:
    text = keys.generate().text
    rates = {"requests_per_minute": 5, "recipients_per_hour": None}
    entry = {"name": "all", "scopes": ["emails.read"], "key": text, **rates}
    before = key_rows.wanted_tenants([{"name": "acme", "domains": ["a.test", "b.test"], "keys": [entry]}])
    wider = {**entry, "scopes": ["emails.read", "emails.write"]}
    after = key_rows.wanted_tenants([{"name": "acme", "domains": ["b.test"], "keys": [wider]}])
    assert before.without(before) == key_rows.Tenants([], [], [])
    assert before.without(after) == key_rows.Tenants([], [key_rows.TenantDomain("a.test", "acme")], before.keys)
    assert after.without(before) == key_rows.Tenants([], [], after.keys)
    assert str(after.keys[0]).endswith("scopes=emails.read,emails.write requests_per_minute=5")
    assert text not in str(before)


def test_tenants_of_the_api_are_left_alone_and_clashes_are_named() -> None:
    rates = {"requests_per_minute": None, "recipients_per_hour": None}
    entry = {"name": "all", "scopes": ["tenants.read"], "key": keys.generate().text, **rates}
    want = key_rows.wanted_tenants([{"name": "acme", "domains": ["a.test"], "keys": [entry]}])
    foreign = key_rows.Tenants(
        [key_rows.Tenant("globex", key_rows.API)], [key_rows.TenantDomain("g.test", "globex")],
        [want.keys[0]._replace(id="0" * 12, tenant="globex")],
    )  # fmt: skip
    found = key_rows.Tenants(want.names + foreign.names, want.domains + foreign.domains, want.keys + foreign.keys)
    assert found.owned_by(key_rows.INVENTORY) == want and found.owned_by(key_rows.API) == foreign
    assert not key_rows.tenant_conflicts(found, want)
    for domains, keys_, name, error in (
        (["g.test"], [], "acme", "tenant 'acme' domain=g.test: belongs to tenant 'globex', owned by the API"),
        (["g.test"], [], "globex", "tenant 'globex': exists, owned by the API"),
        ([], [{**entry, "key": f"mw_{'0' * 12}_{'a' * 48}"}], "acme", "tenant 'acme' key 'all' id=000000000000"),
    ):
        clash = key_rows.wanted_tenants([{"name": name, "domains": domains, "keys": keys_}])
        errors = key_rows.tenant_conflicts(found, clash)
        assert len(errors) == 1 and errors[0].startswith(error)


def test_an_operator_s_key_manages_tenants_alone() -> None:
    text = keys.generate().text
    wanted = key_rows.wanted_operator_keys([{"name": "portal", "scopes": ["tenants.read"], "key": text}])
    assert str(wanted[0]) == f"operator key 'portal' id={text[3:15]} scopes=tenants.read"
    for scope in keys.SCOPES:
        with pytest.raises(ValueError, match=r"is not a scope: write some of tenants\.read, tenants\.write"):
            key_rows.wanted_operator_keys([{"name": "portal", "scopes": [scope], "key": text}])
    assert "tenants.write" not in keys.TENANT_SCOPES and not set(keys.OPERATOR_SCOPES) & set(keys.SCOPES)


def test_roles_stand_for_scopes_and_bound_a_key() -> None:
    assert set(keys.ROLES["viewer"]) < set(keys.ROLES["admin"]) < set(keys.ROLES["owner"]) == set(keys.TENANT_SCOPES)
    assert set(keys.ROLES["developer"]) < set(keys.ROLES["admin"])
    assert keys.roles_within(keys.TENANT_SCOPES) == list(keys.ROLES)
    assert keys.roles_within(keys.ROLES["admin"]) == ["admin", "developer", "viewer"]
    assert keys.roles_within(keys.ROLES["developer"]) == ["developer"]
    assert keys.roles_within(["members.write", "members.read"]) == []
    scopes = ["api_keys.write", "emails.read", "members.write"]
    assert keys.allowed(scopes, None) == tuple(scopes)
    assert keys.allowed(scopes, "admin") == ("emails.read", "members.write")
    assert keys.allowed(scopes, "viewer") == ("emails.read",)
    with pytest.raises(KeyError):
        keys.allowed(scopes, "root")


def test_the_documented_roles_are_these() -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/sending-api.md").read_text()
    table = page.partition("| Role |")[2].partition("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE))
    assert list(rows) == list(keys.ROLES)
    assert rows["developer"] == ", ".join(f"`{scope}`" for scope in keys.ROLES["developer"])
    assert "without `api_keys.write`" in rows["admin"] and "ends with `.read`" in rows["viewer"]


def row(name: str, owner: str = key_rows.INVENTORY, **changes: Any) -> key_rows.Row:
    key = keys.parse(f"mw_{name.encode().hex().ljust(12, '0')[:12]}_{'0' * 48}")
    return key_rows.row("acme.test", name, ["emails.write"], key, owner)._replace(**changes)


def test_the_inventory_s_keys_are_brought_in_line_and_others_left_alone() -> None:
    a, b, c, api = row("a"), row("b"), row("c"), row("z", key_rows.API)
    changed = b._replace(scopes=("emails.read",))
    todo = key_rows.plan([a, b, api], [changed, c])
    assert todo == key_rows.Plan(remove=[a, b], add=[changed, c])
    assert key_rows.plan([a, api], [a]) == key_rows.Plan([], [])
    assert key_rows.conflicts([api], [row("z")]) and not key_rows.conflicts([a, api], [a, b])
    assert "0" * 48 not in str(a)


# --- the log, reports, suppression ------------------------------------------------------------------------------------

TOKEN = "k7jkymcdvownnmdsxaei5jkwvj"
SENT = (
    "4jZxsn6Ynwztc9x: to=<dave@peer.test>, relay=peer.peer.test[198.51.100.212]:25, delay=1.5, "
    "delays=0.41/0.15/0.63/0.31, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as 1DB0A53F0C9)"
)
ALIAS = (
    "4jZx: to=<bob@acme.test>, orig_to=<sales@acme.test>, relay=mx1[/run/dovecot/lmtp], conn_use=2, delay=0.1, "
    "delays=0/0/0/0.1, dsn=2.0.0, status=sent (250 2.0.0 <bob@acme.test> Saved)"
)
NO_HOST = (
    "4jZx: to=<x@none.test>, relay=none, delay=0.1, delays=0.1/0/0/0, dsn=5.4.4, status=bounced "
    "(Host or domain name not found. Name service error)"
)


@pytest.mark.parametrize(
    ("identifier", "line", "found"),
    [
        ("postfix/qmgr", f"4jZx: from=<b+{TOKEN}@acme.test>, size=420, nrcpt=1 (queue active)",
         postfix_log.Queued("4jZx", TOKEN)),
        ("postfix/qmgr", "4jZx: from=<alice@acme.test>, size=420, nrcpt=1 (queue active)", None),
        ("postfix/qmgr", "4jZx: removed", None),
        ("postfix/qmgr", f"4jZx: from=<b+{TOKEN}@acme.test>, status=expired, returned to sender",
         postfix_log.Delivery("4jZx", "", "expired", "", "5.4.7", "expired, returned to sender")),
        ("postfix/smtp", SENT, postfix_log.Delivery("4jZxsn6Ynwztc9x", "dave@peer.test", "delivered",
         "peer.peer.test[198.51.100.212]:25", "2.0.0", "250 2.0.0 Ok: queued as 1DB0A53F0C9")),
        ("postfix/lmtp", ALIAS,
         postfix_log.Delivery("4jZx", "sales@acme.test", "delivered", "mx1[/run/dovecot/lmtp]", "2.0.0",
                              "250 2.0.0 <bob@acme.test> Saved")),
        ("postfix/smtp", NO_HOST,
         postfix_log.Delivery("4jZx", "x@none.test", "bounced", "", "5.4.4",
                              "Host or domain name not found. Name service error")),
        ("postfix/submissions/smtpd",
         "4jZx: client=unknown[198.51.100.33], sasl_method=PLAIN, sasl_username=Alice@Acme.test",
         postfix_log.Submitted("4jZx", "acme.test")),
        ("postfix/submission/smtpd",
         "4jZx: client=a.b[198.51.100.33], sasl_method=LOGIN, sasl_username=a@acme.test, sasl_sender=x@y.test",
         postfix_log.Submitted("4jZx", "acme.test")),
        # nobody has logged in
        ("postfix/smtpd", "4jZx: client=a.b[1.2.3.4], sasl_method=PLAIN, sasl_username=a@acme.test", None),
        ("postfix/submission/smtpd", "4jZx: client=a.b[1.2.3.4]", None),
        # the same words from a program that delivers nothing
        ("postfix/smtpd", SENT, None),
        ("postfix", SENT, None),
        ("qmgr", "", None),
    ],
)  # fmt: skip
def test_the_log_is_understood(identifier: str, line: str, found: object) -> None:
    assert postfix_log.parse(identifier, line) == found


@given(st.text())
def test_what_another_server_says_changes_nothing_but_the_detail(said: str) -> None:
    line = SENT.rpartition(" status=")[0] + f" status=bounced ({said})"
    found = postfix_log.parse("postfix/smtp", line)
    assert isinstance(found, postfix_log.Delivery)
    assert (found.outcome, found.code, found.address) == ("bounced", "2.0.0", "dave@peer.test")
    assert "\0" not in found.detail and len(found.detail) <= postfix_log.LONGEST_DETAIL


@given(st.sampled_from(["postfix/qmgr", "postfix/smtp", "postfix/relay/smtp", "x"]), st.text())
def test_any_line_can_be_read(identifier: str, line: str) -> None:
    postfix_log.parse(identifier, line)


REPORT = (
    "From: MAILER-DAEMON@x.test\nMIME-Version: 1.0\n"
    'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\n\n--b\n'
    "Content-Type: text/plain\n\nSorry\n\n--b\nContent-Type: message/delivery-status\n\n"
    "Reporting-MTA: dns; Inner.Peer.test\n\n"
    "Final-Recipient: rfc822; dave@peer.test\nAction: {action}\nStatus: {status}\n"
    "Diagnostic-Code: smtp; 550 5.1.1\n no such user\n\n--b--\n"
)


def test_reports_are_understood() -> None:
    text = REPORT.format(action="Failed", status="5.1.1 (unknown)")
    assert dsn.parse(text.encode()) == dsn.Report("inner.peer.test", "failed", "5.1.1", "550 5.1.1 no such user")
    assert dsn.parse(REPORT.format(action="", status="5.1.1").encode()) is None
    assert dsn.parse(REPORT.format(action="failed", status="9.1.1").encode()) is None
    assert dsn.parse(b"Subject: I am away\n\nBack on Monday.\n") is None


@settings(max_examples=50)
@given(st.binary(max_size=300), st.integers(0, len(REPORT)))
def test_any_message_can_be_read_as_a_report(noise: bytes, where: int) -> None:
    whole = REPORT.encode()
    for content in (noise, whole[:where] + noise + whole[where:], whole[:where]):
        found = dsn.parse(content)
        assert found is None or all(isinstance(part, str) and "\0" not in part for part in found)


def test_only_what_is_about_the_recipient_suppresses() -> None:
    codes = [f"5.{subject}.{detail}" for subject in range(8) for detail in range(40)]
    suppressing = {code for code in codes if suppression.reason(code)}
    assert suppressing == {"5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1", "5.4.4"}
    assert not any(suppression.reason(code) for code in ("2.1.5", "4.1.1", "4.4.7", ""))


def test_migrations_of_the_schema_go_forward_only() -> None:
    first = schema.MIGRATIONS[0]
    pending = directory_schema.pending({}, schema.MIGRATIONS, schema.NAME)
    assert pending == list(schema.MIGRATIONS)
    with pytest.raises(directory_schema.SchemaError, match=r"^api schema: version 1 in the database has checksum"):
        directory_schema.pending({first.version: "0"}, schema.MIGRATIONS, schema.NAME)


# --- messages that are written ----------------------------------------------------------------------------------------

WRITTEN = b"From: News <news@acme.test>\r\nTo: Dave <dave@peer.test>\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n"


def written(content: bytes, *to: str) -> raw.Raw:
    draft = raw.Draft(list(to) or ["dave@peer.test"], base64.b64encode(content).decode())
    return raw.compose(draft, "acme.test", ID, WHEN, 10**6)


def test_a_written_message_gets_what_it_lacks_and_loses_bcc() -> None:
    made_ = written(
        WRITTEN + b"bcc: hidden@peer.test,\r\n\tother@peer.test\r\nX-A: 1\r\n\r\n.\nHi\n", "a@b.test", "A@b.test"
    )
    assert made_.message_id == ID and made_.composed.recipients == ("A@b.test",)
    assert made_.composed.sender == "news@acme.test" and made_.composed.subject == "Grüße"
    head, _blank, body = made_.composed.content.partition(b"\r\n\r\n")
    assert head == WRITTEN + b"X-A: 1\r\nDate: Thu, 26 Nov 2026 12:00:00 +0000\r\nMessage-ID: " + ID.encode()
    assert body == b".\r\nHi\r\n"
    own = written(WRITTEN + b"Date: x\r\nMessage-ID: <a@b.test>\r\n\r\n")
    assert own.message_id == "<a@b.test>" and own.composed.content.count(b"Date:") == 1


@given(st.binary(max_size=200), st.integers(0, len(WRITTEN)))
def test_no_written_message_gets_past_the_rules(noise: bytes, where: int) -> None:
    for content in (noise, WRITTEN[:where] + noise + WRITTEN[where:] + b"\r\n"):
        try:
            found = written(content)
        except ComposeError:
            continue
        text = found.composed.content
        head = text.partition(b"\r\n\r\n")[0]
        assert text.isascii() and b"\0" not in text and not re.search(rb"(?<!\r)\n|\r(?!\n)", text)
        assert len(re.findall(rb"(?im)^from:", head)) == 1 and found.composed.sender.endswith("@acme.test")
        assert not re.search(rb"(?im)^(bcc|dkim-signature|received|return-path):", head)
        assert "\0" not in found.composed.subject


# --- complaints -------------------------------------------------------------------------------------------------------

COMPLAINT = (
    "From: fbl@x.test\nMIME-Version: 1.0\n"
    'Content-Type: multipart/report; report-type=feedback-report; boundary="b"\n\n--b\n'
    "Content-Type: text/plain\n\nA report.\n\n--b\nContent-Type: message/feedback-report\n\n"
    "Feedback-Type: {kind}\nUser-Agent: X/1\nVersion: 1\n{field}\n\n--b\n"
    "Content-Type: {part}\n\n{header}\nFrom: news@acme.test\n\nHello.\n\n--b--\n"
)


@pytest.mark.parametrize(
    ("field", "part", "header"),
    [
        (f"Original-Mail-From: <b+{TOKEN}@acme.test>", "message/rfc822", "X: 1"),
        ("X: 1", "message/rfc822", f"Return-Path: <b+{TOKEN}@acme.test>"),
        ("X: 1", "text/rfc822-headers", f"Return-Path: <b+{TOKEN}@acme.test>"),
        ("X: 1", "message/rfc822", f"List-Unsubscribe: <https://mx1.acme.test/api/v1/unsubscribe/{TOKEN}>"),
    ],
)
def test_complaints_are_understood(field: str, part: str, header: str) -> None:
    text = COMPLAINT.format(kind="Abuse", field=field, part=part, header=header)
    assert arf.parse(text.encode()) == arf.Complaint(TOKEN, "abuse", "X/1")
    assert arf.parse(text.replace("Abuse", "not-spam").encode()) is None
    assert arf.parse(text.replace(TOKEN, "x").encode()) == arf.Complaint(None, "abuse", "X/1")
    assert arf.parse(REPORT.format(action="failed", status="5.1.1").encode()) is None


@settings(max_examples=50)
@given(st.binary(max_size=300), st.integers(0, len(COMPLAINT)))
def test_any_message_can_be_read_as_a_complaint(noise: bytes, where: int) -> None:
    whole = COMPLAINT.encode()
    for content in (noise, whole[:where] + noise + whole[where:], whole[:where]):
        found = arf.parse(content)
        assert found is None or "\0" not in found.kind + found.reporter


@pytest.mark.parametrize(
    ("action", "code", "found"),
    [("failed", "5.1.1", "bounced"), ("failed", "4.4.7", "expired"), ("delayed", "4.4.1", "deferred"),
     ("delivered", "2.0.0", None), ("relayed", "2.0.0", None), ("expanded", "2.0.0", None), ("x", "5.0.0", None)],
)  # fmt: skip
def test_reports_have_an_outcome(action: str, code: str, found: str | None) -> None:
    assert dsn.outcome(dsn.Report("x", action, code, "")) == found


def test_failures_have_a_category() -> None:
    names = ["other", "address", "mailbox", "system", "network", "protocol", "content", "policy"]
    assert [suppression.category(f"5.{number}.9") for number in range(8)] == names
    assert suppression.category("") == suppression.category("5.8.1") == "other"


def test_the_link_to_unsubscribe_is_two_headers() -> None:
    headers = envelope.unsubscribe_headers("mx1.acme.test", TOKEN)
    message = email.message_from_bytes(headers + written(WRITTEN + b"\r\nHi\n").composed.content)
    assert message["List-Unsubscribe"] == f"<https://mx1.acme.test/api/v1/unsubscribe/{TOKEN}>"
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click" and message["From"]
