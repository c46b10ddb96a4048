# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Warm-up in accelerated time: the real dispatcher, PostgreSQL and Postfix on mx1, and peer as four receivers.

Only the warm-up's clock is the test's (warmup_clock.py). After each step peer's own log says what has arrived.
"""

from __future__ import annotations

import collections
import contextlib
import json
import re
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
import yaml
import zones
from ansible_collections.mailwright.server.plugins.module_utils.sending import warmup
from ansible_collections.mailwright.server.tests.integration.conftest import Server, Timer
from ansible_collections.mailwright.server.tests.integration.sending import Api, direct_keys, sql
from ansible_collections.mailwright.server.tests.integration.throwaway import recap
from connection import Lab, wait_until

# The domain that is written to, and the provider that its mail server's name tells.
RECEIVERS = {"one.peer.test": "peer.test", "two.lab.test": "lab.test", "three.globex.test": "globex.test",
             "four.acme.test": "acme.test"}  # fmt: skip
START = datetime(2027, 3, 1, tzinfo=UTC)
THIRTY_DAYS = tuple(max(3, round(cap / 100)) for cap in warmup.SCHEDULE)
LATER = "421 4.7.28 Our system has detected an unusual rate of unsolicited mail from your address"
NEVER = "550 5.7.1 Service unavailable; client host blocked using zen.spamhaus.org"
SET_PLAN = """
import json, sys
path = "/etc/mailwright/api.json"
settings = json.load(open(path))
settings["warmup"] = json.loads(sys.argv[1])
json.dump(settings, open(path, "w"))
"""


class Receivers:
    """peer under four names, and what it logged."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.tsig = json.loads((lab.state / "lab.json").read_text())["tsig"]
        peer = lab.address("peer")
        # nothing else may know the mail server by these names
        self.records = "".join(
            f"mx.{zone}. 60 IN A {peer}\n{domain}. 60 IN MX 10 mx.{zone}.\n" for domain, zone in RECEIVERS.items()
        )
        self.settings = {
            "virtual_alias_domains": " ".join(RECEIVERS),
            "virtual_alias_maps": "regexp:/etc/postfix/receivers",
            "smtpd_recipient_restrictions": "check_recipient_access texthash:/etc/postfix/mood",
            # four providers' worth of mail is not to wait for filters that are none of its business
            "smtpd_milters": "",
            "non_smtpd_milters": "",
        }
        self.before: dict[str, str] = {}

    def __enter__(self) -> Receivers:
        zones.publish_text(self.lab.address("ns1"), self.tsig, self.records)
        for name in self.settings:
            self.before[name] = self.lab.ssh("peer", f"postconf -h {name}").strip()
        domains = "|".join(map(re.escape, RECEIVERS))
        self.lab.ssh("peer", "cat > /etc/postfix/receivers", data=f"/@({domains})$/ dave@peer.test\n")
        self.refuse({})
        self._set(self.settings)
        return self

    def __exit__(self, *_error: object) -> None:
        self._set(self.before)
        for line in self.records.splitlines():
            name, _ttl, _class, kind, *_value = line.split()
            record = dns.rrset.RRset(dns.name.from_text(name), dns.rdataclass.IN, dns.rdatatype.from_text(kind))
            zones.send(self.lab.address("ns1"), self.tsig, zones.zone_of(record.name), [record], delete=True)
        self.lab.ssh("peer", "rm -f /etc/postfix/receivers /etc/postfix/mood")

    def _set(self, settings: dict[str, str]) -> None:
        text = " ".join(shlex.quote(f"{name}={value}") for name, value in settings.items())
        self.lab.ssh("peer", f"postconf -e {text} && systemctl restart postfix")

    def refuse(self, answers: dict[str, str]) -> None:
        """What is said to mail for these domains, or addresses."""
        text = "".join(f"{target} {answer}\n" for target, answer in answers.items())
        self.lab.ssh("peer", "cat > /etc/postfix/mood && postfix reload 2>/dev/null || true", data=text)

    def arrivals(self, since: float) -> list[tuple[float, str]]:
        """When each message was taken in, and for whom."""
        log = self.lab.ssh(
            "peer", f"journalctl -q --since @{int(since)} -o short-unix -t postfix/smtpd -t postfix/local"
        )
        taken = {
            queue_id: float(at)
            for at, queue_id in re.findall(r"^(\S+) \S+ postfix/smtpd\[\d+\]: (\w+): client=mx1", log, re.MULTILINE)
        }
        wanted = re.findall(r"postfix/local\[\d+\]: (\w+): to=<[^>]*>, orig_to=<([^>]*)>.* status=sent", log)
        return [(taken[queue_id], address) for queue_id, address in wanted if queue_id in taken]


