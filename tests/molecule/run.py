# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run Molecule's scenarios one after the other, say what goes on, and leave the lab as it was found."""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT / "tests/lab"))

import lab  # noqa: E402

STATE = CHECKOUT / ".cache/molecule"
# what Molecule says when a step begins, is left out, and ends
STEP = re.compile(r"^\w+ +\[[\w-]+ > (?P<step>\w+)] (?:\x1b\[[\d;]*m)?(?P<what>Executing|Skipping|Executed: \w+)")
TAIL = 80


def say(text: str) -> None:
    print(f"molecule: {text}", flush=True)


def lab_command(*arguments: str) -> None:
    subprocess.run([sys.executable, str(CHECKOUT / "tests/lab/lab.py"), *arguments], check=True)


def molecule(scenario: str, *arguments: str, verbose: bool) -> bool:
    """Run one of Molecule's commands, its output to the scenario's log; says which steps it takes, and how long."""
    directory = STATE / scenario
    directory.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "PATH": f"{CHECKOUT}/.venv/bin:{os.environ['PATH']}",
        # Molecule's own choice of a place is the same for all checkouts of one name
        "MOLECULE_EPHEMERAL_DIRECTORY": str(directory),
        "MAILWRIGHT_LAB": str(lab.STATE),
        "NO_COLOR": "1",
    }
    with (
        (STATE / f"{scenario}.log").open("a") as log,
        subprocess.Popen(
            ["molecule", *arguments, "--scenario-name", scenario], cwd=CHECKOUT, env=environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process,
    ):  # fmt: skip
        try:
            assert process.stdout is not None
            began, result = time.monotonic(), ""
            for line in process.stdout:
                log.write(line)
                if verbose:
                    print(line, end="", flush=True)
                elif found := STEP.match(line):
                    if found["what"] == "Executing":
                        began, result = time.monotonic(), ""
                    elif found["what"] == "Skipping":
                        result = "skipped"
                    else:
                        result = result or found["what"].removeprefix("Executed: ").lower()
                        say(f"{scenario}: {found['step']} {result} ({time.monotonic() - began:.0f} s)")
        except BaseException:
            process.terminate()
            raise
    return process.returncode == 0


def run(scenario: str, *, keep: bool, verbose: bool) -> bool:
    """Take a scenario through its whole sequence; its host is gone afterwards whatever happened, unless it is kept."""
    started = time.monotonic()
    log = STATE / f"{scenario}.log"
    log.unlink(missing_ok=True)
    try:
        # with --destroy never, Molecule leaves out the first destroy as well
        passed = not keep or molecule(scenario, "destroy", verbose=verbose)
        passed = passed and molecule(scenario, "test", "--destroy", "never" if keep else "always", verbose=verbose)
    finally:
        if not keep:
            lab_command("down", f"mx-{scenario}")
    if not passed and not verbose:
        print("".join(log.read_text().splitlines(keepends=True)[-TAIL:]), end="")
    say(f"{scenario}: {'passed' if passed else 'FAILED'} after {time.monotonic() - started:.0f} s (log: {log})")
    return passed


def restore(*, existed: bool, running: list[str]) -> None:
    """End what was started for the scenarios: ns1, or the whole lab if there was none and nobody else uses it now."""
    if "ns1" in running or any(name != "ns1" for name in lab.hosts_running()):
        return
    if existed:
        lab_command("stop", "ns1")
    else:
        lab_command("down")


def interrupted(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    every = sorted(path.parent.name for path in CHECKOUT.glob("molecule/*/molecule.yml"))
    parser = argparse.ArgumentParser(prog="tests/run_molecule", description="Run Molecule's scenarios.")
    parser.add_argument("scenarios", nargs="*", metavar="scenario", help=f"of {', '.join(every)} (default: all)")
    parser.add_argument("--keep", action="store_true", help="leave the hosts running")
    parser.add_argument("--verbose", action="store_true", help="show all of Molecule's output, not only its steps")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.scenarios if name not in every]
    if unknown:
        parser.error(f"no scenario {', '.join(unknown)}: there are {', '.join(every)}")
    if os.geteuid() != 0:
        parser.error("needs root (systemd-nspawn, a bridge and overlay mounts): use sudo")
    signal.signal(signal.SIGTERM, interrupted)
    existed, running = lab.load() is not None, lab.hosts_running()
    scenarios = arguments.scenarios or every
    passed = 0
    try:
        for scenario in scenarios:
            passed += run(scenario, keep=arguments.keep, verbose=arguments.verbose)
    finally:
        if not arguments.keep:
            restore(existed=existed, running=running)
    print(f"{passed} passed, {len(scenarios) - passed} failed", flush=True)
    return 0 if passed == len(scenarios) else 1


if __name__ == "__main__":
    sys.exit(main())
