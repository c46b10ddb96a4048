# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A user may send to so many recipients an hour; what is more waits with the sender, and others are not concerned."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from connection import message, wait_until

if TYPE_CHECKING:
    from ansible_collections.mailwright.server.tests.integration.conftest import Server

ALICE, BOB, CAROL = "alice@acme.test", "bob@acme.test", "carol@globex.test"
SETTINGS = "/etc/rspamd/local.d/ratelimit.conf"
FORGET = (
    "redis-cli -s /run/redis/redis-server.sock eval "
    "\"for _, k in ipairs(redis.call('keys', 'RL*')) do redis.call('del', k) end\" 0"
)


def load(server: Server) -> None:
    """Have the filter read its settings; it answers all the while, the old processes until the new ones are up."""
    before = server.run("pgrep -f 'rspamd: rspamd_proxy'").split()
    server.run("systemctl reload rspamd")
    wait_until(
        lambda: (
            (now := server.run("pgrep -f 'rspamd: rspamd_proxy'", check=False).split()) and not set(now) & set(before)
        ),
        60,
        "processes with the new settings",
    )


@pytest.fixture
def three_an_hour(server: Server) -> Iterator[None]:
    good = server.run(f"cat {SETTINGS}")
    assert "burst = 300;" in good
    server.run(f"cat > {SETTINGS}", data=good.replace("burst = 300;", "burst = 3;").replace("300 / 1h", "3 / 1h"))
    try:
        load(server)
        server.run(FORGET)
        yield
    finally:
        server.run(f"cat > {SETTINGS}", data=good)
        load(server)
        server.run(FORGET)


@pytest.mark.usefixtures("three_an_hour")
def test_a_user_over_the_limit_waits_and_others_do_not(server: Server) -> None:
    sent = []
    with server.lab.submission(ALICE, server.name) as smtp:
        for recipients in ([BOB], [BOB, CAROL]):
            mail = message(ALICE, BOB)
            assert smtp.send_message(mail, to_addrs=recipients) == {}
            sent.append(str(mail["Subject"]))
        with pytest.raises(smtplib.SMTPDataError) as refused:
            smtp.send_message(message(ALICE, BOB))
        assert refused.value.smtp_code == 451, refused.value
        assert b"Ratelimit" in bytes(refused.value.smtp_error)  # type: ignore[arg-type]
    with server.lab.submission(CAROL, server.name) as smtp:
        mail = message(CAROL, BOB)
        assert smtp.send_message(mail) == {}
        sent.append(str(mail["Subject"]))
    for subject in sent:
        wait_until(lambda subject=subject: server.subjects(BOB, subject), 30, "the mail")  # type: ignore[misc]
        server.discard(BOB, subject)
    server.discard(CAROL, sent[1])
