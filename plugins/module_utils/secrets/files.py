# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that hold secrets: private from the first byte, whole or absent after a crash."""

from __future__ import annotations

import contextlib
import functools
import grp
import os
import pwd
import stat
import tempfile
from dataclasses import dataclass


@dataclass(frozen=True)
class Access:
    """Who may reach a path. Owner and group are names, so that a plan can name a group which does not exist yet."""

    owner: str
    group: str
    mode: int

    def __str__(self) -> str:
        return f"{self.owner}:{self.group} {self.mode:04o}"


@functools.cache
def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@functools.cache
def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


@functools.cache
def _ids(owner: str, group: str) -> tuple[int, int]:
    return pwd.getpwnam(owner).pw_uid, grp.getgrnam(group).gr_gid


def unknown_names(access: Access) -> list[str]:
    """Say which of the owner and the group this host does not have, as "user x" and "group y"."""
    missing = []
    try:
        pwd.getpwnam(access.owner)
    except KeyError:
        missing.append(f"user {access.owner}")
    try:
        grp.getgrnam(access.group)
    except KeyError:
        missing.append(f"group {access.group}")
    return missing


def own_access(mode: int) -> Access:
    """Access for the user who runs this (root on a host) with `mode`."""
    return Access(_user_name(os.geteuid()), _group_name(os.getegid()), mode)


def access_of(path: str) -> Access | None:
    """Read the access of a regular file or a directory; None when there is nothing.

    Raises ValueError for a symbolic link or a special file: a secret is never written through one.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise ValueError(f"{path} is neither a regular file nor a directory; move it away")
    return Access(_user_name(status.st_uid), _group_name(status.st_gid), stat.S_IMODE(status.st_mode))


def set_access(path: str, access: Access) -> None:
    """Give an existing path its owner, group and mode. Raises KeyError for an unknown name, OSError otherwise."""
    uid, gid = _ids(access.owner, access.group)
    # The mode comes last: chown clears set-id bits, and a narrower owner first never widens access.
    os.chown(path, uid, gid, follow_symlinks=False)
    os.chmod(path, access.mode)


def sync_directory(path: str) -> None:
    """Make renames inside a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: str, access: Access) -> None:
    """Create a directory, with any missing parents (0755), and give it `access`."""
    parent = os.path.dirname(path)
    os.makedirs(parent, mode=0o755, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    set_access(path, access)
    sync_directory(parent)


def write_atomic(path: str, content: bytes, access: Access) -> None:
    """Write a file by temporary file, fsync and rename; it never exists with wider access than `access`.

    Raises KeyError for an unknown owner or group, OSError otherwise; the old file then stays as it was.
    """
    directory = os.path.dirname(path)
    descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=".new", dir=directory)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            set_access(temporary, access)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_directory(directory)
