#!/usr/bin/python
# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: restore
short_description: Restore a mail server, a mailbox or a folder from a backup
version_added: "0.1.0"
author: mailwright contributors (@mailwright)
description:
  - Without O(mailbox) everything that was backed up is put onto a host that has no mail yet. The services are left
    stopped, so that an apply starts them with what was restored; the playbook C(mailwright.server.restore) does both.
  - With O(mailbox) messages are copied into the mailbox, below a folder C(Restored/<date and time of the backup>).
    What the mailbox holds is never changed.
  - Everything is fetched and verified before anything is changed.
  - Needs what the role P(mailwright.server.backup#role) sets up.
options:
  at:
    description:
      - Which backup; V(latest), a date such as V(2026-03-01) for the last one of or before that day, a time such as
        V(2026-03-01 14:30), both in UTC, or the beginning of a snapshot's identifier.
    type: str
    default: latest
  mailbox:
    description: The address of the one mailbox to restore.
    type: str
  folder:
    description: The one folder of O(mailbox) to restore, by its full name, such as V(Archive/2025).
    type: str
attributes:
  check_mode:
    description: Finds the snapshot and says what would be restored. The data itself is not read.
    support: full
  diff_mode:
    description: Lists what is restored.
    support: full
"""

EXAMPLES = r"""
- name: Bring everything back onto a fresh host
  mailwright.server.restore:

- name: Bring one folder back as it was at the end of February
  mailwright.server.restore:
    at: "2026-02-28"
    mailbox: alice@example.org
    folder: Archive/2025
"""

RETURN = r"""
plan:
  description: What was restored, or would be.
  returned: success
  type: list
  elements: str
snapshot:
  description: The identifier of the snapshot.
  returned: success
  type: str
messages:
  description: How many messages were copied into the mailbox.
  returned: success, with O(mailbox), not in check mode
  type: int
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mailwright.server.plugins.module_utils.backup import restore
from ansible_collections.mailwright.server.plugins.module_utils.backup.restic import Restic
from ansible_collections.mailwright.server.plugins.module_utils.backup.settings import BackupError, Settings


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "at": {"type": "str", "default": "latest"},
            "mailbox": {"type": "str"},
            "folder": {"type": "str"},
        },
        required_by={"folder": ["mailbox"]},
        supports_check_mode=True,
    )
    at, mailbox, folder = (module.params[name] for name in ("at", "mailbox", "folder"))
    result: dict[str, Any] = {"changed": True}
    try:
        restic = Restic(Settings.load())
        if mailbox:
            plan = restore.plan_mailbox(restic, at, mailbox.lower(), folder)
        else:
            plan = restore.plan_host(restic, at)
        if not module.check_mode:
            if mailbox:
                result["messages"] = restore.restore_mailbox(restic, plan, mailbox.lower(), folder)
            else:
                restore.restore_host(restic, plan)
    except BackupError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename or 'the host'}: {error.strerror}")
    if module._diff:
        after = "".join(f"{line}\n" for line in plan.lines)
        result["diff"] = {"before_header": "restore", "after_header": "restore", "before": "", "after": after}
    module.exit_json(plan=list(plan.lines), snapshot=plan.snapshot.id, **result)


if __name__ == "__main__":
    main()
