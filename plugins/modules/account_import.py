#!/usr/bin/python
# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: account_import
short_description: Turn another mail system's accounts into a file of the inventory
version_added: "0.1.0"
author: mailwright contributors (@mailwright)
description:
  - Reads a dump of Mailcow, Mail-in-a-Box, iRedMail or Stalwart, and writes domains, mailboxes, aliases, catch-alls,
    quotas and password hashes as C(mail_domains__imported), for you to look through and keep in the inventory.
  - A password hash of a scheme that is not accepted here becomes a reference to C(vault_imported), which you fill.
  - It runs on the controller, with C(delegate_to=localhost) or in a play of its own.
notes:
  - The formats are those that the systems' own set-up has. Each was tried with dumps made by hand, not with a grown
    installation.
  - The file holds password hashes. It is written with mode 0600; encrypt it with C(ansible-vault) if others may read
    the inventory.
options:
  system:
    description:
      - Where the dump comes from. V(mailcow) and V(iredmail) take what C(mysqldump) writes, V(iredmail) also what
        C(pg_dump) writes, V(mailinabox) the file C(users.sqlite) or what C(sqlite3 users.sqlite .dump) writes,
        V(stalwart) what C(GET /api/principal) answers, up to version 0.15.
    type: str
    choices: [mailcow, mailinabox, iredmail, stalwart]
    required: true
  src:
    description: The dump, a file on the controller.
    type: path
    required: true
  dest:
    description: The file of the inventory to write. An existing one is not overwritten.
    type: path
    required: true
  sieve_dir:
    description: A directory for the filters that the dump holds, one for each mailbox. Only Mailcow's dump has any.
    type: path
attributes:
  check_mode:
    description: Reads the dump and says what would be written.
    support: full
  diff_mode:
    description: Returns what has changed, or would change, when in diff mode.
    support: none
    details: The file holds password hashes.
"""

EXAMPLES = r"""
- name: Take over Mailcow's accounts
  mailwright.server.account_import:
    system: mailcow
    src: mailcow.sql
    dest: inventory/group_vars/mailservers/imported.yml
    sieve_dir: imported-filters
  delegate_to: localhost
"""

RETURN = r"""
counts:
  description: How many C(domains), C(mailboxes), C(aliases) and C(filters) were read.
  returned: success
  type: dict
findings:
  description: What could not be taken over, and what the inventory's own check says of the result.
  returned: success
  type: list
  elements: str
"""

import os
import sqlite3
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.mailwright.server.plugins.module_utils.migrate.accounts import inventory
from ansible_collections.mailwright.server.plugins.module_utils.migrate.converters import CONVERTERS
from ansible_collections.mailwright.server.plugins.module_utils.migrate.sqldump import DumpError
from ansible_collections.mailwright.server.plugins.module_utils.model.build import build_model
from ansible_collections.mailwright.server.plugins.module_utils.model.errors import ModelError

try:
    import yaml

    HAS_YAML = True
except ImportError:
    HAS_YAML = False

VARIABLE = "mail_domains__imported"


def read(path: str) -> str:
    """The dump's text; an SQLite database is dumped first."""
    with open(path, "rb") as stream:
        data = stream.read()
    if data.startswith(b"SQLite format 3\0"):
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        return "\n".join(connection.iterdump())
    return data.decode("utf-8")


def checked(domains: list[dict[str, Any]]) -> list[str]:
    """What the model says of the domains alone."""
    names = [domain["name"] for domain in domains]
    variables = {"mail_hostname": "mx.invalid.example", "mail_admin": "admin@elsewhere.example", VARIABLE: domains}
    try:
        build_model(variables)
    except ModelError as error:
        return error.errors
    return [] if names else ["no domain was found"]


def write(path: str, text: str) -> None:
    """A new file that only its owner can read."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
        stream.write(text)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "system": {"type": "str", "choices": sorted(CONVERTERS), "required": True},
            "src": {"type": "path", "required": True},
            "dest": {"type": "path", "required": True},
            "sieve_dir": {"type": "path"},
        },
        supports_check_mode=True,
    )
    if not HAS_YAML:
        module.fail_json(msg=missing_required_lib("PyYAML"))
    params = module.params
    if os.path.exists(params["dest"]):
        module.fail_json(msg=f"dest: {params['dest']} exists: move it away, or write to another file")
    try:
        accounts = CONVERTERS[params["system"]](read(params["src"]))
        domains, findings = inventory(accounts)
        filters = accounts.sieve if params["sieve_dir"] else {}
        if not module.check_mode:
            head = f"# Imported from {params['system']}. Look it through, then keep it with the inventory.\n---\n"
            write(params["dest"], head + yaml.safe_dump({VARIABLE: domains}, allow_unicode=True, sort_keys=False))
            for address, scripts in sorted(filters.items()):
                directory = os.path.join(params["sieve_dir"], address.replace("/", "_"))
                os.makedirs(directory, mode=0o700, exist_ok=True)
                for name, text in sorted(scripts.items()):
                    write(os.path.join(directory, name.replace("/", "_") + ".sieve"), text)
    except (DumpError, UnicodeDecodeError) as error:
        module.fail_json(msg=f"src: {params['src']}: {error}")
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}")
    counts = {
        "domains": len(domains),
        "mailboxes": sum(len(domain.get("mailboxes", [])) for domain in domains),
        "aliases": sum(len(domain.get("aliases", [])) + ("catch_all" in domain) for domain in domains),
        "filters": sum(map(len, accounts.sieve.values())),
    }
    if accounts.sieve and not params["sieve_dir"]:
        findings.append(f"{counts['filters']} filters are in the dump: name a sieve_dir to get them")
    module.exit_json(changed=True, counts=counts, findings=findings + checked(domains))


if __name__ == "__main__":
    main()
