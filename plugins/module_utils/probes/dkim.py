# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each domain's DKIM keys: their states, what comes next and when, and whether somebody runs the rotation."""

from __future__ import annotations

import os
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

from ansible_collections.mailwright.server.plugins.module_utils.dkim.rotation import Policy, next_event
from ansible_collections.mailwright.server.plugins.module_utils.dkim.state import STATE_FILE, Key, State, parse_state
from ansible_collections.mailwright.server.plugins.module_utils.probes.result import Result

STORE = "/var/lib/mailwright/dkim"
# Days after which a step that is due, or a record that is not seen, has been forgotten by somebody.
FORGOTTEN = 14
NEW = ("generated", "published", "propagated")


def evaluate(domain: str, state: State, now: datetime, left: bool = False) -> Result:
    """Say where a domain's keys are; `left`: the domain is not in the inventory any more, or is switched off."""
    policy = Policy(wanted=not left)
    keys = sorted(state.keys, key=lambda key: (key.algorithm != "rsa", key.created, key.selector))
    events = [(key, *next_event(key, now, policy)) for key in keys]
    lines = [f"{_label(key)}: {event} {f'{moment:%Y-%m-%d}' if moment else 'when it is seen'}"
             for key, event, moment in events]  # fmt: skip
    late = [text for key in keys for text in _late(key, now, policy)]
    dated = [(moment, key, event) for key, event, moment in events if moment]
    next_step = min(dated, default=None, key=lambda one: (one[0], one[1].selector))
    summary = f"{len(keys)} key{'s' * (len(keys) != 1)}" + (" of a domain that left" if left else "")
    if next_step:
        summary += f", next {next_step[0]:%Y-%m-%d}: {next_step[1].selector} {next_step[2]}"
    data = {
        "keys": [
            {"selector": key.selector, "algorithm": key.algorithm, "state": key.state, "live": key.live,
             "since": key.since.isoformat(), "next": event, "next_at": moment.isoformat() if moment else None}
            for key, event, moment in events
        ]
    }  # fmt: skip
    texts = [*late, summary, *lines]
    return Result(domain, "dkim", "warn" if late else "ok", texts[0], tuple(texts[1:]), data=data)


def _label(key: Key) -> str:
    seen = "in the DNS" if key.live else "not seen in the DNS"
    return f"{key.algorithm} {key.selector} {key.state}, {seen}" + (", compromised" if key.compromised else "")


def _late(key: Key, now: datetime, policy: Policy) -> list[str]:
    """What should have happened to a key long ago."""
    if key.state == "active" and (now - key.created).total_seconds() > policy.rotate_after + FORGOTTEN * 86400:
        return [f"{key.selector} is used since {key.created:%Y-%m-%d} and due: does rotate_dkim run every day?"]
    if key.state in NEW and (now - key.since).days >= FORGOTTEN:
        return [f"{key.selector} waits as {key.state} since {key.since:%Y-%m-%d}: is its record published?"]
    return []


def probe(domains: Collection[str], store: str = STORE) -> list[Result]:
    """Read the state of every domain that has keys, those that left too."""
    now = datetime.now(UTC)
    results = []
    present = {entry for entry in os.listdir(store) if os.path.isfile(os.path.join(store, entry, STATE_FILE))}
    for domain in sorted(present.union(domains)):
        try:
            state = parse_state(Path(store, domain, STATE_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            state = State()
        except ValueError as error:
            results.append(Result(domain, "dkim", "fail", f"its state file cannot be read: {error}"))
            continue
        if state.keys:
            results.append(evaluate(domain, state, now, left=domain not in domains))
        elif domain in domains:
            results.append(Result(domain, "dkim", "fail", "has no keys: its mail is not signed"))
    return results
