# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role wrote for the backup, and where everything lies. Standard library only: it runs without Ansible too."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

CONFIGURATION = "/etc/mailwright/backup"
DIRECTORY = "/var/lib/mailwright/backup"
STATE = f"{DIRECTORY}/state.json"
LOCK = f"{DIRECTORY}/lock"
CACHE = f"{DIRECTORY}/cache"
# What a snapshot is made of, by these paths for ever: restic compares with the same paths of the snapshot before.
STAGE = f"{DIRECTORY}/stage"
STORE = "/var/vmail"
MAIL_STAGE = f"{STORE}/.backup"
TAG = "mailwright"
# Kept as they are; the rest of the host follows from the inventory. Certificates by ACME are in /etc/letsencrypt.
TREES = (
    "/etc/mailwright/secrets", "/etc/mailwright/tls", "/etc/letsencrypt", "/var/lib/mailwright/dkim",
    "/var/lib/mailwright/dkim-api",
)  # fmt: skip
FORMAT = 1


class BackupError(Exception):
    """Why a backup or a restore did not come about, for people."""


class BusyError(BackupError):
    """Another run holds the lock."""


@dataclass(frozen=True)
class Settings:
    """The role's settings.json and credentials.json."""

    hostname: str
    repository: str
    keep: Mapping[str, int] = field(default_factory=dict)
    check_percent: int = 5
    alert_after_hours: int = 36
    options: tuple[str, ...] = ()
    credentials: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, directory: str = CONFIGURATION) -> Settings:
        """Raises BackupError when there are none."""
        try:
            with open(f"{directory}/settings.json", encoding="utf-8") as stream:
                values = json.load(stream)
            with open(f"{directory}/credentials.json", encoding="utf-8") as stream:
                credentials = json.load(stream)
            return cls(**{**values, "options": tuple(values["options"])}, credentials=credentials)
        except FileNotFoundError as error:
            text = f"{error.filename} is not there: set mail_backup in the inventory and apply"
            raise BackupError(text) from None
        except (ValueError, TypeError, KeyError) as error:
            raise BackupError(f"{directory}: cannot be read ({error}): apply the role backup again") from None


def read_state(path: str = STATE) -> dict[str, Any]:
    """What the last runs left: ``repository``, ``last_run``, ``last_good``, ``last_check``. Empty before the first."""
    try:
        with open(path, encoding="utf-8") as stream:
            found: dict[str, Any] = json.load(stream)
    except FileNotFoundError:
        return {}
    return found


def write_state(state: Mapping[str, Any], path: str = STATE) -> None:
    """Replace the state in one step."""
    part = f"{path}.new"
    with open(part, "w", encoding="utf-8") as stream:
        json.dump(state, stream, indent=1, sort_keys=True)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(part, path)


def now() -> str:
    """The time as it is kept in the state: UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@contextlib.contextmanager
def lock(path: str = LOCK) -> Iterator[None]:
    """One backup, check or restore at a time. Raises BusyError at once when there is another."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with open(path, "w", encoding="ascii") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError("another backup, check or restore runs on this host: try again when it has ended") from None
        yield
