# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What other programs keep: PostgreSQL's databases and Redis, out of them and into them again; small trees of files."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import shutil
import subprocess
import time
from collections.abc import Sequence

from .settings import BackupError

SOCKET = "/run/postgresql"
REDIS_SOCKET = "/run/redis/redis-server.sock"
REDIS_DIRECTORY = "/var/lib/redis"
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_STILL = 50


def run(argv: Sequence[str], *, stdin: str | None = None, user: str | None = None) -> str:
    """Standard output of a program. Raises BackupError with the last line that it said."""
    try:
        done = subprocess.run(
            argv, input=stdin, stdin=subprocess.DEVNULL if stdin is None else None, capture_output=True, text=True,
            check=False, user=user, group=user, extra_groups=[] if user else None,
            cwd="/",
        )  # fmt: skip
    except FileNotFoundError:
        raise BackupError(f"{argv[0]} is not installed") from None
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        raise BackupError(f"{argv[0]} ended with {done.returncode}: {lines[-1]}")
    return done.stdout


def _ask(query: str, database: str = "postgres") -> str:
    argv = ["psql", "-h", SOCKET, "-d", database, "-XAtq", "-v", "ON_ERROR_STOP=1"]
    return run(argv, stdin=query, user="postgres")


def databases() -> list[tuple[str, str]]:
    """Each database with its owner, without PostgreSQL's own."""
    text = _ask(
        "SELECT datname, rolname FROM pg_database JOIN pg_roles r ON r.oid = datdba "
        "WHERE NOT datistemplate AND datname <> 'postgres' ORDER BY datname"
    )
    found = [(name, owner) for name, _bar, owner in (line.partition("|") for line in text.splitlines())]
    strange = [name for pair in found for name in pair if not _NAME.fullmatch(name)]
    if strange:
        raise BackupError(f"the database or role {strange[0]!r} has a name that cannot be restored: rename it")
    return found


def dump_databases(directory: str) -> dict[str, str]:
    """One file a database, as SQL text: what did not change is stored once. Returns the owners by name."""
    os.mkdir(directory, 0o700)
    found = dict(databases())
    for name in found:
        with open(f"{directory}/{name}.sql", "x", encoding="utf-8") as stream:
            argv = ["pg_dump", "-h", SOCKET, "-d", name]
            done = subprocess.run(
                argv, stdout=stream, stderr=subprocess.PIPE, text=True, check=False, user="postgres", group="postgres",
                extra_groups=[], cwd="/", stdin=subprocess.DEVNULL,
            )  # fmt: skip
        if done.returncode:
            raise BackupError(f"pg_dump of {name} ended with {done.returncode}: {done.stderr.strip()}")
    return found


def load_databases(directory: str, owners: dict[str, str]) -> None:
    """Replace each database by its dump: loaded beside it first, so that a dump which does not load changes nothing."""
    for name, owner in owners.items():
        beside = f"{name}_restored"
        _ask(f'DROP DATABASE IF EXISTS "{beside}" WITH (FORCE)')
        known = _ask("SELECT rolname FROM pg_roles").split()
        with open(f"{directory}/{name}.sql", encoding="utf-8") as stream:
            dump = stream.read()
        # an apply gives them what else they need
        wanted = {owner, *re.findall(r"^GRANT .* TO (\w+);$", dump, re.MULTILINE)} - {"PUBLIC"}
        for role in sorted(wanted - set(known)):
            _ask(f'CREATE ROLE "{role}" LOGIN')
        _ask(
            f'CREATE DATABASE "{beside}" OWNER "{owner}" TEMPLATE template0 ENCODING \'UTF8\' '
            "LOCALE_PROVIDER builtin LOCALE 'C.UTF-8'"
        )
        argv = ["psql", "-h", SOCKET, "-d", beside, "-Xq", "-1", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null"]
        run(argv, stdin=dump, user="postgres")
    for name in owners:
        _ask(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        _ask(f'ALTER DATABASE "{name}_restored" RENAME TO "{name}"')


def dump_redis(path: str) -> None:
    """Redis as one file, by its own replication: it goes on serving."""
    run(["redis-cli", "-s", REDIS_SOCKET, "--rdb", path])
    with open(path, "rb") as stream:
        if stream.read(5) != b"REDIS":
            raise BackupError("redis-cli --rdb wrote no dump of Redis")
    os.chmod(path, 0o600)


def load_redis(path: str, directory: str = REDIS_DIRECTORY) -> None:
    """Put a dump where Redis, which does not run, finds it: as the base of its append-only file."""
    appended = f"{directory}/appendonlydir"
    shutil.rmtree(appended, ignore_errors=True)
    for name in os.listdir(directory):
        if name.endswith((".rdb", ".aof")):
            os.unlink(f"{directory}/{name}")
    os.mkdir(appended, 0o750)
    base = "appendonly.aof.1.base.rdb"
    shutil.copyfile(path, f"{appended}/{base}")
    with open(f"{appended}/appendonly.aof.manifest", "w", encoding="ascii") as stream:
        stream.write(f"file {base} seq 1 type b\n")
    user = pwd.getpwnam("redis")
    for name in (appended, f"{appended}/{base}", f"{appended}/appendonly.aof.manifest"):
        os.chown(name, user.pw_uid, user.pw_gid)


def _fingerprint(tree: str) -> list[tuple[str, int, int]]:
    found = []
    for base, directories, names in os.walk(tree):
        for name in sorted(directories + names):
            status = os.lstat(os.path.join(base, name))
            found.append((os.path.join(base, name), status.st_mtime_ns, status.st_size))
    return sorted(found)


def copy_tree(tree: str, target: str) -> None:
    """Copy a small tree that others may write meanwhile, such as keys with their state: again until it held still."""
    for _turn in range(_STILL):
        if os.path.lexists(target):
            shutil.rmtree(target)
        try:
            before = _fingerprint(tree)
            run(["cp", "-a", "--", tree, target])
            if _fingerprint(tree) == before:
                return
        except (FileNotFoundError, BackupError):
            pass
        time.sleep(0.1)
    raise BackupError(f"{tree}: changes all the time, and cannot be copied as a whole")


def owners(tree: str, copy: str) -> dict[str, str]:
    """Who owns each path of a tree, by name, as its copy says: a fresh host has other numbers."""
    found = {}
    for base, directories, names in os.walk(copy):
        for path in (base, *(os.path.join(base, name) for name in names + directories)):
            status = os.lstat(path)
            with contextlib.suppress(KeyError):
                user, group = pwd.getpwuid(status.st_uid).pw_name, grp.getgrgid(status.st_gid).gr_name
                found[tree + path.removeprefix(copy)] = f"{user}:{group}"
    return found


def give(tree: str, wanted: dict[str, str], beside: str) -> None:
    """Give the copy of a tree that is `beside` it the owners that the tree's paths had."""
    for path, names in wanted.items():
        copy = beside + path.removeprefix(tree)
        if path == tree or path.startswith(f"{tree}/"):
            user, _colon, group = names.partition(":")
            # whoever is not here any more has no use for it
            with contextlib.suppress(KeyError):
                os.chown(copy, pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid, follow_symlinks=False)
