#!/usr/bin/python
# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write all configuration of one service as one transaction."""

from __future__ import annotations

DOCUMENTATION = r"""
module: config_tree
short_description: Write all configuration of one service as one transaction
version_added: "0.1.0"
author:
  - mailwright contributors (@mailwright)
description:
  - Renders a role's whole C(templates/) directory on the controller and sends it at once.
    C(templates/etc/postfix/main.cf.j2) becomes C(/etc/postfix/main.cf).
    Files without C(.j2) are copied byte for byte, with their executable bit.
  - Files named C(.gitkeep) are ignored. Files under C(templates/_macros/) are for C(import) and C(include) only.
  - The service's own checkers see the new files at their real paths, in a private mount namespace, before anything
    is changed. A failed check leaves the host as it was.
  - Files are then swapped by rename. What an earlier run wrote and is no longer wanted is removed.
  - Units are reloaded only when their files changed and restarted only where a reload does not suffice.
    When a unit does not come up, or does not accept connections where it should, files and units are put back.
  - A run that was killed is finished by the next one.
notes:
  - C(ansible_managed) is the variable of that name, or else the configured text without its placeholders expanded,
    as dates and paths in files would make them differ on every run.
  - Globs match the absolute path, and C(*) also matches C(/).
  - The content of a file that not everybody may read is hidden in diffs unless O(permissions[].sensitive) says
    V(false).
  - Directories are created when missing, owned by root, mode 0755, and never removed.
attributes:
  check_mode:
    description:
      - Says what would be done, on a host that has nothing yet as well.
      - Checks run when the users, the units and the programs that they need are there already.
    support: full
  diff_mode:
    description:
      - Shows contents, owners, groups and modes. Sensitive and binary contents are replaced by their size.
      - A line for each command that runs, and one for each unit and what happens to it.
    support: full
options:
  name:
    description: Name of the manifest, C(/var/lib/mailwright/config/NAME.json), which remembers what was written.
    type: str
    required: true
  src:
    description: Directory to take instead of the role's C(templates/), absolute or relative to role or playbook.
    type: str
  omit:
    description: Globs of target paths that are not to be written now. What was written there earlier is removed.
    type: list
    elements: str
    default: []
  permissions:
    description: Owners and modes. For each path and each key, the last entry that matches and sets it counts.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Glob of target paths.
        type: str
        required: true
      owner:
        description: User, by name or number. Else V(root).
        type: str
      group:
        description: Group, by name or number. Else V(root).
        type: str
      mode:
        description: Quoted octal mode. Else V("0644"), or V("0755") for an executable file that is no template.
        type: raw
      sensitive:
        description: Whether the content is hidden in diffs and messages. Else, when others may not read the file.
        type: bool
  check:
    description: Programs with arguments, run without a shell on the staged files. Each has 60 seconds.
    type: list
    elements: str
    default: []
  commands:
    description: Programs to run after the swap and before units are touched.
    type: list
    elements: dict
    default: []
    suboptions:
      run:
        description: Program with arguments, run without a shell.
        type: str
        required: true
      paths:
        description: Globs; the program runs only when a created, changed or removed path matches.
        type: list
        elements: str
        default: ["*"]
  units:
    description: Units of systemd, acted upon in this order.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the unit; C(.service) may be left out.
        type: str
        required: true
      state:
        description: Whether the unit is to be up. V(unmanaged) leaves it as it is, and minds only O(units[].enabled).
        type: str
        choices: [started, stopped, unmanaged]
        default: started
      enabled:
        description: Whether the unit is to start at boot. Else, what O(units[].state) implies.
        type: bool
      restart_on:
        description:
          - Globs of files for which a reload does not suffice. Files that define the unit itself always count.
          - A unit that cannot reload is restarted in any case.
        type: list
        elements: str
        default: []
      reload_on:
        description: Globs of files that concern the unit at all. Those of O(units[].restart_on) need not be repeated.
        type: list
        elements: str
        default: ["*"]
      listens:
        description:
          - Where the unit accepts connections when it is up, as IPv4 address and port or as path of a Unix socket.
          - Waited for after the unit was started, restarted or reloaded; if it does not come, all is put back.
        type: list
        elements: str
        default: []
  transaction:
    description:
      - Have the host go back by itself when the change goes wrong, see M(mailwright.server.transaction), whose options
        C(hostname), C(features), C(gate), C(confirm_seconds), C(silence_seconds) and C(health_seconds) these are.
      - For C(module_defaults).
      - With C(gate), the first task that changes something opens a transaction, which takes in all further ones of the
        play; the play ends it by V(confirmed) or V(abandoned). Without, only tasks with O(guard) are undone.
      - Nothing is opened in check mode, nor by a task that changes nothing.
    type: dict
  guard:
    description:
      - The files may cut the host off. After the change the task comes over a new connection; when it cannot, the host
        takes the change back. Needs O(transaction).
    type: bool
    default: false
  files:
    description: The rendered files. Filled in on the controller, not by users.
    type: list
    elements: dict
    suboptions:
      path:
        description: Target path.
        type: str
        required: true
      content:
        description: Content in base64.
        type: str
        required: true
      mode:
        description: Mode of the source file, when it matters.
        type: str
"""

