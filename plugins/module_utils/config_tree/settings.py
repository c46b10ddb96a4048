# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The task's parameters, checked as a whole and turned into the types that the rest works with."""

from __future__ import annotations

import base64
import binascii
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.config_tree.plan import File, matches, parents
from ansible_collections.mailwright.server.plugins.module_utils.config_tree.units import Unit, full_name

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_VOLATILE = ("dev", "proc", "run", "sys", "tmp")
_MODE = re.compile(r"[0-7]{3,4}")


class SettingsError(ValueError):
    """All that is wrong with the parameters, one line each, with key path, value and what would be right."""


@dataclass(frozen=True)
class Command:
    """A program to run after the swap when a changed path matches one of the globs."""

    argv: tuple[str, ...]
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Settings:
    """One task's checked parameters. ``permissions`` stay as given, for paths that are not in ``files``."""

    name: str
    files: Mapping[str, File]
    permissions: Sequence[Mapping[str, Any]]
    checks: tuple[tuple[str, ...], ...] = ()
    commands: tuple[Command, ...] = ()
    units: tuple[Unit, ...] = ()

    def declared_open(self, path: str) -> bool:
        """Say whether the last permission that speaks of the path's sensitivity says it is not sensitive."""
        return attribute(self.permissions, path, "sensitive") is False


def attribute(permissions: Sequence[Mapping[str, Any]], path: str, key: str) -> Any:
    """Return the value of ``key`` in the last entry that matches the path and sets it, or None."""
    for entry in reversed(permissions):
        if entry.get(key) is not None and matches(path, [entry["path"]]):
            return entry[key]
    return None


def _path_error(path: str) -> str:
    if not path.startswith("/") or os.path.normpath(path) != path or path.startswith("//") or "\0" in path:
        return "must be an absolute path without '..', '//' or a trailing slash"
    if path.count("/") < 2 or path.split("/")[1] in _VOLATILE:
        return "must lie below a top-level directory that outlives a reboot, such as /etc"
    return ""


def _mode(value: Any, where: str, errors: list[str]) -> int:
    if not isinstance(value, str) or not _MODE.fullmatch(value):
        errors.append(f'{where}: {value!r} is not a mode; write it as quoted octal, such as "0640"')
        return 0
    return int(value, 8)


def _argv(value: str, where: str, errors: list[str]) -> tuple[str, ...]:
    try:
        argv = tuple(shlex.split(value))
    except ValueError as error:
        errors.append(f"{where}: {value!r} cannot be split into words: {error}")
        return ()
    if not argv:
        errors.append(f"{where}: is empty; give a program and its arguments")
    return argv


def _address_error(address: str) -> str:
    if address.startswith("/"):
        return ""
    host, _colon, port = address.rpartition(":")
    if not re.fullmatch(r"\d{1,3}(\.\d{1,3}){3}", host) or not port.isdecimal() or not 0 < int(port) < 65536:
        return "must be an IPv4 address with a port, such as 127.0.0.1:25, or the path of a Unix socket"
    return ""


def parse(params: Mapping[str, Any]) -> Settings:
    """Check the module's parameters and convert them.

    Owners and groups stay names here: only the host knows its numbers.
    Raises SettingsError with all errors at once.
    """
    errors: list[str] = []
    name = params["name"]
    if not _NAME.fullmatch(name):
        errors.append(f"name: {name!r} must be lower-case letters, digits, '-' and '_'")

    permissions = params.get("permissions") or []
    for index, entry in enumerate(permissions):
        if entry.get("mode") is not None:
            _mode(entry["mode"], f"permissions[{index}].mode", errors)

    files: dict[str, File] = {}
    for index, item in enumerate(params["files"]):
        path, where = item["path"], f"files[{index}]"
        problem = _path_error(path)
        if problem:
            errors.append(f"{where}.path: {path!r} {problem}")
            continue
        if path in files:
            errors.append(f"{where}.path: {path!r} is given twice")
            continue
        try:
            content = base64.b64decode(item["content"], validate=True)
        except (binascii.Error, ValueError):
            errors.append(f"{where}.content: the content of {path} is not base64")
            continue
        declared = attribute(permissions, path, "mode")
        mode = 0o644
        if isinstance(declared, str) and _MODE.fullmatch(declared):
            mode = int(declared, 8)
        elif declared is None and item.get("mode") is not None:
            mode = _mode(item["mode"], f"{where}.mode", errors)
        sensitive = attribute(permissions, path, "sensitive")
        files[path] = File(
            path,
            content,
            owner=attribute(permissions, path, "owner") or "root",
            group=attribute(permissions, path, "group") or "root",
            mode=mode,
            # A file that not everybody may read is not for everybody's log either, unless the role says so.
            sensitive=not mode & 0o004 if sensitive is None else sensitive,
        )
    for path in files:
        for parent in parents(path):
            if parent in files:
                errors.append(f"files: {parent!r} is a file and also the directory of {path!r}")

    checks = tuple(_argv(line, f"check[{i}]", errors) for i, line in enumerate(params.get("check") or []))
    commands = tuple(
        Command(_argv(item["run"], f"commands[{i}].run", errors), tuple(item.get("paths") or ("*",)))
        for i, item in enumerate(params.get("commands") or [])
    )
    units: list[Unit] = []
    for index, item in enumerate(params.get("units") or []):
        unit = full_name(item["name"])
        if any(u.name == unit for u in units):
            errors.append(f"units[{index}].name: {item['name']!r} is given twice")
        listens = tuple(item.get("listens") or ())
        errors += [f"units[{index}].listens: {a!r} {problem}" for a in listens if (problem := _address_error(a))]
        started = {"started": True, "stopped": False, "unmanaged": None}[item.get("state") or "started"]
        enabled = item.get("enabled")
        units.append(
            Unit(
                unit,
                started=started,
                enabled=started is not False if enabled is None else enabled,
                restart_on=tuple(item.get("restart_on") or ()),
                reload_on=("*",) if item.get("reload_on") is None else tuple(item["reload_on"]),
                listens=listens,
            )
        )
    if errors:
        raise SettingsError("\n".join(errors))
    return Settings(name, files, permissions, checks, commands, tuple(units))
