# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A transaction on disk: its directory, its journal, the lock, and which one is open.

/var/lib/mailwright/txn/lock
/var/lib/mailwright/txn/open -> ID        while ID is not settled
/var/lib/mailwright/txn/ID/journal        and request.json, engine.pyz, confirmed, ballast
    .../ID/alive, guard, abandoned         of an apply: a sign of life, a change that may cut the host off, its failure
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.config_tree.store import (
    sync_directory,
    write_atomically,
)
from ansible_collections.mailwright.server.plugins.module_utils.txn.journal import (
    DamagedError,
    History,
    Record,
    decode,
    encode,
    replay,
)

ROOT = Path("/var/lib/mailwright/txn")
# Freed when a transaction goes back, so that a full disk does not keep it from doing so.
BALLAST_BYTES = 32 * 2**20
KEPT = 20


class TransactionError(Exception):
    """The transaction cannot go on, in one line."""


def boot_id() -> str:
    """Another one after every boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


class Transaction:
    """One transaction's directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.id = directory.name

    @classmethod
    def opened(cls, root: Path = ROOT) -> Transaction | None:
        """The transaction that is not settled, if there is one."""
        link = root / "open"
        return cls(link.resolve()) if link.is_dir() else None

    @classmethod
    def create(cls, identifier: str, request: Mapping[str, Any], engine: bytes, root: Path = ROOT) -> Transaction:
        """Make the directory whole, then open it by one rename. Raises TransactionError while another one is open."""
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if cls.opened(root) is not None:
            raise TransactionError(f"transaction {os.readlink(root / 'open')} is open; it settles by itself")
        self = cls(root / identifier)
        self.directory.mkdir(mode=0o700)
        write_atomically(str(self.directory / "request.json"), json.dumps(dict(request), indent=1).encode())
        write_atomically(str(self.directory / "engine.pyz"), engine)
        self.grow_ballast(BALLAST_BYTES)
        self.append({"record": "begin", "kind": request["kind"], "id": identifier})
        sync_directory(str(root))
        staged = root / f".open-{identifier}"
        staged.symlink_to(identifier)
        staged.rename(root / "open")
        sync_directory(str(root))
        return self

    @property
    def request(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.directory / "request.json").read_bytes())
        return found

    def records(self) -> list[Record]:
        """Raises DamagedError."""
        with contextlib.suppress(FileNotFoundError):
            return decode((self.directory / "journal").read_bytes())[0]
        return []

    def history(self) -> History:
        return replay(self.records())

    def append(self, record: Record) -> None:
        """Write one record, on disk before this returns. A disk that is full gets the space that was set aside."""
        try:
            self._append(record)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            self.drop_ballast()
            self._append(record)

    def _append(self, record: Record) -> None:
        # a torn line at the end goes first
        path = self.directory / "journal"
        fresh = not path.exists()
        stamped = {"at": round(time.time(), 3), "boot": boot_id(), **record}
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with open(handle, "r+b") as stream:
            _records, good = decode(stream.read())
            stream.truncate(good)
            stream.seek(good)
            stream.write(encode(stamped))
            stream.flush()
            os.fsync(handle)
        if fresh:
            sync_directory(str(self.directory))

    def grow_ballast(self, size: int) -> None:
        """Set space aside. Raises OSError when it is not there."""
        with open(self.directory / "ballast", "ab") as stream:
            os.posix_fallocate(stream.fileno(), 0, size)

    def drop_ballast(self) -> None:
        (self.directory / "ballast").unlink(missing_ok=True)

    def confirm(self) -> None:
        """Say that the host can be reached; the engine looks for it."""
        write_atomically(str(self.directory / "confirmed"), b"")

    @property
    def confirmed(self) -> bool:
        return (self.directory / "confirmed").exists()

    def sign_of_life(self) -> None:
        """Say that the apply goes on; config_tree does so with each of its tasks."""
        (self.directory / "alive").touch()

    @property
    def last_sign(self) -> int:
        """Another number after every sign of life."""
        return (self.directory / "alive").stat().st_mtime_ns

    def guard(self) -> None:
        """Say that what follows may cut the host off."""
        write_atomically(str(self.directory / "guard"), b"")

    def reached(self) -> None:
        """Say that it did not."""
        (self.directory / "guard").unlink(missing_ok=True)

    @property
    def guarded(self) -> bool:
        return (self.directory / "guard").exists()

    def abandon(self, cause: str) -> None:
        """Say that the apply has failed."""
        write_atomically(str(self.directory / "abandoned"), cause.encode())

    @property
    def abandoned(self) -> str | None:
        """Why, None when it was not."""
        with contextlib.suppress(FileNotFoundError):
            return (self.directory / "abandoned").read_text(encoding="utf-8")
        return None

    def close(self) -> None:
        """Let go: nothing is open any more; old transactions' directories go."""
        self.drop_ballast()
        root = self.directory.parent
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(root / "open") == self.id:
                (root / "open").unlink()
                sync_directory(str(root))
        old = sorted(
            path for path in root.iterdir() if path.is_dir() and not path.is_symlink() and path != self.directory
        )
        for path in old[: -KEPT + 1]:
            for entry in path.iterdir():
                entry.unlink()
            path.rmdir()


@contextlib.contextmanager
def locked(root: Path = ROOT, seconds: float = 0.0) -> Iterator[None]:
    """Let one engine at a time work. Raises TransactionError when another one does not end."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + seconds
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TransactionError(f"another engine holds {root}/lock") from None
                time.sleep(0.1)
        yield
    finally:
        os.close(handle)


__all__ = ["DamagedError", "Transaction", "TransactionError", "boot_id", "locked"]
