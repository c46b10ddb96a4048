# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Updates under continuous mail: a good one commits, a broken one undoes itself, and no message is lost or doubled.

The packages are Debian's own, rebuilt on the host with a higher version; rebuild.py says what is broken in which.
What the host is, is read from dpkg and the file system, never from what the engine says of itself.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.txn import bundle
from ansible_collections.mailwright.server.plugins.module_utils.txn.machine import PHASES, UNDO, forward
from ansible_collections.mailwright.server.tests.integration.throwaway import changed_paths, snapshot
from connection import CHECKOUT, wait_until

if TYPE_CHECKING:
    from ansible_collections.mailwright.server.tests.integration.conftest import Server

HERE = Path(__file__).parent
RATE = float(os.environ.get("MAILWRIGHT_RATE") or 20)
# a mailbox of its own, which goes at the end: to remove thousands of messages takes long
RECIPIENT = "flow@acme.test"
MAILDIR = "/var/vmail/acme.test/flow"
# 20 a second and one log-in each: more than a user may send, and than this is about
OVERRIDE = "/etc/rspamd/override.d/ratelimit.conf"
TXN = "/var/lib/mailwright/txn"
SNAPSHOTS = "/var/lib/mailwright/snapshots"
STILL_SECONDS = 180
# What an update that was undone may leave behind: logs of dpkg, caches, and our own records.
LEFT = re.compile(
    r"/etc/(ld\.so\.cache|apt/sources\.list\.d/.*|mailwright/tls/.*)|/var/lib/mailwright/(txn|snapshots|packages|download|backup)(/.*)?"
    r"|/var/lib/mailwright|/etc/(passwd|group|shadow|gshadow)-|/etc/\.pwd\.lock"
)