class Clock:
    """warmup_clock.py at work in the dispatcher's place."""

    def __init__(self, server: Server, schedule: Sequence[int]) -> None:
        program = (Path(__file__).parent / "warmup_clock.py").read_text()
        argument = json.dumps({"schedule": list(schedule), "lanes": list(RECEIVERS.values())})
        server.run("cat > /run/warmup-clock.py", data=program)
        # as the unit runs it
        command = (
            "systemd-run -q --pipe --wait --collect --unit mailwright-dispatch-simulated -p User=mailwright-dispatch "
            "-p SupplementaryGroups='systemd-journal postdrop' -p RuntimeDirectory=mailwright-dispatch "
            f"-p RuntimeDirectoryMode=0755 /usr/bin/python3 -IB /run/warmup-clock.py {shlex.quote(argument)}"
        )
        self.process = subprocess.Popen(
            ["ssh", "-F", str(server.lab.state / "ssh_config"), server.name, command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def step(self, now: datetime) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(now.isoformat() + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the simulated dispatcher ended; its error is above"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(60)


class World:
    """The simulation: what was accepted, and what happened in each hour."""

    def __init__(self, lab: Lab, server: Server, api: Api, token: str, schedule: Sequence[int]) -> None:
        self.lab, self.server, self.api, self.token, self.schedule = lab, server, api, token, schedule
        self.clock = Clock(server, schedule)
        self.accepted: dict[str, tuple[str, str]] = {}
        self.began = time.time()
        self.hours: list[tuple[datetime, float, dict[str, Any]]] = []
        self.problems: list[str] = []

    def send(self, domain: str, stream: str, count: int) -> None:
        """Batches of messages, each to an address of its own, which no other run knows."""
        addresses = [f"n{len(self.accepted) + number}-{self.token[-12:]}@{domain}" for number in range(count)]
        for first in range(0, count, 100):
            batch = [
                {"from": "news@acme.test", "to": [address], "subject": self.token, "text": "Hello.\n", "stream": stream,
                 "valid_for": 30 * 86400}
                for address in addresses[first : first + 100]
            ]  # fmt: skip
            answer = self.api.ask("POST", "/emails/batch", {"emails": batch})
            assert answer.status == 202, answer
            for address, result in zip(addresses[first : first + 100], answer.body["data"], strict=True):
                self.accepted[address] = (result["email"]["id"], stream)

    def step(self, now: datetime) -> dict[str, Any]:
        """Everything that may go out until then goes out."""
        began = time.time()
        answer = self.clock.step(now)
        waiting = {(lane, rank): count for lane, rank, count in answer["waiting"]}
        for lane, rank, count in answer["sent"]:
            if rank == 1 and count and waiting.get((lane, 0)):
                self.problems.append(f"{now} {lane}: {count} broadcast messages before {waiting[lane, 0]} others")
        self.hours.append((warmup.hour_of(now), began, answer))
        return answer

    def stage(self, lane: str) -> int:
        stage: int = self.hours[-1][2]["ramps"][lane][0]
        return stage

    def is_paused(self, lane: str, now: datetime) -> bool:
        """Whether the receiver gets nothing at that time, as far as is known."""
        until = self.hours[-1][2]["ramps"][lane][3]
        return until is not None and now < datetime.fromisoformat(until)

    def finish(self) -> None:
        """Time stands still."""
        self.clock.close()

    def by_hour(self, receivers: Receivers) -> collections.Counter[tuple[datetime, str]]:
        """What arrived at peer, by the simulated hour and receiver: an hour lasts until the next one begins."""
        found: collections.Counter[tuple[datetime, str]] = collections.Counter()
        begins = [(began, hour) for hour, began, _answer in reversed(self.hours)]
        for at, address in receivers.arrivals(self.began):
            if address in self.accepted:
                hour = next(hour for began, hour in begins if began <= at)
                found[hour, RECEIVERS[address.partition("@")[2]]] += 1
        return found

    def check_caps(self, arrived: collections.Counter[tuple[datetime, str]]) -> None:
        """No hour and no day has more than its step allows, and no step comes before its day."""
        totals: collections.Counter[tuple[datetime, str]] = collections.Counter()
        for (hour, lane), count in arrived.items():
            totals[hour, lane] += count
            totals[hour, "*"] += count
        days: collections.Counter[tuple[datetime, str]] = collections.Counter()
        for (hour, lane), count in totals.items():
            day = (hour - START).days
            if day < len(self.schedule):
                cap = self.schedule[day]
                days[START + timedelta(days=day), lane] += count
                if count > warmup.hourly(cap):
                    self.problems.append(f"{hour} {lane}: {count} in an hour of {warmup.hourly(cap)}")
        for (start, lane), count in days.items():
            if count > self.schedule[(start - START).days]:
                self.problems.append(f"{start} {lane}: {count} in a day of {self.schedule[(start - START).days]}")

    def outcomes(self) -> dict[str, tuple[str, int]]:
        """What became of each recipient, and how often it was handed over."""
        rows = sql(
            self.lab, self.server.name,
            "SELECT json_agg(json_build_array(r.address, r.status, (SELECT count(*) FROM api.event e "
            "WHERE e.recipient = r.id AND e.kind = 'handed_over'))) FROM api.recipient r "
            f"JOIN api.message m ON m.id = r.message WHERE m.subject = '{self.token}'",
        )  # fmt: skip
        return {address: (status, times) for address, status, times in json.loads(rows)}


@pytest.fixture
def receivers(lab: Lab, server: Server, token: str) -> Iterator[Receivers]:
    """peer as four receivers, whom mx1 looks up, and no dispatcher but the simulation's."""
    saved = server.run("cat /etc/mailwright/api.json")
    with contextlib.ExitStack() as undo:

        def restore() -> None:
            server.run("cat > /etc/mailwright/api.json", data=saved)
            server.run("systemctl stop mailwright-dispatch-simulated; rm -f /run/warmup-clock.py", check=False)
            # what a failure left behind
            sql(lab, server.name, f"DELETE FROM api.message WHERE subject = '{token}' AND EXISTS (SELECT "
                "FROM api.recipient r WHERE r.message = message.id AND r.status IN ('queued', 'sending'))")  # fmt: skip
            server.run("systemctl restart mailwright-webhooks mailwright-dispatch")
            sql(lab, server.name, "DELETE FROM api.ramp; DELETE FROM api.destination")
            lab.ssh("peer", f"grep -rlZ {token} ~dave/Maildir/new | xargs -0r rm -f", check=False)

        undo.callback(restore)
        plan = json.dumps({"address": "simulated", "schedule": [1], "relay": False})
        server.run(f"python3 -c {shlex.quote(SET_PLAN)} {shlex.quote(plan)}")
        made = undo.enter_context(Receivers(lab))
        server.run("for zone in peer.test lab.test globex.test acme.test; do unbound-control -q flush_zone $zone; done")
        server.run("systemctl restart mailwright-webhooks && systemctl stop mailwright-dispatch")
        yield made


@pytest.fixture
def sender(lab: Lab, server: Server) -> Iterator[Api]:
    """A key with all scopes."""
    with direct_keys(lab, server.name, "acme.test") as (key,):
        yield Api(lab, server.name, key)


def hours_of(day: int, first: int, last: int) -> list[datetime]:
    return [START + timedelta(days=day, hours=hour, minutes=59) for hour in range(first, last + 1)]


def check_all(world: World, receivers: Receivers, bounced: set[str]) -> None:
    """Caps, order, and that each message is where it belongs, once."""
    # peer's own queue
    wait_until(lambda: not world.lab.ssh("peer", "postqueue -j"), 60, "peer has delivered")
    arrivals = collections.Counter(address for _at, address in receivers.arrivals(world.began))
    world.check_caps(world.by_hour(receivers))
    assert world.problems == []
    outcomes = world.outcomes()
    assert outcomes.keys() == world.accepted.keys()
    wrong = {
        address: outcome for address, outcome in outcomes.items()
        if outcome != ("bounced" if address in bounced else "delivered", 1)
    }  # fmt: skip
    assert wrong == {}
    assert {address: count for address, count in arrivals.items() if count != 1} == {}, "came more than once"
    assert set(arrivals) == set(world.accepted) - bounced, "lost"


def test_three_days_of_warm_up(
    lab: Lab, server: Server, receivers: Receivers, sender: Api, token: str, timer: Timer
) -> None:
    schedule = (20, 25, 30)
    world = World(lab, server, sender, token, schedule)
    try:
        for domain in RECEIVERS:
            world.send(domain, "broadcast", 12)
        world.step(START + timedelta(hours=8))
        # 2 in this hour, in all; in its first minute one of them
        assert sum(count for *_place, count in world.hours[-1][2]["sent"]) == 1
        for domain in RECEIVERS:
            world.send(domain, "transactional", 2)
        for hour in hours_of(0, 8, 18):
            world.step(hour)
        assert world.hours[-1][2]["ramps"]["*"][2] == 20
        assert all(count == 0 for lane, rank, count in world.hours[-1][2]["waiting"] if rank == 0), "came last"
        # the second day has earned its step, for the whole; then a receiver has had enough
        world.step(hours_of(1, 8, 8)[0])
        assert world.stage("*") == 1
        receivers.refuse({"two.lab.test": LATER})
        lately = world.step(hours_of(1, 9, 9)[0])
        while not any(lane == "lab.test" and count for lane, _rank, count in lately["sent"]):
            lately = world.step(world.hours[-1][0] + timedelta(hours=1, minutes=59))
        receivers.refuse({})
        stopped = world.hours[-1][0]
        server.run("postqueue -f")
        after = world.step(stopped + timedelta(hours=1, minutes=58))
        assert not any(lane == "lab.test" and count for lane, _rank, count in after["sent"])
        assert world.is_paused("lab.test", stopped + timedelta(hours=1))
        wait_until(lambda: not deferred(server, world), 60, "what was put off has arrived")
        for hour in hours_of(2, 8, 23):
            world.step(hour)
        # whatever is left
        world.step(START + timedelta(days=40))
        for hour in hours_of(41, 0, 23):
            if not any(count for *_place, count in world.step(hour)["waiting"]):
                break
    finally:
        world.finish()
    timer.say(f"{len(world.accepted)} messages in {len(world.hours)} steps")
    check_all(world, receivers, set())


def deferred(server: Server, world: World) -> int:
    """How many messages wait in Postfix; it is told to try."""
    server.run("postqueue -f")
    return sum(status == "deferred" for status, _times in world.outcomes().values())


# On these days a receiver has had enough, once for now and once for good.
REFUSALS = {18: ("lab.test", "two.lab.test", LATER), 24: ("globex.test", "three.globex.test", NEVER)}


@pytest.mark.faults
def test_thirty_days_of_warm_up(
    lab: Lab, server: Server, receivers: Receivers, sender: Api, token: str, timer: Timer
) -> None:
    """All steps of the schedule, each a hundredth of the real one."""
    world = World(lab, server, sender, token, THIRTY_DAYS)
    stages: list[dict[str, int]] = []
    refused: list[str] = []
    try:
        for day in range(31):
            # more than the day can take, so that there is always something behind the transactional mail
            cap = THIRTY_DAYS[min(day, 29)]
            for number, domain in enumerate(RECEIVERS):
                world.send(domain, "broadcast", cap * (4 - number) // 9 + 1)
                world.send(domain, "transactional", 1 + cap // 50)
            refusing, before = "", 0
            # ten hours are enough for a day's mail
            for hour in hours_of(day, 0, 13):
                if hour.hour == 2 and day in REFUSALS:
                    refusing, domain, words = REFUSALS[day]
                    before = world.stage(refusing)
                    receivers.refuse({domain: words})
                # a minute before the pause is over
                paused = bool(refused) and world.is_paused(refused[-1], hour - timedelta(minutes=1))
                answer = world.step(hour - timedelta(minutes=1) if paused else hour)
                if paused:
                    assert not any(count for lane, _rank, count in answer["sent"] if lane == refused[-1])
                if refusing and world.is_paused(refusing, hour):
                    receivers.refuse({})
                    server.run("postqueue -f")
                    assert world.stage(refusing) == max(0, before - warmup.STEPS_BACK)
                    refused.append(refusing)
                    refusing = ""
            stages.append({lane: ramp[0] for lane, ramp in world.hours[-1][2]["ramps"].items()})
            timer.say(f"day {day + 1}: {stages[-1]}")
            if day in REFUSALS:
                wait_until(lambda: not deferred(server, world), 90, "what was put off has arrived")
        # receivers that are behind the whole still have a cap, and mail that waits for it
        for hour in (hour for day in range(31, 50) for hour in hours_of(day, 0, 13)):
            if not any(count for *_place, count in world.step(hour)["waiting"]):
                break
    finally:
        world.finish()
    timer.say(f"{len(world.accepted)} messages in {len(world.hours)} steps")
    assert refused == ["lab.test", "globex.test"]
    # the whole went up day by day, and the end is no cap
    assert [stage["*"] for stage in stages][-1] >= 29
    bounced = {address for address, (status, _times) in world.outcomes().items() if status == "bounced"}
    assert bounced and all(address.endswith("@three.globex.test") for address in bounced)
    check_all(world, receivers, bounced)


def test_recipients_are_sorted_by_who_receives_them(lab: Lab, server: Server) -> None:
    """In a transaction that is taken back: a lane and a rank for each, or a question that is answered elsewhere."""
    cases = {
        ("alice@Acme.test", "transactional"): ("local", 0),
        ("a@customer.example", "transactional"): ("google.com", 0),
        ("a@customer.example", "broadcast"): ("google.com", 1),
        ("a@customer.example", "weekly"): ("google.com", 1),
        ("a@customer.example", "invoices"): ("google.com", 0),
        # asked for two minutes ago, and nobody knew
        ("a@mail.silent.co.uk", "transactional"): ("silent.co.uk", 0),
        ("a@unasked.example", "transactional"): (None, 0),
    }
    rows = ", ".join(f"(gen_random_uuid(), '{address}', '{stream}')" for address, stream in cases)
    said = sql(
        lab, server.name,
        f"""
        BEGIN;
        INSERT INTO api.stream (domain, name, kind) VALUES ('acme.test', 'weekly', 'broadcast'),
            ('acme.test', 'invoices', 'transactional');
        INSERT INTO api.destination (domain, provider, asked_at) VALUES ('customer.example', 'google.com', now()),
            ('mail.silent.co.uk', NULL, now() - interval '2 minutes');
        CREATE TEMPORARY TABLE made AS SELECT * FROM (VALUES {rows}) AS v(id, address, stream);
        INSERT INTO api.message (id, domain, key_id, message_id, sender, subject, content, stream)
            SELECT id, 'acme.test', '', '', '', '', '', stream FROM made;
        INSERT INTO api.recipient (id, message, domain, address, token, status)
            SELECT id, id, 'acme.test', address, id::text, 'queued' FROM made;
        SELECT api.sort_recipients('192.0.2.1', 100) > 0;
        SELECT json_agg(json_build_array(m.address, m.stream, r.lane, r.rank))
            FROM made m JOIN api.recipient r USING (id);
        SELECT json_agg(provider ORDER BY provider) FROM api.ramp WHERE address = '192.0.2.1';
        SELECT count(*) FROM api.destination WHERE domain = 'unasked.example' AND provider IS NULL;
        ROLLBACK;
        """,
    ).splitlines()  # fmt: skip
    found = {(address, stream): (lane, rank) for address, stream, lane, rank in json.loads(said[1])}
    assert found == cases
    assert json.loads(said[2]) == ["google.com", "silent.co.uk"] and said[3] == "1"


@pytest.mark.faults
def test_a_relay_takes_what_the_hour_has_no_place_for(
    lab: Lab, server: Server, sender: Api, token: str, tmp_path: Path
) -> None:
    """With the inventory's own settings and the real clock; without a relay again, what waits goes the usual way."""
    inventory = yaml.safe_load((lab.state / "inventory.yml").read_text())
    host = inventory["mailservers"]["hosts"][server.name]
    host["mail_api"]["warmup"] = {"schedule": [30], "relay": "[peer.peer.test]:25"}
    path = tmp_path / "inventory.yml"
    path.write_text(yaml.safe_dump(inventory))
    domain, counted = (
        "one.peer.test",
        f"FROM api.event e JOIN api.message m ON m.id = e.message WHERE m.subject = '{token}'",
    )
    with Receivers(lab):
        server.run("unbound-control -q flush_zone peer.test")
        try:
            done = lab.playbook("-i", str(path), "mailwright.server.site", "-l", server.name)
            assert recap(done, server.name)["failed"] == 0, done.stdout[-3000:]
            for number in range(12):
                sender.send(token, f"n{number}-{token[-12:]}@{domain}")
            relayed = f"SELECT count(*) {counted} AND e.kind = 'delivered' AND e.relay LIKE 'peer.peer.test[%'"
            wait_until(lambda: int(sql(lab, server.name, relayed)) >= 9, 120, "the relay has its part")
            direct = f"SELECT count(*) {counted} AND e.kind = 'delivered' AND e.relay LIKE 'mx.peer.test[%'"
            wait_until(lambda: int(sql(lab, server.name, direct)) >= 1, 60, "some go directly")
            shown = sender.ask("GET", "/deliverability/warmup").body
            by_name = {entry["provider"]: entry for entry in shown["data"]}
            assert shown["enabled"] and by_name["peer.test"]["day_cap"] == 30 and by_name["*"]["hour_cap"] == 3
            # a new hour may have begun meanwhile
            assert 1 <= int(sql(lab, server.name, direct)) <= 6
        finally:
            done = lab.playbook("mailwright.server.site", "-l", server.name)
            sql(lab, server.name, "DELETE FROM api.ramp; DELETE FROM api.destination")
        assert recap(done, server.name)["failed"] == 0, done.stdout[-3000:]
        delivered = f"SELECT count(*) {counted} AND e.kind = 'delivered'"
        wait_until(lambda: sql(lab, server.name, delivered) == "12", 60, "nothing waits")
        arrived = (
            f"grep -rh '^X-Original-To: n[0-9]*-{token[-12:]}@' $(grep -rl {token} ~dave/Maildir/new) /dev/null || true"
        )
        assert len(set(lab.ssh("peer", arrived).splitlines())) == 12 == len(lab.ssh("peer", arrived).splitlines())
