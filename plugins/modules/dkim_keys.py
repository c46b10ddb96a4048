#!/usr/bin/python
# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: dkim_keys
short_description: Generate a DKIM signing key once for each domain
version_added: "0.1.0"
author: mailwright contributors (@mailwright)
description:
  - Makes sure that every domain has one active RSA-2048 key.
  - A key file is never rewritten, and a selector never reused.
  - The key file is on disk before the state file names it, so the state never points to a key that does not exist.
  - Keys of domains that are no longer listed are kept and reported.
requirements:
  - python3-cryptography on the host, for generating
options:
  path:
    description: Directory of the keys, with one directory for each domain.
    type: path
    default: /var/lib/mailwright/dkim
  domains:
    description: The domains that sign, in lower-case A-label form.
    type: list
    elements: str
    required: true
  owner:
    description: Owner of all files and directories.
    type: str
    default: root
  group:
    description: Group that may read the keys.
    type: str
    default: _rspamd
attributes:
  check_mode:
    description:
      - Can run in check mode, also before the group and the library exist.
      - A key that would be generated is listed with a selector that ends in C(r0000), an empty public key
        and RV(keys.planned=true).
    support: full
  diff_mode:
    description: Shows domains with their selectors, and corrected access; never a key.
    support: full
"""

EXAMPLES = r"""
- name: Make sure that every domain has a signing key
  mailwright.server.dkim_keys:
    domains: "{{ mail_model.domains | map(attribute='name') }}"
  register: dkim
"""

RETURN = r"""
keys:
  description:
    - The active key of every wanted domain, by domain.
    - In a template write C(result['keys']), since C(result.keys) is a method.
  returned: always
  type: dict
  contains:
    selector:
      description: Selector of the key.
      type: str
    path:
      description: File of the private key on the host.
      type: str
    dns:
      description: Text of the TXT record, not split into strings.
      type: str
    planned:
      description: Whether the key does not exist yet (in check mode only).
      type: bool
  sample:
    acme.test:
      selector: 20260301rk3x9
      path: /var/lib/mailwright/dkim/acme.test/20260301rk3x9.key
      dns: "v=DKIM1; k=rsa; p=MIIBIjAN..."
      planned: false
generated:
  description: Domains whose key was generated, or would be in check mode.
  returned: always
  type: list
  elements: str
  sample: [acme.test]
orphaned:
  description: Domains that have a key and are not listed.
  returned: always
  type: list
  elements: str
  sample: []
"""

import fcntl
import os
import secrets as random_source
from datetime import UTC, datetime
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.mailwright.server.plugins.module_utils.dkim.generate import LIBRARY_ERROR, generate_keys
from ansible_collections.mailwright.server.plugins.module_utils.dkim.state import (
    STATE_FILE,
    ActiveKey,
    new_selector,
    parse_domains,
    parse_state,
    planned_selector,
    render_state,
)
from ansible_collections.mailwright.server.plugins.module_utils.secrets.files import (
    Access,
    access_of,
    make_directory,
    set_access,
    unknown_names,
    write_atomic,
)


class Store:
    """The directory of keys."""

    def __init__(self, path: str, owner: str, group: str) -> None:
        self.path = path
        self.directory_access = Access(owner, group, 0o750)
        self.file_access = Access(owner, group, 0o640)

    def key_path(self, domain: str, selector: str) -> str:
        """File of a private key."""
        return os.path.join(self.path, domain, f"{selector}.key")

    def read(self, domain: str) -> ActiveKey | None:
        """Read a domain's active key. Raises ValueError when its state is unreadable or its key file is gone."""
        path = os.path.join(self.path, domain, STATE_FILE)
        try:
            with open(path, encoding="utf-8") as stream:
                key = parse_state(stream.read())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ValueError(f"{path}: {error}; restore it from a backup") from error
        if key is not None and not os.path.isfile(self.key_path(domain, key.selector)):
            raise ValueError(
                f"{self.key_path(domain, key.selector)} is missing; restore it from a backup, "
                f"or remove {path} so that a new key is generated"
            )
        return key

    def write(self, domain: str, key: ActiveKey, private_key: bytes) -> None:
        """Write a new key: the key file first, so that the state never names a key which is not on disk."""
        directory = os.path.join(self.path, domain)
        make_directory(directory, self.directory_access)
        write_atomic(self.key_path(domain, key.selector), private_key, self.file_access)
        write_atomic(os.path.join(directory, STATE_FILE), render_state(key).encode(), self.file_access)

    def drifted(self, keys: dict[str, ActiveKey]) -> dict[str, tuple[Access, Access]]:
        """Existing paths whose access is wrong: (found, wanted). Raises ValueError for a link or a special file."""
        wanted = {self.path: self.directory_access}
        for domain, key in keys.items():
            directory = os.path.join(self.path, domain)
            wanted[directory] = self.directory_access
            wanted[os.path.join(directory, STATE_FILE)] = self.file_access
            wanted[self.key_path(domain, key.selector)] = self.file_access
        found = {path: (access_of(path), access) for path, access in wanted.items()}
        return {path: (now, access) for path, (now, access) in found.items() if now is not None and now != access}

    def domains(self) -> list[str]:
        """Domains that have a state file."""
        try:
            with os.scandir(self.path) as entries:
                return sorted(entry.name for entry in entries if os.path.isfile(os.path.join(entry.path, STATE_FILE)))
        except FileNotFoundError:
            return []


