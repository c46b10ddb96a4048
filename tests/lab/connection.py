# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How tests, the demo and the benchmarks reach the lab's hosts: by SSH, SMTP, IMAP, as anybody would."""

from __future__ import annotations

import contextlib
import imaplib
import os
import re
import smtplib
import ssl
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import TypeVar

CHECKOUT = Path(__file__).resolve().parents[2]
STATE = Path(os.environ.get("MAILWRIGHT_LAB", CHECKOUT / ".lab")).absolute()
T = TypeVar("T")


def wait_until(probe: Callable[[], T | None], seconds: float, what: str, every: float = 0.2) -> T:
    """Call the probe until it gives something true; raises TimeoutError naming what was waited for."""
    end = time.monotonic() + seconds
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(every)


@dataclass(frozen=True)
class Lab:
    """A running lab: its directory and what .lab/env says."""

    state: Path
    env: dict[str, str]

    @classmethod
    def load(cls, state: Path = STATE) -> Lab:
        text = (state / "env").read_text()
        return cls(state, dict(re.findall(r'^export (\w+)="(.*)"$', text, re.MULTILINE)))

    def address(self, host: str) -> str:
        return self.env[f"LAB_{host.upper().replace('-', '_')}"]

    @property
    def password(self) -> str:
        return self.env["LAB_PASSWORD"]

    def ssh(self, host: str, command: str, *, check: bool = True, data: str | None = None, timeout: float = 120) -> str:
        """Run a shell command as root on a host; gives its standard output."""
        done = subprocess.run(
            ["ssh", "-F", str(self.state / "ssh_config"), host, command],
            input=data, text=True, capture_output=True, timeout=timeout, check=False,
        )  # fmt: skip
        if check and done.returncode:
            raise RuntimeError(f"{host}: {command}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def playbook(self, *arguments: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """ansible-playbook with the lab's inventory unless the arguments name one."""
        inventory = [] if "-i" in arguments else ["-i", str(self.state / "inventory.yml")]
        path = self.env["PATH"].replace("$PATH", os.environ["PATH"])
        environment = {**os.environ, **self.env, "PATH": path, "ANSIBLE_NOCOLOR": "1"}
        return subprocess.run(
            ["ansible-playbook", *inventory, *arguments], text=True, capture_output=True, timeout=timeout,
            env=environment, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip

    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.env["LAB_CA"])

    @contextlib.contextmanager
    def imap(
        self, user: str, host: str = "mx1", password: str | None = None, timeout: float = 30
    ) -> Iterator[imaplib.IMAP4_SSL]:
        """A logged-in IMAP connection with a verified certificate (which names mx1.acme.test)."""
        context = self.tls()
        context.check_hostname = False  # the test reaches the host by address; the chain is verified
        connection = imaplib.IMAP4_SSL(self.address(host), 993, ssl_context=context, timeout=timeout)
        try:
            connection.login(user, password or self.password)
            yield connection
        finally:
            connection.logout()

    @contextlib.contextmanager
    def submission(self, user: str, host: str = "mx1", password: str | None = None) -> Iterator[smtplib.SMTP_SSL]:
        """A logged-in connection to port 465."""
        context = self.tls()
        context.check_hostname = False
        with smtplib.SMTP_SSL(self.address(host), 465, "client.example", context=context, timeout=60) as connection:
            connection.login(user, password or self.password)
            yield connection

    def find(self, user: str, token: str, folder: str = "INBOX", host: str = "mx1") -> list[bytes]:
        """The messages in a folder whose Subject holds the token."""
        with self.imap(user, host) as box:
            if box.select(folder, readonly=True)[0] != "OK":
                return []
            numbers = box.search(None, "HEADER", "Subject", f'"{token}"')[1][0].split()
            return [box.fetch(number.decode(), "(BODY.PEEK[])")[1][0][1] for number in numbers]  # type: ignore[index, misc]

    def dave_sends(self, message: EmailMessage, host: str = "mx1") -> None:
        """Hand a message to peer's sendmail, as dave; to a host that is not the domain's MX, by SMTP from peer."""
        if host == "mx1":
            self.ssh("peer", f"su dave -c 'sendmail -i -f dave@peer.test {message['To']}'", data=message.as_string())
            return
        script = (
            "import smtplib, sys; "
            f'smtp = smtplib.SMTP("{self.address(host)}", 25, "peer.peer.test", timeout=60); smtp.starttls(); '
            f'smtp.sendmail("dave@peer.test", ["{message["To"]}"], sys.stdin.buffer.read()); smtp.quit()'
        )
        self.ssh("peer", f"python3 -c '{script}'", data=message.as_string())

    def dave_has(self, token: str) -> str | None:
        """The message in dave's Maildir with the token in it."""
        listing = self.ssh("peer", f"grep -rl {token} ~dave/Maildir/new ~dave/Maildir/cur 2>/dev/null", check=False)
        names = listing.split()
        return self.ssh("peer", f"cat {names[0]}") if names else None


def message(sender: str, recipient: str, subject: str | None = None, body: str = "Hello.\n") -> EmailMessage:
    """A message with a subject that is unique unless given."""
    mail = EmailMessage()
    mail["From"], mail["To"] = sender, recipient
    mail["Subject"] = subject or f"token{uuid.uuid4().hex}"
    mail["Message-ID"] = f"<{uuid.uuid4().hex}@{sender.rpartition('@')[2]}>"
    mail["Date"] = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime())
    mail.set_content(body)
    return mail
