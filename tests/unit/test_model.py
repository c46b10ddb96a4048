# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The model: what is accepted, what it becomes, and every mistake with its path."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.model import values
from ansible_collections.mailwright.server.plugins.module_utils.model.build import Built, build_model
from ansible_collections.mailwright.server.plugins.module_utils.model.errors import UNREADABLE, ModelError
from ansible_collections.mailwright.server.plugins.module_utils.model.spec import OPTIONS
from ansible_collections.mailwright.server.plugins.module_utils.sending.warmup import SCHEDULE

SHA512 = "$6$saltsalt$" + "a" * 86
ACME_DNS = {"server": "198.51.100.2", "key_name": "acme", "key_secret": "c2l4dGVlbiBieXRlcyBvciBtb3Jl"}
BCRYPT = "$2y$05$" + "b" * 53
NO_SIZE = "'5X' is not a size: write a number with K, M, G or T, such as 2G, or 0 for unlimited"
CIRCLE = "x@acme.test -> y@acme.test -> z@acme.test -> x@acme.test"
ARGON2ID = "$argon2id$v=19$m=65536,t=3,p=1$c2FsdHNhbHQ$" + "c" * 43


def inventory(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "mail_hostname": "mx1.acme.test",
        "mail_admin": "hostmaster@acme.test",
        "mail_domains": [
            {
                "name": "acme.test",
                "mailboxes": [
                    {"name": "alice", "password": "one"},
                    {"name": "bob", "password": "two"},
                ],
                "aliases": [{"name": "hostmaster", "to": ["alice"]}],
            }
        ],
    }
    base.update(changes)
    return base


def with_mailbox(**keys: Any) -> dict[str, Any]:
    """The inventory with one more mailbox, at mail_domains[0].mailboxes[2]."""
    made = inventory()
    made["mail_domains"][0]["mailboxes"].append({"name": "carol", "password": "three", **keys})
    return made


def with_aliases(*aliases: dict[str, Any], **domain: Any) -> dict[str, Any]:
    """The inventory with more aliases, from mail_domains[0].aliases[1] on."""
    made = inventory()
    made["mail_domains"][0]["aliases"].extend(aliases)
    made["mail_domains"][0].update(domain)
    return made


def errors_of(variables: dict[str, Any], **options: Any) -> list[str]:
    with pytest.raises(ModelError) as caught:
        build_model(variables, **options)
    return caught.value.errors


def only_error(variables: dict[str, Any], **options: Any) -> str:
    (error,) = errors_of(variables, **options)
    return error


def mailbox(built: Built, address: str) -> dict[str, Any]:
    (found,) = [dict(box) for box in built.model["mailboxes"] if box["address"] == address]
    return found


def destinations(built: Built, address: str) -> list[str]:
    return [row["destination"] for row in built.model["aliases"] if row["address"] == address]


def logins(built: Built, address: str) -> list[str]:
    return [row["login"] for row in built.model["senders"] if row["address"] == address]


def test_whole_model() -> None:
    built = build_model(
        inventory(
            mail_addresses=["2001:DB8:0::10", "198.51.100.10"],
            mail_features={"clamav": False},
            mail_tls={"certificate_file": "tls/cert.pem", "key_file": "tls/key.pem"},
            mail_dns={
                "providers": {"own": {"type": "rfc2136", "port": 53}},
                "zones": {"Acme.test": "own", "_Domainkey.Globex.test": "own"},
            },
        )
    )
    assert built.warnings == []
    assert built.model == {
        "hostname": "mx1.acme.test",
        "admin": "hostmaster@acme.test",
        "addresses": {"ipv4": ["198.51.100.10"], "ipv6": ["2001:db8::10"]},
        "features": {
            "clamav": False,
            "webmail": True,
            "pop3": True,
            "prometheus": False,
            "fulltext": True,
            "autoconfig": True,
            "metrics": False,
            "mta_sts_outbound": True,
            "dmarc_reports": True,
            "tls_reports": True,
            "mail_crypt": False,
        },
        "tls": {
            "mode": "files",
            "dane": False,
            "names": ["mx1.acme.test", "autoconfig.acme.test", "autodiscover.acme.test"],
            "certificate_file": "tls/cert.pem",
            "key_file": "tls/key.pem",
            "acme": None,
        },
        "dns": {
            "providers": {"own": {"type": "rfc2136", "port": 53}},
            "zones": {"acme.test": "own", "_domainkey.globex.test": "own"},
            "delegation": None,
            "ledger": None,
            "resolvers": [],
            "parked_domains": [],
        },
        "api": None,
        "backup": None,
        "blocklists": None,
        "reports_from": "mail-reports@acme.test",
        "domains": [
            {
                "name": "acme.test",
                "enabled": True,
                "delegated": False,
                "mta_sts": "none",
                "dmarc": "quarantine",
                "bimi": None,
            }
        ],
        "mailboxes": [
            {
                "address": f"{name}@acme.test",
                "domain": "acme.test",
                "local_part": name,
                "display_name": "",
                "password": password,
                "password_hash": None,
                "quota_bytes": 1024**3,
                "enabled": True,
            }
            for name, password in (("alice", "one"), ("bob", "two"))
        ],
        "aliases": [
            {"address": "abuse@acme.test", "destination": "hostmaster@acme.test"},
            {"address": "hostmaster@acme.test", "destination": "alice@acme.test"},
            {"address": "mail-reports@acme.test", "destination": "reports@mailwright.invalid"},
            {"address": "postmaster@acme.test", "destination": "hostmaster@acme.test"},
        ],
        "senders": [
            {"address": "alice@acme.test", "login": "alice@acme.test"},
            {"address": "bob@acme.test", "login": "bob@acme.test"},
            {"address": "hostmaster@acme.test", "login": "alice@acme.test"},
        ],
    }


API_KEY = {"name": "shop", "domain": "acme.test", "scopes": ["emails.write"], "key": f"mw_{'a' * 12}_{'b' * 48}"}


