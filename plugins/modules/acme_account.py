#!/usr/bin/python
# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: acme_account
short_description: Say as which account of the ACME server certbot renews the host's certificate
version_added: "0.2.0"
author: mailwright contributors (@mailwright)
description:
  - Reads certbot's own files. The ACME server is not asked, and nothing is changed.
  - A CAA record with the account's URI lets nobody else have a certificate for the host issued (RFC 8657).
options:
  hostname:
    description: Fully qualified name of the host, after which the certificate is named.
    type: str
    required: true
  directory:
    description: URL of the ACME server's directory. An account with another server counts as none.
    type: str
    required: true
  certbot_path:
    description: Certbot's own directory.
    type: path
    default: /etc/letsencrypt
attributes:
  check_mode:
    description: Can run in check mode, also before certbot is installed.
    support: full
  diff_mode:
    description: There is never a difference.
    support: none
"""

EXAMPLES = r"""
- name: See which account the ACME server knows
  mailwright.server.acme_account:
    hostname: mx1.acme.test
    directory: https://acme-v02.api.letsencrypt.org/directory
"""

RETURN = r"""
uri:
  description: URI of the account. Null when there is no certificate by this ACME server yet.
  returned: always
  type: str
  sample: https://acme-v02.api.letsencrypt.org/acme/acct/123456789
"""

import json
from pathlib import Path
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mailwright.server.plugins.module_utils.certificate.acme import parse_renewal
from ansible_collections.mailwright.server.plugins.module_utils.dns.names import MAX_NAME, domain_error


def account_uri(certbot_path: Path, hostname: str, directory: str) -> str | None:
    """The account that the certificate's settings for renewal name. Raises ValueError for a file that is none."""
    try:
        renewal = parse_renewal((certbot_path / "renewal" / f"{hostname}.conf").read_text(encoding="utf-8"))
        if renewal.get("server") != directory:
            return None
        # certbot keeps accounts by server, then by a digest of the account's key
        url = urlsplit(directory)
        file = certbot_path / "accounts" / f"{url.netloc}{url.path}" / renewal.get("account", "") / "regr.json"
        uri = json.loads(file.read_text(encoding="utf-8"))["uri"]
    except FileNotFoundError:
        return None
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file}: names no account") from error
    # it goes into a quoted string of the DNS, as one parameter among others
    if not isinstance(uri, str) or not uri.isascii() or not uri.isprintable() or set(uri) & set('";\\ '):
        raise ValueError(f"{file}: {uri!r} is not a URI")
    return uri


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "hostname": {"type": "str", "required": True},
            "directory": {"type": "str", "required": True},
            "certbot_path": {"type": "path", "default": "/etc/letsencrypt"},
        },
        supports_check_mode=True,
    )
    params = module.params
    problem = domain_error(params["hostname"], MAX_NAME)
    if problem:
        module.fail_json(msg=f"The ACME account cannot be told: hostname: {problem}")
    try:
        uri = account_uri(Path(params["certbot_path"]), params["hostname"], params["directory"])
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"The ACME account cannot be told: {error}")
    module.exit_json(changed=False, uri=uri)


if __name__ == "__main__":
    main()
