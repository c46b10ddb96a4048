# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a service's own checker where the new files already lie at their real paths, in a private mount namespace."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

from ansible_collections.mailwright.server.plugins.module_utils.config_tree.plan import ConfigTreeError, File
from ansible_collections.mailwright.server.plugins.module_utils.config_tree.store import make_parents

# Hidden behind the layers' memory while the view is built, and only in the private namespace.
STAGE = "/run"
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": SEARCH_PATH, "HOME": "/root", "LC_ALL": "C.UTF-8", "LANG": "C.UTF-8"}
CHECK_SECONDS = 60.0
TAIL_LINES = 30

# Flags of unshare(2) and mount(2), from <sched.h> and <sys/mount.h>.
_CLONE_NEWNS = 0x00020000
_MS_NOSUID = 0x2
_MS_NODEV = 0x4
_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_PRIVATE = 0x40000
_MNT_DETACH = 0x2


@dataclass(frozen=True)
class CheckResult:
    """One checker's end: ``code`` is None when the program does not exist, -1 when it ran out of time."""

    argv: tuple[str, ...]
    code: int | None
    output: str


def tail(text: str) -> str:
    """Return the last lines of a program's output."""
    return "\n".join(text.strip().splitlines()[-TAIL_LINES:])


def redact(text: str, secrets: Collection[bytes]) -> str:
    """Replace what a program quoted from files with sensitive content: whole lines and the values in them.

    Values are what follows '=' or ':' or is quoted; those under six characters stay, as they would hide ordinary words.
    """
    quoted: set[str] = set()
    for content in secrets:
        for line in content.decode("utf-8", "replace").splitlines():
            line = line.strip()
            if len(line) < 6 or line.startswith("#"):
                continue
            quoted.add(line)
            _key, separator, value = line.partition("=") if "=" in line else line.partition(":")
            value = value.strip().strip("\"';, ")
            if separator and len(value) >= 6:
                quoted.add(value)
            quoted.update(w for w in re.findall(r"[\"']([^\"']{6,})[\"']", line))
    for value in sorted(quoted, key=len, reverse=True):
        text = text.replace(value, "<hidden>")
    return text


def run_program(argv: Sequence[str], seconds: float) -> tuple[int, str]:
    """Run a program without shell or input; return its exit code and output, -1 when it ran out of time."""
    # A file, not a pipe: a daemon that a checker leaves behind would hold a pipe open.
    with open(os.memfd_create("output"), "w+b") as output:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=ENVIRONMENT,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = -1
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    return code, text if code != -1 else f"{text}\nno end after {seconds:.0f} s, killed"


def mount_points() -> list[str]:
    """Return all mount points, in mount order; proc_pid_mountinfo(5)."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as stream:
        points = [line.split(" ")[4] for line in stream]
    return [re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), point) for point in points]


def overlay_points(paths: Collection[str], mounts: Collection[str]) -> list[str]:
    """Return the directories that need an overlay, parents first: top-level ones, or deeper mounts."""
    points = set()
    for path in paths:
        top = "/" + path.split("/")[1]
        deeper = [m for m in mounts if m != path and path.startswith(m.rstrip("/") + "/") and len(m) > len(top)]
        points.add(max(deeper, key=len, default=top))
    return sorted(points)


def real_path(path: str) -> str:
    """Resolve the directory of a path, but not the last part: a link there is replaced, not followed."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = [os.fsencode(text) for text in (source, target, kind)]
    if libc.mount(*arguments, ctypes.c_ulong(flags), os.fsencode(data)) != 0:
        number = ctypes.get_errno()
        raise ConfigTreeError(f"cannot stage: mounting {kind or 'a bind'} on {target} failed: {os.strerror(number)}")


def _enter_namespace() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        number = ctypes.get_errno()
        raise ConfigTreeError(f"cannot stage: a private mount namespace was refused: {os.strerror(number)}")
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)


