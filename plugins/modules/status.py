#!/usr/bin/python
# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: status
short_description: Look whether a mail server does its job
version_added: "0.1.0"
author: mailwright contributors (@mailwright)
description:
  - Probes services, ports, certificates, DNS records, queue, disks, memory and updates of the host it runs on, side by
    side, and sends one message through the whole chain to a mailbox of its own.
  - A probe that fails is a result, not a failure of the module; so is a host on which little or nothing is installed.
  - The playbook C(mailwright.server.status) prints the results by M(mailwright.server.status_report).
options:
  hostname:
    description: The host's full name, as in the model.
    type: str
    required: true
  addresses:
    description: The host's public addresses. Without any, the ports are asked on the loopback address.
    type: dict
    default: {}
    suboptions:
      ipv4:
        description: IPv4 addresses.
        type: list
        elements: str
        default: []
      ipv6:
        description: IPv6 addresses.
        type: list
        elements: str
        default: []
  features:
    description: The switches, such as V(clamav) and V(pop3), as in the model.
    type: dict
    default: {}
  domains:
    description: The domains, as in the model.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the domain.
        type: str
        required: true
      enabled:
        description: Whether it receives mail. The records of a domain that does not are not looked at.
        type: bool
        default: true
      delegated:
        description: Whether the domain's owner leads the records that change to O(delegation).
        type: bool
        default: false
      mta_sts:
        description: The domain's MTA-STS policy.
        type: str
        choices: [none, testing, enforce]
        default: none
      dmarc:
        description: The domain's DMARC policy.
        type: str
        choices: [none, quarantine, reject]
        default: quarantine
      bimi:
        description: The domain's logo for mailbox providers.
        type: dict
        suboptions:
          logo_url:
            description: URL of the logo.
            type: str
            required: true
          authority_url:
            description: URL of its certificate.
            type: str
  delegation:
    description: The name below which records of domains elsewhere are published.
    type: str
  parked_domains:
    description: Domains that have no mail. Their records are looked at too.
    type: list
    elements: str
    default: []
  tls_mode:
    description:
      - Whether the certificate is V(self_signed), so that nobody can verify it, comes from V(files) or by V(acme).
    type: str
    choices: [self_signed, files, acme]
    default: self_signed
  tls_names:
    description: All names that the certificate of the web server ought to have. O(hostname) when not set.
    type: list
    elements: str
    default: []
  tls_dane:
    description: Whether the host is to have TLSA records.
    type: bool
    default: false
  backup:
    description: Whether the host is to be backed up, so that the age of the last good backup is looked at.
    type: bool
    default: false
  blocklists:
    description: The DNS blocklists to ask, as in the model.
    type: dict
    suboptions:
      addresses:
        description: Zones that list addresses.
        type: list
        elements: str
        default: []
      domains:
        description: Zones that list domains.
        type: list
        elements: str
        default: []
  warmup_schedule:
    description: The schedule of the warm-up of the first address, as in the model. Not looked at when not set.
    type: list
    elements: int
  ca_pem:
    description: Certificates in PEM form that are trusted beside those of the system.
    type: str
attributes:
  check_mode:
    description: Can run in check mode and does the same as without it, the message included.
    support: full
  diff_mode:
    description: Returns what has changed, or would change, when in diff mode.
    support: none
    details: Nothing is ever changed.
"""

EXAMPLES = r"""
- name: Look after the mail server
  mailwright.server.status:
    hostname: "{{ mail_model.hostname }}"
    addresses: "{{ mail_model.addresses }}"
    features: "{{ mail_model.features }}"
    domains: "{{ mail_model.domains }}"
    tls_mode: "{{ mail_model.tls.mode }}"
    tls_names: "{{ mail_model.tls.names }}"
    tls_dane: "{{ mail_model.tls.dane }}"
  register: status_result
"""

RETURN = r"""
status:
  description: The gravest status of all results, V(ok), V(warn) or V(fail).
  returned: success
  type: str
  sample: ok
hostname:
  description: The host's full name.
  returned: success
  type: str
  sample: mx1.acme.test
seconds:
  description: How long all probes took together.
  returned: success
  type: float
  sample: 1.7
