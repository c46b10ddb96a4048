# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""restic, with its exit codes turned into sentences. No secret is in an argument list."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .settings import CACHE, CONFIGURATION, TAG, BackupError, Settings

INCOMPLETE, NO_REPOSITORY, LOCKED, WRONG_PASSWORD = 3, 10, 11, 12
# What a service answers to this is final, yet restic would ask it again and again for a quarter of an hour.
_NO_BUCKET = "specified bucket does not exist"
_REFUSALS = (
    *("signature we calculated does not match", "Access Key Id you provided does not exist", "Access Denied"),
    "401 Unauthorized",
)
PASSWORD_FILE = f"{CONFIGURATION}/password"


class NoRepositoryError(BackupError):
    """There is nothing at the repository's place."""


@dataclass(frozen=True)
class Snapshot:
    """One backup of one host."""

    id: str
    time: datetime.datetime
    hostname: str

    @property
    def short(self) -> str:
        return self.id[:8]

    def __str__(self) -> str:
        return f"{self.short} of {self.time:%Y-%m-%d %H:%M:%S} UTC"


class Restic:
    """One repository."""

    def __init__(self, settings: Settings, password_file: str = PASSWORD_FILE) -> None:
        self.settings = settings
        self.environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": "/root",
            "RESTIC_REPOSITORY": settings.repository,
            "RESTIC_PASSWORD_FILE": password_file,
            "RESTIC_CACHE_DIR": CACHE,
            **settings.credentials,
        }

    def run(self, *arguments: str, allow: Sequence[int] = ()) -> subprocess.CompletedProcess[str]:
        """Run restic. Raises BackupError with what it said, unless it ends with 0 or a code in `allow`."""
        argv = ["restic", "--quiet", *self.settings.options, *arguments]
        errors: list[str] = []
        with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
            try:
                process = subprocess.Popen(
                    argv, env=self.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.PIPE,
                    text=True, errors="replace",
                )  # fmt: skip
            except FileNotFoundError:
                raise BackupError("restic is not installed: apply the role backup") from None
            with process:
                for line in process.stderr or ():
                    # what it says of being ended here is of no use to anybody
                    if not (errors and is_final(errors[-1])):
                        errors.append(line)
                    if is_final(line):
                        process.terminate()
            output.seek(0)
            done = subprocess.CompletedProcess(argv, process.returncode, output.read(), "".join(errors))
        if done.returncode and done.returncode not in allow:
            raise self.error(arguments[0], done)
        return done

    def error(self, command: str, done: subprocess.CompletedProcess[str]) -> BackupError:
        """The exception that fits how restic ended."""
        repository = self.settings.repository
        if any(answer in done.stderr for answer in _REFUSALS):
            kind = repository.partition(":")[0]
            return BackupError(
                f"the service at {repository} refuses the log-in: mail_backup.{kind} must be what it gave out "
                f"({said(done)})"
            )
        if done.returncode == NO_REPOSITORY or _NO_BUCKET in done.stderr:
            return NoRepositoryError(f"there is no repository at {repository}: {said(done)}")
        if done.returncode == WRONG_PASSWORD:
            return BackupError(
                f"the repository {repository} does not open with this password: mail_backup.password must be the one "
                "with which it was made, and the files in its directory keys/ must be there"
            )
        if done.returncode == LOCKED:
            return BackupError(f"the repository {repository} is locked by another host's run: {said(done)}")
        return BackupError(f"restic {command} ended with {done.returncode}: {said(done)}")

    def exists(self) -> str | None:
        """The repository's identifier; None when there is none."""
        try:
            done = self.run("cat", "config", "--no-lock")
        except NoRepositoryError:
            return None
        return str(json.loads(done.stdout)["id"])

    def snapshots(self) -> list[Snapshot]:
        """This host's snapshots, oldest first."""
        listing = self.run("snapshots", "--json", "--no-lock", "--host", self.settings.hostname, "--tag", TAG)
        return sorted(map(_snapshot, json.loads(listing.stdout) or []), key=lambda snapshot: snapshot.time)


def is_final(line: str) -> bool:
    """Whether restic says that it will ask again, and need not."""
    return "retrying after" in line and any(answer in line for answer in (_NO_BUCKET, *_REFUSALS))


def said(done: subprocess.CompletedProcess[str]) -> str:
    """The last lines that a program said, as one line; restic's JSON messages without their JSON."""
    lines = []
    for line in (done.stderr.strip() or done.stdout.strip() or "no message").splitlines():
        text = line.strip()
        if text.startswith("{"):
            try:
                message = json.loads(text)
                text = str(message.get("error", {}).get("message") or message.get("message") or "")
            except (ValueError, AttributeError):
                pass
        if text and text not in lines:
            lines.append(text)
    return "; ".join(lines[-3:])


def _snapshot(entry: Mapping[str, Any]) -> Snapshot:
    # nanoseconds are more than datetime reads
    text = str(entry["time"])
    head, dot, rest = text.partition(".")
    zone = rest.lstrip("0123456789") if dot else ""
    moment = datetime.datetime.fromisoformat((head + zone) if dot else text)
    return Snapshot(str(entry["id"]), moment.astimezone(datetime.UTC), str(entry["hostname"]))


def choose(snapshots: Sequence[Snapshot], wanted: str) -> Snapshot:
    """The newest snapshot (``latest``), the newest not after a date or time, or the one whose identifier begins so.

    `wanted`: ``2026-03-01`` means the end of that day, ``2026-03-01 14:30`` that minute's end, in UTC.
    Raises BackupError.
    """
    if not snapshots:
        raise BackupError(
            "the repository has no snapshot of this host: mail_hostname must be the backed up host's name"
        )
    if wanted == "latest":
        return snapshots[-1]
    for form, length in (("%Y-%m-%d", 86400), ("%Y-%m-%d %H:%M", 60)):
        try:
            start = datetime.datetime.strptime(wanted, form).replace(tzinfo=datetime.UTC)
        except ValueError:
            continue
        before = [s for s in snapshots if s.time < start + datetime.timedelta(seconds=length)]
        if not before:
            raise BackupError(f"no snapshot is as old as {wanted}: the oldest is {snapshots[0]}")
        return before[-1]
    found = [s for s in snapshots if len(wanted) >= 8 and s.id.startswith(wanted)]
    if len(found) != 1:
        known = ", ".join(map(str, snapshots[-5:]))
        raise BackupError(
            f"{wanted!r} is neither a date, such as 2026-03-01 or 2026-03-01 14:30, nor a snapshot: "
            f"the last are {known}"
        )
    return found[0]
