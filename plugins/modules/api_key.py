#!/usr/bin/python
# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: api_key
short_description: Make or remove a key of the sending API
version_added: "0.1.0"
author: mailwright contributors (@mailwright)
description:
  - Makes a key for a hosted domain. The key is in the result once, when it is made; the host stores its hash.
  - A key that exists keeps its text; its scopes and limits are brought in line.
  - Keys of the inventory (C(mail_api.keys)) are refused; change them there.
  - Connects by Unix socket and peer authentication as C(mailwright), so it runs as root.
options:
  name:
    description: What the key is called, once for each domain.
    type: str
    required: true
  domain:
    description: The hosted domain that it is for.
    type: str
    required: true
  scopes:
    description: What it may do, such as V(emails.write). Required with O(state=present).
    type: list
    elements: str
    default: []
  requests_per_minute:
    description: Requests in each minute of the clock. No limit when not set.
    type: int
  recipients_per_hour:
    description: Recipients in each hour of the clock. No limit when not set.
    type: int
  state:
    description: Whether the key is there.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment: mailwright.server.database
attributes:
  check_mode:
    description: Says what would be done; makes no key.
    support: full
  diff_mode:
    description: One line for the key, without the key itself.
    support: full
seealso:
  - module: mailwright.server.api_database
"""

EXAMPLES = r"""
- name: Make a key that may send from acme.test
  mailwright.server.api_key:
    name: shop
    domain: acme.test
    scopes: [emails.write, emails.read]
  register: shop

- name: Show it, this once
  ansible.builtin.debug:
    var: shop.key
  when: shop.key is defined
"""

RETURN = r"""
key:
  description: The key itself.
  returned: when it was made
  type: str
  sample: mw_3f2a9c51e07b_5d1c0e3b8a7f4d2b9c6e1a0f5b4d3c2e1f0a9b8c7d6e5f4a
id:
  description: The key's id, which is no secret.
  returned: when there is or was a key, and not in check mode when it is new
  type: str
  sample: 3f2a9c51e07b
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mailwright.server.plugins.module_utils.directory import cluster, store
from ansible_collections.mailwright.server.plugins.module_utils.sending import key_rows, keys, schema
from ansible_collections.mailwright.server.plugins.module_utils.sending import store as sending_store


class RefusedError(Exception):
    """What was asked for may not be done."""


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "domain": {"type": "str", "required": True},
            "scopes": {"type": "list", "elements": "str", "default": []},
            "requests_per_minute": {"type": "int"},
            "recipients_per_hour": {"type": "int"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "socket": {"type": "path", "default": "/var/run/postgresql"},
            "dbname": {"type": "str", "default": "mailwright"},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        place = params["domain"].lower(), keys.check_name(params["name"])
        scopes = keys.check_scopes(params["scopes"]) if params["state"] == "present" else []
        for rate in ("requests_per_minute", "recipients_per_hour"):
            if params[rate] is not None and params[rate] < 1:
                raise ValueError(f"{rate}: is {params[rate]}: write a number from 1 on")
        cluster.database_name(params["dbname"])
        with store.connect(params["socket"], params["dbname"], cluster.OWNER) as owner:
            limit = key_rows.Limit(place[0], params["requests_per_minute"], params["recipients_per_hour"])
            before, todo, made = plan(owner, place, scopes, limit)
            if not module.check_mode:
                sending_store.write_keys(owner, todo)
    except (ValueError, store.StoreError, RefusedError) as error:
        module.fail_json(msg=str(error))
    result: dict[str, Any] = {"changed": bool(todo.remove or todo.add)}
    if before is not None:
        result["id"] = before.id
    elif made is not None and not module.check_mode:
        result.update(id=made.id, key=made.text)
    if module._diff:
        new = "key {} {!a} scopes={}{}\n".format(*place, ",".join(scopes), key_rows.rates(limit))
        # the id of a key that does not exist yet differs between the plan and the apply
        after = new if made is not None else "".join(f"{row}\n" for row in todo.add)
        result["diff"] = {
            "before_header": "api key",
            "after_header": "api key",
            "before": "".join(f"{row}\n" for row in todo.remove),
            "after": after,
        }
    module.exit_json(**result)


def plan(
    owner: Any, place: key_rows.Place, scopes: list[str], limit: key_rows.Limit
) -> tuple[key_rows.Row | None, key_rows.Plan, keys.Key | None]:
    """The key as it is, what is to be done, and the key that this makes. Without scopes it is to go."""
    if not store.applied_versions(owner, schema.NAME):
        raise RefusedError("there is no sending API on this host: set mail_api in the inventory and apply it")
    found = {row.place: row for row in sending_store.read_keys(owner)}
    before = found.get(place)
    if before is not None and before.owner != key_rows.API:
        raise RefusedError(f"{before}: is owned by the inventory: change it there, in mail_api.keys")
    if not scopes:
        return before, key_rows.Plan([before] if before else [], []), None
    if before is not None:
        after = bound(before._replace(scopes=tuple(scopes)), limit)
        return before, key_rows.Plan([], []) if after == before else key_rows.Plan([before], [after]), None
    domain, name = place
    if domain not in sending_store.hosted_domains(owner):
        raise RefusedError(f"domain: {domain!a} is not hosted here")
    made = keys.generate()
    return None, key_rows.Plan([], [bound(key_rows.row(domain, name, scopes, made, key_rows.API), limit)]), made


def bound(row: key_rows.Row, limit: key_rows.Limit) -> key_rows.Row:
    """The row with these limits."""
    return row._replace(
        requests_per_minute=limit.requests_per_minute, recipients_per_hour=limit.recipients_per_hour
    )  # fmt: skip


if __name__ == "__main__":
    main()