results:
  description: What was looked at.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: What was looked at.
      type: str
    group:
      description: One of V(services), V(ports), V(certificates), V(dns), V(dkim), V(queue), V(system), V(delivery)
        and V(reports).
      type: str
    status:
      description: One of V(ok), V(warn), V(fail) and V(skip).
      type: str
    summary:
      description: One line.
      type: str
    detail:
      description: Further lines, such as the DNS records to publish.
      type: list
      elements: str
    seconds:
      description: How long it took.
      type: float
    data:
      description: What a program may want to know; its keys depend on the probe.
      type: dict
  sample:
    - name: message
      group: delivery
      status: ok
      summary: in the mailbox after 0.52 s (filtered and queued after 0.31 s)
      detail: []
      seconds: 0.52
      data: {accepted_seconds: 0.31, mailbox: INBOX, queue_id: 4dDHnS0BcSz2Rk}
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mailwright.server.plugins.module_utils.probes import (
    backup,
    blocklists,
    dane,
    delivery,
    disk,
    dkim,
    dns,
    imap,
    queue,
    renewal,
    reports,
    services,
    smtp,
    system,
    tls,
    transaction,
    warmup,
    web,
    wire,
)
from ansible_collections.mailwright.server.plugins.module_utils.probes.result import Result, worst
from ansible_collections.mailwright.server.plugins.module_utils.probes.runner import Probe, run_all

# Seconds for all that is said on one connection, and for one DNS question.
CONNECTION = 6.0
QUESTION = 4.0
# DNS probes ask 16 questions at a time: enough for some thousand domains.
DNS_TOTAL = 60.0


def port_probe(name: str, addresses: Sequence[str], ask: Callable[[str], wire.Answer]) -> Probe:
    """A probe of one port on all addresses."""

    def work() -> list[Result]:
        return [wire.port_result(name, [ask(address) for address in addresses])]

    return Probe(name, "ports", work, CONNECTION * len(addresses) + 1)


def port_probes(hostname: str, addresses: Sequence[str], features: Mapping[str, bool]) -> list[Probe]:
    """Every port that is to be open."""
    # Port 25 also on the loopback address, where the whole greeting comes at once.
    probes = [
        port_probe(
            name,
            [*addresses, "127.0.0.1"] if port == 25 and "127.0.0.1" not in addresses else addresses,
            # mypy cannot infer a lambda with a default, which binds this turn's port
            lambda address, port=port: smtp.probe(port, hostname, address, CONNECTION),  # type: ignore[misc]
        )
        for port, name in smtp.NAMES.items()
    ]
    probes += [
        port_probe(name, addresses, lambda address, port=port: imap.probe(port, hostname, address, CONNECTION))  # type: ignore[misc]
        for port, name in imap.NAMES.items()
        if port != 995 or features.get("pop3", False)
    ]
    webmail = features.get("webmail", False)
    probes += [
        port_probe(name, addresses, lambda address, port=port: web.probe(port, hostname, webmail, address, CONNECTION))  # type: ignore[misc]
        for port, name in web.NAMES.items()
    ]
    return probes


