# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An error planted in any one template: the apply fails at that service's checker and the host is as it was.

Errors are planted in a copy of the collection. Each role is applied alone, with the model, as site would apply it.
Certbot's templates and the backup's depend on the inventory: test_acme.py and test_backup.py plant errors in those.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.mailwright.server.tests.integration.throwaway import (
    Result,
    Target,
    bare_host,
    changed_paths,
    copy_collection,
    recap,
)
from connection import CHECKOUT, Lab, wait_until

GARBAGE = "!!! planted {"
HOSTNAME = "mx1.acme.test"


# --- what may go wrong ----------------------------------------------------------------------------------------------


def at_the_end(text: str) -> str:
    # three words are a valid line of pg_ident.conf
    if "MAPNAME" in text:
        return f"{text.rstrip()}\nplanted {{\n"
    return f"{text.rstrip()}\n{GARBAGE}\n"


def at_the_start(text: str) -> str:
    """For programs, which may have ended before their last line: after the first line."""
    first, _newline, rest = text.partition("\n")
    return f"{first}\n{'if then (' if 'bin/sh' in first else GARBAGE}\n{rest}"


def swapped(old: str, new: str) -> Callable[[str], str]:
    """Another value for something; fails when the template no longer holds it."""

    def edit(text: str) -> str:
        assert old in text, f"the template no longer holds {old!r}"
        return text.replace(old, new)

    return edit


def added(line: str) -> Callable[[str], str]:
    return lambda text: f"{text.rstrip()}\n{line}\n"


