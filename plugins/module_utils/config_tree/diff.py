# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The diff of a plan in the form that Ansible's callbacks print."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ansible_collections.mailwright.server.plugins.module_utils.config_tree.plan import ABSENT, File, Live, Plan


def _text(content: bytes, hidden: bool, mark: str) -> str:
    """Return a content as it may be shown; ``mark`` tells two hidden contents of equal size apart."""
    if hidden:
        return f"<hidden: {len(content)} bytes{mark}>\n"
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    return f"<binary: {len(content)} bytes{mark}>\n" if "\0" in text else text


def _attributes(owner: str, group: str, mode: int) -> str:
    return f"owner: {owner}\ngroup: {group}\nmode: {mode:04o}\n"


def make_diff(
    plan: Plan,
    wanted: Mapping[str, File],
    live: Mapping[str, Live],
    is_open: Callable[[str], bool],
    names: Callable[[int, int], tuple[str, str]],
) -> list[dict[str, str]]:
    """Return one entry for each content that changes and one for each owner, group or mode that changes.

    ``is_open(path)`` is true for paths explicitly declared not sensitive; ``names`` turns uid and gid into names.
    The old content of a file that not everybody may read is hidden as well.
    """
    entries = []
    for path in plan.paths:
        old = live.get(path, ABSENT)
        new = wanted.get(path) if path not in plan.remove else None
        closed = old.kind == "file" and not old.mode & 0o004 and not is_open(path)
        hidden = closed or (new is not None and new.sensitive)
        before = ""
        if old.kind == "symlink":
            before = f"symbolic link to {old.content.decode('utf-8', 'replace')}\n"
        elif old.kind == "file":
            before = _text(old.content, hidden, "")
        after = "" if new is None else _text(new.content, hidden, ", new content" if old.kind == "file" else "")
        if new is None or old.kind != "file" or old.content != new.content:
            after_header = f"{path} (removed)" if new is None else path
            if new is not None and old.kind != "file":
                after_header = f"{path} ({new.owner}:{new.group} {new.mode:04o})"
            entries.append(
                {
                    "before_header": path if old.kind != "absent" else f"{path} (absent)",
                    "after_header": after_header,
                    "before": before,
                    "after": after,
                }
            )
        if new is not None and old.kind == "file" and (old.uid, old.gid, old.mode) != (new.uid, new.gid, new.mode):
            owner, group = names(old.uid, old.gid)
            entries.append(
                {
                    "before_header": f"{path} (attributes)",
                    "after_header": f"{path} (attributes)",
                    "before": _attributes(owner, group, old.mode),
                    "after": _attributes(new.owner, new.group, new.mode),
                }
            )
    return entries


def activation_lines(commands: Sequence[str], units: Mapping[str, str]) -> list[str]:
    """Return a line for each command that runs and each unit that is acted upon, in this order."""
    return [f"command {line}" for line in commands] + [f"unit {name}: {outcome}" for name, outcome in units.items()]
