# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a transaction to its end: what machine.py decides, done on the host and noted in the journal.

Going forward may use what the host has; going back needs Python's standard library, dpkg and systemctl alone.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.config_tree.store import Records
from ansible_collections.mailwright.server.plugins.module_utils.directory import schema, store, webmail
from ansible_collections.mailwright.server.plugins.module_utils.packages import policy
from ansible_collections.mailwright.server.plugins.module_utils.packages.store import STORE, Package, keep, prune
from ansible_collections.mailwright.server.plugins.module_utils.probes.runner import reason
from ansible_collections.mailwright.server.plugins.module_utils.txn import dpkg, health, machine, services, snapshot
from ansible_collections.mailwright.server.plugins.module_utils.txn.journal import (
    COMMITTED,
    EXIT_CODES,
    INCONSISTENT,
    ROLLED_BACK,
    DamagedError,
    History,
)
from ansible_collections.mailwright.server.plugins.module_utils.txn.snapshot import Snapshot
from ansible_collections.mailwright.server.plugins.module_utils.txn.storage import (
    BALLAST_BYTES,
    Transaction,
    TransactionError,
    locked,
)

LOCK_SECONDS = 60.0
# How many times larger a package becomes.
UNPACKED = 5
SOCKET = "/var/run/postgresql"


