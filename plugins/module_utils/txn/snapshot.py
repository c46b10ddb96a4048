# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots of a host: package versions with their .debs, configuration, secrets, databases, and what restores them.

    /var/lib/mailwright/snapshots/ID/manifest.json   everything below, with its SHA-256
    .../files/SHA256        contents of files     .../packages/*.deb     .../databases/*
    .../restore.pyz         run by hand, it brings the host back to this snapshot
    .../ending              how its transaction ended

A snapshot of the configuration alone, as an apply takes it, has neither packages nor databases, and minds which units
are enabled.

What the world outside has already seen is never turned back: NEVER, and whatever is not listed by what_to_keep.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.config_tree.store import (
    TEMPORARY,
    make_parents,
    sync_directory,
    write_atomically,
)
from ansible_collections.mailwright.server.plugins.module_utils.packages.store import STORE, Package, link_or_copy
from ansible_collections.mailwright.server.plugins.module_utils.txn import dpkg
from ansible_collections.mailwright.server.plugins.module_utils.txn.journal import COMMITTED, INCONSISTENT
from ansible_collections.mailwright.server.plugins.module_utils.txn.programs import output, run
from ansible_collections.mailwright.server.plugins.module_utils.txn.storage import TransactionError

ROOT = Path("/var/lib/mailwright/snapshots")
RECORDS = Path("/var/lib/mailwright/config")
SECRETS = Path("/etc/mailwright/secrets")
UCF = Path("/var/lib/ucf")
# What dpkg and ucf leave beside a configuration file that differs from the package's: dpkg(1), ucf(1).
BESIDE = (".dpkg-new", ".dpkg-dist", ".dpkg-old", ".ucf-new", ".ucf-dist", ".ucf-old")
UNITS = Path("/etc/systemd/system")
DATABASES = ("mailwright", "roundcube")
# Which key signs, and what the DNS shall hold, go with the DKIM rotation, which does not go back.
NEVER = ("/etc/rspamd/local.d/dkim_signing.conf", "/etc/rspamd/local.d/arc.conf", "/etc/mailwright/dns/*")
KEPT = 3
MANUAL = "by hand"
# Left free on the disk whatever a transaction does.
RESERVE = 64 * 2**20


@dataclass(frozen=True)
class Entry:
    """One path. why: managed, conffile, secret, state or enabled; package: of a conffile."""

    path: str
    why: str
    package: str = ""
    kind: str = "file"
    uid: int = 0
    gid: int = 0
    mode: int = 0
    target: str = ""
    sha256: str = ""
    mtime_ns: int = 0
    xattrs: tuple[tuple[str, str], ...] = ()


def digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_entry(path: str, why: str, package: str = "") -> Entry | None:
    """What lies at a path, None when nothing or neither a file nor a link."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_ISLNK(found.st_mode):
        return Entry(path, why, package, "symlink", found.st_uid, found.st_gid, mode, os.readlink(path))
    if not stat.S_ISREG(found.st_mode):
        return None
    xattrs = tuple(sorted((name, os.getxattr(path, name).hex()) for name in os.listxattr(path)))
    return Entry(
        path, why, package, "file", found.st_uid, found.st_gid, mode, "", digest(Path(path)), found.st_mtime_ns, xattrs
    )


def same(one: Entry | None, other: Entry) -> bool:
    """Whether two entries are the same to whoever reads them; the time does not matter."""
    return one is not None and _seen(one) == _seen(other)


def _seen(entry: Entry) -> tuple[Any, ...]:
    return entry.kind, entry.uid, entry.gid, entry.mode, entry.target, entry.sha256, entry.xattrs


def records() -> list[str]:
    """config_tree's manifests, and the markers of its runs that were killed."""
    return [str(path) for suffix in ("json", "pending") for path in sorted(RECORDS.glob(f"*.{suffix}"))]


def managed() -> list[str]:
    """The paths that config_tree's records name."""
    paths: set[str] = set()
    for record in records():
        paths.update(json.loads(Path(record).read_bytes()))
    return sorted(path for path in paths if not any(fnmatch.fnmatchcase(path, glob) for glob in NEVER))


def conffiles() -> dict[str, str]:
    """Path -> package of every configuration file that dpkg, or the program ucf for it, looks after, and of what they
    left beside it. The package is empty where ucf was told a name that is no installed package's."""
    found, packages, package = {}, set(), ""
    for line in output(["dpkg-query", "-W", "-f", "${Package}\n${Conffiles}\n"]).splitlines():
        if line.startswith(" /"):
            found[line[1:].split(" ")[0]] = package
        elif line and not line.startswith(" "):
            package = line
            packages.add(package)
    if UCF.joinpath("registry").exists():
        rows = map(str.split, UCF.joinpath("registry").read_text(encoding="utf-8").splitlines())
        found = {row[1]: row[0] if row[0] in packages else "" for row in rows if len(row) == 2} | found
    beside = {path + suffix: package for path, package in found.items() for suffix in BESIDE}
    return found | {path: package for path, package in beside.items() if os.path.lexists(path)}


def goes_back(package: str, names: Collection[str] | None) -> bool:
    """Whether a package's conffiles do: those of the named packages (None: of all), and those of no known package."""
    return names is None or not package or package in names


def enabled() -> list[str]:
    """The links by which systemd knows that a unit is enabled."""
    return sorted(str(path) for path in UNITS.glob("*.*/*") if path.is_symlink())


