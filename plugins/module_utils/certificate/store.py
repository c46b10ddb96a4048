# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificate pairs on disk: every pair in a directory of its own, one symbolic link that says which is live.

    <base>/<hostname>/<first 16 hex digits of SHA-256>/fullchain.pem, privkey.pem
    <base>/<hostname>/live -> <that directory>
    <base>/<hostname>/next -> another one, which waits until its key's TLSA record is known everywhere

The switch is one rename, so the link always leads to a whole and matching pair; services are reloaded after it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator

from ansible_collections.mailwright.server.plugins.module_utils.secrets.files import (
    Access,
    access_of,
    make_directory,
    own_access,
    set_access,
    sync_directory,
    write_atomic,
)

CHAIN, KEY, LIVE, NEXT = "fullchain.pem", "privkey.pem", "live", "next"
DIRECTORY_MODE, CHAIN_MODE, KEY_MODE = 0o750, 0o644, 0o640


class CertificateStore:
    """The pairs of one host name."""

    def __init__(self, base: str, hostname: str) -> None:
        self.base = base
        self.directory = os.path.join(base, hostname)
        self.live = os.path.join(self.directory, LIVE)
        self.next = os.path.join(self.directory, NEXT)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Wait until no other run changes these pairs: an apply and certbot's timer may meet."""
        self._make_directories()
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def read(self) -> tuple[bytes, bytes] | None:
        """Read the live pair as (chain, key) in PEM; None when there is none."""
        return _read(self.live)

    def read_next(self) -> tuple[bytes, bytes] | None:
        """Read the pair that waits, likewise."""
        return _read(self.next)

    def drifted(self) -> dict[str, tuple[Access, Access]]:
        """Existing paths whose access is wrong: (found, wanted). Raises ValueError for a link or a special file."""
        real = os.path.realpath(self.live)
        wanted = {
            self.directory: own_access(DIRECTORY_MODE),
            real: own_access(DIRECTORY_MODE),
            os.path.join(real, CHAIN): own_access(CHAIN_MODE),
            os.path.join(real, KEY): own_access(KEY_MODE),
        }
        found = {path: (access_of(path), access) for path, access in wanted.items()}
        return {path: (now, access) for path, (now, access) in found.items() if now is not None and now != access}

    def correct(self) -> None:
        """Give every existing path its right access."""
        for path, (_found, access) in self.drifted().items():
            set_access(path, access)

    def write(self, chain: bytes, key: bytes) -> None:
        """Write a pair and make it live by one rename. The pair that was live is kept for readers; older ones go."""
        previous = self._target(self.live)
        self._place(chain, key, self.live)
        kept = {self._target(self.live), self._target(self.next), previous}
        with os.scandir(self.directory) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False) and entry.name not in kept:
                    shutil.rmtree(entry.path)

    def stage(self, chain: bytes, key: bytes) -> None:
        """Write a pair that is to wait, in place of the one that waits."""
        waiting = self._target(self.next)
        self._place(chain, key, self.next)
        self._remove(waiting)

    def discard_next(self) -> None:
        """Remove the pair that waits, if there is one."""
        waiting = self._target(self.next)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.next)
        self._remove(waiting)

    def _target(self, link: str) -> str | None:
        return os.path.basename(os.path.realpath(link)) if os.path.islink(link) else None

    def _remove(self, name: str | None) -> None:
        if name is not None and name != self._target(self.live):
            shutil.rmtree(os.path.join(self.directory, name), ignore_errors=True)

    def _make_directories(self) -> None:
        if not os.path.isdir(self.base):
            make_directory(self.base, own_access(0o755))
        if not os.path.isdir(self.directory):
            make_directory(self.directory, own_access(DIRECTORY_MODE))

    def _place(self, chain: bytes, key: bytes, link: str) -> None:
        self._make_directories()
        set_access(self.directory, own_access(DIRECTORY_MODE))
        staged = tempfile.mkdtemp(prefix=".", suffix=".new", dir=self.directory)
        write_atomic(os.path.join(staged, KEY), key, own_access(KEY_MODE))
        write_atomic(os.path.join(staged, CHAIN), chain, own_access(CHAIN_MODE))
        set_access(staged, own_access(DIRECTORY_MODE))
        name = self._free_name(hashlib.sha256(chain).hexdigest()[:16])
        os.rename(staged, os.path.join(self.directory, name))
        following = f"{link}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(following)
        os.symlink(name, following)
        sync_directory(self.directory)
        os.rename(following, link)
        sync_directory(self.directory)

    def _free_name(self, digest: str) -> str:
        # A taken name is an older pair of the same chain, perhaps damaged and perhaps live: it is never written to.
        name, number = digest, 1
        while os.path.lexists(os.path.join(self.directory, name)):
            number += 1
            name = f"{digest}-{number}"
        return name


def _read(link: str) -> tuple[bytes, bytes] | None:
    try:
        with open(os.path.join(link, CHAIN), "rb") as chain, open(os.path.join(link, KEY), "rb") as key:
            return chain.read(), key.read()
    except FileNotFoundError:
        return None
