# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run programs, and say in one error what a failed one said."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from ansible_collections.mailwright.server.plugins.module_utils.config_tree.stage import ENVIRONMENT
from ansible_collections.mailwright.server.plugins.module_utils.txn.storage import TransactionError

TAIL = 1500


def run(
    argv: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    cwd: Path | str = "/",
    seconds: float = 300.0,
    codes: tuple[int, ...] | None = (0,),
    data: str | None = None,
) -> tuple[int, str]:
    """Run a program; gives its exit code and what it said, of which only the end is kept in an error.

    Raises TransactionError when it ends with none of the codes (None: any is fine), or not in time.
    """
    with open(os.memfd_create("output"), "w+b") as said:
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE if data is not None else subprocess.DEVNULL, stdout=said,
            stderr=subprocess.STDOUT, cwd=cwd, env={**ENVIRONMENT, **(environment or {})}, start_new_session=True,
        )  # fmt: skip
        try:
            if process.stdin is not None and data is not None:
                process.stdin.write(data.encode())
                process.stdin.close()
            code = process.wait(seconds)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise TransactionError(f"{argv[0]}: no end after {seconds:.0f} s, killed") from None
            raise
        said.seek(0)
        text = said.read().decode("utf-8", "replace")
    if codes is not None and code not in codes:
        raise TransactionError(f"{' '.join(argv[:8])}: exit code {code}: {text.strip()[-TAIL:]}")
    return code, text


def output(
    argv: Sequence[str], environment: Mapping[str, str] | None = None, *, codes: tuple[int, ...] | None = (0,)
) -> str:
    """What a program prints, its errors too. Raises TransactionError."""
    return run(argv, environment, codes=codes)[1]