def what_to_keep(*, whole: bool) -> list[Entry]:
    """All paths of a snapshot, as they are now; whole: with packages."""
    wanted: dict[str, tuple[str, str]] = {path: ("conffile", package) for path, package in conffiles().items()}
    wanted.update({str(path): ("secret", "") for path in SECRETS.glob("*")})
    wanted.update(dict.fromkeys(managed(), ("managed", "")))
    wanted.update(dict.fromkeys(records(), ("state", "")))
    for path in ("/var/lib/apt/extended_states", f"{UCF}/registry", f"{UCF}/hashfile"):
        wanted[path] = ("state", "")
    if not whole:
        wanted.update(dict.fromkeys(enabled(), ("enabled", "")))
    for path in [path for path in wanted if any(fnmatch.fnmatchcase(path, glob) for glob in NEVER)]:
        del wanted[path]
    entries = (read_entry(path, *why) for path, why in sorted(wanted.items()))
    return [entry for entry in entries if entry is not None]


def free(path: Path) -> int:
    """Bytes that root may still write there."""
    found = os.statvfs(path)
    return found.f_bfree * found.f_frsize


def need(path: Path, size: int, what: str) -> None:
    """Raises TransactionError when what is to be written there, and the reserve, do not fit."""
    there = free(path)
    if there < size + RESERVE:
        raise TransactionError(
            f"not enough space in {path}: {what} needs {size / 2**20:.0f} MiB and {RESERVE / 2**20:.0f} MiB are left "
            f"free, {there / 2**20:.0f} MiB are there"
        )