# Beyond garbage: (role, target path, what, edit).
SEMANTIC: list[tuple[str, str, str, Callable[[str], str]]] = [
    ("base", "/etc/sysusers.d/mailwright.conf", "no-such-type", added("q vmail2 - -")),
    ("base", "/etc/tmpfiles.d/mailwright.conf", "bad-mode", swapped("0750", "rwxr-x---")),
    ("base", "/etc/apt/apt.conf.d/80mailwright", "unclosed", swapped('keep-packages";', 'keep-packages"')),
    ("base", "/usr/local/lib/mailwright/keep-packages", "unclosed", swapped("    esac ||", "    ||")),
    ("resolver", "/etc/unbound/unbound.conf", "unknown-option", swapped("    prefetch: yes", "    prefetsch: yes")),
    ("resolver", "/etc/unbound/unbound.conf", "bad-address", swapped("interface: ::1", "interface: ::g")),
    ("resolver", "/etc/resolv.conf", "no-server", swapped("nameserver 127.0.0.1\n", "")),
    ("firewall", "/etc/nftables.conf", "no-such-hook", swapped("hook input", "hook inputt")),
    ("firewall", "/etc/fail2ban/jail.d/mailwright.local", "no-such-filter", swapped("= mailwright-dovecot", "= none")),
    ("firewall", "/etc/fail2ban/filter.d/mailwright-dovecot.conf", "bad-expression", swapped("<HOST>", "(<HOST>")),
    ("postgresql", "/etc/postgresql/17/main/conf.d/mailwright.conf", "unknown-setting", added("max_conections = 5")),
    ("postgresql", "/etc/postgresql/17/main/conf.d/mailwright.conf", "bad-value", swapped("jit = off", "jit = maybe")),
    ("postgresql", "/etc/postgresql/17/main/pg_hba.conf", "unknown-method", swapped("peer map", "pier map")),
    ("redis", "/etc/redis/redis.conf", "unknown-directive", added("maxmemmory 1mb")),
    ("redis", "/etc/redis/redis.conf", "bad-value", swapped("appendfsync everysec", "appendfsync daily")),
    ("clamav", "/etc/clamav/clamd.conf", "unknown-option", added("MaxTreads 4")),
    ("clamav", "/etc/clamav/freshclam.conf", "bad-value", added("MaxAttempts many")),
    ("rspamd", "/etc/rspamd/local.d/worker-proxy.inc", "unclosed", swapped("    self_scan = yes;\n}", "")),
    ("rspamd", "/etc/rspamd/lua.local.d/sender.lua", "no-such-function", swapped("register_symbol", "regster_symbol")),
    ("rspamd", "/etc/mailwright/dns/records.zone", "bad-record", added("x.acme.test. 300 IN A 300.1.1.1")),
    ("dovecot", "/etc/dovecot/dovecot.conf", "unknown-setting", added("mail_loction = x")),
    ("dovecot", "/etc/dovecot/dovecot.conf", "wrong-path", swapped("}}/privkey.pem", "}}/no-such-key.pem")),
    ("dovecot", "/etc/dovecot/sieve/spam-to-junk.sieve", "unknown-command", added("fleinto :create \"Junk\";")),
    ("dovecot", "/etc/dovecot/sieve/deliver-once.sieve", "no-extension", swapped('"index", ', "")),
    ("dovecot", "/etc/systemd/system/mailwright-index.service", "wrong-path", swapped("/index-new", "/index")),
    ("dovecot", "/etc/systemd/system/mailwright-index.timer", "bad-time", swapped("=1min", "=soon")),
    ("dovecot", "/usr/local/lib/mailwright/index-new-mail", "unclosed", swapped("connect(", "connect((")),
    ("postfix", "/etc/postfix/main.cf", "unknown-parameter", added("smtpd_no_such_parameter = yes")),
    ("postfix", "/etc/postfix/main.cf", "wrong-path", swapped("sql/mailboxes.cf", "sql/boxes.cf")),
    ("postfix", "/etc/postfix/main.cf", "unknown-restriction", swapped("reject_unauth_destination", "reject_unauth")),
    ("postfix", "/etc/postfix/master.cf", "bad-type", added("2525 innet n - y - - smtpd")),
    ("postfix", "/etc/postfix/sql/domains.cf", "no-such-table", swapped("domain", "domein")),
    ("postfix", "/etc/postfix/sql/forwarded.cf", "no-such-table", swapped("directory.domain", "directory.domein")),
    ("postfix", "/usr/local/lib/mailwright/note-deliveries", "unclosed", swapped("note(deliv", "note((deliv")),
    ("postfix", "/etc/postfix/srs/recipients", "unclosed", swapped(")$/", "$/")),
    ("postfix", "/etc/postfix/srs/senders", "no-such-group", swapped("$1", "$2")),
    ("web", "/etc/nginx/nginx.conf", "unknown-directive", swapped("sendfile on;", "sendfiles on;")),
    ("web", "/etc/nginx/nginx.conf", "wrong-path", swapped("}}/privkey.pem", "}}/no-such-key.pem")),
    ("web", "/etc/nginx/mailwright-servers.d/autoconfig.conf", "wrong-path", swapped("mailwright.d", "mailwrong.d")),
    ("web", "/var/lib/mailwright/autoconfig/config-v1.1.xml", "unclosed", swapped("</clientConfig>", "")),
    ("mta_sts", "/etc/mta-sts-daemon.yml", "unknown-setting", swapped("tlsrpt:", "tlsreport:")),
    ("mta_sts", "/etc/mta-sts-daemon.yml", "bad-value", swapped("port: 8461", "port: smtp")),
    ("mta_sts", "/usr/local/lib/mailwright/mta-sts-daemon", "unclosed", swapped("usable(record)", "usable(rec")),
    ("transaction", "/etc/systemd/system/mailwright-recovery.service", "unknown-key",
     added("[Service]\nRestat=always")),
    ("api", "/etc/mailwright/api.json", "unknown-setting", swapped("'keep_days'", "'keep_dayz'")),
    ("api", "/etc/mailwright/api.json", "bad-value", swapped("api_connections", "0")),
    ("api", "/etc/mailwright/api.json", "no-schedule", swapped("else none}", "else {'schedule': [0]} }")),
    ("api", "/etc/nginx/mailwright.d/api.conf", "wrong-path", swapped("proxy_set_header Host", "include /etc/none; #")),
    ("api", "/etc/systemd/system/mailwright-api.service", "unknown-key", added("[Service]\nRestat=always")),
    ("api", "/etc/systemd/system/mailwright-dispatch.service", "unknown-key", added("[Service]\nRestat=always")),
    ("api", "/etc/mailwright/api.json", "no-network", swapped("api_webhook_networks", "['10.0.0.1/8']")),
    ("api", "/etc/systemd/system/mailwright-webhooks.service", "unknown-key", added("[Service]\nRestat=always")),
    ("api", "/etc/systemd/system/mailwright-domains.path", "no-such-unit", added("[Path]\nUnit=none.servize")),
    ("api", "/etc/systemd/system/mailwright-domains.service", "unknown-key", added("[Service]\nRestat=always")),
    ("api", "/usr/local/lib/mailwright/api/mailwright_api/hosting.py", "no-name", swapped("public_text\n", "public\n")),
    ("rspamd", "/etc/rspamd/local.d/dkim_signing.conf", "unclosed", added("domain {")),
    ("api", "/usr/local/lib/mailwright/api/mailwright_api/post.py", "no-name", swapped("import inbound,", "import x,")),
    ("api", "/etc/systemd/system/mailwright-api.socket", "bad-value", swapped("Backlog=1024", "Backlog=many")),
    ("api", "/etc/sysusers.d/mailwright-api.conf", "no-such-type", added("q mailwright-x - -")),
    ("api", "/usr/local/lib/mailwright/api/mailwright_api/app.py", "no-scope", swapped("@scope(PUBLIC)\n", "")),
    (
        "api",
        "/usr/local/lib/mailwright/api/mailwright_api/tenants.py",
        "not-an-operator's",
        swapped('@scope("tenants.write", OPERATOR)\n', '@scope("tenants.write")\n'),
    ),
    ("api", "/usr/local/lib/mailwright/api/mailwright_api/outbox.py", "no-name", swapped("    dsn,\n", "    dsm,\n")),
    ("acme", "/etc/mailwright/acme/settings.json", "no-hostname", swapped("'hostname'", "'hostnam'")),
    ("acme", "/etc/mailwright/acme/ca.pem", "no-certificate",
     swapped("{{ lookup('ansible.builtin.file', mail_model.tls.acme.ca_file) }}", f"-----BEGIN {GARBAGE}-----")),
    ("backup", "/etc/systemd/system/mailwright-backup.timer", "no-calendar",
     swapped("{{ mail_model.backup.schedule }}", "sometimes")),
    ("backup", "/etc/systemd/system/mailwright-backup.service", "unknown-key", added("[Service]\nRestat=always")),
    ("backup", "/etc/mailwright/backup/settings.json", "no-repository", swapped("'repository'", "'repo'")),
    ("backup", "/etc/mailwright/backup/ssh_key", "no-key", swapped("{{ mail_model", "planted {{ mail_model")),
    ("backup", "/etc/mailwright/backup/ca.pem", "no-certificate",
     swapped("{{ lookup('ansible.builtin.file', mail_model.backup.ca_file) }}", f"-----BEGIN {GARBAGE}-----")),
    ("reports", "/etc/systemd/system/mailwright-reports.timer", "bad-time", swapped("*:0/5", "*:0/five")),
    ("reports", "/etc/systemd/system/mailwright-reports.service", "unknown-key", swapped("UMask=", "Umaks=")),
    ("reports", "/etc/systemd/system/mailwright-tls-results.socket", "bad-mode", swapped("0600", "rw-------")),
    ("reports", "/usr/local/lib/mailwright/send-tls-reports", "unclosed", swapped("send(", "send((")),
    ("reports", "/etc/mailwright/blocklists.json", "no-lists", swapped("'lists'", "'list'")),
    ("reports", "/etc/systemd/system/mailwright-blocklists.timer", "bad-time", swapped("=1h", "=hourly")),
    ("reports", "/usr/local/lib/mailwright/ask-blocklists", "unclosed", swapped("listings(", "listings((")),
    ("roundcube", "/etc/nginx/mailwright.d/webmail.conf", "wrong-path", added("include /etc/nginx/none.conf;")),
    ("roundcube", "/etc/php/8.4/fpm/pool.d/www.conf", "no-such-user", swapped("user = www-data", "user = nobody2")),
]  # fmt: skip
# The same for each drop-in of a unit.
UNKNOWN_KEY = ("unknown-key", added("[Service]\nRestat=always"))