class Engine:
    """One transaction at work."""

    def __init__(self, transaction: Transaction, *, at_boot: bool) -> None:
        self.transaction = transaction
        self.request = transaction.request
        self.at_boot = at_boot
        self.steps: dict[str, Callable[[History], Any]] = {
            "probe": self.probe,
            "snapshot": self.snapshot,
            "migrate": self.migrate,
            "resolve": self.resolve,
            "download": self.download,
            "install": self.install,
            "restore": self.restore,
            "apply": self.apply,
            "activate": self.activate,
            "check": self.check,
            "confirm": self.confirm,
            "undo-packages": self.undo_packages,
            "undo-files": self.undo_files,
            "undo-activate": self.undo_activate,
            "undo-verify": self.undo_verify,
        }

    def run(self) -> str:
        """Until the transaction is closed; gives its ending."""
        self.transaction.append({"record": "start", "pid": os.getpid(), "recover": self.at_boot})
        signal.signal(signal.SIGTERM, _stopped)
        if machine.turned(self.transaction.history()):
            services.reopen()
            policy.release()
        while True:
            history = self.transaction.history()
            action = machine.decide(history)
            if action.what == "close":
                self.close(history)
                return action.ending
            if action.what == "end":
                self.transaction.append(
                    {"record": "ending", "ending": action.ending, **self.report(history, action.ending)}
                )
                continue
            self.step(action, history)

    def step(self, action: machine.Action, history: History) -> None:
        """One step, each of its records on disk before what follows it."""
        undo = action.what == "undo"
        if undo:
            # the way back is walked to its end
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self.transaction.drop_ballast()
        self.transaction.append({"record": "intent", "step": action.step, "undo": undo})
        try:
            data = self.steps[action.step](history)
            self.transaction.append({"record": "effect", "step": action.step, "data": data})
        except Exception as error:
            cause = str(error) if isinstance(error, (TransactionError, store.StoreError)) else reason(error)
            if undo and services.going_down():
                # no failure of the way back: who comes after this engine, at the latest at boot, goes on with it
                raise TransactionError(f"systemd is going down: {cause}") from error
            # the disk may be full, and what is said now must fit
            self.transaction.drop_ballast()
            self.transaction.append({"record": "failed", "step": action.step, "undo": undo, "cause": cause})
            return
        self.transaction.append({"record": "done", "step": action.step})

    # --- forward ----------------------------------------------------------------------------------------------------

    def probe(self, _history: History) -> Any:
        """How the host does before anything changes: what is broken already is not held against the change."""
        findings: health.Findings = {}
        if self.request.get("gate", True):
            findings, _bad = health.compare(self.request, {}, self.request["health_seconds"])
        return {"findings": findings, "units": services.states()}

    def snapshot(self, history: History) -> Any:
        """Take the snapshot; when an older one is to be restored, see that it is whole."""
        if self.request["kind"] == "restore":
            target = snapshot.find(self.request["snapshot"])
            if damaged := target.damaged():
                raise TransactionError(f"snapshot {target.id} is damaged: {', '.join(damaged[:5])}")
            behind, _extra = target.other_packages()
            if missing := target.add_debs(behind):
                raise TransactionError(f"snapshot {target.id} lacks .debs: {', '.join(p.file for p in missing)}")
        engine = (self.transaction.directory / "engine.pyz").read_bytes()
        units = history.effects["probe"]["units"]
        kind = self.request["kind"]
        whole = kind == "update" or (kind == "restore" and target.whole)
        taken = snapshot.create(self.transaction.id, f"before {kind}", engine, units, whole=whole)
        if taken.whole and kind == "restore" and (missing := taken.add_debs(self._now_other(target))):
            raise TransactionError(f"no .deb of what is installed: {', '.join(p.file for p in missing)}")
        return {"files": len(taken.entries), "packages": len(taken.packages)}

    def _now_other(self, target: Snapshot) -> list[Package]:
        """The installed packages that the target has not, or not in this version."""
        wanted = set(target.packages)
        return [package for package in dpkg.installed() if package not in wanted]

    def migrate(self, _history: History) -> Any:
        """Bring the directory's schema to what this collection knows. It only ever adds, and is not taken back."""
        with store.connect(SOCKET, "mailwright", "mailwright") as connection:
            return {"done": [migration.title for migration in store.migrate(connection, schema.MIGRATIONS)]}

    def resolve(self, _history: History) -> Any:
        """What apt would do. Raises TransactionError when there is no way back from it, or no space."""
        plan = dpkg.resolve(self.request["packages"])
        if removed := [name for name, _old, new in plan if not new]:
            raise TransactionError(f"apt would remove {', '.join(removed)}: decide that yourself")
        size = dpkg.download_bytes(self.request["packages"])
        # dpkg unpacks new files beside the old ones, and so it does on the way back, for which space is set aside
        unpacked = UNPACKED * size
        snapshot.need(self.transaction.directory, size + unpacked, "the download, and the way back,")
        self.transaction.grow_ballast(max(BALLAST_BYTES, unpacked))
        snapshot.need(Path("/usr"), unpacked, "unpacking the update")
        return {"packages": [list(item) for item in plan], "bytes": size}

    def download(self, history: History) -> Any:
        """Fetch and check everything, the old versions first: nothing is touched before the way back is sure."""
        plan = history.effects["resolve"]["packages"]
        names = {name.partition(":")[0] for name, old, _new in plan if old}
        taken = self.taken()
        old = [package for package in taken.packages if package.name in names]
        directory = self.transaction.directory.parent.parent / "download"
        _empty(directory)
        missing = dpkg.fetch_missing(old, directory)
        if missing:
            files = ", ".join(f"{p.name} {p.version}" for p in missing)
            raise TransactionError(
                f"no .deb of the installed versions, so there would be no way back: {files}. Put them into {STORE}, "
                "or update these packages by apt first"
            )
        taken.add_debs(old, directory)
        for package in old:
            dpkg.read_deb(taken.directory / "packages" / package.file)
        dpkg.download([(name, new) for name, _old, new in plan], directory)
        got = {dpkg.read_deb(path) for path in directory.glob("*.deb")}
        lost = {(name.partition(":")[0], new) for name, _old, new in plan} - {(p.name, p.version) for p in got}
        if lost:
            raise TransactionError(f"not downloaded: {', '.join(' '.join(item) for item in sorted(lost))}")
        return {"files": len(got)}

    def install(self, history: History) -> Any:
        """Let apt install; the services go on with what they run."""
        plan = history.effects["resolve"]["packages"]
        if plan:
            dpkg.install(self.request["packages"], self.transaction.directory.parent.parent / "download")
        now = {package.name: package for package in dpkg.installed()}
        for name, _old, new in plan:
            found = now.get(name.partition(":")[0])
            if found is None or (found.version, found.state) != (new, "installed"):
                raise TransactionError(f"{name} is {found.version if found else 'not there'}, not {new} as planned")
        return {"packages": sorted(name.partition(":")[0] for name, _old, _new in plan), "files": []}

    def restore(self, _history: History) -> Any:
        """Bring packages and files to an older snapshot."""
        target = snapshot.find(self.request["snapshot"])
        touched = target.restore_packages()
        return {"packages": touched, "files": target.restore_files(set(touched))}

    def apply(self, _history: History) -> Any:
        """Let the playbook change what it will, until it says that it is done. Raises TransactionError."""
        heard = guarded = time.monotonic()
        last = self.transaction.last_sign
        seconds, silence = self.request["confirm_seconds"], self.request["silence_seconds"]
        while not self.transaction.confirmed:
            time.sleep(0.1)
            now = time.monotonic()
            if (cause := self.transaction.abandoned) is not None:
                raise TransactionError(cause)
            if not self.transaction.guarded:
                guarded = now
            if now - guarded > seconds:
                raise TransactionError(f"nobody reached the host over a new connection within {seconds:.0f} s")
            if (sign := self.transaction.last_sign) != last:
                heard, last = now, sign
            if now - heard > silence and not self.transaction.guarded:
                raise TransactionError(f"nothing was heard of the apply for {silence:.0f} s")
        return {"packages": [], "files": []}

    def activate(self, history: History) -> Any:
        """Restart what runs something old, and bring Roundcube's schema to its program."""
        changed = history.effects.get("install") or history.effects["restore"]
        closed = self.restart(changed["packages"], changed["files"], [])
        if self.request["features"].get("webmail"):
            self._update_webmail()
        return closed

    def restart(self, packages: list[str], files: list[str], down: list[str]) -> Any:
        units = services.concerned(packages, files, _manifests())
        units += [unit for unit in down if unit not in units]
        return {"units": units, "closed_seconds": round(services.restart(units), 2)}

    def _update_webmail(self) -> None:
        sql = Path("/usr/share/roundcube/SQL")
        with webmail.connect(SOCKET, "roundcube") as connection:
            while todo := webmail.steps(webmail.version(connection), webmail.available(sql) or []):
                webmail.run(connection, sql, todo[0])

    def check(self, history: History) -> Any:
        """The same probe as before the change. Raises TransactionError for what got worse."""
        if not self.request.get("gate", True):
            return {"findings": {}}
        before = history.effects["probe"]
        request = {**self.request, "units": self._meant_to_run(before["units"])}
        now, bad = health.compare(request, before["findings"], self.request["health_seconds"])
        if bad:
            raise TransactionError("; ".join(f"{name}: {text}" for name, text in bad.items()))
        return {"findings": now}

    def _meant_to_run(self, before: dict[str, str]) -> dict[str, str]:
        """The units that ran before, but for those that an apply switched off."""
        if self.request["kind"] != "apply":
            return before
        return {unit: state for unit, state in before.items() if services.switched_on(unit)}

    def confirm(self, _history: History) -> Any:
        """Wait for somebody who has reached the host anew; nobody comes when the change has cut the host off."""
        seconds = self.request["confirm_seconds"]
        end = time.monotonic() + seconds
        while not self.transaction.confirmed:
            if time.monotonic() > end:
                raise TransactionError(f"nobody confirmed over a new connection within {seconds:.0f} s")
            time.sleep(0.1)
        return {}

    # --- back -------------------------------------------------------------------------------------------------------

    def taken(self) -> Snapshot:
        """This transaction's own snapshot."""
        return snapshot.find(self.transaction.id)

    def undo_packages(self, _history: History) -> Any:
        taken = self.taken()
        # noted before any of them goes back: who is interrupted there would not see later what was changed
        files = taken.changed_files(None)
        return {"packages": taken.restore_packages(), "files": files}

    def undo_files(self, _history: History) -> Any:
        # a controller that died may have left a task at work
        with Records(str(snapshot.RECORDS), "").locked():
            return {"files": self.taken().restore_files(None)}

    def undo_activate(self, history: History) -> Any:
        """Restart what ran the new version. At boot hardly anything runs yet: systemd starts it afterwards."""
        files = sorted({*history.effects["undo-packages"]["files"], *history.effects["undo-files"]["files"]})
        if self.at_boot:
            # but for what is up before anything else, such as the firewall
            running = [unit for unit, state in services.states().items() if state == "active"]
            early = [unit for unit in services.concerned([], files, _manifests()) if unit in running]
            return {"units": early, "closed_seconds": round(services.restart(early), 2)}
        packages = {
            name for step in ("install", "restore") for name in (history.effects.get(step) or {}).get("packages", [])
        }
        packages |= set(history.effects["undo-packages"]["packages"])
        before = history.effects["probe"]["units"]
        if self.request["kind"] == "apply":
            services.stop_others(before)
        return self.restart(sorted(packages), files, services.down(before))

    def undo_verify(self, history: History) -> Any:
        """See that versions and files are those of the snapshot, and services run. Raises TransactionError.

        What else the probe finds is told, but does not make the host inconsistent: the cause lies outside.
        """
        taken = self.taken()
        behind, extra = taken.other_packages()
        files = taken.changed_files(None)
        if behind or extra or files:
            names = [p.name for p in [*behind, *extra]]
            raise TransactionError(f"not as before: {', '.join([*names, *files])}")
        if self.at_boot:
            return {"findings": {}}
        before = history.effects["probe"]
        if not self.request.get("gate", True):
            down = services.down(before["units"])
            if down:
                raise TransactionError(f"not running: {', '.join(down)}")
            return {"findings": {}}
        request = {**self.request, "units": before["units"]}
        now, bad = health.compare(request, before["findings"], self.request["health_seconds"])
        if bad.get("units"):
            raise TransactionError(f"not running: {bad['units']}")
        return {"findings": now, "worse": bad}

    # --- the end ----------------------------------------------------------------------------------------------------

    def report(self, history: History, ending: str) -> dict[str, Any]:
        """What the ending's record says beside the ending."""
        if ending == COMMITTED:
            return {"closed_seconds": history.effects.get("activate", {}).get("closed_seconds", 0.0)}
        phase, cause = machine.cause_of(history)
        found: dict[str, Any] = {"phase": phase, "cause": cause}
        if ending == INCONSISTENT:
            found["undo_cause"] = history.undo_cause or f"interrupted {history.starts_in_undo} times while going back"
            found["advice"] = advice(self.transaction.id)
        else:
            found["worse"] = (history.effects.get("undo-verify") or {}).get("worse", {})
        return found

    def close(self, history: History) -> None:
        """Tidy up and let go. Done again from the start when it is interrupted."""
        self.transaction.drop_ballast()
        services.reopen()
        policy.release()
        download = self.transaction.directory.parent.parent / "download"
        # what is installed now came from here, and the next way back needs it
        for source in (download, snapshot.ROOT / self.request.get("snapshot", self.transaction.id) / "packages"):
            keep(dpkg.installed(), source)
        _empty(download, make=False)
        if (snapshot.ROOT / self.transaction.id / "manifest.json").exists():
            self.taken().settle(history.ending)
            plan = (history.effects.get("resolve") or {"packages": True})["packages"]
            if history.ending == COMMITTED and not plan:
                # nothing was updated: three of these would push out those that lead somewhere
                snapshot.remove(self.transaction.id)
        tidy()
        self.transaction.close()


