# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the sending API has accepted arrives, once, whatever dies meanwhile.

The service, the dispatcher, Postfix and PostgreSQL are killed (SIGKILL) at random moments while messages come in.
Callers repeat a request until it is answered, with the same Idempotency-Key. Peer takes most messages, refuses some for
good, and some until the killing is over. Then everything is counted: at peer, and in the history of events.
"""

from __future__ import annotations

import collections
import http.client
import json
import random
import re
import threading
import time
from collections.abc import Iterator

import pytest
from ansible_collections.mailwright.server.tests.integration.conftest import SEED, Server, Timer
from ansible_collections.mailwright.server.tests.integration.sending import Api, sql
from connection import Lab, wait_until

CALLERS = 4
VICTIMS = ("mailwright-api", "mailwright-dispatch", "postfix", "postgresql@17-main")
# The main process, of a unit that is up: systemd waits for ever for PostgreSQL when it dies while it starts.
KILL = "systemctl -q is-active {0} && kill -9 $(systemctl show -P MainPID {0}) && echo killed"


class Load:
    """Messages under way, from several callers."""

    def __init__(self, lab: Lab, host: str, token: str, count: int, seconds: float) -> None:
        self.lab, self.host, self.token = lab, host, token
        self.numbers = iter(range(count))
        self.lock = threading.Lock()
        self.pause = seconds * CALLERS / count
        self.accepted: dict[int, str] = {}
        self.repeated = self.replayed = 0
        self.errors: list[str] = []

    def recipient(self, number: int) -> str:
        kind = "refused" if number % 10 == 3 else "later" if number % 10 == 7 else "taken"
        # an address of its own for each message, so that arrivals can be told apart
        return f"{'stranger' if kind == 'refused' else 'dave'}+{kind}-{self.token}-{number}@peer.test"

    def call(self) -> None:
        api = Api(self.lab, self.host, self.lab.env["LAB_API_KEY"])
        while True:
            with self.lock:
                number = next(self.numbers, None)
            if number is None:
                return
            body: dict[str, object] = {
                "from": "news@acme.test",
                "to": [self.recipient(number)],
                "subject": self.token,
                "text": "Hello.\n",
            }
            self.send(api, number, body)
            time.sleep(self.pause)

    def send(self, api: Api, number: int, body: dict[str, object]) -> None:
        end = time.monotonic() + 240
        while time.monotonic() < end:
            try:
                answer = api.ask("POST", "/emails", body, {"Idempotency-Key": f"{self.token}-{number}"})
            except (OSError, http.client.HTTPException):
                answer = None
            if answer is not None and answer.status == 202:
                with self.lock:
                    self.accepted[number] = answer.body["id"]
                    self.replayed += "idempotent-replayed" in answer.headers
                return
            # nginx says 502 when the service dies under a request, the service 503 without its database
            if answer is not None and answer.status not in (500, 502, 503, 504):
                self.errors.append(f"{number}: {answer}")
                return
            with self.lock:
                self.repeated += 1
            time.sleep(0.2)
        self.errors.append(f"{number}: no answer for minutes")


@pytest.fixture
def moody_peer(lab: Lab) -> Iterator[None]:
    """Peer answers 451 to dave+later-… until it is told otherwise."""
    before = lab.ssh("peer", "postconf -h smtpd_recipient_restrictions").strip()
    lab.ssh("peer", "cat > /etc/postfix/moody", data="/^dave\\+later-/ 451 4.7.1 Not now\n")
    setting = f"check_recipient_access regexp:/etc/postfix/moody {before}"
    lab.ssh("peer", f"postconf -e 'smtpd_recipient_restrictions={setting}' && systemctl restart postfix")
    yield
    lab.ssh("peer", f"postconf -e 'smtpd_recipient_restrictions={before}' && postfix reload; rm -f /etc/postfix/moody")


@pytest.mark.parametrize(
    ("count", "seconds", "kills"),
    [pytest.param(300, 60, 10, id="300"), pytest.param(3000, 400, 60, id="3000")],
)
@pytest.mark.faults
@pytest.mark.usefixtures("moody_peer")
def test_what_was_accepted_arrives_once(
    lab: Lab, server: Server, token: str, timer: Timer, count: int, seconds: float, kills: int
) -> None:
    chance = random.Random(f"{SEED} {count}")
    load = Load(lab, server.name, token[:20], count, seconds)
    callers = [threading.Thread(target=load.call) for _number in range(CALLERS)]
    for caller in callers:
        caller.start()
    # each at least twice, in a random order
    victims = (list(VICTIMS) * kills)[:kills]
    chance.shuffle(victims)
    killed: collections.Counter[str] = collections.Counter()
    for victim in victims:
        time.sleep(chance.uniform(0.2, 2 * seconds / kills - 0.2))
        killed[victim] += server.run(KILL.format(victim), check=False) == "killed\n"
    for caller in callers:
        caller.join()
    timer.say(
        f"{count} accepted under kills of {dict(killed)}; {load.repeated} requests repeated, {load.replayed} replayed"
    )
    assert load.errors == []
    assert killed.keys() == set(VICTIMS)
    assert len(load.accepted) == count
    wait_until(
        lambda: server.run(f"systemctl is-active {' '.join(VICTIMS)}").split() == ["active"] * 4,
        120,
        "all units are up",
    )

    lab.ssh("peer", "echo > /etc/postfix/moody; postfix reload")
    open_rows = (
        "SELECT count(*) FROM api.recipient r JOIN api.message m ON m.id = r.message "
        f"WHERE m.subject = '{load.token}' AND r.status IN ('queued', 'sending', 'handed_over', 'deferred')"
    )

    def finished() -> bool:
        server.run("postqueue -f", check=False)
        return sql(lab, server.name, open_rows) == "0"

    wait_until(finished, 400, "everything delivered or bounced", every=3)
    timer.say("everything delivered or bounced")

    # at peer
    wait_until(lambda: not lab.ssh("peer", "postqueue -j"), 60, "peer's own queue is empty")
    pattern = f"^X-Original-To: dave+[a-z]*-{load.token}-"
    arrived = collections.Counter(
        re.findall(r"-(\d+)@", lab.ssh("peer", f"grep -rh '{pattern}' ~dave/Maildir/new ~dave/Maildir/cur || true"))
    )
    wanted = {str(number) for number in range(count) if number % 10 != 3}
    assert {number: times for number, times in arrived.items() if times != 1} == {}, "came more than once"
    assert wanted - set(arrived) == set(), "lost"
    assert set(arrived) - wanted == set()

    # in the history
    rows = sql(
        lab, server.name,
        "SELECT json_agg(json_build_array(r.address, r.status, r.queue_id, "
        "(SELECT array_agg(e.kind ORDER BY e.id) FROM api.event e WHERE e.recipient = r.id))) "
        f"FROM api.recipient r JOIN api.message m ON m.id = r.message WHERE m.subject = '{load.token}'",
    )  # fmt: skip
    history = json.loads(rows)
    assert len(history) == count, "accepted twice"
    for address, status, queue_id, kinds in history:
        ends = "bounced" if "+refused-" in address else "delivered"
        assert status == ends and queue_id, address
        once = [kind for kind in kinds if kind != "deferred"]
        assert sorted(once) == sorted(["accepted", "handed_over", ends]), (address, kinds)
    log = server.run("journalctl -u mailwright-dispatch --since '-30min' -o cat --no-pager")
    assert "handed over twice" not in log
    timer.say("leases that ran out: " + "; ".join(re.findall(r"\d+ leases ran out: .*", log)[-12:]))


@pytest.mark.faults
def test_a_death_between_postfix_s_answer_and_our_note_sends_nothing_twice(
    lab: Lab, server: Server, token: str
) -> None:
    """The gap, held open: the dispatcher cannot write down what Postfix answered, and is killed then."""
    api = Api(lab, server.name, lab.env["LAB_API_KEY"])
    count = 12
    server.run("systemctl stop mailwright-dispatch")
    try:
        sent = [api.send(token, f"dave+gap-{number}@peer.test")["id"] for number in range(count)]
        # no event can be written, and with it neither the answer nor what the log says
        hold = "BEGIN; LOCK TABLE api.event IN EXCLUSIVE MODE; SELECT pg_sleep(600);"
        server.run(f"systemd-run -q --unit=hold-events -p User=postgres psql -qd mailwright -c '{hold}'")
        server.run("systemctl start --no-block mailwright-dispatch")
        arrivals = f"grep -rh '^X-Original-To: dave+gap-' $(grep -rl {token} ~dave/Maildir/new) /dev/null || true"
        wait_until(lambda: len(lab.ssh("peer", arrivals).split()) >= 2 * count, 120, "all are at peer")
        noted = f"SELECT count(queue_id) FROM api.recipient WHERE message IN ({', '.join(map(repr, sent))})"
        assert sql(lab, server.name, noted) == "0"
        assert server.run(KILL.format("mailwright-dispatch")) == "killed\n"
    finally:
        # PostgreSQL would not notice that the client is gone
        release = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND pid <> "
        )
        sql(lab, server.name, release + "pg_backend_pid()")
        server.run("systemctl start mailwright-dispatch")
    wait_until(lambda: all(api.kinds(email)[-1] == "delivered" for email in sent), 120, "all are known as delivered")
    assert all(api.kinds(email) == ["accepted", "handed_over", "delivered"] for email in sent)
    # longer than a lease: what is not known as handed over would be sent again
    waiting = "SELECT count(*) FROM api.recipient WHERE status IN ('queued', 'sending')"
    wait_until(lambda: sql(lab, server.name, waiting) == "0", 120, "nothing is left to be sent")
    assert len(lab.ssh("peer", arrivals).split()) == 2 * count
    assert "handed over twice" not in server.run("journalctl -u mailwright-dispatch --since '-10min' -o cat --no-pager")
