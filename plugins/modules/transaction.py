#!/usr/bin/python
# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: transaction
short_description: Watch a change that undoes itself when it fails, confirm it or abandon it
version_added: "0.2.0"
author: mailwright contributors (@mailwright)
description:
  - M(mailwright.server.update) and M(mailwright.server.snapshot) start transactions, which the host runs by itself.
  - V(phase) waits until a phase is done. When the change has failed, it waits until the host is as it was, and fails
    with the phase, the cause and the state reached.
  - V(confirmed) says that the host can be reached, and waits for the ending. It has to come over another connection
    than the one that started the transaction; so it hangs up first.
  - V(abandoned) has an apply undone, waits until the host is as it was, and fails.
  - Without a confirmation the host goes back by itself, so nothing is lost when this module never runs.
options:
  id:
    description:
      - The transaction's name. Does nothing when it is empty.
      - By default the one that this play's M(mailwright.server.config_tree) has opened, if it has.
    type: str
  state:
    description:
      - What to do.
      - V(begun) and V(reached) are for M(mailwright.server.config_tree), which starts an apply's transaction, and comes
        anew after a change that could have cut the host off.
    type: str
    choices: [phase, confirmed, abandoned, begun, reached]
    default: phase
  phase:
    description: The phase to wait for.
    type: str
    choices: [snapshot, migrate, pull, deploy, health-check]
  cause:
    description: With V(abandoned), what has failed.
    type: str
    default: the apply failed
  hostname:
    description: With V(begun), the host's full name, as in the model.
    type: str
  features:
    description: With V(begun), the switches, as in the model.
    type: dict
    default: {}
  gate:
    description: With V(begun), whether the whole apply is undone when it fails, or mail does worse than before.
    type: bool
    default: false
  guard:
    description: With V(begun), whether what comes next may cut the host off.
    type: bool
    default: false
  confirm_seconds:
    description: With V(begun), how long the host waits for a new connection after such a change.
    type: int
    default: 120
  silence_seconds:
    description: With V(begun), how long the host waits for the next task of an apply before it takes it for dead.
    type: int
    default: 300
  health_seconds:
    description: With V(begun), how long the services have to do their job as well as before.
    type: int
    default: 30
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

- name: Confirm that the host can be reached
  mailwright.server.transaction:
    id: "{{ update_started.id }}"
    state: confirmed
"""

RETURN = r"""
id:
  description: The transaction's name, empty when nothing is to be undone.
  returned: with V(begun)
  type: str
gate:
  description: Whether the whole apply is guarded, not only what may cut the host off.
  returned: with V(begun)
  type: bool
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

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mailwright.server.plugins.module_utils.txn import launch
from ansible_collections.mailwright.server.plugins.module_utils.txn.journal import COMMITTED
from ansible_collections.mailwright.server.plugins.module_utils.txn.storage import TransactionError


def begun(module: AnsibleModule) -> dict[str, Any]:
    """Start guarding an apply, or what it changes next."""
    p = module.params
    if p["id"]:
        launch.find(p["id"]).guard()
        return {"changed": False, "id": p["id"], "gate": True}
    keys = ("hostname", "features", "gate", "confirm_seconds", "silence_seconds", "health_seconds")
    request = {key: p[key] for key in keys}
    transaction = launch.begin_apply(request, guard=p["guard"])
    if transaction is None:
        return {"changed": False, "id": "", "gate": False}
    return {"changed": False, "id": transaction.id, "gate": transaction.request["gate"]}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "id": {"type": "str"},
            "state": {
                "type": "str",
                "choices": ["phase", "confirmed", "abandoned", "begun", "reached"],
                "default": "phase",
            },
            "phase": {"type": "str", "choices": ["snapshot", "migrate", "pull", "deploy", "health-check"]},
            "cause": {"type": "str", "default": "the apply failed"},
            "hostname": {"type": "str"},
            "features": {"type": "dict", "default": {}},
            "gate": {"type": "bool", "default": False},
            "guard": {"type": "bool", "default": False},
            "confirm_seconds": {"type": "int", "default": 120},
            "silence_seconds": {"type": "int", "default": 300},
            "health_seconds": {"type": "int", "default": 30},
            "timeout": {"type": "int", "default": 3600},
        },
        required_if=[("state", "phase", ("phase",)), ("state", "begun", ("hostname",))],
        supports_check_mode=True,
    )
    state, seconds = module.params["state"], module.params["timeout"]
    if module.check_mode or not (module.params["id"] or state == "begun"):
        module.exit_json(changed=False, ending="", effects={})
    try:
        if state == "begun":
            module.exit_json(ending="", effects={}, **begun(module))
        transaction = launch.find(module.params["id"])
        if state == "confirmed":
            history = launch.confirm(transaction, seconds)
        elif state == "reached":
            history = launch.reached(transaction, seconds)
        elif state == "abandoned":
            history = launch.abandon(transaction, module.params["cause"], seconds)
        else:
            history = launch.wait_for_phase(transaction, module.params["phase"], seconds)
    except (TransactionError, ValueError) as error:
        module.fail_json(msg=str(error), ending="")
    effects = {name: data for name, data in history.effects.items() if data}
    if not history.ending:
        module.exit_json(changed=False, ending="", effects=effects)
    for text in launch.not_judged(history):
        module.warn(text)
    report = launch.report(transaction)
    if history.ending != COMMITTED:
        said = launch.ending(transaction)
        module.fail_json(
            msg=report, report=report, ending=history.ending, phase=said.get("phase", ""), cause=said.get("cause", "")
        )
    module.exit_json(changed=False, ending=history.ending, report=report, effects=effects)


if __name__ == "__main__":
    main()