# What no program can judge, and why.
UNCHECKABLE: dict[tuple[str, str], str] = {
    ("acme", "/etc/mailwright/acme/ca.pem"): "what is between certificates is comment",
    ("backup", "/etc/mailwright/backup/ca.pem"): "what is between certificates is comment",
    ("backup", "/etc/mailwright/backup/ssh_key"): "what follows a key is comment",
}


@dataclass(frozen=True)
class Plant:
    """One error: which role's template, where it lands on the host, what is done to it."""

    role: str
    source: str
    target: str
    what: str
    edit: Callable[[str], str]

    @property
    def name(self) -> str:
        return f"{self.role}-{self.what}:{self.target}"


def plants() -> list[Plant]:
    """Garbage for every template, and the table's errors."""
    found = []
    semantic = list(SEMANTIC)
    for path in sorted(CHECKOUT.glob("roles/*/templates/**/*")):
        source = path.relative_to(CHECKOUT).as_posix()
        role, inside = source.split("/")[1], source.split("/", 3)[3]
        if not path.is_file() or inside.startswith("_macros/") or path.name == ".gitkeep":
            continue
        target = "/" + inside.removesuffix(".j2")
        if (role, target) not in UNCHECKABLE:
            program = path.stat().st_mode & 0o100 or path.suffix == ".php"
            found.append(Plant(role, source, target, "garbage", at_the_start if program else at_the_end))
        if re.search(r"/systemd/system/[^/]+\.d/", target):
            found.append(Plant(role, source, target, *UNKNOWN_KEY))
        for entry in [e for e in semantic if e[:2] == (role, target)]:
            found.append(Plant(role, source, target, *entry[2:]))
            semantic.remove(entry)
    assert not semantic, f"these are no templates: {[entry[:3] for entry in semantic]}"
    return found


