# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on a host: rebuilds installed packages with a higher version, good or broken, into a local apt repository.

Arguments: directory, name of the variant. The packages are real; only what the variant is about is changed in them.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

STORES = (Path("/var/lib/mailwright/packages"), Path("/var/cache/apt/archives"))
NOTHING = "#!/bin/sh\nexit 1\n"


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, text=True, capture_output=True).stdout


def replace(path: Path, text: str) -> None:
    assert path.exists(), path
    path.write_text(text)


def fails_to_configure(root: Path) -> None:
    """A postinst that fails."""
    script = root / "DEBIAN/postinst"
    replace(script, script.read_text().replace("set -e\n", 'set -e\n[ "$1" != configure ] || exit 1\n', 1))
    assert "exit 1" in script.read_text()


def does_not_deliver(root: Path) -> None:
    """A Dovecot that starts, lets people log in, and takes no mail in."""
    replace(root / "usr/lib/dovecot/lmtp", NOTHING)


def does_not_start(root: Path) -> None:
    replace(root / "usr/lib/postfix/sbin/master", NOTHING)


def does_not_sign(root: Path) -> None:
    """A filter that does everything but sign."""
    replace(root / "usr/share/rspamd/plugins/dkim_signing.lua", "return\n")


def loses_the_milter(root: Path) -> None:
    """A maintainer script that edits the configuration: mail is accepted and delivered, unfiltered and unsigned."""
    script = root / "DEBIAN/postinst"
    replace(
        script, script.read_text().replace("set -e\n", "set -e\npostconf -e smtpd_milters= non_smtpd_milters=\n", 1)
    )
    assert "milters=" in script.read_text()


def changes_its_defaults(root: Path) -> None:
    """Another configuration of the package's own: ucf leaves it beside the host's, which differs."""
    sample = root / "usr/share/roundcube/config.inc.php.sample"
    replace(sample, sample.read_text() + "$config['skin_logo'] = null;\n")


ALL = ("postfix", "dovecot", "rspamd", "roundcube")
# variant -> sources that are rebuilt, the package that is changed, how
VARIANTS: dict[str, tuple[tuple[str, ...], str, Callable[[Path], None] | None]] = {
    "good": (ALL, "roundcube-core", changes_its_defaults),
    "small": (("postfix", "rspamd", "roundcube"), "roundcube-core", changes_its_defaults),
    "postinst": (("dovecot",), "dovecot-core", fails_to_configure),
    "delivery": (("dovecot",), "dovecot-lmtpd", does_not_deliver),
    "start": (("postfix",), "postfix", does_not_start),
    "signature": (("rspamd",), "rspamd", does_not_sign),
    "milter": (("postfix",), "postfix", loses_the_milter),
}


def installed(source: str) -> list[tuple[str, str, str]]:
    listing = run(
        "dpkg-query", "-W", "-f", "${source:Package} ${Package} ${Version} ${Architecture} ${db:Status-Status}\n"
    )
    rows = [line.split() for line in listing.splitlines()]
    return [(row[1], row[2], row[3]) for row in rows if row[0] == source and row[4] == "installed"]


def rebuild(directory: Path, name: str, version: str, architecture: str, variant: str) -> None:
    """One package, its files and scripts as they were but for what the variant breaks."""
    file = f"{name}_{version.replace(':', '%3a')}_{architecture}.deb"
    deb = next(store / file for store in STORES if (store / file).exists())
    root = directory / "root"
    shutil.rmtree(root, ignore_errors=True)
    run("dpkg-deb", "-R", str(deb), str(root))
    new = re.sub(r"\+lab\d+$", "", version) + f"+lab{1 + list(VARIANTS).index(variant)}"
    control = root / "DEBIAN/control"
    control.write_text(
        control.read_text()
        .replace(f"Version: {version}\n", f"Version: {new}\n")
        .replace(f"(= {version})", f"(= {new})")
    )
    _sources, changed, how = VARIANTS[variant]
    if how and name == changed:
        how(root)
    target = directory / f"{name}_{new.replace(':', '%3a')}_{architecture}.deb"
    run("dpkg-deb", "--root-owner-group", "-Znone", "-b", str(root), str(target))
    shutil.rmtree(root)


def index(directory: Path) -> None:
    """The repository's list of packages."""
    text = ""
    for deb in sorted(directory.glob("*.deb")):
        content = deb.read_bytes()
        text += run("dpkg-deb", "-f", str(deb))
        text += f"Filename: ./{deb.name}\nSize: {len(content)}\nSHA256: {hashlib.sha256(content).hexdigest()}\n\n"
    (directory / "Packages").write_text(text)


def main() -> None:
    directory, variant = Path(sys.argv[1]), sys.argv[2]
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for source in VARIANTS[variant][0]:
        for name, version, architecture in installed(source):
            rebuild(directory, name, version, architecture, variant)
    index(directory)
    Path("/etc/apt/sources.list.d/lab-updates.list").write_text(f"deb [trusted=yes] file:{directory} ./\n")


main()
