# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report on all hosts: one dictionary for programs, text for people. Pure."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.probes.result import GROUPS, worst

WORDS = {"ok": "ok", "warn": "warn", "fail": "FAIL", "skip": "skip"}
HEADINGS = {"ok": "healthy", "warn": "healthy, with warnings", "fail": "NOT HEALTHY"}
WIDTH = 120
# Names listed where all of a group is well.
NAMES = 40


def host_report(registered: Mapping[str, Any]) -> dict[str, Any]:
    """One host's part: `registered` is what its last task gave: the module status, a failure, or unreachable.

    Returns hostname (None when not known), status, seconds, counts by status, results, and error (None, or why there
    are no results).
    """
    results = registered.get("results")
    error = None
    if registered.get("unreachable"):
        error = f"cannot be reached: {_line(registered.get('msg'))}"
    elif registered.get("failed"):
        error = str(registered.get("msg") or "the probes did not run").strip()
    elif registered.get("skipped"):
        error = "cannot be reached"
    elif not results:
        error = "gave no results"
    if error is not None:
        results = []
    return {
        "hostname": registered.get("hostname"),
        "status": "fail" if error is not None else worst(result["status"] for result in results or []),
        "seconds": registered.get("seconds", 0.0),
        "counts": dict(Counter(result["status"] for result in results or [])),
        "results": list(results or []),
        "error": error,
    }


def document(hosts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The whole report: the gravest status, and each host's part by its inventory name."""
    parts = {name: host_report(registered) for name, registered in hosts.items()}
    return {"status": worst(part["status"] for part in parts.values()), "hosts": parts}


def _line(text: object) -> str:
    return " ".join(str(text or "no reason given").split())


def text_report(name: str, part: Mapping[str, Any], verbose: bool) -> str:
    """One host's part for people, ASCII. Where all of a group is well it is one line, unless verbose."""
    title = name if part["hostname"] in (None, name) else f"{name} ({part['hostname']})"
    if part["error"] is not None:
        return "\n".join([f"{title}: NOT HEALTHY", *_block("FAIL", "host", part["error"].splitlines())])
    counts = part["counts"]
    order = (("fail", "failed"), ("warn", "warned"), ("ok", "ok"))
    tally = ", ".join(f"{counts[status]} {word}" for status, word in order if status in counts)
    lines = []
    for group in GROUPS:
        lines += _group(group, [result for result in part["results"] if result["group"] == group], verbose)
    return "\n".join([f"{title}: {HEADINGS[part['status']]} ({tally} in {part['seconds']:.1f} s)", *lines])


def _group(group: str, results: Sequence[Mapping[str, Any]], verbose: bool) -> list[str]:
    lines = []
    quiet = [result for result in results if result["status"] in ("ok", "skip")]
    loud = [result for result in results if result["status"] not in ("ok", "skip")]
    loud.sort(key=lambda result: result["status"] != "fail")
    if verbose or len(results) == 1:
        loud, quiet = [*loud, *quiet], []
    for result in loud:
        texts = [f"{result['name']}: {result['summary']}", *result["detail"]]
        lines += _block(WORDS[result["status"]], group, texts)
    if quiet:
        names = [str(result["name"]) for result in quiet]
        more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
        text = f"{len(names)}: {', '.join(names[:NAMES])}{more}"
        lines += _block("ok", group, textwrap.wrap(text, WIDTH - 22, break_long_words=False, break_on_hyphens=False))
    return lines


def _block(word: str, group: str, texts: Sequence[str]) -> list[str]:
    first, *rest = [_ascii(text) for text in texts] or [""]
    return [f"  {word:<4}  {group:<12}  {first}", *(f"{'':20}  {text}" for text in rest)]


def _ascii(text: str) -> str:
    # What a server says may hold anything, control sequences for the terminal among it.
    return "".join(char if " " <= char <= "~" else char.encode("unicode_escape").decode() for char in text)
