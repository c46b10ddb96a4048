#!/usr/bin/python
# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: dns_records
short_description: Publish DNS record sets at providers, touching nothing that is not ours
version_added: "0.2.0"
author: mailwright contributors (@mailwright)
description:
  - Compares the wanted record sets with complete listings of all zones, plans every zone, and only then writes.
    If any zone has an error in its plan, nothing is written anywhere.
  - A ledger on the controller says which records this module wrote, for each owner. Only these are changed or removed,
    and removed only when they are live exactly as they were written.
  - Strings in TXT record sets that others put there stay. The mechanisms of an SPF record are merged into a record
    of others, and taken out again, without touching theirs or their C(all).
  - Where a record set of somebody else says something else than what is wanted, the module fails and shows both,
    unless O(adopt) is set. A CNAME at a name that needs other types is always an error.
  - Wildcards, and records of the types SOA, NS, DS, DNSKEY and RRSIG, are never touched.
  - Runs on the controller. A run that was killed is completed by the next one.
requirements:
  - dnspython on the controller, for the provider C(rfc2136) and for O(verify)
  - requests on the controller, for the providers that are reached by HTTP
options:
  providers:
    description:
      - Providers by a name of your choice, each with its C(type) and the settings of that type.
      - C(rfc2136) has C(server), C(key_name), C(key_secret), C(key_algorithm), C(port) and C(timeout);
        C(powerdns) has C(url), C(key), C(server_id) and C(timeout); C(manual) has C(path), a directory for zone files.
      - Secrets among the settings are kept out of every output.
    type: dict
    required: true
  zones:
    description:
      - Zones, each with the name of its provider. A record set belongs to the longest zone that holds its name.
      - Keep a zone listed until its records are removed.
    type: dict
    required: true
  records:
    description:
      - All record sets that the owner wants, with C(name) (absolute), C(type), C(ttl) in seconds and C(values),
        record data in master-file form with absolute names.
      - May be given as its JSON text, as P(ansible.builtin.to_json#filter) makes it, which is much faster for many.
    type: raw
    required: true
  owner:
    description:
      - Who wants these records, such as the mail host's name. Several owners may publish into one zone with the same
        ledger; each removes only its own records.
    type: str
    required: true
  ledger:
    description:
      - File on the controller that says what is ours. Back it up, or keep it in version control.
      - If it is lost, nothing is removed any more; with O(adopt) records that are live as wanted become ours again.
    type: path
    required: true
  adopt:
    description: Replace record sets of others that stand in the way, and own those that are live as wanted already.
    type: bool
    default: false
  force_delete:
    description: Allow a plan that removes more than three, and more than 30 percent, of the zone's records of ours.
    type: bool
    default: false
  optional_types:
    description: Record types that are left out with a warning where the provider lacks them.
    type: list
    elements: str
    default: []
  verify:
    description:
      - Afterwards ask every address of every authoritative server of the zones for all wanted record sets,
        and fail unless all of them serve them within O(verify_timeout).
    type: bool
    default: false
  verify_timeout:
    description: Seconds to wait until all servers agree.
    type: int
    default: 120
  verify_servers:
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
  validating_resolver:
    description: A resolver that validates; it must give the records too, and say that they are secure.
    type: str
  workers:
    description: Zones that are worked on at a time.
    type: int
    default: 8
attributes:
  check_mode:
    description: Lists all zones and plans, with the same errors. Writes nothing, not even the ledger.
    support: full
  diff_mode:
    description: One diff for each record set that changes, as master-file lines.
    support: full
"""

EXAMPLES = r"""
- name: Publish the records of the mail host and its domains
  mailwright.server.dns_records:
    owner: mx1.example.org
    ledger: "{{ inventory_dir }}/dns-ledger.json"
    providers:
      main:
        type: rfc2136
        server: 203.0.113.53
        key_name: mailwright.
        key_secret: "{{ vault_dns_key }}"
    zones:
      example.org: main
      example.net: main
    records: "{{ records | ansible.builtin.to_json }}"
    verify: true
  delegate_to: localhost

- name: One record set, written out
  mailwright.server.dns_records:
    owner: mx1.example.org
    ledger: /srv/inventory/dns-ledger.json
    providers:
      own: {type: powerdns, url: "https://ns1.example.org:8081", key: "{{ vault_powerdns_key }}"}
    zones: {example.org: own}
    records:
      - {name: example.org., type: MX, ttl: 3600, values: ["10 mx1.example.org."]}
  delegate_to: localhost
"""

RETURN = r"""
changes:
  description: Record sets that were changed, or would be in check mode, with their records before and after.
  returned: success
  type: list
  elements: dict
  sample:
    - zone: example.org.
      name: example.org.
      type: MX
      before: []
      after: ["example.org. 3600 IN MX 10 mx1.example.org."]
zones_done:
  description: Zones whose changes were made.
  returned: when zones were planned without an error, not in check mode
  type: list
  elements: str
zones_failed:
  description: Zones whose changes were not made, or perhaps not, with the reason. The next run completes them.
  returned: when zones were planned without an error, not in check mode
  type: dict
unmanaged:
  description: Record sets whose name lies in none of the zones, as master-file lines.
  returned: success
  type: list
  elements: str
verified:
  description: For each wanted record set the servers that serve it and what the others say.
  returned: when O(verify) is set, not in check mode
  type: list
  elements: dict
  sample:
    - {name: example.org., type: MX, agree: [203.0.113.53], disagree: {}}
"""

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.mailwright.server.plugins.module_utils.dns import verify
from ansible_collections.mailwright.server.plugins.module_utils.dns.canonical import canonical_name
from ansible_collections.mailwright.server.plugins.module_utils.dns.ledger import LedgerError
from ansible_collections.mailwright.server.plugins.module_utils.dns.plan import ZonePlan
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.contract import Provider
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.registry import (
    LibraryMissingError,
    SettingsError,
    open_provider,
    secrets_of,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.publish import (
    Job,
    Report,
    assign,
    parse_records,
    publish,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import RRset, zone_text


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            # no_log keeps settings and records out of the log and of messages about arguments.
            "providers": {"type": "dict", "required": True, "no_log": True},
            "zones": {"type": "dict", "required": True},
            "records": {"type": "raw", "required": True, "no_log": True},
            "owner": {"type": "str", "required": True},
            "ledger": {"type": "path", "required": True},
            "adopt": {"type": "bool", "default": False},
            "force_delete": {"type": "bool", "default": False},
            "optional_types": {"type": "list", "elements": "str", "default": []},
            "verify": {"type": "bool", "default": False},
            "verify_timeout": {"type": "int", "default": 120},
            "verify_servers": {"type": "dict", "default": {}},
            "resolvers": {"type": "list", "elements": "str", "default": []},
            "validating_resolver": {"type": "str"},
            "workers": {"type": "int", "default": 8},
        },
        supports_check_mode=True,
    )
    settings, records = module.params.pop("providers"), module.params.pop("records")
    # Of these two only the secrets are cut out of what is returned; host names and ports among the settings are not.
    module.no_log_values.clear()
    module.no_log_values.update(*(secrets_of(one) for one in settings.values() if isinstance(one, Mapping)))

    errors: list[str] = []
    wanted, mistakes = parse_records(listed(records))
    errors += mistakes
    zones = {canonical_name(str(zone)): str(name) for zone, name in module.params["zones"].items()}
    providers = opened(module, settings, set(zones.values()), errors)
    errors += [
        f"zones.{zone}: {name!r}: is not one of the providers: {', '.join(sorted(settings)) or 'none'}"
        for zone, name in zones.items()
        if name not in settings
    ]
    if not module.params["owner"] or not module.params["owner"].isprintable():
        errors.append(f"owner: {module.params['owner']!r}: must be a name")
    if module.params["workers"] < 1:
        errors.append(f"workers: {module.params['workers']}: must be 1 or more")
    servers, resolvers, validating = asked(module.params, errors)
    if errors:
        module.fail_json(msg="Nothing was published, since the arguments are not valid:\n" + "\n".join(errors))

    by_zone, homeless = assign(wanted, zones)
    unmanaged = zone_text(homeless).splitlines()
    if unmanaged:
        module.warn(f"{len(homeless)} record sets lie in none of the zones and are not published: "
                    + ", ".join(sorted({rrset.name for rrset in homeless})))  # fmt: skip
    job = Job(
        module.params["owner"],
        zones,
        providers,
        os.path.abspath(module.params["ledger"]),
        module.params["adopt"],
        module.params["force_delete"],
        frozenset(kind.upper() for kind in module.params["optional_types"]),
        module.params["workers"],
    )
    try:
        report = publish(job, by_zone, check=module.check_mode)
    except LedgerError as error:
        module.fail_json(msg=str(error))
    for warning in report.warnings:
        module.warn(warning)
    if report.errors:
        module.fail_json(msg="Nothing was published:\n" + "\n".join(report.errors), unmanaged=unmanaged)
    result = outcome(module, report)
    result["unmanaged"] = unmanaged
    if report.failed:
        module.fail_json(msg=half_done(report), **result)
    if module.params["verify"] and not module.check_mode:
        seen = look(report.plans, servers, resolvers, validating, module)
        result["verified"] = [
            {"name": one.rrset.name, "type": one.rrset.type, "agree": one.agree, "disagree": one.disagree}
            for one in seen
        ]
        complaints = verify.complaints(seen)
        if complaints:
            text = f"Published, but not served everywhere after {module.params['verify_timeout']} s:\n"
            module.fail_json(msg=text + "\n".join(complaints), **result)
    module.exit_json(**result)


def listed(records: Any) -> Any:
    """The records as a list, from a list or its JSON text."""
    if not isinstance(records, str):
        return records
    try:
        return json.loads(records)
    except ValueError:
        return None


def opened(
    module: AnsibleModule, settings: Mapping[str, Any], used: Iterable[str], errors: list[str]
) -> dict[str, Provider]:
    """The providers that zones use; what is wrong with their settings is added to the errors."""
    found = {}
    for name in sorted(used):
        if name not in settings:
            continue
        if not isinstance(settings[name], Mapping):
            errors.append(f"providers.{name}: must be a dictionary with type and settings")
            continue
        try:
            found[name] = open_provider(settings[name])
        except SettingsError as error:
            errors += [f"providers.{name}.{line}" for line in str(error).splitlines()]
        except LibraryMissingError as error:
            library = "dnspython" if settings[name]["type"] == "rfc2136" else "requests"
            module.fail_json(msg=missing_required_lib(library), exception=error.trace)
    return found


def asked(
    params: Mapping[str, Any], errors: list[str]
) -> tuple[dict[str, list[verify.Server]], list[verify.Server], verify.Server | None]:
    """Whom a verification asks: servers by zone, resolvers, the validating one."""

    def parse(path: str, texts: Any) -> list[verify.Server]:
        found = []
        for text in [texts] if isinstance(texts, str) else texts or []:
            try:
                found.append(verify.parse_server(str(text)))
            except ValueError as error:
                errors.append(f"{path}: {error}")
        return found

    servers = {canonical_name(zone): parse(f"verify_servers.{zone}", texts)
               for zone, texts in params["verify_servers"].items()}  # fmt: skip
    validating = parse("validating_resolver", params["validating_resolver"])
    return servers, parse("resolvers", params["resolvers"]), validating[0] if validating else None


def outcome(module: AnsibleModule, report: Report) -> dict[str, Any]:
    """What is returned of a report without errors."""
    changes = [
        {
            "zone": plan.zone,
            "name": change.name,
            "type": change.type,
            "before": lines(change.old),
            "after": lines(change.new),
        }
        for plan in report.plans
        for change in plan.changes
    ]
    result: dict[str, Any] = {"changed": report.changed, "changes": changes}
    if not module.check_mode:
        result |= {"zones_done": report.done, "zones_failed": dict(report.failed)}
    if module._diff:
        result["diff"] = [
            {
                "before_header": f"{change['name']} {change['type']}",
                "after_header": f"{change['name']} {change['type']}",
                "before": "".join(f"{line}\n" for line in change["before"]),
                "after": "".join(f"{line}\n" for line in change["after"]),
            }
            for change in changes
        ]
    return result


def lines(rrset: RRset | None) -> list[str]:
    """A record set as master-file lines."""
    return zone_text([rrset]).splitlines() if rrset else []


def half_done(report: Report) -> str:
    """The message after a failure while writing."""
    failed = "\n".join(f"not done: zone {zone}: {why}" for zone, why in sorted(report.failed.items()))
    done = "".join(f"\ndone: zone {zone}" for zone in report.done)
    return f"{len(report.done)} zones were published, {len(report.failed)} were not; run again.\n{failed}{done}"


def look(
    plans: Iterable[ZonePlan],
    servers: Mapping[str, list[verify.Server]],
    resolvers: list[verify.Server],
    validating: verify.Server | None,
    module: AnsibleModule,
) -> list[verify.Seen]:
    """Ask the name servers for all that is wanted."""
    if verify.LIBRARY_ERROR:
        module.fail_json(msg=missing_required_lib("dnspython"), exception=verify.LIBRARY_ERROR)
    wanted = {plan.zone: plan.expected for plan in plans}
    try:
        known = {zone: servers.get(zone) or verify.authoritative_servers(zone, resolvers) for zone in wanted}
    except verify.VerifyError as error:
        module.fail_json(msg=f"Published, but not verified: {error}")
    return verify.verify(wanted, known, module.params["verify_timeout"], validating=validating)


if __name__ == "__main__":
    main()
