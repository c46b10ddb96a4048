# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups to a directory, to a real rest-server and to a real S3-compatible service, both as Debian packages them.

S3 is spoken by OpenStack Swift: one host with its proxy, account, container and object servers.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import imaplib
import json
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from typing import Any

import dns.rrset
import pytest
import zones
from ansible_collections.mailwright.server.tests.integration.conftest import Server
from certificates import issue
from connection import CHECKOUT, Lab, message, wait_until

HOST, NAME = "store", "store.lab.test"
USER = "alice@acme.test"
# by IMAP, and as doveadm shows it
FOLDER, SHOWN = "Tresor/M&APw-ller &- S&APY-hne 1.5", "Tresor/Müller & Söhne 1.5"
SECRET = "the-secret-of-the-service"
PASSWORD = "the password of these repositories"
DIRECTORY = "/srv/backup/mail"
STATE = "/var/lib/mailwright/backup"

_HASH = base64.b64encode(hashlib.sha1(SECRET.encode()).digest()).decode()
# Certificate and key are in /root.
REST_SERVER = f"""
set -eu
apt-get -q update
apt-get install -qy --no-install-recommends restic-rest-server
install -d -o restic-rest-server /srv/backups
echo 'mx1:{{SHA}}{_HASH}' >/etc/restic-rest-server/users.htpasswd
install -o restic-rest-server -m 600 /root/cert.pem /root/key.pem /etc/restic-rest-server
cat >/etc/default/restic-rest-server <<'END'
LISTEN=:8000
BACKUP_DIR=/srv/backups
ARGS=--htpasswd-file /etc/restic-rest-server/users.htpasswd --private-repos --append-only --tls \
 --tls-cert /etc/restic-rest-server/cert.pem --tls-key /etc/restic-rest-server/key.pem
END
systemctl restart restic-rest-server
"""
SWIFT = f"""
set -eu
apt-get -q update
apt-get install -qy --no-install-recommends swift-proxy swift-account swift-container swift-object
install -o swift -m 600 /root/cert.pem /root/key.pem /etc/swift
cd /etc/swift
printf '[swift-hash]\\nswift_hash_path_suffix = lab\\n[storage-policy:0]\\nname = only\\ndefault = yes\\n' >swift.conf
for kind in account:6202 container:6201 object:6200; do
    name=${{kind%:*}} port=${{kind#*:}}
    cat >$name-server.conf <<END
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $port
workers = 0
devices = /srv/node
mount_check = false
[pipeline:main]
pipeline = $name-server
[app:$name-server]
use = egg:swift#$name
END
    swift-ring-builder $name.builder create 4 1 1
    swift-ring-builder $name.builder add r1z1-127.0.0.1:$port/disk 1
    swift-ring-builder $name.builder rebalance
done
cat >proxy-server.conf <<'END'
[DEFAULT]
bind_port = 8443
cert_file = /etc/swift/cert.pem
key_file = /etc/swift/key.pem
workers = 1
[pipeline:main]
pipeline = catch_errors cache listing_formats s3api tempauth slo proxy-server
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
[filter:tempauth]
use = egg:swift#tempauth
user_backup_mx1 = {SECRET} .admin
[filter:slo]
use = egg:swift#slo
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
END
install -d -o swift -g swift /srv/node/disk
systemctl restart swift-account swift-container swift-object swift-proxy
"""


@dataclasses.dataclass(frozen=True)
class Service:
    """What the inventory says of it, and how it is set up."""

    backup: dict[str, Any]
    script: str = ""
    port: int = 22


KEEP_ONE = {"daily": 1, "weekly": 0, "monthly": 0}
SERVICES = {
    "directory": Service({"repository": DIRECTORY, "keep": KEEP_ONE}),
    "rest-server": Service(
        {
            "repository": f"rest:https://{NAME}:8000/mx1/",
            "rest": {"user": "mx1", "password": SECRET},
            # nothing can be removed there
            "keep": {"daily": 0, "weekly": 0, "monthly": 0},
        },
        REST_SERVER,
        8000,
    ),
    "s3": Service(
        {
            "repository": f"s3:https://{NAME}:8443/mx1-backup",
            "s3": {"access_key": "backup:mx1", "secret_key": SECRET, "region": "us-east-1"},
            "keep": KEEP_ONE,
        },
        SWIFT,
        8443,
    ),
}


