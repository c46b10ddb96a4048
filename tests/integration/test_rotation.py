# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole life of DKIM keys on a real server, while users send: no message leaves unsigned, none fails at a receiver.

The clock of the rotation is moved on; the filter, the name server, its TTLs and the receivers are as they are. Each
fault is caused on the running hosts, by nothing in the product, and the test sees that it was.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dns.resolver
import pytest
from ansible_collections.mailwright.server.tests.integration.receiver import continuous_mail
from connection import Lab

PLAYBOOK = Path(__file__).with_name("rotation.yml")
KILLER = Path(__file__).parent / "killer/sitecustomize.py"
STORE = "/var/lib/mailwright/dkim"
# Days after the start of a cycle: half a year in one leap, then as often as new keys need, then the waits.
DAYS = (181, 181.1, 181.2, *range(183, 240, 2))


def begin_anew(lab: Lab) -> None:
    lab.ssh("mx1", f"rm -rf {STORE}")
    done = lab.playbook("mailwright.server.site", "-e", json.dumps({"dns_force_delete": True}))
    assert done.returncode == 0, done.stdout[-4000:]


def test_the_playbook_finds_all_live() -> None:
    done = Lab.load().playbook("mailwright.server.rotate_dkim", "--diff")
    assert "failed=0" in done.stdout, done.stdout[-4000:]


def test_a_compromised_key_is_revoked_at_once() -> None:
    lab = Lab.load()
    (selector,) = re.findall(r"(\w+)\.key", lab.ssh("mx1", f"grep -l . {STORE}/globex.test/*e????.key"))
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


class Clock:
    """How far the tests' clock is ahead: each cycle begins where the one before has ended."""

    def __init__(self) -> None:
        self.days = 0.0

    def at(self, days: float) -> str:
        return (datetime.now(UTC) + timedelta(days=self.days + days)).isoformat(timespec="seconds")


class Undisturbed:
    """A run as it should be. A fault is a class that does more than that around it."""

    def __init__(self, lab: Lab, clock: Clock, directory: Path) -> None:
        self.lab, self.clock, self.directory = lab, clock, directory
        self.begin()

    def begin(self) -> None:
        """Set the fault up."""

    def end(self) -> None:
        """Take it away again, whatever has happened."""

    def caused(self) -> str:
        """What the fault has done, seen; fails if that is too little."""
        return "no fault"

    def step(self, days: float) -> list[str]:
        """One day's runs; the states of all keys afterwards."""
        return self.run(days)

    def run(self, days: float, observed: float | None = None, **more: str) -> list[str]:
        done = self.attempt(days, observed, **more)
        assert done.returncode == 0, done.stdout[-4000:]
        return states(done.stdout)

    def attempt(self, days: float, observed: float | None = None, **more: str) -> subprocess.CompletedProcess[str]:
        variables = {
            "rotation_now": self.clock.at(days),
            "rotation_observed": self.clock.at(days if observed is None else observed),
            # so many messages are more than a user may send
            "rspamd_user_rate": "100000 / 1h",
            **more,
        }
        return self.lab.playbook(str(PLAYBOOK), "-e", json.dumps(variables))

    def all_states(self) -> str:
        """Every domain's state file."""
        return self.lab.ssh("mx1", f"cat {STORE}/*/state.json")


def states(output: str) -> list[str]:
    found = re.search(r"KEYS ([\w,]*)", output)
    assert found
    return found[1].split(",")


class Killed(Undisturbed):
    """SIGKILL after every write of a key, a tombstone, a state, the filter's configuration or the ledger."""

    def begin(self) -> None:
        # one path that both the host and the controller have
        self.killer = self.directory / "killer"
        self.killer.mkdir()
        shutil.copy(KILLER, self.killer)
        self.lab.ssh("mx1", f"mkdir -p {self.killer} && cat > {self.killer}/{KILLER.name}", data=KILLER.read_text())
        self.runs = 0

    def end(self) -> None:
        self.lab.ssh("mx1", f"rm -rf {self.killer}")

    def kills(self) -> list[str]:
        remote = self.lab.ssh("mx1", f"cat {self.killer}/kills 2>/dev/null", check=False)
        local = self.killer / "kills"
        return (remote + (local.read_text() if local.exists() else "")).splitlines()

    def step(self, days: float) -> list[str]:
        for attempt in range(40):
            before = len(self.kills())
            done = self.attempt(days + attempt / 1000, rotation_killer=str(self.killer))
            if done.returncode == 0:
                return states(done.stdout)
            self.runs += 1
            assert len(self.kills()) > before, f"failed, and was not killed:\n{done.stdout[-4000:]}"
        raise AssertionError("the run does not get on")

    def caused(self) -> str:
        kills = [line.partition(" ")[2] for line in self.kills()]
        counts = {
            kind: sum(1 for path in kills if re.search(pattern, path))
            for kind, pattern in {
                "key file": r"\.key$", "tombstone": r"\.revoked$", "state": r"/state\.json$",
                "filter": r"^/etc/rspamd/", "ledger": r"ledger\.json$",
            }.items()
        }  # fmt: skip
        # two keys in each of two domains: each file written and deleted, buried once, some states a key
        assert counts["key file"] >= 8 and counts["tombstone"] >= 4 and counts["state"] >= 12, counts
        assert counts["filter"] >= 2 and counts["ledger"] >= 6, counts
        return f"killed after writes: {counts}; {self.runs} whole runs failed"


