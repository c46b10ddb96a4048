# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the variables a user writes to the normalised model that the roles read. Pure: no Ansible, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, TypedDict, TypeVar

from ansible_collections.mailwright.server.plugins.module_utils.dkim.state import numbered_selector
from ansible_collections.mailwright.server.plugins.module_utils.dns.names import MAX_NAME
from ansible_collections.mailwright.server.plugins.module_utils.reports import addresses
from ansible_collections.mailwright.server.plugins.module_utils.sending import keys, warmup

from .errors import UNREADABLE, ModelError, Problems, Unreadable, key_shown, kind, shown
from .repository import (
    parse_calendar,
    parse_count,
    parse_credential,
    parse_host_key,
    parse_private_key,
    parse_repository,
    parse_repository_password,
)
from .schema import check_variables
from .values import (
    join_address,
    parse_bimi_url,
    parse_choice,
    parse_domain,
    parse_email,
    parse_foreign_local_part,
    parse_hostname,
    parse_ip,
    parse_key_name,
    parse_key_secret,
    parse_local_part,
    parse_mailbox_name,
    parse_password,
    parse_password_hash,
    parse_relay,
    parse_resolver,
    parse_size,
    parse_text,
    parse_url,
    parse_zone,
)

DERIVED_NAMES = ("abuse", "postmaster")  # RFC 2142: they must exist in every domain
LONGEST_CYCLE_SHOWN = 6
CHALLENGES = ("http-01", "dns-01")  # RFC 8555 sections 8.3 and 8.4
KEY_TYPES = ("rsa", "ecdsa")
# of requests in a minute, of recipients in an hour
LARGEST_RATE = 1_000_000_000
TSIG_ALGORITHMS = ("hmac-sha256", "hmac-sha384", "hmac-sha512")

T = TypeVar("T")
MtaSts = Literal["none", "testing", "enforce"]
Dmarc = Literal["none", "quarantine", "reject"]


class Addresses(TypedDict):
    ipv4: list[str]
    ipv6: list[str]


class AcmeDns(TypedDict):
    server: str
    key_name: str
    key_secret: str
    key_algorithm: str


class Acme(TypedDict):
    directory: str
    email: str
    challenge: str
    key_type: str
    ca_file: str | None
    caa: str | None
    dns: AcmeDns | None


class Tls(TypedDict):
    """``names`` are those that the certificate is for, the host's first; ``dane``: TLSA records are wanted."""

    mode: Literal["self_signed", "files", "acme"]
    dane: bool
    names: list[str]
    certificate_file: str | None
    key_file: str | None
    acme: Acme | None


class Dns(TypedDict):
    providers: dict[str, dict[str, Any]]
    zones: dict[str, str]
    delegation: str | None
    ledger: str | None
    resolvers: list[str]
    parked_domains: list[str]


class Bimi(TypedDict):
    logo_url: str
    authority_url: str | None


class Sftp(TypedDict):
    private_key: str
    host_key: str


class Backup(TypedDict):
    """``credentials`` are restic's environment variables."""

    repository: str
    password: str
    schedule: str
    keep: dict[str, int]
    check_schedule: str
    check_percent: int
    alert_after_hours: int
    ca_file: str | None
    sftp: Sftp | None
    credentials: dict[str, str]


class Blocklists(TypedDict):
    addresses: list[str]
    domains: list[str]


class ApiTenantKey(TypedDict):
    name: str
    scopes: list[str]
    key: str
    requests_per_minute: int | None
    recipients_per_hour: int | None


class ApiKey(ApiTenantKey):
    domain: str


class ApiLimit(TypedDict):
    domain: str
    requests_per_minute: int | None
    recipients_per_hour: int | None


class Warmup(TypedDict):
    schedule: list[int]
    relay: str


class ApiTenant(TypedDict):
    name: str
    domains: list[str]
    keys: list[ApiTenantKey]


class ApiOperatorKey(TypedDict):
    name: str
    scopes: list[str]
    key: str


class Api(TypedDict):
    keys: list[ApiKey]
    limits: list[ApiLimit]
    tenants: list[ApiTenant]
    operator_keys: list[ApiOperatorKey]
    warmup: Warmup | None


class Domain(TypedDict):
    name: str
    enabled: bool
    delegated: bool
    mta_sts: MtaSts
    dmarc: Dmarc
    bimi: Bimi | None


class Mailbox(TypedDict):
    address: str
    domain: str
    local_part: str
    display_name: str
    password: str | None
    password_hash: str | None
    quota_bytes: int
    enabled: bool


class Alias(TypedDict):
    address: str
    destination: str


class Sender(TypedDict):
    address: str
    login: str


class Model(TypedDict):
    """What the roles read as ``mail_model``; all lists are sorted and free of duplicates."""

    hostname: str
    admin: str
    addresses: Addresses
    features: dict[str, bool]
    tls: Tls
    dns: Dns
    api: Api | None
    reports_from: str
    backup: Backup | None
    blocklists: Blocklists | None
    domains: list[Domain]
    mailboxes: list[Mailbox]
    aliases: list[Alias]
    senders: list[Sender]


