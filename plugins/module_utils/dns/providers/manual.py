# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""No provider: what is wanted goes to a zone file, and somebody enters it by hand.

The file holds what our runs want, nothing else; what is really in the zone is not known here. So conflicts with
foreign records are found by nobody, and only a verification tells when the records are there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ansible_collections.mailwright.server.plugins.module_utils.config_tree.store import write_atomically
from ansible_collections.mailwright.server.plugins.module_utils.dns.canonical import canonical_rrset
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.contract import (
    Capabilities,
    Change,
    ConflictError,
    IncompleteError,
    UnreachableError,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.rfc2136 import TYPES
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.setting import Setting
from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import RRset, zone_text

HEAD = "; Managed by mailwright. Enter these records into the zone {zone} by hand.\n"


SETTINGS: Mapping[str, Setting] = {
    "path": Setting("directory on the controller for the zone files"),
}


class Manual:
    """A directory with one file for each zone, such as example.org.zone."""

    capabilities = Capabilities(types=TYPES, minimum_ttl=0, max_text=65_535, atomic=True, guarded=False)

    def __init__(self, path: str) -> None:
        """Raises ValueError for a path that is not absolute."""
        self._directory = Path(os.path.expanduser(path))
        if not self._directory.is_absolute():
            raise ValueError(f"path: {path!r}: must be an absolute path of a directory")

    def records(self, zone: str) -> list[RRset]:
        """What the file holds. Raises IncompleteError for a line that is no record."""
        found: dict[tuple[str, str], tuple[int, list[str]]] = {}
        path = self._path(zone)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise UnreachableError(f"{path}: {error}") from None
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith(";"):
                continue
            fields = line.split(None, 4)
            if len(fields) < 5 or not fields[1].isdecimal() or fields[2] != "IN":
                raise IncompleteError(f"{path}, line {number}: is not NAME TTL IN TYPE DATA")
            found.setdefault((fields[0].lower(), fields[3]), (int(fields[1]), []))[1].append(fields[4])
        return [canonical_rrset(RRset(name, kind, ttl, tuple(values))) for (name, kind), (ttl, values) in found.items()]

    def get(self, zone: str, name: str, kind: str) -> RRset | None:
        """One record set of the file."""
        return next((rrset for rrset in self.records(zone) if (rrset.name, rrset.type) == (name, kind)), None)

    def apply(self, zone: str, changes: Sequence[Change]) -> None:
        """Write the file anew."""
        live = {(rrset.name, rrset.type): rrset for rrset in self.records(zone)}
        for change in changes:
            key = change.name, change.type
            if live.get(key) not in (change.old, change.new):
                raise ConflictError(f"{change.name} {change.type}: the file changed since the plan was made")
            if change.new:
                live[key] = change.new
            else:
                live.pop(key, None)
        path = self._path(zone)
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            write_atomically(str(path), (HEAD.format(zone=zone) + zone_text(live.values())).encode(), 0o644)
        except OSError as error:
            raise UnreachableError(f"{path}: {error.strerror}") from None

    def _path(self, zone: str) -> Path:
        return self._directory / f"{zone.rstrip('.')}.zone"
