# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mailboxes come over from peer, a server that none of our roles set up: every message, flag, date and filter.

The tests build on each other, in order. With MAILWRIGHT_FAULTS=all there are 2,000 messages and all tests count as
fault tests, so that `make faults` is the migration at its full size; otherwise there are 300.
"""

from __future__ import annotations

import hashlib
import imaplib
import json
import os
import re
import ssl
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.mailwright.server.tests.integration.conftest import Server
from connection import Lab

FULL = os.environ.get("MAILWRIGHT_FAULTS") == "all"
MESSAGES = 2000 if FULL else 300
pytestmark = [pytest.mark.faults] if FULL else []
NAMES = [f"mover{number}" for number in range(5)]
PASSWORD = 'old "secret" % \\ pass'
SIEVE = 'require ["fileinto", "mailbox"];\nif header :contains "subject" "invoice" { fileinto :create "Invoices"; }\n'

# Runs on peer, as its users would: folders, messages, flags, dates, a copy, two that are alike, one without a body.
FILL = r"""
import imaplib, json, ssl, sys, time
user, password, count = json.loads(sys.argv[1])
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
box = imaplib.IMAP4_SSL("127.0.0.1", 993, ssl_context=context)
box.login(user, password)
folders = ["INBOX", "Sent", "Entw&APw-rfe", "&ZeVnLIqe-", "A&-B c", "Projekte/2024/M&APw-ller".replace("/", ".")]
for folder in folders[1:]:
    box.create(f'"{folder}"')
    box.subscribe(f'"{folder}"')
flags = ["", "\\Seen", "\\Seen \\Flagged", "\\Answered $Forwarded", "\\Seen work", "\\Deleted", "\\Draft"]
for number in range(count):
    lines = [f"From: x@peer.test", f"Subject: mover {number}", f"Message-ID: <{number}.{user}@peer.test>", "",
             *(f"Grüße {line} of {number}" for line in range(1 + number % 40)), ""]
    date = imaplib.Time2Internaldate(1700000000 - number * 86413 * 3)
    where, how = folders[number % len(folders)], flags[number % len(flags)]
    box.append(f'"{where}"', f"({how})", date, "\r\n".join(lines).encode())
box.select("INBOX")
box.copy("1", "Sent")
for _turn in range(2):
    box.append("INBOX", "", imaplib.Time2Internaldate(1600000000), b"Subject: alike\r\n\r\nalike\r\n")
box.append("INBOX", "", imaplib.Time2Internaldate(1600000000), b"Subject: no body\r\n\r\n")
box.logout()
"""
# What peer holds, in every detail that a source could notice.
FIELDS = "mailbox uid flags date.received size.physical"
CENSUS = f"for u in %s; do doveadm fetch -u $u '{FIELDS}' ALL; doveadm sieve list -u $u; done"


@dataclass(frozen=True)
class Migration:
    """The lab, the file with source and mailboxes, and the host's inventory with the new mailboxes."""

    server: Server
    inventory: Path
    file: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.server.lab.playbook(
            "-i", str(self.inventory), "mailwright.server.migrate", "-e", f"@{self.file}", *arguments
        )

    def lines(self, done: subprocess.CompletedProcess[str]) -> dict[str, str]:
        """The report's line for each mailbox."""
        found = re.findall(r"(mover\d@acme\.test): (.*?)(?=\\n|\",?$)", done.stdout.replace('\\"', "'"), re.MULTILINE)
        assert {address for address, _line in found} == {f"{name}@acme.test" for name in NAMES}, done.stdout[-3000:]
        return dict(found)

    def census(self) -> str:
        return self.server.lab.ssh("peer", CENSUS % " ".join(NAMES))


