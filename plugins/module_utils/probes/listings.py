# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file in which the host keeps what blocklists last said: its form, until when it counts, and reading it."""

from __future__ import annotations

import contextlib
import ipaddress
import json
from collections.abc import Iterable
from typing import NamedTuple

PATH = "/var/lib/mailwright-blocklists/answers.json"
# Asked once an hour. What is older says nothing about today.
SECONDS = 6 * 3600


class Listing(NamedTuple):
    """What a list (its zone) says of an address or a domain; `listed` is None when it cannot be asked. `words` has the
    code and the list's reason, or why it says nothing."""

    zone: str
    subject: str
    listed: bool | None
    words: str


class Answers(NamedTuple):
    """When the lists were asked, as Unix time, and what they said."""

    at: float
    listings: tuple[Listing, ...]


def render(answers: Answers) -> str:
    """Write the answers as JSON."""
    return json.dumps({"at": answers.at, "listings": answers.listings}) + "\n"


def parse(text: str, now: float) -> Answers | None:
    """Read what render wrote; None when it is too old. Raises ValueError for anything else."""
    try:
        document = json.loads(text)
        at = float(document["at"])
        found = tuple(Listing(*entry) for entry in document["listings"])
    except (LookupError, TypeError) as error:
        raise ValueError(f"these are no answers of blocklists ({type(error).__name__}: {error})") from error
    return Answers(at, found) if now - at < SECONDS else None


def load(now: float, path: str = PATH) -> Answers | None:
    """Read the file; None when it is not there, or too old. Raises OSError, ValueError."""
    try:
        with open(path, encoding="utf-8") as stream:
            return parse(stream.read(), now)
    except FileNotFoundError:
        return None


def is_address(subject: str) -> bool:
    """Whether it is an address of the host, not a domain."""
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(subject)
        return True
    return False


def counts(listings: Iterable[Listing]) -> dict[str, tuple[int, bool]]:
    """For each list, how many addresses or domains it has, and whether it could be asked for all."""
    found: dict[str, tuple[int, bool]] = {}
    for one in listings:
        number, usable = found.get(one.zone, (0, True))
        found[one.zone] = (number + (one.listed is True), usable and one.listed is not None)
    return found
