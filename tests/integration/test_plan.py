# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``--check --diff`` is the plan: it changes nothing, and the apply changes what it lists and nothing else.

The plan is read as people read it, from ansible-playbook's output. What really changed is read from the host: the file
system, dpkg and the database, never from what the collection says of itself. The tests build on each other, in order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.mailwright.server.plugins.module_utils.model.spec import FEATURE_OPTIONS
from ansible_collections.mailwright.server.tests.integration.throwaway import (
    EVERYTHING,
    Result,
    Target,
    bare_host,
    changed_paths,
    recap,
)
from connection import CHECKOUT

pytestmark = pytest.mark.own_hosts

# What a command of the plan does besides: the plan names the command, not its products.
PRODUCTS = {
    "systemd-sysusers /etc/sysusers.d/mailwright.conf": re.compile(r"/etc/(passwd|group|shadow|gshadow)-?"),
    "sievec -c /etc/dovecot/dovecot.conf /etc/dovecot/sieve": re.compile(r"/etc/dovecot/sieve/[\w-]+\.svbin"),
}

# What services keep as their data once they run.
SERVICES = "postgresql|redis|rspamd|clamav|fail2ban|postfix|dovecot|nginx|php|unbound|mta-sts"
OWN = "mailwright-index|mailwright-tls-results"
DATA = re.compile(rf"/var/(cache|spool|vmail|lib/({SERVICES}|{OWN}))(/.*)?")


@dataclass
class Listed:
    """What a run of the playbook listed."""

    files: set[str] = field(default_factory=set)
    secrets: set[str] = field(default_factory=set)
    packages: set[tuple[str, str]] = field(default_factory=set)
    rows: set[str] = field(default_factory=set)
    webmail: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    certificates: set[str] = field(default_factory=set)
    commands: set[str] = field(default_factory=set)
    units: dict[str, str] = field(default_factory=dict)

    @property
    def nothing(self) -> bool:
        return self == Listed()


def read(result: Result) -> Listed:
    """Read a run's standard output."""
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    listed = Listed()
    task = header = ""
    for line in result.stdout.splitlines():
        if line.startswith("TASK ["):
            task, header = line, ""
        elif line.startswith("+++ after"):
            header = line.removeprefix("+++ after").removeprefix(": ")
            if header.startswith("/"):
                listed.files.add(re.sub(r" \([^()]*\)$", "", header))
        elif unit := re.fullmatch(r"unit (\S+): (\w+)", line):
            listed.units[unit[1]] = unit[2]
        elif line.startswith("command "):
            listed.commands.add(line.removeprefix("command "))
        elif header in ("directory", "api") and re.match(r"[+-](?!--)", line):
            listed.rows.add(line)
        elif header == "packages" and line.startswith("+"):
            name, version = line[1:].split()
            listed.packages.add((name, version))
        elif header == "webmail schema" and line.startswith("+"):
            listed.webmail.add(line[1:])
        elif not header and "secrets" in task and (secret := re.fullmatch(r"\+(/\S+) .*new content", line)):
            listed.secrets.add(secret[1])
        elif not header and "signing key" in task and (key := re.fullmatch(r"\+(\S+) rsa \S+ active", line)):
            listed.keys.add(key[1])
        elif not header and "certificate" in task and (names := re.fullmatch(r"\+names: (.*)", line)):
            listed.certificates.update(names[1].split(", "))
    return listed


def versions(host: Target) -> dict[str, str]:
    """The installed packages."""
    listing = host.ssh("dpkg-query -W -f '${db:Status-Status} ${Package} ${Version}\\n'")
    return {name: version for state, name, version in map(str.split, listing.splitlines()) if state == "installed"}


def database(host: Target) -> dict[str, list[dict[str, Any]]]:
    """All rows of the directory as PostgreSQL holds them."""
    tables = ("domain", "mailbox", "alias", "sender")
    query = "SELECT json_build_object(" + ", ".join(
        f"'{table}', (SELECT coalesce(json_agg(t), '[]') FROM directory.{table} t)" for table in tables
    )  # fmt: skip
    text = host.ssh("su postgres -c 'psql -AtX -d mailwright'", data=query + ")")
    found: dict[str, list[dict[str, Any]]] = json.loads(text)
    return found


