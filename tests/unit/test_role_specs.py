# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every role says what it takes: its argument spec and its defaults name the same variables with the same values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path for path in (ROOT / "roles").glob("*") if path.is_dir())

# Variables with this prefix are the user's and belong to no role: they have no default in it.
USERS_PREFIX = "mail_"


def read(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; an absent or empty file is an empty mapping."""
    if not path.exists():
        return {}
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def same(left: Any, right: Any) -> bool:
    """Compare two YAML values with their types: ``true``, ``1`` and ``"1"`` are three values."""
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


def spec_findings(role: Path) -> list[str]:
    """Return what is wrong between a role's argument spec and its defaults."""
    entry_points = read(role / "meta/argument_specs.yml").get("argument_specs") or {}
    if "main" not in entry_points:
        return ["meta/argument_specs.yml: has no entry point main"]
    options = {
        name: option
        for name, option in (entry_points["main"].get("options") or {}).items()
        if not name.startswith(USERS_PREFIX)
    }
    defaults = read(role / "defaults/main.yml")
    found = [f"{name}: in the argument spec, not in defaults/main.yml" for name in sorted(options.keys() - defaults)]
    found += [f"{name}: in defaults/main.yml, not in the argument spec" for name in sorted(defaults.keys() - options)]
    for name in sorted(options.keys() & defaults):
        spec, role_value = options[name], defaults[name]
        if "default" not in spec:
            found.append(f"{name}: the argument spec gives no default")
        elif not same(spec["default"], role_value):
            found.append(f"{name}: defaults to {spec['default']!r} in the spec, {role_value!r} in the role")
    return found


def meta_findings(role: Path) -> list[str]:
    """Return what is wrong with a role's ``galaxy_info``."""
    info = read(role / "meta/main.yml").get("galaxy_info") or {}
    found = [f"meta/main.yml: galaxy_info.{key} is missing" for key in ("author", "description") if not info.get(key)]
    for key, wanted in (("license", "GPL-3.0-or-later"), ("min_ansible_version", "2.19")):
        if info.get(key) != wanted:
            found.append(f"meta/main.yml: galaxy_info.{key} is {info.get(key)!r}, must be {wanted!r}")
    if {"name": "Debian", "versions": ["trixie"]} not in (info.get("platforms") or []):
        found.append("meta/main.yml: galaxy_info.platforms must hold Debian with versions [trixie]")
    return found


@pytest.mark.parametrize("role", ROLES, ids=lambda path: path.name)
def test_argument_spec_equals_defaults(role: Path) -> None:
    assert spec_findings(role) == []


@pytest.mark.parametrize("role", ROLES, ids=lambda path: path.name)
def test_meta_is_complete(role: Path) -> None:
    assert meta_findings(role) == []


GOOD: dict[str, Any] = {
    "meta/argument_specs.yml": {
        "argument_specs": {
            "main": {
                "short_description": "A role",
                "options": {
                    "thing_size": {"type": "int", "default": 1},
                    "thing_on": {"type": "bool", "default": True},
                    "mail_model": {"type": "dict", "required": True},
                },
            }
        }
    },
    "defaults/main.yml": {"thing_size": 1, "thing_on": True},
    "meta/main.yml": {
        "galaxy_info": {
            "author": "mailwright contributors",
            "description": "A thing",
            "license": "GPL-3.0-or-later",
            "min_ansible_version": "2.19",
            "platforms": [{"name": "Debian", "versions": ["trixie"]}],
        }
    },
}


def write_role(role: Path, changes: dict[str, Any]) -> Path:
    """Write the good role with some of its files replaced (None: left out)."""
    for name, content in {**GOOD, **changes}.items():
        if content is not None:
            (role / name).parent.mkdir(parents=True, exist_ok=True)
            (role / name).write_text(yaml.safe_dump(content), encoding="utf-8")
    return role


def test_a_good_role_has_no_findings(tmp_path: Path) -> None:
    role = write_role(tmp_path, {})
    assert spec_findings(role) + meta_findings(role) == []


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"meta/argument_specs.yml": None}, "meta/argument_specs.yml: has no entry point main"),
        ({"defaults/main.yml": {"thing_size": 1}}, "thing_on: in the argument spec, not in defaults/main.yml"),
        (
            {"defaults/main.yml": {"thing_size": 1, "thing_on": True, "mail_x": 1}},
            "mail_x: in defaults/main.yml, not in the argument spec",
        ),
        (
            {"defaults/main.yml": {"thing_size": True, "thing_on": True}},
            "thing_size: defaults to 1 in the spec, True in the role",
        ),
        (
            {
                "meta/argument_specs.yml": {"argument_specs": {"main": {"options": {"thing_on": {"type": "bool"}}}}},
                "defaults/main.yml": {"thing_on": True},
            },
            "thing_on: the argument spec gives no default",
        ),
        ({"meta/main.yml": None}, "meta/main.yml: galaxy_info.author is missing"),
        (
            {"meta/main.yml": {"galaxy_info": {**GOOD["meta/main.yml"]["galaxy_info"], "min_ansible_version": 2.19}}},
            "meta/main.yml: galaxy_info.min_ansible_version is 2.19, must be '2.19'",
        ),
        (
            {"meta/main.yml": {"galaxy_info": {"platforms": [{"name": "Debian", "versions": ["bookworm"]}]}}},
            "meta/main.yml: galaxy_info.platforms must hold Debian with versions [trixie]",
        ),
    ],
)
def test_each_mistake_is_found(tmp_path: Path, changes: dict[str, Any], finding: str) -> None:
    role = write_role(tmp_path, changes)
    assert finding in spec_findings(role) + meta_findings(role)


def test_a_file_belongs_to_one_role() -> None:
    """Two would take turns at it, and the one that is switched off takes it from the other."""
    places: dict[str, list[str]] = {}
    for role in ROLES:
        for path in (role / "templates").rglob("*"):
            inside = path.relative_to(role / "templates").as_posix()
            if path.is_file() and not inside.startswith("_macros/"):
                places.setdefault(inside.removesuffix(".j2"), []).append(role.name)
    assert {place: roles for place, roles in places.items() if len(roles) > 1} == {}
