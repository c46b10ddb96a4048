# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Postfix delivers again, since it could not note that Dovecot has stored it, comes once.

What only looks like that is delivered: the same message sent again, or to two addresses, or with forged headers.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from connection import wait_until

if TYPE_CHECKING:
    from ansible_collections.mailwright.server.tests.integration.conftest import Server

ADDRESS = "once@acme.test"
HOME = "/var/vmail/acme.test/once"
ALIASES = ("once-a@acme.test", "once-b@acme.test")
LMTP = "/run/dovecot/postfix-lmtp"
# Passes on what Postfix and Dovecot say, but not that a message is stored: then it hangs up or is silent.
RELAY = """
import os, socket, sys, threading, time
path, hang_up = sys.argv[1], sys.argv[2] == "cut"
os.rename(path, path + ".real")
server = socket.socket(socket.AF_UNIX)
server.bind(path)
os.chmod(path, 0o666)
server.listen()
def carry(source, target):
    while data := source.recv(65536):
        if b" Saved\\r\\n" in data:
            print("stored", flush=True)
            if not hang_up:
                time.sleep(600)
            break
        target.sendall(data)
    for end in (source, target):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
while True:
    client = server.accept()[0]
    upstream = socket.socket(socket.AF_UNIX)
    upstream.connect(path + ".real")
    for ends in ((client, upstream), (upstream, client)):
        threading.Thread(target=carry, args=ends, daemon=True).start()
"""


def sql(server: Server, statements: str) -> None:
    server.run("su postgres -c 'psql -qd mailwright'", data=statements)


@pytest.fixture(scope="module")
def mailbox(server: Server) -> Iterator[str]:
    """A mailbox with two aliases."""
    sql(
        server,
        "INSERT INTO directory.mailbox (address, domain, local_part, password, owner) "
        f"VALUES ('{ADDRESS}', 'acme.test', 'once', '{{PLAIN}}{server.lab.password}', 'api');"
        + "".join(f"INSERT INTO directory.alias VALUES ('{a}', '{ADDRESS}', 'acme.test', 'api');" for a in ALIASES),
    )
    try:
        yield ADDRESS
    finally:
        sql(
            server,
            f"DELETE FROM directory.mailbox WHERE address = '{ADDRESS}';"
            f"DELETE FROM directory.alias WHERE destination = '{ADDRESS}'",
        )
        server.run(f"rm -rf {HOME}")


@contextlib.contextmanager
def unheard(server: Server, how: str) -> Iterator[None]:
    """Postfix does not hear that Dovecot has stored a message."""
    server.run("rm -f /root/relay.log; cat > /root/relay.py", data=RELAY)
    server.run(
        f"systemd-run -q --unit lab-relay -p StandardOutput=file:/root/relay.log python3 /root/relay.py {LMTP} {how}"
    )
    try:
        wait_until(lambda: server.run(f"test -S {LMTP}.real && test -S {LMTP} && echo y", check=False), 10, "the relay")
        yield
    finally:
        server.run(f"systemctl stop lab-relay; mv {LMTP}.real {LMTP}; rm -f /root/relay.py /root/relay.log")


def sends(server: Server, token: str, *recipients: str, headers: str = "") -> None:
    """Hand a message to the host's own sendmail."""
    text = f"From: alice@acme.test\nTo: undisclosed\nSubject: {token}\n{headers}\nGood day.\n"
    server.run(f"sendmail -i -f alice@acme.test {' '.join(recipients)}", data=text)


def stored(server: Server, token: str) -> list[str]:
    """Headers of the messages with that subject, as Dovecot reads them: they may be encrypted."""
    command = f"doveadm -f json fetch -u {ADDRESS} hdr mailbox '*' header subject {token}"
    found = [row["hdr"] for row in json.loads(server.run(command) or "[]")]
    return [headers for headers in found if re.search(rf"(?m)^Subject: {token}$", headers)]


def copies(server: Server, token: str) -> int:
    return len(stored(server, token))


def waiting(server: Server) -> bool:
    """Whether something for the mailbox is in the queue."""
    return ADDRESS in server.run("postqueue -j")


def delivered(server: Server, token: str, number: int) -> bool:
    return copies(server, token) == number and not waiting(server)


SEEN = {"cut": "discard", "killed": "was delivered to once@", "crashed": "was delivered to once@"}


@pytest.mark.parametrize("how", SEEN)
def test_what_postfix_delivers_again_comes_once(server: Server, mailbox: str, token: str, how: str) -> None:
    """The connection breaks after the message is stored; Postfix is killed; a power cut takes Dovecot's mark too."""
    began = server.run("date +%s").strip()
    with unheard(server, how):
        sends(server, token, mailbox)
        wait_until(lambda: server.run("cat /root/relay.log"), 20, "Dovecot to store it")
        assert copies(server, token) == 1
        if how == "cut":
            wait_until(lambda: "delay_reason" in server.run("postqueue -j"), 20, "Postfix to put it off")
        else:
            mark = f"{HOME}/.dovecot.lda-dupes" if how == "crashed" else ""
            server.run(f"systemctl kill --signal=KILL postfix && rm -f {mark}")
    wait_until(lambda: server.run("postqueue -f && echo yes", check=False), 30, "Postfix")
    wait_until(lambda: not waiting(server), 60, "the second delivery")
    assert copies(server, token) == 1
    said = server.run(f"journalctl -o cat --since=@{began} -u dovecot -u postfix | grep once@")
    assert SEEN[how] in said, said


def test_what_failed_is_not_taken_for_delivered(server: Server, mailbox: str, token: str) -> None:
    """Dovecot cannot store it, and says so: then it is tried again until it can."""
    sends(server, f"{token}first", mailbox)
    wait_until(lambda: delivered(server, f"{token}first", 1), 20, "a mailbox")
    server.run(f"chmod 0 {HOME}/Maildir/tmp")
    try:
        sends(server, token, mailbox)
        wait_until(lambda: "delay_reason" in server.run("postqueue -j"), 20, "a failed delivery")
    finally:
        server.run(f"chmod 700 {HOME}/Maildir/tmp")
    server.run("postqueue -f")
    wait_until(lambda: delivered(server, token, 1), 60, "the delivery")


def test_what_only_looks_the_same_is_delivered(server: Server, mailbox: str, token: str) -> None:
    """The same message by two aliases and the address itself, the same sent again, and one with another's trace."""
    headers = f"Message-ID: <{token}@acme.test>\n"
    sends(server, token, mailbox, *ALIASES, headers=headers)
    wait_until(lambda: delivered(server, token, 3), 20, "a copy for each address that was written to")
    sends(server, token, mailbox, headers=headers)
    wait_until(lambda: delivered(server, token, 4), 20, "the same message, sent again")
    headers = stored(server, token)[0]
    trace = re.match(r"(?:\S.*\n(?:[ \t].*\n)*)*", headers)
    assert trace and trace[0].count("(Postfix") == 1, headers
    sends(server, f"{token}forged", mailbox, headers=re.sub(r"(?m)^(Subject|From|To|Date):.*\n", "", trace[0]))
    wait_until(lambda: delivered(server, f"{token}forged", 1), 20, "the message with another one's headers")