PLANTS = plants()
# One of each service always runs, the rest are sampled.
ALWAYS = {next(p.name for p in PLANTS if p.role == role and p.what != "garbage") for role in {p.role for p in PLANTS}}


# --- the host -------------------------------------------------------------------------------------------------------

ROLE_PLAY: list[dict[str, Any]] = [
    {
        "hosts": "mailservers",
        "gather_facts": False,
        "vars": {"ansible_pipelining": True, "mail_model": "{{ planted.model }}"},
        "tasks": [
            {"mailwright.server.model": {}, "register": "planted"},
            # what the file of all records is made from
            {"ansible.builtin.import_role": {"name": "mailwright.server.certificates", "tasks_from": "records"}},
            {"ansible.builtin.import_role": {"name": "ROLE"}},
        ],
    }
]

UNITS = {
    "base": ["systemd-journald.service"],
    "resolver": ["unbound.service"],
    "firewall": ["nftables.service", "fail2ban.service"],
    "postgresql": ["postgresql@17-main.service"],
    "redis": ["redis-server.service"],
    "clamav": ["clamav-daemon.service", "clamav-freshclam.service"],
    "rspamd": ["rspamd.service"],
    "dovecot": ["dovecot.service"],
    "postfix": ["postfix.service", "postsrsd.service"],
    "web": ["nginx.service"],
    "mta_sts": ["postfix-mta-sts-resolver.service"],
    "acme": ["certbot.timer"],
    "backup": ["mailwright-backup.timer", "mailwright-backup-check.timer"],
    "reports": [
        "mailwright-reports.timer",
        "mailwright-dmarc-reports.timer",
        "mailwright-tls-results.socket",
        "mailwright-tls-results.service",
        "mailwright-tls-reports.timer",
    ],
    "transaction": ["mailwright-recovery.service"],
    "roundcube": ["php8.4-fpm.service", "nginx.service"],
    "api": [
        "mailwright-api.socket",
        "mailwright-api.service",
        "mailwright-dispatch.service",
        "mailwright-webhooks.service",
        "mailwright-domains.path",
        "nginx.service",
    ],
}

# Their own tests have the inventories with which all their templates are used.
ELSEWHERE = {"acme", "backup", "metrics", "transaction"}

RESOLVE = """import dns.resolver as r
q = r.Resolver(configure=False)
q.nameservers = ["127.0.0.1"]
print("found", q.resolve("mx1.acme.test", "A")[0])"""
PING_CLAMD = """import socket
s = socket.socket(socket.AF_UNIX)
s.connect("/run/clamav/clamd.ctl")
s.send(b"zPING\\0")
print(s.recv(9).decode())"""
PING_RSPAMD = """import urllib.request as u
print(u.urlopen("http://127.0.0.1:11334/ping").read().decode())"""

