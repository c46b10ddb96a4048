# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Types, required keys, defaults and unknown keys, as the table in ``spec`` has them."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any

from .errors import UNREADABLE, Problems, Unreadable, key_shown, kind, shown, suggestion
from .spec import DOMAIN_OPTIONS, DOMAINS_PREFIX, OPTIONS, Options

PREFIX = "mail_"
RESULT = "mail_model"


def is_variable(name: object, ignore: Container[str] = ()) -> bool:
    """Whether a variable of this name is one of ours, known or not."""
    return isinstance(name, str) and name.startswith(PREFIX) and name != RESULT and name not in ignore


def check_variables(variables: Mapping[str, object], ignore: Container[str], problems: Problems) -> dict[str, Any]:
    """The value of every key in ``OPTIONS``, of the right type, or ``UNREADABLE``; what is wrong goes to ``problems``.

    Lists of mappings become lists of (path, mapping or, when it cannot be read, ``None``).
    All ``mail_domains*`` lists are put together as ``domains``.
    """
    known: dict[object, object] = {}
    more: list[str] = []
    for name in variables:
        if not is_variable(name, ignore):
            continue
        if name.startswith(DOMAINS_PREFIX):
            more.append(name)
        else:
            known[name] = variables[name]
    values = check_mapping(OPTIONS, known, "", problems)
    domains: list[tuple[str, dict[str, Any] | None]] = values.pop("mail_domains")
    for name in sorted(more):
        domains.extend(_check_entries(DOMAIN_OPTIONS, variables[name], key_shown(name), problems))
    values["domains"] = domains
    return values


def check_mapping(options: Options, given: Mapping[Any, object], path: str, problems: Problems) -> dict[str, Any]:
    """All keys of ``options``; a key that is not given, or null, has its default, otherwise ``None``."""
    prefix = f"{path}." if path else ""
    for key in given:
        if key not in options:
            what = "is not a variable that is known" if not path else "is not a key that is known here"
            problems.error(f"{prefix}{key_shown(key)}", f"{what}: {suggestion(key, options)}")
    checked: dict[str, Any] = {}
    for key, option in options.items():
        value = given.get(key)
        if value is None:
            if option.get("required"):
                problems.error(f"{prefix}{key}", "is missing: " + _first_sentence(option["description"]))
                value = UNREADABLE
            else:
                value = option.get("default")
        checked[key] = _check_value(option, value, f"{prefix}{key}", problems)
    return checked


def _first_sentence(description: str | list[str]) -> str:
    text = description if isinstance(description, str) else description[0]
    return text.split(". ")[0].rstrip(".")


def _check_value(option: dict[str, Any], value: object, path: str, problems: Problems) -> Any:
    wanted = option["type"]
    if wanted == "list":
        if option["elements"] == "dict":
            return list(_check_entries(option["options"], value, path, problems))
        return None if value is None else _check_strings(value, path, problems)
    if wanted == "dict":
        if value is None:
            return None
        if not isinstance(value, (dict, Unreadable)):
            problems.error(path, f"is {kind(value)}: write a mapping with the keys {', '.join(option['options'])}")
        return check_mapping(option["options"], value if isinstance(value, dict) else {}, path, problems)
    if value is None or isinstance(value, Unreadable) or wanted == "raw":
        return value
    if wanted == "bool" and not isinstance(value, bool):
        problems.error(path, f"is {kind(value)}: write true or false, without quotes")
        return UNREADABLE
    if wanted in ("str", "path") and not isinstance(value, str):
        problems.error(path, f"is {kind(value)}: write a string, in quotes")
        return UNREADABLE
    if "choices" in option and value not in option["choices"]:
        problems.error(path, f"is {shown(value)}: write one of {', '.join(option['choices'])}")
        return UNREADABLE
    return value


def _check_strings(value: object, path: str, problems: Problems) -> list[Any]:
    if isinstance(value, str):
        return [value]  # one is as good as a list of one
    if isinstance(value, Unreadable):
        return [value]
    if not isinstance(value, list):
        problems.error(path, f"is {kind(value)}: write a list of strings")
        return [UNREADABLE]
    checked: list[Any] = []
    for index, item in enumerate(value):
        if not isinstance(item, (str, Unreadable)):
            problems.error(f"{path}[{index}]", f"is {kind(item)}: write a string")
            item = UNREADABLE
        checked.append(item)
    return checked


def _check_entries(
    options: Options, value: object, path: str, problems: Problems
) -> Iterator[tuple[str, dict[str, Any] | None]]:
    if value is None:
        return
    keys = ", ".join(options)
    if not isinstance(value, list):
        if not isinstance(value, Unreadable):
            problems.error(path, f"is {kind(value)}: write a list of mappings with the keys {keys}")
        yield path, None
        return
    for index, entry in enumerate(value):
        where = f"{path}[{index}]"
        if isinstance(entry, dict):
            yield where, check_mapping(options, entry, where, problems)
        else:
            if not isinstance(entry, Unreadable):
                problems.error(where, f"is {kind(entry)}: write a mapping with the keys {keys}")
            yield where, None
