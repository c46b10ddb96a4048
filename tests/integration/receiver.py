# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Continuous signed mail from our users to dave, and a second receiver beside peer with the worst cache allowed.

Peer's milter asks the name server anew for every message. The receiver here verifies the same messages with dkimpy,
by a cache that keeps every answer as long as its TTL says, denials too, and that asks for every selector all the time,
from the moment in which its key is made: nobody can be told "no such record" earlier, or remember it for longer.
"""

from __future__ import annotations

import base64
import contextlib
import email
import itertools
import re
import shlex
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message

import dkim
import dns.exception
import dns.resolver
from connection import Lab, message, wait_until

# The users take turns.
SENDERS = ("alice@acme.test", "bob@acme.test", "carol@globex.test")
INTERVAL = 0.1
BOTH = {"rsa-sha256", "ed25519-sha256"}
# Runs on peer, as long as the connection lasts: prints dave's messages with a token, one a line, and takes them away.
FETCH = """
import base64, os, sys, time
box, token, foreign = os.path.expanduser("~dave/Maildir/new"), sys.argv[1].encode(), set()
parent = os.getppid()
while os.getppid() == parent:
    for name in set(os.listdir(box) if os.path.isdir(box) else ()) - foreign:
        path = os.path.join(box, name)
        with open(path, "rb") as stream:
            content = stream.read()
        if token in content:
            print(base64.b64encode(content).decode(), flush=True)
            os.unlink(path)
        else:
            foreign.add(name)
    time.sleep(0.1)
"""
# Runs on the mail server, until nobody reads (the status is then above 128).
SELECTORS = "while ls /var/lib/mailwright/dkim/*/*.key; [ $? -le 2 ]; do sleep 0.2; done"


@dataclass(frozen=True)
class Received:
    """One message: its number, the selectors that signed it, and what is wrong with it by either receiver."""

    number: str
    selectors: frozenset[str]
    problems: tuple[str, ...]


class Cache:
    """A caching resolver's view of TXT records, by the real name server and its TTLs."""

    def __init__(self, server: str) -> None:
        self._resolver = dns.resolver.Resolver(configure=False)
        self._resolver.nameservers = [server]
        self._resolver.cache = dns.resolver.LRUCache()
        self._resolver.lifetime = 5

    def text(self, name: bytes, timeout: int = 5) -> bytes | None:
        """The text of a record, as dkimpy wants it; None where there is none."""
        del timeout
        try:
            (record,) = self._resolver.resolve(name.decode(), "TXT")
        except (dns.exception.DNSException, ValueError):
            return None
        return b"".join(record.strings)


class Mail:
    """The messages, the one who sends them and the one who verifies them."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.token = f"rotation{uuid.uuid4().hex}"
        self.sent: list[float] = []
        self.received: list[Received] = []
        self.failure: BaseException | None = None
        self._cache = Cache(lab.address("ns1"))
        self._stop = threading.Event()
        self._children: list[subprocess.Popen[str]] = []
        self._threads = [
            threading.Thread(target=self._guard, args=(work,)) for work in (self._send, self._receive, self._remember)
        ]
        for thread in self._threads:
            thread.start()

    def finish(self) -> list[Received]:
        """Send no more and wait until everything has arrived."""
        self._stop.set()
        self._threads[0].join(60)
        try:
            wait_until(lambda: self.failure or len(self.received) >= len(self.sent), 300, "all messages have arrived")
        finally:
            for child in self._children:
                child.kill()
            for thread in self._threads:
                thread.join(60)
        if self.failure:
            raise self.failure
        return self.received

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.failure = self.failure or error

    def _send(self) -> None:
        for sender in itertools.cycle(SENDERS):
            with self.lab.submission(sender) as smtp:
                for _count in range(20):
                    # from one start to the next, so that the time that sending takes does not count
                    due = self.sent[-1] + INTERVAL - time.monotonic() if self.sent else 0
                    if self._stop.wait(max(due, 0)):
                        return
                    started = time.monotonic()
                    smtp.send_message(message(sender, "dave@peer.test", f"{self.token} {len(self.sent)}"))
                    self.sent.append(started)

    def _lines(self, host: str, command: str) -> Iterator[str]:
        child = subprocess.Popen(
            ["ssh", "-F", str(self.lab.state / "ssh_config"), host, command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self._children.append(child)
        assert child.stdout
        yield from child.stdout

    def _receive(self) -> None:
        for line in self._lines("peer", f"python3 -c {shlex.quote(FETCH)} {self.token}"):
            self.received.append(self._verify(base64.b64decode(line)))

    def _verify(self, content: bytes) -> Received:
        mail = email.message_from_bytes(content)
        problems, selectors, algorithms = [], [], []
        for index, signature in enumerate(mail.get_all("DKIM-Signature", [])):
            tags = dict(re.findall(r"\b([as])=([\w-]+)", signature))
            selectors.append(tags["s"])
            algorithms.append(tags["a"])
            try:
                good = dkim.DKIM(content).verify(idx=index, dnsfunc=self._cache.text)
            except dkim.DKIMException as error:
                problems.append(f"{tags['a']} {tags['s']}: {error}")
            else:
                problems += [] if good else [f"{tags['a']} {tags['s']}: is wrong"]
        if sorted(algorithms) != sorted(BOTH):
            problems.append(f"is signed with {sorted(algorithms)}")
        problems += judged_by_peer(mail)
        return Received(mail["Subject"].split()[-1], frozenset(selectors), tuple(problems))

    def _remember(self) -> None:
        """Ask for every selector that ever had a key."""
        names: set[str] = set()
        for line in self._lines("mx1", SELECTORS):
            *_path, domain, file = line.strip().split("/")
            name = f"{file.removesuffix('.key')}._domainkey.{domain}"
            if name not in names:
                names.add(name)
            for each in names:
                self._cache.text(each.encode())


def judged_by_peer(mail: Message) -> list[str]:
    """What peer did not pass; DMARC must have passed too."""
    said = " ".join(" ".join(mail.get_all("Authentication-Results", [])).split())
    # its comments hold semicolons
    passed = set(re.findall(r"dkim=pass [^;]*header\.a=([\w-]+)", re.sub(r"\([^)]*\)", "", said)))
    return [f"peer says: {said}"] if passed != BOTH or "dmarc=pass" not in said else []


@contextlib.contextmanager
def continuous_mail(lab: Lab) -> Iterator[Mail]:
    """Mail all the time, ended whatever happens."""
    mail = Mail(lab)
    try:
        yield mail
    finally:
        with contextlib.suppress(BaseException):
            mail.finish()
