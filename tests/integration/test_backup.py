# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The restore drill: a mail server is backed up to peer by SFTP, destroyed, and comes back whole on a fresh host.

The tests build on each other, in order. With MAILWRIGHT_FAULTS=all there are 2,000 messages and all tests count as
fault tests, so that `make faults` is the drill at its full size; otherwise there are 200. Mail is stored encrypted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import imaplib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dkim
import pytest
import yaml
from ansible_collections.mailwright.server.tests.integration.test_planted_errors import (
    Field,
    Plant,
    plant_and_compare,
    planted_in,
)
from ansible_collections.mailwright.server.tests.integration.throwaway import Result, Target, bare_host, recap
from connection import CHECKOUT, Lab, message, wait_until

NAME = "mxdrill"
FULL = os.environ.get("MAILWRIGHT_FAULTS") == "all"
MESSAGES = 2000 if FULL else 200
pytestmark = [pytest.mark.own_hosts, *([pytest.mark.faults] if FULL else [])]
USERS = [f"user{number:02}@drill.test" for number in range(20)]
BUSY = "busy@drill.test"
# What is deleted here comes back to this mailbox alone, so that the others are compared whole at the end.
REPENTANT = "repentant@drill.test"
FOLDERS = ("INBOX", "Sent", "Projekte/M&APw-ller &- S&APY-hne", "Archive/2025.old")
FLAGS = ("", "\\Seen", "\\Seen \\Flagged", "\\Answered $Forwarded", "\\Seen work")
NEW_PASSWORD = "changed in the webmail"
SIEVE = 'require ["fileinto", "mailbox"];\nif header :contains "subject" "invoice" { fileinto :create "Invoices"; }\n'
STORE = "/srv/vault"
VAULT = "vault"

