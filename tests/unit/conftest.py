# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What unit tests share."""

from __future__ import annotations

import pytest
from ansible.module_utils import _internal
from hypothesis import settings

# a busy machine is no finding
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture
def module_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a module run as it does in a process of its own: tests that load action plugins make this one a controller,
    where warnings go to the display and not into the result."""
    monkeypatch.setattr(_internal, "is_controller", False)
