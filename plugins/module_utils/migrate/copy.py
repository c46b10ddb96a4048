# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copying one mailbox from a server elsewhere, by Dovecot's own synchroniser over IMAP, and proving it.

doveadm sync -1: from the source to here only. It opens the source's folders to read, takes what is new, and leaves
alone what came to be here. The settings with the password are in a file that only root can read, while it runs.
"""

from __future__ import annotations

import imaplib
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass, field

from . import imap
from .compare import Verdict, compare
from .imap import Folder, MigrationError, Source
from .sieve import ManageSieve

CONFIGURATION = "/etc/dovecot/dovecot.conf"
# memory, not disk
SCRATCH = "/run"


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
    with imap.connect(source, account.user, account.password) as connection:
        listed, prefix = imap.folders(connection)
        before = _here(account.address)
        if not only_look:
            _sync(source, account, prefix)
        if sieve_port is not None:
            _copy_filters(source, account, sieve_port, result, only_look=only_look)
        after = _here(account.address)
        result.added = sum(map(len, after.values())) - sum(map(len, before.values()))
        result.changed = before != after or bool(result.sieve)
        result.verdict = _compare(connection, listed, account.address)
    if only_look:
        result.changed = bool(result.sieve) or not result.verdict.complete
    return result


def _here(address: str) -> dict[str, list[tuple[str, frozenset[str]]]]:
    with imap.local(address) as connection:
        return imap.counts(connection, imap.folders(connection)[0])


def _compare(connection: imaplib.IMAP4, listed: list[Folder], address: str) -> Verdict:
    """Folder by folder, so that no more than one folder's digests are held at a time."""
    verdict = Verdict()
    with imap.local(address) as here:
        there = {folder.name: folder for folder in imap.folders(here)[0]}
        for folder in listed:
            name = folder.name
            target = {name: imap.messages(here, there[name])} if name in there else {}
            one = compare({name: imap.messages(connection, folder)}, target)
            verdict.folders += 1
            verdict.messages += one.messages
            verdict.octets += one.octets
            verdict.missing_folders += one.missing_folders
            verdict.missing |= one.missing
            verdict.other_dates |= one.other_dates
            verdict.other_flags |= one.other_flags
    return verdict


def _setting(name: str, value: str) -> str:
    """A line of Dovecot's configuration, in which %{ would be expanded and a quote would end the string."""
    if re.search(r"[\x00-\x1f]", value):
        raise MigrationError(f"{name}: holds a control character")
    quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%{literal('%')}")
    return f'{name} = "{quoted}"\n'


def _sync(source: Source, account: Account, prefix: str) -> None:
    with open(CONFIGURATION, encoding="utf-8") as stream:
        version = re.search(r"^dovecot_config_version = \S+\n", stream.read(), re.MULTILINE)
    if version is None:
        raise MigrationError(f"{CONFIGURATION}: names no dovecot_config_version: apply the inventory first")
    with tempfile.TemporaryDirectory(prefix="mailwright-migrate-", dir=SCRATCH) as scratch:
        settings = {
            "imapc_host": source.host,
            "imapc_port": str(source.port),
            "imapc_ssl": "starttls" if source.starttls else "imaps",
            "imapc_user": account.user,
            "imapc_password": account.password,
            "imapc_list_prefix": prefix,
            "ssl_client_require_valid_cert": "yes" if source.verify else "no",
        }
        if source.ca_pem:
            settings["ssl_client_ca_file"] = f"{scratch}/ca.pem"
            with open(f"{scratch}/ca.pem", "x", encoding="ascii") as stream:
                stream.write(source.ca_pem)
        path = f"{scratch}/doveadm.conf"
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
            stream.write(f"{version[0]}!include {CONFIGURATION}\n")
            stream.writelines(_setting(name, value) for name, value in settings.items() if value)
        _doveadm("-c", path, "sync", "-1", "-R", "-u", account.address, "imapc:")


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