@pytest.fixture(scope="module")
def store(server: Server) -> Iterator[Lab]:
    """A bare host with a certificate and a name."""
    command = [sys.executable, str(CHECKOUT / "tests/lab/lab.py")]
    subprocess.run([*command, "down", HOST], check=True)
    subprocess.run([*command, "up", HOST], check=True)
    lab = Lab.load()
    tsig = json.loads((lab.state / "lab.json").read_text())["tsig"]
    line = f"{NAME}. 60 IN A {lab.address(HOST)}"
    zones.publish_text(lab.address("ns1"), tsig, line)
    try:
        for name, content in zip(("cert", "key"), issue(lab.state / "ca", NAME, [NAME]), strict=True):
            lab.ssh(HOST, f"umask 077; cat >/root/{name}.pem", data=content)
        yield lab
    finally:
        record = dns.rrset.from_text(f"{NAME}.", 60, "IN", "A", line.split()[-1])
        zones.send(lab.address("ns1"), tsig, "lab.test.", [record], delete=True)
        server.run(f"unbound-control flush {NAME}", check=False)
        subprocess.run([*command, "down", HOST], check=True)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Server]:
    """mx1, which in the end knows of no backup again."""
    yield server
    done = server.lab.playbook("mailwright.server.site")
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest, store: Lab, client: Server) -> Iterator[Service]:
    """The service, and mx1 that is told of it."""
    chosen = SERVICES[request.param]
    store.ssh(HOST, "sh >/root/setup.log 2>&1", data=chosen.script, timeout=550)
    wait_until(lambda: f":{chosen.port} " in store.ssh(HOST, "ss -ltnH"), 60, "the service listens")
    backup = {**chosen.backup, "password": PASSWORD}
    if chosen.script:
        backup["ca_file"] = store.env["LAB_CA"]
    try:
        done = client.lab.playbook("-e", json.dumps({"mail_backup": backup}), "mailwright.server.site")
        assert done.returncode == 0, done.stdout[-3000:]
        yield dataclasses.replace(chosen, backup=backup)
    finally:
        client.run(f"rm -rf {STATE} {DIRECTORY}; rmdir --ignore-fail-on-non-empty /srv/backup", check=False)


def contents(server: Server, folder: str) -> list[tuple[str, str]]:
    """Date and content of each message."""
    with server.lab.imap(USER, server.name) as box:
        assert box.select(f'"{folder}"', readonly=True)[0] == "OK"
        parts = box.fetch("1:*", "(INTERNALDATE BODY.PEEK[])")[1]
    return sorted(
        (re.search(rb'INTERNALDATE "([^"]*)"', part[0])[1].decode(), hashlib.sha256(part[1]).hexdigest())  # type: ignore[index]
        for part in parts
        if isinstance(part, tuple)
    )


def fill(server: Server) -> None:
    with server.lab.imap(USER, server.name) as box:
        assert box.create(f'"{FOLDER}"')[0] == "OK"
        for number in range(20):
            raw = message("dave@peer.test", USER, f"vault {number}", f"{uuid.uuid4().hex}\n" * 2000).as_bytes()
            date = imaplib.Time2Internaldate(1700000000 + number * 86400)
            assert box.append(f'"{FOLDER}"', "", date, raw.replace(b"\n", b"\r\n"))[0] == "OK"


def refused_at_once(server: Server) -> None:
    """Whoever does not know the secret is told, and no repository is begun."""
    path = "/etc/mailwright/backup/credentials.json"
    server.run(f"cp -p {path} {path}.good; sed -i 's/secret/other/' {path}")
    try:
        before = time.monotonic()
        said = server.run("mailwright-backup run 2>&1", check=False)
        took = time.monotonic() - before
        print(f"  {took:.0f} s: {said.strip()}")
        assert "refuses the log-in" in said and "secret" not in said
        # restic itself asks again and again for a quarter of an hour
        assert took < 120
    finally:
        server.run(f"mv {path}.good {path}")


@pytest.mark.faults
def test_a_backup_and_back(server: Server, service: Service) -> None:
    lab, started = server.lab, time.monotonic()
    arguments = ("-e", json.dumps({"mail_backup": service.backup}))
    fill(server)
    try:
        if service.script:
            refused_at_once(server)
        wanted = contents(server, FOLDER)
        for _turn in range(2):
            done = lab.playbook(*arguments, "mailwright.server.backup", "-e", "backup_check=true")
            assert done.returncode == 0, done.stdout[-3000:]
            print("  " + re.search(r"snapshot .*?(?=\")", done.stdout)[0])  # type: ignore[index]
        snapshots = server.run("mailwright-backup snapshots").splitlines()
        # of one day, one is kept; where nothing may be removed, both
        assert len(snapshots) == (2 if "rest" in service.backup else 1)
        if "rest" in service.backup:
            remove = (
                "import sys; sys.path.insert(0, '/usr/local/lib/mailwright'); from backup.restic import Restic; "
                "from backup.settings import Settings; Restic(Settings.load()).run('forget', 'latest')"
            )
            server.run(f'python3 -c "{remove}" 2>&1', check=False)
            assert server.run("mailwright-backup snapshots").splitlines() == snapshots

        with lab.imap(USER, server.name) as box:
            box.delete(f'"{FOLDER}"')
        done = lab.playbook(*arguments, "mailwright.server.restore", "-e", f"restore_mailbox={USER}")
        assert done.returncode == 0, done.stdout[-3000:]
        (shown,) = server.run(f"doveadm mailbox list -u {USER} 'Restored/*/{SHOWN}'").splitlines()
        assert contents(server, shown.removesuffix(SHOWN) + FOLDER) == wanted
        print(f"  {len(wanted)} messages came back; {time.monotonic() - started:.0f} s in all")
    finally:
        for folder in ("Restored", "Tresor"):
            server.run(f"doveadm mailbox delete -r -u {USER} {folder}", check=False)