def _stopped(_number: int, _frame: FrameType | None) -> None:
    raise TransactionError("the engine was told to stop")


def _manifests() -> dict[str, list[str]]:
    return {path.stem: list(json.loads(path.read_bytes())) for path in snapshot.RECORDS.glob("*.json")}


def _empty(directory: Path, *, make: bool = True) -> None:
    """Make a directory empty, or remove it."""
    shutil.rmtree(directory, ignore_errors=True)
    if make:
        directory.mkdir(mode=0o700, parents=True)


def tidy() -> list[str]:
    """Remove the snapshots and .debs that nobody needs any more; returns the snapshots' names."""
    snapshot.sweep()
    gone = snapshot.unneeded()
    for name in gone:
        snapshot.remove(name)
    prune(dpkg.installed())
    return gone


def advice(identifier: str) -> str:
    """What to do with an inconsistent host."""
    return (
        f"run: python3 -I {snapshot.ROOT / identifier / 'restore.pyz'}   (as root; needs neither Ansible nor network; "
        "it says what it cannot do, and may be run again)"
    )


def settle(*, at_boot: bool) -> int:
    """Run the open transaction to its end; gives the exit code. Without an open one there is nothing to do."""
    with locked(seconds=LOCK_SECONDS):
        transaction = Transaction.opened()
        if transaction is None:
            return 0
        try:
            transaction.records()
        except DamagedError as error:
            # nothing that follows from a journal with a hole is sure
            os.rename(transaction.directory / "journal", transaction.directory / "journal.damaged")
            transaction.append({"record": "begin", "kind": transaction.request["kind"], "id": transaction.id})
            cause = {"cause": str(error), "phase": "", "undo_cause": str(error), "advice": advice(transaction.id)}
            transaction.append({"record": "ending", "ending": INCONSISTENT, **cause})
        return EXIT_CODES[Engine(transaction, at_boot=at_boot).run()]


