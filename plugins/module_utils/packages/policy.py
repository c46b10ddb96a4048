# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Forbid maintainer scripts to start, stop or restart services while packages are being installed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

# invoke-rc.d(8): 101 forbids every action. The mark tells our file from an administrator's.
POLICY = Path("/usr/sbin/policy-rc.d")
MARK = "# mailwright: only while packages are installed"


@contextlib.contextmanager
def services_untouched() -> Iterator[None]:
    """Forbid every action; an administrator's own policy is put back."""
    kept = POLICY.with_name("policy-rc.d.mailwright-kept")
    release()
    if POLICY.exists():
        POLICY.rename(kept)
    try:
        POLICY.write_text(f"#!/bin/sh\n{MARK}\nexit 101\n", encoding="ascii")
        POLICY.chmod(0o755)
        yield
    finally:
        release()


def release() -> None:
    """Take our policy away, also one that a killed run left, and put an administrator's back."""
    if POLICY.exists() and MARK in POLICY.read_text(encoding="utf-8", errors="replace"):
        POLICY.unlink()
    kept = POLICY.with_name("policy-rc.d.mailwright-kept")
    if kept.exists():
        os.replace(kept, POLICY)
