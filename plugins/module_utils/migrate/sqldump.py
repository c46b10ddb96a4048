# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rows in a dump of a database, as text: of mysqldump and mariadb-dump, sqlite3 .dump and pg_dump. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

# a column's text, or None for NULL
Row = dict[str, Any]

_NAME = r"[`\"]?(?:\w+[`\"]?\.[`\"]?)?(?P<table>\w+)[`\"]?"
# At the beginning of a line only: what looks like a statement inside a string is none.
_CREATE = re.compile(rf"^CREATE TABLE (?:IF NOT EXISTS )?{_NAME}\s*\(", re.IGNORECASE | re.MULTILINE)
_INSERT = re.compile(rf"^INSERT INTO {_NAME}\s*(?P<columns>\([^)]*\))?\s*VALUES\s*", re.IGNORECASE | re.MULTILINE)
_COPY = re.compile(
    rf"^COPY {_NAME}\s*\((?P<columns>[^)]*)\) FROM stdin;\n(?P<rows>.*?)^\\\.$", re.MULTILINE | re.DOTALL
)
_NO_COLUMN = ("PRIMARY", "UNIQUE", "KEY", "INDEX", "CONSTRAINT", "FOREIGN", "FULLTEXT", "CHECK", "SPATIAL")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "b": "\b", "Z": "\x1a"}
_TOKEN = re.compile(r"\s*(?:(?P<plain>[^\s',()]+)|(?P<punctuation>[(),]))")


class DumpError(ValueError):
    """The text is no dump that can be read."""


def tables(text: str, only: Collection[str], *, backslashes: bool) -> dict[str, list[Row]]:
    """The rows of some tables, as columns with their text (None: NULL). ``backslashes``: they escape, as in MySQL's
    strings.

    Raises DumpError.
    """
    columns = dict(_columns(text))
    found: dict[str, list[Row]] = {}
    for match in _INSERT.finditer(text):
        table = match["table"]
        if table not in only:
            continue
        names = _names(match["columns"]) if match["columns"] else columns.get(table)
        if names is None:
            raise DumpError(f"the dump has rows of {table} without its columns: leave CREATE TABLE in")
        for values in _values(text, match.end(), backslashes):
            if len(values) != len(names):
                raise DumpError(f"a row of {table} has {len(values)} values for {len(names)} columns")
            found.setdefault(table, []).append(dict(zip(names, values, strict=True)))
    for match in _COPY.finditer(text):
        if match["table"] not in only:
            continue
        names = _names(match["columns"])
        for line in match["rows"].splitlines():
            fields = [None if f == "\\N" else re.sub(r"\\(.)", _unescaped, f) for f in line.split("\t")]
            found.setdefault(match["table"], []).append(dict(zip(names, fields, strict=True)))
    return found


def _unescaped(match: re.Match[str]) -> str:
    return _ESCAPES.get(match[1], match[1])


def _names(text: str) -> list[str]:
    return [name.strip().strip('`"') for name in text.strip("()").split(",")]


def _columns(text: str) -> Iterator[tuple[str, list[str]]]:
    """The columns of each CREATE TABLE: the first word of each part of its parentheses that is no key."""
    for match in _CREATE.finditer(text):
        depth, part, parts, quote = 1, "", [], ""
        for char in text[match.end() :]:
            if quote:
                quote = "" if char == quote else quote
            elif char in "'":
                quote = char
            elif char == "(":
                depth += 1
            elif char == ")":
                depth -= 1
                if not depth:
                    break
            elif char == "," and depth == 1:
                parts.append(part)
                part = ""
                continue
            part += char
        parts.append(part)
        lines = (
            "\n".join(line for line in p.splitlines() if not line.lstrip().startswith("--")).split() for p in parts
        )
        words = [line[0] for line in lines if line]
        yield match["table"], [word.strip('`"') for word in words if word.upper() not in _NO_COLUMN]


def _values(text: str, start: int, backslashes: bool) -> Iterator[list[str | None]]:
    """The rows of one INSERT: each a list of its values."""
    at = start
    row: list[str | None] | None = None
    while True:
        while at < len(text) and text[at].isspace():
            at += 1
        if at >= len(text) or text[at] == ";":
            return
        if text[at] == "'" and row is not None:
            value, at = _string(text, at + 1, backslashes)
            row.append(value)
            continue
        token = _TOKEN.match(text, at)
        if token is None:
            raise DumpError(f"cannot read on at {text[at : at + 40]!r}")
        at = token.end()
        if token["punctuation"] == "(":
            row = []
        elif token["punctuation"] == ")" and row is not None:
            yield row
            row = None
        elif token["plain"]:
            word = token["plain"]
            if row is None:
                if word.startswith(";") or word.upper() == "ON":
                    return
                raise DumpError(f"cannot read on at {word[:40]!r}")
            if not word.startswith("_"):  # a character set before a string: _binary '...'
                row.append(None if word.upper() == "NULL" else word)


def _string(text: str, at: int, backslashes: bool) -> tuple[str, int]:
    """A string up to its closing quote, and what comes after it."""
    out = []
    while at < len(text):
        char = text[at]
        if char == "\\" and backslashes:
            out.append(_ESCAPES.get(text[at + 1], text[at + 1]))
            at += 2
        elif char == "'":
            if text[at + 1 : at + 2] != "'":
                return "".join(out), at + 1
            out.append("'")
            at += 2
        else:
            out.append(char)
            at += 1
    raise DumpError("a string has no end: the dump is cut off")
