# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A service is down: nothing is lost, nothing passes unfiltered, all goes on when it is back (docs/outages.md)."""

from __future__ import annotations

import base64
import contextlib
import imaplib
import smtplib
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from typing import TYPE_CHECKING

import pytest
from connection import message, wait_until

if TYPE_CHECKING:
    from ansible_collections.mailwright.server.tests.integration.conftest import Correspondent, Server, Timer

BOB = "bob@acme.test"
NUMBER = 3
# in two parts, so that no scanner takes this file for it
EICAR = r"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-" + "STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
VIRUS_BODY = base64.b64encode(EICAR.encode()).decode() + "\n"
VIRUS_HEADERS = (
    "MIME-Version: 1.0\nContent-Type: application/octet-stream\nContent-Disposition: attachment; filename=e.bin\n"
    "Content-Transfer-Encoding: base64\n"
)


@dataclass(frozen=True)
class Outage:
    """What is stopped, and what is expected of it meanwhile."""

    stop: str
    start: str
    # mail goes on arriving; else the sender is told to come again, in these words
    accepts: bool
    answer: str
    # alice's mail program is told this when she writes to bob
    submission: str
    # None: who has logged in within the last half minute can
    logs_in: bool | None
    seconds: float


CLAMD = "clamav-daemon.socket clamav-daemon.service"
OUTAGES = {
    "clamd": Outage(
        f"systemctl stop {CLAMD}", "systemctl start clamav-daemon.service", False,
        "4.7.1 Virus scanner", "451 4.7.1", True, 60,
    ),
    "signatures": Outage(
        f"systemctl stop {CLAMD} && mv /var/lib/clamav /var/lib/clamav.kept"
        " && install -d -o clamav -g clamav /var/lib/clamav && systemctl start clamav-daemon.service",
        # nobody starts clamd here: it finds the signatures that freshclam brings
        "cp -a /var/lib/clamav.kept/. /var/lib/clamav/ && rm -r /var/lib/clamav.kept", False,
        "4.7.1 Virus scanner", "451 4.7.1", True, 60,
    ),
    "rspamd": Outage(
        "systemctl stop rspamd", "systemctl start rspamd", False, "4.7.1 Service unavailable", "454 4.3.0", True, 60
    ),
    "postgresql": Outage(
        "systemctl stop postgresql@17-main", "systemctl start postgresql@17-main", False,
        "4.3.0", "451 4.3.0", None, 120,
    ),
    "redis": Outage("systemctl stop redis-server", "systemctl start redis-server", True, "", "250", True, 60),
    "unbound": Outage("systemctl stop unbound", "systemctl start unbound", False, "4.1.8", "250", True, 90),
    "dovecot": Outage("systemctl stop dovecot", "systemctl start dovecot", False, "4.3.5", "no answer", False, 60),
}  # fmt: skip


def logs_in(server: Server) -> bool:
    """Whether bob, with his right password, gets at his mail."""
    try:
        with server.lab.imap(BOB, server.name) as box:
            return str(box.select("INBOX", readonly=True)[0]) == "OK"
    except (OSError, imaplib.IMAP4.error):
        return False


def submits(server: Server, mail: EmailMessage) -> str:
    """What alice's mail program is told when she writes to bob."""
    try:
        with server.lab.submission("alice@acme.test", server.name) as smtp:
            smtp.send_message(mail)
            return "250"
    except smtplib.SMTPResponseException as error:
        return f"{error.smtp_code} {bytes(error.smtp_error).decode()}"  # type: ignore[arg-type]
    except smtplib.SMTPRecipientsRefused as refused:
        code, words = next(iter(refused.recipients.values()))
        return f"{code} {words.decode()}"
    except (OSError, smtplib.SMTPException) as error:
        return f"no answer: {error}"


def answered(dave: Correspondent) -> bool:
    """Whether peer holds all its messages, each with what the server under test said."""
    held = dave.queue()
    return len(held) == NUMBER + 1 and all(held.values())


@contextlib.contextmanager
def broken(server: Server, outage: Outage) -> Iterator[None]:
    """Break it; whatever happens, mend it."""
    server.run(outage.stop)
    mended = False
    try:
        yield
        server.run(outage.start)
        mended = True
    finally:
        if not mended:
            server.run(outage.start)


