# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory, pending updates, and whether the host waits for a reboot."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ansible_collections.mailwright.server.plugins.module_utils.probes.result import Result, Status, duration, judge
from ansible_collections.mailwright.server.plugins.module_utils.probes.runner import output

MEMORY_WARN, MEMORY_FAIL = 90.0, 97.0
LISTS = "/var/lib/apt/lists"
LISTS_WARN = 8 * 86400
REBOOT_FILES = ("/run/reboot-required", "/run/reboot-required.pkgs")
KERNEL_LINK = "/vmlinuz"


def parse_meminfo(text: str) -> dict[str, int]:
    """Read /proc/meminfo: bytes by name (proc_meminfo(5) counts in KiB)."""
    fields = (line.split() for line in text.splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in fields if len(words) > 1}


def evaluate_memory(sizes: Mapping[str, int]) -> Result:
    """Judge memory by what programs can still get without swapping."""
    total, available = sizes["MemTotal"], sizes["MemAvailable"]
    used = 100.0 * (total - available) / total
    text = f"{used:.0f} % used, {available / 2**20:.0f} MiB of {total / 2**20:.0f} MiB available"
    data = {"available_bytes": available, "total_bytes": total}
    return Result("memory", "system", judge(used, MEMORY_WARN, MEMORY_FAIL), text, data=data)


def evaluate_reboot(packages: Sequence[str] | None, running: str, newest: str | None) -> Result:
    """Judge whether packages asked for a reboot (None: no) or a newer kernel than the running one is installed."""
    if packages is not None:
        return Result("reboot", "system", "warn", "required by " + (", ".join(sorted(set(packages))) or "a package"))
    if newest is not None and newest != running:
        return Result("reboot", "system", "warn", f"required: runs kernel {running}, {newest} is installed")
    return Result("reboot", "system", "ok", "not required")


def evaluate_updates(simulation: str, lists_age: float | None) -> Result:
    """Judge what `apt-get --simulate dist-upgrade` would install; the lists' age in seconds (None: there are none)."""
    lines = [line for line in simulation.splitlines() if line.startswith("Inst ")]
    security = [line.split()[1] for line in lines if "Debian-Security" in line]
    words = f"{len(lines)} pending, {len(security)} of them for security" if lines else "none pending"
    status: Status = "warn" if security else "ok"
    detail: tuple[str, ...] = ()
    if security:
        detail = ("security: " + " ".join(security[:20]) + (" ..." if len(security) > 20 else ""),)
    if lists_age is None:
        status, words = "warn", "unknown: there are no package lists; run apt-get update"
    elif lists_age >= LISTS_WARN:
        status, words = "warn", f"{words} by package lists that are {duration(lists_age)} old"
    data = {"pending": [line.split()[1] for line in lines], "security": security, "lists_age_seconds": lists_age}
    return Result("updates", "system", status, words, detail, data=data)


def probe_memory() -> list[Result]:
    """Measure and judge memory."""
    return [evaluate_memory(parse_meminfo(Path("/proc/meminfo").read_text(encoding="ascii")))]


def probe_reboot() -> list[Result]:
    """Look for Debian's mark and compare kernels; a container has none of its own."""
    packages = None
    if os.path.exists(REBOOT_FILES[0]):
        listed = Path(REBOOT_FILES[1])
        packages = listed.read_text(encoding="utf-8").split() if listed.exists() else []
    newest = None
    if os.path.islink(KERNEL_LINK):
        newest = os.path.basename(os.readlink(KERNEL_LINK)).removeprefix("vmlinuz-")
    return [evaluate_reboot(packages, os.uname().release, newest)]


def probe_updates() -> list[Result]:
    """Let apt plan from its lists as they are: no network, no lock, no cache file written."""
    quiet = ["-o", "Debug::NoLocking=true", "-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="]
    plan = output(["apt-get", "--simulate", "-qq", *quiet, "dist-upgrade"], timeout=60.0)
    return [evaluate_updates(plan, _lists_age())]


def _lists_age() -> float | None:
    # apt keeps the server's time on a list, so the directory tells when it was last asked.
    names = [name for name in os.listdir(LISTS) if name.endswith(("_InRelease", "_Release"))]
    if not names:
        return None
    newest = max(os.stat(path).st_mtime for path in (LISTS, os.path.join(LISTS, "partial")) if os.path.isdir(path))
    return max(0.0, time.time() - newest)
