# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A copy of the mail store that holds still, while mail is delivered, moved and flagged in the store itself.

A message in a Maildir is a file that is never written again, only renamed: so the copy is of hard links and takes
neither time nor room. What is written again (UID lists, subscriptions, filters) is copied. Indexes are left out:
Dovecot makes them anew.

One mailbox is right when three listings in a row tell the same story, and the copy is the one in the middle. A message
that moved while folders were read may be missed (it went from a folder not yet read to one that was): then it was in
the listing before and is not in this one. Or it is seen twice: then one of its names is gone from the listing after.
In either case the mailbox is read again. A listing that only has more than the one before is good: that is a delivery.
Dovecot moves by a second link and then takes the first away. Two names of one file in a folder that just changed are
looked at again after a moment: a copy is still there then.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from .settings import BackupError

PATIENCE = 60.0
RECENT, MOMENT = 10.0, 1.0
_MESSAGES = ("cur", "new")
_REMADE = ("dovecot.index", "dovecot.list.index", "maildirsize")
_LEFT_OUT = ("tmp", "fts-flatcurve")


@dataclass
class Listing:
    """Paths relative to a home."""

    messages: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)
    directories: list[str] = field(default_factory=list)


@dataclass
class Staged:
    """What was copied: messages by mailbox, and the mailboxes that never held still."""

    messages: dict[str, int] = field(default_factory=dict)
    restless: list[str] = field(default_factory=list)


def homes(store: str) -> Iterator[str]:
    """Each mailbox's home, as domain/name."""
    for domain in sorted(os.listdir(store)):
        if domain.startswith(".") or not _is_directory(f"{store}/{domain}"):
            continue
        for name in sorted(os.listdir(f"{store}/{domain}")):
            if _is_directory(f"{store}/{domain}/{name}"):
                yield f"{domain}/{name}"


def _is_directory(path: str) -> bool:
    return stat.S_ISDIR(os.lstat(path).st_mode)


def listing(home: str) -> Listing:
    """Everything in a home that belongs into a backup."""
    found = Listing()
    for base, directories, names in os.walk(home):
        relative = os.path.relpath(base, home)
        found.directories.append(relative)
        # tmp is kept empty: a Maildir must have it
        found.directories += [os.path.join(relative, name) for name in directories if name == "tmp"]
        kind = found.messages if os.path.basename(base) in _MESSAGES else found.others
        links = [name for name in directories if os.path.islink(os.path.join(base, name))]
        directories[:] = [name for name in directories if name not in _LEFT_OUT and name not in links]
        kind |= {
            os.path.normpath(os.path.join(relative, name))
            for name in names + links
            if not name.startswith(_REMADE) and not name.endswith((".lock", ".tmp"))
        }
    return found


def stage(store: str, target: str, patience: float = PATIENCE) -> Staged:
    """Copy every home of the store to the target, which is emptied first. Both are on one file system.

    Raises BackupError when they are not.
    """
    remove(target)
    os.mkdir(target, 0o700)
    staged = Staged()
    for name in homes(store):
        address = "@".join(reversed(name.split("/")))
        count, still = _stage_home(f"{store}/{name}", f"{target}/{name}", patience)
        staged.messages[address] = count
        if not still:
            staged.restless.append(address)
        domain = name.partition("/")[0]
        _like(f"{store}/{domain}", f"{target}/{domain}")
    return staged


def remove(target: str) -> None:
    """Take a copy away. Links go; the messages stay where they are."""
    if os.path.lexists(target):
        shutil.rmtree(target)


def _stage_home(home: str, target: str, patience: float) -> tuple[int, bool]:
    linked: set[str] = set()
    earlier: set[str] | None = None
    before: set[str] | None = None
    missed = False
    end = time.monotonic() + patience
    while True:
        found = listing(home)
        still = earlier is not None and before is not None and not missed and earlier <= before <= found.messages
        if time.monotonic() > end or (still and not _moving(home, target, linked)):
            break
        for path in found.directories:
            os.makedirs(os.path.join(target, path), exist_ok=True)
        for path in linked - found.messages:
            os.unlink(os.path.join(target, path))
        linked &= found.messages
        missed = False
        for path in found.messages - linked:
            try:
                _link(os.path.join(home, path), os.path.join(target, path))
                linked.add(path)
            except FileNotFoundError:
                missed = True
        earlier, before = before, found.messages
    # after the messages: a list of UIDs that names more than there is does no harm
    for path in listing(home).others:
        _copy(os.path.join(home, path), os.path.join(target, path))
    for path in found.directories:
        os.makedirs(os.path.join(target, path), exist_ok=True)
        _like(os.path.join(home, path), os.path.join(target, path))
    return len(linked), still


def _moving(home: str, target: str, linked: set[str]) -> bool:
    """Whether one of the messages with two names loses one of them within a moment."""
    names: dict[int, list[str]] = {}
    for path in linked:
        found = os.lstat(os.path.join(target, path))
        # a name in the store, the one in the copy, and more
        if found.st_nlink > 2:
            names.setdefault(found.st_ino, []).append(path)
    twins = [path for paths in names.values() if len(paths) > 1 for path in paths]
    folders = {os.path.dirname(os.path.join(home, path)) for path in twins}
    if not any(os.path.isdir(folder) and time.time() - os.stat(folder).st_mtime < RECENT for folder in folders):
        return False
    time.sleep(MOMENT)
    return not all(os.path.lexists(os.path.join(home, path)) for path in twins)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise BackupError(f"{source}: is on another file system than the mail store: they must be one") from None
        raise


def _like(source: str, target: str) -> None:
    """Owner and mode of a directory that may be gone by now."""
    try:
        found = os.lstat(source)
    except FileNotFoundError:
        return
    os.chown(target, found.st_uid, found.st_gid)
    os.chmod(target, stat.S_IMODE(found.st_mode))


def _copy(source: str, target: str) -> None:
    """A file or a link of the store's owner that may be gone by now; what belongs to others is not mail."""
    try:
        found = os.lstat(source)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if stat.S_ISLNK(found.st_mode):
            os.symlink(os.readlink(source), target)
            os.chown(target, found.st_uid, found.st_gid, follow_symlinks=False)
            return
        # never through a link, never waiting for a pipe's other end
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    with os.fdopen(descriptor, "rb") as stream:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return
        with open(target, "wb") as copy:
            shutil.copyfileobj(stream, copy)
            os.fchown(copy.fileno(), found.st_uid, found.st_gid)
            os.fchmod(copy.fileno(), stat.S_IMODE(found.st_mode))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
