# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run probes side by side, none for longer than it may."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace

from ansible_collections.mailwright.server.plugins.module_utils.probes.result import Result


@dataclass(frozen=True)
class Probe:
    """A named piece of work of one group, and the seconds it is waited for."""

    name: str
    group: str
    work: Callable[[], Iterable[Result]]
    seconds: float = 10.0


def run_all(probes: Sequence[Probe]) -> list[Result]:
    """Run every probe in a thread of its own and collect the results in the order of the probes.

    A probe that raises or does not end in time becomes one failed result with the reason. Threads that hang are left
    behind: they end with the process.
    """
    futures = []
    start = time.monotonic()
    for probe in probes:
        future: Future[list[Result]] = Future()
        threading.Thread(target=_work, args=(probe, future), daemon=True).start()
        futures.append(future)
    results: list[Result] = []
    for probe, future in zip(probes, futures, strict=True):
        wait([future], max(0.0, start + probe.seconds - time.monotonic()))
        if future.done():
            results.extend(future.result())
        else:
            text = f"no result within {probe.seconds:.0f} s"
            results.append(Result(probe.name, probe.group, "fail", text, seconds=probe.seconds))
    return results


def _work(probe: Probe, future: Future[list[Result]]) -> None:
    start = time.monotonic()
    try:
        found = list(probe.work())
    except Exception as error:  # a probe's own fault must not cost the report of the others
        found = [Result(probe.name, probe.group, "fail", reason(error))]
    seconds = time.monotonic() - start
    future.set_result([result if result.seconds else replace(result, seconds=seconds) for result in found])


def reason(error: BaseException) -> str:
    """Say in one line why something could not be looked at."""
    if isinstance(error, FileNotFoundError):
        return f"{error.filename} is not there" if error.filename else "is not there"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"{error.cmd[0]} did not end within {error.timeout:.0f} s"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def output(argv: Sequence[str], timeout: float = 8.0) -> str:
    """Standard output of a program that ends with success.

    Raises FileNotFoundError, subprocess.TimeoutExpired (`timeout` in seconds), RuntimeError with the last line it said.
    """
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise RuntimeError(f"{argv[0]} ended with {done.returncode}: {said}")
    return done.stdout
