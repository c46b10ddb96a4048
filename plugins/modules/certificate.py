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
  - Where the host has TLSA records, a certificate with another key than the one in use is not made live. It waits
    until its record is known everywhere, which M(mailwright.server.dane) looks after.
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
  new_key:
    description:
      - Make another key for a self-signed certificate. Where the host has TLSA records, the new certificate waits
        until M(mailwright.server.dane) has seen its record everywhere; while one waits, no other is made.
    type: bool
    default: false
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
dane:
  description: Whether the host has, or until lately had, TLSA records.
  returned: always
  type: bool
waiting:
  description: Whether a certificate with another key waits for its TLSA record.
  returned: always
  type: bool
names:
  description: DNS names of the certificate.
  returned: always
  type: list
  elements: str
  sample: [mx1.acme.test]
"""

import os
from datetime import UTC, datetime
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.mailwright.server.plugins.module_utils.certificate.deploy import (
    live_pair,
    next_pair,
    published_digests,
)
from ansible_collections.mailwright.server.plugins.module_utils.certificate.pair import (
    LIBRARY_ERROR,
    Pair,
    check_given,
    describe,
    reusable_key,
    self_sign,
    still_good,
)
from ansible_collections.mailwright.server.plugins.module_utils.certificate.store import CertificateStore
from ansible_collections.mailwright.server.plugins.module_utils.dns.names import MAX_NAME, domain_error


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
            "dane": False,
            "waiting": False,
            "diff": {"before": describe(None, None), "after": f"names: {', '.join(names)}\n"},
        }

    if module.check_mode:
        return place(module, store, names)
    with store.locked():
        return place(module, store, names)


def place(module: AnsibleModule, store: CertificateStore, names: list[str]) -> dict[str, Any]:
    """Make the wanted pair live, or let it wait where its key has no TLSA record yet."""
    now = datetime.now(UTC).replace(microsecond=0)
    live, waiting, published = live_pair(store), next_pair(store), published_digests(store)
    wanted, following, made = choose(module.params, names, live, waiting, published is not None, now)
    # Another key than the one in use goes by way of TLSA records, where there are any: its certificate waits for them.
    if live is not None and published is not None and wanted.spki != live.spki:
        wanted, following = live, wanted
    replace = live is None or (live.chain_pem, live.key_pem) != (wanted.chain_pem, wanted.key_pem)
    drifted = {} if replace else store.drifted()
    stage = following is not None and (waiting is None or waiting.fingerprint != following.fingerprint)
    discard = following is None and os.path.islink(store.next) and module.params["mode"] != "acme"
    if not module.check_mode:
        if replace:
            store.write(wanted.chain_pem, wanted.key_pem)
        store.correct()
        if stage and following is not None:
            store.stage(following.chain_pem, following.key_pem)
        if discard:
            store.discard_next()
    fingerprint = None if wanted in made and module.check_mode else wanted.fingerprint
    hidden = None if following is None or (following in made and module.check_mode) else following.fingerprint
    return {
        "changed": replace or bool(drifted) or stage or discard,
        "path": store.live,
        "fingerprint": fingerprint,
        "not_after": None if fingerprint is None else wanted.not_after.isoformat(),
        "names": list(wanted.names),
        "dane": published is not None,
        "waiting": following is not None or (module.params["mode"] == "acme" and waiting is not None),
        "diff": {
            "before": describe(live, live.fingerprint if live else None)
            + (f"waiting:\n{describe(waiting, waiting.fingerprint)}" if waiting and (stage or discard) else "")
            + "".join(f"{path} {found}\n" for path, (found, _access) in drifted.items()),
            "after": describe(wanted, fingerprint)
            + (f"waiting:\n{describe(following, hidden)}" if stage else "")
            + "".join(f"{path} {access}\n" for path, (_found, access) in drifted.items()),
        },
    }


def choose(
    params: dict[str, Any], names: list[str], live: Pair | None, waiting: Pair | None, dane: bool, now: datetime
) -> tuple[Pair, Pair | None, list[Pair]]:
    """The pair that is wanted, the one that is to wait beside it, and which of them were made just now."""
    if params["mode"] == "files":
        given = check_given(params["certificate_pem"].encode(), params["key_pem"].encode(), names, now)
        return given, None, []
    if params["mode"] == "acme" and live is not None and not live.self_signed:
        return live, None, []
    made = []
    if live is not None and still_good(live, names, now):
        wanted = live
    else:
        # the key of the one that waits is on its way already, where the live one's is of no use
        key = reusable_key(live) or reusable_key(waiting)
        good = waiting if live is None or not live.self_signed else None
        wanted = good if good is not None and still_good(good, names, now) else self_sign(names, now, key)
        made += [] if wanted is waiting else [wanted]
    following = waiting if waiting is not None and waiting.self_signed and waiting.spki != wanted.spki else None
    if params["new_key"] and following is None and live is not None:
        following = self_sign(names, now, None)
        if not dane:
            return following, None, [following]
        made.append(following)
    elif following is not None and not still_good(following, names, now):
        following = self_sign(names, now, reusable_key(following))
        made.append(following)
    return wanted, following, made


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "hostname": {"type": "str", "required": True},
            "names": {"type": "list", "elements": "str", "default": []},
            "mode": {"type": "str", "choices": ["self_signed", "files", "acme"], "default": "self_signed"},
            "certificate_pem": {"type": "str"},
            "key_pem": {"type": "str", "no_log": True},
            "new_key": {"type": "bool", "default": False, "no_log": False},
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
