#!/usr/bin/python
# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: directory
short_description: Keep the directory of domains, mailboxes, aliases and senders in PostgreSQL
version_added: "0.1.0"
author: mailwright contributors (@mailwright)
description:
  - Makes sure that the database roles, the databases and the schema exist, then compares the rows with the model
    and writes the difference in one transaction.
  - Only rows that the inventory owns are changed or removed. A wanted row that the API owns is an error.
  - Connects by Unix socket and peer authentication as C(postgres) and as C(mailwright), so it runs as root.
  - A password is written only when the inventory's value changed since the last apply,
    so what a user set by webmail stays.
    Plain passwords are hashed with Argon2id on the host.
  - Each of the four lists may be given as its JSON text, as P(ansible.builtin.to_json#filter) makes it.
    With thousands of mailboxes Ansible hands that over several times faster than a list.
  - Of the four lists nothing but the plan is returned, logged or shown, and the plan never holds a password or a hash.
options:
  domains:
    description: Domains of the normalised model, with C(name) and C(enabled).
    type: raw
    required: true
  mailboxes:
    description:
      - Mailboxes of the normalised model, with C(address), C(domain), C(local_part), C(display_name), C(quota_bytes),
        C(enabled), and one of C(password) (plain) and C(password_hash) (with its scheme, such as C({ARGON2ID\})).
    type: raw
    required: true
  aliases:
    description: Aliases of the normalised model, with C(address) and C(destination), one row for each destination.
    type: raw
    required: true
  senders:
    description: Who may send as what, with C(address) and C(login).
    type: raw
    required: true
  remove_limit:
    description:
      - Refuse to remove more than this percentage of the mailboxes that the inventory owns, if there are more than 10.
      - Mail in the store is never touched.
    type: int
    default: 30
  key_file:
    description:
      - Key that tells whether a plain password changed. It is created once, and belongs into the backup.
    type: path
    default: /etc/mailwright/secrets/directory.key
extends_documentation_fragment: mailwright.server.database
attributes:
  check_mode:
    description: Lists every role, database, migration and row, also on a host without PostgreSQL. Writes nothing.
    support: full
  diff_mode:
    description:
      - One line for each row that is added, changed or removed; passwords only as C(<set>) or C(<changed>).
      - That a mailbox may send as itself is part of the mailbox's line when both come or go.
    support: full
"""

EXAMPLES = r"""
- name: Bring the directory in line with the inventory
  mailwright.server.directory:
    domains: "{{ mail_model.domains | ansible.builtin.to_json }}"
    mailboxes: "{{ mail_model.mailboxes | ansible.builtin.to_json }}"
    aliases: "{{ mail_model.aliases | ansible.builtin.to_json }}"
    senders: "{{ mail_model.senders | ansible.builtin.to_json }}"

- name: One mailbox, written out
  mailwright.server.directory:
    domains:
      - {name: acme.test, enabled: true}
    mailboxes:
      - address: alice@acme.test
        domain: acme.test
        local_part: alice
        display_name: Alice Example
        password: "{{ vault_alice }}"
        quota_bytes: 2147483648
        enabled: true
    aliases: []
    senders:
      - {address: alice@acme.test, login: alice@acme.test}
"""

RETURN = r"""
rows:
  description: The plan, a line for each role, database, key, migration and row, marked C(+), C(~) or C(-).
  returned: success
  type: list
  elements: str
  sample: ['+ mailbox alice@acme.test quota=2147483648 enabled=yes name="Alice" password=<set>']
counts:
  description: Numbers of rows C(added), C(changed) and C(removed) by table.
  returned: success
  type: dict
  sample: {"domain": {"added": 0, "changed": 0, "removed": 0}, "mailbox": {"added": 1, "changed": 0, "removed": 0}}
schema_version:
  description: Version of the schema, in check mode the one that an apply would leave.
  returned: success
  type: int
  sample: 1
"""

import secrets
from pathlib import Path
from typing import Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mailwright.server.plugins.module_utils.directory import (
    cluster,
    passwords,
    rows,
    schema,
    store,
)


class Outcome(NamedTuple):
    """What was done, or would be."""

    lines: list[rows.Line]
    plan: rows.Plan
    schema_version: int


class RefusedError(Exception):
    """The plan may not be carried out."""


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            # no_log keeps the lists out of the log and of messages about arguments.
            "domains": {"type": "raw", "required": True, "no_log": True},
            "mailboxes": {"type": "raw", "required": True, "no_log": True},
            "aliases": {"type": "raw", "required": True, "no_log": True},
            "senders": {"type": "raw", "required": True, "no_log": True},
            "remove_limit": {"type": "int", "default": 30},
            "socket": {"type": "path", "default": "/var/run/postgresql"},
            "dbname": {"type": "str", "default": "mailwright"},
            "key_file": {"type": "path", "default": "/etc/mailwright/secrets/directory.key", "no_log": False},
        },
        supports_check_mode=True,
    )
    lists = [module.params.pop(name) for name in ("domains", "mailboxes", "aliases", "senders")]
    # From here on the lists are in no result. Left in place, each of their strings would be cut out of the plan.
    module.no_log_values.clear()

    wanted, errors = rows.parse(*map(rows.listed, lists))
    if not 0 <= module.params["remove_limit"] <= 100:
        errors.append(f"remove_limit: {module.params['remove_limit']}: must be a percentage from 0 to 100")
    try:
        cluster.database_name(module.params["dbname"])
    except ValueError as error:
        errors.append(str(error))
    if errors:
        module.fail_json(msg="The directory's rows are not valid:\n" + "\n".join(errors))

    try:
        outcome = examine(module, wanted) if module.check_mode else apply(module.params, wanted)
    except (store.StoreError, schema.SchemaError, passwords.HashingError, RefusedError) as error:
        module.fail_json(msg=str(error))
    result: dict[str, Any] = {
        "changed": bool(outcome.lines),
        "rows": [str(line) for line in outcome.lines],
        "counts": outcome.plan.counts(),
        "schema_version": outcome.schema_version,
    }
    if module._diff:
        result["diff"] = {
            "before_header": "directory",
            "after_header": "directory",
            "before": "".join(f"{line.before}\n" for line in outcome.lines if line.before is not None),
            "after": "".join(f"{line.after}\n" for line in outcome.lines if line.after is not None),
        }
    module.exit_json(**result)


def examine(module: AnsibleModule, wanted: rows.Wanted) -> Outcome:
    """The plan of an apply. What cannot be reached counts as absent."""
    params = module.params
    roles: dict[str, cluster.Role] = {}
    databases: dict[str, cluster.Database] = {}
    found, applied = rows.EMPTY, dict[int, str]()
    try:
        with store.connect(params["socket"], store.ADMIN, store.ADMIN) as admin:
            roles, databases = store.read_cluster(admin)
    except store.UnavailableError as error:
        if store.server_exists(params["socket"]):
            module.warn(f"The plan takes the directory as empty: {error}")
    if cluster.OWNER in roles and params["dbname"] in databases:
        with store.connect(params["socket"], params["dbname"], cluster.OWNER) as owner:
            applied = store.applied_versions(owner)
            if applied:
                with store.snapshot(owner, schema.pending(applied)):
                    found = store.read_rows(owner)
    stored_key = store.read_key(Path(params["key_file"]))
    # Without a key there are no fingerprints to compare with, so any key gives the same plan.
    key = stored_key if stored_key is not None else secrets.token_bytes(passwords.KEY_BYTES)
    todo = checked_plan(params, found, wanted, key, stored_key is not None)
    migrations = schema.pending(applied)
    steps = cluster.steps(roles, databases, params["dbname"])
    return outcome(params, steps, stored_key is None, migrations, todo)


def apply(params: dict[str, Any], wanted: rows.Wanted) -> Outcome:
    """Brings the server, the schema and the rows in line."""
    key_file = Path(params["key_file"])
    with store.connect(params["socket"], store.ADMIN, store.ADMIN) as admin:
        store.take_run_lock(admin)
        steps = cluster.steps(*store.read_cluster(admin), params["dbname"])
        store.apply_cluster(admin, steps)
        with store.connect(params["socket"], params["dbname"], cluster.OWNER) as owner:
            migrations = store.migrate(owner, schema.MIGRATIONS)
            with store.snapshot(owner):
                found = store.read_rows(owner)
            stored_key = store.read_key(key_file)
            if stored_key is None and not rows.needs_key(found):
                key = store.create_key(key_file)
            else:
                key = stored_key or b""
            todo = checked_plan(params, found, wanted, key, bool(key))
            if not todo.empty:
                # Argon2 takes its time: hash before the tables are closed to others.
                live = live_passwords(wanted, todo, {})
                with store.writing(owner):
                    found = store.read_rows(owner)
                    todo = checked_plan(params, found, wanted, key, True)
                    live = live_passwords(wanted, todo, live)
                    store.write_rows(owner, todo, live)
    return outcome(params, steps, stored_key is None, migrations, todo)


def checked_plan(
    params: dict[str, Any], found: rows.Current, wanted: rows.Wanted, key: bytes, key_is_stored: bool
) -> rows.Plan:
    """The plan, if it may be carried out. Raises RefusedError."""
    if not key_is_stored and rows.needs_key(found):
        raise RefusedError(
            f"key_file: {params['key_file']}: does not exist, yet the database holds fingerprints made with it. "
            "Restore it from the backup. If it is lost, create it with 32 random bytes: then every mailbox whose "
            "password is plain in the inventory gets that password again."
        )
    conflicts = rows.conflicts(found, wanted)
    if conflicts:
        raise RefusedError(
            "The inventory and the API disagree; nothing was changed. Remove each from one of the two:\n"
            + "\n".join(conflicts)
        )
    todo = rows.plan(found, wanted, key)
    limit = rows.over_limit(found, todo, params["remove_limit"])
    if limit:
        raise RefusedError(limit)
    return todo


def live_passwords(wanted: rows.Wanted, todo: rows.Plan, known: dict[str, str]) -> dict[str, str]:
    """Hashes for logging in, by address, for all mailboxes whose password is to be set."""
    todo_passwords = todo.new_passwords()
    plain = {address: wanted.plain[address] for address in todo_passwords - set(known) if address in wanted.plain}
    given = {address: wanted.hashes[address] for address in todo_passwords if address in wanted.hashes}
    return known | given | passwords.hash_all(plain)


def outcome(
    params: dict[str, Any],
    steps: list[cluster.Step],
    new_key: bool,
    migrations: list[schema.Migration],
    todo: rows.Plan,
) -> Outcome:
    """The plan in the order in which it is carried out."""
    lines = [rows.Line(step.before, step.after) for step in steps]
    lines += [rows.Line(None, f"migration {migration.version} {migration.title}") for migration in migrations]
    if new_key:
        lines.append(rows.Line(None, f"key {params['key_file']}"))
    lines += rows.lines(todo)
    return Outcome(lines, todo, schema.MIGRATIONS[-1].version)


if __name__ == "__main__":
    main()