# A question on the host, and what its answer begins with. The others are asked from outside.
QUESTIONS = {
    "base": ("logger -t planted hello; journalctl --sync; journalctl -t planted -n 1 -o cat", "hello"),
    "resolver": (f"python3 -c '{RESOLVE}'", "found"),
    "firewall": ("nft list table inet mailwright | head -n 1; fail2ban-client ping", "table inet mailwright {\nServer"),
    "postgresql": ("su postgres -c 'psql -AtXc \"SELECT 42\"'", "42"),
    "redis": ("redis-cli -s /run/redis/redis-server.sock ping", "PONG"),
    "clamav": (f"python3 -c '{PING_CLAMD}'", "PONG"),
    "mta_sts": ("postmap -q status.invalid socketmap:inet:127.0.0.1:8461:postfix 2>&1 || echo none", "none"),
    "rspamd": (f"python3 -c '{PING_RSPAMD}'", "pong"),
    "reports": ("systemctl start mailwright-reports.service && echo read", "read"),
}


def serves(host: Target, role: str) -> None:
    """Use the service; raises when it does not answer."""
    if role in QUESTIONS:
        command, answer = QUESTIONS[role]
        assert host.ssh(command).startswith(answer)
    elif role == "dovecot":
        with host.lab.imap("alice@acme.test", host.name) as box:
            assert box.select("INBOX", readonly=True)[0] == "OK"
    elif role == "postfix":
        with host.lab.submission("alice@acme.test", host.name) as connection:
            assert connection.mail("alice@acme.test")[0] == 250
            assert connection.rcpt("bob@acme.test")[0] == 250
    else:
        context = host.lab.tls()
        context.check_hostname = False
        web = http.client.HTTPSConnection(host.lab.address(host.name), timeout=30, context=context)
        # nginx answers to its own name only
        web.sock = _connect(host, context)
        path = "/api/v1/readyz" if role == "api" else "/"
        web.request("GET", path, headers={"Host": HOSTNAME})
        page = web.getresponse()
        assert page.status == 200
        assert (b"ok" if role == "api" else b"rcmloginuser") in page.read()


def _connect(host: Target, context: ssl.SSLContext) -> ssl.SSLSocket:
    plain = socket.create_connection((host.lab.address(host.name), 443), timeout=30)
    return context.wrap_socket(plain, server_hostname=HOSTNAME)


def processes(host: Target, role: str) -> dict[str, dict[str, str]]:
    """Each unit's state, main process and when it came up."""
    keys = "Id,ActiveState,SubState,MainPID,ActiveEnterTimestampMonotonic,NRestarts,UnitFileState"
    text = host.ssh(f"systemctl show -p {keys} -- {' '.join(UNITS[role])}")
    blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in text.strip().split("\n\n")]
    return {block["Id"]: block for block in blocks}


@dataclass(frozen=True)
class Field:
    """A configured host and a copy of the collection in which errors are planted."""

    host: Target
    root: Path
    plays: Path

    def apply(self, role: str, **variables: Any) -> Result:
        play = json.loads(json.dumps(ROLE_PLAY).replace("ROLE", f"mailwright.server.{role}"))
        path = self.plays / f"{role}.yml"
        path.write_text(yaml.safe_dump(play))
        return self.host.playbook(str(path), "-e", json.dumps(variables))

    @contextlib.contextmanager
    def planted(self, source: str, edit: Callable[[str], str]) -> Iterator[None]:
        path = self.root / source
        good = path.read_text()
        bad = edit(good)
        assert bad != good
        path.write_text(bad)
        try:
            yield
        finally:
            path.write_text(good)


def failure(result: Result, role: str) -> str:
    """The message of the failed task, which must be that role's config_tree."""
    assert result.returncode != 0, f"nobody noticed:\n{result.stdout[-2000:]}"
    fatal = re.search(r"^fatal: \[[^]]+\]: FAILED! => (\{.*\})$", result.stdout, re.MULTILINE)
    assert fatal, result.stdout[-3000:] + result.stderr
    task = re.findall(r"^TASK \[(.*?)\]", result.stdout[: fatal.start()], re.MULTILINE)[-1]
    assert task.startswith(f"mailwright.server.{role} : "), task
    message: str = json.loads(fatal[1])["msg"]
    return message


