# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What secrets a host should have: checks of the request, and the content of a new file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.secrets.files import Access

PLACEHOLDER = "{secret}"
DEFAULT_FORMAT = "{secret}\n"
KINDS = ("random", "rspamd_password", "key_pair")
MIN_LENGTH = 16
MAX_LENGTH = 512
# 48 octets are 64 characters, the longest password that rspamd hashes directly.
MAX_RSPAMD_LENGTH = 48
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class Secret:
    """One secret: `length` is octets of entropy; `access` is that of the file which the service reads."""

    name: str
    kind: str
    length: int
    format: str
    access: Access

    @property
    def files(self) -> list[tuple[str, Access]]:
        """File names below the directory with their access, in the order in which they are written."""
        if self.kind == "random":
            return [(self.name, self.access)]
        if self.kind == "key_pair":
            return [(self.name, self.access), (f"{self.name}.pub", self.access)]
        return [(self.name, Access("root", "root", 0o600)), (f"{self.name}.inc", self.access)]


def parse_mode(text: str) -> int:
    """Read an octal mode such as "0640". Raises ValueError for anything else."""
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise ValueError(f'{text!r} is not an octal mode; write four digits in quotes, such as "0640"')
    return int(text, 8)


def parse_secrets(requested: list[dict[str, Any]]) -> tuple[list[Secret], list[str]]:
    """Turn the module's list into secrets, with every error found, each naming its key path.

    Each entry has name, kind, length, format (None: the default), owner, group and mode.
    """
    secrets: list[Secret] = []
    errors: list[str] = []
    taken: dict[str, int] = {}
    for index, entry in enumerate(requested):
        where = f"secrets[{index}]"
        name, kind, length = entry["name"], entry["kind"], entry["length"]
        if not _NAME.fullmatch(name):
            errors.append(f"{where}.name: {name!r} is not a file name of a-z, 0-9, '_', '.', '-' (at most 64)")
        limit = MAX_RSPAMD_LENGTH if kind == "rspamd_password" else MAX_LENGTH
        if not MIN_LENGTH <= length <= limit:
            errors.append(f"{where}.length: {length} is not between {MIN_LENGTH} and {limit} octets of entropy")
        text = entry["format"]
        if text is not None and kind != "random":
            errors.append(f"{where}.format: only for kind random; the files of {kind} have a fixed form")
        elif text is not None and text.count(PLACEHOLDER) != 1:
            errors.append(f"{where}.format: {text!r} must contain {PLACEHOLDER} exactly once")
        mode = 0
        try:
            mode = parse_mode(entry["mode"])
        except ValueError as error:
            errors.append(f"{where}.mode: {error}")
        secret = Secret(name, kind, length, text or DEFAULT_FORMAT, Access(entry["owner"], entry["group"], mode))
        for file_name, _access in secret.files:
            if file_name in taken:
                errors.append(f"{where}.name: the file {file_name} already belongs to secrets[{taken[file_name]}]")
            taken[file_name] = index
        secrets.append(secret)
    return secrets, errors