def row_lines(rows: dict[str, list[dict[str, Any]]]) -> set[str]:
    """The rows as lines of a plan that adds them."""
    yes = {True: "yes", False: "no"}
    lines = {f"+domain {d['name']} enabled={yes[d['enabled']]}" for d in rows["domain"]}
    lines |= {
        f"+mailbox {m['address']} quota={m['quota_bytes']} enabled={yes[m['enabled']]} "
        f'name="{m["display_name"]}" password=<set>'
        for m in rows["mailbox"]
    }
    lines |= {f"+alias {a['address']} destination={a['destination']}" for a in rows["alias"]}
    # that a mailbox may send as itself is part of the mailbox
    return lines | {f"+sender {s['address']} login={s['login']}" for s in rows["sender"] if s["address"] != s["login"]}


def flat(rows: dict[str, list[dict[str, Any]]]) -> set[str]:
    return {f"{table} {json.dumps(row, sort_keys=True)}" for table, found in rows.items() for row in found}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with bare_host("mxplan", tmp_path_factory.mktemp("plan")) as target:
        yield target


@pytest.fixture(scope="module")
def plan(host: Target) -> Listed:
    """The plan of a bare host, made before anything is installed; it must not touch the host."""
    before, packages = host.snapshot(EVERYTHING), versions(host)
    listed = read(host.site("--check", "--diff"))
    assert changed_paths(before, host.snapshot(EVERYTHING)) == set()
    assert versions(host) == packages
    return listed