@pytest.fixture(scope="module")
def field(server: Any, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Field:
    """The host under test, in the state that the copied collection gives it."""
    directory = tmp_path_factory.mktemp("planted")
    root = copy_collection(directory / "collections")
    field = Field(Target.make(lab, server.name, directory, directory / "collections"), root, directory)
    for options in ((), ("--check",)):
        result = field.host.site(*options)
        assert result.returncode == 0, result.stdout[-3000:]
    assert recap(result, server.name)["changed"] == 0
    return field


def planted_in(*roles: str) -> pytest.MarkDecorator:
    """Each of those roles' errors as a test's parameter ``plant``."""
    chosen = [plant for plant in PLANTS if plant.role in roles]
    return pytest.mark.parametrize(
        "plant",
        [pytest.param(p, id=p.name, marks=[] if p.name in ALWAYS else [pytest.mark.faults]) for p in chosen],
    )


@planted_in(*UNITS.keys() - ELSEWHERE)
def test_a_planted_error_changes_nothing(field: Field, plant: Plant) -> None:
    plant_and_compare(field, plant)
    serves(field.host, plant.role)


@planted_in("transaction")
def test_a_planted_error_in_what_an_update_brings_changes_nothing(field: Field, plant: Plant) -> None:
    plant_and_compare(field, plant)


def plant_and_compare(field: Field, plant: Plant, **variables: Any) -> None:
    """Apply the role with the error: it fails at its checker, and files and units are as before."""
    files, units = field.host.snapshot(), processes(field.host, plant.role)
    with field.planted(plant.source, plant.edit):
        message = failure(field.apply(plant.role, **variables), plant.role)
    assert re.match(r"nothing was changed: the check (['\"]).+\1 failed with exit code \d+:\n", message), message
    told = message.partition("\nstaged: ")[0].partition(":\n")[2]
    assert any(word in told for word in telling(plant)) or re.search(r"\bline \d+", told), message
    assert changed_paths(files, field.host.snapshot()) == set()
    assert processes(field.host, plant.role) == units
    # what an update brings runs at boot and during updates alone
    assert plant.role == "transaction" or all(unit["ActiveState"] == "active" for unit in units.values())


def telling(plant: Plant) -> set[str]:
    """What a message may hold so that one finds the error: the file's name, or a word that came with the error."""
    good = (CHECKOUT / plant.source).read_text()
    name = plant.target.rpartition("/")[2]
    edited = plant.edit(good)
    # whole settings, and their parts: a program may quote either
    words = {
        found
        for word in (r"""[^\s"'=(){};,]{3,}""", r"[\w-]{4,}")
        for found in set(re.findall(word, edited)) - set(re.findall(word, good))
    }
    # some programs name a file without its suffix
    return {plant.target, name, name.rpartition(".")[0] or name, *words} - {"mailwright.conf", "mailwright"}


MACROS = sorted(path.relative_to(CHECKOUT).as_posix() for path in CHECKOUT.glob("roles/*/templates/_macros/*.j2"))


@pytest.mark.faults
@pytest.mark.parametrize("source", [*MACROS, "roles/postfix/templates/etc/postfix/main.cf.j2"])
@pytest.mark.parametrize("error", ["{% if %}", "{{ no_such_variable }}"], ids=["syntax", "undefined"])
def test_a_template_that_does_not_render_reaches_no_host(field: Field, source: str, error: str) -> None:
    role = source.split("/")[1]

    def edit(text: str) -> str:
        # inside a macro, if there is one: outside of it nothing would come of the error
        return re.sub(r"({% macro .*?%})", rf"\1{error}", text) if "{% macro" in text else added(error)(text)

    files = field.host.snapshot()
    with field.planted(source, edit):
        message = failure(field.apply(role), role)
    assert message.startswith("nothing was sent to the host:\n")
    assert changed_paths(files, field.host.snapshot()) == set()
    serves(field.host, role)


# --- errors that no checker sees ------------------------------------------------------------------------------------

# The resolver holds port 53 of 127.0.0.1; 203.0.113.7 is nobody's address here; /run/none does not exist.
UNSEEN: list[tuple[str, str, str, Callable[[str], str]]] = [
    ("resolver", "etc/unbound/unbound.conf.j2", "foreign-address", swapped("interface: ::1", "interface: 203.0.113.7")),
    ("postgresql", "etc/postgresql/17/main/conf.d/mailwright.conf.j2", "taken-port",
     swapped("listen_addresses = ''", "listen_addresses = '127.0.0.1'\nport = 53")),
    ("redis", "etc/redis/redis.conf.j2", "taken-port", swapped("port 0", "bind 127.0.0.1\nport 53")),
    ("clamav", "etc/clamav/clamd.conf", "no-such-directory", swapped("/run/clamav/clamd.ctl", "/run/none/clamd.ctl")),
    ("rspamd", "etc/rspamd/local.d/worker-proxy.inc.j2", "no-such-directory", swapped("/run/rspamd/", "/run/none/")),
    ("dovecot", "etc/dovecot/dovecot.conf.j2", "taken-port",
     added("service imap-login {\n  inet_listener taken {\n    port = 53\n  }\n}")),
    ("postfix", "etc/postfix/master.cf.j2", "foreign-address", added("203.0.113.7:25 inet n - y - - smtpd")),
    ("postfix", "etc/postfix/master.cf.j2", "forgotten-port", swapped("('submission', 'no')", "('2587', 'no')")),
    ("web", "etc/nginx/nginx.conf.j2", "taken-port", swapped("        listen 80 default_server;",
     "        listen 80 default_server;\n        listen 127.0.0.1:53;")),
    ("roundcube", "etc/php/8.4/fpm/pool.d/www.conf.j2", "no-such-directory",
     swapped("listen = /run/php/mailwright.sock", "listen = /run/none/mailwright.sock")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("role", "source", "edit"),
    [
        pytest.param(role, f"roles/{role}/templates/{path}", edit, id=f"{role}-{what}",
                     marks=[] if role == "dovecot" else [pytest.mark.faults])
        for role, path, what, edit in UNSEEN
    ],
)  # fmt: skip
def test_a_service_that_does_not_come_up_is_put_back(
    field: Field, role: str, source: str, edit: Callable[[str], str]
) -> None:
    files = field.host.snapshot()
    with field.planted(source, edit):
        message = failure(field.apply(role), role)
    assert message.endswith("all files and units were put back"), message
    assert not message.startswith("nothing was changed"), "a checker saw it: plant another error"
    assert changed_paths(files, field.host.snapshot()) == set()
    units = processes(field.host, role)
    assert all(unit["ActiveState"] == "active" for unit in units.values()), units

    def answers() -> bool:
        with contextlib.suppress(OSError, RuntimeError):
            serves(field.host, role)
            return True
        return False

    wait_until(answers, 30, f"{role} serves again")
    # and the next good apply finds nothing to do
    result = field.apply(role)
    assert result.returncode == 0
    assert recap(result, field.host.name)["changed"] == 0


# --- a host that has nothing yet ------------------------------------------------------------------------------------


@pytest.mark.faults
def test_after_an_error_on_a_bare_host_a_good_apply_succeeds(tmp_path: Path) -> None:
    """Each service's first configuration fails once, then comes up."""
    with bare_host("mxbare", tmp_path) as host:
        root = tmp_path / "collections/ansible_collections/mailwright/server"
        field = Field(host, root, tmp_path)
        for role in ("resolver", "postgresql", "redis", "rspamd", "dovecot", "postfix", "web"):
            plant = next(p for p in PLANTS if p.role == role and p.what == "garbage")
            with field.planted(plant.source, plant.edit):
                message = failure(host.site(), role)
            assert message.startswith("nothing was changed: the check "), message
            assert host.ssh(f"systemctl is-failed {' '.join(UNITS[role])}", check=False).strip() != "failed"
            assert host.ssh(f"test -e /var/lib/mailwright/config/{role}.json && echo written", check=False) == ""
        assert host.site().returncode == 0
        assert recap(host.site("--check"), host.name)["changed"] == 0
        for role in UNITS.keys() - ELSEWHERE:
            serves(host, role)