@pytest.fixture(scope="module")
def peer() -> Iterator[Lab]:
    """peer as an old mail server that also has ManageSieve; its INBOX is where its mail is delivered."""
    lab = Lab.load()
    install = "DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends dovecot-managesieved"
    lab.ssh(
        "peer", f"dpkg -s dovecot-managesieved >/dev/null 2>&1 || {{ apt-get -q update && {install}; }}", timeout=400
    )
    lab.ssh(
        "peer",
        "cp /etc/dovecot/local.conf /root/local.conf; echo 'mail_inbox_path = ~/Maildir' >>/etc/dovecot/local.conf",
    )
    lab.ssh("peer", "systemctl restart dovecot")
    for name in NAMES:
        lab.ssh("peer", f"userdel -r {name} 2>/dev/null; useradd -m {name}; chpasswd", data=f"{name}:{PASSWORD}")
        arguments = json.dumps([name, PASSWORD, MESSAGES // len(NAMES)]).replace("'", "'\\''")
        lab.ssh("peer", f"python3 - '{arguments}'", data=FILL, timeout=400)
        lab.ssh("peer", f"doveadm sieve put -u {name} -a Regeln", data=SIEVE)
        lab.ssh("peer", f"doveadm sieve put -u {name} 'another one'", data="keep;\n")
    try:
        yield lab
    finally:
        lab.ssh("peer", "; ".join(f"userdel -r {name}" for name in NAMES), check=False)
        lab.ssh("peer", "mv /root/local.conf /etc/dovecot/local.conf; systemctl restart dovecot")


@pytest.fixture(scope="module")
def migration(server: Server, peer: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Migration]:
    directory = tmp_path_factory.mktemp("migration")
    inventory = yaml.safe_load((peer.state / "inventory.yml").read_text())
    (domain,) = inventory["mailservers"]["vars"]["mail_domains"]
    domain["mailboxes"] += [{"name": name, "password": peer.password} for name in NAMES]
    path = directory / "inventory.yml"
    path.write_text(yaml.safe_dump(inventory))
    path.chmod(0o600)
    source = {"host": "peer.peer.test", "ca_file": peer.env["LAB_CA"], "sieve_port": 4190}
    boxes = [{"address": f"{name}@acme.test", "user": name, "password": PASSWORD} for name in NAMES]
    file = directory / "migration.yml"
    file.write_text(yaml.safe_dump({"migrate_source": source, "migrate_mailboxes": boxes}))
    # peer's mail service has a certificate of its own making; give it the one that it has for SMTP
    tls = "ssl_server_cert_file = /etc/ssl/peer.pem\nssl_server_key_file = /etc/ssl/peer.key\n"
    peer.ssh("peer", "cat >>/etc/dovecot/local.conf; systemctl restart dovecot", data=tls)
    done = peer.playbook("-i", str(path), "mailwright.server.site")
    assert done.returncode == 0, done.stdout[-3000:]
    try:
        yield Migration(server, path, file)
    finally:
        done = peer.playbook("mailwright.server.site", "-e", "directory_remove_limit=100")
        assert done.returncode == 0, done.stdout[-3000:]
        server.run("; ".join(f"rm -rf /var/vmail/acme.test/{name}" for name in NAMES))


def messages(server: Server, name: str) -> int:
    return len(server.run(f"doveadm search -u {name}@acme.test ALL").splitlines())


def test_a_plan_copies_nothing(migration: Migration) -> None:
    done = migration.run("--check")
    assert done.returncode == 0, done.stdout[-3000:]
    assert all(line.startswith("NOT COMPLETE") and "are missing" in line for line in migration.lines(done).values())
    assert [messages(migration.server, name) for name in NAMES] == [0] * len(NAMES)


def test_everything_comes_over_and_the_source_is_as_before(migration: Migration) -> None:
    before = migration.census()
    start = time.monotonic()
    look = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c 'old .secret'"
    watch = f"for i in $(seq 400); do {look}; sleep 0.2; done | sort -u"
    watcher = subprocess.Popen(
        ["ssh", "-F", str(migration.server.lab.state / "ssh_config"), migration.server.name, watch],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    done = migration.run()
    print(f"  {time.monotonic() - start:.0f} s")
    assert done.returncode == 0, done.stdout[-3000:]
    lines = migration.lines(done)
    per_box = MESSAGES // len(NAMES) + 4
    for address, line in lines.items():
        print(f"  {address}: {line}")
        assert re.match(rf"complete, \d folders, {per_box} messages compared, {per_box} added, filters ", line)
        assert "other flags" not in line
    assert migration.census() == before
    watcher.kill()
    seen = watcher.communicate()[0].split()
    assert set(seen) <= {"0", "1"}  # the search itself


def seen_by_imap(host: str, user: str, password: str) -> dict[str, Counter[tuple[str, ...]]]:
    """Of each folder with messages: how many have which flags, date and content."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # by address; who answers is not the question
    found = {}
    with imaplib.IMAP4_SSL(host, 993, ssl_context=context, timeout=60) as box:
        box.login(user, password)
        for line in box.list()[1]:
            separator, name = re.fullmatch(rb'\([^)]*\) "(.)" "?(.*?)"?', line).groups()  # type: ignore[arg-type, union-attr]
            if box.select(b'"' + name + b'"', readonly=True)[0] != "OK":  # type: ignore[arg-type]
                continue
            messages: Counter[tuple[str, ...]] = Counter()
            for part in box.uid("fetch", "1:*", "(FLAGS INTERNALDATE BODY.PEEK[])")[1]:
                if isinstance(part, tuple):
                    flags = sorted(set(re.search(rb"FLAGS \(([^)]*)\)", part[0])[1].decode().split()) - {"\\Recent"})  # type: ignore[index]
                    date = imaplib.Internaldate2tuple(part[0])
                    messages[*flags, str(time.mktime(date)), hashlib.sha256(part[1]).hexdigest()] += 1  # type: ignore[arg-type]
            if messages:
                found[name.decode().replace(separator.decode(), "/")] = messages
    return found


def test_every_message_is_the_same_by_imap(migration: Migration) -> None:
    """Not by the module's own word."""
    server, total = migration.server, 0
    for name in NAMES:
        theirs = seen_by_imap(server.lab.address("peer"), name, PASSWORD)
        assert theirs == seen_by_imap(server.address, f"{name}@acme.test", server.lab.password), name
        total += sum(messages.total() for messages in theirs.values())
    assert total >= MESSAGES
    print(f"  {total} messages of {len(NAMES)} mailboxes are the same: folder, flags, date, content")


def test_folders_dates_and_filters_are_what_the_host_shows(migration: Migration) -> None:
    server, name = migration.server, NAMES[0]
    status = "doveadm -f tab mailbox status -u {} messages '*' | sed 's/\\./\\//g' | sort"
    theirs = server.lab.ssh("peer", status.format(name)).splitlines()
    ours = server.run(status.format(f"{name}@acme.test")).splitlines()
    assert set(theirs) <= set(ours)
    assert any("日本語" in line for line in ours)
    assert any("Projekte/2024/Müller" in line for line in ours)
    fields = "flags date.received.unixtimestamp text"
    fetch = f"doveadm fetch -u {{}} '{fields}' mailbox INBOX header subject 'mover 6' | sed 's/ *.Recent//'"
    assert server.run(fetch.format(f"{name}@acme.test")) == server.lab.ssh("peer", fetch.format(name))
    listing = server.run(f"doveadm sieve list -u {name}@acme.test")
    assert re.search(r"^Regeln +ACTIVE$", listing, re.MULTILINE)
    assert server.run(f"doveadm sieve get -u {name}@acme.test Regeln").removeprefix("sieve script:\n") == SIEVE


def test_a_second_run_copies_only_what_is_new(migration: Migration) -> None:
    server, peer = migration.server, migration.server.lab
    start = time.monotonic()
    done = migration.run()
    print(f"  nothing new: {time.monotonic() - start:.0f} s")
    assert "changed=0" in done.stdout, done.stdout[-3000:]
    assert all(" 0 added" in line for line in migration.lines(done).values())
    # one new message there and one here, which get the same UID; some deleted there
    token = uuid.uuid4().hex
    first, second = NAMES[:2]
    peer.ssh("peer", f"doveadm save -u {first} -m INBOX", data=f"Subject: new {token}\n\nnew\n")
    peer.ssh("peer", f"doveadm expunge -u {second} mailbox Sent header subject 'mover 1'")
    server.run(f"doveadm save -u {first}@acme.test -m INBOX", data=f"Subject: here {token}\n\nhere\n")
    counts = {name: messages(server, name) for name in NAMES}
    done = migration.run()
    lines = migration.lines(done)
    assert "changed=1" in done.stdout
    assert " 1 added" in lines[f"{first}@acme.test"]
    assert all(" 0 added" in line for address, line in lines.items() if not address.startswith(first))
    assert {name: messages(server, name) for name in NAMES} == {**counts, first: counts[first] + 1}
    assert server.run(f"doveadm search -u {first}@acme.test header subject 'here {token}'").strip()


def test_what_does_not_match_is_found(migration: Migration) -> None:
    """The proof is one: a message that is changed here is said to be missing."""
    server, name = migration.server, NAMES[4]
    directory = f"/var/vmail/acme.test/{name}/Maildir"
    path = server.run(
        f"grep -l 'Subject: mover 12$' {directory}/cur/* {directory}/new/* 2>/dev/null | head -1", check=False
    ).strip()
    path = path or server.run(f"grep -lP 'Subject: mover 12\\r?$' {directory}/cur/* | head -1").strip()
    server.run(f"cp -p '{path}' /root/kept; sed -i 's/mover 12/mover 21/' '{path}'")
    try:
        done = migration.run("--check")
        assert "INBOX: 1 messages are missing" in migration.lines(done)[f"{name}@acme.test"]
    finally:
        server.run(f"cp -p /root/kept '{path}'; rm /root/kept")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"migrate_source": {"host": "peer.peer.test"}}, "certificate verify failed"),
        ({"migrate_source": {"host": "none.peer.test"}}, "none.peer.test:993:"),
        ({"migrate_mailboxes": [{"address": "mover0@acme.test", "user": "mover0", "password": "wrong"}]},
         "peer.peer.test:993: does not let mover0 in with the password given"),
        ({"migrate_mailboxes": [{"address": "nobody@acme.test", "user": "mover0", "password": PASSWORD}]},
         "nobody@acme.test"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_said(migration: Migration, change: dict[str, Any], message: str) -> None:
    done = migration.run("-e", json.dumps(change))
    assert done.returncode != 0
    assert message in done.stdout
    assert "secret" not in done.stdout
