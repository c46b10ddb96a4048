# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action group ``all`` is every module of the collection, so ``module_defaults`` for it reaches all of them."""

from __future__ import annotations

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def test_action_group_all_is_every_module() -> None:
    runtime = yaml.safe_load((ROOT / "meta/runtime.yml").read_text(encoding="utf-8"))
    modules = sorted(path.stem for path in (ROOT / "plugins/modules").glob("*.py") if path.stem != "__init__")
    assert runtime["action_groups"]["all"] == modules


def test_every_action_plugin_has_a_module_with_its_documentation() -> None:
    actions = {path.stem for path in (ROOT / "plugins/action").glob("*.py") if path.stem != "__init__"}
    modules = {path.stem for path in (ROOT / "plugins/modules").glob("*.py")}
    assert actions - modules == set()
