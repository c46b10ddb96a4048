# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The .deb files of what is installed, kept because the archive cannot give an old version back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

STORE = Path("/var/lib/mailwright/packages")
# where apt keeps what it downloaded
ARCHIVES = Path("/var/cache/apt/archives")
QUERY = r"${Package}\t${Architecture}\t${Version}\t${db:Status-Status}\n"


@dataclass(frozen=True, order=True)
class Package:
    """An installed version; state is dpkg's."""

    name: str
    architecture: str
    version: str
    state: str = "installed"

    @property
    def file(self) -> str:
        """The name of its .deb, as apt writes it."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"

    @property
    def key(self) -> tuple[str, str]:
        """What dpkg keeps one version of."""
        return self.name, self.architecture


def parse(listing: str) -> list[Package]:
    """Read what dpkg-query prints for QUERY; what is not there any more is left out."""
    found = [Package(*line.split("\t")) for line in listing.splitlines() if line.count("\t") == 3]
    return sorted(package for package in found if package.state not in ("not-installed", "config-files"))


def link_or_copy(source: Path, target: Path) -> None:
    """Have the file at the target too. A .deb is never changed in place, so a second name costs no space."""
    if target.exists() and target.stat().st_size == source.stat().st_size:
        return
    staged = target.with_name(f".{target.name}")
    staged.unlink(missing_ok=True)
    try:
        os.link(source, staged)
    except OSError:
        shutil.copyfile(source, staged)
    staged.rename(target)


def keep(packages: Iterable[Package], archives: Path = ARCHIVES, store: Path = STORE) -> None:
    """Keep the .debs that apt has downloaded, as far as they are there."""
    store.mkdir(mode=0o700, parents=True, exist_ok=True)
    for package in packages:
        if (archives / package.file).is_file():
            link_or_copy(archives / package.file, store / package.file)


def prune(packages: Collection[Package], store: Path = STORE) -> list[str]:
    """Remove the .debs of what is not installed any more; snapshots hold their own."""
    wanted = {package.file for package in packages}
    gone = sorted(path.name for path in store.glob("*.deb") if path.name not in wanted) if store.is_dir() else []
    for name in gone:
        (store / name).unlink()
    return gone