class Snapshot:
    """One snapshot on disk."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.id = directory.name
        self.manifest: dict[str, Any] = json.loads((directory / "manifest.json").read_bytes())

    @property
    def whole(self) -> bool:
        """Whether it holds more than the configuration."""
        return bool(self.manifest["packages"])

    @property
    def packages(self) -> list[Package]:
        return [Package(*fields[:4]) for fields in self.manifest["packages"]]

    def other_packages(self) -> tuple[list[Package], list[Package]]:
        """Packages that are not as they were, and packages that came since."""
        return dpkg.differences(self.packages) if self.whole else ([], [])

    def restore_packages(self) -> list[str]:
        """Bring dpkg to these versions; returns the names that were touched. Raises TransactionError."""
        return dpkg.turn_back(self.packages, self.directory / "packages") if self.whole else []

    @property
    def entries(self) -> list[Entry]:
        return [Entry(**{**e, "xattrs": tuple(map(tuple, e["xattrs"]))}) for e in self.manifest["files"]]

    @property
    def ending(self) -> str:
        """How its transaction ended, empty while it is open."""
        path = self.directory / "ending"
        return path.read_text(encoding="utf-8").strip() if path.exists() else ""

    def settle(self, ending: str) -> None:
        write_atomically(str(self.directory / "ending"), f"{ending}\n".encode())

    def add_debs(self, packages: Sequence[Package], *directories: Path) -> list[Package]:
        """Take in the .debs of packages of this snapshot; returns those that lie nowhere."""
        missing = []
        for package in packages:
            found = dpkg.find_deb(package, self.directory / "packages", *directories)
            if found is None:
                missing.append(package)
            elif found.parent != self.directory / "packages":
                link_or_copy(found, self.directory / "packages" / package.file)
        sync_directory(str(self.directory / "packages"))
        return missing

    def damaged(self) -> list[str]:
        """What is not as the manifest says, empty when all is well."""
        wrong = []
        for entry in self.entries:
            if entry.kind == "file":
                path = self.directory / "files" / entry.sha256
                if not path.is_file() or digest(path) != entry.sha256:
                    wrong.append(f"the copy of {entry.path}")
        for name, checksum in self.manifest["databases"].items():
            path = self.directory / "databases" / name
            if not path.is_file() or digest(path) != checksum:
                wrong.append(f"databases/{name}")
        for fields in self.manifest["packages"]:
            path = self.directory / "packages" / Package(*fields[:4]).file
            # one that was fetched later has no checksum here; dpkg refuses a damaged one
            if fields[4] and (not path.is_file() or digest(path) != fields[4]):
                wrong.append(f"packages/{path.name}")
        return wrong

    def wanted(self, names: Collection[str] | None) -> list[Entry]:
        """What is put back: of conffiles those that go back."""
        return [e for e in self.entries if e.why != "conffile" or goes_back(e.package, names)]

    def changed_files(self, names: Collection[str] | None) -> list[str]:
        """Paths that a restore would write or remove."""
        behind = [e.path for e in self.wanted(names) if not same(read_entry(e.path, e.why), e)]
        return sorted({*behind, *self.surplus(names)})

    def surplus(self, names: Collection[str] | None) -> list[str]:
        """Paths that came since: managed files, and conffiles that go back."""
        known = {entry.path for entry in self.entries}
        came = {*managed(), *records()}
        came |= {path for path, package in conffiles().items() if goes_back(package, names)}
        if not self.whole:
            came |= set(enabled())
        never = [path for path in came if any(fnmatch.fnmatchcase(path, glob) for glob in NEVER)]
        return sorted(path for path in came - known - set(never) if os.path.lexists(path))

    def restore_files(self, names: Collection[str] | None) -> list[str]:
        """Put files back, each by rename; returns the paths that were not as they are now."""
        changed = []
        # before config_tree's manifests go back: they tell what came since
        surplus = self.surplus(names)
        for entry in self.wanted(names):
            if not same(read_entry(entry.path, entry.why), entry):
                self._write(entry)
                changed.append(entry.path)
        for path in surplus:
            os.unlink(path)
            sync_directory(os.path.dirname(path))
        return sorted({*changed, *surplus})

    def _write(self, entry: Entry) -> None:
        made = make_parents(entry.path)
        staged = Path(os.path.dirname(entry.path)) / f"{TEMPORARY}{os.getpid()}"
        staged.unlink(missing_ok=True)
        if entry.kind == "symlink":
            staged.symlink_to(entry.target)
            os.chown(staged, entry.uid, entry.gid, follow_symlinks=False)
        else:
            handle = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(handle, "wb") as stream, (self.directory / "files" / entry.sha256).open("rb") as source:
                shutil.copyfileobj(source, stream)
                stream.flush()
                os.fchown(handle, entry.uid, entry.gid)
                os.fchmod(handle, entry.mode)
                for name, value in entry.xattrs:
                    os.setxattr(handle, name, bytes.fromhex(value))
                os.fsync(handle)
            os.utime(staged, ns=(entry.mtime_ns, entry.mtime_ns))
        os.rename(staged, entry.path)
        for directory in [os.path.dirname(entry.path), *map(os.path.dirname, made)]:
            sync_directory(directory)

    def restore_databases(self) -> list[str]:
        """Put the dumps back over what is there. Only by hand: everything written since is lost."""
        done = []
        for name in sorted(self.manifest["databases"]):
            if name.endswith(".dump"):
                path = self.directory / "databases" / name
                argv = [
                    "runuser",
                    "-u",
                    "postgres",
                    "--",
                    "pg_restore",
                    "--clean",
                    "--if-exists",
                    "--single-transaction",
                ]
                run(["sh", "-ec", 'exec "$@" < "$0"', str(path), *argv, "-d", name.removesuffix(".dump")], seconds=1800)
                done.append(name)
        return done


def identifier(now: float | None = None) -> str:
    """The name of a snapshot or a transaction: sortable, for people."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))


