# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An apply that goes wrong undoes itself: it shuts the operator out, fails half-way, makes mail worse, is cut off.

What the host is, is read from the file system, the firewall and systemd, never from what the engine says of itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ansible_collections.mailwright.server.tests.integration.throwaway import changed_paths, snapshot
from connection import CHECKOUT, wait_until

if TYPE_CHECKING:
    from ansible_collections.mailwright.server.tests.integration.conftest import Server

TXN = "/var/lib/mailwright/txn"
# An address of nobody's.
ELSEWHERE = ["192.0.2.1"]
# What a transaction leaves behind: its own records.
LEFT = re.compile(
    r"/var/lib/mailwright/(txn|snapshots)(/.*)?|/var/lib/mailwright(/config)?|/var/lib/mailwright/config/\.lock"
)
# those of the first boot alone do not come again
UNITS = (
    "systemctl list-units --type=service,timer,socket --state=running,waiting,listening --plain --no-legend"
    " | cut -d' ' -f1"
)
# The firewall's role alone, with the transaction that site gives it.
FIREWALL = """
- hosts: mailservers
  gather_facts: false
  vars: {ansible_pipelining: true, mail_model: "{{ validated.model }}"}
  module_defaults:
    mailwright.server.config_tree:
      transaction: {hostname: "{{ mail_model.hostname }}", gate: false, confirm_seconds: "{{ site_confirm_seconds }}"}
  tasks:
    - mailwright.server.model: {}
      register: validated
    - ansible.builtin.import_role: {name: mailwright.server.firewall}
"""


@dataclass(frozen=True)
class State:
    """Files, the firewall's own table and what runs."""

    files: dict[str, str]
    rules: str
    units: frozenset[str]

    @classmethod
    def of(cls, server: Server) -> State:
        units = server.run(UNITS).split()
        # Debian's second way to fetch signatures, which is not ours to start, comes with the first boot
        passing = ("mailwright-transaction", "session", "user", "run-", "clamav-freshclam-once")
        return cls(
            snapshot(server.lab, server.name), server.run("nft list table inet mailwright"),
            frozenset(unit for unit in units if not unit.startswith(passing)),
        )  # fmt: skip

    def differences(self, other: State) -> list[str]:
        found = [path for path in changed_paths(self.files, other.files) if not LEFT.fullmatch(path)]
        if self.rules != other.rules:
            found.append(other.rules)
        return [*found, *sorted(self.units ^ other.units)]


def apply(server: Server, *arguments: str, **variables: object) -> subprocess.CompletedProcess[str]:
    return server.lab.playbook("-e", json.dumps(variables), *(arguments or ("mailwright.server.site",)))


