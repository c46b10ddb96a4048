#!/usr/bin/python
# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: dane
short_description: Say which TLSA records a mail host needs, and change its certificate's key without a gap
version_added: "0.2.0"
author: mailwright contributors (@mailwright)
description:
  - Gives the digests for TLSA records C(3 1 1) of the mail host (RFC 7672), that of the certificate in use and that of
    one which waits beside it. Nothing is wanted where the zone does not validate, by the resolver's word.
  - A certificate with another key waits until every authoritative name server and the resolver have shown its record
    for twice the time to live. Then it is installed, the services reload, port 25 is asked for it, and
    only then the old record is no longer wanted. Each run does what can be done by then.
  - What was seen decides, not what was published; so an update that failed only delays.
  - While there are records, the file C(tlsa) beside the certificates lists the digests that may be served.
    Certbot's deploy hook and M(mailwright.server.certificate) install nothing else.
  - Where records are not wanted any more, that file stays until none was seen for twice the time to live.
requirements:
  - python3-cryptography and python3-dnspython on the host
options:
  hostname:
    description: Fully qualified name of the host, in lower-case A-label form.
    type: str
    required: true
  names:
    description: Further DNS names that the certificate is for. One that waits has to cover those that are covered now.
    type: list
    elements: str
    default: []
  enabled:
    description: Whether TLSA records are wanted.
    type: bool
    default: true
  acme:
    description: Whether the certificate comes from an ACME server. Then a self-signed one gets no record.
    type: bool
    default: false
  ttl:
    description: Time to live with which the records are published, in seconds.
    type: int
    default: 3600
  resolver:
    description: A resolver that validates, as an address, C(ADDRESS:PORT) or C([ADDRESS]:PORT).
    type: str
    default: 127.0.0.1
  path:
    description: Directory that holds one directory for each host name.
    type: path
    default: /etc/mailwright/tls
attributes:
  check_mode:
    description:
      - Can run in check mode, also before anything is installed. The DNS is asked as ever.
      - For a certificate that does not exist yet the digest is all zeros.
    support: full
  diff_mode:
    description: Shows each digest with its state.
    support: full
"""

EXAMPLES = r"""
- name: Look after the TLSA records
  mailwright.server.dane:
    hostname: mx1.acme.test
  register: dane

- name: Show the record sets to publish
  ansible.builtin.debug:
    msg: "{{ mail_model | mailwright.server.dns_record_sets(dkim['keys'], dane) }}"
"""

RETURN = r"""
records:
  description: Digests for which TLSA records C(3 1 1) are to be published now, and no others.
  returned: always
  type: list
  elements: str
  sample: [0e1b0cf2b9f0b3c5fd6e2f3c9d6f5b8d3b0a7a4f4b2d8a0c9c1a6f0c7d1e2f3a]
ttl:
  description: Time to live with which they are to be published, in seconds.
  returned: always
  type: int
  sample: 3600
secure:
  description: Whether the zone validates. Null when the resolver gave no answer.
  returned: always
  type: bool
keys:
  description: The keys that have, or are to have, a record.
  returned: always
  type: list
  elements: dict
  contains:
    digest:
      description: SHA-256 of the public key.
      type: str
    state:
      description: V(generated), V(published), V(propagated), V(active) or V(retiring).
      type: str
    since:
      description: When it came into its state, as ISO 8601.
      type: str
    next:
      description: What happens to it next.
      type: str
    next_at:
      description: When, at the earliest, as ISO 8601; null where something has to be seen first.
      type: str
  sample:
    - digest: 0e1b0cf2b9f0b3c5fd6e2f3c9d6f5b8d3b0a7a4f4b2d8a0c9c1a6f0c7d1e2f3a
      state: active
      since: "2026-03-01T12:00:00+00:00"
      next: kept until a new key is asked for
      next_at: null
installed:
  description: Whether a certificate that waited is in use now.
  returned: always
  type: bool
under_way:
  description: Whether a change of the key, or the withdrawal of the records, is not finished; run again later.
  returned: always
  type: bool
