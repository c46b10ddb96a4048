#!/usr/bin/python
# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: acme_certificate
short_description: Have certbot get the host's certificate from an ACME server, and install it
version_added: "0.1.0"
author: mailwright contributors (@mailwright)
description:
  - Asks for a certificate when there is none, or when names, server, challenge or kind of key differ.
    Renewal is left to certbot's own timer, with the same key and without the controller.
  - A certificate is installed by the program C(/usr/local/lib/mailwright/deploy-certificate), which certbot also runs
    after each renewal. It refuses one that does not fit, and the one before it stays in use.
    One with another key waits where the host has TLSA records, see M(mailwright.server.dane).
  - When none can be had, the module fails and says why; what was in use stays in use.
  - The role C(mailwright.server.acme) puts everything in place that the module needs.
requirements:
  - certbot, and python3-certbot-dns-rfc2136 for V(dns-01)
  - python3-cryptography
options:
  names:
    description: The names that the certificate is for, the host's full name first.
    type: list
    elements: str
    required: true
  directory:
    description: URL of the ACME server's directory. Its terms of service are accepted.
    type: str
    required: true
  email:
    description: Whom the server may write to.
    type: str
    required: true
  challenge:
    description: How the names are proved.
    type: str
    choices: [http-01, dns-01]
    default: http-01
  key_type:
    description: V(rsa) of 2048 bits or V(ecdsa) on P-256.
    type: str
    choices: [rsa, ecdsa]
    default: rsa
  propagation_seconds:
    description: How long DNS servers may take until all of them show a new record, with V(dns-01).
    type: int
    default: 60
  new_key:
    description:
      - Ask for a certificate with another key, unless one waits already. Where the host has TLSA records, it waits
        until M(mailwright.server.dane) has seen its record everywhere.
    type: bool
    default: false
  ca_file:
    description: A file on the host with the certificate authority of the ACME server's own HTTPS.
    type: path
  path:
    description: Directory that holds one directory for each host name.
    type: path
    default: /etc/mailwright/tls
  certbot_path:
    description: Certbot's own directory.
    type: path
    default: /etc/letsencrypt
attributes:
  check_mode:
    description: Can run in check mode, also before certbot is installed. The ACME server is not asked.
    support: full
  diff_mode:
    description: Shows subject, names, end and fingerprint of the certificate, and why another one is asked for.
    support: full
"""

EXAMPLES = r"""
- name: Get a certificate
  mailwright.server.acme_certificate:
    names: [mx1.acme.test]
    directory: https://acme-v02.api.letsencrypt.org/directory
    email: hostmaster@acme.test
"""

RETURN = r"""
reasons:
  description: Why a certificate was, or would be, asked for. Empty when certbot's certificate is as wanted.
  returned: always
  type: list
  elements: str
  sample: [there is none yet]
fingerprint:
  description: SHA-256 of the certificate in use, in hexadecimal. Null in check mode when another one is to come.
  returned: success
  type: str
  sample: 5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef
not_after:
  description: End of the validity of the certificate in use, in UTC. Null in check mode when another one is to come.
  returned: success
  type: str
  sample: "2027-04-03T08:00:00+00:00"
tlsa:
  description: What a TLSA record of the certificate in use says. Null in check mode when another one is to come.
  returned: success
  type: str
  sample: 3 1 1 0e1b0cf2b9f0b3c5fd6e2f3c9d6f5b8d3b0a7a4f4b2d8a0c9c1a6f0c7d1e2f3a