class Refused(Undisturbed):
    """The name server lists its zones but refuses every update, until a second run."""

    def begin(self) -> None:
        self.refusals = 0

    def allow(self, actions: str) -> None:
        self.lab.ssh("ns1", rf"sed -i '/^ *key: lab$/{{n;s/action: .*/action: [ {actions} ]/}}' /etc/knot/knot.conf")
        self.lab.ssh("ns1", "knotc reload >/dev/null")

    def end(self) -> None:
        self.allow("update, transfer")

    def step(self, days: float) -> list[str]:
        self.allow("transfer")
        done = self.attempt(days)
        self.allow("update, transfer")
        if done.returncode:
            assert "this key may not do that" in done.stdout + done.stderr, done.stdout[-4000:]
            self.refusals += 1
        return self.run(days + 0.01)

    def caused(self) -> str:
        assert self.refusals
        return f"{self.refusals} publications refused"


class Silent(Undisturbed):
    """The name server answers everybody but the controller, whose questions all time out, until a second run."""

    def begin(self) -> None:
        self.silences = 0
        # the lab's gateway
        self.controller = self.lab.ssh("ns1", "ip -4 route show default").split()[2]

    def rules(self, action: str) -> None:
        for number, protocol in enumerate(("udp", "tcp"), 10):
            rule = f"pref {number} to {self.controller} ipproto {protocol} sport 53"
            self.lab.ssh("ns1", f"ip rule {action} {rule} blackhole", check=action == "add")

    def end(self) -> None:
        self.rules("del")

    def step(self, days: float) -> list[str]:
        self.rules("add")
        try:
            before = self.all_states()
            done = self.attempt(days)
            # by our clock or by the system's
            timed_out = re.search("no answer within|Connection timed out", done.stdout)
            assert done.returncode and timed_out, done.stdout[-4000:]
            # only what the clock alone decides happens: keys are made that are due
            assert set(state_of(before).items()) <= set(state_of(self.all_states()).items())
            self.silences += 1
        finally:
            self.rules("del")
        return self.run(days + 0.01)

    def caused(self) -> str:
        assert self.silences
        return f"{self.silences} runs without an answer"


def state_of(text: str) -> dict[str, str]:
    """Selector -> state, of some state files one behind the other."""
    found: dict[str, str] = {}
    decoder, position = json.JSONDecoder(), 0
    while position < len(text.rstrip()):
        state, position = decoder.raw_decode(text, position)
        position += 1
        found |= {key["selector"]: key["state"] for key in state["keys"]}
    return found


class Backwards(Undisturbed):
    """Before each run one with both clocks three days back, and one with one of them, in turn."""

    def begin(self) -> None:
        self.behind = self.ignored = 0

    def step(self, days: float) -> list[str]:
        self.run(days - 3)
        self.behind += '"seen"' in self.all_states()
        before = state_of(self.all_states())
        host, observer = (days - 3, days) if self.ignored % 2 else (days, days - 3)
        done = self.attempt(host, observer)
        assert done.returncode == 0, done.stdout[-4000:]
        self.ignored += "off this host's clock" in " ".join((done.stdout + done.stderr).split())
        after = state_of(self.all_states())
        assert set(before.items()) <= set(after.items())
        return self.run(days)

    def caused(self) -> str:
        assert self.behind and self.ignored, (self.behind, self.ignored)
        return f"{self.behind} runs with a clock behind, {self.ignored} whose observations were ignored"


