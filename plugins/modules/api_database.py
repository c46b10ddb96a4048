#!/usr/bin/python
# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: api_database
short_description: Keep the sending API's database roles, schema, declared keys, limits, tenants and operators
version_added: "0.1.0"
author: mailwright contributors (@mailwright)
description:
  - Makes sure that the roles C(mailwright_api), C(mailwright_dispatch) and C(mailwright_webhooks) exist, runs the
    migrations of the schema C(api) that the directory's database lacks, and brings the keys and tenants that the
    inventory owns, the limits of domains and the keys of operators in line.
  - Keys and tenants that were made by the API, and keys by M(mailwright.server.api_key), are never changed or removed.
    A wanted key or tenant that has the name of one of those is an error, and so is a domain that the API gave to a
    tenant.
  - The database and its owner must exist; M(mailwright.server.directory) creates them.
  - Connects by Unix socket and peer authentication as C(postgres) and as C(mailwright), so it runs as root.
options:
  keys:
    description: Keys of the normalised model, with C(name), C(domain), C(scopes) and C(key).
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: What the key is called, once for each domain.
        type: str
        required: true
      domain:
        description: The hosted domain that it is for.
        type: str
        required: true
      scopes:
        description: What it may do.
        type: list
        elements: str
        required: true
      key:
        description: The key itself. Its hash is stored.
        type: str
        required: true
      requests_per_minute:
        description: Requests in each minute of the clock. No limit when not set.
        type: int
      recipients_per_hour:
        description: Recipients in each hour of the clock. No limit when not set.
        type: int
  limits:
    description: Limits of domains, which all keys of a domain share. Others are removed.
    type: list
    elements: dict
    default: []
    suboptions:
      domain:
        description: The hosted domain.
        type: str
        required: true
      requests_per_minute:
        description: Requests in each minute of the clock. No limit when not set.
        type: int
      recipients_per_hour:
        description: Recipients in each hour of the clock. No limit when not set.
        type: int
  tenants:
    description:
      - Tenants of the normalised model. Other ones of the inventory are removed, and so are their keys.
      - Domains that a tenant brought by the API are never changed, but switched off while there is no such tenant.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: What the tenant is called.
        type: str
        required: true
      domains:
        description: Its hosted domains. A domain has one tenant at most.
        type: list
        elements: str
        required: true
      keys:
        description: Keys that reach all of its domains.
        type: list
        elements: dict
        required: true
        suboptions:
          name:
            description: What the key is called, once for each tenant.
            type: str
            required: true
          scopes:
            description: What it may do.
            type: list
            elements: str
            required: true
          key:
            description: The key itself. Its hash is stored.
            type: str
            required: true
          requests_per_minute:
            description: Requests in each minute of the clock. No limit when not set.
            type: int
          recipients_per_hour:
            description: Recipients in each hour of the clock. No limit when not set.
            type: int
  operator_keys:
    description: Keys that belong to no domain and no tenant, and manage tenants. Others are removed.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: What the key is called.
        type: str
        required: true
      scopes:
        description: What it may do.
        type: list
        elements: str
        required: true
      key:
        description: The key itself. Its hash is stored.
        type: str
        required: true
extends_documentation_fragment: mailwright.server.database
attributes:
  check_mode:
    description: Lists every role, migration and key, also on a host without PostgreSQL. Writes nothing.
    support: full
  diff_mode:
    description: One line for each of them; of a key its id, never the key or its hash.
    support: full
seealso:
  - module: mailwright.server.directory
  - module: mailwright.server.api_key
"""

EXAMPLES = r"""
- name: Bring the sending API's database in line with the inventory
  mailwright.server.api_database:
    keys: "{{ mail_model.api['keys'] }}"
    limits: "{{ mail_model.api.limits }}"
    tenants: "{{ mail_model.api.tenants }}"
    operator_keys: "{{ mail_model.api.operator_keys }}"
"""

RETURN = r"""
rows:
  description: The plan that was carried out, or would be.
  returned: success
  type: list
  elements: str
  sample: ["+ key acme.test 'shop' id=3f2a9c51e07b scopes=emails.read,emails.write"]
schema_version:
  description: Version of the schema afterwards.
  returned: success
  type: int
  sample: 1