"""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.mailwright.server.plugins.module_utils.certificate.acme import (
    HOOK,
    WEBROOT,
    Order,
    certbot_command,
    explain,
    key_changes,
    parse_renewal,
    reasons,
)
from ansible_collections.mailwright.server.plugins.module_utils.certificate.deploy import (
    Settings,
    live_pair,
    pending,
    read_pair,
)
from ansible_collections.mailwright.server.plugins.module_utils.certificate.pair import (
    LIBRARY_ERROR,
    Pair,
    describe,
    parse_pair,
)
from ansible_collections.mailwright.server.plugins.module_utils.certificate.store import CertificateStore


def in_use(pair: Pair | None) -> str:
    """What goes on to be served, for an error message."""
    if pair is None:
        return "There is no certificate in use"
    kind = "self-signed certificate" if pair.self_signed else "certificate"
    return f"The {kind} that is valid until {pair.not_after:%Y-%m-%d %H:%M} UTC stays in use"


class Lineage:
    """What certbot has for a name."""

    def __init__(self, certbot_path: str, name: str) -> None:
        self.directory = os.path.join(certbot_path, "live", name)
        self.settings = Path(certbot_path, "renewal", f"{name}.conf")

    def pair(self) -> Pair | None:
        """The newest pair; None when there is none that can be used."""
        try:
            return parse_pair(*read_pair(self.directory))
        except (FileNotFoundError, ValueError):
            return None

    def renewal(self) -> dict[str, str]:
        """The settings for renewals; empty when there are none."""
        try:
            return parse_renewal(self.settings.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}


def issue(module: AnsibleModule, order: Order, *, new_key: bool, live: Pair | None) -> None:
    """Run certbot; it runs the hook. Ends the module when certbot fails."""
    if order.challenge == "http-01":
        os.makedirs(WEBROOT, mode=0o755, exist_ok=True)
    ca_file = module.params["ca_file"]
    environment = {"REQUESTS_CA_BUNDLE": ca_file} if ca_file else {}
    code, out, err = module.run_command(certbot_command(order, new_key=new_key), environ_update=environment)
    if code:
        module.fail_json(
            msg=f"No certificate from {order.directory}: {explain(out + err)}. {in_use(live)}.",
            stdout=out,
            stderr=err,
        )


def install(module: AnsibleModule, live: Pair | None) -> None:
    """Run the hook once more, for what it says; ends the module when it refuses."""
    code, out, err = module.run_command([HOOK])
    if code:
        module.fail_json(msg=f"The certificate was not installed: {(err or out).strip()}. {in_use(live)}.")


def run(module: AnsibleModule) -> dict[str, Any]:
    """Ask for a certificate if need be, and have it installed if it is not."""
    params = module.params
    order = Order(
        tuple(dict.fromkeys(params["names"])),
        params["directory"],
        params["email"],
        params["challenge"],
        params["key_type"],
        params["propagation_seconds"],
    )
    hostname = order.names[0]
    store = CertificateStore(params["path"], hostname)
    settings = Settings(hostname, order.names, params["path"])
    lineage = Lineage(params["certbot_path"], hostname)
    coming = {"changed": True, "fingerprint": None, "not_after": None, "tlsa": None}
    if LIBRARY_ERROR:
        if not module.check_mode:
            module.fail_json(msg=missing_required_lib("cryptography"), exception=LIBRARY_ERROR)
        diff = {"before": "", "after": f"names: {', '.join(order.names)}\nfrom: {order.directory}\n"}
        return {**coming, "reasons": ["there is none yet"], "diff": diff}

    newest, renewal, live = lineage.pair(), lineage.renewal(), live_pair(store)
    why = reasons(order, renewal, newest, datetime.now(UTC))
    new_key = key_changes(order, renewal, newest)
    # where certbot's newest key is not the one in use, another one was asked for before, and waits
    if params["new_key"] and newest is not None and live is not None and newest.spki == live.spki:
        new_key = True
        why.append("another key is asked for")
    before = describe(live, live.fingerprint if live else None)
    to_install = newest is not None and pending(settings, lineage.directory)
    if module.check_mode and (why or to_install):
        after = f"names: {', '.join(order.names)}\nfrom: {order.directory}\n"
        after += "".join(f"because of {reason}\n" for reason in why or ["certbot has another one"])
        return {**coming, "reasons": why, "diff": {"before": before, "after": after}}
    if why:
        issue(module, order, new_key=new_key, live=live)
    if not module.check_mode and pending(settings, lineage.directory):
        install(module, live)
    now_live = live_pair(store)
    fingerprint = now_live.fingerprint if now_live else None
    return {
        "changed": bool(why) or to_install,
        "reasons": why,
        "fingerprint": fingerprint,
        "not_after": now_live.not_after.isoformat() if now_live else None,
        "tlsa": f"3 1 1 {now_live.spki}" if now_live else None,
        "diff": {"before": before, "after": describe(now_live, fingerprint)},
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True},
            "directory": {"type": "str", "required": True},
            "email": {"type": "str", "required": True},
            "challenge": {"type": "str", "choices": ["http-01", "dns-01"], "default": "http-01"},
            "key_type": {"type": "str", "choices": ["rsa", "ecdsa"], "default": "rsa", "no_log": False},
            "propagation_seconds": {"type": "int", "default": 60},
            "new_key": {"type": "bool", "default": False, "no_log": False},
            "ca_file": {"type": "path"},
            "path": {"type": "path", "default": "/etc/mailwright/tls"},
            "certbot_path": {"type": "path", "default": "/etc/letsencrypt"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"The certificate cannot be looked after: {error}")


if __name__ == "__main__":
    main()
