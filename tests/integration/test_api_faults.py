# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the sending API has accepted arrives, once, whatever dies meanwhile.

The services, Postfix and PostgreSQL are killed (SIGKILL) at random moments while messages come in, and once all of the
host loses its power. Callers repeat a request until it is answered, with the same Idempotency-Key. Peer takes most
messages, refuses some for good, and some until the killing is over. Then everything is counted: at peer, in the history
of events, and what was posted to a webhook that fails now and then.
"""

from __future__ import annotations

import collections
import http.client
import json
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.mailwright.server.tests.integration.conftest import SEED, Server, Timer
from ansible_collections.mailwright.server.tests.integration.posts import Receiver, receiving, signature
from ansible_collections.mailwright.server.tests.integration.sending import Api, direct_keys, sql
from connection import CHECKOUT, Lab, wait_until

CALLERS = 4
VICTIMS = ("mailwright-api", "mailwright-dispatch", "mailwright-webhooks", "postfix", "postgresql@17-main")
POWER = "power"
# The main process, of a unit that is up: systemd waits for ever for PostgreSQL when it dies while it starts.
KILL = "systemctl -q is-active {0} && kill -9 $(systemctl show -P MainPID {0}) && echo killed"


class Load:
    """Messages under way, from several callers."""

    def __init__(self, lab: Lab, host: str, token: str, count: int, seconds: float) -> None:
        self.lab, self.host, self.token, self.count = lab, host, token, count
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
        # a host without power says nothing; a caller waits no longer than this
        api = Api(self.lab, self.host, self.lab.env["LAB_API_KEY"], timeout=20)
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


@pytest.fixture
def receiver(lab: Lab) -> Iterator[Receiver]:
    with receiving(lab) as listening:
        yield listening


@pytest.fixture
def webhook(lab: Lab, server: Server, receiver: Receiver, token: str) -> Iterator[dict[str, Any]]:
    """It hears of everything that happens to acme.test's messages, and fails once for one post in twenty."""
    with direct_keys(lab, server.name, "acme.test") as (key,):
        api = Api(lab, server.name, key)
        kinds = [f"email.{kind}" for kind in ("accepted", "handed_over", "deferred", "delivered", "bounced")]
        url = f"{receiver.base}/moody/{token}"
        made = api.ask("POST", "/webhooks", {"name": token[:20], "url": url, "events": kinds})
        assert made.status == 201, made
        try:
            yield made.body
        finally:
            api.ask("DELETE", f"/webhooks/{made.body['id']}")


def cut_power(server: Server) -> None:
    for action in ("power-cut", "up"):
        subprocess.run([sys.executable, str(CHECKOUT / "tests/lab/lab.py"), action, server.name], check=True)


@pytest.mark.parametrize(
    ("count", "seconds", "kills"),
    [pytest.param(300, 60, 10, id="300"), pytest.param(10000, 900, 120, id="10000")],
)
@pytest.mark.faults
@pytest.mark.usefixtures("moody_peer")
def test_what_was_accepted_arrives_once(
    lab: Lab, server: Server, token: str, timer: Timer, receiver: Receiver, webhook: dict[str, Any],
    count: int, seconds: float, kills: int,
) -> None:  # fmt: skip
    chance = random.Random(f"{SEED} {count}")
    load = Load(lab, server.name, token, count, seconds)
    try:
        killed = run(load, server, chance, kills)
        timer.say(f"{count} accepted under kills of {dict(killed)}; {load.repeated} requests repeated, "
                  f"{load.replayed} replayed")  # fmt: skip
        assert load.errors == []
        assert killed.keys() == {*VICTIMS, POWER}
        assert len(load.accepted) == count
        units = " ".join(VICTIMS)
        wait_until(
            lambda: server.run(f"systemctl is-active {units}", check=False).split() == ["active"] * len(VICTIMS),
            120, "all units are up",
        )  # fmt: skip
        settle(lab, server, load)
        timer.say("everything delivered or bounced")
        again = arrivals(lab, load)
        timer.say(f"once each at peer, but {len(again)} whose answer Postfix did not live to note: {again}")
        unnoted(server, again)
        history(lab, server, load)
        hooked(lab, server, load, receiver, webhook, timer)
    finally:
        lab.ssh("peer", f"grep -rlZ {load.token} ~dave/Maildir/new ~dave/Maildir/cur | xargs -0r rm -f")
    log = server.run("journalctl -u mailwright-dispatch --since '-60min' -o cat --no-pager")
    assert "handed over twice" not in log
    timer.say("leases that ran out: " + "; ".join(re.findall(r"\d+ leases ran out: .*", log)[-12:]))


