# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copying one mailbox from a server elsewhere by IMAP, and proving it.

A message is known by its content: what the folder here does not have as often as the source's is appended, with flags
and date. So a further run adds what is new, whatever came to be here meanwhile, and nothing is ever removed.

Dovecot's doveadm sync was tried first. In one direction it removes here what was deleted at the source, and leaves out
a message whose UID a message here has got meanwhile: both happen when mail arrives here already.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from dataclasses import dataclass, field

from . import imap
from .compare import Message, Verdict, compare
from .imap import MigrationError, Source
from .sieve import ManageSieve


@dataclass(frozen=True)
class Account:
    """A mailbox here, and how to log in to it at the source."""

    address: str
    user: str
    password: str = field(repr=False)


@dataclass
class Copied:
    """What became of one mailbox."""

    address: str
    changed: bool = False
    added: int = 0
    sieve: list[str] = field(default_factory=list)
    verdict: Verdict = field(default_factory=Verdict)
    warnings: list[str] = field(default_factory=list)


def migrate(source: Source, account: Account, sieve_port: int | None, *, only_look: bool) -> Copied:
    """Copy what is new, then compare every message. `only_look`: compare only. Raises MigrationError."""
    result = Copied(account.address)
    # first, so that a password that is wrong or a mailbox that is not there costs nothing
    with imap.connect(source, account.user, account.password) as there:
        if sieve_port is not None:
            _copy_filters(source, account, sieve_port, result, only_look=only_look)
        with imap.local(account.address) as here:
            known = {folder.name: folder for folder in imap.folders(here)[0]}
            for folder in imap.folders(there)[0]:
                wanted = imap.messages(there, folder)
                found = imap.messages(here, known[folder.name]) if folder.name in known else None
                if not only_look:
                    if found is None:
                        imap.create(here, folder.name)
                        known[folder.name] = imap.Folder(folder.name, folder.name)
                        result.changed = True
                    new = _new(wanted, found or [])
                    for uid, message in new:
                        imap.copy(there, folder, uid, message, here)
                    result.added += len(new)
                    found = imap.messages(here, known[folder.name]) if new or found is None else found
                _judge(result.verdict, folder.name, wanted, found)
    result.changed |= bool(result.added or result.sieve)
    if only_look:
        result.changed = bool(result.sieve) or not result.verdict.complete
    return result


def _new(wanted: list[tuple[str, Message]], found: list[tuple[str, Message]]) -> list[tuple[str, Message]]:
    """The messages of the source that are not here as often, by their content."""
    here = Counter((message.digest, message.size) for _uid, message in found)
    new = []
    for uid, message in wanted:
        key = (message.digest, message.size)
        if here[key]:
            here[key] -= 1
        else:
            new.append((uid, message))
    return new


def _judge(
    verdict: Verdict, name: str, wanted: list[tuple[str, Message]], found: list[tuple[str, Message]] | None
) -> None:
    """Add one folder's comparison, so that no more than one folder's digests are held at a time."""
    target = {} if found is None else {name: [message for _uid, message in found]}
    one = compare({name: [message for _uid, message in wanted]}, target)
    verdict.folders += 1
    verdict.messages += one.messages
    verdict.octets += one.octets
    verdict.missing_folders += one.missing_folders
    verdict.missing |= one.missing
    verdict.other_dates |= one.other_dates
    verdict.other_flags |= one.other_flags


def _copy_filters(source: Source, account: Account, port: int, result: Copied, *, only_look: bool) -> None:
    """Filters that are not here yet. What is here under that name stays, and so does the active one."""
    address = account.address
    listing = _doveadm("sieve", "list", "-u", address).splitlines()
    there = {line.removesuffix(" ACTIVE").rstrip() for line in listing}
    active = any(line.endswith(" ACTIVE") for line in listing)
    with ManageSieve(source, port, account.user, account.password) as manager:
        for script in manager.scripts():
            if script.name in there:
                continue
            if not only_look:
                try:
                    _doveadm("sieve", "put", "-u", address, script.name, text=manager.get(script.name))
                    if script.active and not active:
                        _doveadm("sieve", "activate", "-u", address, script.name)
                except MigrationError as error:
                    result.warnings.append(f"the filter {script.name!r} was not taken: {error}")
                    continue
            result.sieve.append(script.name)


def _doveadm(*arguments: str, text: str | None = None) -> str:
    done = subprocess.run(["doveadm", *arguments], capture_output=True, text=True, check=False, input=text or "")
    if done.returncode == 67:  # EX_NOUSER
        raise MigrationError("there is no such mailbox on this host: add it to the inventory and apply")
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if ": Info: " not in line] or ["no message"]
        raise MigrationError(f"doveadm ended with {done.returncode}: {'; '.join(lines[:3])}")
    return done.stdout