def test_the_sending_api() -> None:
    assert build_model(inventory()).model["api"] is None
    assert build_model(inventory(mail_api={})).model["api"] == {
        "keys": [], "limits": [], "tenants": [], "operator_keys": [], "warmup": None
    }  # fmt: skip
    other = {**API_KEY, "name": "crm", "domain": "Acme.Test", "key": f"mw_{'c' * 12}_{'b' * 48}"}
    scopes = ["emails.write", "emails.read", "emails.write"]
    api = build_model(inventory(mail_api={"keys": [API_KEY, {**other, "scopes": scopes}]})).model["api"]
    assert api is not None
    assert [(key["name"], key["domain"], key["scopes"]) for key in api["keys"]] == [
        ("crm", "acme.test", ["emails.read", "emails.write"]),
        ("shop", "acme.test", ["emails.write"]),
    ]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"key": "mw_s3cret"}, "mail_api.keys[0].key: is not a key: mw_, 12 hexadecimal digits, _, 48"),
        ({"key": None}, "mail_api.keys[0].key: is missing"),
        ({"domain": "globex.test"}, "mail_api.keys[0].domain: 'globex.test' is not hosted here"),
        ({"domain": "x"}, "mail_api.keys[0].domain: 'x' is a single label"),
        ({"scopes": []}, "mail_api.keys[0].scopes: there is no scope: write some of aliases.read"),
        ({"scopes": ["emails.*"]}, "mail_api.keys[0].scopes: 'emails.*' is not a scope: write some of"),
        ({"scopes": [1]}, "mail_api.keys[0].scopes[0]: is a number: write a string"),
        ({"name": "a/b"}, "mail_api.keys[0].name: 'a/b' is not a name"),
        ({"secret": "x"}, "mail_api.keys[0].secret: is not a key that is known here"),
        ({"requests_per_minute": 0}, "mail_api.keys[0].requests_per_minute: 0 is not a whole number from 1"),
        ({"recipients_per_hour": "9"}, "mail_api.keys[0].recipients_per_hour: '9' is not a whole number from 1"),
    ],
)
def test_keys_of_the_sending_api_are_checked(change: dict[str, Any], error: str) -> None:
    found = errors_of(inventory(mail_api={"keys": [{**API_KEY, **change}]}))
    assert len(found) == 1 and found[0].startswith(error), found
    assert "s3cret" not in found[0]


def test_limits_and_warm_up_of_the_sending_api() -> None:
    api = build_model(
        inventory(mail_api={"warmup": {}, "limits": [{"domain": "Acme.test", "recipients_per_hour": 100}]})
    ).model["api"]
    assert api is not None and api["warmup"] == {"schedule": list(SCHEDULE), "relay": ""}
    assert api["limits"] == [{"domain": "acme.test", "requests_per_minute": None, "recipients_per_hour": 100}]
    api = build_model(inventory(mail_api={"warmup": {"schedule": [5, 5], "relay": "[Relay.example.net]"}})).model["api"]
    assert api is not None and api["warmup"] == {"schedule": [5, 5], "relay": "[relay.example.net]:25"}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"limits": [{"domain": "globex.test"}]}, "mail_api.limits[0].domain: 'globex.test' is not hosted here"),
        ({"limits": [{}]}, "mail_api.limits[0].domain: is missing"),
        (
            {"limits": [{"domain": "acme.test"}, {"domain": "acme.test"}]},
            "mail_api.limits[1].domain: 'acme.test' has limits already",
        ),
        (
            {"limits": [{"domain": "acme.test", "requests_per_minute": 1.5}]},
            "mail_api.limits[0].requests_per_minute: 1.5 is not a whole number",
        ),
        ({"warmup": {"schedule": [5, 4]}}, "mail_api.warmup.schedule: goes down from 5 to 4: write numbers that grow"),
        ({"warmup": {"schedule": []}}, "mail_api.warmup.schedule: is no schedule: write a list"),
        ({"warmup": {"relay": "smtp.example.net"}}, "mail_api.warmup.relay: 'smtp.example.net' is not a relay: write"),
        ({"warmup": {"relay": "[x.example]:0"}}, "mail_api.warmup.relay: '[x.example]:0' is not a relay: write"),
        ({"warmup": {"days": 3}}, "mail_api.warmup.days: is not a key that is known here"),
    ],
)
def test_limits_and_warm_up_are_checked(change: dict[str, Any], error: str) -> None:
    found = errors_of(inventory(mail_api=change))
    assert len(found) == 1 and found[0].startswith(error), found


TENANT_KEY = {"name": "all", "scopes": ["emails.write"], "key": f"mw_{'d' * 12}_{'b' * 48}"}
TENANT = {"name": "acme", "domains": ["Acme.test"], "keys": [TENANT_KEY]}


def test_tenants_of_the_sending_api() -> None:
    api = build_model(inventory(mail_api={"tenants": [TENANT]})).model["api"]
    assert api is not None and api["tenants"] == [
        {
            "name": "acme",
            "domains": ["acme.test"],
            "keys": [{**TENANT_KEY, "requests_per_minute": None, "recipients_per_hour": None}],
        }
    ]


@pytest.mark.parametrize(
    ("tenants", "error"),
    [
        ([{**TENANT, "domains": ["globex.test"]}], "mail_api.tenants[0].domains[0]: 'globex.test' is not hosted here"),
        ([{**TENANT, "name": "a/b"}], "mail_api.tenants[0].name: 'a/b' is not a name"),
        (
            [TENANT, {"name": "other", "domains": ["acme.test"]}],
            "mail_api.tenants[1].domains[0]: 'acme.test' is a tenant's already, at mail_api.tenants[0].domains[0]",
        ),
        ([{**TENANT, "keys": [{**TENANT_KEY, "key": "mw_s3cret"}]}], "mail_api.tenants[0].keys[0].key: is not a key"),
        ([{**TENANT, "keys": [{**TENANT_KEY, "scopes": []}]}], "mail_api.tenants[0].keys[0].scopes: there is no scope"),
        (
            [{**TENANT, "keys": [TENANT_KEY, {**TENANT_KEY, "key": f"mw_{'e' * 12}_{'b' * 48}"}]}],
            "mail_api.tenants[0].keys[1].name: 'all' is already a key of this tenant",
        ),
        (
            [{**TENANT, "keys": [TENANT_KEY, {**TENANT_KEY, "name": "more"}]}],
            "mail_api.tenants[0].keys[1].key: begins as the one at mail_api.tenants[0].keys[0] does",
        ),
    ],
)
def test_tenants_are_checked(tenants: list[dict[str, Any]], error: str) -> None:
    found = errors_of(inventory(mail_api={"tenants": tenants}))
    assert len(found) == 1 and found[0].startswith(error), found
    assert "s3cret" not in found[0]


