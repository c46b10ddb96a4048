#!/usr/bin/python
# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: secrets
short_description: Generate secrets once on the host and keep their access right
version_added: "0.1.0"
author: mailwright contributors (@mailwright)
description:
  - Makes sure that each secret exists in a file of its own.
  - A missing secret is generated on the host and never leaves it.
  - The content of an existing secret never changes. Its owner, group and mode are corrected.
  - To replace a secret, delete its file and apply again.
  - Nothing of a secret is returned, logged or shown in a diff.
options:
  path:
    description:
      - Directory of the secrets.
      - It has mode V(0711), so that a service reaches its own file by name and cannot list the others.
    type: path
    default: /etc/mailwright/secrets
  secrets:
    description: The secrets that must exist. Files that are not listed are left alone.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: File name of the secret, of lower-case letters, digits, V(_), V(.) and V(-).
        type: str
        required: true
      kind:
        description:
          - V(random) writes one file with URL-safe text.
          - V(rspamd_password) writes the clear text to O(secrets[].name), which root alone may read,
            and beside it a file of that name with C(.inc) appended, which sets C(password) and C(enable_password)
            for rspamd's controller, hashed as rspamd does it.
          - V(key_pair) writes a private key of the curve P-256 to O(secrets[].name) and its public key beside it, to a
            file of that name with C(.pub) appended. A private key that is gone while its public key is there is an
            error and not made anew, since what was encrypted with it could never be read again.
        type: str
        choices: [random, rspamd_password, key_pair]
        default: random
      length:
        description:
          - Octets of entropy, V(16) to V(512); at most V(48) for O(secrets[].kind=rspamd_password).
          - Not used for O(secrets[].kind=key_pair).
        type: int
        default: 32
      format:
        description:
          - Text of a new file of O(secrets[].kind=random), with V({secret}) once where the secret goes.
          - The default is the secret and a line feed. An existing file is not rewritten when this changes.
        type: str
      owner:
        description: Owner of the file; of the C(.inc) file for O(secrets[].kind=rspamd_password).
        type: str
        default: root
      group:
        description: Group of the file; of the C(.inc) file for O(secrets[].kind=rspamd_password).
        type: str
        default: root
      mode:
        description: Octal mode of the file; of the C(.inc) file for O(secrets[].kind=rspamd_password).
        type: str
        default: "0600"
attributes:
  check_mode:
    description: Can run in check mode, also before the owners and groups exist.
    support: full
  diff_mode:
    description: Shows files with owner, group and mode, never their content.
    support: full
"""

EXAMPLES = r"""
- name: Make sure that the secrets exist
  mailwright.server.secrets:
    secrets:
      - name: roundcube_des_key
        group: www-data
        mode: "0640"
      - name: redis.conf
        format: "requirepass {secret}\n"
        group: redis
        mode: "0640"
      - name: rspamd_controller
        kind: rspamd_password
        group: _rspamd
        mode: "0640"
"""

RETURN = r"""
created:
  description: Names of the secrets that were generated, or would be in check mode.
  returned: always
  type: list
  elements: str
  sample: [rspamd_controller]