EXAMPLES = r"""
- name: Configure Postfix
  mailwright.server.config_tree:
    name: postfix
    omit: "{{ [] if mail_model.features.clamav else ['/etc/postfix/clamav.cf'] }}"
    permissions:
      - {path: /etc/postfix/sql/*, group: postfix, mode: "0640", sensitive: true}
    check:
      - postfix check
    commands:
      - {run: "sievec /etc/dovecot/sieve", paths: [/etc/dovecot/sieve/*]}
    units:
      - {name: postfix.service, restart_on: [/etc/postfix/master.cf], listens: ["127.0.0.1:25"]}

- name: Keep a timer off
  mailwright.server.config_tree:
    name: certbot
    units:
      - {name: certbot.timer, state: stopped, enabled: false}
"""

RETURN = r"""
created:
  description: Paths that did not exist, sorted.
  returned: success
  type: list
  elements: str
changed_files:
  description: Paths whose content, owner, group or mode changed, sorted.
  returned: success
  type: list
  elements: str
removed:
  description: Paths that an earlier run wrote and that are no longer wanted, sorted.
  returned: success
  type: list
  elements: str
units:
  description:
    - Unit to what happened to it, one of V(started), V(stopped), V(reloaded), V(restarted), V(enabled), V(disabled).
  returned: success
  type: dict
  sample: {"postfix.service": "reloaded"}
commands:
  description: Commands that ran.
  returned: success
  type: list
  elements: str
skipped_checks:
  description: Checks that could not run yet, in check mode only.
  returned: success
  type: list
  elements: str
recorded:
  description: Whether the host's record of what was written is complete; in check mode, whether it was before.
  returned: success
  type: bool
"""

import contextlib
import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mailwright.server.plugins.module_utils.config_tree.apply import Run
from ansible_collections.mailwright.server.plugins.module_utils.config_tree.plan import ConfigTreeError
from ansible_collections.mailwright.server.plugins.module_utils.config_tree.settings import SettingsError, parse

# The open transaction's sign of life, see module_utils/txn/storage.py.
ALIVE = "/var/lib/mailwright/txn/open/alive"


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "src": {"type": "str"},
            "omit": {"type": "list", "elements": "str", "default": []},
            "permissions": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "str", "required": True},
                    "owner": {"type": "str"},
                    "group": {"type": "str"},
                    "mode": {"type": "raw"},
                    "sensitive": {"type": "bool"},
                },
            },
            "check": {"type": "list", "elements": "str", "default": []},
            "commands": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "run": {"type": "str", "required": True},
                    "paths": {"type": "list", "elements": "str", "default": ["*"]},
                },
            },
            "units": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "state": {"type": "str", "choices": ["started", "stopped", "unmanaged"], "default": "started"},
                    "enabled": {"type": "bool"},
                    "restart_on": {"type": "list", "elements": "str", "default": []},
                    "reload_on": {"type": "list", "elements": "str", "default": ["*"]},
                    "listens": {"type": "list", "elements": "str", "default": []},
                },
            },
            "transaction": {"type": "dict"},
            "guard": {"type": "bool", "default": False},
            "files": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "path": {"type": "str", "required": True},
                    "content": {"type": "str", "required": True, "no_log": True},
                    "mode": {"type": "str"},
                },
            },
        },
        supports_check_mode=True,
    )
    if module.params["files"] is None:
        module.fail_json(msg="files: is missing; this module works only through its action plugin, which renders them")
    with contextlib.suppress(FileNotFoundError):
        os.utime(ALIVE)
    try:
        settings = parse(module.params)
        outcome = Run(settings, check_mode=module.check_mode, want_diff=module._diff).run()
    except (SettingsError, ConfigTreeError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename or 'the host'}: {error.strerror}")
    result = outcome.as_result()
    if module._diff:
        result["diff"] = outcome.full_diff()
    module.exit_json(**result)


if __name__ == "__main__":
    main()
