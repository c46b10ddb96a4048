# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a snapshot back onto a host: everything onto one that has no mail yet, or one mailbox beside what it holds.

Everything is fetched and verified before the first change (restic compares every block with its digest as it writes),
so a spoilt repository, a wrong password or a disk that is too small ends a restore with the host as it was.
What is put in place is renamed or loaded whole, and a marker names the snapshot, so that a run that was killed is
finished by the next one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from . import mailstore, services
from .restic import Restic, Snapshot, choose
from .settings import CACHE, DIRECTORY, FORMAT, MAIL_STAGE, STAGE, STORE, TREES, BackupError, lock

# On the mail store's file system, so that mail is renamed into place.
FETCHED = f"{STORE}/.restore"
MARKER = f"{DIRECTORY}/restoring"
# Everything that reads or writes what is replaced. PostgreSQL stays up: its databases are swapped.
UNITS = (
    *("postfix", "dovecot", "rspamd", "redis-server", "nginx", "php8.4-fpm"),
    *("postfix-mta-sts-resolver", "postsrsd", "mailwright-reports", "mailwright-dmarc-reports"),
)
SPARE = 64 * 2**20
PROBE = "mailwright.invalid"
# The namespace in which a fetched mailbox is read beside the one that is there.
_BESIDE = "mailwright-restore/"


@dataclass(frozen=True)
class Plan:
    """What a restore would do."""

    snapshot: Snapshot
    bytes: int
    lines: tuple[str, ...]


def _manifest(restic: Restic, snapshot: Snapshot) -> dict[str, Any]:
    text = restic.run("dump", "--no-lock", snapshot.id, f"{STAGE}/manifest.json").stdout
    manifest: dict[str, Any] = json.loads(text)
    if manifest["format"] != FORMAT:
        raise BackupError(
            f"snapshot {snapshot} has format {manifest['format']}: a newer collection made it; update this"
        )
    return manifest


def _size(restic: Restic, snapshot: Snapshot, path: str = "") -> int:
    """Bytes that a restore of the snapshot, or of what is below a path of it, writes."""
    if not path:
        return int(json.loads(restic.run("stats", "--no-lock", "--json", snapshot.id).stdout)["total_size"])
    listing = restic.run("ls", "--no-lock", "--json", "--recursive", snapshot.id, path).stdout
    entries = [json.loads(line) for line in listing.splitlines()]
    return sum(int(entry.get("size", 0)) for entry in entries if entry.get("type") == "file")


def _fits(size: int) -> None:
    free = shutil.disk_usage(STORE if os.path.isdir(STORE) else "/var").free
    if size + SPARE > free:
        raise BackupError(f"needs {size / 2**20:.0f} MiB below {STORE}, of which {free / 2**20:.0f} MiB are free")


def mail_here(store: str = STORE) -> list[str]:
    """The mailboxes that hold at least one message, without the status report's own."""
    if not os.path.isdir(store):
        return []
    return [
        home
        for home in mailstore.homes(store)
        if not home.startswith(f"{PROBE}/") and mailstore.listing(f"{store}/{home}").messages
    ]


def interrupted() -> str | None:
    """The snapshot of a restore that began and did not end."""
    try:
        with open(MARKER, encoding="ascii") as stream:
            return stream.read().strip()
    except FileNotFoundError:
        return None


def plan_host(restic: Restic, wanted: str) -> Plan:
    """What a restore of the whole host would do. Raises BackupError when it may not or cannot."""
    snapshots = restic.snapshots()
    snapshot = choose(snapshots, wanted)
    manifest = _manifest(restic, snapshot)
    if wanted == "latest" and len(snapshots) > 1:
        _not_of_an_empty_host(manifest, _manifest(restic, snapshots[-2]), snapshots)
    begun = interrupted()
    if begun is not None and begun != snapshot.id:
        raise BackupError(
            f"a restore of snapshot {begun[:8]} was interrupted: finish it first, with restore_at={begun[:8]}"
        )
    holding = [] if begun else mail_here()
    if holding:
        raise BackupError(
            f"this host has mail already ({len(holding)} mailboxes, such as {holding[0]}), and a restore of the whole "
            "host would replace it: restore mailbox by mailbox, or begin with a fresh host"
        )
    size = _size(restic, snapshot)
    _fits(size)
    lines = [
        f"snapshot {snapshot}",
        f"databases {' '.join(sorted(manifest['databases']))}",
        f"mail {sum(manifest['messages'].values())} messages of {len(manifest['messages'])} mailboxes",
        "keys, secrets, certificates and what was learnt about spam",
    ]
    return Plan(snapshot, size, tuple(lines))


