#!/usr/bin/python
# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: roundcube_schema
short_description: Initialise or update Roundcube's own database
version_added: "0.1.0"
author: mailwright contributors (@mailwright)
description:
  - Runs the SQL files of the installed Roundcube that its PostgreSQL database lacks, each in a transaction,
    and records the version as Roundcube's own C(initdb.sh) and C(updatedb.sh) do.
  - The database and the role C(roundcube) must exist; M(mailwright.server.directory) creates them.
  - Connects by Unix socket as C(postgres), so it runs as root, and acts as the role C(roundcube).
  - A database that is newer than the package, as after a rollback of the package, is left alone.
options:
  sql:
    description: Directory of the package's SQL files.
    type: path
    default: /usr/share/roundcube/SQL
  socket:
    description: Directory of the server's Unix socket.
    type: path
    default: /var/run/postgresql
  dbname:
    description: Name of Roundcube's database.
    type: str
    default: roundcube
attributes:
  check_mode:
    description: Says what would run, also on a host without PostgreSQL or Roundcube.
    support: full
  diff_mode:
    description: Shows the version before and after.
    support: full
seealso:
  - module: mailwright.server.directory
"""

EXAMPLES = r"""
- name: Bring Roundcube's database to the version of the package
  mailwright.server.roundcube_schema:
"""

RETURN = r"""
before:
  description: Version of the schema before, none if there was none.
  returned: success
  type: int
  sample: 2021100300
version:
  description: Version of the schema afterwards; none in check mode if the package is not installed yet.
  returned: success
  type: int
  sample: 2022081200
rows:
  description: The files that were run, or would be.
  returned: success
  type: list
  elements: str
  sample: ["+ webmail schema postgres.initial.sql"]
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mailwright.server.plugins.module_utils.directory import store, webmail


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "sql": {"type": "path", "default": "/usr/share/roundcube/SQL"},
            "socket": {"type": "path", "default": "/var/run/postgresql"},
            "dbname": {"type": "str", "default": "roundcube"},
        },
        supports_check_mode=True,
    )
    try:
        before, after, steps = (examine if module.check_mode else apply)(module)
    except (store.StoreError, webmail.WebmailError) as error:
        module.fail_json(msg=str(error))
    files = ["postgres.initial.sql" if step is None else f"postgres/{step}.sql" for step in steps]
    result: dict[str, Any] = {
        "changed": bool(steps),
        "before": before,
        "version": after,
        "rows": [f"+ webmail schema {file}" for file in files],
    }
    if module._diff:
        result["diff"] = {
            "before_header": "webmail schema",
            "after_header": "webmail schema",
            "before": "" if before is None else f"webmail schema {before}\n",
            "after": f"webmail schema {'of the package' if after is None else after}\n",
        }
    module.exit_json(**result)


def examine(module: AnsibleModule) -> tuple[int | None, int | None, list[int | None]]:
    """Version now, version after an apply, and the steps between. What cannot be reached counts as absent."""
    available = webmail.available(Path(module.params["sql"])) or []
    try:
        with webmail.connect(module.params["socket"], module.params["dbname"]) as connection:
            before = webmail.version(connection)
    except store.StoreError as error:
        if store.server_exists(module.params["socket"]) and not isinstance(error, store.UnavailableError):
            module.warn(f"The plan takes Roundcube's database as empty: {error}")
        before = None
    return before, max([before or 0, *available]) or None, webmail.steps(before, available)


def apply(module: AnsibleModule) -> tuple[int | None, int | None, list[int | None]]:
    """Runs what is missing."""
    sql = Path(module.params["sql"])
    available = webmail.available(sql)
    if available is None:
        raise webmail.WebmailError(f"sql: {sql}: does not hold Roundcube's SQL files; install roundcube-core first")
    done: list[int | None] = []
    with webmail.connect(module.params["socket"], module.params["dbname"]) as connection:
        store.take_run_lock(connection)
        after = before = webmail.version(connection)
        while todo := webmail.steps(after, available):
            webmail.run(connection, sql, todo[0])
            done.append(todo[0])
            after = webmail.version(connection)
    return before, after, done


if __name__ == "__main__":
    main()