def create(name: str, reason: str, engine: bytes, units: Mapping[str, str], *, whole: bool = True) -> Snapshot:
    """Take a snapshot, of the configuration alone unless it is to be whole: on disk, or not there.

    Raises TransactionError.
    """
    ROOT.mkdir(mode=0o700, parents=True, exist_ok=True)
    sweep()
    packages = dpkg.installed() if whole else []
    broken = [f"{p.name} ({p.state})" for p in packages if p.state != "installed"]
    if broken:
        raise TransactionError(f"dpkg is not in order: {', '.join(broken)}; run dpkg --configure --pending first")
    entries = what_to_keep(whole=whole)
    databases = _databases() if whole else {}
    debs = {p: found for p in packages if (found := dpkg.find_deb(p))}
    size = sum(os.path.getsize(e.path) for e in entries if e.kind == "file")
    size += sum(databases.values())
    size += sum(path.stat().st_size for path in debs.values() if path.stat().st_dev != ROOT.stat().st_dev)
    need(ROOT, size, "the snapshot")
    staged = ROOT / f".{name}"
    try:
        for part in ("files", "packages", "databases"):
            (staged / part).mkdir(mode=0o700, parents=True)
        staged.chmod(0o700)
        for entry in entries:
            if entry.kind == "file":
                shutil.copyfile(entry.path, staged / "files" / entry.sha256)
                if digest(staged / "files" / entry.sha256) != entry.sha256:
                    raise TransactionError(f"{entry.path} changed while it was copied; try again")
        for package, path in debs.items():
            link_or_copy(path, staged / "packages" / package.file)
        checksums = _dump(databases, staged / "databases")
        (staged / "restore.pyz").write_bytes(engine)
        manifest = {
            "format": 1, "id": name, "created": round(time.time()), "reason": reason, "units": dict(units),
            "packages": [
                [p.name, p.architecture, p.version, p.state, digest(staged / "packages" / p.file) if p in debs else ""]
                for p in packages
            ],
            "files": [asdict(entry) for entry in entries],
            "databases": checksums,
        }  # fmt: skip
        (staged / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    except OSError as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise TransactionError(f"the snapshot cannot be written: {error}") from error
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    os.sync()
    staged.rename(ROOT / name)
    sync_directory(str(ROOT))
    return Snapshot(ROOT / name)


def _databases() -> dict[str, int]:
    """Name -> bytes of the databases to dump; none where there is no PostgreSQL."""
    if shutil.which("pg_dump") is None:
        return {}
    # constants of this file
    names = ", ".join(f"'{name}'" for name in DATABASES)
    query = f"SELECT datname, pg_database_size(oid) FROM pg_database WHERE datname IN ({names})"  # noqa: S608
    listing = output(["runuser", "-u", "postgres", "--", "psql", "-AtX", "-F", " ", "-c", query])
    return {line.split()[0]: int(line.split()[1]) for line in listing.splitlines()}


def _dump(databases: Mapping[str, int], directory: Path) -> dict[str, str]:
    """Dump databases and globals; name of the file -> SHA-256."""
    postgres = "exec runuser -u postgres --"
    commands = {f"{name}.dump": f"{postgres} pg_dump -Fc {name}" for name in databases}
    if databases:
        commands["globals.sql"] = f"{postgres} pg_dumpall --globals-only"
    for name, command in commands.items():
        # by the shell's redirection: the dump never passes through memory or a pipe of ours
        run(["sh", "-ec", f'umask 077; {command} > "$0"', str(directory / name)], seconds=1800)
    return {name: digest(directory / name) for name in commands}


def sweep() -> None:
    """Remove what a killed run left unfinished."""
    for path in ROOT.glob(".*"):
        shutil.rmtree(path, ignore_errors=True)


def all_snapshots() -> list[Snapshot]:
    """Oldest first."""
    return [Snapshot(path) for path in _whole()] if ROOT.is_dir() else []


def _whole() -> Iterator[Path]:
    for path in sorted(ROOT.iterdir()):
        if not path.name.startswith(".") and (path / "manifest.json").is_file():
            yield path


def find(name: str) -> Snapshot:
    """Raises TransactionError for a name that is no snapshot's."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if "/" not in name and not name.startswith("."):
            return Snapshot(ROOT / name)
    names = ", ".join(snapshot.id for snapshot in all_snapshots()) or "there is none"
    raise TransactionError(f"snapshot {name!r} is not there; kept are: {names}")


def superfluous(endings: Sequence[tuple[str, str]]) -> list[str]:
    """Of (id, ending), oldest first: what need not be kept. The last three that led to something, every inconsistent
    one, every one whose transaction is open, and the newest stay."""
    good = [name for name, ending in endings if ending in (COMMITTED, MANUAL)][-KEPT:]
    kept = {*good, *(name for name, ending in endings if ending in (INCONSISTENT, "")), *(n for n, _e in endings[-1:])}
    return [name for name, _ending in endings if name not in kept]


def unneeded() -> list[str]:
    """The snapshots that need not be kept. An apply's do not push out those that hold packages."""
    found = all_snapshots()
    return [
        name for whole in (True, False) for name in superfluous([(s.id, s.ending) for s in found if s.whole == whole])
    ]


def remove(name: str) -> None:
    """Remove a snapshot, by a rename first, so that half a one is never found."""
    gone = ROOT / f".{name}.gone"
    (ROOT / name).rename(gone)
    sync_directory(str(ROOT))
    shutil.rmtree(gone)


def used(snapshot: Snapshot) -> int:
    """Bytes that only this snapshot occupies."""
    paths = [path for path in snapshot.directory.rglob("*") if path.is_file()]
    return sum(found.st_size for path in paths if (found := path.stat()).st_nlink == 1)


__all__ = ["STORE", "Entry", "Snapshot", "create", "find"]
