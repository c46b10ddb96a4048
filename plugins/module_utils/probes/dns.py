# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The derived records against what the host's resolver says, the reverse names, and the signing keys in use."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.dkim.generate import LIBRARY_ERROR, public_text
from ansible_collections.mailwright.server.plugins.module_utils.dkim.rotation import signing
from ansible_collections.mailwright.server.plugins.module_utils.dkim.state import STATE_FILE, parse_state, wanted_text
from ansible_collections.mailwright.server.plugins.module_utils.dns.records import record_set
from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import RRset, zone_text
from ansible_collections.mailwright.server.plugins.module_utils.probes.resolver import HAVE_LIBRARIES, Reply, Resolver
from ansible_collections.mailwright.server.plugins.module_utils.probes.result import Result, Status, worst

KEYS = "/var/lib/mailwright/dkim"
SIGNING = "/etc/rspamd/local.d/dkim_signing.conf"
# Questions under way at a time.
WORKERS = 16


Finding = tuple[Status, str]


def wanted_by_owner(
    model: Mapping[str, Any], keys: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, list[RRset]]:
    """The derived record sets, apart for the host and for each enabled or parked domain; `keys` as in record_set."""
    hostname = model["hostname"]
    bare = {**model, "domains": [], "dns": {"delegation": model.get("dns", {}).get("delegation")}}
    host = record_set(bare, {})
    # they have records of their own
    names = {f"{domain['name']}." for domain in model["domains"] if domain["enabled"]}
    found = {hostname: host}
    for domain in model["domains"]:
        if domain["enabled"]:
            records = record_set({**bare, "domains": [domain]}, {domain["name"]: keys.get(domain["name"], [])})
            # Where the host's name is a mail domain too, the domain's SPF takes the place of the host's.
            own = domain["name"] == hostname
            records = records if own else [rrset for rrset in records if rrset not in host]
            found[domain["name"]] = [rrset for rrset in records if rrset.type != "CNAME" or rrset.name not in names]
    for name in model.get("dns", {}).get("parked_domains", ()):
        records = record_set({**bare, "dns": {"parked_domains": [name]}}, {})
        found[name] = [rrset for rrset in records if rrset not in host]
    return found


def evaluate_owner(owner: str, wanted: Sequence[RRset], replies: Mapping[tuple[str, str], Reply]) -> Result:
    """Compare the record sets of the host or of a domain with the replies, by (name, type)."""
    findings: list[Finding] = []
    publish: list[RRset] = []
    for rrset in wanted:
        reply = replies[rrset.name, rrset.type]
        if reply.error is not None:
            findings.append(("fail", f"{rrset.name} {rrset.type}: cannot be asked for: {reply.error}"))
            continue
        finding = compare(rrset, reply.values)
        if finding is not None:
            findings.append(finding)
            if finding[0] == "fail" or not reply.values:
                publish.append(rrset)
    return _result(owner, f"{len(wanted)} record sets agree", findings, publish)


def _result(name: str, fine: str, findings: Sequence[Finding], publish: Sequence[RRset]) -> Result:
    status: Status = worst(status for status, _text in findings) if findings else "ok"
    # What is grave first.
    lines = [text for level in ("fail", "warn") for status, text in findings if status == level]
    records = zone_text(list(publish)).splitlines()
    detail = lines[1:] + (["publish:", *records] if records else [])
    return Result(name, "dns", status, lines[0] if lines else fine, tuple(detail), data={"publish": records})