OPERATOR_KEY = {"name": "portal", "scopes": ["tenants.write"], "key": f"mw_{'f' * 12}_{'b' * 48}"}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"scopes": ["emails.read"]}, "[0].scopes: 'emails.read' is not a scope: write some of tenants.read, tenants"),
        ({"scopes": []}, "[0].scopes: there is no scope: write some of tenants.read, tenants.write"),
        ({"key": "mw_s3cret"}, "[0].key: is not a key"),
        ({"name": "a/b"}, "[0].name: 'a/b' is not a name"),
        ({"domain": "acme.test"}, "[0].domain: is not a key that is known here"),
    ],
)
def test_keys_of_operators_are_checked(change: dict[str, Any], error: str) -> None:
    api = build_model(inventory(mail_api={"operator_keys": [OPERATOR_KEY]})).model["api"]
    assert api is not None and api["operator_keys"] == [OPERATOR_KEY]
    found = errors_of(inventory(mail_api={"operator_keys": [{**OPERATOR_KEY, **change}]}))
    assert len(found) == 1 and found[0].startswith(f"mail_api.operator_keys{error}"), found
    twice = [OPERATOR_KEY, {**OPERATOR_KEY, "key": f"mw_{'e' * 12}_{'b' * 48}"}]
    assert errors_of(inventory(mail_api={"operator_keys": twice})) == [
        "mail_api.operator_keys[1].name: 'portal' is an operator's key already: write another name"
    ]
    same = {
        "tenants": [{**TENANT, "keys": [{**TENANT_KEY, "key": OPERATOR_KEY["key"]}]}],
        "operator_keys": [OPERATOR_KEY],
    }
    assert errors_of(inventory(mail_api=same)) == [
        "mail_api.operator_keys[0].key: begins as the one at mail_api.tenants[0].keys[0] does: make another one"
    ]


def test_keys_of_the_sending_api_are_told_apart() -> None:
    found = errors_of(inventory(mail_api={"keys": [API_KEY, API_KEY]}))
    assert found == [
        "mail_api.keys[1].key: begins as the one at mail_api.keys[0] does: make another one",
        "mail_api.keys[1].name: 'shop' is already a key of acme.test: write another name",
    ]


def test_a_certificate_by_acme() -> None:
    plain = build_model(inventory(mail_tls={"acme": {}})).model["tls"]
    assert plain == {
        "mode": "acme",
        "dane": False,
        "names": ["mx1.acme.test", "autoconfig.acme.test", "autodiscover.acme.test"],
        "certificate_file": None,
        "key_file": None,
        "acme": {
            "directory": "https://acme-v02.api.letsencrypt.org/directory",
            "email": "hostmaster@acme.test",
            "challenge": "http-01",
            "key_type": "rsa",
            "ca_file": None,
            "caa": None,
            "dns": None,
        },
    }
    given = {"challenge": "dns-01", "dns": {**ACME_DNS, "key_name": "Acme."}, "email": "me@b.test", "ca_file": "ca.pem"}
    acme = build_model(inventory(mail_tls={"acme": given})).model["tls"]["acme"]
    assert acme is not None
    assert acme["dns"] == {**ACME_DNS, "key_algorithm": "hmac-sha256"}
    assert (acme["email"], acme["ca_file"]) == ("me@b.test", "ca.pem")
    assert build_model(inventory(mail_tls={"acme": None})).model["tls"]["mode"] == "self_signed"


def test_the_secret_of_a_tsig_key_is_in_no_error() -> None:
    wrong = {"challenge": "dns-01", "dns": {**ACME_DNS, "key_secret": "hunter2"}}
    (error,) = errors_of(inventory(mail_tls={"acme": wrong}))
    assert error.startswith("mail_tls.acme.dns.key_secret: is not base64")
    assert "hunter2" not in error


def test_input_is_not_changed() -> None:
    given = inventory(mail_domains__b=[{"name": "b.test"}])
    before = copy.deepcopy(given)
    build_model(given)
    assert given == before


def test_domains_of_all_variables_are_merged() -> None:
    built = build_model(inventory(mail_domains__z=[{"name": "z.test"}], mail_domains__b=[{"name": "B.test"}]))
    assert [domain["name"] for domain in built.model["domains"]] == ["acme.test", "b.test", "z.test"]


def test_other_variables_are_not_looked_at() -> None:
    built = build_model(inventory(mailer="x", mail_model=3, mail_relay="x", other=object()), ignore=["mail_relay"])
    assert built.model["hostname"] == "mx1.acme.test"


def test_every_mistake_at_once() -> None:
    wrong = inventory(mail_hostname="mx1", mail_qouta="1G", mail_addresses=["nowhere"], mail_tls={"key_file": "k"})
    wrong["mail_domains__acme"] = [
        {"name": "x.test"},
        {
            "name": "y.test",
            "mailboxes": [
                {"name": "a", "password": "p"},
                {"name": "b", "password": "p", "quota": "5X"},
                {"name": "c"},
            ],
        },
    ]
    assert errors_of(wrong) == [
        "mail_qouta: is not a variable that is known: did you mean mail_quota?",
        "mail_hostname: 'mx1' is a single label: write the full name, such as mail.example.org",
        f"mail_domains__acme[1].mailboxes[1].quota: {NO_SIZE}",
        "mail_domains__acme[1].mailboxes[2]: has neither a password nor a password_hash: give exactly one of them",
        "mail_addresses[0]: 'nowhere' is not an IP address: write 198.51.100.10 or 2001:db8::10, say",
        "mail_tls.certificate_file: is missing: give it beside key_file, or neither of them",
    ]


def test_nothing_given() -> None:
    assert [error.split(":")[0] for error in errors_of({})] == ["mail_hostname", "mail_admin"]