"""

from typing import Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mailwright.server.plugins.module_utils.directory import cluster, store
from ansible_collections.mailwright.server.plugins.module_utils.directory import schema as directory_schema
from ansible_collections.mailwright.server.plugins.module_utils.sending import key_rows, schema
from ansible_collections.mailwright.server.plugins.module_utils.sending import store as sending_store

RATES = {"requests_per_minute": {"type": "int"}, "recipients_per_hour": {"type": "int"}}
KEY: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "scopes": {"type": "list", "elements": "str", "required": True},
    "key": {"type": "str", "required": True, "no_log": True},
}
GUESTS = (schema.SERVICE, schema.DISPATCHER, schema.POSTER)


class Wanted(NamedTuple):
    """What the inventory says."""

    keys: list[key_rows.Row]
    limits: list[key_rows.Limit]
    tenants: key_rows.Tenants
    operators: list[key_rows.OperatorKey]


class Found(NamedTuple):
    """What there is."""

    keys: list[key_rows.Row]
    limits: list[key_rows.Limit]
    tenants: key_rows.Tenants
    operators: list[key_rows.OperatorKey]
    brought: key_rows.Brought


class Todo(NamedTuple):
    """Rows to remove and rows to add."""

    keys: key_rows.Plan
    remove: list[key_rows.Limit]
    add: list[key_rows.Limit]
    remove_tenants: key_rows.Tenants
    add_tenants: key_rows.Tenants
    remove_operators: list[key_rows.OperatorKey]
    add_operators: list[key_rows.OperatorKey]
    remove_brought: key_rows.Brought
    add_brought: key_rows.Brought


class Outcome(NamedTuple):
    """What was done, or would be: removed and added lines."""

    removed: list[str]
    added: list[str]


class RefusedError(Exception):
    """The plan may not be carried out."""


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "keys": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "no_log": False,
                "options": {"domain": {"type": "str", "required": True}, **KEY, **RATES},
            },
            "limits": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"domain": {"type": "str", "required": True}, **RATES},
            },
            "tenants": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "domains": {"type": "list", "elements": "str", "required": True},
                    "keys": {
                        "type": "list",
                        "elements": "dict",
                        "required": True,
                        "no_log": False,
                        "options": {**KEY, **RATES},
                    },
                },
            },
            "operator_keys": {"type": "list", "elements": "dict", "default": [], "no_log": False, "options": KEY},
            "socket": {"type": "path", "default": "/var/run/postgresql"},
            "dbname": {"type": "str", "default": "mailwright"},
        },
        supports_check_mode=True,
    )
    try:
        cluster.database_name(module.params["dbname"])
        limits = [key_rows.Limit(**limit) for limit in module.params["limits"]]
        tenants = key_rows.wanted_tenants(module.params.pop("tenants"))
        operators = key_rows.wanted_operator_keys(module.params.pop("operator_keys"))
        wanted = Wanted(key_rows.wanted(module.params.pop("keys")), limits, tenants, operators)
        outcome = examine(module, wanted) if module.check_mode else apply(module.params, wanted)
    except (ValueError, store.StoreError, directory_schema.SchemaError, RefusedError) as error:
        module.fail_json(msg=str(error))
    result: dict[str, Any] = {
        "changed": bool(outcome.removed or outcome.added),
        "rows": [f"- {line}" for line in outcome.removed] + [f"+ {line}" for line in outcome.added],
        "schema_version": schema.MIGRATIONS[-1].version,
    }
    if module._diff:
        result["diff"] = {
            "before_header": "api",
            "after_header": "api",
            "before": "".join(f"{line}\n" for line in outcome.removed),
            "after": "".join(f"{line}\n" for line in outcome.added),
        }
    module.exit_json(**result)


def examine(module: AnsibleModule, wanted: Wanted) -> Outcome:
    """The plan of an apply. What cannot be reached counts as absent."""
    params = module.params
    roles: dict[str, cluster.Role] = {}
    databases: dict[str, cluster.Database] = {}
    found = Found([], [], key_rows.Tenants([], [], []), [], key_rows.Brought([], []))
    applied: dict[int, str] = {}
    try:
        with store.connect(params["socket"], store.ADMIN, store.ADMIN) as admin:
            roles, databases = store.read_cluster(admin)
    except store.UnavailableError as error:
        if store.server_exists(params["socket"]):
            module.warn(f"The plan takes the API's database as empty: {error}")
    if cluster.OWNER in roles and params["dbname"] in databases:
        with store.connect(params["socket"], params["dbname"], cluster.OWNER) as owner:
            applied = store.applied_versions(owner, schema.NAME)
            if applied:
                found = read(owner)
    steps = cluster.guest_steps(roles, databases, params["dbname"], GUESTS)
    migrations = directory_schema.pending(applied, schema.MIGRATIONS, schema.NAME)
    return outcome(steps, migrations, checked_plan(found, wanted))


def apply(params: dict[str, Any], wanted: Wanted) -> Outcome:
    """Brings roles, schema, keys, limits, tenants and operators in line."""
    with store.connect(params["socket"], store.ADMIN, store.ADMIN) as admin:
        store.take_run_lock(admin)
        steps = cluster.guest_steps(*store.read_cluster(admin), params["dbname"], GUESTS)
        store.apply_cluster(admin, steps)
        with store.connect(params["socket"], params["dbname"], cluster.OWNER) as owner:
            migrations = store.migrate(owner, schema.MIGRATIONS, schema.NAME)
            todo = checked_plan(read(owner), wanted)
            sending_store.write_keys(owner, todo.keys)
            sending_store.write_limits(owner, todo.remove, todo.add)
            sending_store.write_tenants(owner, todo.remove_tenants, todo.add_tenants)
            sending_store.write_operator_keys(owner, todo.remove_operators, todo.add_operators)
            sending_store.write_brought(owner, todo.remove_brought, todo.add_brought)
    return outcome(steps, migrations, todo)


def read(owner: Any) -> Found:
    """What there is."""
    return Found(
        sending_store.read_keys(owner),
        sending_store.read_limits(owner),
        sending_store.read_tenants(owner),
        sending_store.read_operator_keys(owner),
        sending_store.read_brought(owner),
    )


def checked_plan(found: Found, wanted: Wanted) -> Todo:
    """The plan of keys, limits, tenants and operators, if it may be carried out. Raises RefusedError."""
    conflicts = [
        *key_rows.conflicts(found.keys, wanted.keys), *key_rows.tenant_conflicts(found.tenants, wanted.tenants)
    ]  # fmt: skip
    if conflicts:
        raise RefusedError("The inventory and the API disagree; no row was changed:\n" + "\n".join(conflicts))
    have, want = set(found.limits), set(wanted.limits)
    own = found.tenants.owned_by(key_rows.INVENTORY)
    staying = (*wanted.tenants.names, *found.tenants.owned_by(key_rows.API).names)
    brought = found.brought.of({tenant.name for tenant in staying})
    return Todo(
        key_rows.plan(found.keys, wanted.keys),
        sorted(have - want, key=str),
        sorted(want - have, key=str),
        own.without(wanted.tenants),
        wanted.tenants.without(own),
        sorted(set(found.operators) - set(wanted.operators), key=str),
        sorted(set(wanted.operators) - set(found.operators), key=str),
        found.brought.without(brought),
        brought.without(found.brought),
    )


def outcome(steps: list[cluster.Step], migrations: list[directory_schema.Migration], todo: Todo) -> Outcome:
    """The plan as lines, in the order in which it is carried out."""
    added = [step.after for step in steps]
    added += [f"migration {schema.NAME} {migration.version} {migration.title}" for migration in migrations]
    removed = [step.before for step in steps if step.before is not None]
    removed += [str(row) for row in (*todo.keys.remove, *todo.remove)]
    added += [str(row) for row in (*todo.keys.add, *todo.add)]
    going = (*todo.remove_operators, *todo.remove_brought.domains, *todo.remove_brought.claims)
    coming = (*todo.add_operators, *todo.add_brought.domains)
    return Outcome(
        removed + todo.remove_tenants.lines() + [str(row) for row in going],
        added + todo.add_tenants.lines() + [str(row) for row in coming],
    )


if __name__ == "__main__":
    main()
