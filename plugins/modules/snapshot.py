#!/usr/bin/python
# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: snapshot
short_description: Snapshots of a mail server's packages, configuration and databases
version_added: "0.2.0"
author: mailwright contributors (@mailwright)
description:
  - A snapshot holds the exact package versions with their C(.deb) files, what M(mailwright.server.config_tree) wrote,
    the packages' own configuration, the host's secrets, dumps of the databases, and the program that restores it.
  - It lies in C(/var/lib/mailwright/snapshots), for root alone. Every content has its SHA-256 in the manifest.
  - What is never turned back is not in it, among it the queue, the mail, DKIM keys and certificates.
options:
  state:
    description:
      - V(present) takes a snapshot now.
      - V(absent) removes one.
      - V(restored) starts a transaction that brings the host back to one; M(mailwright.server.transaction) watches it.
      - V(listed) tells which there are.
      - V(pruned) removes what need not be kept. The last three that were committed or taken by hand stay, and every
        one whose transaction is open or ended inconsistent.
    type: str
    choices: [present, absent, restored, listed, pruned]
    default: listed
  id:
    description: The snapshot, for V(absent) and V(restored).
    type: str
  hostname:
    description: The host's full name, as in the model, for V(restored).
    type: str
  features:
    description: The switches, as in the model.
    type: dict
    default: {}
  confirm_seconds:
    description: With V(restored), how long the host waits for a confirmation before it undoes the restore.
    type: int
    default: 120
  health_seconds:
    description: With V(restored), how long the services have to do their job as well as before.
    type: int
    default: 30
attributes:
  check_mode:
    description: Says what would be done.
    support: full
  diff_mode:
    description: With V(restored), one line for each package and each file that differs from the snapshot.
    support: full
"""

EXAMPLES = r"""
- name: Take a snapshot
  mailwright.server.snapshot:
    state: present

- name: See which there are
  mailwright.server.snapshot:
  register: snapshots

- name: Start going back to one
  mailwright.server.snapshot:
    state: restored
    id: 20261126T131500Z
    hostname: mx1.acme.test
  register: restore_started
"""

RETURN = r"""
id:
  description: The snapshot taken, or the transaction started; empty in check mode.
  returned: with V(present) and V(restored)
  type: str
removed:
  description: Snapshots that were, or would be, removed.
  returned: with V(absent) and V(pruned)
  type: list
  elements: str
snapshots:
  description: All snapshots, oldest first.
  returned: with V(listed)
  type: list
  elements: dict
  contains:
    id: {description: Its name., type: str}
    reason: {description: Why it was taken., type: str}
    created: {description: Seconds since 1970 when it was taken., type: int}
    ending: {description: How its transaction ended., type: str}
    bytes: {description: Space that it alone occupies., type: int}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mailwright.server.plugins.module_utils.txn import (
    bundle,
    dpkg,
    engine,
    launch,
    services,
    snapshot,
)
from ansible_collections.mailwright.server.plugins.module_utils.txn.storage import TransactionError, locked


def present(module: AnsibleModule) -> dict[str, Any]:
    """Take one."""
    if module.check_mode:
        return {"changed": True, "id": ""}
    with locked():
        taken = snapshot.create(snapshot.identifier(), "taken by hand", bundle.archive(), services.states())
        taken.settle(snapshot.MANUAL)
    return {"changed": True, "id": taken.id}


def absent(module: AnsibleModule) -> dict[str, Any]:
    """Remove one, if it is there."""
    name = module.params["id"]
    there = any(found.id == name for found in snapshot.all_snapshots())
    if there and not module.check_mode:
        with locked():
            if not snapshot.find(name).ending:
                raise TransactionError(f"snapshot {name} belongs to a transaction that is open")
            snapshot.remove(name)
    return {"changed": there, "removed": [name] if there else []}


def restored(module: AnsibleModule) -> dict[str, Any]:
    """Start going back to one."""
    target = snapshot.find(module.params["id"])
    behind, extra = target.other_packages()
    now = {package.key: package for package in dpkg.installed()}
    files = target.changed_files({package.name for package in [*behind, *extra]})
    before = [f"{now[p.key].name} {now[p.key].version}" for p in [*behind, *extra] if p.key in now]
    changed = bool(behind or extra or files)
    started = ""
    if changed and not module.check_mode:
        request = {key: module.params[key] for key in ("hostname", "features", "confirm_seconds", "health_seconds")}
        started = launch.begin({"kind": "restore", "snapshot": target.id, **request})
    return {
        "changed": changed,
        "id": started,
        "diff": {
            "before_header": "host",
            "after_header": f"snapshot {target.id}",
            "before": "".join(f"{line}\n" for line in sorted(before)),
            "after": "".join(f"{p.name} {p.version}\n" for p in behind)
            + "".join(f"restored {path}\n" for path in files),
        },
    }


def listed(_module: AnsibleModule) -> dict[str, Any]:
    """Tell which there are."""
    found = [
        {**{key: s.manifest[key] for key in ("id", "reason", "created")}, "ending": s.ending, "bytes": snapshot.used(s)}
        for s in snapshot.all_snapshots()
    ]
    return {"changed": False, "snapshots": found}


def pruned(module: AnsibleModule) -> dict[str, Any]:
    """Remove what need not be kept."""
    if module.check_mode:
        gone = snapshot.unneeded()
    else:
        with locked():
            gone = engine.tidy()
    return {"changed": bool(gone), "removed": gone}


STATES = {"present": present, "absent": absent, "restored": restored, "listed": listed, "pruned": pruned}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": list(STATES), "default": "listed"},
            "id": {"type": "str"},
            "hostname": {"type": "str"},
            "features": {"type": "dict", "default": {}},
            "confirm_seconds": {"type": "int", "default": 120},
            "health_seconds": {"type": "int", "default": 30},
        },
        required_if=[("state", "absent", ("id",)), ("state", "restored", ("id", "hostname"))],
        supports_check_mode=True,
    )
    try:
        result = STATES[module.params["state"]](module)
    except TransactionError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
