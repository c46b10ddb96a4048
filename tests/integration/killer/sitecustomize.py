# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Python loads this at its start where PYTHONPATH names this directory. It kills the process after a write of state.

After a rename or a deletion of what is WATCHED the process notes path and digest in the file `kills` beside this one,
and sends itself SIGKILL, which leaves no chance to clean up. What stands in that file does not kill again: the same
run, made again, gets one write further.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
from typing import Any

KILLS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "kills")
WATCHED = re.compile(r"/var/lib/mailwright/dkim/.+|/etc/rspamd/local\.d/.+|.+/dns-ledger\.json")
_rename, _unlink = os.rename, os.unlink


def _kill_once(path: str, content: bytes) -> None:
    line = f"{hashlib.sha256(content).hexdigest()} {path}\n"
    with open(KILLS, "a+", encoding="utf-8") as stream:
        stream.seek(0)
        if line in stream:
            return
        stream.write(line)
    os.kill(os.getpid(), signal.SIGKILL)


def rename(source: Any, target: Any, **keywords: Any) -> None:
    """Rename, then die if it was a watched file."""
    _rename(source, target, **keywords)
    if WATCHED.fullmatch(os.fspath(target)):
        with open(target, "rb") as stream:
            content = stream.read()
        _kill_once(os.fspath(target), content)


def unlink(path: Any, **keywords: Any) -> None:
    """Delete, then die if it was a watched file; not where it was a temporary one."""
    _unlink(path, **keywords)
    if WATCHED.fullmatch(os.fspath(path)) and not os.path.basename(path).startswith("."):
        _kill_once(os.fspath(path), b"")


os.rename, os.unlink = rename, unlink  # type: ignore[assignment]
