# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole life of DKIM keys on a real server, while users send: no message leaves unsigned, none fails at peer.

The clock of the rotation is moved on; the filter, the name server, its TTLs and the receiver are as they are.
"""

from __future__ import annotations

import email
import itertools
import json
import re
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import dns.resolver
import pytest
from connection import Lab, message, wait_until

PLAYBOOK = Path(__file__).with_name("rotation.yml")
# The users take turns, so that none of them meets the rate limit.
SENDERS = ("alice@acme.test", "bob@acme.test", "carol@globex.test")
INTERVAL = 0.1
MOST = 780


class Traffic:
    """Mail from our users to dave, one message every INTERVAL seconds, until it is stopped."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.token = f"rotation{uuid.uuid4().hex}"
        self.sent = 0
        self.failure: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            for sender in itertools.cycle(SENDERS):
                with self.lab.submission(sender) as smtp:
                    for _count in range(20):
                        if self._stop.wait(INTERVAL) or self.sent >= MOST:
                            return
                        smtp.send_message(message(sender, "dave@peer.test", f"{self.token} {self.sent}"))
                        self.sent += 1
        except BaseException as error:
            self.failure = error

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)


def begin_anew(lab: Lab) -> None:
    lab.ssh("mx1", "rm -rf /var/lib/mailwright/dkim")
    done = lab.playbook("mailwright.server.site", "-e", json.dumps({"dns_force_delete": True}))
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.fixture(scope="module")
def traffic() -> Iterator[Traffic]:
    lab = Lab.load()
    # what was sent before counts against the rate limit, and what is sent here would for those who come after
    redis = "redis-cli -s /run/redis/redis-server.sock"
    forget = f"{redis} --scan --pattern 'RL*' | xargs -r {redis} del"
    lab.ssh("mx1", forget)
    running = Traffic(lab)
    yield running
    running.stop()
    lab.ssh("mx1", forget)
    # the keys have seen a future that others need not wait for
    begin_anew(lab)


def step(lab: Lab, start: int, days: float) -> list[str]:
    """One run of the rotation; the states of all keys afterwards."""
    done = lab.playbook(str(PLAYBOOK), "-e", f"rotation_start={start}", "-e", f"days={days}")
    assert done.returncode == 0, done.stdout[-4000:]
    found = re.search(r"KEYS ([\w,]*)", done.stdout)
    assert found
    return found[1].split(",")


def test_the_playbook_finds_all_live() -> None:
    done = Lab.load().playbook("mailwright.server.rotate_dkim", "--diff")
    assert "failed=0" in done.stdout, done.stdout[-4000:]


def test_a_compromised_key_is_revoked_at_once() -> None:
    lab = Lab.load()
    (selector,) = re.findall(r"(\w+)\.key", lab.ssh("mx1", "grep -l . /var/lib/mailwright/dkim/globex.test/*e????.key"))
    compromised = [{"domain": "globex.test", "selectors": [selector]}]
    # without immediate it waits until the RSA key beside it has been live for its TTL, which in the lab it has not
    variables = {"rotate_dkim_compromised": compromised, "rotate_dkim_immediate": True}
    done = lab.playbook("mailwright.server.rotate_dkim", "-e", json.dumps(variables))
    assert "failed=0" in done.stdout, done.stdout[-4000:]
    (record,) = dns.resolver.resolve_at(lab.address("ns1"), f"{selector}._domainkey.globex.test", "TXT")
    assert record.to_text() == '"v=DKIM1; k=ed25519; p="'
    configuration = lab.ssh("mx1", "cat /etc/rspamd/local.d/dkim_signing.conf")
    assert selector not in configuration
    # RSA, and the successor until it is seen or not
    assert configuration.count("globex.test/") >= 1
    begin_anew(lab)


def test_no_message_is_unsigned_or_fails_while_keys_rotate(traffic: Traffic) -> None:
    lab = Lab.load()
    start = int(time.time())
    # seen live for the first time; then half a year passes in one leap
    seen = [step(lab, start, 0)]
    assert set(seen[0]) == {"active"}
    for day in (181, 181.1, 181.5, 182, 183, 184, 186, 188, 190, 192, 194, 196, 198, 200, 202, 204):
        seen.append(step(lab, start, day))
        if len(seen) > 3 and set(seen[-1]) == {"active"}:
            break
    states = set(itertools.chain.from_iterable(seen))
    assert {"generated", "active", "retiring", "revoked"} <= states
    assert states & {"published", "propagated"}
    # the old keys are gone: an RSA and an Ed25519 key for each of two domains, as before
    assert seen[-1] == ["active"] * 4
    traffic.stop()
    assert traffic.failure is None, traffic.failure
    assert traffic.sent > 100

    def arrived() -> list[str]:
        find = f"grep -rlZ {traffic.token} ~dave/Maildir/new ~dave/Maildir/cur | xargs -0r cat"
        return re.split(r"(?m)^(?=Return-Path: )", lab.ssh("peer", find))[1:]

    wait_until(lambda: len(arrived()) >= traffic.sent, 120, "all messages have arrived")
    messages = [email.message_from_string(text) for text in arrived()]
    assert len({mail["Subject"] for mail in messages}) == len(messages) == traffic.sent
    unsigned = [mail["Subject"] for mail in messages if len(mail.get_all("DKIM-Signature", [])) != 2]
    failing = [mail["Subject"] for mail in messages
               if "dkim=pass" not in " ".join(mail.get_all("Authentication-Results", []))]  # fmt: skip
    assert (unsigned, failing) == ([], [])
