# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab that the tests use, and which of the fault tests run.

MAILWRIGHT_TEST_HOST: the host under test (mx1). MAILWRIGHT_FAULTS: how many of the tests marked ``faults`` run, or
``all``. MAILWRIGHT_SEED: what chooses them; printed, so that a run can be repeated.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.sending.keys import SCOPES
from ansible_collections.mailwright.server.tests.integration.sending import Api, temporary_keys
from connection import Lab, wait_until

SAMPLE = 4
SEED = os.environ.get("MAILWRIGHT_SEED") or str(random.SystemRandom().randrange(10_000))
FAULTS = os.environ.get("MAILWRIGHT_FAULTS") or str(SAMPLE)


# A resolver on peer, of which peer itself takes no notice: other tests change records and want them seen at once.
VALIDATING = """server:
    interface: 0.0.0.0
    access-control: 0.0.0.0/0 allow
    root-hints: /etc/unbound/lab.hints
    local-zone: "test." nodefault
    local-zone: "100.51.198.in-addr.arpa." nodefault
{anchors}"""


def pytest_report_header() -> str:
    """Say which sample this run takes."""
    return f"faults: {FAULTS}, MAILWRIGHT_SEED={SEED}, host: {host_under_test()}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep a seeded sample of the tests marked ``faults``, or all of them."""
    if FAULTS == "all":
        return
    marked = [item for item in items if item.get_closest_marker("faults")]
    chosen = set(random.Random(SEED).sample([i.nodeid for i in marked], min(int(FAULTS), len(marked))))
    dropped = [item for item in marked if item.nodeid not in chosen]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


def host_under_test() -> str:
    """The name of the lab's host that the tests examine."""
    return os.environ.get("MAILWRIGHT_TEST_HOST") or "mx1"


class Stranger:
    """stranger.py at work on peer. ``source`` gives it an address of its own, so that a ban does not hit peer."""

    def __init__(self, lab: Lab, server: str) -> None:
        self.server = server
        program = (Path(__file__).parent / "stranger.py").read_text()
        command = ["ssh", "-F", str(lab.state / "ssh_config"), "peer", f"python3 -c {shlex.quote(program)}"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, action: str, **request: Any) -> list[str]:
        """Have it do one thing; raises EOFError when it broke down."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin and stdout
        stdin.write(json.dumps({"action": action, "host": self.server, **request}) + "\n")
        stdin.flush()
        answer = stdout.readline()
        if not answer:
            raise EOFError("the program on peer ended; its error is above")
        result: list[str] = json.loads(answer)
        return result

    def smtp(self, *commands: str, port: int = 25, tls: bool = False, source: str | None = None) -> list[str]:
        """Send commands one by one; the replies, the greeting's first. After STARTTLS the connection is encrypted."""
        steps: list[dict[str, Any]] = [{}]
        for command in commands:
            steps.append({"send": command + "\r\n"})
            if command == "STARTTLS":
                steps.append({"tls": True})
        answers = self.ask("talk", port=port, tls=tls, source=source, steps=steps)
        return [answer for answer in answers if answer != "[tls]"]

    def reaches(self, *ports: int, source: str | None = None) -> list[int]:
        """The ports to which a TCP connection opens within a second."""
        answers = self.ask("connects", ports=ports, source=source, timeout=1)
        return [port for port, answer in zip(ports, answers, strict=True) if not answer]

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(10)


@dataclass(frozen=True)
class Server:
    """The host under test."""

    lab: Lab
    name: str

    @property
    def address(self) -> str:
        return self.lab.address(self.name)

    def run(self, command: str, *, check: bool = True, data: str | None = None, timeout: float = 120) -> str:
        return self.lab.ssh(self.name, command, check=check, data=data, timeout=timeout)

    def show(self, unit: str, key: str) -> str:
        return self.run(f"systemctl show -P {key} -- {unit}").strip()

    def subjects(self, user: str, token: str, folder: str = "INBOX") -> list[str]:
        """The subjects in a folder that hold the token, one for each message."""
        with self.lab.imap(user, self.name) as box:
            if box.select(folder, readonly=True)[0] != "OK":
                return []
            found = box.search(None, "HEADER", "Subject", f'"{token}"')[1][0].split()
            if not found:
                return []
            data = box.fetch(b",".join(found).decode(), "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")[1]
        return sorted(part[1].decode().partition(":")[2].strip() for part in data if isinstance(part, tuple))

    def discard(self, user: str, token: str, *folders: str) -> None:
        """Take a test's messages out of the mailbox again."""
        with self.lab.imap(user, self.name) as box:
            for folder in folders or ("INBOX",):
                if box.select(folder)[0] != "OK":
                    continue
                found = box.search(None, "HEADER", "Subject", f'"{token}"')[1][0].split()
                if found:
                    box.store(b",".join(found).decode(), "+FLAGS", "\\Deleted")
                    box.expunge()