@pytest.mark.parametrize("name", [name for name in OPTIONS if name.startswith("mail_")])
def test_every_variable_refuses_a_wrong_type(name: str) -> None:
    assert any(error.startswith(f"{name}") for error in errors_of(inventory(**{name: {"password": "hunter2"}})))
    assert any(error.startswith(f"{name}") for error in errors_of(inventory(**{name: 2.5})))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mail_domains": {"acme.test": {}}}, "mail_domains: is a mapping: write a list of mappings"),
        ({"mail_domains": ["acme.test"]}, "mail_domains[0]: is a string: write a mapping with the keys name,"),
        (
            {"mail_features": {"clamv": True}},
            "mail_features.clamv: is not a key that is known here: did you mean clamav?",
        ),
        (
            {"mail_domains": [{"name": "acme.test", "mta_sts": "on"}]},
            "mail_domains[0].mta_sts: is 'on': write one of none, testing, enforce",
        ),
        (
            {"mail_domains": [{"name": "acme.test", "dmarc": "deny"}]},
            "mail_domains[0].dmarc: is 'deny': write one of none, quarantine, reject",
        ),
        (
            {"mail_domains": [{"name": "acme.test", "dmarc": "none", "bimi": {"logo_url": "https://acme.test/l.svg"}}]},
            "mail_domains[0].bimi: is not used with dmarc: none: remove it, or write dmarc: quarantine or reject",
        ),
        (
            {"mail_domains": [{"name": "acme.test", "bimi": {"authority_url": "https://acme.test/l.pem"}}]},
            "mail_domains[0].bimi.logo_url: is missing",
        ),
        (
            {"mail_domains": [{"name": "acme.test", "bimi": {"logo_url": "http://acme.test/l.svg"}}]},
            "mail_domains[0].bimi.logo_url: 'http://acme.test/l.svg' is not an HTTPS URL: write one such as",
        ),
        (
            {"mail_domains": [{"name": "acme.test", "bimi": {"logo_url": "https://acme.test/l.svg;a=x"}}]},
            "mail_domains[0].bimi.logo_url: 'https://acme.test/l.svg;a=x' is not an HTTPS URL",
        ),
        (
            {"mail_domains": [{"name": "acme.test", "bimi": "https://acme.test/l.svg"}]},
            "mail_domains[0].bimi: is a string: write a mapping",
        ),
        ({"mail_features": {"clamav": "no"}}, "mail_features.clamav: is a string: write true or false, without quotes"),
        ({"mail_admin": "root"}, "mail_admin: 'root' is not an address: write a full one"),
        ({"mail_admin": "nobody@acme.test"}, "mail_admin: 'nobody@acme.test' does not exist in mail_domains[0]"),
        ({"mail_addresses": ["127.0.0.1"]}, "mail_addresses[0]: '127.0.0.1' cannot be reached from outside"),
        ({"mail_addresses": ["fe80::1%eth0"]}, "mail_addresses[0]: 'fe80::1%eth0' is not an IP address"),
        ({"mail_addresses": ["::ffff:198.51.100.1"]}, "mail_addresses[0]: '::ffff:198.51.100.1' is an IPv4 address"),
        ({"mail_tls": {"certificate_file": "c"}}, "mail_tls.key_file: is missing"),
        ({"mail_tls": {"acme": True}}, "mail_tls.acme: is true or false: write a mapping with the keys directory,"),
        (
            {"mail_tls": {"certificate_file": "c", "key_file": "k", "acme": {}}},
            "mail_tls.acme: is given beside certificate_file: give only one of them",
        ),
        (
            {"mail_tls": {"acme": {"challenge": "tls-alpn-01"}}},
            "mail_tls.acme.challenge: 'tls-alpn-01' is not known: write http-01 or dns-01",
        ),
        ({"mail_tls": {"acme": {"key_type": "ed25519"}}}, "mail_tls.acme.key_type: 'ed25519' is not known"),
        ({"mail_tls": {"acme": {"directory": "http://ca.test/"}}}, "mail_tls.acme.directory: 'http://ca.test/' is not"),
        ({"mail_tls": {"acme": {"email": "me"}}}, "mail_tls.acme.email: 'me' is not an address"),
        ({"mail_tls": {"acme": {"challenge": "dns-01"}}}, "mail_tls.acme.dns: is missing: dns-01 needs"),
        ({"mail_tls": {"acme": {"dns": ACME_DNS}}}, "mail_tls.acme.dns: is not used with http-01"),
        (
            {"mail_tls": {"acme": {"challenge": "dns-01", "dns": {**ACME_DNS, "server": "ns1.acme.test"}}}},
            "mail_tls.acme.dns.server: 'ns1.acme.test' is not an IP address",
        ),
        (
            {"mail_tls": {"acme": {"challenge": "dns-01", "dns": {**ACME_DNS, "key_name": "a b"}}}},
            "mail_tls.acme.dns.key_name: 'a b' is not the name of a TSIG key",
        ),
        (
            {"mail_tls": {"acme": {"challenge": "dns-01", "dns": {**ACME_DNS, "key_algorithm": "hmac-md5"}}}},
            "mail_tls.acme.dns.key_algorithm: 'hmac-md5' is not known",
        ),
        (
            {"mail_domains__x": [{"name": "ACME.test"}]},
            "mail_domains__x[0].name: 'acme.test' is already defined at mail_domains[0]",
        ),
        ({"mail_domains__x": [{"enabled": False}]}, "mail_domains__x[0].name: is missing: The domain's name"),
        ({"mail_dns": {"providers": ["a"]}}, "mail_dns.providers: is a list: write a mapping"),
        ({"mail_dns": {"providers": {"a": {"key": "s3cret"}}}}, "mail_dns.providers.a: is not a provider: write a"),
        (
            {"mail_dns": {"delegation": "dns.acme.test"}},
            "mail_dns.delegation: 'dns.acme.test' lies in none of mail_dns.zones: write a name that does",
        ),
        (
            {"mail_domains": [{"name": "far.test", "delegated": True}]},
            "mail_domains[0].delegated: needs mail_dns.delegation: write there where the owner's CNAMEs lead to",
        ),
        (
            {
                "mail_dns": {
                    "providers": {"a": {"type": "manual"}},
                    "zones": {"acme.test": "a", "far.test": "a"},
                    "delegation": "dns.acme.test",
                },
                "mail_domains": [{"name": "far.test", "delegated": True}],
            },
            "mail_domains[0].delegated: far.test lies in far.test of mail_dns.zones, which is written: remove one",
        ),
        (
            {
                "mail_dns": {
                    "providers": {"a": {"type": "manual"}},
                    "zones": {"acme.test": "a"},
                    "delegation": f"{'d' * 60}.acme.test",
                },
                "mail_domains": [{"name": ".".join(["x" * 50] * 3) + ".test", "delegated": True}],
            },
            f"mail_domains[0].delegated: {'.'.join(['x' * 50] * 3)}.test is too long to lie below",
        ),
        (
            {"mail_dns": {"providers": {"a": {"type": "manual"}}, "zones": {"acme.test": "b"}}},
            "mail_dns.zones.'acme.test': 'b' is not one of mail_dns.providers: a",
        ),
        ({"mail_dns": {"zones": {"acme.test": None}}}, "mail_dns.zones.'acme.test': nothing is not one of"),
        (
            {"mail_dns": {"providers": {"a": {"type": "manual"}}, "zones": {"x y": "a"}}},
            "mail_dns.zones.'x y': 'x y' is",
        ),
        (
            {"mail_dns": {"providers": {"a": {"type": "manual"}}, "zones": {"_domainkey": "a"}}},
            "mail_dns.zones._domainkey: '_domainkey' is not a zone",
        ),
        (
            {"mail_dns": {"providers": {"a": {"type": "manual"}}, "zones": {"x._domainkey.acme.test": "a"}}},
            "mail_dns.zones.'x._domainkey.acme.test': 'x._domainkey.acme.test' is not a zone",
        ),
        (
            {"mail_dns": {"parked_domains": ["acme.test"]}},
            "mail_dns.parked_domains[0]: 'acme.test' is a mail domain, at mail_domains[0]: remove one",
        ),
        (
            {"mail_dns": {"parked_domains": ["b.test", "mx1.acme.test"]}},
            "mail_dns.parked_domains[1]: 'mx1.acme.test' is mail_hostname, which sends mail",
        ),
        ({"mail_dns": {"parked_domains": ["b"]}}, "mail_dns.parked_domains[0]: 'b' is a single label"),
        ({"mail_tls": {"dane": "yes"}}, "mail_tls.dane: is a string: write true or false, without quotes"),
        ({"mail_dns": {"resolvers": ["ns1"]}}, "mail_dns.resolvers[0]: 'ns1' is not an IP address: write 192.0.2.53"),
        ({"mail_hostname": "mx1.acme.test\nx"}, "mail_hostname: 'mx1.acme.test\\nx' is not a host name"),
    ],
)
def test_top_level_mistakes(change: dict[str, Any], message: str) -> None:
    assert errors_of(inventory(**change))[0].startswith(message)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"quota": "5X"}, ".quota: '5X' is not a size"),
        ({"quota": True}, ".quota: true is not a size"),
        ({"quota": 1.5}, ".quota: 1.5 is not a size"),
        ({"quota": -1}, ".quota: -1 is not a size"),
        ({"quota": 10**5000}, ".quota: a huge number is not a size"),
        ({"quota": "9999999999T"}, ".quota: '9999999999T' is not a size"),
        ({"quota": 500}, ".quota: 500 is a size of 500 bytes: write the unit too, such as 500M"),
        ({"enabled": "yes"}, ".enabled: is a string: write true or false"),
        ({"display_name": "a\nb"}, ".display_name: 'a\\nb' has a line break"),
        ({"display_name": "a\u2028b"}, ".display_name: 'a\\u2028b' has a line break"),
        ({"display_name": "a\ud800"}, ".display_name: 'a\\ud800' has a line break"),
        ({"display_name": "x" * 256}, ".display_name: '" + "x" * 60 + "'... is too long"),
        ({"send_as": ["x@elsewhere.example"]}, ".send_as[0]: 'x@elsewhere.example' is not of a domain hosted here"),
        ({"send_as": [3]}, ".send_as[0]: is a number: write a string"),
        ({"send_as": {"a": 1}}, ".send_as: is a mapping: write a list of strings"),
        ({"name": "alice"}, ".name: 'alice@acme.test' is already a mailbox, at mail_domains[0].mailboxes[0]"),
        ({"name": "carol@other.test"}, ".name: 'carol@other.test' is not in the domain acme.test"),
        ({"name": "x" * 65}, ".name: '" + "x" * 60 + "'... is too long"),
        ({"password": ""}, ".password: is empty"),
        ({"password": 12345}, ".password: is a number: write a string, in quotes"),
        ({"password": "a\nb"}, ".password: has a line break"),
        ({"password": "x" * 513}, ".password: is too long"),
        ({"password": SHA512}, ".password: looks like a hash: write it as password_hash instead"),
        ({"password": "{SHA512-CRYPT}" + SHA512}, ".password: looks like a hash"),
        ({"password_hash": SHA512}, ": has a password and a password_hash: give exactly one of them"),
        ({"password": None}, ": has neither a password nor a password_hash: give exactly one of them"),
        ({"pasword": "x"}, ".pasword: is not a key that is known here: did you mean password?"),
        ({3: "x"}, ".3: is not a key that is known here: known are display_name, enabled,"),
        ({"a\nb": "x"}, ".'a\\nb': is not a key that is known here"),
    ],
)
def test_mailbox_mistakes(keys: dict[Any, Any], message: str) -> None:
    made = inventory()
    made["mail_domains"][0]["mailboxes"].append({"name": "carol", "password": "three", **keys})
    assert only_error(made).startswith("mail_domains[0].mailboxes[2]" + message)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".a",
        "a.",
        "a..b",
        "a/b",
        "../etc",
        "a b",
        "a\n",
        "a\x00",
        '"a"',
        "a+b",
        "-a",
        "ä",
        "\u212a",
        "a@b",
        "@",
        "%s",
    ],
)
def test_mailbox_names_that_are_refused(name: str) -> None:
    assert errors_of(with_mailbox(name=name))[0].startswith("mail_domains[0].mailboxes[2].name: ")