def probes_of(params: Mapping[str, Any]) -> list[Probe]:
    """Everything there is to look at, in the order of the report."""
    hostname, features = params["hostname"], params["features"]
    listed = {family: (params["addresses"] or {}).get(family) or [] for family in ("ipv4", "ipv6")}
    addresses = [*listed["ipv4"], *listed["ipv6"]] or ["127.0.0.1"]
    model = {"hostname": hostname, "addresses": listed, "features": features, "domains": params["domains"],
             "dns": {"parked_domains": params["parked_domains"], "delegation": params["delegation"]}}  # fmt: skip
    probes = [
        Probe("units", "services", lambda: services.probe_units(features)),
        Probe("firewall", "services", services.probe_firewall),
        Probe("jails", "services", lambda: services.probe_jails(features)),
    ]
    if features.get("clamav", False):
        probes.append(Probe("signatures", "services", lambda: services.probe_signatures(CONNECTION)))
    probes += port_probes(hostname, addresses, features)
    probes += [
        Probe(
            f"{port} {name}",
            "certificates",
            lambda port=port: tls.probe(  # type: ignore[misc]
                port,
                hostname,
                params["tls_names"] if port == tls.WEB else [],
                params["tls_mode"],
                params["ca_pem"],
                CONNECTION,
            ),
            2 * CONNECTION + 1,
        )
        for port, name in tls.PORTS.items()
    ]
    if params["tls_mode"] == "acme":
        probes.append(Probe("renewal", "certificates", lambda: renewal.probe(hostname)))
    probes.append(Probe("dns", "dns", lambda: dns.probe(model, QUESTION), DNS_TOTAL))
    if params["tls_dane"]:
        probes.append(Probe("TLSA", "dns", lambda: dane.probe(hostname)))
    if features.get("tls_reports", False):
        probes.append(Probe("to others", "reports", reports.probe_sent))
    if params["backup"]:
        probes.append(Probe("backup", "system", backup.probe))
    schedule = params["warmup_schedule"]
    if schedule:
        address = next(iter([*listed["ipv4"], *listed["ipv6"]]), "")
        probes.append(Probe("warm-up", "queue", lambda: warmup.probe(address, schedule)))
    lists = params["blocklists"]
    if lists is not None:
        probes.append(
            Probe(
                "blocklists",
                "reports",
                lambda: blocklists.probe(
                    [*listed["ipv4"], *listed["ipv6"]],
                    [domain["name"] for domain in params["domains"] if domain["enabled"]],
                    lists["addresses"],
                    lists["domains"],
                    QUESTION,
                ),
                DNS_TOTAL,
            )
        )
    return [
        *probes,
        Probe(
            "dkim", "dkim", lambda: dkim.probe([domain["name"] for domain in params["domains"] if domain["enabled"]])
        ),
        Probe("queue", "queue", lambda: queue.probe(delivery.RECIPIENT)),
        Probe("disk", "system", disk.probe),
        Probe("memory", "system", system.probe_memory),
        Probe("reboot", "system", system.probe_reboot),
        Probe("updates", "system", system.probe_updates, 16.0),
        Probe(transaction.NAME, "system", transaction.probe),
        Probe("others", "reports", reports.probe),
        # what is left over is removed after the time is up
        Probe("message", "delivery", lambda: delivery.probe(hostname), delivery.SECONDS + 15),
    ]


def main() -> None:
    """Run the module."""
    addresses = {family: {"type": "list", "elements": "str", "default": []} for family in ("ipv4", "ipv6")}
    domain = {
        "name": {"type": "str", "required": True},
        "enabled": {"type": "bool", "default": True},
        "delegated": {"type": "bool", "default": False},
        "mta_sts": {"type": "str", "choices": ["none", "testing", "enforce"], "default": "none"},
        "dmarc": {"type": "str", "choices": ["none", "quarantine", "reject"], "default": "quarantine"},
        "bimi": {
            "type": "dict",
            "options": {"logo_url": {"type": "str", "required": True}, "authority_url": {"type": "str"}},
        },
    }
    module = AnsibleModule(
        argument_spec={
            "hostname": {"type": "str", "required": True},
            "addresses": {"type": "dict", "default": {}, "options": addresses},
            "features": {"type": "dict", "default": {}},
            "domains": {"type": "list", "elements": "dict", "default": [], "options": domain},
            "delegation": {"type": "str"},
            "parked_domains": {"type": "list", "elements": "str", "default": []},
            "tls_mode": {"type": "str", "choices": ["self_signed", "files", "acme"], "default": "self_signed"},
            "tls_names": {"type": "list", "elements": "str", "default": []},
            "tls_dane": {"type": "bool", "default": False},
            "backup": {"type": "bool", "default": False},
            "blocklists": {
                "type": "dict",
                "options": {
                    name: {"type": "list", "elements": "str", "default": []} for name in ("addresses", "domains")
                },
            },
            "warmup_schedule": {"type": "list", "elements": "int"},
            "ca_pem": {"type": "str"},
        },
        supports_check_mode=True,
    )
    start = time.monotonic()
    results = run_all(probes_of(module.params))
    module.exit_json(
        changed=False,
        hostname=module.params["hostname"],
        status=worst(result.status for result in results),
        seconds=round(time.monotonic() - start, 2),
        results=[result.to_dict() for result in results],
    )


if __name__ == "__main__":
    main()
