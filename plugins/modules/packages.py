#!/usr/bin/python
# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: packages
short_description: Install Debian packages in one transaction without starting what they bring
version_added: "0.1.0"
author: mailwright contributors (@mailwright)
description:
  - Installs the packages that are missing, without recommended ones. Those that are there stay as they are.
  - While packages are installed no service is started or restarted, so nothing runs with packaged settings.
  - Apt's package lists are fetched when there are none or they are older than O(lists_valid_hours). That happens in
    check mode as well, as the plan would otherwise be made of nothing.
  - A transaction that was interrupted is completed first.
notes:
  - Needs nothing on the host but apt and dpkg.
options:
  name:
    description: Names of packages.
    type: list
    elements: str
    required: true
  lists_valid_hours:
    description: Age up to which apt's package lists are good enough.
    type: int
    default: 24
attributes:
  check_mode:
    description: Lists every package that would be installed, upgraded or removed, with its version; apt simulates it.
    support: full
  diff_mode:
    description: One line for each package that is installed, upgraded or removed.
    support: full
"""

EXAMPLES = r"""
- name: Install a mail transfer agent, not running yet
  mailwright.server.packages:
    name: [postfix, postfix-pgsql]
"""

RETURN = r"""
packages:
  description: What was, or would be, installed, upgraded or removed.
  returned: always
  type: list
  elements: dict
  contains:
    name: {description: The package., type: str}
    before: {description: The version before; empty when it was not installed., type: str}
    after: {description: The version after; empty when it was removed., type: str}
"""

import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mailwright.server.plugins.module_utils.packages import policy, store
from ansible_collections.mailwright.server.plugins.module_utils.packages.plan import (
    interrupted,
    missing,
    simulated,
    states,
)

LISTS = Path("/var/lib/apt/lists")
ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", "NEEDRESTART_MODE": "l"}
OPTIONS = [
    "-q", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300", "-o", "APT::Keep-Downloaded-Packages=true",
    "-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold",
]  # fmt: skip


class Apt:
    """The host's apt and dpkg."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module

    def run(self, *argv: str) -> str:
        code, out, err = self.module.run_command(list(argv), environ_update=ENVIRONMENT)
        if code:
            self.module.fail_json(msg=f"{' '.join(argv)}: exit code {code}", stdout=out, stderr=err)
        return str(out)

    def states(self) -> dict[str, str]:
        return states(self.run("dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\\n"))

    def refresh(self, hours: int) -> None:
        """Fetch the lists unless there are some and they are young."""
        # an update that finds nothing new touches only the directory of partial downloads
        checked = max((path.stat().st_mtime for path in (LISTS, LISTS / "partial") if path.exists()), default=0.0)
        if not any(LISTS.glob("*_Packages*")) or time.time() - checked > hours * 3600:
            self.run("apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", "update")

    def install(self, names: list[str]) -> None:
        """Install while every service action is forbidden."""
        with policy.services_untouched():
            self.run("apt-get", *OPTIONS, "install", *names)

    def keep(self, names: set[str]) -> None:
        """Keep the .debs of what was installed: an update that fails goes back to these versions."""
        listing = self.run("dpkg-query", "-W", "-f", store.QUERY)
        store.keep(package for package in store.parse(listing) if package.name in names)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "list", "elements": "str", "required": True},
            "lists_valid_hours": {"type": "int", "default": 24},
        },
        supports_check_mode=True,
    )
    apt = Apt(module)
    found = apt.states()
    wanted = missing(module.params["name"], found)
    broken = interrupted(found)
    if not module.check_mode:
        policy.release()
    if not wanted and not broken:
        module.exit_json(changed=False, packages=[])
    if broken and not module.check_mode:
        apt.run("dpkg", "--configure", "--pending", "--force-confdef", "--force-confold")
    apt.refresh(module.params["lists_valid_hours"])
    plan = simulated(apt.run("apt-get", *OPTIONS, "--simulate", "install", *wanted)) if wanted else []
    if wanted and not module.check_mode:
        apt.install(wanted)
        apt.keep({name.partition(":")[0] for name, _before, _after in plan})
        left = missing(wanted, apt.states())
        if left:
            module.fail_json(msg=f"apt-get reported success but these are not installed: {', '.join(left)}")
    result: dict[str, Any] = {
        "changed": True,
        "packages": [{"name": name, "before": before, "after": after} for name, before, after in plan],
        "diff": {
            "before_header": "packages",
            "after_header": "packages",
            "before": "".join(f"{name} {before}\n" for name, before, _after in plan if before)
            + "".join(f"{name} {found[name]}\n" for name in broken),
            "after": "".join(f"{name} {after}\n" for name, _before, after in plan if after)
            + "".join(f"{name} installed\n" for name in broken),
        },
    }
    module.exit_json(**result)


if __name__ == "__main__":
    main()
