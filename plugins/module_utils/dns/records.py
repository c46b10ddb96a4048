# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The DNS records a mail host and its domains need, derived from the model. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.dkim.state import number_of, numbered_ahead
from ansible_collections.mailwright.server.plugins.module_utils.dns import mta_sts
from ansible_collections.mailwright.server.plugins.module_utils.dns.names import domain_error, selector_error
from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import RRset, text_value, zone_order
from ansible_collections.mailwright.server.plugins.module_utils.reports import addresses

DEFAULT_TTL = 3600
MAX_NAME = 253
_SHA256 = re.compile("[0-9a-f]{64}")
# Service, port, feature that switches it (None: always). RFC 6186, RFC 8314 section 5.1, RFC 5804 section 1.8.
SERVICES: tuple[tuple[str, int, str | None], ...] = (
    ("_imaps", 993, None),
    ("_submissions", 465, None),
    ("_submission", 587, None),
    ("_pop3s", 995, "pop3"),
    ("_sieve", 4190, None),
)
# Never offered: they begin without TLS.
PLAIN_SERVICES = ("_imap", "_pop3")
# RFC 6186 section 3.4: the root as target says that the service is not there.
NOT_OFFERED = "0 0 0 ."


def record_set(
    model: Mapping[str, Any],
    dkim_keys: Mapping[str, Sequence[Mapping[str, Any]]],
    ttl: int = DEFAULT_TTL,
    *,
    tlsa: Sequence[str] = (),
    tlsa_ttl: int = DEFAULT_TTL,
    caa: Sequence[str] = (),
) -> list[RRset]:
    """Derive the record sets for the mail host and every enabled domain.

    `model` is the normalised model (hostname, addresses, features, domains with their mta_sts, dns); `dkim_keys` maps a
    domain to its keys, each with selector and dns text, as the module dkim_rotation returns them. A domain that is not
    in the model any more gets its DKIM records alone: they retire slower than it leaves. `tlsa` holds digests of the
    host's keys, as the module dane returns them, and `caa` values of the host's CAA records.
    Sorted as zone_text sorts. Raises ValueError with every name, selector, text and address that is wrong.
    """
    hostname = model["hostname"]
    domains = sorted(domain["name"] for domain in model["domains"] if domain["enabled"])
    errors = _errors(model, domains, dkim_keys)
    errors += [f"tlsa: {digest!r} is not a SHA-256 in hexadecimal" for digest in tlsa if not _SHA256.fullmatch(digest)]
    if errors:
        raise ValueError("; ".join(errors))

    found: list[RRset] = []

    def add(name: str, kind: str, *values: str) -> None:
        found.append(RRset(f"{name}.", kind, ttl, tuple(sorted(set(values)))))

    for kind, family in (("A", "ipv4"), ("AAAA", "ipv6")):
        if model["addresses"][family]:
            add(hostname, kind, *(str(ipaddress.ip_address(address)) for address in model["addresses"][family]))
    if tlsa:
        values = tuple(sorted(f"3 1 1 {digest}" for digest in set(tlsa)))
        found.append(RRset(f"_25._tcp.{hostname}.", "TLSA", tlsa_ttl, values))
    if caa:
        add(hostname, "CAA", *caa)
    # A name has one SPF record at most (RFC 7208 section 3.2); a mail domain's own covers its host by mx.
    if hostname not in domains:
        add(hostname, "TXT", text_value("v=spf1 a -all"))
    for domain in domains:
        add(domain, "MX", f"10 {hostname}.")
        add(domain, "TXT", text_value("v=spf1 mx -all"))
    for name in model.get("dns", {}).get("parked_domains", ()):
        # RFC 7505, RFC 7208 section 10.1.2, RFC 7489 section 6.3
        add(name, "MX", "0 .")
        add(name, "TXT", text_value("v=spf1 -all"))
        add(f"_dmarc.{name}", "TXT", text_value("v=DMARC1; p=reject"))
    for name, kind, value in [
        *_key_records(model, dkim_keys),
        *_sender_records(model),
        *_client_records(model, domains),
        *_transport_records(model, domains),
    ]:
        add(name, kind, value)
    return sorted(found, key=zone_order)


def model_records(
    model: Mapping[str, Any],
    dkim_keys: Mapping[str, Sequence[Mapping[str, Any]]],
    dane: Mapping[str, Any],
    account: Mapping[str, Any],
) -> list[RRset]:
    """Derive the record sets, as the playbooks have what they are made from; `dane` and `account` are what the modules
    dane and acme_account returned.

    Raises KeyError where the model asks for TLSA or CAA records and these say nothing: leaving the records out would
    withdraw them.
    """
    tls = model["tls"]
    found: dict[str, Any] = {}
    if tls["dane"]:
        found |= {"tlsa": dane["records"], "tlsa_ttl": dane["ttl"]}
    # before the first certificate there is no account, and nothing to hold on to
    if tls["acme"] and tls["acme"]["caa"] and account["uri"]:
        found["caa"] = [f'0 issue "{tls["acme"]["caa"]}; accounturi={account["uri"]}"']
    return record_set(model, dkim_keys, **found)


