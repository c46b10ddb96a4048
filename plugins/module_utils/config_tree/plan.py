# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a configuration tree changes: wanted files against live files, without touching either."""

from __future__ import annotations

import fnmatch
import hashlib
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass


class ConfigTreeError(Exception):
    """A run that cannot go on. The text is for people and never holds file contents."""


@dataclass(frozen=True)
class File:
    """A file as it shall be. ``uid`` and ``gid`` are None while the host has no such user or group."""

    path: str
    content: bytes
    owner: str = "root"
    group: str = "root"
    mode: int = 0o644
    sensitive: bool = False
    uid: int | None = 0
    gid: int | None = 0


@dataclass(frozen=True)
class Live:
    """A path as it is. ``kind``: absent, file, symlink, directory, other, or blocked (a parent is no directory).

    ``content`` holds a regular file's bytes or a symbolic link's target.
    """

    kind: str = "absent"
    content: bytes = b""
    uid: int = 0
    gid: int = 0
    mode: int = 0


ABSENT = Live()


@dataclass(frozen=True)
class Plan:
    """Sorted paths to create, to change and to remove, and why some paths cannot be written."""

    create: tuple[str, ...] = ()
    change: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """All paths that the plan touches, sorted."""
        return tuple(sorted((*self.create, *self.change, *self.remove)))


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Say whether one of the globs matches the absolute path; ``*`` also matches ``/``."""
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def digest(content: bytes) -> str:
    """Return the SHA-256 of a content in hexadecimal, the form kept in the manifest."""
    return hashlib.sha256(content).hexdigest()


def is_as_wanted(file: File, live: Live) -> bool:
    """Say whether the live path already is the wanted file: content, owner, group and mode."""
    return (live.kind, live.content) == ("file", file.content) and (live.uid, live.gid, live.mode) == (
        file.uid,
        file.gid,
        file.mode,
    )


def owned_paths(
    manifest: Mapping[str, str], pending: Mapping[str, str | None], live: Mapping[str, Live]
) -> dict[str, str]:
    """Return path -> SHA-256 of what we wrote, including what an interrupted run wrote but could not note.

    A path that was only announced is ours when its live content is exactly what was announced: otherwise the
    interrupted run never reached it, and it belongs to somebody else.
    """
    owned = dict(manifest)
    for path, announced in pending.items():
        found = live.get(path, ABSENT)
        if announced is not None and found.kind == "file" and digest(found.content) == announced:
            owned[path] = announced
    return owned


def make_plan(wanted: Mapping[str, File], live: Mapping[str, Live], owned: Collection[str]) -> Plan:
    """Compare wanted files with live ones; what we own and no longer want is removed.

    ``live`` holds every path of ``wanted`` and ``owned`` that exists. Nothing outside these two is touched.
    """
    create: list[str] = []
    change: list[str] = []
    conflicts: list[str] = []
    for path, file in wanted.items():
        found = live.get(path, ABSENT)
        if found.kind == "absent":
            create.append(path)
        elif found.kind == "blocked":
            conflicts.append(f"{path}: one of its parent directories is not a directory")
        elif found.kind not in ("file", "symlink"):
            what = "directory" if found.kind == "directory" else "special file"
            conflicts.append(f"{path}: there is a {what} in its place")
        elif not is_as_wanted(file, found):
            change.append(path)
    # A directory or a device at a path we once wrote is not what we wrote: it stays.
    remove = [p for p in owned if p not in wanted and live.get(p, ABSENT).kind in ("file", "symlink")]
    return Plan(tuple(sorted(create)), tuple(sorted(change)), tuple(sorted(remove)), tuple(sorted(conflicts)))


def parents(path: str) -> list[str]:
    """Return all parent directories of an absolute path, the nearest first, without the root."""
    found = []
    parent = os.path.dirname(path)
    while parent != "/":
        found.append(parent)
        parent = os.path.dirname(parent)
    return found
