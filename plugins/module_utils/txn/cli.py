# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's commands. What runs on the host is a zip archive of this package, see bundle.py."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TextIO

from ansible_collections.mailwright.server.plugins.module_utils.txn import engine, snapshot
from ansible_collections.mailwright.server.plugins.module_utils.txn.storage import TransactionError


def say(text: str, stream: TextIO | None = None) -> None:
    """Tell the person who runs this, at once."""
    (stream or sys.stdout).write(f"{text}\n")
    (stream or sys.stdout).flush()


def main() -> int:
    """Run a command; gives the exit code."""
    archive = Path(sys.argv[0]).resolve()
    parser = argparse.ArgumentParser(prog=archive.name)
    if archive.name == "restore.pyz":
        parser.description = "Bring this host back to the snapshot beside this program, without network."
        parser.add_argument("--check", action="store_true", help="only say what differs from the snapshot")
        parser.add_argument(
            "--databases", action="store_true",
            help="also put the databases' dumps back: every change to mailboxes and passwords since is lost",
        )  # fmt: skip
    else:
        parser.add_argument("command", choices=["run", "recover"])
    arguments = parser.parse_args()
    try:
        if archive.name == "restore.pyz":
            return _restore(archive.parent, arguments)
        return engine.settle(at_boot=arguments.command == "recover")
    except TransactionError as error:
        say(f"error: {error}", sys.stderr)
        return 1


def _restore(directory: Path, arguments: argparse.Namespace) -> int:
    taken = snapshot.Snapshot(directory)
    if arguments.check:
        behind, extra = taken.other_packages()
        for package in behind:
            say(f"package {package.name}: not {package.version}")
        for package in extra:
            say(f"package {package.name}: was not there")
        for path in taken.changed_files(None):
            say(f"file {path}")
        return 0
    if arguments.databases:
        say(f"databases put back: {', '.join(taken.restore_databases())}")
    return engine.restore_by_hand(directory, say)