def _key_records(
    model: Mapping[str, Any], dkim_keys: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[tuple[str, str, str]]:
    """The DKIM keys, in the form of _client_records. Those with a numbered selector lie below the delegation, also of a
    domain that left; its owner's CNAMEs lead there."""
    delegation = model.get("dns", {}).get("delegation")
    found = []
    for domain, keys in dkim_keys.items():
        for key in keys:
            name = f"{key['selector']}._domainkey.{domain}"
            below = delegation and number_of(key["selector"])
            found.append((f"{name}.{delegation}" if below else name, "TXT", text_value(key["dns"])))
    for domain in sorted(_delegated(model)):
        selectors = numbered_ahead(domain, (key["selector"] for key in dkim_keys.get(domain, ())))
        names = [f"{selector}._domainkey.{domain}" for selector in selectors]
        found += [(name, "CNAME", f"{name}.{delegation}.") for name in names]
    return found


def _delegated(model: Mapping[str, Any]) -> set[str]:
    """Domains whose owners lead the records that change to us."""
    if not model.get("dns", {}).get("delegation"):
        return set()
    return {domain["name"] for domain in model["domains"] if domain["enabled"] and domain.get("delegated")}


def _sender_records(model: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What receivers are told of mail from the domains, in the form of _client_records: DMARC (RFC 7489) and BIMI."""
    found = []
    for domain in model["domains"]:
        if not domain["enabled"]:
            continue
        name = domain["name"]
        policy = f"v=DMARC1; p={domain.get('dmarc', 'quarantine')}; rua=mailto:{addresses.address(name)}"
        found.append((f"_dmarc.{name}", "TXT", text_value(policy)))
        bimi = domain.get("bimi")
        if bimi:
            authority = f"; a={bimi['authority_url']}" if bimi["authority_url"] else ""
            found.append((f"default._bimi.{name}", "TXT", text_value(f"v=BIMI1; l={bimi['logo_url']}{authority}")))
    return found


def _client_records(model: Mapping[str, Any], domains: list[str]) -> list[tuple[str, str, str]]:
    """Where mail programs find the services and their settings: name without its final dot, type, value."""
    hostname, features = model["hostname"], model["features"]
    found = []
    for domain in domains:
        for service, port, feature in SERVICES:
            offered = feature is None or features.get(feature, False)
            found.append((f"{service}._tcp.{domain}", "SRV", f"0 1 {port} {hostname}." if offered else NOT_OFFERED))
        found += [(f"{service}._tcp.{domain}", "SRV", NOT_OFFERED) for service in PLAIN_SERVICES]
        if features.get("autoconfig", False):
            # the host's own name, which its certificate has in any case
            found.append((f"_autodiscover._tcp.{domain}", "SRV", f"0 1 443 {hostname}."))
            found += _aliases(model, domains, f"autoconfig.{domain}", f"autodiscover.{domain}")
    return found


def _transport_records(model: Mapping[str, Any], domains: list[str]) -> list[tuple[str, str, str]]:
    """What other servers are told about TLS (RFC 8460, RFC 8461), in the form of _client_records."""
    modes = {domain["name"]: domain.get("mta_sts", "none") for domain in model["domains"]}
    delegated = _delegated(model)
    found = []
    for domain in domains:
        reports = f"v=TLSRPTv1; rua=mailto:{addresses.address(domain)}"
        found.append((f"_smtp._tls.{domain}", "TXT", text_value(reports)))
        if modes[domain] != "none":
            policy = mta_sts.policy_text(modes[domain], model["hostname"])
            name = f"_mta-sts.{domain}"
            if domain in delegated:
                below = f"{name}.{model['dns']['delegation']}"
                found.append((name, "CNAME", f"{below}."))
                name = below
            found.append((name, "TXT", text_value(mta_sts.record_text(policy))))
            found += _aliases(model, domains, f"mta-sts.{domain}")
    return found


def _aliases(model: Mapping[str, Any], domains: list[str], *names: str) -> list[tuple[str, str, str]]:
    """Names of the mail host, as CNAME: its addresses then change in one place.

    A name with records of its own, the host's or a mail domain's, can have no CNAME (RFC 1034 section 3.6.2).
    """
    return [(name, "CNAME", f"{model['hostname']}.") for name in names if name not in (model["hostname"], *domains)]


def _errors(
    model: Mapping[str, Any], domains: list[str], dkim_keys: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[str]:
    errors = []
    problem = domain_error(model["hostname"])
    if problem:
        errors.append(f"hostname: {problem}")
    for domain in domains:
        problem = domain_error(domain)
        if problem:
            errors.append(f"domains: {problem}")
    for domain, keys in dkim_keys.items():
        problem = domain_error(domain)
        if problem:
            errors.append(f"dkim_keys: {problem}")
        for index, key in enumerate(keys):
            problem = selector_error(key["selector"])
            if problem:
                errors.append(f"dkim_keys.{domain}[{index}].selector: {problem}")
            if not str(key["dns"]).startswith("v=DKIM1;"):
                errors.append(f"dkim_keys.{domain}[{index}].dns: {key['dns']!r} does not begin with v=DKIM1;")
    for family, version in (("ipv4", 4), ("ipv6", 6)):
        for address in model["addresses"][family]:
            try:
                right = ipaddress.ip_address(address).version == version
            except ValueError:
                right = False
            if not right:
                errors.append(f"addresses.{family}: {address!r} is not an IPv{version} address")
    return errors