@pytest.mark.parametrize(
    "name", [name if name in ("clamd", "rspamd") else pytest.param(name, marks=pytest.mark.faults) for name in OUTAGES]
)
def test_outage(server: Server, dave: Correspondent, token: str, timer: Timer, name: str) -> None:
    outage = OUTAGES[name]
    # on its way when the service goes: in this host's own queue, held until then
    server.run(f"printf 'From: root\\nTo: {BOB}\\nSubject: {token} queued\\n\\nx\\n' | sendmail -i {BOB}")
    wait_until(lambda: f"{token} queued" in server.subjects(BOB, token), 30, "mail as usual")
    server.run("postconf -e defer_transports=lmtp && postfix reload 2>/dev/null")
    try:
        server.run(f"printf 'From: root\\nTo: {BOB}\\nSubject: {token} held\\n\\nx\\n' | sendmail -i {BOB}")
        wait_until(lambda: "deferred" in server.run("postqueue -j"), 30, "a message in the host's own queue")
        virus = f"{token} virus"
        expected = sorted([f"{token} queued", f"{token} held", *(f"{token} {i}" for i in range(NUMBER))])
        with broken(server, outage):
            server.run("postconf -X defer_transports && postfix reload 2>/dev/null; postqueue -f")
            timer.restart()
            dave.sends(BOB, [f"{token} {i}" for i in range(NUMBER)])
            dave.sends(BOB, [virus], VIRUS_BODY, VIRUS_HEADERS)
            said = submits(server, message("alice@acme.test", BOB, f"{token} submitted"))
            entered = logs_in(server)
            if outage.accepts:
                wait_until(lambda: not dave.queue(), 60, "peer's queue empty")
                wait_until(lambda: server.subjects(BOB, token) == sorted([*expected, f"{token} submitted"]), 60, "mail")
                timer.say(f"{name} down: mail arrives")
            else:
                wait_until(lambda: answered(dave), 90, "four messages with an answer in peer's queue")
                answers = dave.queue()
                timer.say(f"{name} down: the sender sees {sorted(set(answers.values()))}")
                assert all(outage.answer in answer for answer in answers.values())
                if entered:
                    found = server.subjects(BOB, token)
                    assert not [s for s in found if s.rsplit(" ", 1)[1] in {*map(str, range(NUMBER)), "virus"}], found
            print(f"        submission: {said}; log-in: {'yes' if entered else 'no'}")
            assert outage.logs_in in (None, entered)
            assert said.startswith(outage.submission), said
        timer.restart()
    finally:
        server.run("postconf -X defer_transports && postfix reload 2>/dev/null", check=False)
    if said == "250":
        expected = sorted([*expected, f"{token} submitted"])
    wait_until(lambda: logs_in(server) and server.subjects(BOB, token) == expected, outage.seconds, f"{expected}")
    timer.say(f"{name} back: all messages have arrived")
    # the virus is refused by the first who looks at it: then peer has told dave, and its queue is empty
    wait_until(lambda: not dave.queue(), outage.seconds, "peer's queue empty")
    timer.say("peer's queue is empty")
    said = submits(server, message("alice@acme.test", BOB, f"{token} again"))
    assert said == "250"
    expected = sorted([*expected, f"{token} again"])
    wait_until(lambda: server.subjects(BOB, token) == expected, 30, "each message once, the virus never")
    server.discard(BOB, token)


KILLED = {
    "postfix": 25, "dovecot": 993, "rspamd": 0, "clamav-daemon": 0, "redis-server": 0, "postgresql@17-main": 0,
    "unbound": 0, "nginx": 443, "php8.4-fpm": 0, "fail2ban": 0, "systemd-journald": 0, "postfix-mta-sts-resolver": 8461,
    "postsrsd": 10001,
}  # fmt: skip


@pytest.mark.faults
@pytest.mark.parametrize("unit", KILLED)
def test_killed_service_comes_back(server: Server, timer: Timer, token: str, unit: str) -> None:
    before = server.show(unit, "MainPID")
    assert int(before) > 1
    server.run(f"kill -9 {before}")
    timer.restart()
    try:
        wait_until(
            lambda: server.show(unit, "ActiveState") == "active" and server.show(unit, "MainPID") not in ("0", before),
            15, f"{unit} running again",
        )  # fmt: skip
        timer.say(f"{unit} runs again")
        number = iter(range(100))
        wait_until(
            lambda: submits(server, message("alice@acme.test", BOB, f"{token} {next(number)}")) == "250", 15,
            "mail accepted again", every=1,
        )  # fmt: skip
        wait_until(lambda: server.subjects(BOB, token), 30, "mail delivered again")
        timer.say("mail flows")
    finally:
        if server.show(unit, "ActiveState") != "active":
            server.run(f"systemctl reset-failed {unit}; systemctl start {unit}")
    server.discard(BOB, token)