def compare(wanted: RRset, live: Sequence[str]) -> Finding | None:
    """Compare one record set with the live values; None: they agree, or the live ones serve as well.

    Mail is refused without address, MX, SPF or DKIM: these are failures; clients and reports live without the others.
    """
    label = f"{wanted.name} {wanted.type}"
    if wanted.type == "TXT":
        kind = _text_kind(wanted)
        # Other texts at the same name (proofs of ownership) are nobody's business here.
        mine = [value for value in live if value.lower().startswith(f'"{kind.lower()}')]
        return _compare_text(f"{label} ({kind})", kind, wanted.values[0], mine)
    missing = [value for value in wanted.values if value not in live]
    extra = [value for value in live if value not in wanted.values]
    grave: Status = "warn" if wanted.type in ("SRV", "CNAME") else "fail"
    if missing:
        instead = f"; found {', '.join(extra)}" if extra else ""
        if wanted.type == "MX" and any(value.split()[-1] == wanted.values[0].split()[-1] for value in live):
            # another preference is the owner's decision
            return None if len(live) == 1 else ("warn", f"{label}: has others too: {', '.join(extra)}")
        return grave, f"{label}: missing {', '.join(missing)}{instead}"
    if extra:
        return "warn", f"{label}: has others too: {', '.join(extra)}"
    return None


def _text_kind(wanted: RRset) -> str:
    if "._domainkey." in wanted.name:
        return "v=DKIM1"
    kinds = {"_dmarc": "v=DMARC1", "_mta-sts": "v=STSv1", "_smtp": "v=TLSRPTv1", "default": "v=BIMI1"}
    return kinds.get(wanted.name.partition(".")[0], "v=spf1")


def _compare_text(label: str, kind: str, wanted: str, mine: Sequence[str]) -> Finding | None:
    grave: Status = "fail" if kind in ("v=DKIM1", "v=spf1") else "warn"
    if not mine:
        return grave, f"{label}: missing"
    # RFC 7208 section 4.5, RFC 7489 section 6.6.3, RFC 8460 section 3, RFC 8461 section 3.1: of two, none is used.
    if len(mine) > 1:
        return grave, f"{label}: {len(mine)} of them, there may be one only: {' and '.join(mine)}"
    if mine[0] == wanted:
        return None
    if kind == "v=DKIM1":
        return "fail", f"{label}: is not the key in use: {mine[0]}"
    if kind == "v=TLSRPTv1" or (kind == "v=DMARC1" and "p=none" not in mine[0].replace(" ", "").lower()):
        # the owner's own decision
        return None
    return "warn", f"{label}: differs from {wanted}: {mine[0]}"


def evaluate_reverse(address: str, hostname: str, names: Reply, forward: Mapping[str, Reply]) -> Result:
    """Judge the reverse name of a public address: it must be the host's, and lead back (RFC 1912 section 2.1).

    `forward` has the addresses of each of the names.
    """
    title = f"reverse {address}"
    if names.error is not None:
        return Result(title, "dns", "fail", f"cannot be asked for: {names.error}")
    if not names.values:
        return Result(title, "dns", "fail", f"missing; your provider sets it, to {hostname}")
    found = ", ".join(name.rstrip(".") for name in names.values)
    confirmed = [name for name in names.values if address in forward.get(name, Reply()).values]
    if not confirmed:
        return Result(title, "dns", "fail", f"{found} does not lead back to {address}")
    if f"{hostname}." not in names.values:
        return Result(title, "dns", "warn", f"is {found}, not {hostname}")
    if f"{hostname}." not in confirmed:
        return Result(title, "dns", "fail", f"{hostname} does not lead back to {address}")
    return Result(title, "dns", "ok", f"{found} and back")


@dataclass(frozen=True)
class Key:
    """What the host has of a domain's key: the text that its record has to have, whether it is to sign, the record's
    text by the private key (None: it cannot be read), and whether the filter's configuration names the key."""

    selector: str
    stated: str
    signs: bool
    derived: str | None
    configured: bool


def evaluate_keys(domain: str, keys: Sequence[Key]) -> list[Finding]:
    """Judge a domain's signing keys."""
    findings: list[Finding] = []
    for key in keys:
        if not key.signs:
            if key.configured:
                findings.append(("fail", f"{domain}: the filter signs with {key.selector}, which is to sign no longer"))
        elif key.derived is None:
            findings.append(("fail", f"{domain}: the private key of {key.selector} cannot be read: it does not sign"))
        elif key.derived != key.stated:
            findings.append(
                ("fail", f"{domain}: the private key of {key.selector} is not the one that the state file names")
            )
        elif not key.configured:
            findings.append(("fail", f"{domain}: the filter is not configured to sign with {key.selector}"))
    if not any(key.signs for key in keys):
        findings.append(("fail", f"{domain}: has no signing key: its mail is not signed"))
    return findings