def _not_of_an_empty_host(latest: dict[str, Any], before: dict[str, Any], snapshots: list[Snapshot]) -> None:
    """A fresh host that was applied and not restored backs itself up too. Raises BackupError when it looks so."""
    now, then = (sum(manifest["messages"].values()) for manifest in (latest, before))
    if now * 2 < then:
        raise BackupError(
            f"the latest snapshot, {snapshots[-1]}, has {now} messages, the one before, {snapshots[-2]}, has {then}: "
            f"say which, with restore_at={snapshots[-1].short} or restore_at={snapshots[-2].short}"
        )


def restore_host(restic: Restic, plan: Plan) -> None:
    """Carry out the plan. The services are left stopped: an apply starts them with what was restored."""
    with _fetched(restic, plan.snapshot) as fetched:
        manifest = _manifest(restic, plan.snapshot)
        _complete(fetched, manifest)
        _write_marker(plan.snapshot.id)
        _stop_services()
        services.load_databases(f"{fetched}{STAGE}/databases", manifest["databases"])
        services.load_redis(f"{fetched}{STAGE}/redis.rdb")
        for tree in TREES:
            if os.path.isdir(f"{fetched}{STAGE}/files{tree}"):
                _replace_tree(f"{fetched}{STAGE}/files{tree}", tree, manifest["owners"])
        for home in mailstore.homes(f"{fetched}{MAIL_STAGE}"):
            _put_home(fetched, home)
        os.unlink(MARKER)


def _complete(fetched: str, manifest: dict[str, Any]) -> None:
    """Raises BackupError unless all that the manifest names is there."""
    missing = [n for n in manifest["databases"] if not os.path.exists(f"{fetched}{STAGE}/databases/{n}.sql")]
    if missing or not os.path.exists(f"{fetched}{STAGE}/redis.rdb"):
        raise BackupError(f"the snapshot lacks {', '.join(missing) or 'what Redis held'}: nothing was changed")
    for address, count in manifest["messages"].items():
        name, _at, domain = address.rpartition("@")
        found = len(mailstore.listing(f"{fetched}{MAIL_STAGE}/{domain}/{name}").messages)
        if found != count:
            text = (
                f"the snapshot has {found} messages of {address}, not {count} as when it was made: nothing was changed"
            )
            raise BackupError(text)


@contextlib.contextmanager
def _fetched(restic: Restic, snapshot: Snapshot, part: str = "") -> Iterator[str]:
    """A snapshot, or what is below a path of it, in a directory of its own; gone at the end."""
    os.umask(0o077)
    with lock():
        os.makedirs(CACHE, mode=0o700, exist_ok=True)
        mailstore.remove(FETCHED)
        os.makedirs(FETCHED, 0o700)
        try:
            restic.run("restore", "--no-lock", f"{snapshot.id}:{part}" if part else snapshot.id, "--target", FETCHED)
            yield FETCHED
        except BackupError as error:
            raise error if interrupted() else BackupError(f"{error} (nothing was changed)") from None
        finally:
            mailstore.remove(FETCHED)