Content = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A user on peer who may write into one directory, by SFTP with a key."""
    lab = Lab.load()
    key = tmp_path_factory.mktemp("key") / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    public = key.with_suffix(".pub").read_text()
    lab.ssh(
        "peer", f"userdel -r {VAULT} 2>/dev/null; rm -rf {STORE}; useradd -m -d {STORE} -s /bin/sh {VAULT}", check=False
    )
    lab.ssh("peer", f"install -d -m 700 -o {VAULT} {STORE}/.ssh; cat >{STORE}/.ssh/authorized_keys", data=public)
    host_key = " ".join(lab.ssh("peer", "cat /etc/ssh/ssh_host_ed25519_key.pub").split()[:2])
    try:
        yield {
            "repository": f"sftp://{VAULT}@{lab.address('peer')}{STORE}/mx",
            "password": "the drill's own password",
            "sftp": {"private_key": key.read_text(), "host_key": host_key},
        }
    finally:
        lab.ssh("peer", f"userdel -r {VAULT}; rm -rf {STORE}", check=False)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, repository: dict[str, Any]) -> Iterator[Target]:
    with bare_host(NAME, tmp_path_factory.mktemp("drill")) as target:
        inventory = yaml.safe_load(target.inventory.read_text())
        variables = inventory["mailservers"]["vars"]
        variables["mail_backup"] = repository
        boxes = [
            {"name": user.partition("@")[0], "password": target.lab.password} for user in [*USERS, BUSY, REPENTANT]
        ]
        variables["mail_features"] = {**variables.get("mail_features", {}), "mail_crypt": True}
        variables["mail_domains__drill"] = [{"name": "drill.test", "mailboxes": boxes}]
        target.inventory.write_text(yaml.safe_dump(inventory))
        done = target.site()
        assert done.returncode == 0, done.stdout[-3000:]
        yield target


def content(lab: Lab, user: str, password: str | None = None) -> Content:
    """All that IMAP says of a mailbox: each folder with its validity, its messages, flags and dates."""
    found: Content = {}
    with lab.imap(user, NAME, password) as box:
        for line in box.list()[1]:
            flags, name = re.fullmatch(rb'\(([^)]*)\) "/" (.*)', line).groups()  # type: ignore[arg-type, union-attr]
            if b"\\Noselect" in flags or b"\\NonExistent" in flags:
                continue
            name = name.decode().strip('"')
            assert box.select(f'"{name}"', readonly=True)[0] == "OK"
            validity = box.response("UIDVALIDITY")[1][0]
            messages = {}
            for part in box.uid("fetch", "1:*", "(UID FLAGS INTERNALDATE BODY.PEEK[])")[1]:
                if isinstance(part, tuple):
                    head = part[0].decode()
                    uid = int(re.search(r"UID (\d+)", head)[1])  # type: ignore[index]
                    flags = sorted(set(re.search(r"FLAGS \(([^)]*)\)", head)[1].split()) - {"\\Recent"})  # type: ignore[index]
                    date = re.search(r'INTERNALDATE "([^"]*)"', head)[1]  # type: ignore[index]
                    messages[uid] = [*flags, date, hashlib.sha256(part[1]).hexdigest()]
            found[name] = {"validity": validity, "messages": messages}
    return found


def count(found: Content) -> int:
    return sum(len(folder["messages"]) for folder in found.values())


def fill(lab: Lab, user: str, messages: int) -> None:
    """Messages of many kinds, dates and flags, in folders with names of many kinds."""
    with lab.imap(user, NAME) as box:
        for folder in FOLDERS[2:]:
            assert box.create(f'"{folder}"')[0] == "OK"
            box.subscribe(f'"{folder}"')
        for number in range(messages):
            body = "".join(f"Grüße {line} wort{number} zeile{number * line}\r\n" for line in range(1 + number % 50))
            mail = message("dave@peer.test", user, f"{user} {number}", body)
            date = time.time() - 86400 * 30 * number
            flags = FLAGS[number % len(FLAGS)]
            raw = mail.as_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
            folder = FOLDERS[number % len(FOLDERS)]
            assert box.append(f'"{folder}"', f"({flags})", imaplib.Time2Internaldate(date), raw)[0] == "OK"


def change_password(host: Target, user: str) -> None:
    """As the webmail does it."""
    hashed = host.ssh(f"doveadm pw -s ARGON2ID -p '{NEW_PASSWORD}'").strip()
    sql = f"SELECT directory.change_password('{user}', '{hashed}')"
    host.ssh("psql -h /run/postgresql -U roundcube -d mailwright -XAtq -v ON_ERROR_STOP=1", data=sql)


class Mover:
    """Somebody who moves and flags messages by IMAP and gets mail, all the time."""

    def __init__(self, host: Target, messages: int) -> None:
        self.host, self.messages = host, messages
        self.moves = 0
        self.failure: BaseException | None = None
        with host.lab.imap(BUSY, NAME) as box:
            for name in ("A", "B", "C"):
                box.create(name)
            for number in range(messages):
                mail = message("dave@peer.test", BUSY, f"busy {number}")
                box.append("A", "", imaplib.Time2Internaldate(time.time()), mail.as_bytes().replace(b"\n", b"\r\n"))
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            while not self._end.is_set():
                for source, target in (("A", "B"), ("B", "C"), ("C", "A")):
                    # the timer's indexer and a move can wait for each other for a minute (docs/architecture.md)
                    with self.host.lab.imap(BUSY, NAME, timeout=100) as box:
                        box.select(source)
                        numbers = box.search(None, "ALL")[1][0].split()
                        for number in reversed(numbers[len(numbers) // 2 :]):
                            if self._end.is_set():
                                return
                            assert box._simple_command("MOVE", number.decode(), target)[0] == "OK"
                            self.moves += 1
        except BaseException as error:
            self.failure = error
            # while it lasts
            print(
                self.host.ssh("uptime; doveadm who; ps -eo pid,stat,wchan:24,etimes,args | grep '[d]ovecot\\|[b]ackup'")
            )

    def __enter__(self) -> Mover:
        self._thread.start()
        return self

    def __exit__(self, *_reason: object) -> None:
        self._end.set()
        self._thread.join(60)
        if self.failure:
            raise self.failure

    def subjects(self) -> Counter[str]:
        found: Counter[str] = Counter()
        with self.host.lab.imap(BUSY, NAME) as box:
            for folder in ("INBOX", "A", "B", "C"):
                box.select(folder, readonly=True)
                for part in box.uid("fetch", "1:*", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")[1]:
                    if isinstance(part, tuple):
                        found[part[1].decode().strip()] += 1
        return found


@dataclasses.dataclass
class Original:
    """What the server was before it was lost."""

    mailboxes: dict[str, Content]
    mover: Mover
    keys: str
    selectors: set[str]
    learnt: str
    secrets: str
    tls: str
    minute: str  # of the first backup


KEYS = "cd /var/lib/mailwright/dkim && find . -type f ! -name '*.lock' -exec sha256sum {} + | sort"
SECRETS = "cd /etc/mailwright/secrets && find . -type f -exec sha256sum {} + | sort"
TLS = "sha256sum /etc/mailwright/tls/*/live/*"
LEARNT = "redis-cli -s /run/redis/redis-server.sock --scan --pattern 'RS*' | sort"


def unrevoked(keys: str) -> set[str]:
    """Lines of KEYS without the keys that were revoked: the next apply removes their files."""
    gone = {line.split()[1].removesuffix(".revoked") for line in keys.splitlines() if line.endswith(".revoked")}
    return {line for line in keys.splitlines() if line.split()[1].removesuffix(".key") not in gone}


def selectors(host: Target) -> set[str]:
    """Send a message by submission and say which keys signed it; each signature is verified with the host's records."""
    token = f"signed{time.time_ns()}"
    with host.lab.submission("alice@acme.test", NAME) as smtp:
        smtp.send_message(message("alice@acme.test", "dave@peer.test", token))
    raw = wait_until(lambda: host.lab.dave_has(token), 90, "the signed message is at peer").encode()
    zone = host.ssh("cat /etc/mailwright/dns/records.zone")
    lines = re.findall(r"^(\S+_domainkey\S+)\s+\d+\s+IN\s+TXT\s+(.*)$", zone, re.MULTILINE)
    records = {name.lower(): "".join(re.findall(r'"([^"]*)"', text)).encode() for name, text in lines}
    found = re.findall(rb"(?<=[ ;\t])s=(\w+);", b" ".join(re.findall(rb"(?mi)^DKIM-Signature:.*(?:\n[ \t].*)*", raw)))
    verifier = dkim.DKIM(raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    for index in range(len(found)):
        assert verifier.verify(
            idx=index, dnsfunc=lambda name, timeout=5: timeout and records.get(name.decode().lower())
        )
    return {selector.decode() for selector in found}


def backup(host: Target, *arguments: str) -> Result:
    return host.playbook("mailwright.server.backup", *arguments)


def state(host: Target) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.ssh("cat /var/lib/mailwright/backup/state.json"))
    return found


