# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find the transaction that this play's config_tree opened, and come over a new connection to confirm it."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.module_utils.common.text.converters import to_text
from ansible.plugins.action import ActionBase
from ansible_collections.mailwright.server.plugins.plugin_utils.guard import CAUSE, LOST, MODULE, opened


# ansible-core carries no types, so to mypy its base class is Any
class ActionModule(ActionBase):  # type: ignore[misc]
    """The controller's half of transaction."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Call the module, unless there is no transaction."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        del tmp
        arguments = dict(self._task.args)
        state = arguments.get("state", "phase")
        if arguments.get("id") is None:
            arguments["id"] = opened(self._task, variables).get("id", "")
        if arguments["id"] and state == "confirmed" and not self._task.check_mode:
            self._connection.reset()
        if arguments["id"] or state not in ("confirmed", "abandoned"):
            try:
                result.update(self._execute_module(module_name=MODULE, module_args=arguments, task_vars=variables))
            except AnsibleConnectionFailure as error:
                # the message is all that the operator sees of it
                raise AnsibleConnectionFailure(f"{LOST}: {to_text(error)}") from error
        if state == "abandoned" and not arguments["id"]:
            # nothing was opened, so there is nothing to undo; what failed stays the play's end
            result.update(failed=True, msg=arguments.get("cause", CAUSE), ending="")
        return result
