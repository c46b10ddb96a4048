#!/usr/bin/python
# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: certificate
short_description: Place the host's TLS certificate and key as one pair
version_added: "0.1.0"
author: mailwright contributors (@mailwright)
description:
  - Makes a self-signed certificate and renews it, or places a certificate and key that the user gives.
  - Services use C(<path>/<hostname>/live/fullchain.pem) and C(<path>/<hostname>/live/privkey.pem).
    Root alone may read them.
  - A new pair goes into a directory of its own and becomes live by renaming one symbolic link.
    The pair before it is kept for readers that still have it open; older pairs are removed.
requirements:
  - python3-cryptography on the host
options:
  hostname:
    description: Fully qualified name of the host, in lower-case A-label form.
    type: str
    required: true
  names:
    description: Further DNS names that the certificate must cover.
    type: list
    elements: str
    default: []
  mode:
    description:
      - V(self_signed) makes a P-256 key once and a certificate for 398 days,
        renewed with the same key when fewer than 30 days are left or the names differ.
      - V(files) places O(certificate_pem) and O(key_pem) after checking them.
      - V(acme) leaves what is live to M(mailwright.server.acme_certificate), and makes a self-signed certificate only
        where there is none yet, so that services can start; while it is in use, it is renewed as V(self_signed) is.
    type: str
    choices: [self_signed, files, acme]
    default: self_signed
  certificate_pem:
    description:
      - The certificate, followed by its intermediate certificates in order, in PEM form.
      - Required with O(mode=files).
    type: str
  key_pem:
    description: The unencrypted private key in PEM form. Required with O(mode=files).
    type: str
  path:
    description: Directory that holds one directory for each host name.
    type: path
    default: /etc/mailwright/tls
attributes:
  check_mode:
    description:
      - Can run in check mode, also before the library is installed while there is no certificate yet.
      - A given certificate is then not checked.
    support: full
  diff_mode:
    description: Shows subject, names, end and fingerprint of the certificate, and corrected access; never the key.
    support: full
"""

EXAMPLES = r"""
- name: Keep a self-signed certificate
  mailwright.server.certificate:
    hostname: mx1.acme.test

- name: Place a given certificate
  mailwright.server.certificate:
    hostname: mx1.acme.test
    mode: files
    certificate_pem: "{{ lookup('ansible.builtin.file', 'mx1.pem') }}"
    key_pem: "{{ lookup('ansible.builtin.file', 'mx1.key') }}"
"""

RETURN = r"""
path:
  description: Directory of the live pair.
  returned: always
  type: str
  sample: /etc/mailwright/tls/mx1.acme.test/live
fingerprint:
  description: SHA-256 of the certificate in hexadecimal. Null in check mode for one that is not made yet.
  returned: always
  type: str
  sample: 5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef
not_after:
  description: End of the certificate's validity, in UTC. Null in check mode when it is not known yet.
  returned: always
  type: str
  sample: "2027-04-03T08:00:00+00:00"
names:
  description: DNS names of the certificate.
  returned: always
  type: list
  elements: str
  sample: [mx1.acme.test]
"""

from datetime import UTC, datetime
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.mailwright.server.plugins.module_utils.certificate.pair import (
    LIBRARY_ERROR,
    Pair,
    check_given,
    describe,
    parse_pair,
    reusable_key,
    self_sign,
    still_good,
)
from ansible_collections.mailwright.server.plugins.module_utils.certificate.store import CertificateStore
from ansible_collections.mailwright.server.plugins.module_utils.dns.names import MAX_NAME, domain_error


def read_live(store: CertificateStore) -> Pair | None:
    """Read the live pair; a broken or mismatched one counts as none."""
    content = store.read()
    if content is None:
        return None
    try:
        return parse_pair(*content)
    except ValueError:
        return None


def run(module: AnsibleModule) -> dict[str, Any]:
    """Decide which pair should be live, and place it."""
    hostname: str = module.params["hostname"]
    names = list(dict.fromkeys([hostname, *module.params["names"]]))
    labelled = [("hostname", hostname)]
    labelled += [(f"names[{index}]", name) for index, name in enumerate(module.params["names"])]
    errors = [f"{label}: {problem}" for label, name in labelled if (problem := domain_error(name, MAX_NAME))]
    if errors:
        module.fail_json(msg="The certificate cannot be placed: " + "; ".join(errors), errors=errors)
    store = CertificateStore(module.params["path"], hostname)

    if LIBRARY_ERROR:
        if not module.check_mode or store.read() is not None:
            module.fail_json(msg=missing_required_lib("cryptography"), exception=LIBRARY_ERROR)
        return {
            "changed": True,
            "path": store.live,
            "fingerprint": None,
            "not_after": None,
            "names": names,
            "diff": {"before": describe(None, None), "after": f"names: {', '.join(names)}\n"},
        }

    now = datetime.now(UTC).replace(microsecond=0)
    live = read_live(store)
    mode = module.params["mode"]
    if mode == "files":
        wanted = check_given(module.params["certificate_pem"].encode(), module.params["key_pem"].encode(), names, now)
        made = False
    elif live is not None and (still_good(live, names, now) or (mode == "acme" and not live.self_signed)):
        wanted, made = live, False
    else:
        wanted, made = self_sign(names, now, reusable_key(live)), True

    replace = live is None or (live.chain_pem, live.key_pem) != (wanted.chain_pem, wanted.key_pem)
    drifted = {} if replace else store.drifted()
    if not module.check_mode:
        if replace:
            store.write(wanted.chain_pem, wanted.key_pem)
        store.correct()
    fingerprint = None if made and module.check_mode else wanted.fingerprint
    return {
        "changed": replace or bool(drifted),
        "path": store.live,
        "fingerprint": fingerprint,
        "not_after": None if fingerprint is None else wanted.not_after.isoformat(),
        "names": list(wanted.names),
        "diff": {
            "before": describe(live, live.fingerprint if live else None)
            + "".join(f"{path} {found}\n" for path, (found, _access) in drifted.items()),
            "after": describe(wanted, fingerprint)
            + "".join(f"{path} {access}\n" for path, (_found, access) in drifted.items()),
        },
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "hostname": {"type": "str", "required": True},
            "names": {"type": "list", "elements": "str", "default": []},
            "mode": {"type": "str", "choices": ["self_signed", "files", "acme"], "default": "self_signed"},
            "certificate_pem": {"type": "str"},
            "key_pem": {"type": "str", "no_log": True},
            "path": {"type": "path", "default": "/etc/mailwright/tls"},
        },
        required_if=[("mode", "files", ["certificate_pem", "key_pem"])],
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"The certificate cannot be placed: {error}")


if __name__ == "__main__":
    main()