def _write_marker(text: str) -> None:
    with open(MARKER, "w", encoding="ascii") as stream:
        stream.write(text + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def _stop_services() -> None:
    listing = services.run(["systemctl", "list-unit-files", "--type=service", "--plain", "--no-legend"])
    known = {line.split()[0] for line in listing.splitlines() if line.split()}
    services.run(["systemctl", "stop", *(f"{name}.service" for name in UNITS if f"{name}.service" in known)])


def _replace_tree(source: str, target: str, owners: dict[str, str]) -> None:
    """Another file system as a rule: copied beside the target, then swapped."""
    beside, old = f"{target}.restored", f"{target}.replaced"
    for path in (beside, old):
        if os.path.lexists(path):
            shutil.rmtree(path)
    parent = os.path.dirname(target)
    if not os.path.isdir(parent):
        os.makedirs(parent, 0o755)
    services.run(["cp", "-a", "--", source, beside])
    services.give(target, owners, beside)
    if os.path.lexists(target):
        os.rename(target, old)
    os.rename(beside, target)
    if os.path.lexists(old):
        shutil.rmtree(old)


def _put_home(fetched: str, home: str) -> None:
    source, target = f"{fetched}{MAIL_STAGE}/{home}", f"{STORE}/{home}"
    owner = os.stat(STORE)
    services.run(["chown", "-R", "--no-dereference", f"{owner.st_uid}:{owner.st_gid}", "--", source])
    domain = os.path.dirname(target)
    if not os.path.isdir(domain):
        os.mkdir(domain, 0o700)
        os.chown(domain, owner.st_uid, owner.st_gid)
    if os.path.lexists(target):
        _keep_new_mail(source, target)
        shutil.rmtree(target)
    os.rename(source, target)


def _keep_new_mail(source: str, target: str) -> None:
    """What was delivered since a restore was planned, or interrupted, goes into the restored home."""
    had = {_unique(path) for path in mailstore.listing(source).messages}
    for path in mailstore.listing(target).messages:
        if _unique(path) in had:
            continue
        folder = os.path.dirname(os.path.dirname(f"{source}/{path}"))
        for directory in (folder, *(f"{folder}/{kind}" for kind in ("cur", "new", "tmp"))):
            if not os.path.isdir(directory):
                os.mkdir(directory, 0o700)
                shutil.copystat(source, directory)
                os.chown(directory, os.stat(source).st_uid, os.stat(source).st_gid)
        os.rename(f"{target}/{path}", f"{source}/{path}")


def _unique(path: str) -> str:
    """The part of a message's name that stays when its flags change."""
    return os.path.basename(path).partition(":")[0]


# --- one mailbox ------------------------------------------------------------------------------------------------------


def restored_name(snapshot: Snapshot) -> str:
    """The folder that what is restored is put below."""
    return f"Restored/{snapshot.time:%Y-%m-%d %H.%M}"


def plan_mailbox(restic: Restic, wanted: str, address: str, folder: str | None) -> Plan:
    """What a restore of one mailbox would do. Raises BackupError when it may not or cannot."""
    snapshot = choose(restic.snapshots(), wanted)
    manifest = _manifest(restic, snapshot)
    if address not in manifest["messages"]:
        raise BackupError(f"snapshot {snapshot} has no mailbox {address}")
    there = _doveadm("mailbox", "list", "-u", address).splitlines()
    name = restored_name(snapshot)
    if any(entry == name or entry.startswith(f"{name}/") for entry in there):
        raise BackupError(f"{address} has a folder {name!r} already, from an earlier restore: remove it first")
    size = _size(restic, snapshot, _home(address))
    _fits(size)
    what = f"folder {folder!r}" if folder else f"{manifest['messages'][address]} messages"
    return Plan(snapshot, size, (f"snapshot {snapshot}", f"{what} of {address} into its folder {name!r}"))


def restore_mailbox(restic: Restic, plan: Plan, address: str, folder: str | None) -> int:
    """Copy the messages into a folder of the mailbox; what it holds stays. Returns how many were copied."""
    with _fetched(restic, plan.snapshot, _home(address)) as fetched:
        # Dovecot reads them as the mail store's user, and keeps its indexes of them beside them
        owner = os.stat(STORE)
        services.run(["chown", "-R", "--no-dereference", f"{owner.st_uid}:{owner.st_gid}", "--", fetched])
        there = _messages(address, "*", ["-o", f"mail_path={fetched}/Maildir"])
        wanted = {name: count for name, count in there.items() if count and folder in (None, name)}
        if not wanted:
            raise BackupError(f"snapshot {plan.snapshot} has no message in {folder or 'any folder'} of {address}")
        # doveadm import would not read folders' names as the store writes them, and leave out what it cannot read
        settings = (f"prefix={_BESIDE}", "separator=/", "hidden=yes", "list=no", f"mail_path={fetched}/Maildir")
        namespace = ["-o", "namespace+=fetched"]
        for setting in settings:
            namespace += ["-o", f"namespace/fetched/{setting}"]
        target = restored_name(plan.snapshot)
        for name in wanted:
            _doveadm("mailbox", "create", "-u", address, f"{target}/{name}")
            query = ("mailbox", f"{_BESIDE}{name}", "ALL")
            _doveadm("copy", "-u", address, f"{target}/{name}", *query, options=namespace)
        came = _messages(address, f"{target}/*")
        lacking = [name for name, count in wanted.items() if came.get(f"{target}/{name}") != count]
        if lacking:
            raise BackupError(f"not all messages of {', '.join(lacking)} came into {target!r} of {address}")
    return sum(wanted.values())


def _messages(address: str, mask: str, options: Sequence[str] = ()) -> dict[str, int]:
    """How many messages each of the mailbox's folders has."""
    listing = _doveadm("mailbox", "status", "-u", address, "messages", mask, options=["-f", "tab", *options])
    entries = (line.rpartition("\t") for line in listing.splitlines()[1:])
    return {name: int(count) for name, _tab, count in entries}


def _home(address: str) -> str:
    name, _at, domain = address.rpartition("@")
    return f"{MAIL_STAGE}/{domain}/{name}"


def _doveadm(*arguments: str, options: Sequence[str] = ()) -> str:
    done = subprocess.run(
        ["doveadm", *options, *arguments], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode == 67:  # EX_NOUSER
        raise BackupError(
            f"there is no mailbox {arguments[arguments.index('-u') + 1]} on this host: apply the inventory"
        )
    if done.returncode:
        lines = (done.stderr.strip() or "no message").splitlines()
        raise BackupError(f"doveadm {arguments[0]} ended with {done.returncode}: {lines[-1]}")
    return done.stdout