def reached(server: Server) -> bool:
    """Whether a new connection opens, within two seconds."""
    options = ["-o", "ControlPath=none", "-o", "ConnectTimeout=2"]
    command = ["ssh", "-F", str(server.lab.state / "ssh_config"), *options, server.name, "true"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


class Visitor(threading.Thread):
    """Tries to reach the host all the time; counts how often that failed."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self.server, self.refused, self.stop = server, 0, threading.Event()

    def run(self) -> None:
        while not self.stop.wait(0.5):
            self.refused += not reached(self.server)


def ending(server: Server) -> dict[str, str]:
    """The last record of the newest transaction, once that has ended and let go; empty before."""
    if server.run(f"ls {TXN}/open 2>/dev/null", check=False):
        return {}
    found: dict[str, str] = json.loads(server.run(f"tail -n 1 $(ls -d {TXN}/2*/journal | tail -n 1)").partition(" ")[2])
    return found


@pytest.fixture
def before(server: Server) -> Iterator[State]:
    """The host as the inventory wants it; afterwards it is so again, whatever the test did."""
    if not server.run("systemctl list-unit-files --no-legend mailwright-transaction.service", check=False):
        assert apply(server).returncode == 0
    found = State.of(server)
    try:
        yield found
    finally:
        wait_until(lambda: reached(server), 120, "the host can be reached", every=1)
        if found.differences(State.of(server)):
            assert apply(server).returncode == 0
        # the status report would tell of what this test has had undone
        server.run(f"rm -rf {TXN}/2*")


def locked_out(server: Server, before: State, *arguments: str) -> None:
    visitor = Visitor(server)
    visitor.start()
    done = apply(server, *arguments, firewall_ssh_from=ELSEWHERE, site_confirm_seconds=20)
    assert done.returncode == 4, done.stdout + done.stderr
    assert "this change has cut the host off" in done.stdout
    wait_until(lambda: reached(server), 120, "the host can be reached again", every=1)
    visitor.stop.set()
    visitor.join()
    assert visitor.refused
    wait_until(lambda: ending(server), 60, "the ending", every=1)
    assert ending(server)["ending"] == "rolled back"
    assert "nobody reached the host" in ending(server)["cause"]
    assert before.differences(State.of(server)) == []


def test_a_firewall_that_shuts_the_operator_out_goes_back(server: Server, before: State, tmp_path: Path) -> None:
    (tmp_path / "firewall.yml").write_text(FIREWALL)
    locked_out(server, before, str(tmp_path / "firewall.yml"))


@pytest.mark.faults
def test_a_whole_apply_that_shuts_the_operator_out_goes_back(server: Server, before: State) -> None:
    locked_out(server, before)


@pytest.mark.faults
def test_a_firewall_that_lets_the_operator_in_stays(server: Server, before: State) -> None:
    own = server.run("echo $SSH_CONNECTION").split()[0]
    done = apply(server, firewall_ssh_from=[own])
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"ip saddr {own} tcp dport 22 accept" in server.run("nft list table inet mailwright")
    assert ending(server)["ending"] == "committed"
    again = apply(server, firewall_ssh_from=[own])
    assert "changed=0" in again.stdout, again.stdout
    assert before.rules != State.of(server).rules


@pytest.mark.faults
def test_an_apply_that_fails_half_way_goes_back(server: Server, before: State) -> None:
    done = apply(
        server, site_transaction=True, firewall_tcp_ports=[8443], postfix_lmtp_processes=9, web_hsts_max_age="a year"
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "ROLLED BACK" in done.stdout and "web_hsts_max_age" in done.stdout
    assert before.differences(State.of(server)) == []


@pytest.mark.faults
def test_an_apply_after_which_mail_fails_goes_back(server: Server, before: State) -> None:
    # bytes, where somebody thought of megabytes: every checker takes it, and no message passes
    done = apply(server, site_transaction=True, postfix_message_size_limit=50, site_health_seconds=5)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "ROLLED BACK: the change failed in phase health-check: submission" in done.stdout
    assert before.differences(State.of(server)) == []


def begin(server: Server, **variables: object) -> subprocess.Popen[bytes]:
    """An apply that changes Postfix's configuration; gives it when the transaction is open and something is changed."""
    extra = json.dumps({"site_transaction": True, "firewall_tcp_ports": [8443], **variables})
    path = server.lab.env["PATH"].replace("$PATH", os.environ["PATH"])
    controller = subprocess.Popen(
        ["ansible-playbook", "-i", str(server.lab.state / "inventory.yml"), "-e", extra, "mailwright.server.site"],
        env={**os.environ, **server.lab.env, "PATH": path}, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_until(lambda: "8443" in server.run("nft list table inet mailwright"), 300, "the new rule", every=0.5)
    except BaseException:
        os.killpg(controller.pid, signal.SIGKILL)
        raise
    return controller


@pytest.mark.faults
def test_an_apply_whose_controller_dies_goes_back(server: Server, before: State) -> None:
    controller = begin(server, site_silence_seconds=20)
    os.killpg(controller.pid, signal.SIGKILL)
    controller.wait()
    wait_until(lambda: ending(server), 180, "the ending", every=1)
    assert ending(server)["ending"] == "rolled back"
    assert before.differences(State.of(server)) == []


@pytest.mark.faults
def test_a_power_cut_during_an_apply_goes_back_at_boot(server: Server, before: State) -> None:
    controller = begin(server)
    for action in ("power-cut", "up"):
        subprocess.run([sys.executable, str(CHECKOUT / "tests/lab/lab.py"), action, server.name], check=True)
    os.killpg(controller.pid, signal.SIGKILL)
    controller.wait()
    wait_until(lambda: reached(server) and ending(server), 180, "the ending", every=1)
    assert ending(server)["ending"] == "rolled back"
    # at boot systemd starts the rest after the host has settled
    missing = before.units

    def all_run() -> bool:
        nonlocal missing
        missing = before.units - State.of(server).units
        return not missing

    with contextlib.suppress(TimeoutError):
        wait_until(all_run, 180, "every unit that ran", every=2)
    assert missing == frozenset()
    assert before.differences(State.of(server)) == []
