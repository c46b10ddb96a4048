# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One run: plan, check on a staged view, swap, activate; or put everything back.

Order of the durable steps, so that a kill between any two is healed by the next run:
pending marker, files, manifest, activation, marker removed.
"""

from __future__ import annotations

import grp
import os
import pwd
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.config_tree.diff import activation_lines, make_diff
from ansible_collections.mailwright.server.plugins.module_utils.config_tree.plan import (
    ABSENT,
    ConfigTreeError,
    File,
    Live,
    Plan,
    digest,
    make_plan,
    matches,
    owned_paths,
)
from ansible_collections.mailwright.server.plugins.module_utils.config_tree.settings import Command, Settings
from ansible_collections.mailwright.server.plugins.module_utils.config_tree.stage import (
    SEARCH_PATH,
    redact,
    run_checks,
    run_program,
    tail,
)
from ansible_collections.mailwright.server.plugins.module_utils.config_tree.store import Records, Swap, read_live, sweep
from ansible_collections.mailwright.server.plugins.module_utils.config_tree.systemd import Systemd
from ansible_collections.mailwright.server.plugins.module_utils.config_tree.units import (
    Action,
    decide,
    needs_daemon_reload,
    undo,
)

RECORDS = "/var/lib/mailwright/config"
COMMAND_SECONDS = 300.0


@dataclass
class Outcome:
    """What a run did, or would do in check mode."""

    plan: Plan = field(default_factory=Plan)
    units: dict[str, str] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    skipped_checks: list[str] = field(default_factory=list)
    diff: list[dict[str, str]] = field(default_factory=list)
    # whether the records say what is on the disk, also when that is as it should be
    recorded: bool = True

    def full_diff(self) -> list[dict[str, str]]:
        """Return the diff of the files and, as text of its own, what happens to commands and units."""
        lines = activation_lines(self.commands, self.units)
        return [*self.diff, {"prepared": "".join(f"{line}\n" for line in lines)}] if lines else self.diff

    def as_result(self) -> dict[str, Any]:
        """Return the module's result."""
        return {
            "changed": bool(self.plan.paths or self.units or self.commands),
            "created": list(self.plan.create),
            "changed_files": list(self.plan.change),
            "removed": list(self.plan.remove),
            "units": self.units,
            "commands": self.commands,
            "skipped_checks": self.skipped_checks,
            "recorded": self.recorded,
        }


def user_id(name: str) -> int | None:
    """Return the number of a user given by name or number, None when the host has no such name."""
    if name.isdecimal():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def group_id(name: str) -> int | None:
    """Return the number of a group given by name or number, None when the host has no such name."""
    if name.isdecimal():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def owner_names(uid: int, gid: int) -> tuple[str, str]:
    """Return the names of a user and a group, or their numbers where they have no name."""
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    try:
        group = grp.getgrgid(gid).gr_name
    except KeyError:
        group = str(gid)
    return user, group


