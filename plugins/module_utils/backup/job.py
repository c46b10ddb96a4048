# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two things the timers start: back up, and check the repository.

Order of a backup: databases, Redis and keys first, the mail store last. So whoever can log in by the copy has the mail
there was then or newer, and a password or a filter is never newer than the mail. The Postfix queue is not in it: what a
restored queue holds was delivered long ago, and would be delivered again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

from . import mailstore, services
from .restic import INCOMPLETE, Restic, said
from .settings import (
    CACHE,
    FORMAT,
    MAIL_STAGE,
    STAGE,
    STORE,
    TAG,
    TREES,
    BackupError,
    Settings,
    lock,
    now,
    read_state,
    write_state,
)

_WAIT_FOR_OTHERS = ("--retry-lock", "10m")


@contextlib.contextmanager
def recorded(kind: str) -> Iterator[dict[str, Any]]:
    """Note in the state how the run that follows ends. What it puts into the given mapping is noted too."""
    facts: dict[str, Any] = {"started": now()}
    try:
        yield facts
    except BaseException as error:
        text = str(error) if isinstance(error, BackupError) else f"{type(error).__name__}: {error}"
        _note(kind, {**facts, "ok": False, "message": text, "finished": now()})
        raise
    _note(kind, {**facts, "ok": True, "finished": now()})


def _note(kind: str, facts: dict[str, Any]) -> None:
    state = read_state()
    state[f"last_{kind}"] = facts
    if kind == "run" and facts["ok"]:
        state["last_good"] = facts
    if "repository" in facts:
        state["repository"] = facts["repository"]
    with contextlib.suppress(OSError):  # a full disk: what went wrong is on standard error, and the age tells the rest
        write_state(state)


def back_up(settings: Settings) -> dict[str, Any]:
    """Make a snapshot and forget those that are kept no longer. Raises BackupError; the next run then begins anew."""
    os.umask(0o077)
    with lock(), recorded("run") as facts:
        restic = Restic(settings)
        os.makedirs(CACHE, mode=0o700, exist_ok=True)
        facts["repository"] = open_repository(restic)
        # what a killed run left; restic itself knows that such a lock is nobody's
        restic.run("unlock")
        try:
            staged = _stage(settings)
            facts["messages"] = sum(staged.messages.values())
            facts["mailboxes"] = len(staged.messages)
            facts.update(_send(restic))
        finally:
            _clean()
        if any(settings.keep.values()):
            keep = [f"--keep-{name}={count}" for name, count in sorted(settings.keep.items()) if count]
            group = ("--group-by", "host", "--host", settings.hostname, "--tag", TAG)
            restic.run("forget", *_WAIT_FOR_OTHERS, *group, *keep, "--prune")
        if staged.restless:
            names = ", ".join(staged.restless[:5])
            raise BackupError(
                f"snapshot {facts['snapshot'][:8]} was made, but these mailboxes never held still: {names}"
            )
    return facts


def open_repository(restic: Restic) -> str:
    """The repository's identifier; it is made only where none was before."""
    found, known = restic.exists(), read_state().get("repository")
    if found is None and known is not None:
        raise BackupError(
            f"the repository that was at {restic.settings.repository} is gone: is its disk there? If it is to begin "
            "anew, remove /var/lib/mailwright/backup/state.json"
        )
    if found is None:
        restic.run("init")
        found = restic.exists() or ""
    return found


def _stage(settings: Settings) -> mailstore.Staged:
    _clean()
    os.mkdir(STAGE, 0o700)
    databases = services.dump_databases(f"{STAGE}/databases")
    services.dump_redis(f"{STAGE}/redis.rdb")
    owners: dict[str, str] = {}
    for tree in TREES:
        if os.path.isdir(tree):
            copy = f"{STAGE}/files{tree}"
            os.makedirs(os.path.dirname(copy), exist_ok=True)
            services.copy_tree(tree, copy)
            owners |= services.owners(tree, copy)
    staged = mailstore.stage(STORE, MAIL_STAGE)
    manifest = {
        "format": FORMAT,
        "hostname": settings.hostname,
        "made": now(),
        "databases": databases,
        "owners": owners,
        "messages": staged.messages,
    }
    with open(f"{STAGE}/manifest.json", "x", encoding="utf-8") as stream:
        json.dump(manifest, stream, indent=1, sort_keys=True)
    return staged


def _send(restic: Restic) -> dict[str, Any]:
    # linking changes a file's ctime and nothing else
    flags = ("--json", "--ignore-ctime", "--host", restic.settings.hostname, "--tag", TAG, "--group-by", "host")
    done = restic.run("backup", *_WAIT_FOR_OTHERS, *flags, STAGE, MAIL_STAGE, allow=[INCOMPLETE])
    if done.returncode == INCOMPLETE:
        raise BackupError(f"restic could not read everything: {said(done)}")
    for line in done.stdout.splitlines():
        summary = json.loads(line)
        if summary.get("message_type") == "summary":
            return {"snapshot": summary["snapshot_id"], "added_bytes": summary["data_added_packed"],
                    "total_bytes": summary["total_bytes_processed"]}  # fmt: skip
    raise BackupError(f"restic ended without a summary: {said(done)}")


def _clean() -> None:
    mailstore.remove(MAIL_STAGE)
    if os.path.lexists(STAGE):
        shutil.rmtree(STAGE)


def check(settings: Settings) -> dict[str, Any]:
    """Whether the repository is whole: its structure, and a sample of the data read back. Raises BackupError."""
    os.umask(0o077)
    with lock(), recorded("check") as facts:
        facts["percent"] = settings.check_percent
        arguments = (f"--read-data-subset={settings.check_percent}%",) if settings.check_percent else ()
        Restic(settings).run("check", *_WAIT_FOR_OTHERS, *arguments)
    return facts
