# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which unit needs what after files changed. Decides only; systemd.py acts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.mailwright.server.plugins.module_utils.config_tree.plan import matches

# Properties read with one `systemctl show`; see org.freedesktop.systemd1(5).
PROPERTIES = (
    "ActiveState",
    "CanReload",
    "InactiveEnterTimestampMonotonic",
    "LoadState",
    "NRestarts",
    "RemainAfterExit",
    "Result",
    "SubState",
    "Type",
    "UnitFileState",
)

UNIT_SUFFIXES = (
    ".service",
    ".socket",
    ".timer",
    ".path",
    ".target",
    ".mount",
    ".automount",
    ".slice",
    ".swap",
    ".scope",
    ".device",
)

# Directories whose files systemd reads only at daemon-reload; systemd.unit(5).
UNIT_DIRECTORIES = ("/etc/systemd/*", "/usr/lib/systemd/*", "/usr/local/lib/systemd/*")


@dataclass(frozen=True)
class Unit:
    """A unit as it shall be. Globs are absolute paths' patterns."""

    name: str
    # None: as it is
    started: bool | None = True
    enabled: bool = True
    restart_on: tuple[str, ...] = ()
    reload_on: tuple[str, ...] = ("*",)
    # HOST:PORT or the path of a Unix socket, where it accepts connections once it is up.
    listens: tuple[str, ...] = ()


@dataclass(frozen=True)
class UnitState:
    """A unit as systemd reports it; the default is a unit that the host does not know."""

    load: str = "not-found"
    active: str = "inactive"
    sub: str = "dead"
    file_state: str = ""
    can_reload: bool = False
    kind: str = ""
    finished: bool = False
    # How often systemd started it again by itself.
    restarts: int = 0

    @property
    def running(self) -> bool:
        """True when the unit is up, or is a one-shot that has done its work since boot."""
        return self.active in ("active", "reloading", "refreshing") or self.finished


_PAST = {
    "start": "started",
    "stop": "stopped",
    "reload": "reloaded",
    "restart": "restarted",
    "enable": "enabled",
    "disable": "disabled",
}

# Verbs of systemctl after which a unit must be up.
RAISING = ("start", "reload", "restart", "reload-or-restart")


@dataclass(frozen=True)
class Action:
    """What one unit needs: ``switch`` is enable, disable or empty; ``act`` is a verb of systemctl or empty."""

    name: str
    switch: str = ""
    act: str = ""

    @property
    def outcome(self) -> str:
        """The word for the result; what happened to the process outranks the switch."""
        return _PAST[self.act or self.switch]


def full_name(name: str) -> str:
    """Return the unit's name with its suffix, .service when none is given, as systemctl reads it."""
    return name if name.endswith(UNIT_SUFFIXES) else f"{name}.service"


def own_files(name: str) -> tuple[str, ...]:
    """Return globs of the files that define the unit: no reload makes a process follow those, only a restart."""
    names = [name]
    if "@" in name:
        names.append(name.partition("@")[0] + "@." + name.rpartition(".")[2])
    return tuple(f"*/systemd/system/{n}{tail}" for n in names for tail in ("", ".d/*"))


def parse_show(text: str, names: Sequence[str]) -> dict[str, UnitState]:
    """Read the output of `systemctl show -p ... NAMES`: one block of KEY=VALUE lines a unit, in the order asked."""
    blocks = [b for b in text.strip().split("\n\n") if b.strip()]
    if len(blocks) != len(names):
        raise ValueError(f"systemctl show reported {len(blocks)} units, asked for {len(names)}")
    states = {}
    for name, block in zip(names, blocks, strict=True):
        keys: dict[str, str] = dict(line.partition("=")[::2] for line in block.splitlines())
        states[name] = UnitState(
            load=keys.get("LoadState", "not-found"),
            active=keys.get("ActiveState", "inactive"),
            sub=keys.get("SubState", ""),
            file_state=keys.get("UnitFileState", ""),
            can_reload=keys.get("CanReload") == "yes",
            kind=keys.get("Type", ""),
            finished=keys.get("Type") == "oneshot"
            and keys.get("RemainAfterExit") == "no"
            and keys.get("ActiveState") == "inactive"
            and keys.get("Result") == "success"
            and keys.get("InactiveEnterTimestampMonotonic", "0") not in ("0", ""),
            restarts=int(keys.get("NRestarts") or 0),
        )
    return states


def decide(unit: Unit, state: UnitState, changed: Collection[str]) -> Action:
    """Say what a unit needs, given its state and the paths that changed.

    Only ``disabled`` units are enabled: static, indirect, generated, alias and enabled-runtime units are as they
    should be; a unit that the host does not know yet is expected to need it.
    """
    if unit.started is False:
        # Also a unit whose files are gone: its processes may still run.
        stop = state.active not in ("inactive", "failed")
        switch = "disable" if not unit.enabled and state.file_state in ("enabled", "enabled-runtime") else ""
        return Action(unit.name, switch, "stop" if stop else "")

    switch = ""
    if unit.enabled and (state.file_state == "disabled" or state.load == "not-found"):
        switch = "enable"
    elif not unit.enabled and state.file_state == "enabled":
        switch = "disable"
    if unit.started is None:
        return Action(unit.name, switch)

    if state.load == "not-found" or not (state.running or state.active == "activating"):
        return Action(unit.name, switch, "start")
    restart = any(matches(path, (*unit.restart_on, *own_files(unit.name))) for path in changed)
    concerned = restart or any(matches(path, unit.reload_on) for path in changed)
    if not concerned:
        return Action(unit.name, switch, "" if state.running else "start")
    return Action(unit.name, switch, "reload" if state.can_reload and state.running and not restart else "restart")


def undo(action: Action) -> Action:
    """Return what puts a unit back after ``action`` was tried and the files were restored."""
    switch = {"enable": "disable", "disable": "enable"}.get(action.switch, "")
    # A unit that was up may be down by now, and then cannot be reloaded.
    act = {"start": "stop", "stop": "start", "reload": "reload-or-restart", "restart": "restart"}.get(action.act, "")
    return Action(action.name, switch, act)


def needs_daemon_reload(changed: Collection[str]) -> bool:
    """Say whether one of the paths is read by systemd itself only at daemon-reload."""
    return any(matches(path, UNIT_DIRECTORIES) for path in changed)


def failures(actions: Sequence[Action], states: Mapping[str, UnitState], restarts: Mapping[str, int]) -> dict[str, str]:
    """Return unit -> reason for every unit that should be up after ``actions`` and is not.

    ``restarts`` is how often systemd had started each by itself right after the action: one more is a crash.
    """
    wrong = {}
    for action in actions:
        state = states[action.name]
        if action.act not in RAISING:
            continue
        if state.restarts > restarts[action.name]:
            wrong[action.name] = f"{state.active} ({state.sub}), after it ended and systemd started it again"
        elif not state.running:
            wrong[action.name] = f"{state.active} ({state.sub})" if state.load == "loaded" else state.load
    return wrong
