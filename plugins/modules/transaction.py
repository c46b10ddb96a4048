#!/usr/bin/python
# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: transaction
short_description: Watch a change that undoes itself when it fails, and confirm it
version_added: "0.2.0"
author: mailwright contributors (@mailwright)
description:
  - M(mailwright.server.update) and M(mailwright.server.snapshot) start transactions, which the host runs by itself.
  - V(phase) waits until a phase is done. When the change has failed, it waits until the host is as it was, and fails
    with the phase, the cause and the state reached.
  - V(confirmed) says that the host can be reached, and waits for the ending. It has to come over another connection
    than the one that started the transaction; C(ansible.builtin.meta=reset_connection) sees to that.
  - Without a confirmation the host goes back by itself, so nothing is lost when this module never runs.
options:
  id:
    description: The transaction's name. Does nothing when it is empty.
    type: str
    required: true
  state:
    description: What to wait for.
    type: str
    choices: [phase, confirmed]
    default: phase
  phase:
    description: The phase to wait for.
    type: str
    choices: [snapshot, migrate, pull, deploy, health-check]
  timeout:
    description: How many seconds to wait at most. The transaction goes on without us.
    type: int
    default: 3600
attributes:
  check_mode:
    description: Does nothing.
    support: full
  diff_mode:
    description: Returns what has changed, or would change, when in diff mode.
    support: none
    details: What changes is said by the module that starts the transaction.
"""

EXAMPLES = r"""
- name: See it deployed
  mailwright.server.transaction:
    id: "{{ update_started.id }}"
    phase: deploy

- name: Come over a new connection
  ansible.builtin.meta: reset_connection

- name: Confirm that the host can be reached
  mailwright.server.transaction:
    id: "{{ update_started.id }}"
    state: confirmed
"""

RETURN = r"""
ending:
  description: V(committed), V(rolled back) or V(inconsistent); empty while the transaction is under way.
  returned: always
  type: str
phase:
  description: The phase in which it failed.
  returned: when it failed
  type: str
cause:
  description: Why it failed.
  returned: when it failed
  type: str
report:
  description: What became of the transaction, for people.
  returned: when it has ended
  type: str
effects:
  description: What the steps found and did, by their name.
  returned: success
  type: dict
  sample: {install: {packages: [postfix]}, activate: {units: [postfix.service], closed_seconds: 2.9}}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mailwright.server.plugins.module_utils.txn import launch
from ansible_collections.mailwright.server.plugins.module_utils.txn.journal import COMMITTED
from ansible_collections.mailwright.server.plugins.module_utils.txn.storage import TransactionError


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "id": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["phase", "confirmed"], "default": "phase"},
            "phase": {"type": "str", "choices": ["snapshot", "migrate", "pull", "deploy", "health-check"]},
            "timeout": {"type": "int", "default": 3600},
        },
        required_if=[("state", "phase", ("phase",))],
        supports_check_mode=True,
    )
    if module.check_mode or not module.params["id"]:
        module.exit_json(changed=False, ending="", effects={})
    try:
        transaction = launch.find(module.params["id"])
        if module.params["state"] == "confirmed":
            history = launch.confirm(transaction, module.params["timeout"])
        else:
            history = launch.wait(transaction, module.params["phase"], module.params["timeout"])
    except (TransactionError, ValueError) as error:
        module.fail_json(msg=str(error), ending="")
    effects = {name: data for name, data in history.effects.items() if data}
    if not history.ending:
        module.exit_json(changed=False, ending="", effects=effects)
    report = launch.report(transaction)
    if history.ending != COMMITTED:
        said = launch.ending(transaction)
        module.fail_json(
            msg=report, report=report, ending=history.ending, phase=said.get("phase", ""), cause=said.get("cause", "")
        )
    module.exit_json(changed=False, ending=history.ending, report=report, effects=effects)


if __name__ == "__main__":
    main()