class Built(NamedTuple):
    model: Model
    warnings: list[str]


class _Reference(NamedTuple):
    """An address that somebody names, and where."""

    path: str
    local_part: str
    domain: str

    @property
    def address(self) -> str:
        return f"{self.local_part}@{self.domain}"


def build_model(
    variables: Mapping[str, object],
    *,
    ignore: Iterable[str] = (),
    default_addresses: Iterable[object] = (),
    earlier_errors: Iterable[str] = (),
) -> Built:
    """Check everything and return the model with its warnings.

    ``variables`` maps names to plain Python values; only names that begin with ``mail_`` are looked at, and those in
    ``ignore`` are not. ``default_addresses`` are used when ``mail_addresses`` is not set; empty ones, and those
    that cannot be reached from outside, are dropped. ``earlier_errors`` were found while the values were read (which
    are ``UNREADABLE`` then) and are reported with the others.

    Raises ``ModelError`` with all mistakes at once, and nothing else, whatever the values are.
    """
    problems = Problems(earlier_errors)
    builder = _Builder(problems)
    model = builder.build(check_variables(variables, frozenset(ignore), problems), default_addresses)
    if problems.errors:
        raise ModelError(problems.errors)
    return Built(model, problems.warnings)


def tls_names(hostname: str, domains: Iterable[Domain], features: Mapping[str, bool]) -> list[str]:
    """The names that the host answers to by TLS: its own first, then those below the enabled domains, sorted."""
    names = set()
    for domain in domains:
        if domain["enabled"]:
            services = ["autoconfig", "autodiscover"] if features["autoconfig"] else []
            services += ["mta-sts"] if domain["mta_sts"] != "none" else []
            names |= {f"{service}.{domain['name']}" for service in services}
    return [hostname, *sorted(names - {hostname})]


def _zone_of(name: str, zones: Iterable[str]) -> str | None:
    """The longest of the zones that holds the name."""
    return max((zone for zone in zones if f".{name}".endswith(f".{zone}")), key=len, default=None)


