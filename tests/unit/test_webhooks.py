# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Webhooks and mail that comes in: signatures, addresses, retries, and messages of any kind taken apart."""

from __future__ import annotations

import asyncio
import base64
from email.message import EmailMessage
from typing import Any

import httpcore
import pytest
from ansible_collections.mailwright.server.plugins.module_utils.sending import inbound, webhooks
from hypothesis import given
from hypothesis import strategies as st
from mailwright_api.guard import Guard, RefusedError

OWN = webhooks.parse_networks(["10.20.0.0/16"])


def test_a_signature_is_that_of_the_standard() -> None:
    """The example that libraries of Standard Webhooks are tested with."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    signature = webhooks.sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_secrets_differ_and_are_long() -> None:
    first, second = webhooks.new_secret(), webhooks.new_secret()
    assert first != second and len(base64.b64decode(first.removeprefix("whsec_"))) == 32


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("9.9.9.9", True), ("2620:fe::fe", True), ("10.20.3.4", True), ("::ffff:9.9.9.9", True),
        ("::ffff:10.20.3.4", True), ("10.21.3.4", False), ("127.0.0.1", False), ("0.0.0.0", False),
        ("169.254.169.254", False), ("100.64.0.1", False), ("192.0.2.1", False), ("224.0.0.1", False),
        ("255.255.255.255", False), ("240.0.0.1", False), ("::1", False), ("::", False), ("::ffff:127.0.0.1", False),
        ("::127.0.0.1", False), ("64:ff9b::127.0.0.1", False), ("64:ff9b::9.9.9.9", True), ("2002:7f00:1::", False),
        ("fe80::1", False), ("fe80::1%eth0", False), ("fd00::1", False), ("ff0e::1", False), ("2001:db8::1", False),
    ],
)  # fmt: skip
def test_only_the_internet_and_networks_of_one_s_own_can_be_reached(address: str, wanted: bool) -> None:
    assert webhooks.reachable(address, OWN) is wanted


@given(st.ip_addresses())
def test_what_is_not_global_is_never_reached(address: Any) -> None:
    if webhooks.reachable(str(address), ()):
        assert address.is_global or address.ipv4_mapped.is_global


@pytest.mark.parametrize("url", ["https://example.org/x?y=1", "https://9.9.9.9:8443/", "https://[2620:fe::fe]/",
                                 "http://10.20.3.4/", "https://xn--bcher-kva.example/"])  # fmt: skip
def test_a_url_that_may_be(url: str) -> None:
    assert webhooks.check_url(url, OWN) == url


@pytest.mark.parametrize("url", ["http://example.org/", "http://9.9.9.9/", "https://0x0a150304/", "https://exämple.org/",
                                 "https://a..b/", "https://-a.example/", "https://localhost./"])  # fmt: skip
def test_a_url_that_may_not_be(url: str) -> None:
    with pytest.raises(ValueError):
        webhooks.check_url(url, OWN)


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_a_mistake(text: str) -> None:
    try:
        webhooks.check_url(text, ())
    except ValueError:
        return
    assert text.startswith("https://")


def test_attempts_end() -> None:
    delays = [webhooks.next_delay(attempts, 0.0) for attempts in range(1, 11)]
    assert delays == [5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400, None]
    assert webhooks.next_delay(1, 1.0) == pytest.approx(6)


class Wire(httpcore.AsyncNetworkBackend):
    """Notes where it would connect to."""

    def __init__(self) -> None:
        self.connected: list[str] = []

    async def connect_tcp(self, host: str, *_arguments: Any, **_options: Any) -> httpcore.AsyncNetworkStream:
        self.connected.append(host)
        raise httpcore.ConnectError("refused")


def test_a_name_is_asked_for_once_and_the_answer_is_what_is_connected_to() -> None:
    """DNS rebinding: whatever the name leads to a moment later."""
    answers = [["9.9.9.9", "149.112.112.112"], ["127.0.0.1"]]
    wire = Wire()

    async def find(_host: str, _port: int) -> list[str]:
        return answers.pop(0)

    guard = Guard((), find, wire)
    with pytest.raises(httpcore.ConnectError):
        asyncio.run(guard.connect_tcp("rebound.example", 443))
    assert wire.connected == ["9.9.9.9", "149.112.112.112"] and len(answers) == 1
    with pytest.raises(RefusedError, match=r"leads to 127\.0\.0\.1"):
        asyncio.run(guard.connect_tcp("rebound.example", 443))
    assert len(wire.connected) == 2


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f.1", "::ffff:127.0.0.1", "localhost"])
def test_however_it_is_written_the_system_s_own_answer_counts(host: str) -> None:
    wire = Wire()
    with pytest.raises(RefusedError):
        asyncio.run(Guard((), backend=wire).connect_tcp(host, 443))
    assert wire.connected == []


# --- mail that comes in -----------------------------------------------------------------------------------------------


def test_a_message_is_taken_apart() -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "Dave <dave@peer.test>", "a@x.example, b@x.example", "Grüße"
    message["Received"] = "one"
    message["Received"] = "two"
    message.set_content("Hällo\n")
    message.add_alternative("<p>Hällo</p>", subtype="html")
    message.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="ä.pdf")
    inner = EmailMessage()
    inner["Subject"] = "inner"
    inner.set_content("x")
    message.add_attachment(inner)
    found = inbound.shown(inbound.parse(message.as_bytes()), "mx1.acme.test", 10**6)
    assert (found["text"], found["html"], found["subject"]) == ("Hällo\n", "<p>Hällo</p>\n", "Grüße")
    assert found["to"] == ["a@x.example", "b@x.example"]
    assert [header["value"] for header in found["headers"] if header["name"] == "Received"] == ["one", "two"]
    files = [
        (file["filename"], file["content_type"], base64.b64decode(file["content"])) for file in found["attachments"]
    ]
    assert files[0] == ("ä.pdf", "application/pdf", b"%PDF")
    assert files[1][1] == "message/rfc822" and b"Subject: inner" in files[1][2]
    small = inbound.shown(inbound.parse(message.as_bytes()), "mx1.acme.test", 3)
    assert [file["content"] for file in small["attachments"]] == [None, None]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("mx1.acme.test; spf=pass smtp.mailfrom=x; dkim=pass header.d=x; dmarc=pass", ("pass", "pass", "pass")),
        ("mx1.acme.test; dkim=fail; dkim=pass; spf=softfail", ("softfail", "pass", "none")),
        ("mx1.acme.test; spf=fail (dmarc=pass dkim=pass)", ("fail", "none", "none")),
        ("elsewhere.example; spf=pass; dkim=pass; dmarc=pass", ("none", "none", "none")),
        ("mx1.acme.test.evil.example; spf=pass", ("none", "none", "none")),
    ],
)
def test_only_this_host_s_results_count(value: str, wanted: tuple[str, str, str]) -> None:
    below = ("Authentication-Results", "mx1.acme.test; spf=pass; dkim=pass; dmarc=pass")
    found = inbound.authentication([("authentication-results", value), below], "mx1.acme.test")
    assert (found["spf"], found["dkim"], found["dmarc"]) == wanted


@given(st.binary(max_size=3000))
def test_any_octets_can_be_read(noise: bytes) -> None:
    inbound.shown(inbound.parse(noise), "mx1.acme.test", 10**6)


HEADS = st.sampled_from(
    [b"Content-Type: multipart/mixed; boundary=b", b"Content-Type: message/rfc822",
     b"Content-Type: text/html; charset=x",
     b"Content-Transfer-Encoding: base64", b"Content-Transfer-Encoding: x-uuencode", b"Subject: =?utf-8?q?=ff?=",
     b"Content-Disposition: attachment; filename*=utf-8''%ff%00", b"--b", b"--b--", b"", b"begin 644 x", b"Date: x",
     b"Content-Type: text/plain; charset=idna", b"Subject: =?idna?q?x.?=", b"\xff\xfe: \xff", b"To: <<a@b>, x:;,"]
)  # fmt: skip


@given(st.lists(HEADS, max_size=60))
def test_any_structure_can_be_read(lines: list[bytes]) -> None:
    inbound.shown(inbound.parse(b"\r\n".join(lines)), "mx1.acme.test", 10**6)


def test_a_bomb_of_nested_parts_can_be_read() -> None:
    head = "".join(f"Content-Type: multipart/mixed; boundary=b{depth}\n\n--b{depth}\n" for depth in range(5000))
    parsed = inbound.parse(f"Subject: deep\n{head}".encode())
    assert not parsed.complete and ("Subject", "deep") in parsed.headers


def test_many_parts_are_read_up_to_a_limit() -> None:
    part = "--b\nContent-Type: image/png\n\nx\n"
    text = f"Content-Type: multipart/mixed; boundary=b\n\n{part * 3000}--b--\n"
    parsed = inbound.parse(text.encode())
    assert len(parsed.attachments) <= inbound.MOST_PARTS and not parsed.complete


def test_a_route_is_found_by_its_recipient() -> None:
    route = "0" * 31 + "a"
    assert inbound.route_of(f"Any.One+x@{route}.inbound.mailwright.invalid") == ("Any.One+x", route)
    for address in ("a@inbound.mailwright.invalid", f"a@{route}.inbound.mailwright.invalid.x", "a@b"):
        assert inbound.route_of(address) is None