def restore_by_hand(directory: Path, say: Callable[[str], None]) -> int:
    """Bring the host to a snapshot without a transaction: what is left when a transaction could not undo itself."""
    with locked(seconds=LOCK_SECONDS):
        taken = snapshot.Snapshot(directory)
        if damaged := taken.damaged():
            say(f"warning: damaged in this snapshot: {', '.join(damaged)}")
        services.reopen()
        policy.release()
        touched = taken.restore_packages()
        say(f"packages put back: {', '.join(touched) or 'none, all are as they were'}")
        files = taken.restore_files(None)
        say(f"files put back: {', '.join(files) or 'none, all are as they were'}")
        units = services.concerned(touched, files, _manifests())
        failed = services.down(taken.manifest["units"])
        units += [unit for unit in failed if unit not in units]
        services.restart(units)
        say(f"restarted: {', '.join(units) or 'nothing'}")
        left, extra = taken.other_packages()
        wrong = [p.name for p in [*left, *extra]] + taken.changed_files(None) + services.down(taken.manifest["units"])
        if wrong:
            raise TransactionError(f"still not as it was: {', '.join(wrong)}")
        taken.settle(ROLLED_BACK)
        transaction = Transaction.opened()
        if transaction is not None and transaction.id == taken.id:
            transaction.append({"record": "ending", "ending": ROLLED_BACK, "phase": "", "cause": "restored by hand"})
            transaction.close()
    say(f"the host is as it was when snapshot {taken.id} was taken")
    return 0