class Restored(Undisturbed):
    """Before every other run the state files of before the last one come back."""

    def begin(self) -> None:
        self.saved = "/root/dkim-states"
        self.count = self.restored = 0
        self.lab.ssh("mx1", f"rm -rf {self.saved}")

    def end(self) -> None:
        self.lab.ssh("mx1", f"rm -rf {self.saved}")

    def restore(self, number: int) -> None:
        script = (
            f"cd {self.saved}/{number} && for d in *; do cmp -s $d/state.json {STORE}/$d/state.json || echo differs; "
            f"cp -p $d/state.json {STORE}/$d/state.json; done"
        )
        self.restored += "differs" in self.lab.ssh("mx1", script)

    def step(self, days: float) -> list[str]:
        self.lab.ssh("mx1", f"mkdir -p {self.saved} && cp -a {STORE} {self.saved}/{self.count}")
        if self.count % 2:
            self.restore(self.count - 1)
        self.count += 1
        return self.run(days)

    def caused(self) -> str:
        assert self.restored
        return f"{self.restored} times an older state than the one on disk"


class InTurn(Undisturbed):
    """Each run under another fault than the one before: an update refused, no answer, a clock behind, an old state."""

    def begin(self) -> None:
        kinds = (Refused, Silent, Backwards, Restored)
        self.scenes = [kind(self.lab, self.clock, self.directory) for kind in kinds]
        self.steps = 0

    def end(self) -> None:
        for scene in self.scenes:
            scene.end()

    def step(self, days: float) -> list[str]:
        scene = self.scenes[self.steps % len(self.scenes)]
        self.steps += 1
        return scene.step(days)

    def caused(self) -> str:
        return "; ".join(scene.caused() for scene in self.scenes)


FAULTS = (Killed, Refused, InTurn)


@pytest.fixture(scope="module")
def clock() -> Iterator[Clock]:
    """All cycles, then keys as they should be: these have seen a future that others need not wait for."""
    lab = Lab.load()
    # what was sent before counts against the rate limit, and what is sent here would for those who come after
    redis = "redis-cli -s /run/redis/redis-server.sock"
    forget = f"{redis} --scan --pattern 'RL*' | xargs -r {redis} del"
    lab.ssh("mx1", forget)
    yield Clock()
    lab.ssh("mx1", forget)
    begin_anew(lab)


@pytest.mark.parametrize(
    "fault", [Undisturbed, *(pytest.param(fault, marks=pytest.mark.faults) for fault in FAULTS)],
    ids=lambda fault: fault.__name__.lower(),
)  # fmt: skip
def test_no_message_is_unsigned_or_fails_while_keys_rotate(
    clock: Clock, fault: type[Undisturbed], tmp_path: Path
) -> None:
    lab = Lab.load()
    started = time.monotonic()
    scene = fault(lab, clock, tmp_path)
    seen: list[list[str]] = []
    try:
        # seen live for the first time, and in no cache any more
        if Undisturbed.run(scene, 0) != ["active"] * 4:
            begin_anew(lab)
            Undisturbed.run(scene, 0)
        Undisturbed.run(scene, 0.2)
        before = set(state_of(scene.all_states()))
        with continuous_mail(lab) as mail:
            for days in DAYS:
                seen.append(scene.step(days))
                if len(seen) > 3 and set(seen[-1]) == {"active"}:
                    break
            messages = mail.finish()
        taken = time.monotonic() - started
        caused = scene.caused()
    finally:
        scene.end()
        clock.days += DAYS[len(seen)] + 1
    after = set(state_of(scene.all_states()))
    passed = set(itertools.chain.from_iterable(seen))
    assert {"active", "retiring", "revoked"} <= passed and passed & {"generated", "published", "propagated"}
    # an RSA and an Ed25519 key for each of two domains, none of them the one that was there
    assert seen[-1] == ["active"] * 4
    assert len(before) == 4
    gaps = [later - earlier for earlier, later in itertools.pairwise(mail.sent)]
    print(
        f"\n{fault.__name__}: {len(messages)} messages in {taken:.0f} s, one every "
        f"{1000 * statistics.median(gaps):.0f} ms (median), {len(seen)} steps; {caused}"
    )
    assert len({one.number for one in messages}) == len(messages) == len(mail.sent) > 300
    assert [one for one in messages if one.problems] == []
    signed = frozenset().union(*(one.selectors for one in messages))
    assert before <= signed and len(signed - before) == 4 and signed - before <= after, (before, signed, after)
