# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files on the host: reading them, swapping them all or none, and the records of what we wrote."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.mailwright.server.plugins.module_utils.config_tree.plan import (
    ABSENT,
    ConfigTreeError,
    File,
    Live,
)

TEMPORARY = ".mailwright-"
LOCK_WAIT = 120.0


def read_live(path: str) -> Live:
    """Return what lies at a path. Raises OSError when it cannot be read."""
    try:
        found = os.lstat(path)
        owner = (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode))
        if stat.S_ISREG(found.st_mode):
            with open(path, "rb") as stream:
                return Live("file", stream.read(), *owner)
        if stat.S_ISLNK(found.st_mode):
            return Live("symlink", os.fsencode(os.readlink(path)), *owner)
    except FileNotFoundError:
        return ABSENT
    except NotADirectoryError:
        return Live("blocked")
    return Live("directory" if stat.S_ISDIR(found.st_mode) else "other", b"", *owner)


def make_parents(path: str) -> list[str]:
    """Create the missing parent directories of a path, 0755 whatever the umask; return those made, outermost first."""
    missing = []
    parent = os.path.dirname(path)
    while not os.path.isdir(parent):
        missing.append(parent)
        parent = os.path.dirname(parent)
    made = missing[::-1]
    for directory in made:
        os.mkdir(directory, 0o755)
        os.chmod(directory, 0o755)  # noqa: S103 (what every directory of /etc has)
    return made


def write_temporary(directory: str, content: bytes, uid: int, gid: int, mode: int) -> str:
    """Write a file that nobody else can read until it has its owner and mode, on disk before this returns its path."""
    path = os.path.join(directory, TEMPORARY + secrets.token_hex(8))
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with open(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fchown(handle, uid, gid)
            os.fchmod(handle, mode)
            os.fsync(handle)
    except BaseException:
        os.unlink(path)
        raise
    return path


def sync_directory(path: str) -> None:
    """Make renames and removals in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: str, content: bytes, mode: int = 0o600) -> None:
    """Replace one file, durably, owned by whoever runs this."""
    directory = os.path.dirname(path)
    temporary = write_temporary(directory, content, os.geteuid(), os.getegid(), mode)
    os.rename(temporary, path)
    sync_directory(directory)


def sweep(directories: Iterable[str]) -> None:
    """Remove the temporaries that a killed run left behind. The caller holds the lock."""
    for directory in set(directories):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for name in os.listdir(directory):
                if name.startswith(TEMPORARY):
                    os.unlink(os.path.join(directory, name))


@dataclass
class Swap:
    """Replaces and removes files as one step that can be taken back.

    ``before`` holds every touched path as it was; all of it stays in memory until the run ends.
    """

    before: Mapping[str, Live]
    made: list[str] = field(default_factory=list)

    def apply(self, files: Sequence[File], removals: Sequence[str]) -> None:
        """Write all files, then rename them into place, then remove.

        Raises ConfigTreeError on failure; the caller then calls restore.
        """
        temporaries: dict[str, str] = {}
        path = ""
        try:
            for file in files:
                path = file.path
                if file.uid is None or file.gid is None:
                    raise ConfigTreeError(f"{path}: user {file.owner} or group {file.group} does not exist")
                self.made += make_parents(path)
                temporaries[path] = write_temporary(os.path.dirname(path), file.content, file.uid, file.gid, file.mode)
            for file in files:
                path = file.path
                os.rename(temporaries[path], path)
                del temporaries[path]
            for path in removals:
                os.unlink(path)
            self._sync([f.path for f in files] + list(removals))
        except BaseException as error:
            for temporary in temporaries.values():
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
            if isinstance(error, OSError):
                raise ConfigTreeError(f"cannot write {path}: {error.strerror}") from None
            raise

    def restore(self) -> list[str]:
        """Put every touched path back; go on after an error and return what could not be restored."""
        problems = []
        for path, old in self.before.items():
            try:
                if read_live(path) != old:
                    self._put_back(path, old)
            except OSError as error:
                problems.append(f"{path} could not be restored: {error.strerror}")
        for directory in reversed(self.made):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        self.made.clear()
        with contextlib.suppress(OSError):
            self._sync(list(self.before))
        return problems

    def _put_back(self, path: str, old: Live) -> None:
        if old.kind == "absent":
            # What is no file now was never written here.
            if read_live(path).kind in ("file", "symlink"):
                os.unlink(path)
        elif old.kind == "symlink":
            temporary = os.path.join(os.path.dirname(path), TEMPORARY + secrets.token_hex(8))
            os.symlink(os.fsdecode(old.content), temporary)
            os.lchown(temporary, old.uid, old.gid)
            os.rename(temporary, path)
        elif old.kind == "file":
            os.rename(write_temporary(os.path.dirname(path), old.content, old.uid, old.gid, old.mode), path)

    def _sync(self, paths: Sequence[str]) -> None:
        for directory in {os.path.dirname(p) for p in paths} | {os.path.dirname(d) for d in self.made}:
            if os.path.isdir(directory):
                sync_directory(directory)


class Records:
    """What we wrote (the manifest) and what an unfinished run was about to write (the pending marker).

    The directory is closed to others because the SHA-256 of a short secret gives the secret away.
    """

    def __init__(self, directory: str, name: str) -> None:
        self.directory = directory
        self.manifest = os.path.join(directory, f"{name}.json")
        self.pending = os.path.join(directory, f"{name}.pending")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Let one run at a time work on this host. Raises ConfigTreeError when another does not end."""
        if not os.path.isdir(self.directory):
            make_parents(os.path.join(self.directory, "x"))
            os.chmod(self.directory, 0o700)
        handle = os.open(os.path.join(self.directory, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + LOCK_WAIT
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        held = f"another configuration run has held {self.directory}/.lock for {LOCK_WAIT:.0f} s"
                        raise ConfigTreeError(held) from None
                    time.sleep(0.1)
            yield
        finally:
            os.close(handle)

    def read_manifest(self) -> dict[str, str]:
        """Return path -> SHA-256 of what we wrote."""
        return {path: str(value) for path, value in self._read(self.manifest).items()}

    def read_pending(self) -> dict[str, str | None]:
        """Return path -> SHA-256 (None: removed) of what an interrupted run announced."""
        return self._read(self.pending)

    def write_manifest(self, entries: Mapping[str, str]) -> None:
        """Replace the manifest."""
        self._write(self.manifest, entries)

    def write_pending(self, entries: Mapping[str, str | None]) -> None:
        """Announce paths before the first of them is touched; nothing announced means no marker."""
        if entries:
            self._write(self.pending, entries)
        elif os.path.lexists(self.pending):
            os.unlink(self.pending)
            sync_directory(self.directory)

    def _write(self, path: str, entries: Mapping[str, str | None]) -> None:
        write_atomically(path, (json.dumps(dict(sorted(entries.items())), indent=1) + "\n").encode())

    def _read(self, path: str) -> dict[str, str | None]:
        try:
            with open(path, "rb") as stream:
                entries = json.loads(stream.read())
        except FileNotFoundError:
            return {}
        except ValueError:
            entries = None
        if not isinstance(entries, dict):
            raise ConfigTreeError(f"{path} is damaged; compare the files it should name, then move it away")
        return entries