def read_keys(domains: Iterable[str]) -> dict[str, list[Key]]:
    """Read all keys that have a record. Raises ValueError for a state file that is none."""
    try:
        configuration = Path(SIGNING).read_text(encoding="utf-8")
    except FileNotFoundError:
        configuration = ""
    found: dict[str, list[Key]] = {}
    for domain in domains:
        try:
            state = parse_state(Path(KEYS, domain, STATE_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        signs = signing({domain: state}).get(domain, [])
        found[domain] = []
        for key in state.keys:
            path = os.path.join(KEYS, domain, f"{key.selector}.key")
            configured = f'"{path}"' in configuration and f'"{key.selector}"' in configuration
            derived = _derived_text(key.algorithm, path) if key in signs else None
            found[domain].append(Key(key.selector, wanted_text(key), key in signs, derived, configured))
    return found


def _derived_text(algorithm: str, path: str) -> str | None:
    try:
        return public_text(algorithm, Path(path).read_bytes())
    except OSError:
        return None


def probe(model: Mapping[str, Any], timeout: float) -> list[Result]:
    """Ask for everything and compare; `timeout` in seconds for one question."""
    if not HAVE_LIBRARIES or LIBRARY_ERROR:
        return [Result("dns", "dns", "fail", "python3-dnspython or python3-cryptography is not installed on the host")]
    hostname, addresses = model["hostname"], [*model["addresses"]["ipv4"], *model["addresses"]["ipv6"]]
    domains = [domain["name"] for domain in model["domains"] if domain["enabled"]]
    keys = read_keys(domains)
    wanted = wanted_by_owner(
        model, {name: [{"selector": key.selector, "dns": key.stated} for key in found] for name, found in keys.items()}
    )
    questions = {(rrset.name, rrset.type) for records in wanted.values() for rrset in records}
    resolver = Resolver(timeout)
    with ThreadPoolExecutor(WORKERS) as pool:
        names = dict(zip(addresses, pool.map(resolver.reverse, addresses), strict=True))
        questions |= {(f"{hostname}.", "A"), (f"{hostname}.", "AAAA")}
        for address, reply in names.items():
            questions |= {(name, _family(address)) for name in reply.values}
        ordered = sorted(questions)
        replies = dict(zip(ordered, pool.map(lambda question: resolver.ask(*question), ordered), strict=True))

    results = []
    for owner, records in wanted.items():
        result = evaluate_owner(owner, records, replies)
        findings = []
        if owner in domains:
            findings = evaluate_keys(owner, keys.get(owner, []))
        if owner == hostname:
            findings += unlisted_families(model, replies)
        results.append(with_findings(result, findings))
    for address, reply in names.items():
        forward = {name: replies[name, _family(address)] for name in reply.values}
        results.append(evaluate_reverse(address, hostname, reply, forward))
    return results


def _family(address: str) -> str:
    return "AAAA" if ":" in address else "A"


def unlisted_families(model: Mapping[str, Any], replies: Mapping[tuple[str, str], Reply]) -> list[Finding]:
    """Addresses of a family which the inventory does not list: others will send mail there."""
    findings: list[Finding] = []
    for kind, family in (("A", "ipv4"), ("AAAA", "ipv6")):
        name = f"{model['hostname']}."
        if not model["addresses"][family] and replies[name, kind].values:
            values = ", ".join(replies[name, kind].values)
            findings.append(("warn", f"{name} {kind}: {values} is not among the inventory's mail_addresses"))
    return findings


def with_findings(result: Result, findings: Sequence[Finding]) -> Result:
    """A result with more findings."""
    if not findings:
        return result
    texts = [text for _status, text in findings]
    first, rest = (texts[0], texts[1:]) if result.status in ("ok", "skip") else (result.summary, texts)
    status = worst([result.status, *(status for status, _text in findings)])
    return replace(result, status=status, summary=first, detail=(*rest, *result.detail))