@pytest.fixture(scope="module")
def original(host: Target) -> Original:
    """A server with a life, backed up while mail is moved about."""
    lab = host.lab
    for user in USERS:
        fill(lab, user, MESSAGES // len(USERS))
    fill(lab, REPENTANT, 20)
    host.ssh(f"doveadm sieve put -u {USERS[0]} -a main", data=SIEVE)
    for user in USERS[:2]:
        change_password(host, user)
    # a key that was compromised: revoked, with a successor
    (old,) = re.findall(r"(\w+)\.key", host.ssh("ls /var/lib/mailwright/dkim/acme.test/*e????.key"))
    rotate = {"rotate_dkim_compromised": [{"domain": "acme.test", "selectors": [old]}], "rotate_dkim_immediate": True}
    done = host.playbook("mailwright.server.rotate_dkim", "-e", json.dumps(rotate))
    assert recap(done, NAME)["failed"] == 0, done.stdout[-3000:]
    assert f"{old}.revoked" in host.ssh("ls /var/lib/mailwright/dkim/acme.test")
    with lab.imap(USERS[2], NAME) as box:
        box.select("INBOX")
        # the third has words enough to learn from
        assert box._simple_command("MOVE", "3", "Junk")[0] == "OK"
    wait_until(lambda: host.ssh(LEARNT), 30, "the filter has learnt")
    signed = selectors(host)
    passwords = dict.fromkeys(USERS[:2], NEW_PASSWORD)
    mailboxes = {user: content(lab, user, passwords.get(user)) for user in [*USERS, REPENTANT]}
    mover = Mover(host, 150)
    with mover:
        wait_until(lambda: mover.moves > 20, 60, "messages move")
        before = mover.moves
        done = backup(host)
        print(f"  {mover.moves - before} messages moved while the backup ran")
    assert recap(done, NAME)["changed"] == 1, done.stdout[-3000:]
    print("  " + re.search(r"snapshot .*? s(?=\")", done.stdout)[0])  # type: ignore[index]
    assert mover.moves > before
    snapshot = host.ssh("mailwright-backup snapshots").splitlines()[0]
    minute = re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d", snapshot)[0]  # type: ignore[index]
    return Original(
        mailboxes, mover, host.ssh(KEYS), signed, host.ssh(LEARNT), host.ssh(SECRETS), host.ssh(TLS), minute
    )  # fmt: skip


# Message files without the header that mail_crypt gives them.
PLAIN = (
    "find /var/vmail/drill.test -type f \\( -path '*/cur/*' -o -path '*/new/*' \\) -print0 "
    "| xargs -0r grep -aL '^CRYPTED' || true"
)


def test_messages_are_encrypted_where_they_lie(host: Target, original: Original) -> None:
    assert original
    assert host.ssh(PLAIN) == ""
    assert host.ssh("stat -c '%a %U' /etc/mailwright/secrets/mail-crypt").strip() == "600 root"


@pytest.mark.faults
def test_encryption_is_ended_for_new_mail_alone_and_a_lost_key_is_not_replaced(
    host: Target, original: Original
) -> None:
    lab, user, key = host.lab, REPENTANT, "/etc/mailwright/secrets/mail-crypt"

    def append(subject: str) -> None:
        with lab.imap(user, NAME) as box:
            raw = message("dave@peer.test", user, subject).as_bytes().replace(b"\n", b"\r\n")
            assert box.append("INBOX", "", imaplib.Time2Internaldate(time.time()), raw)[0] == "OK"

    off = {"mail_features": {**host.variables["mail_features"], "mail_crypt": False}}  # type: ignore[dict-item]
    refused = host.site("-e", json.dumps(off))
    assert recap(refused, NAME)["failed"] == 1 and "leave mail_features.mail_crypt on" in refused.stdout
    try:
        done = host.site("-e", json.dumps({"dovecot_encrypt_new_mail": False}))
        assert recap(done, NAME)["failed"] == 0, done.stdout[-3000:]
        append("in the clear")
        (plain,) = host.ssh(PLAIN).split()
        assert "Subject: in the clear" in host.ssh(f"cat '{plain}'")
        readable = content(lab, user)
        assert count(readable) == count(original.mailboxes[user]) + 1
    finally:
        done = host.site()
        assert recap(done, NAME)["failed"] == 0, done.stdout[-3000:]
    append("encrypted again")
    assert host.ssh(PLAIN).split() == [plain]
    assert count(content(lab, user)) == count(readable) + 1
    host.ssh(f"doveadm expunge -u {user} mailbox INBOX '(' subject 'in the clear' or subject 'encrypted again' ')'")
    assert content(lab, user)["INBOX"]["messages"] == original.mailboxes[user]["INBOX"]["messages"]

    host.ssh(f"mv {key} {key}.aside")
    try:
        lost = host.site("--check")
        assert recap(lost, NAME)["failed"] == 1 and f"{key} is gone" in lost.stdout
        # a plan of a host that has no key yet
        host.ssh(f"mv {key}.pub {key}.pub.aside")
        planned = host.site("--check", "--diff")
        assert recap(planned, NAME)["failed"] == 0, planned.stdout[-3000:]
        assert f"{key}.pub root:root 0600 new content" in planned.stdout
    finally:
        host.ssh(f"for f in {key} {key}.pub; do [ ! -e $f.aside ] || mv $f.aside $f; done")
    host.ssh(
        f"cp -p {key}.pub {key}.pub.aside; openssl ecparam -name prime256v1 -genkey | openssl pkey -pubout >{key}.pub"
    )
    try:
        checked = host.ssh("/usr/local/lib/mailwright/check-dovecot 2>&1", check=False)
        assert "is not the public key of" in checked
    finally:
        host.ssh(f"mv {key}.pub.aside {key}.pub")
    assert recap(host.site(), NAME)["changed"] == 0


def test_the_backup_is_good_and_holds_nothing_in_the_clear(host: Target, original: Original) -> None:
    assert sum(map(count, original.mailboxes.values())) >= MESSAGES
    assert state(host)["last_good"]["messages"] >= MESSAGES
    assert host.ssh("ls -A /var/vmail | grep '^[.]'", check=False) == ""
    # nobody on peer can read it, and no secret is in a log, a list of processes or a file for everybody
    assert "user00" not in host.lab.ssh("peer", f"grep -rl user00 {STORE}/mx", check=False)
    secret = "the drill"
    assert secret not in host.ssh("journalctl -o cat --no-pager")
    modes = host.ssh("stat -c '%a %U' /etc/mailwright/backup/{password,credentials.json,ssh_key}").split("\n")[:3]
    assert modes == ["600 root"] * 3
    assert recap(host.site(), NAME)["changed"] == 0


def test_the_status_report_knows(host: Target, original: Original) -> None:
    assert original
    done = host.playbook("mailwright.server.status", "-e", "status_verbose=true")
    assert re.search(r"ok +system +backup: last good backup \d+ (s|min) ago", done.stdout), done.stdout
    stale = f'sed -i \'s/"finished": "20../"finished": "1999/\' {"/var/lib/mailwright/backup/state.json"}'
    host.ssh(f"cp -p /var/lib/mailwright/backup/state.json /tmp/state.json; {stale}")
    try:
        done = host.playbook("mailwright.server.status")
        assert re.search(r"FAIL +system +backup: last good backup \d+ d ago, which is more than 36 h", done.stdout)
        assert done.returncode != 0
    finally:
        host.ssh("cp -p /tmp/state.json /var/lib/mailwright/backup/state.json")


def test_a_killed_run_is_made_up_for(host: Target, original: Original) -> None:
    assert original
    good = state(host)["last_good"]
    host.ssh("systemctl start --no-block mailwright-backup.service")
    wait_until(lambda: host.ssh("ls -A /var/vmail/.backup", check=False), 60, "the copy is being made", 0.02)
    host.ssh("systemctl kill --signal=KILL mailwright-backup.service")
    wait_until(lambda: "failed" in host.ssh("systemctl is-active mailwright-backup", check=False), 30, "it has ended")
    assert state(host)["last_good"] == good
    assert recap(backup(host), NAME)["changed"] == 1
    assert state(host)["last_good"]["snapshot"] != good["snapshot"]
    assert host.ssh("ls -A /var/vmail | grep '^[.]'", check=False) == ""


def test_a_full_disk_is_one_clear_error_and_the_next_run_completes(host: Target, original: Original) -> None:
    assert original
    lab, aside = host.lab, f"{STORE}/aside"
    lab.ssh("peer", f"mkdir {aside}; mount -t tmpfs -o size=64k,mode=700,uid=$(id -u {VAULT}) none {STORE}/mx/data/00")
    try:
        lab.ssh("peer", f"for d in {STORE}/mx/data/??; do mountpoint -q $d || mount --bind {STORE}/mx/data/00 $d; done")
        host.ssh("doveadm save -u busy@drill.test", data="Subject: big\n\n" + os.urandom(300_000).hex())
        done = backup(host)
        assert done.returncode != 0
        fatal = re.search(r'"msg": "(mailwright-backup.service: .*?)"', done.stdout)
        assert fatal, done.stdout
        print(f"  {fatal[1]}")
    finally:
        lab.ssh("peer", f"for d in {STORE}/mx/data/??; do umount -q $d; done; true")
    assert recap(backup(host, "-e", "backup_check=true"), NAME)["changed"] == 1
    host.ssh("doveadm expunge -u busy@drill.test mailbox INBOX subject big")
    assert recap(backup(host), NAME)["changed"] == 1


@planted_in("backup")
def test_a_planted_error_changes_nothing(host: Target, plant: Plant, tmp_path: Path) -> None:
    collections = Path(host.lab.env["ANSIBLE_COLLECTIONS_PATH"])
    field = Field(host, collections / "ansible_collections/mailwright/server", tmp_path)
    wanted: dict[str, Any] = dict(host.variables["mail_backup"])  # type: ignore[call-overload]
    if plant.target.endswith("/ca.pem"):
        del wanted["sftp"]
        rest = {"user": "mx", "password": "secret"}
        wanted |= {"repository": "rest:https://none.test/", "rest": rest, "ca_file": host.lab.env["LAB_CA"]}
    elif "/tmpfiles.d/" in plant.target:
        del wanted["sftp"]
        wanted["repository"] = "/srv/backup/mail"
    plant_and_compare(field, plant, mail_backup=wanted)


def restore(host: Target, *arguments: str) -> Result:
    return host.playbook("mailwright.server.restore", *arguments)


def refusal(done: Result) -> str:
    assert done.returncode != 0, done.stdout[-2000:]
    (text,) = re.findall(r'^fatal: .*?"msg": "(.*?)"\}?,?', done.stdout, re.MULTILINE)
    return str(text)


def test_a_host_with_mail_is_not_restored_over(host: Target, original: Original) -> None:
    assert original
    assert "this host has mail already" in refusal(restore(host))
    assert "this host has mail already" in refusal(restore(host, "--check"))


def test_one_folder_comes_back_beside_what_is_there(host: Target, original: Original) -> None:
    user, lab = REPENTANT, host.lab
    before = content(lab, user)
    assert before["Sent"] == original.mailboxes[user]["Sent"]
    with lab.imap(user, NAME) as box:
        box.select("Sent")
        box.store("1:*", "+FLAGS", "\\Deleted")
        box.expunge()
        box.append("INBOX", "", imaplib.Time2Internaldate(time.time()), b"Subject: newer\r\n\r\nnewer\r\n")
    after = content(lab, user)
    arguments = ("-e", f"restore_mailbox={user}", "-e", "restore_folder=Sent")
    planned = restore(host, *arguments, "--check", "--diff")
    assert recap(planned, NAME)["changed"] == 1
    assert content(lab, user) == after
    done = restore(host, *arguments)
    assert recap(done, NAME)["changed"] == 1, done.stdout
    now = content(lab, user)
    assert {name: folder for name, folder in now.items() if not name.startswith("Restored")} == after
    (restored,) = [folder for name, folder in now.items() if re.fullmatch(r"Restored/.*/Sent", name)]
    assert sorted(restored["messages"].values()) == sorted(before["Sent"]["messages"].values())
    assert "has a folder" in refusal(restore(host, *arguments))
    assert content(lab, user) == now
    for name in ("restore_mailbox=nobody@drill.test", "restore_at=1999-01-01"):
        assert re.search(
            "has no mailbox nobody|no snapshot is as old as", refusal(restore(host, *arguments, "-e", name))
        )


def test_one_mailbox_comes_back_as_it_was_at_a_time(host: Target, original: Original) -> None:
    """The last backup is one without the messages; the one of the time given has them."""
    lab, user = host.lab, REPENTANT
    with lab.imap(user, NAME) as box:
        for folder in FOLDERS:
            # Sent has none since the test before
            if box.select(f'"{folder}"')[1] != [b"0"]:
                box.store("1:*", "+FLAGS", "\\Deleted")
                box.expunge()
    wait_until(lambda: time.strftime("%Y-%m-%d %H:%M", time.gmtime()) > original.minute, 61, "a later minute")
    assert recap(backup(host), NAME)["changed"] == 1
    after = content(lab, user)
    done = restore(host, "-e", json.dumps({"restore_mailbox": user, "restore_at": original.minute}))
    assert recap(done, NAME)["changed"] == 1, done.stdout
    now = content(lab, user)
    assert {name: folder for name, folder in now.items() if name in after} == after
    prefix = f"Restored/{original.minute.replace(':', '.')}/"
    for folder in FOLDERS:
        came = now[prefix + folder]["messages"].values()
        assert sorted(came) == sorted(original.mailboxes[user][folder]["messages"].values()), folder


@pytest.fixture(scope="module")
def restored(host: Target, original: Original) -> Iterator[float]:
    """The server is destroyed; a fresh host takes its name and its place. Seconds that the restore took."""
    assert original
    command = [sys.executable, str(CHECKOUT / "tests/lab/lab.py")]
    subprocess.run([*command, "down", NAME], check=True)
    subprocess.run([*command, "up", NAME], check=True)
    inventory = yaml.safe_load(host.inventory.read_text())
    address = Lab.load().address(NAME)
    assert address == host.lab.address(NAME), "the lab gives a name its address again"
    packages = "dpkg-query -W -f '${Package}\\n' postfix dovecot-core 2>/dev/null"
    assert host.ssh(packages, check=False) == ""
    # each refusal leaves the host as bare as the first apply of base and backup left it
    wrong = {
        "mail_backup": {**inventory["mailservers"]["vars"]["mail_backup"], "password": "another one of its length"}
    }
    assert "does not open with this password" in refusal(restore(host, "-e", json.dumps(wrong)))
    keys = f"{STORE}/mx/keys"
    host.lab.ssh("peer", f"mv {keys} {keys}.aside; install -d -o {VAULT} {keys}")
    text = refusal(restore(host))
    host.lab.ssh("peer", f"rmdir {keys}; mv {keys}.aside {keys}")
    assert "does not open with this password" in text and "keys/" in text
    spoilt(host, inventory["mailservers"]["vars"]["mail_backup"])
    assert host.ssh("ls -A /var/vmail") == ""
    start = time.monotonic()
    done = restore(host)
    assert recap(done, NAME)["failed"] == 0, done.stdout[-3000:]
    yield time.monotonic() - start


def spoilt(host: Target, backup: dict[str, Any]) -> None:
    """A copy of the repository in which every block of data has a wrong byte is refused before anything is changed."""
    lab = host.lab
    script = (
        "import glob\n"
        f"for path in glob.glob('{STORE}/spoilt/data/*/*'):\n"
        "    with open(path, 'r+b') as file:\n"
        "        data = bytearray(file.read())\n"
        "        for at in range(0, len(data), 500):\n"
        "            data[at] ^= 255\n"
        "        file.seek(0)\n"
        "        file.write(data)\n"
    )
    lab.ssh("peer", f"cp -a {STORE}/mx {STORE}/spoilt && chmod -R u+w {STORE}/spoilt && python3 -", data=script)
    host.ssh("rm -rf /var/lib/mailwright/backup/cache")
    wrong = {"mail_backup": {**backup, "repository": backup["repository"].removesuffix("/mx") + "/spoilt"}}
    text = refusal(restore(host, "-e", json.dumps(wrong)))
    print(f"  {text}")
    assert "restic" in text
    lab.ssh("peer", f"rm -rf {STORE}/spoilt")
    host.ssh("rm -rf /var/lib/mailwright/backup/cache")


def test_every_message_is_there_as_it_was(host: Target, original: Original, restored: float) -> None:
    print(f"  restored on a fresh host, packages and all, in {restored:.0f} s")
    for user in USERS:
        password = NEW_PASSWORD if user in USERS[:2] else None
        assert content(host.lab, user, password) == original.mailboxes[user], user
    assert host.ssh(PLAIN) == ""
    total = sum(count(original.mailboxes[user]) for user in USERS)
    assert total >= MESSAGES
    print(f"  {total} messages byte-identical, with flags, dates, UIDs and folders")


@pytest.mark.usefixtures("restored")
def test_what_moved_during_the_backup_is_there_once(original: Original) -> None:
    found = original.mover.subjects()
    assert found == Counter({f"Subject: busy {number}": 1 for number in range(original.mover.messages)})


@pytest.mark.usefixtures("restored")
def test_a_changed_password_is_the_one_that_counts(host: Target) -> None:
    for user in USERS[:2]:
        with host.lab.imap(user, NAME, NEW_PASSWORD):
            pass
        with pytest.raises(imaplib.IMAP4.error), host.lab.imap(user, NAME):
            pass
    # and an apply does not undo it
    assert recap(host.site(), NAME)["changed"] == 0
    with host.lab.imap(USERS[0], NAME, NEW_PASSWORD):
        pass


@pytest.mark.usefixtures("restored")
@pytest.mark.faults
def test_keys_secrets_and_what_was_learnt_are_the_same(host: Target, original: Original) -> None:
    assert unrevoked(host.ssh(KEYS)) == unrevoked(original.keys)
    assert host.ssh(SECRETS) == original.secrets
    assert host.ssh(TLS) == original.tls
    assert set(original.learnt.split()) <= set(host.ssh(LEARNT).split())
    assert selectors(host) == original.selectors


@pytest.mark.usefixtures("restored", "original")
def test_mail_flows_again_through_the_users_filter(host: Target) -> None:
    token = f"invoice {time.time_ns()}"
    host.lab.dave_sends(message("dave@peer.test", USERS[0], token), NAME)

    def arrived() -> bool:
        with host.lab.imap(USERS[0], NAME, NEW_PASSWORD) as box:
            if box.select("Invoices", readonly=True)[0] != "OK":
                return False
            return bool(box.search(None, "SUBJECT", f'"{token}"')[1][0].split())

    wait_until(arrived, 60, "the message is in the folder that the filter names")


@pytest.mark.usefixtures("restored", "original")
def test_the_next_backup_goes_on(host: Target) -> None:
    done = backup(host, "-e", "backup_check=true")
    assert recap(done, NAME)["changed"] == 1, done.stdout
    assert len(host.ssh("mailwright-backup snapshots").splitlines()) >= 2
