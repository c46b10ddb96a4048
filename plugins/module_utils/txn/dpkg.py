# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What apt and dpkg do for a transaction. Forward by apt, which orders; back by dpkg, which needs no network."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ansible_collections.mailwright.server.plugins.module_utils.config_tree.stage import SEARCH_PATH
from ansible_collections.mailwright.server.plugins.module_utils.packages.plan import simulated
from ansible_collections.mailwright.server.plugins.module_utils.packages.policy import services_untouched
from ansible_collections.mailwright.server.plugins.module_utils.packages.store import (
    ARCHIVES,
    QUERY,
    STORE,
    Package,
    parse,
)
from ansible_collections.mailwright.server.plugins.module_utils.txn.programs import output, run
from ansible_collections.mailwright.server.plugins.module_utils.txn.storage import TransactionError

ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_MODE": "l", "PATH": SEARCH_PATH, "LC_ALL": "C.UTF-8"}
OPTIONS = (
    "-q", "-y", "-o", "DPkg::Lock::Timeout=300", "-o", "APT::Sandbox::User=root",
    "-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold",
)  # fmt: skip
LOCK = "/var/lib/dpkg/lock-frontend"
LOCK_SECONDS = 300.0
ROUNDS = 3


def installed() -> list[Package]:
    """Everything that dpkg has, in whatever state."""
    return parse(output(["dpkg-query", "-W", "-f", QUERY]))


def update_lists() -> None:
    """Fetch the package lists; a source that cannot be reached is an error, not a warning."""
    run(["apt-get", *OPTIONS, "-o", "APT::Update::Error-Mode=any", "update"], ENVIRONMENT)


def upgrade(names: Sequence[str]) -> list[str]:
    """apt-get's words for the update: all that is newer, or the named packages. It never removes any."""
    return ["install", "--only-upgrade", "--no-remove", *names] if names else ["upgrade", "--with-new-pkgs"]


def resolve(names: Sequence[str]) -> list[tuple[str, str, str]]:
    """What an update would do: (name, version before or "", version after)."""
    return simulated(output(["apt-get", *OPTIONS, "--simulate", *upgrade(names)], ENVIRONMENT))


def download_bytes(names: Sequence[str]) -> int:
    """How much an update downloads."""
    # "'URI' FILE SIZE HASH"
    lines = output(["apt-get", *OPTIONS, "--print-uris", *upgrade(names)], ENVIRONMENT).splitlines()
    return sum(int(line.split()[2]) for line in lines if line.startswith("'"))


def download(versions: Sequence[tuple[str, str]], directory: Path) -> None:
    """Fetch (name, version) into a directory; apt checks the hashes of the signed lists."""
    directory.mkdir(mode=0o700, exist_ok=True)
    if versions:
        wanted = [f"{name}={version}" for name, version in versions]
        run(["apt-get", *OPTIONS, "download", *wanted], ENVIRONMENT, cwd=directory)


def read_deb(path: Path) -> Package:
    """What a .deb holds; reading it whole finds a damaged one."""
    run(["sh", "-ec", 'dpkg-deb --fsys-tarfile "$0" > /dev/null', str(path)], ENVIRONMENT)
    fields = "${Package}\t${Architecture}\t${Version}\tinstalled\n"
    return parse(output(["dpkg-deb", "--showformat", fields, "--show", str(path)]))[0]


def find_deb(package: Package, *directories: Path) -> Path | None:
    """Where the .deb of a version lies."""
    return next((d / package.file for d in (*directories, STORE, ARCHIVES) if (d / package.file).is_file()), None)


def fetch_missing(packages: Sequence[Package], directory: Path) -> list[Package]:
    """Try to get .debs of installed versions from the archive; returns those that it does not have any more."""
    missing = []
    for package in packages:
        if find_deb(package, directory) is None:
            with contextlib.suppress(TransactionError):
                download([(f"{package.name}:{package.architecture}" if package.architecture != "all" else package.name,
                           package.version)], directory)  # fmt: skip
        if find_deb(package, directory) is None:
            missing.append(package)
    return missing


def install(names: Sequence[str], directory: Path) -> None:
    """Update from the directory alone, while every service keeps running what it runs."""
    (directory / "partial").mkdir(mode=0o700, exist_ok=True)
    with services_untouched():
        run(
            ["apt-get", *OPTIONS, "--no-download", "-o", f"Dir::Cache::archives={directory}/", *upgrade(names)],
            ENVIRONMENT, seconds=1800,
        )  # fmt: skip


@contextlib.contextmanager
def frontend_lock() -> Iterator[None]:
    """Keep other package managers out; waits for one that works."""
    handle = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    deadline = time.monotonic() + LOCK_SECONDS
    try:
        while True:
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise TransactionError(
                        f"another package manager has held {LOCK} for {LOCK_SECONDS:.0f} s"
                    ) from None
                time.sleep(0.2)
        yield
    finally:
        os.close(handle)


def differences(wanted: Sequence[Package]) -> tuple[list[Package], list[Package]]:
    """Packages that are not as wanted, and packages that are there and were not wanted."""
    now = {package.key: package for package in installed()}
    known = {package.key for package in wanted}
    return [p for p in wanted if now.get(p.key) != p], [p for key, p in now.items() if key not in known]


def turn_back(wanted: Sequence[Package], directory: Path) -> list[str]:
    """Bring dpkg to exactly the wanted versions from .debs in the directory; returns the names that were touched."""
    behind, extra = differences(wanted)
    touched = sorted({package.name for package in [*behind, *extra]})
    if not touched:
        return []
    lost = [package.file for package in _to_unpack(behind) if not (directory / package.file).is_file()]
    if lost:
        raise TransactionError(f"no .deb in {directory}: {', '.join(lost)}")
    environment = {**ENVIRONMENT, "DPKG_FRONTEND_LOCKED": "true"}
    dpkg = ["dpkg", "--force-confdef", "--force-confold", "--force-downgrade", "--auto-deconfigure"]
    error = ""
    with frontend_lock(), services_untouched():
        # again, as a package may have to be configured before another one can be unpacked
        for _round in range(ROUNDS):
            debs = [str(directory / package.file) for package in _to_unpack(behind)]
            error = ""
            for action in (["--unpack", *debs] if debs else [], ["--configure", "--pending"]):
                code, said = run([*dpkg, *action], environment, seconds=600, codes=None) if action else (0, "")
                error = error or (said if code else "")
            behind, extra = differences(wanted)
            if not behind:
                break
        if extra and not behind:
            names = [f"{p.name}:{p.architecture}" if p.architecture != "all" else p.name for p in extra]
            _code, error = run(["dpkg", "--purge", *names], environment, seconds=600, codes=None)
            behind, extra = differences(wanted)
    if behind or extra:
        names = [f"{p.name} {p.version}" for p in behind] or [p.name for p in extra]
        raise TransactionError(f"dpkg did not bring back {', '.join(names)}: {error.strip()[-600:]}")
    return touched


def _to_unpack(behind: Sequence[Package]) -> list[Package]:
    """Those that are not only to be configured."""
    now = {package.key: package for package in installed()}
    unpacked = ("unpacked", "half-configured", "triggers-awaited", "triggers-pending")
    return [
        p for p in behind if p.key not in now or now[p.key].version != p.version or now[p.key].state not in unpacked
    ]