def _overlay(paths: Collection[str]) -> None:
    """Lay a writable layer in memory over every directory that holds one of the paths; other mounts stay visible."""
    mounts = mount_points()
    points = overlay_points(paths, mounts)
    for point in points:
        if (point + "/").startswith(STAGE + "/"):
            raise ConfigTreeError(f"cannot stage: files below {STAGE} do not outlive a reboot")
        if not os.path.isdir(point):
            raise ConfigTreeError(f"cannot stage: {point} does not exist; create it before its files are configured")
    below = {m for m in mounts if m not in paths and any(m.startswith(p + "/") for p in points) and os.path.lexists(m)}
    _mount("mailwright", STAGE, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0700")
    targets = sorted({*points, *below})
    kept = {}
    for number, target in enumerate(targets):
        kept[target] = f"{STAGE}/{number}"
        if os.path.isdir(target):
            os.mkdir(kept[target])
        else:
            with open(kept[target], "xb"):
                pass
        _mount(target, kept[target], "", _MS_BIND)
    for target in targets:
        if target not in points:
            _mount(kept[target], target, "", _MS_BIND)
            continue
        # The layer is in memory because an overlay cannot serve as another overlay's upper directory.
        upper, work = f"{kept[target]}.upper", f"{kept[target]}.work"
        os.mkdir(upper)
        os.mkdir(work)
        shown = os.stat(target)
        os.chown(upper, shown.st_uid, shown.st_gid)
        os.chmod(upper, shown.st_mode & 0o7777)
        _mount("mailwright", target, "overlay", 0, f"lowerdir={kept[target]},upperdir={upper},workdir={work}")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(STAGE), _MNT_DETACH) != 0:
        raise ConfigTreeError(f"cannot stage: {STAGE} cannot be uncovered: {os.strerror(ctypes.get_errno())}")


def _write(files: Sequence[File], removals: Sequence[str]) -> None:
    for path in removals:
        os.unlink(path)
    for file in files:
        make_parents(file.path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(file.path)
        handle = os.open(file.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(handle, "wb") as stream:
            stream.write(file.content)
            stream.flush()
            os.fchown(handle, file.uid or 0, file.gid or 0)
            os.fchmod(handle, file.mode)


def _check(argv: tuple[str, ...]) -> CheckResult:
    program = shutil.which(argv[0], path=SEARCH_PATH)
    if program is None:
        return CheckResult(argv, None, "")
    code, output = run_program([program, *argv[1:]], CHECK_SECONDS)
    return CheckResult(argv, code, output)


def _child(files: Sequence[File], removals: Sequence[str], checks: Sequence[tuple[str, ...]]) -> dict[str, object]:
    try:
        _enter_namespace()
        _overlay({real_path(p) for p in (*(f.path for f in files), *removals)})
        _write(files, removals)
        return {"results": [asdict(_check(argv)) for argv in checks]}
    except ConfigTreeError as error:
        return {"error": str(error)}
    except OSError as error:
        return {"error": f"cannot stage: {error.strerror}: {error.filename or ''}"}


def run_checks(files: Sequence[File], removals: Sequence[str], checks: Sequence[tuple[str, ...]]) -> list[CheckResult]:
    """Run every checker on the host as it will be; the live host is not touched.

    ``files`` are written and ``removals`` unlinked in the private view only.
    Raises ConfigTreeError when the view cannot be made, never runs a checker without it.
    """
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(receive)
            answer = json.dumps(_child(files, removals, checks)).encode()
            with open(send, "wb") as stream:
                stream.write(answer)
            status = 0
        finally:
            # No clean-up of the parent's: this process is only a borrowed copy of it.
            os._exit(status)
    os.close(send)
    with open(receive, "rb") as stream:
        answer = stream.read()
    _pid, wait_status = os.waitpid(child, 0)
    if not answer:
        raise ConfigTreeError(f"cannot stage: the staging process ended with wait status {wait_status}")
    decoded = json.loads(answer)
    if "error" in decoded:
        raise ConfigTreeError(decoded["error"])
    return [CheckResult(tuple(r["argv"]), r["code"], r["output"]) for r in decoded["results"]]
