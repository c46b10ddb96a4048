# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who guesses passwords is shut out by the firewall, by whatever door, and can have nobody else shut out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from connection import wait_until

if TYPE_CHECKING:
    from ansible_collections.mailwright.server.tests.integration.conftest import Server, Stranger, Timer

# the role's default, and what a web client may claim
BAN_AFTER = 10
BYSTANDER = "192.0.2.77"
JAILS = ["dovecot", "postfix", "roundcube-auth", "sshd"]


def banned(server: Server) -> dict[str, list[str]]:
    """Jail -> addresses that nftables drops."""
    found: dict[str, list[str]] = {}
    for item in json.loads(server.run("nft --json list ruleset"))["nftables"]:
        if "set" in item and item["set"]["name"].startswith("addr-set-"):
            elements = item["set"].get("elem", [])
            jail = item["set"]["name"].removeprefix("addr-set-")
            found[jail] = [e if isinstance(e, str) else str(e) for e in elements]
    return found


def jails_with(server: Server, address: str) -> list[str]:
    return sorted(jail for jail, addresses in banned(server).items() if address in addresses)


def forgive(server: Server, address: str) -> None:
    """Have every jail forget an address: lifting a ban forgets what led to it, so have it banned by all first."""
    failures = " ".join(str(i) for i in range(BAN_AFTER))
    server.run("; ".join(f"fail2ban-client set {jail} attempt {address} {failures}" for jail in JAILS))
    wait_until(lambda: jails_with(server, address) == JAILS, 20, f"{address} banned by every jail")

    def lifted() -> bool:
        server.run(f"fail2ban-client unban {address} {BYSTANDER}")
        return not jails_with(server, address)

    wait_until(lifted, 20, f"{address} free again")


@pytest.fixture
def guesser(server: Server, second_address: str) -> Iterator[str]:
    """An address of peer's that nothing is held against, before and after the test."""
    forgive(server, second_address)
    yield second_address
    forgive(server, second_address)


def words(number: int) -> list[str]:
    return [f"wrong-{i}" for i in range(number)]


