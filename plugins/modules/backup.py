#!/usr/bin/python
# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: backup
short_description: Back up a mail server now, or check its backups
version_added: "0.1.0"
author: mailwright contributors (@mailwright)
description:
  - Starts the unit that the role P(mailwright.server.backup#role) has set up, the same one that the timer starts, and
    waits for its end.
  - When it fails, so does the task, with what the program said.
options:
  action:
    description:
      - V(run) makes a snapshot and forgets those that are kept no longer.
      - V(check) reads the repository back, as much of it as the inventory says.
    type: str
    choices: [run, check]
    default: run
attributes:
  check_mode:
    description: Says that it would run, when it is set up.
    support: full
  diff_mode:
    description: Returns what has changed, or would change, when in diff mode.
    support: none
    details: The mail server itself is not changed.
"""

EXAMPLES = r"""
- name: Back up now
  mailwright.server.backup:
  register: backup_made

- name: Read a part of it back
  mailwright.server.backup:
    action: check
"""

RETURN = r"""
report:
  description: What was done, in one line.
  returned: success
  type: str
  sample: "snapshot 3f2a91c0: 2000 messages of 20 mailboxes, 1.2 MiB added, 9 s"
facts:
  description: >-
    What the program noted: C(started), C(finished), and for V(run) also C(snapshot), C(messages), C(mailboxes),
    C(added_bytes) and C(total_bytes).
  returned: success
  type: dict
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mailwright.server.plugins.module_utils.backup.settings import (
    BackupError,
    Settings,
    read_state,
)

UNITS = {"run": "mailwright-backup.service", "check": "mailwright-backup-check.service"}


def report(action: str, facts: dict[str, Any], seconds: float) -> str:
    """One line for people."""
    if action == "check":
        return f"the repository is whole, {facts['percent']} % of its data read back, {seconds:.0f} s"
    added = f"{facts['added_bytes'] / 2**20:.1f} MiB added"
    counts = f"{facts['messages']} messages of {facts['mailboxes']} mailboxes"
    return f"snapshot {facts['snapshot'][:8]}: {counts}, {added}, {seconds:.0f} s"


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"action": {"type": "str", "choices": ["run", "check"], "default": "run"}},
        supports_check_mode=True,
    )
    action = module.params["action"]
    try:
        settings = Settings.load()
    except BackupError as error:
        module.fail_json(msg=str(error))
    if module.check_mode:
        what = "back up to" if action == "run" else "check"
        module.exit_json(changed=action == "run", report=f"would {what} {settings.repository}", facts={})
    start, before = time.monotonic(), read_state().get(f"last_{action}", {})
    code, _out, _err = module.run_command(["systemctl", "start", UNITS[action]])
    facts = read_state().get(f"last_{action}", {})
    if code:
        if facts != before:
            module.fail_json(msg=f"{UNITS[action]}: {facts['message']}")
        _code, log, _err = module.run_command(["journalctl", "--unit", UNITS[action], "-n", "3", "-o", "cat"])
        module.fail_json(msg=f"{UNITS[action]} failed: {'; '.join(log.splitlines())}")
    module.exit_json(changed=action == "run", report=report(action, facts, time.monotonic() - start), facts=facts)


if __name__ == "__main__":
    main()
