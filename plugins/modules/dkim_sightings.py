#!/usr/bin/python
# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: dkim_sightings
short_description: Ask all authoritative name servers for DKIM records
version_added: "0.2.0"
author: mailwright contributors (@mailwright)
description:
  - Asks every address of every authoritative name server of each zone, and says for each selector whether all of them
    have the wanted record, as O(mailwright.server.dkim_rotation#module:observations) takes it.
  - Runs on the controller, whose clock dates the observations. Changes nothing.
requirements:
  - dnspython on the controller
options:
  records:
    description: Wanted TXT records, name to text, as RV(mailwright.server.dkim_rotation#module:records) has them.
    type: dict
    required: true
  zones:
    description: Zones that are known. The zones of other names are found by asking for SOA records.
    type: list
    elements: str
    default: []
  servers:
    description:
      - Servers to ask, by zone, each as an address, C(ADDRESS:PORT) or C([ADDRESS]:PORT).
        For other zones the name servers are found by the NS record set.
    type: dict
    default: {}
  resolvers:
    description: Resolvers by which name servers are found; the controller's own unless given.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Asks as ever.
    support: full
  diff_mode:
    description: There is never a difference.
    support: none
"""

EXAMPLES = r"""
- name: See which DKIM records are live
  mailwright.server.dkim_sightings:
    records: "{{ dkim.records }}"
  delegate_to: localhost
  register: seen

- name: Move the keys on by what the DNS says
  mailwright.server.dkim_rotation:
    domains: [acme.test]
    observations: "{{ seen.observations }}"
"""

RETURN = r"""
observations:
  description: One item for each record.
  returned: success
  type: list
  elements: dict
  contains:
    domain:
      description: The domain.
      type: str
    selector:
      description: The selector.
      type: str
    sight:
      description: V(live), V(absent), V(other), V(mixed) or V(unknown).
      type: str
    text:
      description: What was seen in place of the wanted text.
      type: str
    observed:
      description: When, as ISO 8601.
      type: str
    ttl:
      description: Longest time to live of the record, in seconds.
      type: int
    negative_ttl:
      description: Longest negative time to live of the zone, in seconds.
      type: int
  sample:
    - domain: acme.test
      selector: 20260301rk3x9
      sight: live
      text: null
      observed: "2026-03-01T12:00:00+00:00"
      ttl: 3600
      negative_ttl: 900
"""

from datetime import UTC, datetime

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.mailwright.server.plugins.module_utils.dns import sight
from ansible_collections.mailwright.server.plugins.module_utils.dns.canonical import canonical_name
from ansible_collections.mailwright.server.plugins.module_utils.dns.verify import Server, parse_server

MIDDLE = "._domainkey."


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "records": {"type": "dict", "required": True},
            "zones": {"type": "list", "elements": "str", "default": []},
            "servers": {"type": "dict", "default": {}},
            "resolvers": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    if sight.LIBRARY_ERROR:
        module.fail_json(msg=missing_required_lib("dnspython"), exception=sight.LIBRARY_ERROR)
    errors = [f"records.{name}: is not SELECTOR._domainkey.DOMAIN." for name in module.params["records"]
              if MIDDLE not in name or not name.endswith(".")]  # fmt: skip
    servers = {
        canonical_name(zone): parsed(f"servers.{zone}", texts, errors)
        for zone, texts in module.params["servers"].items()
    }
    resolvers = parsed("resolvers", module.params["resolvers"], errors)
    if errors:
        module.fail_json(msg="The arguments are not valid:\n" + "\n".join(errors))

    observed = datetime.now(UTC).isoformat(timespec="seconds")
    seen = sight.look(module.params["records"], map(canonical_name, module.params["zones"]), servers, resolvers)
    observations = []
    for name, one in seen.items():
        selector, _middle, domain = name.partition(MIDDLE)
        observations.append(
            {
                "domain": domain.rstrip("."), "selector": selector, "sight": one.sight, "text": one.text,
                "observed": observed, "ttl": one.ttl, "negative_ttl": one.negative_ttl,
            }
        )  # fmt: skip
    module.exit_json(changed=False, observations=observations)


def parsed(path: str, texts: list[str], errors: list[str]) -> list[Server]:
    """Read servers; what is none is added to the errors."""
    found = []
    for text in texts:
        try:
            found.append(parse_server(str(text)))
        except ValueError as error:
            errors.append(f"{path}: {error}")
    return found


if __name__ == "__main__":
    main()