@pytest.mark.parametrize(
    ("name", "local_part"), [("Carol", "carol"), ("c.d_e-1", "c.d_e-1"), ("CAROL@Acme.Test", "carol")]
)
def test_mailbox_names_that_are_accepted(name: str, local_part: str) -> None:
    assert mailbox(build_model(with_mailbox(name=name)), f"{local_part}@acme.test")["local_part"] == local_part


def test_address_length() -> None:
    domain = ".".join(["d" * 63] * 3) + ".test"  # 196
    made = inventory(mail_domains__x=[{"name": domain, "mailboxes": [{"name": "m" * 57, "password": "p"}]}])
    assert len(build_model(made).model["mailboxes"][-1]["address"]) == 254
    made["mail_domains__x"][0]["mailboxes"][0]["name"] += "m"
    assert "is too long: an address has at most 254 characters" in only_error(made)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Acme.Test", "acme.test"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("bücher。example", "xn--bcher-kva.example"),
        ("xn--strae-oqa.de", "xn--strae-oqa.de"),
        ("ab--c.test", None),
        ("xn--a.test", None),
        ("straße.de", None),
        ("a_b.test", None),
        ("acme.test.", None),
        ("-a.test", None),
        ("a" * 64 + ".test", None),
        (".".join(["abcdefg"] * 32), None),
        ("1.2.3.4", None),
        ("a..test", None),
        (" acme.test", None),
        ("acme.test\n", None),
        ("\ud800.test", None),
        ("", None),
    ],
)
def test_domain_names(text: str, name: str | None) -> None:
    if name is None:
        with pytest.raises(ValueError, match=r"write|valid xn--"):
            values.parse_domain(text)
    else:
        assert values.parse_domain(text) == name


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1G", 1024**3),
        ("1.5g", 3 * 512 * 1024**2),
        ("2 T", 2 * 1024**4),
        (0, 0),
        ("0", 0),
        ("2048", 2048),
        (4096, 4096),
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    assert values.parse_size(text) == size