@pytest.fixture(scope="module")
def installed(host: Target, plan: Listed, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The host with its packages only, as the base role installs them; returns its files then.

    So what packages bring can be told from what the collection writes.
    """
    defaults = yaml.safe_load((CHECKOUT / "roles/base/defaults/main.yml").read_text())["base_packages"]
    off = {name for name, option in FEATURE_OPTIONS.items() if option["default"] is False}
    names = sorted({name for group, packages in defaults.items() if group not in off for name in packages})
    before = versions(host)
    path = tmp_path_factory.mktemp("packages") / "packages.yml"
    task = {"name": "Install", "mailwright.server.packages": {"name": names}}
    path.write_text(yaml.safe_dump([{"hosts": "mailservers", "gather_facts": False, "tasks": [task]}]))
    applied = read(host.playbook("--diff", str(path)))
    after = versions(host)
    really = {(name, version) for name, version in after.items() if before.get(name) != version}
    assert before.keys() <= after.keys()
    assert applied.packages == really
    assert plan.packages == really
    return host.snapshot(EVERYTHING)


@pytest.fixture(scope="module")
def applied(host: Target, installed: dict[str, str]) -> Listed:
    assert installed
    return read(host.site("--diff"))


def test_the_plan_of_a_bare_host_lists_every_package_with_its_dependencies(
    plan: Listed, installed: dict[str, str]
) -> None:
    assert len(plan.packages) > 100
    assert ("postfix", installed and dict(plan.packages)["postfix"]) in plan.packages


def test_the_apply_lists_what_the_plan_listed(plan: Listed, applied: Listed) -> None:
    assert applied.files == plan.files
    assert applied.secrets == plan.secrets
    assert applied.rows == plan.rows
    assert applied.keys == plan.keys
    # the names in a given certificate beside the host's can only be read once its library is installed
    assert plan.certificates and plan.certificates <= applied.certificates
    assert applied.commands == plan.commands
    assert applied.units.keys() == plan.units.keys()
    assert len(applied.webmail) == len(plan.webmail) == 1


def test_exactly_the_listed_files_changed(
    host: Target, plan: Listed, installed: dict[str, str], applied: Listed
) -> None:
    assert not applied.packages
    after = host.snapshot(EVERYTHING)
    changed = {
        path
        for path in changed_paths(installed, after)
        if "directory" not in installed.get(path, "") + after.get(path, "") and not DATA.fullmatch(path)
    }
    assert plan.files - changed == set()
    assert plan.secrets - changed == set()
    # the key of the directory's fingerprints is a line among its rows
    listed_as_rows = {line.removeprefix("+key ") for line in plan.rows if line.startswith("+key ")}
    assert listed_as_rows - changed == set()
    rest = changed - plan.files - plan.secrets - listed_as_rows
    for domain in plan.keys:
        own = {path for path in rest if path.startswith(f"/var/lib/mailwright/dkim/{domain}/")}
        assert any(path.endswith(".key") for path in own)
        rest -= own
    for name in plan.certificates:
        own = {path for path in rest if path.startswith(f"/etc/mailwright/tls/{name}/")}
        assert own
        rest -= own
    for command in plan.commands & PRODUCTS.keys():
        rest = {path for path in rest if not PRODUCTS[command].fullmatch(path)}
    # links by which a listed unit starts at boot, and what config_tree remembers of its files
    enabled = {path for path in rest if re.search(r"\.(wants|requires)/[^/]+$", path)}
    assert {path.rpartition("/")[2] for path in enabled} <= plan.units.keys()
    records = {path for path in rest if re.fullmatch(r"/var/lib/mailwright/config/([\w-]+\.json|\.lock)", path)}
    # what the host keeps so that it can take the firewall back
    guard = {path for path in rest if re.fullmatch(r"/var/lib/mailwright/(txn|snapshots)/.*", path)}
    assert rest - enabled - records - guard == set()


def test_exactly_the_listed_rows_are_in_the_database(host: Target, plan: Listed, applied: Listed) -> None:
    kinds = ("+domain ", "+mailbox ", "+alias ", "+sender ")
    assert applied
    assert {line for line in plan.rows if line.startswith(kinds)} == row_lines(database(host))
    others = {line for line in plan.rows if not line.startswith(kinds)}
    roles = host.ssh("su postgres -c 'psql -AtXc \"SELECT rolname FROM pg_roles WHERE oid >= 16384\"'").split()
    databases = host.ssh("su postgres -c 'psql -AtXc \"SELECT datname FROM pg_database WHERE oid >= 16384\"'").split()
    assert {line.split()[1] for line in others if line.startswith("+role ")} == set(roles)
    assert {line.split()[1] for line in others if line.startswith("+database ")} == set(databases)
    assert {line.split()[0] for line in others} == {"+role", "+database", "+key", "+migration"}


def nothing_to_do(host: Target, *arguments: str) -> None:
    result = host.site("--diff", *arguments)
    assert read(result).nothing
    assert recap(result, host.name)["changed"] == 0


@pytest.mark.usefixtures("applied")
def test_a_configured_host_has_an_empty_plan(host: Target) -> None:
    nothing_to_do(host, "--check")
    nothing_to_do(host)


def globex(host: Target, mailboxes: list[dict[str, Any]], path: Path) -> tuple[str, str]:
    """Arguments that put other mailboxes into globex.test's file of the inventory."""
    domain = {"name": "globex.test", "mta_sts": "testing", "mailboxes": mailboxes}
    path.write_text(json.dumps({"mail_domains__globex": [domain]}))
    assert "mail_domains__globex" in host.variables
    return ("-e", f"@{path}")


CAROL = {"name": "carol", "display_name": "Carol Globex", "password": "unused: set below"}
DORA = {"name": "dora", "display_name": "Dora Globex", "password": "a-password-for-dora", "quota": "2G"}


@pytest.mark.usefixtures("applied")
@pytest.mark.parametrize(
    ("after", "lines", "touched"),
    [
        pytest.param(
            [DORA],
            {'+mailbox dora@globex.test quota=2147483648 enabled=yes name="Dora Globex" password=<set>'},
            {"mailbox", "sender"},
            id="added",
        ),
        pytest.param(
            [{**DORA, "quota": "3G"}],
            {
                '-mailbox dora@globex.test quota=2147483648 enabled=yes name="Dora Globex" password=<set>',
                '+mailbox dora@globex.test quota=3221225472 enabled=yes name="Dora Globex" password=<set>',
            },
            {"mailbox"},
            id="quota",
        ),
        pytest.param(
            [],
            {'-mailbox dora@globex.test quota=3221225472 enabled=yes name="Dora Globex" password=<set>'},
            {"mailbox", "sender"},
            id="removed",
        ),
    ],
)
def test_one_mailbox_is_one_line(
    host: Target,
    tmp_path: Path,
    after: list[dict[str, Any]],
    lines: set[str],
    touched: set[str],
) -> None:
    carol = {**CAROL, "password": host.lab.password}
    later = globex(host, [carol, *after], tmp_path / "globex.json")
    files, rows = host.snapshot(), flat(database(host))
    for options in (("--check", "--diff"), ("--diff",)):
        # so far only planned
        assert (host.snapshot(), flat(database(host))) == (files, rows)
        result = host.site(*options, *later)
        assert read(result) == Listed(rows=lines)
        assert recap(result, host.name)["changed"] == 1
    assert host.snapshot() == files
    difference = rows ^ flat(database(host))
    assert all("dora@globex.test" in row for row in difference)
    assert {row.split()[0] for row in difference} == touched
    assert len(difference) == 2
    nothing_to_do(host, *later)


CLAMAV_UNITS = ("clamav-daemon.service", "clamav-daemon.socket", "clamav-freshclam.service")


@pytest.mark.usefixtures("applied")
@pytest.mark.parametrize("wanted", [False, True], ids=["off", "on"])
def test_a_feature_goes_and_comes_back_as_planned(host: Target, wanted: bool) -> None:
    features = ("-e", json.dumps({"mail_features": {"clamav": wanted}}))
    before = host.snapshot()
    planned = read(host.site("--check", "--diff", *features))
    assert changed_paths(before, host.snapshot()) == set()
    done = read(host.site("--diff", *features))
    assert done == planned
    after = host.snapshot()
    # besides the files: what makes ClamAV start at boot, and config_tree's own record
    besides = re.compile(r"/etc/systemd/system/[^/]+\.wants(/clamav-[\w.-]+)?|/etc/rc\d\.d/...clamav-.*|/etc/clamav")
    records = {f"/var/lib/mailwright/config/{name}.json" for name in ("clamav", "rspamd")}
    changed = {path for path in changed_paths(before, after) - records if not besides.fullmatch(path)}
    assert {path for path in changed if "directory" not in (before | after)[path]} == planned.files
    assert "/etc/clamav/clamd.conf" in planned.files
    assert not any((planned.rows, planned.packages, planned.keys, planned.secrets))
    ask = f"systemctl is-enabled {' '.join(CLAMAV_UNITS)}; systemctl is-active {CLAMAV_UNITS[0]}"
    states = host.ssh(ask, check=False)
    if wanted:
        assert states.split() == ["enabled"] * 3 + ["active"]
        assert planned.units["clamav-daemon.service"] == "started"
    else:
        assert all(path in before and path not in after for path in planned.files)
        assert states.split() == ["disabled"] * 3 + ["inactive"]
        assert planned.units["clamav-daemon.service"] == "stopped"
    nothing_to_do(host, *features)


API = {
    "keys": [{"name": "shop", "domain": "acme.test", "scopes": ["emails.write"], "key": f"mw_{'0' * 12}_{'1' * 48}"}],
    "limits": [{"domain": "acme.test", "requests_per_minute": 600}],
    "warmup": {"relay": "[relay.example.net]:587"},
    "tenants": [{"name": "acme", "domains": ["acme.test"]}],
    "operator_keys": [{"name": "portal", "scopes": ["tenants.read"], "key": f"mw_{'2' * 12}_{'1' * 48}"}],
}
# what systemd-sysusers, enabling a unit, and config_tree itself write, and the packages that the host keeps
BESIDE_API = re.compile(
    r"/etc/(passwd|group|shadow|gshadow)-?|/etc/systemd/system/[^/]+\.wants(/mailwright-[\w.-]+)?|"
    r"/var/lib/mailwright/config/(api|postfix|postgresql)\.json|/etc/ld\.so\.cache|"
    r"/var/lib/mailwright/packages/[^/]+\.deb"
)


@pytest.mark.faults
@pytest.mark.usefixtures("applied")
@pytest.mark.parametrize("wanted", [API, None], ids=["on", "off"])
def test_the_sending_api_comes_and_goes_as_planned(host: Target, wanted: dict[str, Any] | None) -> None:
    """Without mail_api there is nothing of it, before and afterwards; its packages, database and keys stay."""
    options = ("-e", json.dumps({"mail_api": wanted})) if wanted else ()
    before, rows = host.snapshot(), flat(database(host))
    found = (
        "systemctl list-unit-files 'mailwright-api.*' 'mailwright-dispatch.*' 'mailwright-webhooks.*' "
        "'mailwright-domains.*' --no-legend; "
        "ls /run/mailwright-api.sock"
    )
    assert (host.ssh(found, check=False) == "") is bool(wanted)
    planned = read(host.site("--check", "--diff", *options))
    assert changed_paths(before, host.snapshot()) == set()
    done = read(host.site("--diff", *options))
    assert done == planned
    after = host.snapshot()
    changed = {path for path in changed_paths(before, after) if "directory" not in (before | after)[path]}
    assert {path for path in changed if not BESIDE_API.fullmatch(path)} == planned.files
    assert flat(database(host)) == rows
    api = {path for path in planned.files if "mailwright/api" in path}
    assert api and "/etc/postfix/master.cf" in planned.files
    if wanted:
        assert {name for name, _version in planned.packages} >= {"python3-fastapi", "python3-psycopg-pool"}
        key = "+key acme.test 'shop' id=000000000000 scopes=emails.write"
        assert key in planned.rows and "+role mailwright_api" in planned.rows
        assert {
            "+limit acme.test requests_per_minute=600", "+tenant 'acme'", "+tenant 'acme' domain=acme.test",
            "+operator key 'portal' id=222222222222 scopes=tenants.read",
        } <= set(planned.rows)  # fmt: skip
        assert "1" * 48 not in host.site("--check", "--diff", *options).stdout
    else:
        assert not planned.packages and not planned.rows
        assert all(path in before and path not in after for path in api)
        assert host.ssh(found, check=False) == ""
    nothing_to_do(host, *options)
