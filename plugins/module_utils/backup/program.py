# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line on the host: ``mailwright-backup run``, ``check`` or ``snapshots``.

Exit codes: 0 done, 1 failed (standard error says why), 2 called wrongly, 75 another run holds the lock (EX_TEMPFAIL).
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from . import job
from .restic import Restic
from .settings import BackupError, BusyError, Settings

COMMANDS = ("run", "check", "snapshots")


def main(arguments: Sequence[str]) -> int:
    """Do what the command says and return the exit code."""
    if len(arguments) != 1 or arguments[0] not in COMMANDS:
        print(f"usage: mailwright-backup {'|'.join(COMMANDS)}", file=sys.stderr)
        return 2
    # stopped: clean up and note it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    try:
        settings = Settings.load()
        if arguments[0] == "run":
            facts = job.back_up(settings)
            print(f"snapshot {facts['snapshot'][:8]}: {facts['messages']} messages of {facts['mailboxes']} mailboxes, "
                  f"{facts['added_bytes'] / 2**20:.1f} MiB added")  # fmt: skip
        elif arguments[0] == "check":
            facts = job.check(settings)
            print(f"the repository is whole; {facts['percent']} % of its data read back")
        else:
            for snapshot in Restic(settings).snapshots():
                print(snapshot)
    except BusyError as error:
        print(error, file=sys.stderr)
        return 75
    except (BackupError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0