"""

import os
import secrets as random_source
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mailwright.server.plugins.module_utils.secrets.files import (
    Access,
    access_of,
    make_directory,
    own_access,
    set_access,
    unknown_names,
    write_atomic,
)
from ansible_collections.mailwright.server.plugins.module_utils.secrets.key_pair import generate, public_key
from ansible_collections.mailwright.server.plugins.module_utils.secrets.rspamd_password import (
    SALT_BYTES,
    hash_password,
    include_text,
)
from ansible_collections.mailwright.server.plugins.module_utils.secrets.spec import (
    KINDS,
    PLACEHOLDER,
    Secret,
    parse_secrets,
)


def has_content(path: str) -> bool:
    """Whether a file exists and is not empty."""
    return os.path.exists(path) and os.path.getsize(path) > 0


def missing_files(directory: str, secret: Secret) -> list[str]:
    """File names of a secret to be written. A lost clear text takes its hash with it; an empty file counts as lost."""
    names = [name for name, _access in secret.files]
    missing = [name for name in names if not has_content(os.path.join(directory, name))]
    return names if secret.name in missing else missing


def write_secret(directory: str, secret: Secret, names: list[str]) -> None:
    """Write the files `names` of a secret, the clear text first, since the hash follows from it."""
    access = dict(secret.files)
    clear = os.path.join(directory, secret.name)
    if secret.kind == "key_pair":
        _write_key_pair(clear, names, access)
        return
    if secret.name in names:
        text = secret.format.replace(PLACEHOLDER, random_source.token_urlsafe(secret.length))
        write_atomic(clear, text.encode(), access[secret.name])
    include = f"{secret.name}.inc"
    if include in names:
        with open(clear, "rb") as stream:
            password = stream.read().rstrip(b"\r\n")
        text = include_text(hash_password(password, random_source.token_bytes(SALT_BYTES)))
        write_atomic(os.path.join(directory, include), text.encode(), access[include])


def _write_key_pair(path: str, names: list[str], access: dict[str, Access]) -> None:
    """The private key first: without it the public one is made again from what is there."""
    name = os.path.basename(path)
    if name in names:
        write_atomic(path, generate(), access[name])
    with open(path, "rb") as stream:
        public = public_key(stream.read())
    write_atomic(f"{path}.pub", public, access[f"{name}.pub"])


def lost_keys(directory: str, wanted: list[Secret]) -> list[str]:
    """An error for each private key that is gone while its public key is there."""
    return [
        f"{path} is gone, and what was encrypted with {path}.pub cannot be read without it: bring it back from a "
        f"backup. If nothing was encrypted with it, remove {path}.pub"
        for path in (os.path.join(directory, secret.name) for secret in wanted if secret.kind == "key_pair")
        if has_content(f"{path}.pub") and not has_content(path)
    ]


def run(module: AnsibleModule) -> dict[str, Any]:
    """Compare, then write what is missing and correct what has drifted."""
    directory: str = module.params["path"]
    wanted, errors = parse_secrets(module.params["secrets"])
    directory_access = own_access(0o711)
    before: dict[str, Access | None] = {}
    after: dict[str, Access] = {directory: directory_access}
    for secret in wanted:
        after.update({os.path.join(directory, name): access for name, access in secret.files})
    for path in after:
        try:
            before[path] = access_of(path)
        except ValueError as error:
            errors.append(str(error))
    if not module.check_mode:
        for index, secret in enumerate(wanted):
            errors.extend(f"secrets[{index}]: this host has no {name}" for name in unknown_names(secret.access))
    errors.extend(lost_keys(directory, wanted))
    if errors:
        module.fail_json(msg="Secrets cannot be ensured: " + "; ".join(errors), errors=errors)

    missing = {secret.name: missing_files(directory, secret) for secret in wanted}
    to_write = {os.path.join(directory, name) for names in missing.values() for name in names}
    drifted = [path for path, access in after.items() if before[path] not in (None, access)]
    if not module.check_mode:
        if before[directory] != directory_access:
            make_directory(directory, directory_access)
        for secret in wanted:
            if missing[secret.name]:
                write_secret(directory, secret, missing[secret.name])
        for path in drifted:
            set_access(path, after[path])
    return {
        "changed": bool(to_write or drifted or before[directory] is None),
        "created": [secret.name for secret in wanted if secret.name in missing[secret.name]],
        "diff": {
            "before": "".join(f"{path} {before[path] or 'absent'}\n" for path in sorted(after)),
            "after": "".join(
                f"{path} {after[path]}{' new content' if path in to_write else ''}\n" for path in sorted(after)
            ),
        },
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "default": "/etc/mailwright/secrets"},
            "secrets": {
                "type": "list",
                "elements": "dict",
                "required": True,
                # The list names secrets and holds none.
                "no_log": False,
                "options": {
                    "name": {"type": "str", "required": True},
                    "kind": {"type": "str", "choices": list(KINDS), "default": "random"},
                    "length": {"type": "int", "default": 32},
                    "format": {"type": "str"},
                    "owner": {"type": "str", "default": "root"},
                    "group": {"type": "str", "default": "root"},
                    "mode": {"type": "str", "default": "0600"},
                },
            },
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except OSError as error:
        module.fail_json(msg=f"Secrets cannot be ensured: {error}")


if __name__ == "__main__":
    main()
