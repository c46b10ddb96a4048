# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Postfix's log and queue say, as figures."""

from __future__ import annotations

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.metrics.postfix import (
    Accepted,
    Delivery,
    Refused,
    parse,
    queue,
)
from hypothesis import given
from hypothesis import strategies as st

SENT = (
    "4dHj2k0Xz1z3: to=<bob@acme.test>, orig_to=<info@acme.test>, relay=mx1[/run/dovecot/postfix-lmtp], delay=0.31, "
    "delays=0.2/0.01/0.02/0.08, dsn=2.0.0, status=sent (250 2.0.0 <bob@acme.test> Saved)"
)


@pytest.mark.parametrize(
    ("identifier", "line", "found"),
    [
        ("postfix/smtpd", "4dHj2k0Xz1z3: client=peer.test[192.0.2.1]", Accepted("smtp")),
        (
            "postfix/submissions/smtpd",
            "4dHj2k0Xz1z3: client=unknown[192.0.2.1], sasl_method=PLAIN",
            Accepted("submissions"),
        ),
        ("postfix/srs/smtpd", "4dHj2k0Xz1z3: client=localhost[127.0.0.1]", None),
        ("postfix/pickup", "4dHj2k0Xz1z3: uid=0 from=<root>", Accepted("local")),
        ("postfix/lmtp", SENT, Delivery("lmtp", "sent", 0.31)),
        ("postfix/relay/smtp", SENT.replace("status=sent", "status=deferred"), Delivery("smtp", "deferred", 0.31)),
        ("postfix/srs/smtp", SENT, None),
        (
            "postfix/qmgr",
            "4dHj2k0Xz1z3: from=<a@acme.test>, status=expired, returned to sender",
            Delivery("queue", "expired", 0.0),
        ),
        (
            "postfix/smtpd",
            "NOQUEUE: reject: RCPT from peer.test[192.0.2.1]: 550 5.1.1 <x@acme.test>: Recipient address rejected",
            Refused("smtp", "postfix", "5"),
        ),
        (
            "postfix/submission/cleanup",
            "4dHj2k0Xz1z3: milter-reject: END-OF-MESSAGE from peer.test[192.0.2.1]: 4.7.1 Try again later",
            Refused("submission", "filter", "4"),
        ),
        ("postfix/smtpd", "connect from peer.test[192.0.2.1]", None),
        ("postfix", "stray", None),
        ("", "stray", None),
    ],
)
def test_lines(identifier: str, line: str, found: object) -> None:
    assert parse(identifier, line) == found


@given(st.text(), st.text())
def test_any_text_is_a_figure_or_none(identifier: str, line: str) -> None:
    parse("postfix/" + identifier, line)


@given(st.text())
def test_what_another_server_says_is_no_status(words: str) -> None:
    refused = SENT.partition("status=")[0] + f"status=bounced (host said: {words} status=sent (250 ok))"
    assert parse("postfix/smtp", refused) == Delivery("smtp", "bounced", 0.31)


def test_the_queue_is_counted() -> None:
    one = b"queue_name\0%s\0queue_id\0A1\0time\0 1\0size\0 9\0sender\0queue_name\0recipient\0b@x\0reason\0\0\0"
    assert queue(one % b"active" + one % b"deferred" + one % b"deferred") == {
        "incoming": 0, "active": 1, "deferred": 2, "hold": 0, "maildrop": 0,
    }  # fmt: skip
    assert sum(queue(b"").values()) == 0


@given(st.binary())
def test_any_answer_is_counted(answer: bytes) -> None:
    queue(answer)
