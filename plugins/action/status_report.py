# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print the report on all hosts; what it says is put together in module_utils/probes/report.py."""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.mailwright.server.plugins.module_utils.probes.report import document, text_report


# ansible-core carries no types, so to mypy its base class is Any
class ActionModule(ActionBase):  # type: ignore[misc]
    """Prints, writes, and says which hosts are not healthy."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _result, arguments = self.validate_argument_spec(
            {
                "hosts": {"type": "dict", "required": True},
                "format": {"type": "str", "choices": ["text", "json"], "default": "text"},
                "path": {"type": "path"},
                "verbose": {"type": "bool", "default": False},
            }
        )
        report = document(arguments["hosts"])
        text = json.dumps(report, sort_keys=True)
        display = Display()
        if arguments["format"] == "json":
            display.display(text)
        else:
            parts = [text_report(name, part, arguments["verbose"]) for name, part in report["hosts"].items()]
            display.display("\n\n".join(parts) + "\n")
        if arguments["path"]:
            try:
                _write(arguments["path"], text + "\n")
            except OSError as error:
                raise AnsibleActionFail(f"path: {arguments['path']!r} cannot be written: {error}") from error
        return {
            "changed": False,
            "status": report["status"],
            "unhealthy": [name for name, part in report["hosts"].items() if part["status"] == "fail"],
        }


def _write(path: str, text: str) -> None:
    """Replace a file by one rename, readable by its owner alone from the first byte."""
    handle, temporary = tempfile.mkstemp(prefix=".", dir=os.path.dirname(os.path.abspath(path)))
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.rename(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
