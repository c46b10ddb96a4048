# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What apt and dpkg say, read."""

from __future__ import annotations

import re
from collections.abc import Iterable

# apt-get(8), --simulate: "Inst name [old version] (new version archive [arch])"
_INSTALL = re.compile(r"^Inst (?P<name>\S+)(?: \[(?P<old>[^]]+)])? \((?P<new>\S+)", re.MULTILINE)
# "Remv name [version]"; a new package may replace one that it conflicts with
_REMOVE = re.compile(r"^Remv (?P<name>\S+) \[(?P<old>[^]]+)]", re.MULTILINE)
# dpkg-query(1): the states between not installed and installed
_BROKEN = {"half-installed", "unpacked", "half-configured", "triggers-awaited", "triggers-pending"}


def states(listing: str) -> dict[str, str]:
    """Package name to dpkg state, from lines ``name state`` of dpkg-query."""
    return dict(line.split(" ", 1) for line in listing.splitlines() if " " in line)


def missing(wanted: Iterable[str], found: dict[str, str]) -> list[str]:
    """The wanted packages that are not fully installed, sorted."""
    return sorted({name for name in wanted if found.get(name) != "installed"})


def interrupted(found: dict[str, str]) -> list[str]:
    """Packages that a killed run left between two states, sorted."""
    return sorted(name for name, state in found.items() if state in _BROKEN)


def simulated(output: str) -> list[tuple[str, str, str]]:
    """What apt-get --simulate would do: (name, version before or "", version after or ""), sorted."""
    changes = [(found["name"], found["old"] or "", found["new"]) for found in _INSTALL.finditer(output)]
    changes += [(found["name"], found["old"], "") for found in _REMOVE.finditer(output)]
    return sorted(changes)