@dataclass(frozen=True)
class Correspondent:
    """dave, whose server is made to send to the host under test, whatever the MX record says."""

    lab: Lab
    server: Server

    @property
    def address(self) -> str:
        return f"dave+via-{self.server.address.rpartition('.')[2]}@peer.test"

    def sends(self, recipient: str, subjects: Sequence[str], body: str = "Good morning.\n", headers: str = "") -> None:
        """Hand messages to peer's own Postfix, which queues them and tries every 10 to 20 seconds."""
        script = "; ".join(
            f"printf %s {shlex.quote(self.text(recipient, subject, body, headers))}"
            f" | sendmail -i -f {self.address} {recipient}"
            for subject in subjects
        )
        self.lab.ssh("peer", script)

    def text(self, recipient: str, subject: str, body: str, headers: str = "") -> str:
        return (
            f"From: Dave <{self.address}>\nTo: {recipient}\nSubject: {subject}\n"
            f"Message-ID: <{uuid.uuid4().hex}@peer.test>\n{headers}\n{body}"
        )

    def queue(self) -> dict[str, str]:
        """Recipient and queue id -> the last answer of the server under test, for what peer still holds."""
        found = {}
        for line in self.lab.ssh("peer", "postqueue -j").splitlines():
            entry = json.loads(line)
            if entry["sender"] == self.address:
                for recipient in entry["recipients"]:
                    found[entry["queue_id"]] = recipient.get("delay_reason", "")
        return found

    def bounced(self, token: str) -> bool:
        """Whether dave got a message about the token back."""
        return bool(self.lab.dave_has(token))


@pytest.fixture(scope="session")
def lab() -> Lab:
    return Lab.load()


@pytest.fixture(scope="session")
def server(lab: Lab) -> Server:
    return Server(lab, host_under_test())


@pytest.fixture(scope="session")
def stranger(lab: Lab, server: Server) -> Iterator[Stranger]:
    client = Stranger(lab, server.address)
    # postscreen makes an address wait that it has not seen; from now on it knows peer's
    assert client.smtp("NOOP")[0].startswith("220")
    yield client
    client.close()


@pytest.fixture(scope="session")
def dave(lab: Lab, server: Server) -> Iterator[Correspondent]:
    correspondent = Correspondent(lab, server)
    yield correspondent
    for queue_id in correspondent.queue():
        lab.ssh("peer", f"postsuper -d {queue_id}", check=False)


@pytest.fixture(scope="session")
def lab_resolver(lab: Lab) -> str:
    """A validating resolver on peer; its address."""
    anchors = "".join(f'    trust-anchor: "{line}"\n' for line in (lab.state / "root.ds").read_text().splitlines())
    ns1 = lab.address("ns1")
    lab.ssh("peer", "rm -f /etc/unbound/unbound.conf.d/root-auto-trust-anchor-file.conf")
    lab.ssh("peer", "cat > /etc/unbound/unbound.conf.d/lab.conf", data=VALIDATING.format(anchors=anchors))
    lab.ssh("peer", "cat > /etc/unbound/lab.hints", data=f". 3600 IN NS ns1.lab.test.\nns1.lab.test. 3600 IN A {ns1}\n")
    lab.ssh("peer", "cat > /etc/unbound/resolv.conf", data="nameserver 127.0.0.1\noptions edns0 trust-ad\n")
    lab.ssh("peer", "systemctl restart unbound")
    return lab.address("peer")


@pytest.fixture(scope="session")
def second_address(lab: Lab) -> Iterator[str]:
    """Another address of peer's, the network's last, for what would shut peer itself out."""
    head, _dot, tail = lab.address("peer").rpartition(".")
    address = f"{head}.{int(tail) + 10}"
    assert address not in lab.env.values()
    lab.ssh("peer", f"ip address replace {address}/32 dev host0")
    yield address
    lab.ssh("peer", f"ip address delete {address}/32 dev host0")


@pytest.fixture(scope="module")
def keys(lab: Lab, server: Server) -> Iterator[list[str]]:
    """All scopes for acme.test, all for globex.test."""
    wanted = [{"name": "test", "domain": domain, "scopes": list(SCOPES)} for domain in ("acme.test", "globex.test")]
    with temporary_keys(lab, server.name, *wanted) as made:
        assert len(made) == 2
        yield made


@pytest.fixture(scope="module")
def acme(lab: Lab, server: Server, keys: list[str]) -> Api:
    return Api(lab, server.name, keys[0])


@pytest.fixture(scope="module")
def globex(lab: Lab, server: Server, keys: list[str]) -> Api:
    return Api(lab, server.name, keys[1])


@pytest.fixture(scope="module")
def anybody(lab: Lab, server: Server) -> Api:
    return Api(lab, server.name, None)


@pytest.fixture(scope="module")
def description(anybody: Api) -> dict[str, Any]:
    answer = anybody.ask("GET", "/openapi.json")
    assert answer.status == 200
    found: dict[str, Any] = answer.body
    return found


@pytest.fixture
def token() -> str:
    return f"token{uuid.uuid4().hex}"


@pytest.fixture
def timer() -> Iterator[Timer]:
    """Prints what was measured."""
    yield Timer(time.monotonic())


@dataclass
class Timer:
    """Seconds since it was started."""

    started: float

    def restart(self) -> None:
        self.started = time.monotonic()

    def say(self, what: str) -> None:
        print(f"  {time.monotonic() - self.started:5.1f} s  {what}")


__all__ = ["Correspondent", "Server", "Stranger", "Timer", "wait_until"]
