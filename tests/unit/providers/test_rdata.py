# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Record data in one form, compared with dnspython's reading of the same text."""

from __future__ import annotations

from typing import Any

import dns.rdata
import pytest
from ansible_collections.mailwright.server.plugins.module_utils.dns.canonical import text_octets
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.rdata import (
    absolute,
    canonical,
    relative,
    text_or_plain,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import text_value
from hypothesis import given
from hypothesis import strategies as st

ZONE = "acme.test."


@given(st.binary(max_size=600))
def test_a_text_is_read_as_it_was_written(octets: bytes) -> None:
    assert text_octets(text_value(octets)) == octets


@given(st.lists(st.binary(max_size=255), min_size=1, max_size=4))
def test_strings_are_read_as_dnspython_reads_them(strings: list[bytes]) -> None:
    written = " ".join(f'"{dns.rdata._escapify(string)}"' for string in strings)
    read: Any = dns.rdata.from_text("IN", "TXT", written)
    assert text_octets(written) == b"".join(read.strings)


@pytest.mark.parametrize("broken", ['"open', '"a" "b', '"\\999"', "\\"])
def test_broken_text_data(broken: str) -> None:
    with pytest.raises(ValueError):
        text_octets(broken)
    assert canonical("TXT", broken, ZONE) == broken


def test_octal_escapes() -> None:
    assert text_octets(r'"\344\134\""', base=8) == b'\xe4\\"'


@pytest.mark.parametrize(
    ("content", "octets"),
    [('"a" "b"', b"ab"), ("plain; text", b"plain; text"), ('a "quoted" word', b'a "quoted" word'), ('"', b'"')],
)
def test_texts_with_and_without_quotes(content: str, octets: bytes) -> None:
    assert text_or_plain(content) == octets


@pytest.mark.parametrize(
    ("kind", "given", "wanted"),
    [
        ("A", "192.0.2.1", "192.0.2.1"),
        ("AAAA", "2001:0DB8:0:0::1", "2001:db8::1"),
        ("CNAME", "Mail.ACME.test.", "mail.acme.test."),
        ("CNAME", "mail", "mail.acme.test."),
        ("CNAME", "@", "acme.test."),
        ("MX", "010  Mail.acme.test.", "10 mail.acme.test."),
        ("MX", "0 .", "0 ."),
        ("SRV", "0 1 993 mail", "0 1 993 mail.acme.test."),
        ("CAA", "0 ISSUE letsencrypt.org", '0 issue "letsencrypt.org"'),
        ("CAA", '128 issue "a; b=c"', '128 issue "a; b=c"'),
        ("TLSA", "3 1 1 ABCD EF01", "3 1 1 abcdef01"),
        ("TXT", 'v=spf1 " -all"', '"v=spf1 -all"'),
        ("LOC", "52 22 N", "52 22 N"),
        ("MX", "garbage", "garbage"),
    ],
)
def test_one_form(kind: str, given: str, wanted: str) -> None:
    assert canonical(kind, given, ZONE) == wanted


def test_names() -> None:
    for name, short in (("acme.test.", "@"), ("www.acme.test.", "www"), ("*.w.acme.test.", "*.w")):
        assert relative(name, ZONE, "@") == short
        assert absolute(short, ZONE) == name
    assert relative("notacme.test.", ZONE, "@") == "notacme.test."
