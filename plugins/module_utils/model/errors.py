# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors that are collected with the path of the key they belong to."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

LONGEST_SHOWN = 60


class Unreadable:
    """Stands for a value that could not be read and was reported already, so that nothing more is said about it."""


UNREADABLE: Final = Unreadable()


class ModelError(Exception):
    """The inventory is wrong. ``errors`` holds one line for every mistake, in the order of the variables."""

    def __init__(self, errors: Iterable[str]) -> None:
        self.errors = list(errors)
        super().__init__("\n".join(self.errors))


class Problems:
    """What was found wrong so far (``errors``, fatal) and what looks doubtful (``warnings``)."""

    def __init__(self, errors: Iterable[str] = ()) -> None:
        self.errors = list(errors)
        self.warnings: list[str] = []

    def error(self, path: str, text: str) -> None:
        self.errors.append(f"{path}: {text}")

    def warn(self, path: str, text: str) -> None:
        self.warnings.append(f"{path}: {text}")


def shown(value: object) -> str:
    """The value as it may stand in a message: one line, printable ASCII, not long. Never for a secret."""
    if isinstance(value, str):
        return ascii(value[:LONGEST_SHOWN]) + ("..." if len(value) > LONGEST_SHOWN else "")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(value)
    if isinstance(value, int):
        # Python refuses to print integers of more than 4300 digits
        return str(value) if value.bit_length() < 128 else "a huge number"
    return kind(value)


def key_shown(key: object) -> str:
    """The key as a part of a path: as it is when it is a plain name, otherwise as ``shown``."""
    if isinstance(key, str) and key.isascii() and key.isidentifier() and len(key) <= LONGEST_SHOWN:
        return key
    return shown(key)


def kind(value: object) -> str:
    """What the value is, in YAML's words, without showing it."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    return "nothing" if value is None else f"of the type {type(value).__name__}"


def suggestion(wrong: object, known: Iterable[str]) -> str:
    """``did you mean 'x'?`` when a known name is near, otherwise the list of the known names."""
    names = sorted(known)
    if isinstance(wrong, str) and len(wrong) <= LONGEST_SHOWN:
        near = difflib.get_close_matches(wrong.lower(), names, n=1, cutoff=0.6)
        if near:
            return f"did you mean {near[0]}?"
    return "known are " + ", ".join(names)