GUESSES: dict[str, tuple[str, dict[str, Any], str, str, int]] = {
    "IMAP, a connection each": ("imap", {"together": False}, "alice@acme.test", "dovecot", 993),
    "IMAP, one connection": ("imap", {"together": True}, "alice@acme.test", "dovecot", 993),
    "IMAP, nobody's mailbox": ("imap", {"together": False}, "nobody@acme.test", "dovecot", 993),
    "submission": ("submission", {}, "bob@acme.test", "postfix", 465),
    "webmail": (
        "webmail", {"name": "mx1.acme.test", "headers": {"X-Forwarded-For": BYSTANDER}}, "bob@acme.test",
        "roundcube-auth", 443,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("action", "details", "user", "jail", "port"), GUESSES.values(), ids=GUESSES.keys())
def test_ten_wrong_passwords_ban(
    stranger: Stranger, server: Server, guesser: str, timer: Timer,
    action: str, details: dict[str, Any], user: str, jail: str, port: int,
) -> None:  # fmt: skip
    """One wrong password fewer does not; nobody is banned in the guesser's place."""
    assert stranger.reaches(port, source=guesser)
    before = counted(server, jail)
    first = stranger.ask(action, source=guesser, user=user, passwords=words(BAN_AFTER - 1), **details)
    assert len(first) == BAN_AFTER - 1, first
    wait_until(lambda: counted(server, jail) >= before + BAN_AFTER - 1, 20, "the jail's notice of each wrong password")
    assert not jails_with(server, guesser), first
    assert stranger.reaches(port, source=guesser)
    timer.restart()
    stranger.ask(action, source=guesser, user=user, passwords=words(1), **details)
    wait_until(lambda: jail in jails_with(server, guesser), 20, f"{guesser} in nftables' set of {jail}")
    timer.say(f"from the last wrong password ({', '.join(jails_with(server, guesser))}) to the ban")
    assert stranger.reaches(25, 443, 465, 587, 993, 995, 4190, source=guesser) == []
    assert stranger.reaches(port), "peer's other address is not banned"
    everybody = {address for addresses in banned(server).values() for address in addresses}
    assert everybody == {guesser}


def counted(server: Server, jail: str) -> int:
    status = server.run(f"fail2ban-client status {jail}")
    return int(status.partition("Total failed:")[2].split()[0])


def test_right_passwords_do_not_count(stranger: Stranger, server: Server, guesser: str) -> None:
    before = {jail: counted(server, jail) for jail in JAILS}
    right = [server.lab.password] * (BAN_AFTER + 2)
    answers = stranger.ask("imap", source=guesser, user="alice@acme.test", passwords=right, together=False)
    assert all(answer.startswith(("a OK", "* CAPABILITY")) for answer in answers), answers
    answers = stranger.ask("submission", source=guesser, user="alice@acme.test", passwords=right)
    assert all(answer.startswith("235") for answer in answers), answers
    for _round in range(2):
        answers = stranger.ask(
            "webmail", source=guesser, user="alice@acme.test", passwords=right[:1], name="mx1.acme.test"
        )
        assert answers == ["302"]
    # one wrong one, so that the jails have read all that was written before it
    stranger.ask("imap", source=guesser, user="alice@acme.test", passwords=words(1), together=False)
    wait_until(lambda: counted(server, "dovecot") > before["dovecot"], 20, "the one wrong password")
    after = {jail: counted(server, jail) for jail in before}
    assert after == {**before, "dovecot": before["dovecot"] + 1}
    assert not jails_with(server, guesser)


FORGED = [
    f"q from {BYSTANDER} in session 0123456789abcdef (error: 0)\nz",
    f"q\n<01234567> Failed login for q from {BYSTANDER} in session 0123456789abcdef (error: 0)\nz",
    f"q\nwrong password from {BYSTANDER}\nz",
    f"q\nIMAP Error: Login failed for q from {BYSTANDER}. x in /q.php on line 1 (POST /)\nz",
    f"q,{BYSTANDER},sasl:plain): sql: Password mismatch",
    f"q(q,{BYSTANDER},sasl:plain): sql: unknown user\n",
    f"rip={BYSTANDER}",
    f"q@acme.test,{BYSTANDER}",
]


def failing(server: Server, jail: str) -> int:
    """How many addresses a jail holds something against."""
    return int(server.run(f"fail2ban-client status {jail}").partition("Currently failed:")[2].split()[0])


def test_a_user_name_cannot_ban_others(stranger: Stranger, server: Server, guesser: str) -> None:
    """What is typed as a name gets into logs; no jail may read an address out of it, or out of a proxy's header."""
    before = {jail: failing(server, jail) for jail in JAILS}
    headers = {"X-Forwarded-For": f"{BYSTANDER}) from {BYSTANDER}", "X-Real-IP": BYSTANDER, "Client-IP": BYSTANDER}
    one_each = words(len(FORGED))
    answers = stranger.ask(
        "webmail", source=guesser, user=FORGED, passwords=one_each, name="mx1.acme.test", headers=headers
    )
    assert answers == ["401"] * len(FORGED)
    answers = stranger.ask("submission", source=guesser, user=FORGED, passwords=one_each)
    assert all(answer.startswith("535") for answer in answers), answers
    lines = [user.replace("\n", " ") for user in FORGED]
    answers = stranger.ask("imap", source=guesser, user=lines, passwords=one_each, together=False)
    assert all(answer.startswith("a NO") for answer in answers), answers
    # the jails are past these lines when they have seen a later one
    seen = counted(server, "dovecot")
    stranger.ask("imap", source=guesser, user="alice@acme.test", passwords=words(1), together=False)
    wait_until(lambda: counted(server, "dovecot") > seen, 20, "a last wrong password")
    assert counted(server, "roundcube-auth") > 0
    after = {jail: failing(server, jail) for jail in JAILS}
    print(f"  addresses with something against them: {before} before, {after} after")
    assert all(after[jail] <= before[jail] + 1 for jail in JAILS), "the guesser's own at the most"
    assert {address for addresses in banned(server).values() for address in addresses} <= {guesser}


def test_sshd_bans_too(server: Server, guesser: str, timer: Timer) -> None:
    """Log-ins as nobody's user from peer's second address, without keys; peer itself stays free."""
    attempt = (
        f"timeout 5 ssh -b {guesser} -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "
        f"-o ConnectTimeout=3 -o LogLevel=ERROR guess@{server.address} true 2>&1"
    )
    # a few more than ten: sshd itself drops some connections of an address that failed before (PerSourcePenalties)
    enough = "grep -qE 'refused|timed out' && break"
    server.lab.ssh("peer", f"for i in $(seq {3 * BAN_AFTER}); do {attempt} | {enough}; sleep 0.2; done; true")
    timer.restart()
    wait_until(lambda: "sshd" in jails_with(server, guesser), 20, "the guesser in nftables' set of sshd")
    timer.say("to the ban")
    everybody = {address for addresses in banned(server).values() for address in addresses}
    assert everybody == {guesser}
