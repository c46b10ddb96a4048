# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the status report makes of the answers of DNS blocklists."""

from __future__ import annotations

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.model.build import build_model
from ansible_collections.mailwright.server.plugins.module_utils.model.errors import ModelError
from ansible_collections.mailwright.server.plugins.module_utils.probes.blocklists import (
    Answer,
    Question,
    evaluate,
    query_name,
    read,
)
from ansible_collections.mailwright.server.plugins.module_utils.probes.resolver import Reply

BARE = {
    "mail_hostname": "mx1.acme.test",
    "mail_admin": "alice@acme.test",
    "mail_domains": [{"name": "acme.test", "mailboxes": [{"name": "alice", "password": "long enough, this"}]}],
}
FIRST, SECOND = Question("bl.test", "192.0.2.1"), Question("bl.test", "192.0.2.2")


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ("192.0.2.99", "99.2.0.192.bl.test."),
        # the example of RFC 5782 section 2.4
        (
            "2001:db8:1:2:3:4:567:89ab",
            "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.bl.test.",
        ),
        ("acme.test", "acme.test.bl.test."),
    ],
)
def test_the_name_that_is_asked_for(subject: str, name: str) -> None:
    assert query_name(Question("bl.test", subject)) == name


@pytest.mark.parametrize("code", ["127.0.0.2", "127.0.0.11", "127.0.1.2", "127.0.1.106"])
def test_a_code_is_a_listing(code: str) -> None:
    assert read(Reply((code,))) == Answer("listed", code)


@pytest.mark.parametrize(
    "value",
    ["127.255.255.252", "127.255.255.254", "127.255.255.255", "127.0.1.255", "127.0.0.1", "203.0.113.1"],
)
def test_an_error_is_never_a_listing(value: str) -> None:
    assert read(Reply((value,))).verdict == "unusable"
    # not beside a code either
    assert read(Reply(("127.0.0.2", value))).verdict == "unusable"


def test_silence_is_never_a_listing_nor_a_good_name() -> None:
    assert read(Reply(error="no answer in time")) == Answer("unusable", "no answer in time")
    assert read(Reply()) == Answer("not listed")


def test_what_is_listed_fails_and_what_cannot_be_asked_warns() -> None:
    none = Answer("not listed")
    fine = evaluate([(FIRST, none), (SECOND, none)], {})
    assert (fine.status, fine.summary) == ("ok", "2 on none of 1 lists")
    refused = evaluate([(FIRST, none)], {"other.test": "no answer in time"})
    assert (refused.status, refused.summary) == ("warn", "other.test cannot be asked: no answer in time")
    listed = evaluate([(FIRST, none), (SECOND, Answer("listed", "127.0.0.2"))], {"other.test": "SERVFAIL"})
    assert (listed.status, listed.summary) == ("fail", "192.0.2.2 is listed by bl.test: 127.0.0.2")
    assert listed.detail == ("other.test cannot be asked: SERVFAIL",)
    assert listed.data == {"listed": [["192.0.2.2", "bl.test"]], "unusable": ["other.test"]}


def test_the_inventory_names_lists() -> None:
    assert build_model(BARE).model["blocklists"] is None
    assert build_model({**BARE, "mail_blocklists": {}}).model["blocklists"] == {
        "addresses": ["b.barracudacentral.org", "bl.spamcop.net", "zen.spamhaus.org"],
        "domains": ["dbl.spamhaus.org"],
    }
    with pytest.raises(ModelError, match=r"mail_blocklists\.domains\[0\]"):
        build_model({**BARE, "mail_blocklists": {"domains": ["no zone"]}})
