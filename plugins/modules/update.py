#!/usr/bin/python
# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: update
short_description: Start an update of packages that undoes itself when it fails
version_added: "0.2.0"
author: mailwright contributors (@mailwright)
description:
  - Starts the engine of transactions on the host, which takes a snapshot, migrates, pulls, deploys, checks and waits
    for a confirmation. M(mailwright.server.transaction) watches it and confirms.
  - Any failure, at any phase, brings the host back to what it was, with or without Ansible.
  - Does nothing when there is nothing to update.
notes:
  - The role C(transaction) installs the units that it needs; the playbook C(mailwright.server.update) has both.
  - Apt's package lists are fetched, in check mode too, as the plan would otherwise be made of old ones.
options:
  packages:
    description: Names of the packages to update, with what they depend on. All, when empty.
    type: list
    elements: str
    default: []
  hostname:
    description: The host's full name, as in the model.
    type: str
    required: true
  features:
    description: The switches, as in the model; V(webmail) says whether the log-in to the webmail is tried.
    type: dict
    default: {}
  confirm_seconds:
    description: How long the host waits for a confirmation over a new connection before it goes back.
    type: int
    default: 120
  health_seconds:
    description: How long the updated services have to do their job as well as before.
    type: int
    default: 30
attributes:
  check_mode:
    description: Lists every package that would be installed or upgraded, with its versions; apt simulates it.
    support: full
  diff_mode:
    description: One line for each package.
    support: full
"""

EXAMPLES = r"""
- name: Start an update of everything
  mailwright.server.update:
    hostname: mx1.acme.test
    features: {webmail: true}
  register: update_started
"""

RETURN = r"""
id:
  description: The transaction's name, empty when there is nothing to update, and in check mode.
  returned: success
  type: str
  sample: 20261126T131500Z
packages:
  description: What is updated.
  returned: success
  type: list
  elements: dict
  contains:
    name: {description: The package., type: str}
    before: {description: The version before; empty when it was not installed., type: str}
    after: {description: The version after., type: str}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mailwright.server.plugins.module_utils.txn import dpkg, launch
from ansible_collections.mailwright.server.plugins.module_utils.txn.storage import TransactionError


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "str", "default": []},
            "hostname": {"type": "str", "required": True},
            "features": {"type": "dict", "default": {}},
            "confirm_seconds": {"type": "int", "default": 120},
            "health_seconds": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    for name in ("confirm_seconds", "health_seconds"):
        if module.params[name] < 1:
            module.fail_json(msg=f"{name}: {module.params[name]} must be at least 1 second")
    try:
        dpkg.update_lists()
        plan = dpkg.resolve(module.params["packages"])
        started = ""
        if plan and not module.check_mode:
            started = launch.begin({"kind": "update", **module.params})
    except TransactionError as error:
        module.fail_json(msg=str(error))
    result: dict[str, Any] = {
        "changed": bool(plan),
        "id": started,
        "packages": [{"name": name, "before": before, "after": after} for name, before, after in plan],
        "diff": {
            "before_header": "packages",
            "after_header": "packages",
            "before": "".join(f"{name} {before}\n" for name, before, _after in plan if before),
            "after": "".join(f"{name} {after}\n" for name, _before, after in plan if after),
        },
    }
    module.exit_json(**result)


if __name__ == "__main__":
    main()