class _Builder:
    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self.domains: dict[str, Domain] = {}
        self.domain_paths: dict[str, str] = {}
        self.mailboxes: dict[str, Mailbox] = {}
        self.owners: dict[str, str] = {}  # every address that is defined, and where
        self.aliases: dict[str, list[_Reference]] = {}  # with catch-alls, as @domain
        self.send_as: list[tuple[_Reference, str]] = []
        self.missing: set[str] = set()  # where an address is named that does not exist
        # what could not be read may be what others refer to: nothing is then said to be missing
        self.unsure: set[str] = set()
        self.unsure_domains = False

    def attempt(self, path: str, parse: Callable[[Any], T], value: object) -> T | None:
        """The parsed value, or ``None`` when it is wrong, which is noted, or missing."""
        if value is None or isinstance(value, Unreadable):
            return None
        try:
            return parse(value)
        except ValueError as error:
            self.problems.error(path, str(error))
            return None

    def build(self, values: dict[str, Any], default_addresses: Iterable[object]) -> Model:
        hostname = self.attempt("mail_hostname", parse_hostname, values["mail_hostname"]) or ""
        features = {name: value is True for name, value in values["mail_features"].items()}
        if features["prometheus"] and not features["metrics"]:
            self.problems.error("mail_features.prometheus", "true needs mail_features.metrics: true, which it reads")
        quota = self.attempt("mail_quota", parse_size, values["mail_quota"])
        # hosted names first: what a domain's mailboxes and aliases refer to depends on all of them
        named = [(path, entry, self.domain(path, entry)) for path, entry in values["domains"]]
        for path, entry, domain in named:
            if entry is not None:
                self.contents(path, entry, domain, quota if quota is not None else 0)
        admin = self.admin(values["mail_admin"])
        self.derive(admin)
        self.check_references()
        self.check_cycles()
        if not values["domains"] and not self.unsure_domains:
            self.problems.warn("mail_domains", "no domain is hosted here")
        return {
            "hostname": hostname,
            "admin": admin.address if admin else "",
            "addresses": self.addresses(values["mail_addresses"], default_addresses),
            "features": features,
            "tls": self.tls(values["mail_tls"], hostname, admin.address if admin else "", features),
            "dns": self.dns(values["mail_dns"], hostname),
            "api": None if values["mail_api"] is None else self.api(values["mail_api"]),
            "reports_from": self.reports_from(admin),
            "backup": None if values["mail_backup"] is None else self.backup(values["mail_backup"]),
            "blocklists": None if values["mail_blocklists"] is None else self.blocklists(values["mail_blocklists"]),
            "domains": [self.domains[name] for name in sorted(self.domains)],
            "mailboxes": [self.mailboxes[address] for address in sorted(self.mailboxes)],
            "aliases": self.alias_rows(),
            "senders": self.sender_rows(),
        }

    def reports_from(self, admin: _Reference | None) -> str:
        """Whom reports to others come from: the administrator's domain if it is hosted here, else the first one."""
        enabled = [name for name in sorted(self.domains) if self.domains[name]["enabled"]]
        own = [admin.domain] if admin and admin.domain in enabled else enabled[:1]
        return addresses.address(own[0]) if own else ""

    def addresses(self, values: list[object] | None, defaults: Iterable[object]) -> Addresses:
        found = []
        if values is not None:
            for index, value in enumerate(values):
                found.append(self.attempt(f"mail_addresses[{index}]", parse_ip, value))
        else:
            for value in defaults:
                try:
                    found.append(parse_ip(value) if isinstance(value, str) else None)
                except ValueError:
                    continue  # facts list addresses of every kind
        unique = sorted({address for address in found if address is not None}, key=lambda address: address.packed)
        return {
            "ipv4": [str(address) for address in unique if address.version == 4],
            "ipv6": [str(address) for address in unique if address.version == 6],
        }

    def tls(self, values: dict[str, Any], hostname: str, admin: str, features: Mapping[str, bool]) -> Tls:
        files: dict[str, str | None] = {}
        for key in ("certificate_file", "key_file"):
            files[key] = self.attempt(f"mail_tls.{key}", parse_text, values.get(key)) or None
        certificate, key_file = files["certificate_file"], files["key_file"]
        given = [key for key in files if values.get(key)]
        if len(given) == 1:
            (missing,) = set(files) - set(given)
            self.problems.error(f"mail_tls.{missing}", f"is missing: give it beside {given[0]}, or neither of them")
        acme = None if values["acme"] is None else self.acme(values["acme"], admin)
        if acme is not None and given:
            self.problems.error("mail_tls.acme", f"is given beside {given[0]}: give only one of them")
        mode: Literal["self_signed", "files", "acme"] = "self_signed"
        if acme is not None:
            mode = "acme"
        elif certificate and key_file:
            mode = "files"
        return {
            "mode": mode,
            "dane": values["dane"] is True,
            "names": tls_names(hostname, self.domains.values(), features),
            "certificate_file": certificate,
            "key_file": key_file,
            "acme": acme,
        }

    def acme(self, values: dict[str, Any], admin: str) -> Acme:
        path = "mail_tls.acme"
        challenge = self.attempt(f"{path}.challenge", partial(parse_choice, CHALLENGES), values["challenge"])
        if challenge == "dns-01" and values["dns"] is None:
            self.problems.error(f"{path}.dns", "is missing: dns-01 needs a DNS server that takes updates")
        if challenge == "http-01" and values["dns"] is not None:
            self.problems.error(f"{path}.dns", "is not used with http-01: remove it, or write challenge: dns-01")
        return {
            "directory": self.attempt(f"{path}.directory", parse_url, values["directory"]) or "",
            "email": self.attempt(f"{path}.email", parse_email, values["email"]) or admin,
            "challenge": challenge or "",
            "key_type": self.attempt(f"{path}.key_type", partial(parse_choice, KEY_TYPES), values["key_type"]) or "",
            "ca_file": self.attempt(f"{path}.ca_file", parse_text, values["ca_file"]) or None,
            "caa": self.attempt(f"{path}.caa", partial(parse_domain, what="the name of an issuer"), values["caa"]),
            "dns": None if values["dns"] is None else self.acme_dns(f"{path}.dns", values["dns"]),
        }

    def acme_dns(self, path: str, values: dict[str, Any]) -> AcmeDns:
        server = self.attempt(f"{path}.server", parse_ip, values["server"])
        algorithm = partial(parse_choice, TSIG_ALGORITHMS)
        return {
            "server": str(server) if server else "",
            "key_name": self.attempt(f"{path}.key_name", parse_key_name, values["key_name"]) or "",
            "key_secret": self.attempt(f"{path}.key_secret", parse_key_secret, values["key_secret"]) or "",
            "key_algorithm": self.attempt(f"{path}.key_algorithm", algorithm, values["key_algorithm"]) or "",
        }

    def dns(self, values: dict[str, Any], hostname: str) -> Dns:
        providers: dict[str, dict[str, Any]] = {}
        for name, settings in self.mapping("mail_dns.providers", values["providers"]).items():
            path = f"mail_dns.providers.{key_shown(name)}"
            if isinstance(settings, dict) and isinstance(settings.get("type"), str) and isinstance(name, str):
                providers[name] = settings
            elif not isinstance(settings, Unreadable):
                self.problems.error(path, "is not a provider: write a mapping with its type and the type's settings")
        zones: dict[str, str] = {}
        for zone, provider in self.mapping("mail_dns.zones", values["zones"]).items():
            path = f"mail_dns.zones.{key_shown(zone)}"
            name = self.attempt(path, lambda text: parse_zone(str(text)), zone)
            if not isinstance(provider, str) or provider not in providers:
                if not isinstance(provider, Unreadable):
                    known = ", ".join(sorted(providers)) or "none is defined"
                    self.problems.error(path, f"{shown(provider)} is not one of mail_dns.providers: {known}")
            elif name is not None:
                zones[name] = provider
        resolvers = [self.attempt(f"mail_dns.resolvers[{index}]", parse_resolver, value)
                     for index, value in enumerate(values["resolvers"])]  # fmt: skip
        return {
            "providers": providers,
            "zones": zones,
            "delegation": self.delegation(values["delegation"], zones),
            "ledger": self.attempt("mail_dns.ledger", parse_text, values["ledger"]) or None,
            "resolvers": [resolver for resolver in resolvers if resolver is not None],
            "parked_domains": self.parked_domains(values["parked_domains"], hostname),
        }

    def delegation(self, value: object, zones: dict[str, str]) -> str | None:
        """The name to which owners of zones elsewhere lead records, which must be one that we can write at."""
        path = "mail_dns.delegation"
        name = None if value is None else self.attempt(path, lambda text: parse_zone(str(text)), value)
        if name is not None and _zone_of(name, zones) is None:
            self.problems.error(path, f"{shown(name)} lies in none of mail_dns.zones: write a name that does")
        for domain in [domain["name"] for domain in self.domains.values() if domain["delegated"]]:
            path, zone = f"{self.domain_paths[domain]}.delegated", _zone_of(domain, zones)
            longest = f"{numbered_selector(domain, 9999, 'rsa')}._domainkey.{domain}.{name}"
            if value is None:
                self.problems.error(path, "needs mail_dns.delegation: write there where the owner's CNAMEs lead to")
            elif zone is not None:
                self.problems.error(path, f"{domain} lies in {zone} of mail_dns.zones, which is written: remove one")
            elif name is not None and len(longest) > MAX_NAME:
                self.problems.error(
                    path, f"{domain} is too long to lie below {name}: write a shorter mail_dns.delegation"
                )
        return name

    def api(self, values: dict[str, Any]) -> Api:
        ids: dict[str, str] = {}
        return {
            "keys": self.api_keys(values["keys"], ids),
            "limits": self.api_limits(values["limits"]),
            "tenants": self.api_tenants(values["tenants"], ids),
            "operator_keys": self.api_operator_keys(values["operator_keys"], ids),
            "warmup": None if values["warmup"] is None else self.warmup(values["warmup"]),
        }

    def warmup(self, values: dict[str, Any]) -> Warmup:
        schedule = self.attempt("mail_api.warmup.schedule", warmup.check_schedule, values["schedule"])
        relay = self.attempt("mail_api.warmup.relay", parse_relay, values["relay"])
        return {"schedule": list(schedule or ()), "relay": relay or ""}

    def api_limits(self, entries: list[tuple[str, dict[str, Any] | None]]) -> list[ApiLimit]:
        found: dict[str, ApiLimit] = {}
        for path, entry in entries:
            if entry is None:
                continue
            domain = self.attempt(f"{path}.domain", parse_domain, entry["domain"])
            if domain is not None and domain not in self.domains and not self.unsure_domains:
                self.problems.error(f"{path}.domain", f"{shown(domain)} is not hosted here: write a domain that is")
            if domain in found:
                self.problems.error(f"{path}.domain", f"{shown(domain)} has limits already: write all in one entry")
            if domain is not None:
                requests, recipients = self.rates(path, entry)
                found[domain] = {
                    "domain": domain, "requests_per_minute": requests, "recipients_per_hour": recipients
                }  # fmt: skip
        return [found[domain] for domain in sorted(found)]

    def rates(self, path: str, entry: dict[str, Any]) -> tuple[int | None, int | None]:
        """Requests in a minute and recipients in an hour, where they are limited."""
        check = partial(parse_count, 1, LARGEST_RATE)
        return (
            self.attempt(f"{path}.requests_per_minute", check, entry["requests_per_minute"]),
            self.attempt(f"{path}.recipients_per_hour", check, entry["recipients_per_hour"]),
        )

    def api_keys(self, entries: list[tuple[str, dict[str, Any] | None]], ids: dict[str, str]) -> list[ApiKey]:
        found: dict[tuple[str, str], ApiKey] = {}
        for path, entry in entries:
            if entry is None:
                continue
            domain = self.attempt(f"{path}.domain", parse_domain, entry["domain"])
            if domain is not None and domain not in self.domains and not self.unsure_domains:
                self.problems.error(f"{path}.domain", f"{shown(domain)} is not hosted here: write a domain that is")
            key = self.api_key(path, entry, ids)
            if domain is None or key is None:
                continue
            name = key["name"]
            if (domain, name) in found:
                self.problems.error(f"{path}.name", f"{shown(name)} is already a key of {domain}: write another name")
            found[domain, name] = {"domain": domain, **key}
        return [found[where] for where in sorted(found)]

    def api_key(
        self, path: str, entry: dict[str, Any], ids: dict[str, str], known: Sequence[str] = keys.SCOPES
    ) -> ApiTenantKey | None:
        """What keys of domains and of tenants have in common."""
        key = self.api_operator_key(path, entry, ids, known)
        requests, recipients = self.rates(path, entry)
        return None if key is None else {**key, "requests_per_minute": requests, "recipients_per_hour": recipients}

    def api_operator_key(
        self, path: str, entry: dict[str, Any], ids: dict[str, str], known: Sequence[str] = keys.OPERATOR_SCOPES
    ) -> ApiOperatorKey | None:
        """What all keys have in common; ids has the places of all keys' ids."""
        name = self.attempt(f"{path}.name", keys.check_name, entry["name"])
        scopes = None
        if not any(isinstance(scope, Unreadable) for scope in entry["scopes"]):
            scopes = self.attempt(f"{path}.scopes", partial(keys.check_scopes, known=known), entry["scopes"])
        key = self.attempt(f"{path}.key", keys.parse, entry["key"])
        if key is not None and ids.setdefault(key.id, path) != path:
            self.problems.error(f"{path}.key", f"begins as the one at {ids[key.id]} does: make another one")
        if name is None or scopes is None or key is None:
            return None
        return {"name": name, "scopes": scopes, "key": key.text}

    def api_operator_keys(
        self, entries: list[tuple[str, dict[str, Any] | None]], ids: dict[str, str]
    ) -> list[ApiOperatorKey]:
        found: dict[str, ApiOperatorKey] = {}
        for path, entry in entries:
            key = None if entry is None else self.api_operator_key(path, entry, ids)
            if key is None:
                continue
            if key["name"] in found:
                self.problems.error(
                    f"{path}.name", f"{shown(key['name'])} is an operator's key already: write another name"
                )
            found[key["name"]] = key
        return [found[name] for name in sorted(found)]

    def api_tenants(self, entries: list[tuple[str, dict[str, Any] | None]], ids: dict[str, str]) -> list[ApiTenant]:
        found: dict[str, ApiTenant] = {}
        places: dict[str, str] = {}
        for path, entry in entries:
            if entry is None:
                continue
            name = self.attempt(f"{path}.name", keys.check_name, entry["name"])
            domains = self.tenant_domains(path, entry["domains"], places)
            own: dict[str, ApiTenantKey] = {}
            for key_path, key_entry in entry["keys"]:
                key = None if key_entry is None else self.api_key(key_path, key_entry, ids, keys.TENANT_SCOPES)
                if key is None:
                    continue
                if key["name"] in own:
                    self.problems.error(
                        f"{key_path}.name", f"{shown(key['name'])} is already a key of this tenant: write another name"
                    )
                own[key["name"]] = key
            if name is None:
                continue
            if name in found:
                self.problems.error(f"{path}.name", f"{shown(name)} is a tenant already: write all in one entry")
            found[name] = {"name": name, "domains": domains, "keys": [own[key] for key in sorted(own)]}
        return [found[name] for name in sorted(found)]

    def tenant_domains(self, path: str, values: list[object], places: dict[str, str]) -> list[str]:
        """A tenant's domains; places has those of all tenants."""
        found = []
        for index, value in enumerate(values):
            place = f"{path}.domains[{index}]"
            domain = self.attempt(place, parse_domain, value)
            if domain is None:
                continue
            if domain not in self.domains and not self.unsure_domains:
                self.problems.error(place, f"{shown(domain)} is not hosted here: write a domain that is")
            if places.setdefault(domain, place) != place:
                self.problems.error(place, f"{shown(domain)} is a tenant's already, at {places[domain]}: remove one")
                continue
            found.append(domain)
        return sorted(found)

    def parked_domains(self, values: list[object], hostname: str) -> list[str]:
        """Names that have no mail; one that has some is a mistake."""
        found: dict[str, None] = {}
        for index, value in enumerate(values):
            path = f"mail_dns.parked_domains[{index}]"
            name = self.attempt(path, parse_domain, value)
            if name is None:
                continue
            if name in self.domains:
                self.problems.error(path, f"{shown(name)} is a mail domain, at {self.domain_paths[name]}: remove one")
            elif name == hostname:
                self.problems.error(path, f"{shown(name)} is mail_hostname, which sends mail: remove it here")
            found[name] = None
        return sorted(found)

    def blocklists(self, values: dict[str, Any]) -> Blocklists:
        return {
            "addresses": self.zone_names("mail_blocklists.addresses", values["addresses"]),
            "domains": self.zone_names("mail_blocklists.domains", values["domains"]),
        }

    def zone_names(self, path: str, values: list[object]) -> list[str]:
        found = [self.attempt(f"{path}[{index}]", parse_domain, value) for index, value in enumerate(values)]
        return sorted({name for name in found if name is not None})

    def backup(self, values: dict[str, Any]) -> Backup:
        path = "mail_backup"
        found = self.attempt(f"{path}.repository", parse_repository, values["repository"])
        kind = found.kind if found else ""
        for name in ("sftp", "s3", "rest"):
            if kind == name and values[name] is None:
                self.problems.error(f"{path}.{name}", "is missing: it says how to log in at the repository")
            if kind not in ("", name) and values[name] is not None:
                self.problems.error(f"{path}.{name}", f"is not used with a repository of the kind {kind}: remove it")
        if kind in ("directory", "sftp") and values["ca_file"] is not None:
            self.problems.error(f"{path}.ca_file", "is not used with this repository, which has no HTTPS: remove it")
        keep, check = values["keep"], values["check"]
        schedule = self.attempt(f"{path}.schedule", parse_calendar, values["schedule"])
        check_schedule = self.attempt(f"{path}.check.schedule", parse_calendar, check["schedule"])
        return {
            "repository": found.location if found else "",
            "password": self.attempt(f"{path}.password", parse_repository_password, values["password"]) or "",
            "schedule": schedule or "",
            "keep": {
                name: self.attempt(f"{path}.keep.{name}", partial(parse_count, 0, 1000), count) or 0
                for name, count in keep.items()
            },
            "check_schedule": check_schedule or "",
            "check_percent": self.attempt(f"{path}.check.percent", partial(parse_count, 0, 100), check["percent"]) or 0,
            "alert_after_hours": self.attempt(
                f"{path}.alert_after_hours", partial(parse_count, 1, 8760), values["alert_after_hours"]
            )
            or 0,
            "ca_file": self.attempt(f"{path}.ca_file", parse_text, values["ca_file"]) or None,
            "sftp": self.sftp(f"{path}.sftp", values["sftp"]) if values["sftp"] and kind == "sftp" else None,
            "credentials": self.credentials(path, values, kind),
        }

    def sftp(self, path: str, values: dict[str, Any]) -> Sftp:
        return {
            "private_key": self.attempt(f"{path}.private_key", parse_private_key, values["private_key"]) or "",
            "host_key": self.attempt(f"{path}.host_key", parse_host_key, values["host_key"]) or "",
        }

    def credentials(self, path: str, values: dict[str, Any], kind: str) -> dict[str, str]:
        """The environment by which restic logs in."""
        names = {
            "s3": {
                "access_key": "AWS_ACCESS_KEY_ID",
                "secret_key": "AWS_SECRET_ACCESS_KEY",
                "region": "AWS_DEFAULT_REGION",
            },
            "rest": {"user": "RESTIC_REST_USERNAME", "password": "RESTIC_REST_PASSWORD"},
        }.get(kind, {})
        given = values[kind] if names and values[kind] else {}
        found = {
            variable: self.attempt(f"{path}.{kind}.{key}", parse_credential, given.get(key))
            for key, variable in names.items()
        }
        return {variable: value for variable, value in found.items() if value}

    def mapping(self, path: str, value: object) -> dict[Any, Any]:
        """The value itself, or an empty mapping when it is none, which is noted."""
        if isinstance(value, dict):
            return value
        if not isinstance(value, Unreadable):
            self.problems.error(path, f"is {kind(value)}: write a mapping")
        return {}

    def domain(self, path: str, entry: dict[str, Any] | None) -> str:
        """The domain's name, or nothing when it cannot be read; its contents are checked all the same."""
        name = None if entry is None else self.attempt(f"{path}.name", parse_domain, entry["name"])
        if entry is None or name is None:
            self.unsure_domains = True
            return ""
        if name in self.domains:
            self.problems.error(f"{path}.name", f"{shown(name)} is already defined at {self.domain_paths[name]}")
            return name
        self.domains[name] = {
            "name": name,
            "enabled": entry["enabled"] is True,
            "delegated": entry["delegated"] is True,
            "mta_sts": "none" if isinstance(entry["mta_sts"], Unreadable) else entry["mta_sts"],
            "dmarc": "quarantine" if isinstance(entry["dmarc"], Unreadable) else entry["dmarc"],
            "bimi": None if entry["bimi"] is None else self.bimi(f"{path}.bimi", entry),
        }
        self.domain_paths[name] = path
        return name

    def bimi(self, path: str, entry: dict[str, Any]) -> Bimi:
        values = entry["bimi"]
        if entry["dmarc"] == "none":
            self.problems.error(path, "is not used with dmarc: none: remove it, or write dmarc: quarantine or reject")
        return {
            "logo_url": self.attempt(f"{path}.logo_url", parse_bimi_url, values["logo_url"]) or "",
            "authority_url": self.attempt(f"{path}.authority_url", parse_bimi_url, values["authority_url"]) or None,
        }

    def contents(self, path: str, entry: dict[str, Any], domain: str, quota: int) -> None:
        own = self.attempt(f"{path}.quota", parse_size, entry["quota"])
        for where, mailbox in entry["mailboxes"]:
            if mailbox is None:
                self.unsure.add(domain)
            else:
                self.mailbox(where, mailbox, domain, quota if own is None else own)
        for where, alias in entry["aliases"]:
            if alias is None:
                self.unsure.add(domain)
            else:
                self.alias(where, alias, domain)
        catch_all = self.references(f"{path}.catch_all", entry["catch_all"], domain)
        if catch_all and domain:
            self.aliases.setdefault(f"@{domain}", []).extend(catch_all)

    def alias(self, path: str, entry: dict[str, Any], domain: str) -> None:
        address = self.own_address(f"{path}.name", entry["name"], domain, parse_local_part)
        if not entry["to"]:
            self.problems.error(f"{path}.to", "has no destination: write at least one address")
        references = self.references(f"{path}.to", entry["to"], domain)
        if address is not None and self.claim(path, address):
            self.aliases[address] = references

    def mailbox(self, path: str, entry: dict[str, Any], domain: str, quota: int) -> None:
        own_quota = self.attempt(f"{path}.quota", parse_size, entry["quota"])
        display_name = self.attempt(f"{path}.display_name", parse_text, entry["display_name"])
        password = self.attempt(f"{path}.password", parse_password, entry["password"])
        password_hash = self.attempt(f"{path}.password_hash", parse_password_hash, entry["password_hash"])
        given = [key for key in ("password", "password_hash") if entry[key] is not None]
        if len(given) != 1:
            text = "has a password and a password_hash" if given else "has neither a password nor a password_hash"
            self.problems.error(path, f"{text}: give exactly one of them")
        address = self.own_address(f"{path}.name", entry["name"], domain, parse_mailbox_name)
        if address is None or not self.claim(path, address):
            return
        self.mailboxes[address] = {
            "address": address,
            "domain": domain,
            "local_part": address.partition("@")[0],
            "display_name": display_name or "",
            "password": password,
            "password_hash": password_hash,
            "quota_bytes": quota if own_quota is None else own_quota,
            "enabled": entry["enabled"] is True,
        }
        for reference in self.references(f"{path}.send_as", entry["send_as"], domain):
            self.send_as.append((reference, address))

    def own_address(self, path: str, value: object, domain: str, parse: Callable[[str], str]) -> str | None:
        """The address that a name in this domain's lists means; a full address must be in this domain."""

        def parse_name(text: str) -> str | None:
            local_part, at, host = text.rpartition("@")
            name = parse(local_part if at else text)
            if at and domain and parse_domain(host) != domain:
                raise ValueError(f"{shown(text)} is not in the domain {domain}: write its local part alone")
            return join_address(name, domain) if domain else None

        address = self.attempt(path, parse_name, value)
        if address is None:
            self.unsure.add(domain)
        return address

    def claim(self, path: str, address: str) -> bool:
        """Note that the address is defined here; twice is a mistake."""
        if address not in self.owners:
            self.owners[address] = path
            return True
        what = "a mailbox" if address in self.mailboxes else "an alias"
        first = self.owners[address]
        self.problems.error(f"{path}.name", f"{shown(address)} is already {what}, at {first}: remove one of them")
        return False

    def references(self, path: str, values: list[object], domain: str) -> list[_Reference]:
        found: list[_Reference] = []
        for index, value in enumerate(values):
            where = f"{path}[{index}]"
            reference = self.attempt(where, partial(self.reference, where, domain), value)
            if reference is not None:
                found.append(reference)
        return found

    def reference(self, path: str, domain: str, text: str) -> _Reference:
        """``bob``, ``bob@acme.test`` or ``someone@elsewhere.example``; raises ``ValueError``."""
        local_part, at, host = text.rpartition("@")
        if not at:
            local_part, host = text, domain
        else:
            host = parse_domain(host, "the domain of an address")
        parse = parse_local_part if host in self.domains else parse_foreign_local_part
        local_part = parse(local_part)
        join_address(local_part, host)
        return _Reference(path, local_part, host)

    def admin(self, value: object) -> _Reference | None:
        def parse(text: str) -> _Reference:
            if "@" not in text:
                raise ValueError(f"{shown(text)} is not an address: write a full one, such as hostmaster@example.org")
            return self.reference("mail_admin", "", text)

        return self.attempt("mail_admin", parse, value)

    def derive(self, admin: _Reference | None) -> None:
        """Give postmaster and abuse to the administrator, and reports to the intake, where the domain does not
        define them."""
        mailbox = addresses.MAILBOX.partition("@")
        for name, domain in self.domains.items():
            address = addresses.address(name)
            if domain["enabled"] and address not in self.owners and not (admin and address == admin.address):
                self.owners[address] = "reports"
                self.aliases[address] = [_Reference("reports", mailbox[0], mailbox[2])]
        if admin is None:
            return
        if admin.domain in self.domains:
            self.check_reference(admin)
            if admin.path in self.missing:
                self.unsure.add(admin.domain)
        for name, domain in self.domains.items():
            for local_part in DERIVED_NAMES:
                address = f"{local_part}@{name}"
                if domain["enabled"] and address not in self.owners and address != admin.address:
                    self.owners[address] = "mail_admin"
                    self.aliases[address] = [admin]

    def resolve(self, reference: _Reference) -> str | None:
        """The mailbox, alias or catch-all that takes the mail, in Postfix's order: whole, without +detail, @domain."""
        address = reference.address
        if address in self.owners:
            return address
        base = f"{reference.local_part.partition('+')[0]}@{reference.domain}"
        if base in self.owners:
            return base
        return f"@{reference.domain}" if f"@{reference.domain}" in self.aliases else None

    def delivers(self, mailbox: Mailbox) -> bool:
        return mailbox["enabled"] and self.domains[mailbox["domain"]]["enabled"]

    def check_references(self) -> None:
        for address, references in self.aliases.items():
            for reference in references:
                # mail_admin was checked by itself, not once for every domain
                if reference.domain in self.domains and reference.path != "mail_admin":
                    self.check_reference(reference, catch_all=address.startswith("@"))
        for reference, _login in self.send_as:
            if reference.domain not in self.domains:
                if not self.unsure_domains:
                    self.problems.error(
                        reference.path, f"{shown(reference.address)} is not of a domain hosted here: write one that is"
                    )
            elif not self.domains[reference.domain]["enabled"]:
                self.problems.warn(reference.path, f"{shown(reference.address)} is of a domain that is switched off")

    def check_reference(self, reference: _Reference, *, catch_all: bool = False) -> None:
        target = self.resolve(reference)
        enabled = self.domains[reference.domain]["enabled"]
        # a catch-all must lead to an address that exists: another catch-all would only hide a slip of the pen
        absent = target is None or (catch_all and target.startswith("@"))
        # where a domain is switched off, these are not derived: switching must not make a mistake
        if absent and (enabled or reference.local_part not in (*DERIVED_NAMES, addresses.LOCAL_PART)):
            self.missing.add(reference.path)
            if reference.domain not in self.unsure:
                self.problems.error(
                    reference.path,
                    f"{shown(reference.address)} does not exist in {self.domain_paths[reference.domain]}: "
                    "define it there as a mailbox or an alias",
                )
        elif not enabled:
            self.problems.warn(reference.path, f"{shown(reference.address)} is in a domain that is switched off")
        elif target is not None and target in self.mailboxes and not self.mailboxes[target]["enabled"]:
            self.problems.warn(reference.path, f"{shown(reference.address)} is a mailbox that is switched off")

    def check_cycles(self) -> None:
        """Report every way in which aliases lead back to themselves."""
        # depth first, but without recursion: chains may be long
        finished: set[str] = set()
        for start in self.aliases:
            if start in finished:
                continue
            trail = [start]
            position = {start: 0}
            pending = [iter(self.aliases[start])]
            while pending:
                reference = next(pending[-1], None)
                if reference is not None and reference.path in self.missing:
                    continue
                if reference is None:
                    pending.pop()
                    done = trail.pop()
                    del position[done]
                    finished.add(done)
                    continue
                target = self.resolve(reference) if reference.domain in self.domains else None
                if target is None or target not in self.aliases or target in finished:
                    continue
                if target in position:
                    self.report_cycle(reference, [*trail[position[target] :], target])
                    continue
                position[target] = len(trail)
                trail.append(target)
                pending.append(iter(self.aliases[target]))

    def report_cycle(self, reference: _Reference, trail: list[str]) -> None:
        if len(trail) > LONGEST_CYCLE_SHOWN:
            trail = [*trail[: LONGEST_CYCLE_SHOWN - 2], f"({len(trail) - LONGEST_CYCLE_SHOWN + 1} more)", trail[-1]]
        way = " -> ".join(trail)
        self.problems.error(reference.path, f"the aliases go round in a circle, {way}: take one of them out")

    def alias_rows(self) -> list[Alias]:
        rows = {(address, to.address) for address, references in self.aliases.items() for to in references}
        return [{"address": address, "destination": destination} for address, destination in sorted(rows)]

    def sender_rows(self) -> list[Sender]:
        """Who may send as what: the own address, ``send_as``, and the aliases that deliver to the mailbox directly."""
        logins = {address for address, mailbox in self.mailboxes.items() if self.delivers(mailbox)}
        rows = {(address, address) for address in logins}
        for reference, login in self.send_as:
            domain = self.domains.get(reference.domain)
            if login in logins and domain is not None and domain["enabled"]:
                rows.add((reference.address, login))
        for address, references in self.aliases.items():
            domain_name = address.partition("@")[2]
            if address.startswith("@") or not self.domains[domain_name]["enabled"]:
                continue
            for reference in references:
                target = self.resolve(reference) if reference.domain in self.domains else None
                if target in logins:
                    rows.add((address, target))
        return [{"address": address, "login": login} for address, login in sorted(rows)]


__all__ = ["UNREADABLE", "Built", "Model", "ModelError", "build_model"]
