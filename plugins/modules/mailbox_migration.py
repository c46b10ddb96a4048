#!/usr/bin/python
# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mailbox_migration
short_description: Copy mailboxes from any IMAP server and compare them message by message
version_added: "0.1.0"
author: mailwright contributors (@mailwright)
description:
  - Copies folders, messages, flags and dates into mailboxes of this host by IMAP, filters by ManageSieve, then reads
    what is here and compares every message.
  - A further run copies only what is new, by content. Nothing is changed or deleted at the source, and nothing that is
    only here is touched.
  - The mailboxes must exist here. One that fails does not keep the others from being copied.
options:
  host:
    description: The source's name or address.
    type: str
    required: true
  port:
    description: Its IMAP port.
    type: int
    default: 993
  starttls:
    description: Whether TLS begins with C(STARTTLS), as on port 143. There is no way without TLS.
    type: bool
    default: false
  verify_certificate:
    description: Whether the source's certificate must be valid for O(host).
    type: bool
    default: true
  ca_pem:
    description: Certificates in PEM form that are trusted instead of those of the system.
    type: str
  sieve_port:
    description: The source's ManageSieve port, such as V(4190). Without it no filters are copied.
    type: int
  mailboxes:
    description: What to copy.
    type: list
    elements: dict
    required: true
    suboptions:
      address:
        description: The mailbox here.
        type: str
        required: true
      user:
        description:
          - How its owner logs in at the source. O(mailboxes[].address) when not set.
          - With a master user of Dovecot's, V(owner*master).
        type: str
      password:
        description: The password of O(mailboxes[].user), or of the master user.
        type: str
        required: true
attributes:
  check_mode:
    description: Compares both sides and says what is missing. Copies nothing.
    support: full
  diff_mode:
    description: Returns what has changed, or would change, when in diff mode.
    support: none
    details: The results say it for each mailbox.
"""

EXAMPLES = r"""
- name: Copy two mailboxes
  mailwright.server.mailbox_migration:
    host: imap.old-provider.example
    sieve_port: 4190
    mailboxes:
      - {address: alice@example.org, user: alice, password: "{{ vault_old_alice }}"}
      - {address: bob@example.org, user: bob*master, password: "{{ vault_old_master }}"}
"""

RETURN = r"""
results:
  description: What became of each mailbox.
  returned: always
  type: list
  elements: dict
  contains:
    address:
      description: The mailbox here.
      type: str
    complete:
      description: Whether every folder and message of the source is here, with its date.
      type: bool
    added:
      description: How many messages came to be here.
      type: int
    messages:
      description: How many messages the source has, all of them compared.
      type: int
    octets:
      description: Their size.
      type: int
    folders:
      description: How many folders the source has.
      type: int
    sieve:
      description: The filters that were copied.
      type: list
      elements: str
    findings:
      description: What is missing or different, and why a mailbox could not be copied.
      type: list
      elements: str
report:
  description: One line for each mailbox.
  returned: always
  type: list
  elements: str
  sample: ["alice@example.org: complete, 5 folders, 412 messages compared, 12 added"]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mailwright.server.plugins.module_utils.migrate.copy import Account, Copied, migrate
from ansible_collections.mailwright.server.plugins.module_utils.migrate.imap import MigrationError, Source


def result_of(copied: Copied, error: str | None) -> dict[str, Any]:
    """One mailbox's result."""
    verdict = copied.verdict
    return {
        "address": copied.address,
        "complete": error is None and verdict.complete,
        "added": copied.added,
        "folders": verdict.folders,
        "messages": verdict.messages,
        "octets": verdict.octets,
        "sieve": copied.sieve,
        "findings": [error] if error else verdict.lines() + copied.warnings,
    }


def line(result: dict[str, Any]) -> str:
    """A result for people."""
    words = "complete" if result["complete"] else "NOT COMPLETE"
    facts = f"{result['folders']} folders, {result['messages']} messages compared, {result['added']} added"
    filters = f", filters {' '.join(result['sieve'])}" if result["sieve"] else ""
    findings = "".join(f"; {finding}" for finding in result["findings"])
    return f"{result['address']}: {words}, {facts}{filters}{findings}"


def main() -> None:
    """Run the module."""
    mailbox = {
        "address": {"type": "str", "required": True},
        "user": {"type": "str"},
        "password": {"type": "str", "required": True, "no_log": True},
    }
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "required": True},
            "port": {"type": "int", "default": 993},
            "starttls": {"type": "bool", "default": False},
            "verify_certificate": {"type": "bool", "default": True},
            "ca_pem": {"type": "str"},
            "sieve_port": {"type": "int"},
            "mailboxes": {"type": "list", "elements": "dict", "required": True, "options": mailbox},
        },
        supports_check_mode=True,
    )
    params = module.params
    source = Source(
        params["host"], params["port"], params["starttls"], params["verify_certificate"], params["ca_pem"]
    )  # fmt: skip
    results, changed = [], False
    for entry in params["mailboxes"]:
        account = Account(entry["address"].lower(), entry["user"] or entry["address"], entry["password"])
        try:
            copied = migrate(source, account, params["sieve_port"], only_look=module.check_mode)
            results.append(result_of(copied, None))
            changed |= copied.changed
        except MigrationError as error:
            results.append(result_of(Copied(account.address), str(error)))
    report = [line(result) for result in results]
    if not module.check_mode and not all(result["complete"] for result in results):
        module.fail_json(msg="Not every mailbox is complete:\n" + "\n".join(report), results=results, report=report)
    module.exit_json(changed=changed, results=results, report=report)


if __name__ == "__main__":
    main()