def run(module: AnsibleModule) -> dict[str, Any]:
    """Read all state, then generate what is missing and correct what has drifted."""
    store = Store(module.params["path"], module.params["owner"], module.params["group"])
    wanted: list[str] = module.params["domains"]
    errors = parse_domains(wanted)
    if not module.check_mode:
        errors.extend(f"this host has no {name}" for name in unknown_names(store.file_access))
    if errors:
        module.fail_json(msg="DKIM keys cannot be ensured: " + "; ".join(errors), errors=errors)

    created_store = not os.path.isdir(store.path)
    lock = None
    if not module.check_mode:
        if created_store:
            make_directory(store.path, store.directory_access)
        # Two applies at once would otherwise both generate and one would return a selector that lost.
        lock = os.open(store.path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)

    present: dict[str, ActiveKey] = {}
    drifted: dict[str, tuple[Access, Access]] = {}
    for domain in wanted:
        try:
            key = store.read(domain)
        except ValueError as error:
            errors.append(str(error))
            continue
        if key is not None:
            present[domain] = key
    try:
        drifted = store.drifted(present)
    except ValueError as error:
        errors.append(str(error))
    if errors:
        module.fail_json(msg="DKIM keys cannot be ensured: " + "; ".join(errors), errors=errors)

    missing = [domain for domain in wanted if domain not in present]
    now = datetime.now(UTC)
    keys = dict(present)
    if module.check_mode:
        for domain in missing:
            keys[domain] = ActiveKey(planned_selector(now), "", "v=DKIM1; k=rsa; p=")
    else:
        if missing and LIBRARY_ERROR:
            module.fail_json(msg=missing_required_lib("cryptography"), exception=LIBRARY_ERROR)
        for domain, (private_key, dns) in zip(missing, generate_keys(len(missing)), strict=True):
            keys[domain] = ActiveKey(new_selector(now, random_source.choice), now.isoformat(timespec="seconds"), dns)
            store.write(domain, keys[domain], private_key)
        for path, (_found, access) in drifted.items():
            set_access(path, access)
    if lock is not None:
        os.close(lock)

    planned = set(missing) if module.check_mode else set()
    return {
        "changed": bool(missing or drifted or created_store),
        "keys": {
            domain: {
                "selector": keys[domain].selector,
                "path": store.key_path(domain, keys[domain].selector),
                "dns": keys[domain].dns,
                "planned": domain in planned,
            }
            for domain in wanted
        },
        "generated": missing,
        "orphaned": sorted(set(store.domains()) - set(wanted)),
        "diff": {
            "before": "".join(f"{path} {found}\n" for path, (found, _access) in sorted(drifted.items())),
            "after": "".join(f"{path} {access}\n" for path, (_found, access) in sorted(drifted.items()))
            + "".join(f"{domain} rsa {keys[domain].selector}\n" for domain in missing),
        },
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "default": "/var/lib/mailwright/dkim"},
            "domains": {"type": "list", "elements": "str", "required": True},
            "owner": {"type": "str", "default": "root"},
            "group": {"type": "str", "default": "_rspamd"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except OSError as error:
        module.fail_json(msg=f"DKIM keys cannot be ensured: {error}")


if __name__ == "__main__":
    main()
