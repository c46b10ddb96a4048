# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger on disk: one run at a time, replaced whole and synced. Why and when it is written: see ledger."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ansible_collections.mailwright.server.plugins.module_utils.config_tree.store import sync_directory
from ansible_collections.mailwright.server.plugins.module_utils.dns.ledger import (
    Ledger,
    LedgerError,
    parse_ledger,
    render_ledger,
)

LOCK_WAIT = 300.0


@contextmanager
def locked(path: str, wait: float = LOCK_WAIT) -> Iterator[None]:
    """Hold the ledger's lock (PATH.lock; the kernel lets go of it when the process dies).

    Raises LedgerError when another run holds it for longer than `wait` seconds.
    """
    end = time.monotonic() + wait
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        handle = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LedgerError(f"ledger {path}: {error.strerror}") from error
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise LedgerError(f"ledger {path}: another run has held it for {wait:.0f} s") from None
                time.sleep(0.1)
        yield
    finally:
        os.close(handle)


def read_ledger(path: str) -> Ledger:
    """Read the ledger; one that does not exist is empty. Raises LedgerError."""
    try:
        with open(path, encoding="utf-8") as stream:
            return parse_ledger(stream.read())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise LedgerError(f"ledger {path}: {error}") from error
    except LedgerError as error:
        raise LedgerError(f"ledger {path}: {error}; restore it from a backup, or from version control") from error


def write_ledger(path: str, ledger: Ledger) -> None:
    """Replace the ledger; it is on disk when this returns. The caller holds the lock. Raises LedgerError."""
    target = os.path.realpath(path)
    # Under the lock there is one writer, so what a killed run left under this name is simply overwritten.
    stage = f"{target}.new"
    try:
        handle = os.open(stage, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(handle, "w", encoding="utf-8") as stream:
            stream.write(render_ledger(ledger))
            stream.flush()
            os.fsync(handle)
        os.rename(stage, target)
        sync_directory(os.path.dirname(target))
    except OSError as error:
        raise LedgerError(f"ledger {path}: cannot be written: {error.strerror}") from error