"""

import os
import subprocess
import time
from datetime import UTC, datetime
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.mailwright.server.plugins.module_utils.certificate import rollover, served
from ansible_collections.mailwright.server.plugins.module_utils.certificate.deploy import (
    TLSA,
    accept,
    install,
    live_pair,
    next_pair,
    unloaded,
)
from ansible_collections.mailwright.server.plugins.module_utils.certificate.pair import LIBRARY_ERROR, Pair
from ansible_collections.mailwright.server.plugins.module_utils.certificate.store import CertificateStore
from ansible_collections.mailwright.server.plugins.module_utils.dns import tlsa
from ansible_collections.mailwright.server.plugins.module_utils.dns.names import MAX_NAME, domain_error
from ansible_collections.mailwright.server.plugins.module_utils.dns.verify import LIBRARY_ERROR as DNS_ERROR
from ansible_collections.mailwright.server.plugins.module_utils.dns.verify import Server, parse_server
from ansible_collections.mailwright.server.plugins.module_utils.secrets.files import own_access, write_atomic

STATE_FILE = "dane.json"
# What a plan shows for a key that is yet to be made.
UNKNOWN = "0" * 64
# Seconds within which the services hand out a new certificate.
LOADED_WITHIN = 30.0
HEAD = "# Managed by mailwright: the TLSA records that are known everywhere. Nothing else is served.\n"


class Run:
    """One run: what is remembered, what is there, what is seen."""

    def __init__(self, module: AnsibleModule, resolver: Server) -> None:
        self.module, self.resolver = module, resolver
        self.store = CertificateStore(module.params["path"], module.params["hostname"])
        self.state_file = os.path.join(self.store.directory, STATE_FILE)
        self.gate_file = os.path.join(self.store.directory, TLSA)
        self.live, self.next = live_pair(self.store), next_pair(self.store)
        if self.live and self.next and self.live.fingerprint == self.next.fingerprint:
            # a run was killed after it had installed this one
            self.next = None
        self.before = self.state = self.read()
        self.sight = rollover.Sight(None, None, None, float(module.params["ttl"]))
        self.installed = False

    def read(self) -> rollover.State:
        """Read what is remembered. Raises ValueError."""
        try:
            with open(self.state_file, encoding="utf-8") as stream:
                return rollover.parse(stream.read())
        except FileNotFoundError:
            return rollover.NOTHING
        except ValueError as error:
            raise ValueError(f"{self.state_file}: {error}; remove it, and nothing is lost but waiting time") from None

    def host(self) -> rollover.Host:
        """What the host has; port 25 is asked only where it matters."""
        live = self.live.spki if self.live else None
        stopgap = self.module.params["acme"] and self.live is not None and self.live.self_signed
        # where a self-signed one has a record already, ACME's takes its place by way of the records
        wanted = self.module.params["enabled"] and (not stopgap or live in self.before.keys)
        leaving = set(self.state.keys) - {live, self.next.spki if self.next else None}
        return rollover.Host(
            wanted,
            live,
            self.next.spki if self.next else None,
            served.digest(self.module.params["hostname"]) if leaving else None,
        )

    def look(self) -> None:
        """Ask the DNS: in full while something is under way, else only whether the zone validates."""
        hostname, ttl = self.module.params["hostname"], float(self.module.params["ttl"])
        if rollover.under_way(self.state, self.host()) or (self.state.keys and not self.module.params["enabled"]):
            self.sight = tlsa.look(hostname, self.resolver, ttl)
        else:
            self.sight = rollover.Sight(tlsa.secure(hostname, self.resolver), None, None, ttl)

    def step(self) -> None:
        """Move the keys, and remember it."""
        self.state = rollover.step(self.state, datetime.now(UTC).replace(microsecond=0), self.host(), self.sight)
        if not self.module.check_mode:
            self.write()

    def write(self) -> None:
        """Write state and gate. A run that is killed in between has not said yet which records are wanted."""
        digests = rollover.admitted(self.state)
        if digests is None:
            # a list without a state was written by hand
            for path in (self.gate_file, self.state_file) if self.before.keys else ():
                if os.path.exists(path):
                    os.unlink(path)
            return
        gate = HEAD + "".join(f"3 1 1 {digest}\n" for digest in sorted(digests))
        for path, text in ((self.state_file, rollover.render(self.state)), (self.gate_file, gate)):
            content = text.encode()
            if not os.path.exists(path) or _read(path) != content:
                write_atomic(path, content, own_access(0o640))

    def install(self) -> None:
        """Make the certificate that waits the one in use, and see it at work. Ends the module when it is refused."""
        if self.next is None or not rollover.to_install(self.state, self.host(), self.sight):
            return
        params, waiting = self.module.params, self.next
        names = list(dict.fromkeys([params["hostname"], *params["names"]]))
        try:
            accept(waiting.chain_pem, waiting.key_pem, names, self.live, datetime.now(UTC))
        except ValueError as error:
            self.module.fail_json(msg=f"The certificate that waits cannot be used: {error}. The one before stays.")
        self.installed = True
        if self.module.check_mode:
            self.live, self.next = waiting, None
            return
        self.load(waiting)
        self.store.discard_next()
        self.live, self.next = live_pair(self.store), None

    def load(self, pair: Pair) -> None:
        """Have the services load a pair, and wait until port 25 hands it out."""
        install(self.store, pair)
        end = time.monotonic() + LOADED_WITHIN
        while served.digest(self.module.params["hostname"]) != pair.spki:
            if time.monotonic() > end:
                self.module.warn("port 25 does not hand out the new certificate yet; the old record stays")
                return
            time.sleep(0.5)


def _read(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def planned(module: AnsibleModule) -> dict[str, Any]:
    """What a plan says on a host that has no certificate yet, or cannot read it."""
    wanted = module.params["enabled"] and not module.params["acme"]
    return {
        "changed": wanted,
        "records": [UNKNOWN] if wanted else [],
        "ttl": module.params["ttl"],
        "secure": None,
        "keys": [],
        "installed": False,
        "under_way": False,
        "diff": {"before": "", "after": f"TLSA 3 1 1 {UNKNOWN} active\n" if wanted else ""},
    }


def run(module: AnsibleModule, resolver: Server) -> dict[str, Any]:
    """Look, step, install, step again."""
    one = Run(module, resolver)
    if module.check_mode and (one.live is None or DNS_ERROR):
        return planned(module)
    if unloaded(one.store) and one.live and not module.check_mode:
        one.load(one.live)
    if one.next is None and os.path.islink(one.store.next) and not module.check_mode:
        one.store.discard_next()
    one.look()
    one.step()
    one.install()
    if one.installed:
        one.step()
    if module.check_mode and module.params["enabled"] and one.sight.secure is None and not one.state.keys:
        # the resolver is yet to come
        return planned(module)
    warn(one)
    return {
        "changed": rollover.describe(one.before) != rollover.describe(one.state) or one.installed,
        "records": rollover.records(one.state),
        "ttl": module.params["ttl"],
        "secure": one.sight.secure,
        "keys": [described(digest, key, one.sight) for digest, key in sorted(one.state.keys.items())],
        "installed": one.installed,
        "under_way": rollover.under_way(one.state, one.host()),
        "diff": {"before": rollover.describe(one.before), "after": rollover.describe(one.state)},
    }


def described(digest: str, key: rollover.Key, sight: rollover.Sight) -> dict[str, Any]:
    """A key for the result."""
    event, moment = rollover.following(key, sight)
    return {
        "digest": digest,
        "state": key.state,
        "since": key.since.isoformat(),
        "next": event,
        "next_at": moment.isoformat() if moment else None,
    }


def warn(one: Run) -> None:
    """Say why there are no records where some are wanted."""
    hostname = one.module.params["hostname"]
    if not one.module.params["enabled"] or (one.state.keys and not one.state.withdrawn):
        return
    if one.sight.secure is False:
        one.module.warn(f"no TLSA record for {hostname}: its zone does not validate, so nobody could believe it")
    elif one.sight.secure is None:
        one.module.warn(f"no TLSA record for {hostname}: the resolver {one.resolver} does not answer for its zone")


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "hostname": {"type": "str", "required": True},
            "names": {"type": "list", "elements": "str", "default": []},
            "enabled": {"type": "bool", "default": True},
            "acme": {"type": "bool", "default": False},
            "ttl": {"type": "int", "default": 3600},
            "resolver": {"type": "str", "default": "127.0.0.1"},
            "path": {"type": "path", "default": "/etc/mailwright/tls"},
        },
        supports_check_mode=True,
    )
    errors = []
    problem = domain_error(module.params["hostname"], MAX_NAME)
    if problem:
        errors.append(f"hostname: {problem}")
    if module.params["ttl"] < 1:
        errors.append(f"ttl: {module.params['ttl']}: must be 1 or more")
    resolver = Server("127.0.0.1")
    try:
        resolver = parse_server(module.params["resolver"])
    except ValueError as error:
        errors.append(f"resolver: {error}")
    if errors:
        module.fail_json(msg="TLSA records cannot be looked after: " + "; ".join(errors))
    if not module.check_mode:
        if LIBRARY_ERROR:
            module.fail_json(msg=missing_required_lib("cryptography"), exception=LIBRARY_ERROR)
        if DNS_ERROR:
            module.fail_json(msg=missing_required_lib("dnspython"), exception=DNS_ERROR)
    try:
        if module.check_mode:
            module.exit_json(**run(module, resolver))
        with CertificateStore(module.params["path"], module.params["hostname"]).locked():
            module.exit_json(**run(module, resolver))
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"TLSA records cannot be looked after: {error}")
    except subprocess.CalledProcessError as error:
        module.fail_json(msg=f"The new certificate is in place, but not every service has loaded it: {error.stderr}")


if __name__ == "__main__":
    main()
