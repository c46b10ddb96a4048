# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Talk to systemd on the host."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Mapping, Sequence

from ansible_collections.mailwright.server.plugins.module_utils.config_tree.plan import ConfigTreeError
from ansible_collections.mailwright.server.plugins.module_utils.config_tree.stage import SEARCH_PATH, run_program
from ansible_collections.mailwright.server.plugins.module_utils.config_tree.units import (
    PROPERTIES,
    RAISING,
    Action,
    UnitState,
    failures,
    parse_show,
)

JOB_SECONDS = 300.0
# Rspamd compiles its patterns before it listens: a minute on a small or busy host.
SETTLE_SECONDS = 90.0
# A unit of these types counts as active before its program has read its configuration, and a reload that only
# sends a signal as done; systemd.service(5).
_UNPROVEN_TYPES = ("simple", "exec", "idle")
_SIGNALS = ("reload", "reload-or-restart")
_UNPROVEN_SECONDS = 1.0


def not_accepting(addresses: Sequence[str]) -> list[str]:
    """Return those of the addresses, HOST:PORT or the path of a Unix socket, at which nobody accepts a connection."""
    closed = []
    for address in addresses:
        family = socket.AF_UNIX if address.startswith("/") else socket.AF_INET
        host, _colon, port = address.rpartition(":")
        with socket.socket(family, socket.SOCK_STREAM) as client:
            client.settimeout(2.0)
            if client.connect_ex(address if family == socket.AF_UNIX else (host, int(port))):
                closed.append(address)
    return closed


class Systemd:
    """The running service manager."""

    def show(self, names: Sequence[str], *, required: bool = True) -> dict[str, UnitState]:
        """Return the state of each unit with one call.

        Without a running systemd this raises ConfigTreeError, or reports all units as unknown when not ``required``.
        """
        if not names:
            return {}
        program = shutil.which("systemctl", path=SEARCH_PATH)
        code, output = 1, "systemctl is not installed"
        if program:
            code, output = run_program([program, "show", "-p", ",".join(PROPERTIES), "--", *names], JOB_SECONDS)
        if code == 0:
            try:
                return parse_show(output, names)
            except ValueError as error:
                output = str(error)
        if required:
            raise ConfigTreeError(f"cannot ask systemd about {', '.join(names)}: {output.strip()}")
        return {name: UnitState() for name in names}

    def call(self, *arguments: str) -> str:
        """Run systemctl; return an empty string, or what went wrong."""
        code, output = run_program(["systemctl", *arguments], JOB_SECONDS)
        return "" if code == 0 else f"systemctl {' '.join(arguments)}: {output.strip() or f'exit code {code}'}"

    def act(self, actions: Sequence[Action], tried: list[Action], *, carry_on: bool = False) -> list[str]:
        """Enable and disable in one call each, then act unit by unit in order; return what went wrong.

        Ends at the first failure unless ``carry_on``. Each step is noted in ``tried`` before it is tried.
        """
        problems = []
        for switch in ("enable", "disable"):
            names = [a.name for a in actions if a.switch == switch]
            tried += [Action(name, switch) for name in names]
            if names and (problem := self.call(switch, "--quiet", "--", *names)):
                problems.append(problem)
        if problems and not carry_on:
            return problems
        for action in actions:
            if not action.act:
                continue
            tried.append(Action(action.name, "", action.act))
            if problem := self.call(action.act, "--quiet", "--", action.name):
                problems.append(problem)
                if not carry_on:
                    return problems
        return problems

    def wait(self, actions: Sequence[Action], listens: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """Wait until the units acted upon are up and accept connections; return unit -> state for those that do not.

        ``listens`` holds each unit's addresses, HOST:PORT or the path of a Unix socket.
        """
        watched = [a for a in actions if a.act in RAISING]
        if not watched:
            return {}
        names = [a.name for a in watched]
        states = self.show(names)
        restarts = {name: states[name].restarts for name in names}
        if any(a.act in _SIGNALS or states[a.name].kind in _UNPROVEN_TYPES for a in watched):
            time.sleep(_UNPROVEN_SECONDS)
            states = self.show(names)
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            failed = failures(watched, states, restarts)
            moving = any(states[n].active in ("activating", "deactivating") for n in names)
            crashed = any(states[n].restarts > restarts[n] for n in names)
            silent = {n: closed for n in names if n not in failed and (closed := not_accepting(listens.get(n, ())))}
            if not (moving or silent) or crashed or (failed and not moving) or time.monotonic() > deadline:
                deaf = {n: f"up but does not accept connections at {', '.join(where)}" for n, where in silent.items()}
                return {**deaf, **failed}
            time.sleep(0.2)
            states = self.show(names)

    def journal(self, name: str) -> str:
        """Return the unit's last 20 journal lines."""
        _code, output = run_program(["journalctl", "-u", name, "-n", "20", "--no-pager", "-o", "cat"], 30.0)
        return output.strip()