def run(load: Load, server: Server, chance: random.Random, kills: int) -> collections.Counter[str]:
    """All messages accepted under kills, each victim at least twice, and one power cut among them; how many were."""
    callers = [threading.Thread(target=load.call) for _number in range(CALLERS)]
    for caller in callers:
        caller.start()
    victims = (list(VICTIMS) * kills)[:kills]
    chance.shuffle(victims)
    victims.insert(chance.randrange(kills // 4, 3 * kills // 4), POWER)
    killed: collections.Counter[str] = collections.Counter()
    pause = load.pause * load.count / CALLERS / kills
    for victim in victims:
        time.sleep(chance.uniform(0.2, 2 * pause - 0.2))
        if victim == POWER:
            cut_power(server)
            killed[victim] += 1
        else:
            killed[victim] += server.run(KILL.format(victim), check=False) == "killed\n"
    for caller in callers:
        caller.join()
    return killed


def settle(lab: Lab, server: Server, load: Load) -> None:
    """Peer takes everything, and nothing is open any more."""
    lab.ssh("peer", "echo > /etc/postfix/moody; postfix reload")
    open_rows = (
        "SELECT count(*) FROM api.recipient r JOIN api.message m ON m.id = r.message "
        f"WHERE m.subject = '{load.token}' AND r.status IN ('queued', 'sending', 'handed_over', 'deferred')"
    )

    def finished() -> bool:
        server.run("postqueue -f", check=False)
        return sql(lab, server.name, open_rows) == "0"

    wait_until(finished, 600, "everything delivered or bounced", every=3)
    wait_until(lambda: not lab.ssh("peer", "postqueue -j"), 60, "peer's own queue is empty")


def arrivals(lab: Lab, load: Load) -> list[str]:
    """Nothing lost, and twice only what came twice out of one queue file: its queue id.

    Postfix dies between peer's 250 and its own note of it: SMTP has no answer to that (RFC 1047).
    """
    pattern = f"^(X-Original-To: dave[+][a-z]+-{load.token}-|Received: by mx1[^ ]* .* id )"
    lines = lab.ssh("peer", f"grep -rhsE '{pattern}' ~dave/Maildir/new ~dave/Maildir/cur || true", timeout=300)
    arrived = collections.defaultdict(list)
    number = ""
    for line in lines.splitlines():
        if line.startswith("X-Original-To"):
            number = re.findall(r"-(\d+)@", line)[0]
        elif number:
            arrived[number].append(line.split(" id ")[1].split()[0])
            number = ""
    wanted = {str(number) for number in range(load.count) if number % 10 != 3}
    assert wanted - set(arrived) == set(), "lost"
    assert set(arrived) - wanted == set()
    assert {number: ids for number, ids in arrived.items() if len(set(ids)) > 1} == {}, "handed over twice"
    return [ids[0] for ids in arrived.values() if len(ids) > 1]


def unnoted(server: Server, queue_ids: list[str]) -> None:
    """Of what came twice, the log has one delivery: the Postfix that made the other had died before it could say so."""
    log = server.run(f"journalctl -o cat --no-pager | grep -aE '^({'|'.join(queue_ids)}): '", check=False, timeout=300)
    for queue_id in queue_ids:
        lines = [line for line in log.splitlines() if line.startswith(queue_id)]
        assert sum("status=sent" in line for line in lines) == 1, lines
        assert sum("(queue active)" in line for line in lines) > 1, lines


def history(lab: Lab, server: Server, load: Load) -> None:
    """Every message accepted once, and each of its events written down once."""
    rows = sql(
        lab, server.name,
        "SELECT json_agg(json_build_array(r.address, r.status, r.queue_id, "
        "(SELECT array_agg(e.kind ORDER BY e.id) FROM api.event e WHERE e.recipient = r.id))) "
        f"FROM api.recipient r JOIN api.message m ON m.id = r.message WHERE m.subject = '{load.token}'",
    )  # fmt: skip
    found = json.loads(rows)
    assert len(found) == load.count, "accepted twice"
    for address, status, queue_id, kinds in found:
        ends = "bounced" if "+refused-" in address else "delivered"
        assert status == ends and queue_id, address
        once = [kind for kind in kinds if kind != "deferred"]
        assert sorted(once) == sorted(["accepted", "handed_over", ends]), (address, kinds)


def hooked(lab: Lab, server: Server, load: Load, receiver: Receiver, webhook: dict[str, Any], timer: Timer) -> None:
    """Every event was posted: signed, once or again, and again under the same id and with the same body."""
    waiting = f"webhook = '{webhook['id']}' AND status = 'pending'"
    # the second attempt comes after 5 s, the third after minutes; what is under lease stays
    due = f"UPDATE api.webhook_delivery SET next_at = now() WHERE {waiting} AND next_at > now() + interval '61 s'"
    count = f"SELECT count(*) FROM api.webhook_delivery WHERE {waiting}"
    wait_until(lambda: sql(lab, server.name, f"{due}; {count}") == "0", 300, "everything is posted", every=3)
    events = sql(
        lab, server.name,
        "SELECT json_agg(e.id) FROM api.event e JOIN api.message m ON m.id = e.message "
        f"WHERE m.subject = '{load.token}'",
    )  # fmt: skip
    posts: dict[int, list[dict[str, Any]]] = collections.defaultdict(list)
    path = f"/moody/{load.token}"
    for post in receiver.requests(path):
        assert post["headers"]["webhook-signature"] == signature(webhook["secret"], post), post
        posts[json.loads(post["body"])["data"]["id"]].append(post)
    unheard = set(json.loads(events)) - set(posts)
    assert unheard == set(), f"{len(unheard)} events were never posted"
    for event, made in posts.items():
        assert len({(post["headers"]["webhook-id"], post["body"]) for post in made}) == 1, event
    ids = {made[0]["headers"]["webhook-id"] for made in posts.values()}
    assert len(ids) == len(posts), "two events under one id"
    repeated = sum(len(made) > 1 for made in posts.values())
    assert repeated, "the receiver failed now and then"
    broken = len(receiver.requests(f"/incomplete{path}"))
    timer.say(f"{len(posts)} events posted, {repeated} of them more than once, {broken} posts were broken off")


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