class Run:
    """One task's work on one host. ``run`` returns the outcome or raises ConfigTreeError with the host as it was."""

    def __init__(self, settings: Settings, *, check_mode: bool, want_diff: bool, records: str = RECORDS) -> None:
        self.settings = settings
        self.check_mode = check_mode
        self.want_diff = want_diff
        self.records = Records(records, settings.name)
        self.systemd = Systemd()
        self.live: dict[str, Live] = {}

    def run(self) -> Outcome:
        """Do it, or in check mode say what would be done."""
        if self.check_mode:
            return self._run()
        with self.records.locked():
            return self._run()

    def _run(self) -> Outcome:
        settings = self.settings
        manifest, pending = self.records.read_manifest(), self.records.read_pending()
        known = {*settings.files, *manifest, *pending}
        if not self.check_mode:
            sweep({os.path.dirname(p) for p in known} | {self.records.directory})
        self.live = {path: read_live(path) for path in known}
        files = {p: replace(f, uid=user_id(f.owner), gid=group_id(f.group)) for p, f in settings.files.items()}
        owned = owned_paths(manifest, pending, self.live)
        plan = make_plan(files, self.live, owned)
        unknown = self._complain(plan, files)

        states = self.systemd.show([u.name for u in settings.units], required=not self.check_mode)
        changed = {*plan.paths, *pending}
        actions = [a for a in (decide(u, states[u.name], changed) for u in settings.units) if a.switch or a.act]
        commands = [c for c in settings.commands if any(matches(p, c.paths) for p in changed)]
        outcome = Outcome(plan, {a.name: a.outcome for a in actions}, [" ".join(c.argv) for c in commands])
        if self.want_diff:
            outcome.diff = make_diff(plan, files, self.live, settings.declared_open, owner_names)

        writes = [files[p] for p in (*plan.create, *plan.change)]
        if plan.paths:
            # In check mode the packages may be planned as well: what they bring cannot be judged by half of it.
            unready = unknown or any(state.load == "not-found" for state in states.values())
            outcome.skipped_checks = self._check(writes, plan.remove, unready=unready)
        wanted_manifest = {path: digest(file.content) for path, file in files.items()}
        if self.check_mode:
            outcome.recorded = manifest == wanted_manifest and not pending
            return outcome
        if not (changed or actions):
            if manifest != wanted_manifest:
                self.records.write_manifest(wanted_manifest)
            return outcome
        ending = [a for a in actions if a.act == "stop" or (a.switch == "disable" and not a.act)]
        outcome.units = self._carry_out(writes, plan, owned, pending, wanted_manifest, commands, ending)
        return outcome

    def _complain(self, plan: Plan, files: Mapping[str, File]) -> bool:
        """Raise ConfigTreeError for all that makes the plan impossible; say whether users or groups are missing.

        Missing ones are an error except in check mode, where the package that brings them may be planned as well.
        """
        problems = list(plan.conflicts)
        missing = sorted(
            {f"user {f.owner!r} does not exist, wanted for {f.path}" for f in files.values() if f.uid is None}
            | {f"group {f.group!r} does not exist, wanted for {f.path}" for f in files.values() if f.gid is None}
        )
        if not self.check_mode:
            problems += missing
        if problems:
            raise ConfigTreeError("nothing was changed:\n" + "\n".join(problems))
        return bool(missing)

    def _redacted(self, output: str) -> str:
        old = [
            found.content
            for path, found in self.live.items()
            if found.kind == "file" and not found.mode & 0o004 and not self.settings.declared_open(path)
        ]
        return redact(output, [f.content for f in self.settings.files.values() if f.sensitive] + old)

    def _shown(self, output: str) -> str:
        return tail(self._redacted(output))

    def _check(self, writes: Sequence[File], removals: Collection[str], *, unready: bool) -> list[str]:
        """Run the checkers on the staged files; return those skipped, which happens in check mode only."""
        checks = self.settings.checks
        named = [" ".join(c) for c in checks]
        if not checks:
            return []
        if self.check_mode:
            staged = {f.path for f in writes}
            present = any(shutil.which(c[0], path=SEARCH_PATH) or c[0] in staged for c in checks)
            # Files of users who do not exist yet cannot be shown to a checker as they will be.
            if unready or not present:
                return named
        problems = []
        results = run_checks(writes, list(removals), checks)
        for result in results:
            line = " ".join(result.argv)
            if result.code is None and not self.check_mode:
                problems.append(f"the check {line!r} cannot run: {result.argv[0]} is not installed")
            elif result.code:
                end = f"failed with exit code {result.code}"
                problems.append(f"the check {line!r} {end}:\n{self._shown(result.output)}")
        if problems:
            staged_paths = ", ".join(sorted([f.path for f in writes] + [f"{p} (removed)" for p in removals]))
            raise ConfigTreeError("nothing was changed: " + "\n".join(problems) + f"\nstaged: {staged_paths}")
        return [" ".join(r.argv) for r in results if r.code is None]

    def _carry_out(
        self,
        writes: Sequence[File],
        plan: Plan,
        owned: Mapping[str, str],
        pending: Mapping[str, str | None],
        manifest: Mapping[str, str],
        commands: Sequence[Command],
        ending: Sequence[Action],
    ) -> dict[str, str]:
        """Swap and activate; return what happened to the units.

        On failure everything is put back and ConfigTreeError raised.
        """
        announced = {**pending, **{f.path: digest(f.content) for f in writes}, **dict.fromkeys(plan.remove)}
        if pending:
            # What the interrupted run wrote must be noted before its announcement is overwritten.
            self.records.write_manifest(owned)
        if announced:
            self.records.write_pending(announced)
        swap = Swap({path: self.live.get(path, ABSENT) for path in plan.paths})
        done: list[Action] = []
        ran: list[Command] = []
        try:
            # Before the swap, as it may remove the very files that define a unit.
            if problems := self.systemd.act(ending, done):
                raise ConfigTreeError("; ".join(problems))
            swap.apply(writes, plan.remove)
            self.records.write_manifest(manifest)
            units = self._activate({*plan.paths, *pending}, commands, done, ran)
        except BaseException as error:
            problems = self._put_back(plan, owned, swap, done, ran)
            # Whatever could not be put back is for the next run to activate.
            self.records.write_pending(announced if problems else pending)
            if not isinstance(error, (ConfigTreeError, OSError)):
                raise
            state = "all files and units were put back"
            if problems:
                state = "NOT everything could be put back:\n" + "\n".join(problems)
            raise ConfigTreeError(f"{error}\n{state}") from None
        self.records.write_pending({})
        return {**{a.name: a.outcome for a in ending}, **units}

    def _activate(
        self, changed: Collection[str], commands: Sequence[Command], done: list[Action], ran: list[Command]
    ) -> dict[str, str]:
        """Run the commands and act on the units; note in ``done`` and ``ran`` what was tried before it is tried."""
        if needs_daemon_reload(changed) and (problem := self.systemd.call("daemon-reload")):
            raise ConfigTreeError(problem)
        for command in commands:
            ran.append(command)
            try:
                code, output = run_program(command.argv, COMMAND_SECONDS)
            except OSError as error:
                code, output = 127, error.strerror or ""
            if code:
                line = " ".join(command.argv)
                raise ConfigTreeError(f"the command {line!r} failed with exit code {code}:\n{self._shown(output)}")
        units = self.settings.units
        states = self.systemd.show([u.name for u in units])
        wrong = [
            f"{u.name} {'is masked' if states[u.name].load == 'masked' else 'does not exist'}"
            for u in units
            if u.started is not False and states[u.name].load in ("masked", "not-found")
        ]
        if wrong:
            raise ConfigTreeError("; ".join(wrong))
        actions = [a for a in (decide(u, states[u.name], changed) for u in units) if a.switch or a.act]
        problems = self.systemd.act(actions, done)
        failed = {} if problems else self.systemd.wait(actions, self._listens())
        if problems or failed:
            lines = problems + [f"{name} is {state}" for name, state in failed.items()]
            names = list(failed) or [a.name for a in actions if any(a.name in p for p in problems)]
            journal = "\n".join(f"journal of {n}:\n{self.systemd.journal(n)}" for n in names)
            raise ConfigTreeError(self._redacted("\n".join(lines) + "\n" + journal))
        return {a.name: a.outcome for a in actions}

    def _listens(self) -> dict[str, tuple[str, ...]]:
        return {unit.name: unit.listens for unit in self.settings.units}

    def _put_back(
        self, plan: Plan, owned: Mapping[str, str], swap: Swap, done: Sequence[Action], ran: Sequence[Command]
    ) -> list[str]:
        """Bring files, manifest, compiled files and units back; go on after a failure and return what failed."""
        undone = [undo(a) for a in reversed(done)]
        # Stop and disable while the files that define a new unit are still there.
        ending = [a for a in undone if a.act == "stop" or a.switch == "disable"]
        problems = self.systemd.act(ending, [], carry_on=True)
        try:
            # Before the files: a kill in between must not leave a restored file that no record names.
            self.records.write_manifest(owned)
        except OSError as error:
            problems.append(f"{self.records.manifest} could not be restored: {error.strerror}")
        problems += swap.restore()
        try:
            if needs_daemon_reload(plan.paths) and (problem := self.systemd.call("daemon-reload")):
                problems.append(problem)
            for command in ran:
                run_program(command.argv, COMMAND_SECONDS)
            raising = [a for a in undone if a not in ending]
            names = sorted({a.name for a in undone})
            states = self.systemd.show(names)
            for name in names:
                if not states[name].running:
                    # It may be about to be started again, and that job would fail beneath ours.
                    self.systemd.call("stop", "--", name)
                # A unit that failed too often is refused a start, and one that is gone again must not stay failed.
                self.systemd.call("reset-failed", "--", name)
            problems += self.systemd.act(raising, [], carry_on=True)
            problems += [f"{name} is {state}" for name, state in self.systemd.wait(raising, self._listens()).items()]
        except (ConfigTreeError, OSError) as error:
            problems.append(str(error))
        return problems