def test_quota_comes_from_the_nearest() -> None:
    made = with_mailbox(quota=0)
    assert mailbox(build_model({**made, "mail_quota": "3G"}), "alice@acme.test")["quota_bytes"] == 3 * 1024**3
    made["mail_domains"][0]["quota"] = "5G"
    built = build_model({**made, "mail_quota": "3G"})
    assert mailbox(built, "alice@acme.test")["quota_bytes"] == 5 * 1024**3
    assert mailbox(built, "carol@acme.test")["quota_bytes"] == 0


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (SHA512, "{SHA512-CRYPT}" + SHA512),
        ("{sha512-crypt}" + SHA512, "{SHA512-CRYPT}" + SHA512),
        ("$6$rounds=5000$salt$" + "a" * 86, "{SHA512-CRYPT}$6$rounds=5000$salt$" + "a" * 86),
        (BCRYPT, "{BLF-CRYPT}" + BCRYPT),
        (ARGON2ID, "{ARGON2ID}" + ARGON2ID),
        (ARGON2ID.replace("2id", "2i"), "{ARGON2I}" + ARGON2ID.replace("2id", "2i")),
    ],
)
def test_hashes(given: str, kept: str) -> None:
    built = build_model(with_mailbox(password=None, password_hash=given))
    assert mailbox(built, "carol@acme.test")["password_hash"] == kept
    assert mailbox(built, "carol@acme.test")["password"] is None


@pytest.mark.parametrize(
    "given",
    [
        "hunter2",
        "{PLAIN}hunter2",
        "{hunter2}x",
        SHA512[:-1],
        SHA512 + "\n",
        "{BLF-CRYPT}" + SHA512,
        ARGON2ID + "!",
        "$1$hunter2$x",
        "",
    ],
)
def test_hashes_that_are_refused_are_not_shown(given: str) -> None:
    error = only_error(with_mailbox(password=None, password_hash=given))
    assert error.startswith("mail_domains[0].mailboxes[2].password_hash: ")
    assert "hunter2" not in error
    assert "aaa" not in error


def test_hash_made_by_a_real_library() -> None:
    argon2 = pytest.importorskip("argon2")
    made = argon2.PasswordHasher(time_cost=1, memory_cost=64).hash("three")
    assert values.parse_password_hash(made) == "{ARGON2ID}" + made


@pytest.mark.parametrize(
    ("aliases", "message"),
    [
        (
            [{"name": "alice", "to": ["bob"]}],
            "aliases[1].name: 'alice@acme.test' is already a mailbox, at mail_domains[0].mailboxes[0]",
        ),
        (
            [{"name": "hostmaster", "to": ["bob"]}],
            "aliases[1].name: 'hostmaster@acme.test' is already an alias, at mail_domains[0].aliases[0]",
        ),
        ([{"name": "x", "to": ["nobody"]}], "aliases[1].to[0]: 'nobody@acme.test' does not exist in mail_domains[0]"),
        ([{"name": "x", "to": []}], "aliases[1].to: has no destination"),
        ([{"name": "x"}], "aliases[1].to: is missing"),
        ([{"name": "x", "to": ["alice, bob"]}], "aliases[1].to[0]: 'alice, bob' is not a local part"),
        ([{"name": "x", "to": ["a!b@c.test"]}], "aliases[1].to[0]: 'a!b' is not a local part"),
        ([{"name": "x", "to": ["|/bin/sh"]}], "aliases[1].to[0]: '|/bin/sh' is not a local part"),
        ([{"name": "x", "to": ["a@b.test\nc@d.test"]}], "aliases[1].to[0]: "),
        ([{"name": "x", "to": ["a@"]}], "aliases[1].to[0]: '' is not the domain of an address"),
        (
            [{"name": "x", "to": ["x"]}],
            "aliases[1].to[0]: the aliases go round in a circle, x@acme.test -> x@acme.test",
        ),
        (
            [{"name": "x", "to": ["x+1"]}],
            "aliases[1].to[0]: the aliases go round in a circle, x@acme.test -> x@acme.test",
        ),
        (
            [{"name": "x", "to": ["alice", "y"]}, {"name": "y", "to": ["z"]}, {"name": "z", "to": ["x", "bob"]}],
            f"aliases[3].to[0]: the aliases go round in a circle, {CIRCLE}: take one of them out",
        ),
    ],
)
def test_alias_mistakes(aliases: list[dict[str, Any]], message: str) -> None:
    assert errors_of(with_aliases(*aliases))[0].startswith(f"mail_domains[0].{message}")


