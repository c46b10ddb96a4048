# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts that a test may ruin, copies of the collection that it may spoil, and what changed on a host."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from connection import CHECKOUT, Lab

Result = subprocess.CompletedProcess[str]

# What configuration lives in. /run and the logs change by themselves on any host.
CONFIGURATION = ("/etc", "/usr/local", "/var/lib/mailwright")
EVERYTHING = ("/boot", "/etc", "/home", "/opt", "/root", "/srv", "/usr", "/var")
# Apt's own cache, logs, and what Ansible and systemd note about a connection.
PASSING = ("/var/lib/apt", "/var/cache/apt", "/var/log", "/var/tmp", "/root/.ansible", "/var/lib/systemd")

_SNAPSHOT = """
import hashlib, json, os, stat, sys
tops, passing = json.loads(sys.argv[1])
found = {}
for top in tops:
    for base, directories, names in os.walk(top):
        directories[:] = [d for d in directories if os.path.join(base, d) not in passing]
        for name in directories + names:
            path = os.path.join(base, name)
            info = os.lstat(path)
            what = "special"
            if stat.S_ISLNK(info.st_mode):
                what = "-> " + os.readlink(path)
            elif stat.S_ISREG(info.st_mode):
                with open(path, "rb") as stream:
                    what = hashlib.file_digest(stream, "sha256").hexdigest()
            elif stat.S_ISDIR(info.st_mode):
                what = "directory"
            found[path] = f"{what} {info.st_uid}:{info.st_gid} {stat.S_IMODE(info.st_mode):04o}"
print(json.dumps(found))
"""


def snapshot(lab: Lab, host: str, tops: Iterable[str] = CONFIGURATION) -> dict[str, str]:
    """Every path below the given directories: content or kind, owner, group and mode."""
    arguments = json.dumps([list(tops), list(PASSING)])
    found: dict[str, str] = json.loads(lab.ssh(host, f"python3 - '{arguments}'", data=_SNAPSHOT))
    return found


def changed_paths(before: Mapping[str, str], after: Mapping[str, str]) -> set[str]:
    """Paths that came, went or differ."""
    return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


def copy_collection(into: Path) -> Path:
    """Copy what git knows or would know into an empty collections path; returns the collection's root there."""
    root = into / "ansible_collections/mailwright/server"
    listing = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard", "--", "galaxy.yml", "meta", "playbooks", "plugins", "roles"],
        cwd=CHECKOUT, text=True, capture_output=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listing.split("\0")):
        if (CHECKOUT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, root / name)
    return root


@dataclass(frozen=True)
class Target:
    """A host, its inventory and the collection that is applied to it."""

    lab: Lab
    name: str
    inventory: Path

    @classmethod
    def make(cls, lab: Lab, name: str, directory: Path, collections: Path) -> Target:
        """Give a host the lab's inventory, with its own name and address, and a collections path."""
        inventory = yaml.safe_load((lab.state / "inventory.yml").read_text())
        own = inventory["mailservers"]["hosts"].get(name, {})
        # what is on this host stays there; its records are published by none of these tests
        api = {"mail_api": own["mail_api"]} if "mail_api" in own else {}
        address = lab.address(name)
        # by address: connections that Ansible keeps open are shared by host name, with other labs' too
        given = {"ansible_host": address, "mail_addresses": [address], **api}
        inventory["mailservers"]["hosts"] = {name: given}
        path = directory / "inventory.yml"
        path.write_text(yaml.safe_dump(inventory))
        path.chmod(0o600)
        environment = {**lab.env, "ANSIBLE_COLLECTIONS_PATH": str(collections)}
        return cls(dataclasses.replace(lab, env=environment), name, path)

    def playbook(self, *arguments: str) -> Result:
        return self.lab.playbook("-i", str(self.inventory), *arguments)

    def site(self, *arguments: str) -> Result:
        return self.playbook(*arguments, "mailwright.server.site")

    def ssh(self, command: str, *, check: bool = True, data: str | None = None) -> str:
        return self.lab.ssh(self.name, command, check=check, data=data)

    def snapshot(self, tops: Iterable[str] = CONFIGURATION) -> dict[str, str]:
        return snapshot(self.lab, self.name, tops)

    @property
    def variables(self) -> dict[str, object]:
        found: dict[str, object] = yaml.safe_load(self.inventory.read_text())["mailservers"]["vars"]
        return found


@contextlib.contextmanager
def bare_host(name: str, directory: Path) -> Iterator[Target]:
    """A bare host of the lab with a frozen copy of the collection; gone at the end.

    MAILWRIGHT_THROWAWAY names another host to take (and to throw away).
    """
    name = os.environ.get("MAILWRIGHT_THROWAWAY", name)
    command = [sys.executable, str(CHECKOUT / "tests/lab/lab.py")]
    copy_collection(directory / "collections")
    subprocess.run([*command, "down", name], check=True)
    subprocess.run([*command, "up", name], check=True)
    try:
        yield Target.make(Lab.load(), name, directory, directory / "collections")
    finally:
        subprocess.run([*command, "down", name], check=True)


def recap(result: Result, name: str) -> dict[str, int]:
    """The host's line of the recap."""
    line = re.search(rf"^{re.escape(name)} +: (.*)$", result.stdout, re.MULTILINE)
    assert line, result.stdout[-3000:] + result.stderr[-3000:]
    return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", line[1])}