class Flow:
    """flow.py at work on peer."""

    def __init__(self, server: Server, token: str) -> None:
        self.server, self.token = server, token
        settings = {
            "host": server.address, "token": token, "rate": RATE, "to": RECIPIENT,
            # not alice: her hash is made to be slow, and ten log-ins a second would be most of the load
            "user": RECIPIENT, "password": server.lab.password,
        }  # fmt: skip
        program = shlex.quote((HERE / "flow.py").read_text())
        self.process = subprocess.Popen(
            ["ssh", "-F", str(server.lab.state / "ssh_config"), "peer",
             f"python3 -c {program} {shlex.quote(json.dumps(settings))}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.results: list[tuple[int, float, float, str]] = []

    def end(self) -> None:
        """Stop sending and take the results."""
        said, _none = self.process.communicate(timeout=180)
        self.results = [tuple(row) for row in json.loads(said)]

    def numbers(self, outcome: str) -> set[int]:
        return {number for number, _started, _answered, found in self.results if found == outcome}

    def longest_gap(self) -> float:
        """The longest time in which no message was accepted, on the worse of the two ways."""
        gaps = [0.0]
        for parity in (0, 1):
            times = sorted(a for n, _s, a, outcome in self.results if n % 2 == parity and outcome == "accepted")
            gaps += [later - earlier for earlier, later in itertools.pairwise(times)]
        return max(gaps)

    def settle(self) -> None:
        """Every accepted number is delivered exactly once, none that was refused, and an unsure one at most once."""
        accepted, unsure = self.numbers("accepted"), self.numbers("unsure")
        assert len(accepted) > 20, Counter(row[3] for row in self.results)

        def delivered() -> Counter[int]:
            # a message is a file; a search would wait for the index. In tmp lies what a power cut kept from being one.
            command = f"grep -rhs --exclude-dir=tmp '^Subject: {self.token} ' {MAILDIR}/Maildir"
            text = self.server.run(command, check=False, timeout=300)
            return Counter(map(int, re.findall(rf"{self.token} (\d+)\r?$", text, re.MULTILINE)))

        self.server.run("postqueue -f")
        found, least, end = delivered(), len(accepted), time.monotonic() + STILL_SECONDS
        while missing := len(accepted - found.keys()):
            # thousands may wait in the queue after a Dovecot that took none: as long as they get fewer, all is well
            if missing < least:
                least, end = missing, time.monotonic() + STILL_SECONDS
            assert time.monotonic() < end, f"{missing} of {len(accepted)} accepted messages are not in the mailbox"
            time.sleep(2)
            found = delivered()
        assert not [number for number, count in found.items() if count > 1]
        assert found.keys() - accepted <= unsure
        lasted = max(r[2] for r in self.results) - min(r[1] for r in self.results)
        print(
            f"  {len(self.results)} messages, {len(self.results) / lasted:.1f} a second: "
            f"{len(accepted)} accepted and delivered once each, "
            f"{len(self.numbers('refused'))} told to come again, {len(unsure)} without an answer; "
            f"longest time in which none was accepted: {self.longest_gap():.1f} s"
        )


@contextlib.contextmanager
def flowing(server: Server, token: str) -> Iterator[Flow]:
    """Mail while the block runs; the balance afterwards, when the block ended well."""
    flow = Flow(server, token)
    try:
        time.sleep(1.5)
        yield flow
        time.sleep(1.5)
        flow.end()
        flow.settle()
    finally:
        flow.process.kill()


@dataclass(frozen=True)
class State:
    """Versions and files of a host."""

    packages: str
    files: dict[str, str]

    @classmethod
    def of(cls, server: Server) -> State:
        listing = server.run("dpkg-query -W -f '${Package} ${Version} ${db:Status-Status}\\n'")
        return cls(listing, snapshot(server.lab, server.name, ("/etc", "/usr/local", "/var/lib/mailwright")))

    def differences(self, other: State) -> list[str]:
        lines = set(self.packages.splitlines()) ^ set(other.packages.splitlines())
        paths = changed_paths(self.files, other.files)
        return sorted(lines | {path for path in paths if not LEFT.fullmatch(path)})


def rebuild(server: Server, variant: str) -> None:
    """Offer a variant of the packages to the host."""
    server.run(f"python3 - /srv/updates {variant}", data=(HERE / "rebuild.py").read_text(), timeout=300)


def playbook(server: Server, name: str, **variables: object) -> subprocess.CompletedProcess[str]:
    extra = json.dumps({"update_health_seconds": 20, **variables})
    return server.lab.playbook("-e", extra, f"mailwright.server.{name}", timeout=900)


# What the modules do on the host, without Ansible, so that a matrix of faults ends this day.
BEGIN = """
import subprocess, sys, time
sys.path.insert(0, "/root/engine.pyz")
from ansible_collections.mailwright.server.plugins.module_utils.txn import dpkg, snapshot
from ansible_collections.mailwright.server.plugins.module_utils.txn.storage import Transaction
dpkg.update_lists()
request = {{"kind": "update", "packages": [], "hostname": "mx1.acme.test", "features": {{"webmail": True}},
           "confirm_seconds": {confirm_seconds}, "health_seconds": 20, "connection": ""}}
transaction = Transaction.create(snapshot.identifier(), request, open("/root/engine.pyz", "rb").read())
if {confirmed}:
    transaction.confirm()
subprocess.run(["systemctl", "reset-failed", "mailwright-transaction.service"])
subprocess.run(["systemctl", "start", "--no-block", "mailwright-transaction.service"], check=True)
while len(transaction.records()) < {number} and not transaction.history().ending:
    time.sleep(0.001)
"""
# Put before the engine's main program: a signal to itself when so many records are on disk, and nothing after them.
SIGNALLED = """
import os, signal
from ansible_collections.mailwright.server.plugins.module_utils.txn.storage import Transaction
append = Transaction.append
def append_and_signal(self, record):
    append(self, record)
    if len(self.records()) == {number}:
        os.kill(os.getpid(), signal.{name})
Transaction.append = append_and_signal
"""


def engine(before_main: str) -> bytes:
    """The engine as it is sent to the host, with a few lines before its main program."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(bundle.archive())) as whole, zipfile.ZipFile(stream, "w") as target:
        for name in whole.namelist():
            text = whole.read(name)
            target.writestr(name, before_main.encode() + text if name == "__main__.py" else text)
    return stream.getvalue()


def begin(
    server: Server, number: int = 0, name: str = "SIGCONT", *, confirmed: bool = False, confirm_seconds: int = 60
) -> None:
    """Start an update on the host, and wait for a record, with which the engine gets the signal.

    confirmed: whether the host is reached when the engine asks for it.
    """
    with tempfile.NamedTemporaryFile() as file:
        file.write(engine(SIGNALLED.format(number=number, name=name)))
        file.flush()
        config = str(server.lab.state / "ssh_config")
        subprocess.run(["scp", "-q", "-F", config, file.name, f"{server.name}:/root/engine.pyz"], check=True)
    program = BEGIN.format(number=number, confirmed=confirmed, confirm_seconds=confirm_seconds)
    server.run("python3 -", data=program, timeout=600)


def intent(step: str) -> int:
    """Which record begins a step: begin, start, three for each step; the way back follows a failed check."""
    if step in UNDO:
        return intent("check") + 2 + 3 * UNDO.index(step)
    return 3 + 3 * forward("update").index(step)


def journal(server: Server) -> list[dict[str, Any]]:
    """The newest transaction's records."""
    lines = server.run(f"cat $(ls -d {TXN}/2*/journal | tail -1)").splitlines()
    return [json.loads(line.partition(" ")[2]) for line in lines]


def ending(server: Server) -> dict[str, Any]:
    return next((r for r in journal(server) if r["record"] == "ending"), {})


def sound(server: Server) -> None:
    """The newest transaction found nothing wrong before its change: what it finds is not held against the change."""
    found = next(r["data"]["findings"] for r in journal(server) if (r["record"], r.get("step")) == ("effect", "probe"))
    assert found.keys() > {"submission", "delivery", "signature", "filter"} and not any(found.values()), found


def settled(server: Server, seconds: float = 900) -> str:
    """Wait until the host has settled by itself; gives the ending."""
    wait_until(lambda: reached(server) and closed(server), seconds, "an ending", every=1)
    return str(ending(server)["ending"])


def closed(server: Server) -> bool:
    """Whether no transaction is open."""
    with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
        return not server.run(f"ls {TXN} | grep -x open || true")
    return False


def reached(server: Server) -> bool:
    with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
        return server.run("echo yes", timeout=20).strip() == "yes"
    return False


def rollback_seconds(server: Server) -> float:
    """From the failure to the ending."""
    records = journal(server)
    failed = next(r["at"] for r in records if r["record"] == "failed")
    return float(records[-1]["at"] - failed)


@pytest.fixture(scope="module")
def open_to_all(server: Server) -> Iterator[Server]:
    """The host under test with a limit that lets the flow pass."""
    before = server.run("dpkg-query -W -f '${Package} ${Version}\\n'")
    server.run(
        f"mkdir -p $(dirname {OVERRIDE})"
        f" && echo 'rates {{ user {{ bucket {{ burst = 100000; rate = \"100000 / 1h\"; }} }} }}' > {OVERRIDE}"
        " && systemctl restart rspamd"
    )
    server.run("rm -rf /srv/updates /etc/apt/sources.list.d/lab-updates.list; apt-get -q update")
    row = f"'{RECIPIENT}', 'acme.test', 'flow', '{{PLAIN}}{server.lab.password}', 'api'"
    columns = "address, domain, local_part, password, owner"
    sql = (
        f"INSERT INTO directory.mailbox ({columns}) VALUES ({row}) ON CONFLICT DO NOTHING; "
        f"INSERT INTO directory.sender VALUES ('{RECIPIENT}', '{RECIPIENT}', 'api') ON CONFLICT DO NOTHING"
    )
    server.run("su postgres -c 'psql -qd mailwright'", data=sql)
    try:
        yield server
    finally:
        server.run(
            f"rm -rf {OVERRIDE} /srv/updates /etc/apt/sources.list.d/lab-updates.list; systemctl restart rspamd; "
            "apt-get -q update"
        )
        sql = "".join(f"DELETE FROM directory.{t} WHERE address = '{RECIPIENT}';" for t in ("sender", "mailbox"))
        # after a test that failed, mail may still arrive
        server.run(f"su postgres -c 'psql -qd mailwright' && {{ rm -rf {MAILDIR} || rm -r {MAILDIR}; }}", data=sql)
        server.run(f"rm -rf {TXN} {SNAPSHOTS}")
    assert server.run("dpkg-query -W -f '${Package} ${Version}\\n'") == before


@pytest.fixture
def host(open_to_all: Server) -> Iterator[Server]:
    """The host; as it was again afterwards, also where a test failed half-way."""
    server = open_to_all
    before, old = State.of(server), set(snapshots(server))
    yield server
    if not reached(server):
        lab(server, "up")
    server.run("systemctl kill --signal=CONT mailwright-transaction.service", check=False)
    wait_until(lambda: closed(server), 600, "no open transaction", every=1)
    if before.differences(State.of(server)):
        # the first one that the test had taken
        by_hand(server, min(set(snapshots(server)) - old))
        assert before.differences(State.of(server)) == []


def test_a_good_update_commits_and_the_way_back_is_open(host: Server, token: str) -> None:
    _good(host, token, "small")


@pytest.mark.faults
def test_a_good_update_of_everything(host: Server, token: str) -> None:
    _good(host, token, "good")


def _good(host: Server, token: str, variant: str) -> None:
    before = State.of(host)
    rebuild(host, variant)
    planned = host.lab.playbook("--check", "--diff", "mailwright.server.update")
    assert planned.returncode == 0, planned.stdout + planned.stderr
    # besides those of the lab, updates that Debian published since the host was made
    expected = set(re.findall(r"^\+([a-z0-9]\S+ \S+)$", planned.stdout, re.MULTILINE))
    assert len([line for line in expected if "+lab" in line]) > 2
    with flowing(host, token):
        done = playbook(host, "update")
        assert done.returncode == 0, done.stdout + done.stderr
    assert "Phase 6 of 6: complete" in done.stdout
    assert ending(host)["ending"] == "committed"
    sound(host)
    now = State.of(host)
    updated = {line.rpartition(" ")[0] for line in set(now.packages.splitlines()) - set(before.packages.splitlines())}
    assert updated == expected
    again = playbook(host, "update")
    assert again.returncode == 0 and "changed=0" in again.stdout, again.stdout
    back = snapshots(host)[-1]
    with flowing(host, f"{token}back"):
        done = playbook(host, "rollback", rollback_to=back)
        assert done.returncode == 0, done.stdout + done.stderr
    assert before.differences(State.of(host)) == []


BROKEN = {
    "postinst": ("deploy", "dovecot"),
    "delivery": ("health-check", "not in the mailbox"),
    "start": ("deploy", "postfix"),
    "signature": ("health-check", "not signed"),
    "milter": ("health-check", "filter"),
}


@pytest.mark.faults
@pytest.mark.parametrize("variant", BROKEN)
def test_a_broken_update_undoes_itself(host: Server, token: str, variant: str) -> None:
    before = State.of(host)
    rebuild(host, variant)
    with flowing(host, token):
        begin(host)
        assert settled(host) == "rolled back"
    sound(host)
    phase, words = BROKEN[variant]
    said = ending(host)
    assert said["phase"] == phase, said
    assert words in said["cause"]
    assert before.differences(State.of(host)) == []
    print(f"  {variant}: {said['cause'][:100]!r}; rolled back in {rollback_seconds(host):.0f} s")


# --- interruptions --------------------------------------------------------------------------------------------------

# What a kill after a record leads to is decided in test_txn_journal.py; here it happens to a real dpkg.
GOOD_RECORDS = range(2, intent("confirm") + 4)
UNDO_RECORDS = range(intent("undo-packages") - 1, intent("undo-verify") + 4)


def lab(server: Server, *arguments: str) -> None:
    subprocess.run([sys.executable, str(CHECKOUT / "tests/lab/lab.py"), *arguments, server.name], check=True)


def snapshots(server: Server) -> list[str]:
    """Their names, the oldest first."""
    return server.run(f"ls {SNAPSHOTS} 2>/dev/null", check=False).split()


def by_hand(server: Server, name: str = "") -> str:
    """A snapshot's own program, of the newest unless one is named, without network."""
    program = f"{SNAPSHOTS}/{name or snapshots(server)[-1]}/restore.pyz"
    return server.run(f"unshare --net python3 -I {program} 2>&1", timeout=600)


def judge(server: Server, before: State, variant: str, *, committed: bool) -> None:
    """The host is in one of the two states, wholly, and in the right one."""
    assert settled(server) == ("committed" if committed else "rolled back")
    if committed:
        number = {"small": 2}[variant]
        now = set(State.of(server).packages.splitlines()) - set(before.packages.splitlines())
        assert len([line for line in now if f"+lab{number} installed" in line]) > 2
        assert all(line.endswith(" installed") for line in now)
        # Debian's own updates too, if it published some since the host was made: all or nothing
        assert "\nInst " not in server.run("apt-get --simulate upgrade --with-new-pkgs")
        assert "the host is as it was" in by_hand(server)
    assert before.differences(State.of(server)) == []
    # at boot systemd starts it after the host has settled
    wait_until(lambda: server.show("postfix", "ActiveState") == "active", 120, "Postfix")


@pytest.mark.faults
@pytest.mark.parametrize(
    ("variant", "number"), [*(("small", n) for n in GOOD_RECORDS), *(("milter", n) for n in UNDO_RECORDS)]
)
def test_an_engine_killed_after_any_record_settles(host: Server, token: str, variant: str, number: int) -> None:
    before = State.of(host)
    rebuild(host, variant)
    with flowing(host, token):
        begin(host, number, "SIGKILL", confirmed=variant == "small")
        settled(host)
        records = journal(host)
        # the engine that died wrote so many, and another one came after it
        assert [r["record"] for r in records[1:]].index("start", 1) + 1 == number
        noted = any((r["record"], r.get("step")) == ("done", "confirm") for r in records[:number])
        judge(host, before, variant, committed=noted)


# the step that is cut, and seconds after its beginning
CUTS = {
    "snapshot": ("small", "snapshot", 1.0),
    "migrate": ("small", "migrate", 0.0),
    "pull": ("small", "download", 0.5),
    "deploy": ("small", "install", 4.0),
    "restart": ("small", "activate", 1.0),
    "health-check": ("small", "check", 1.0),
    "complete": ("small", "confirm", 1.0),
    "rollback": ("milter", "undo-packages", 2.0),
    "rollback-restart": ("milter", "undo-activate", 1.0),
}


@pytest.mark.faults
@pytest.mark.parametrize("phase", CUTS)
def test_a_power_cut_in_any_phase_settles_at_boot(host: Server, token: str, phase: str) -> None:
    variant, step, seconds = CUTS[phase]
    before = State.of(host)
    rebuild(host, variant)
    with flowing(host, token):
        begin(host, intent(step))
        time.sleep(seconds)
        lab(host, "power-cut")
        lab(host, "up")
        judge(host, before, variant, committed=False)


@pytest.mark.faults
def test_a_second_failure_ends_inconsistent_and_the_program_puts_it_right(host: Server, token: str) -> None:
    before = State.of(host)
    rebuild(host, "start")
    with flowing(host, token):
        begin(host, intent("install"), "SIGSTOP")
        # the way back is blocked behind its back
        newest = snapshots(host)[-1]
        packages = f"{SNAPSHOTS}/{newest}/packages"
        host.run(f"mkdir /root/hidden && mv {packages}/postfix_* /root/hidden/")
        host.run("systemctl kill --signal=CONT mailwright-transaction.service")
        assert settled(host) == "inconsistent"
        said = ending(host)
        assert said["phase"] == "deploy" and "no .deb" in said["undo_cause"], said
        assert f"python3 -I {SNAPSHOTS}/{newest}/restore.pyz" in said["advice"]
        assert host.show("mailwright-transaction.service", "ExecMainStatus") == "4"
        assert "no .deb" in host.run(f"python3 -I {SNAPSHOTS}/{newest}/restore.pyz 2>&1", check=False)
        host.run(f"mv /root/hidden/* {packages}/ && rmdir /root/hidden")
        assert "the host is as it was" in by_hand(host)
    assert before.differences(State.of(host)) == []


@contextlib.contextmanager
def small_disk(server: Server) -> Iterator[None]:
    """Our directory on a file system of its own, with 300 MiB left."""
    server.run(
        "mkdir -p /mnt/small && size=$(($(du -sm /var/lib/mailwright | cut -f1) + 400))"
        " && mount -t tmpfs -o size=${size}M none /mnt/small"
        " && cp -a /var/lib/mailwright/. /mnt/small && mount --bind /mnt/small /var/lib/mailwright"
    )
    try:
        yield
    finally:
        server.run("umount -l /var/lib/mailwright /mnt/small")


FILL = "dd if=/dev/zero of=/var/lib/mailwright/full bs=1M 2>/dev/null; sync; df /var/lib/mailwright"


@pytest.mark.faults
@pytest.mark.parametrize("step", forward("update"))
def test_a_full_disk_is_refused_or_undone(host: Server, token: str, step: str) -> None:
    before = State.of(host)
    rebuild(host, "small")
    with small_disk(host), flowing(host, token):
        begin(host, intent(step), "SIGSTOP", confirm_seconds=20)
        host.run(FILL)
        host.run("systemctl kill --signal=CONT mailwright-transaction.service")
        assert settled(host) == "rolled back"
        print(f"  full at {step}: {ending(host)['cause'][:120]}")
        host.run("rm /var/lib/mailwright/full")
    assert before.differences(State.of(host)) == []


# Ends when the update is in a phase's last step, or has been confirmed.
WATCH = """
import os, subprocess, time
from pathlib import Path
directory = Path("{txn}/open")
def begun():
    try:
        records = (directory / "journal").read_bytes().count(b"\\n")
        return records >= {number} or ({confirmed} and (directory / "confirmed").exists())
    except FileNotFoundError:
        return False
while not begun():
    time.sleep(0.002)
"""
# From then on all SSH connections but our own are silent, which is what those at both ends see of a cut.
CUT = """
own = os.environ["SSH_CONNECTION"].split()[1]
command = ["ss", "-Htn", "state", "established", "sport", "=", ":22"]
peers = subprocess.run(command, capture_output=True, text=True, check=True).stdout
ports = {{line.split()[-1].rpartition(":")[2] for line in peers.splitlines()}} - {{own}}
assert ports
ports = ", ".join(ports)
rules = "table inet silence {{ "
for hook, way in (("input", "dport 22 tcp sport"), ("output", "sport 22 tcp dport")):
    rules += f"chain {{hook}} {{{{ type filter hook {{hook}} priority -20; tcp {{way}} {{{{ {{ports}} }}}} drop; }}}}; "
subprocess.run(["nft", "-f", "-"], input=rules + "}}", text=True, check=True)
"""


def watch(server: Server, moment: str, program: str = "") -> None:
    """Wait until a phase of the update is in its last step, or the moment is "confirmed"; then run a program there."""
    steps = PHASES["update"].get(moment)
    number = intent(steps[-1]) if steps else sys.maxsize
    server.run("python3 -", data=(WATCH + program).format(txn=TXN, confirmed=not steps, number=number), timeout=600)


@contextlib.contextmanager
def controller(server: Server) -> Iterator[subprocess.Popen[str]]:
    """A playbook that updates the host, by an SSH that notices within some seconds when nothing answers."""
    assert closed(server)
    path = server.lab.env["PATH"].replace("$PATH", os.environ["PATH"])
    keepalive = "-o ServerAliveInterval=5 -o ServerAliveCountMax=2"
    # an earlier playbook's connection may still be open for others to use, and notices nothing
    with tempfile.TemporaryDirectory() as sockets:
        environment = {
            **os.environ, **server.lab.env, "PATH": path, "ANSIBLE_SSH_EXTRA_ARGS": keepalive,
            "ANSIBLE_SSH_CONTROL_PATH_DIR": sockets,
        }  # fmt: skip
        process = subprocess.Popen(
            ["ansible-playbook", "-i", str(server.lab.state / "inventory.yml"), "-e", "update_confirm_seconds=15",
             "mailwright.server.update"],
            env=environment, start_new_session=True, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.mark.faults
@pytest.mark.parametrize("phase", PHASES["update"])
def test_a_killed_controller_leaves_the_host_in_one_state(host: Server, token: str, phase: str) -> None:
    before = State.of(host)
    rebuild(host, "small")
    with flowing(host, token):
        with controller(host):
            watch(host, phase)
        # a confirmation that was on its way already counts
        judge(host, before, "small", committed=phase == "complete" and settled(host) == "committed")


@pytest.mark.faults
@pytest.mark.parametrize("moment", [*PHASES["update"], "confirmed"])
def test_a_cut_connection_leaves_the_host_in_one_state(host: Server, token: str, moment: str) -> None:
    before = State.of(host)
    rebuild(host, "small")
    try:
        with flowing(host, token):
            with controller(host) as process:
                watch(host, moment, CUT)
                said, _none = process.communicate(timeout=120)
            ended = settled(host)
            # where SSH sees its connection dead before it asks, it makes another one, and the playbook hears the ending
            heard = {0: "committed", 2: "rolled back", 4: ""}[process.returncode]
            words = {"committed": "leads back", "rolled back": "ROLLED BACK", "": "the host goes on by itself"}
            assert heard in ("", ended) and words[heard] in said, said
            # with the last phase another connection begins, which may have been too late to be cut
            assert moment == "complete" or (ended == "committed") == (moment == "confirmed")
            judge(host, before, "small", committed=ended == "committed")
    finally:
        host.run("nft delete table inet silence 2>/dev/null", check=False)


@pytest.mark.faults
def test_a_host_that_cannot_be_reached_goes_back(host: Server, token: str) -> None:
    before = State.of(host)
    rebuild(host, "small")
    # until the timer lets us in again, nobody reaches the host by SSH
    host.run(
        "printf '%s\\n' 'table inet cut { chain i { type filter hook input priority -20' 'tcp dport 22 drop' '}' '}' "
        "> /root/cut.nft && systemd-run --on-active=180 nft delete table inet cut"
    )
    with flowing(host, token):
        begin(host, intent("activate"), confirm_seconds=10)
        host.run("(sleep 1; nft -f /root/cut.nft) >/dev/null 2>&1 &")
        judge(host, before, "small", committed=False)
    assert "nobody confirmed" in ending(host)["cause"]