def test_long_circle_is_found_and_shortened() -> None:
    chain = [{"name": f"a{number}", "to": [f"a{(number + 1) % 5000}"]} for number in range(5000)]
    error = only_error(with_aliases(*chain))
    assert error == (
        "mail_domains[0].aliases[5000].to[0]: the aliases go round in a circle, a0@acme.test -> a1@acme.test -> "
        "a2@acme.test -> a3@acme.test -> (4996 more) -> a0@acme.test: take one of them out"
    )


def test_circle_through_the_administrator() -> None:
    made = inventory()
    made["mail_domains"][0]["aliases"][0]["to"] = ["postmaster"]
    assert "postmaster@acme.test -> hostmaster@acme.test" in only_error(made)


def test_alias_rows() -> None:
    built = build_model(
        with_aliases(
            {"name": "Sales", "to": ["alice", "ALICE@acme.test", "bob+sales", "Some.One@Elsewhere.Example"]},
            {"name": "one", "to": "bob"},
            catch_all="bob",
        )
    )
    assert destinations(built, "sales@acme.test") == [
        "Some.One@elsewhere.example",
        "alice@acme.test",
        "bob+sales@acme.test",
    ]
    assert destinations(built, "one@acme.test") == ["bob@acme.test"]
    assert destinations(built, "@acme.test") == ["bob@acme.test"]
    assert logins(built, "sales@acme.test") == ["alice@acme.test", "bob@acme.test"]
    assert logins(built, "@acme.test") == []


def test_catch_all_makes_missing_destinations_good() -> None:
    made = with_aliases({"name": "x", "to": ["nobody"]}, catch_all=["alice", "a@elsewhere.example"])
    assert destinations(build_model(made), "x@acme.test") == ["nobody@acme.test"]
    assert logins(build_model(made), "x@acme.test") == []


def test_catch_all_must_exist() -> None:
    error = only_error(with_aliases(catch_all=["nobody"]))
    assert error.startswith("mail_domains[0].catch_all[0]: 'nobody@acme.test' does not exist")


def test_circle_through_a_catch_all() -> None:
    made = with_aliases({"name": "x", "to": ["anything@b.test"]})
    made["mail_domains__b"] = [{"name": "b.test", "catch_all": ["x@acme.test"]}]
    assert "x@acme.test -> @b.test -> x@acme.test" in only_error(made)


def test_postmaster_and_abuse() -> None:
    made = with_aliases({"name": "abuse", "to": ["bob"]})
    made["mail_domains__b"] = [{"name": "b.test", "mailboxes": [{"name": "postmaster", "password": "p"}]}]
    made["mail_domains__c"] = [{"name": "c.test", "enabled": False}]
    built = build_model(made)
    assert destinations(built, "postmaster@acme.test") == ["hostmaster@acme.test"]
    assert destinations(built, "abuse@acme.test") == ["bob@acme.test"]
    assert destinations(built, "postmaster@b.test") == []
    assert destinations(built, "abuse@b.test") == ["hostmaster@acme.test"]
    assert destinations(built, "postmaster@c.test") == []


def test_reports_go_to_the_intake_unless_the_domain_says_otherwise() -> None:
    made = with_aliases({"name": "mail-reports", "to": ["alice"]})
    made["mail_domains__b"] = [{"name": "b.test"}, {"name": "c.test", "enabled": False}]
    built = build_model(made)
    assert destinations(built, "mail-reports@acme.test") == ["alice@acme.test"]
    assert destinations(built, "mail-reports@b.test") == ["reports@mailwright.invalid"]
    assert destinations(built, "mail-reports@c.test") == []


def test_reports_come_from_the_administrators_domain_or_the_first_one() -> None:
    made = inventory()
    made["mail_domains__b"] = [{"name": "aaa.test"}]
    assert build_model(made).model["reports_from"] == "mail-reports@acme.test"
    made["mail_admin"] = "someone@elsewhere.example"
    assert build_model(made).model["reports_from"] == "mail-reports@aaa.test"
    assert build_model({**made, "mail_domains": [], "mail_domains__b": []}).model["reports_from"] == ""


def test_an_administrator_of_that_name_must_exist() -> None:
    assert "'mail-reports@acme.test' does not exist" in only_error(inventory(mail_admin="mail-reports@acme.test"))


def test_postmaster_of_a_domain_that_is_switched_off() -> None:
    made = with_aliases({"name": "x", "to": ["postmaster@c.test"]})
    made["mail_domains__c"] = [{"name": "c.test"}]
    assert build_model(made).warnings == []
    made["mail_domains__c"][0]["enabled"] = False
    assert build_model(made).warnings == [
        "mail_domains[0].aliases[1].to[0]: 'postmaster@c.test' is in a domain that is switched off"
    ]


def test_postmaster_as_administrator() -> None:
    made = inventory(mail_admin="postmaster@acme.test")
    assert only_error(made).startswith("mail_admin: 'postmaster@acme.test' does not exist in mail_domains[0]")
    made["mail_domains"][0]["catch_all"] = ["alice"]
    built = build_model(made)
    assert destinations(built, "postmaster@acme.test") == []
    assert destinations(built, "abuse@acme.test") == ["postmaster@acme.test"]


def test_derived_aliases_may_be_sent_as() -> None:
    built = build_model(inventory(mail_admin="alice@acme.test"))
    assert logins(built, "postmaster@acme.test") == ["alice@acme.test"]


def test_send_as() -> None:
    made = with_mailbox(send_as=["sales", "Shop@B.test", "alice"])
    made["mail_domains__b"] = [{"name": "b.test"}]
    built = build_model(made)
    assert logins(built, "sales@acme.test") == ["carol@acme.test"]
    assert logins(built, "shop@b.test") == ["carol@acme.test"]
    assert logins(built, "alice@acme.test") == ["alice@acme.test", "carol@acme.test"]


