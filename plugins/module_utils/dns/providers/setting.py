# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a provider describes its settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """One keyword of a provider's constructor: what it means, whether it must be given, whether it is a secret, and
    its type, str or int."""

    meaning: str
    required: bool = True
    secret: bool = False
    kind: type[Any] = str
