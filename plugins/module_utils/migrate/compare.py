# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether one mailbox holds all that another one holds, message by message. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

LONGEST = 5


class Message(NamedTuple):
    """What a message is: a digest of its octets, their number, when it was received (seconds), and its flags."""

    digest: str
    size: int
    date: int
    flags: frozenset[str]


Folders = Mapping[str, Sequence[Message]]


@dataclass
class Verdict:
    """What the target lacks. A target may hold more: new mail came, or somebody filed something."""

    folders: int = 0
    messages: int = 0
    octets: int = 0
    missing_folders: list[str] = field(default_factory=list)
    missing: dict[str, int] = field(default_factory=dict)
    other_dates: dict[str, int] = field(default_factory=dict)
    other_flags: dict[str, int] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """All folders and messages are there, with their dates. Flags may have been changed since by their owner."""
        return not (self.missing_folders or self.missing or self.other_dates)

    def lines(self) -> list[str]:
        """What is wrong, for people."""
        found = [f"folder {name!r} is missing" for name in self.missing_folders[:LONGEST]]
        for what, counts in (
            ("missing", self.missing),
            ("there with another date", self.other_dates),
            ("there with other flags", self.other_flags),
        ):
            found += [f"{name}: {count} messages are {what}" for name, count in sorted(counts.items())]
        return found


def compare(source: Folders, target: Folders) -> Verdict:
    """Look for every message of the source in the folder of that name of the target.

    Copies of one message count as often as they are there. A message is first looked for as it is, then with other
    flags, then with another date too.
    """
    verdict = Verdict(folders=len(source))
    for name, messages in source.items():
        verdict.messages += len(messages)
        verdict.octets += sum(message.size for message in messages)
        if name not in target:
            verdict.missing_folders.append(name)
        rest, there = Counter(messages), Counter(target.get(name, ()))
        same = rest & there
        rest, there = rest - same, there - same
        for counts, key in ((verdict.other_flags, _without_flags), (verdict.other_dates, _content)):
            matched = _match(rest, there, key)
            if matched:
                counts[name] = matched
        if rest.total():
            verdict.missing[name] = rest.total()
    return verdict


def _without_flags(message: Message) -> object:
    return (message.digest, message.size, message.date)


def _content(message: Message) -> object:
    return (message.digest, message.size)


def _match(rest: Counter[Message], there: Counter[Message], key: Callable[[Message], object]) -> int:
    """Take pairs that are alike by the key out of both; says how many."""
    by_key: dict[object, list[Message]] = {}
    for message in there.elements():
        by_key.setdefault(key(message), []).append(message)
    matched = 0
    for message in list(rest.elements()):
        alike = by_key.get(key(message))
        if alike:
            rest[message] -= 1
            there[alike.pop()] -= 1
            matched += 1
    rest += Counter()
    there += Counter()
    return matched