def test_what_is_switched_off() -> None:
    made = with_mailbox(enabled=False, send_as=["sales"])
    made["mail_domains"][0]["aliases"].append({"name": "team", "to": ["carol", "dora@b.test"]})
    made["mail_domains__b"] = [
        {"name": "b.test", "enabled": False, "mailboxes": [{"name": "dora", "password": "p"}], "aliases": []}
    ]
    made["mail_domains"][0]["mailboxes"][0]["send_as"] = ["x@b.test"]
    built = build_model(made)
    assert mailbox(built, "carol@acme.test")["enabled"] is False
    assert mailbox(built, "dora@b.test")["enabled"] is True
    (off,) = [domain for domain in built.model["domains"] if domain["name"] == "b.test"]
    assert not off["enabled"]
    assert {row["login"] for row in built.model["senders"]} == {"alice@acme.test", "bob@acme.test"}
    assert logins(built, "x@b.test") == []
    assert built.warnings == [
        "mail_domains[0].aliases[1].to[0]: 'carol@acme.test' is a mailbox that is switched off",
        "mail_domains[0].aliases[1].to[1]: 'dora@b.test' is in a domain that is switched off",
        "mail_domains[0].mailboxes[0].send_as[0]: 'x@b.test' is of a domain that is switched off",
    ]


def test_administrator_who_is_switched_off() -> None:
    made = inventory(mail_admin="alice@acme.test")
    made["mail_domains"][0]["mailboxes"][0]["enabled"] = False
    assert "mail_admin: 'alice@acme.test' is a mailbox that is switched off" in build_model(made).warnings


def test_default_addresses() -> None:
    defaults = ["198.51.100.7", "", None, "127.0.0.1", "fe80::1", "2001:db8::7", "x", 3]
    built = build_model(inventory(), default_addresses=defaults)
    assert built.model["addresses"] == {"ipv4": ["198.51.100.7"], "ipv6": ["2001:db8::7"]}
    built = build_model(inventory(mail_addresses=[]), default_addresses=defaults)
    assert built.model["addresses"] == {"ipv4": [], "ipv6": []}


def test_what_cannot_be_read_is_reported_once() -> None:
    made = with_mailbox(name=UNREADABLE, password=UNREADABLE, quota=UNREADABLE, enabled=UNREADABLE)
    made["mail_domains"][0]["aliases"][0]["to"] = ["carol"]
    made["mail_domains__x"] = UNREADABLE
    made["mail_domains"][0]["mailboxes"][0]["send_as"] = ["who@x.test"]
    made["mail_domains__y"] = [{"name": "y.test", "mailboxes": [UNREADABLE], "aliases": UNREADABLE}, UNREADABLE]
    assert errors_of(made, earlier_errors=["first"]) == ["first"]


def test_contents_of_a_domain_without_a_good_name_are_checked() -> None:
    made = inventory(mail_domains__x=[{"name": "x", "mailboxes": [{"name": "a/", "password": "p", "quota": "1X"}]}])
    assert [error.split(": ")[0] for error in errors_of(made)] == [
        "mail_domains__x[0].name",
        "mail_domains__x[0].mailboxes[0].quota",
        "mail_domains__x[0].mailboxes[0].name",
    ]


def test_no_secret_in_errors() -> None:
    secret = "hunter2"
    wrong: list[Any] = [
        secret,
        [secret],
        {"name": "a", "password": [secret]},
        {"name": "a", "password": {"x": secret}},
        {"name": "b", "passwrd": secret},
        {"name": "c", "password": secret + "\n"},
        {"name": "d", "password": secret * 200},
        {"name": "e", "password": "{PLAIN}" + secret},
        {"name": "f", "password": secret, "password_hash": secret},
    ]
    made = inventory(mail_domains__x=[{"name": "x.test", "mailboxes": wrong}], mail_password=secret)
    assert len(errors_of(made)) >= len(wrong)
    assert secret not in "\n".join(errors_of(made))


def test_ten_thousand_mailboxes_in_two_seconds() -> None:
    many = [
        {
            "name": f"d{number}.test",
            "mailboxes": [
                {"name": f"m{box}", "password": "p", "quota": "2G", "send_as": ["info"]} for box in range(10)
            ],
            "aliases": [{"name": "info", "to": ["m0", "m1"]}],
            "catch_all": ["m1"],
        }
        for number in range(1000)
    ]
    started = time.process_time()
    built = build_model(inventory(mail_domains__many=many))
    assert time.process_time() - started < 2
    assert len(built.model["mailboxes"]) == 10_002


def test_the_table_is_an_argument_spec_that_ansible_takes() -> None:
    validator = pytest.importorskip("ansible.module_utils.common.arg_spec").ArgumentSpecValidator
    given = with_mailbox(quota=0, send_as=["sales"])
    result = validator(OPTIONS).validate(given)
    assert result.error_messages == []
    assert result.validated_parameters["mail_quota"] == "1G"
    # with the defaults that Ansible fills in, the model is the same
    assert build_model(result.validated_parameters).model == build_model(given).model


def test_the_table_describes_every_key() -> None:
    def check(options: dict[str, dict[str, Any]]) -> None:
        for option in options.values():
            assert option["description"]
            assert not (option.get("required") and "default" in option)
            check(option.get("options", {}))

    check(OPTIONS)


def test_names_to_answer_to() -> None:
    domains = [
        {"name": "globex.test", "mta_sts": "testing"},
        {"name": "acme.test", "mta_sts": "enforce"},
        {"name": "off.test", "mta_sts": "enforce", "enabled": False},
        {"name": "b.acme.test"},
    ]
    names = ["mta-sts.acme.test", "mta-sts.globex.test"]
    built = build_model(
        inventory(mail_domains=domains, mail_admin="root@elsewhere.example", mail_features={"autoconfig": False})
    )
    assert built.model["tls"]["names"] == ["mx1.acme.test", *names]
    changes = {"mail_domains": domains, "mail_admin": "root@elsewhere.example", "mail_hostname": "autoconfig.acme.test"}
    listed = build_model(inventory(**changes)).model["tls"]["names"]
    services = [
        f"{name}.{domain}" for name in ("autoconfig", "autodiscover") for domain in ("b.acme.test", "globex.test")
    ]
    assert listed == ["autoconfig.acme.test", *sorted([*names, *services, "autodiscover.acme.test"])]
