# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the host does its job: mail through the whole chain as a user sends and reads it, and the webmail.

Everything is tried with a mailbox of the probe's own in a hosted domain, which exists for these seconds only.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import imaplib
import re
import secrets
import shutil
import smtplib
import socket
import ssl
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from ansible_collections.mailwright.server.plugins.module_utils.directory import store
from ansible_collections.mailwright.server.plugins.module_utils.probes import delivery
from ansible_collections.mailwright.server.plugins.module_utils.probes.runner import reason
from ansible_collections.mailwright.server.plugins.module_utils.txn import services, signatures

SOCKET = "/var/run/postgresql"
PREFIX = "mailwright-probe-"
KEYS = (Path("/var/lib/mailwright/dkim"), Path("/var/lib/mailwright/dkim-api"))
MAIL = Path("/var/vmail")
SECONDS = 20.0
# GTUBE: every filter that works refuses it; in two parts, so that no filter takes this file for spam
GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*" + "GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
# check -> empty when it is well, or what is wrong
Findings = dict[str, str]


@dataclass(frozen=True)
class Account:
    """The probe's mailbox."""

    address: str
    password: str


@contextlib.contextmanager
def account() -> Iterator[Account]:
    """A mailbox in the first hosted domain; gone at the end, with its mail."""
    password, salt = secrets.token_urlsafe(24), secrets.token_bytes(16)
    hashed = "{SSHA512}" + base64.b64encode(hashlib.sha512(password.encode() + salt).digest() + salt).decode()
    with store.connect(SOCKET, "mailwright", store.ADMIN) as connection:
        # the inventory's before a customer's, whose audit log would tell of it
        row = connection.execute(
            "SELECT name FROM directory.domain WHERE enabled ORDER BY owner DESC, name LIMIT 1"
        ).fetchone()
        if row is None:
            raise LookupError("no hosted domain: nothing can be sent or received")
        local = f"{PREFIX}{secrets.token_hex(6)}"
        address = f"{local}@{row[0]}"
        try:
            connection.execute(
                "INSERT INTO directory.mailbox (address, domain, local_part, password, quota_bytes, owner) "
                "VALUES (%s, %s, %s, %s, 10485760, 'api')",
                (address, row[0], local, hashed),
            )
            # with the sending API, a trigger has done that
            connection.execute(
                "INSERT INTO directory.sender VALUES (%s, %s, 'api') ON CONFLICT DO NOTHING", (address, address)
            )
            yield Account(address, password)
        finally:
            remove_accounts(connection)


def remove_accounts(connection: Any) -> None:
    """Remove the probe's mailboxes, also those that a killed run left."""
    for table in ("sender", "mailbox"):
        # table and prefix are constants of this file
        connection.execute(f"DELETE FROM directory.{table} WHERE owner = 'api' AND address LIKE '{PREFIX}%'")  # noqa: S608
    for home in MAIL.glob(f"*/{PREFIX}*"):
        shutil.rmtree(home, ignore_errors=True)
    with contextlib.suppress(store.StoreError), store.connect(SOCKET, "roundcube", store.ADMIN) as webmail:
        if webmail.execute("SELECT to_regclass('public.users')").fetchone()[0]:
            # the prefix is a constant of this file
            webmail.execute(f"DELETE FROM users WHERE username LIKE '{PREFIX}%'")  # noqa: S608


def context() -> ssl.SSLContext:
    """TLS to this host itself, whose certificate the status report judges."""
    found = ssl.create_default_context()
    found.check_hostname = False
    found.verify_mode = ssl.CERT_NONE
    return found


def submit(user: Account, hostname: str, token: str) -> None:
    """Send a message to oneself on port 465."""
    mail = EmailMessage()
    mail["From"] = mail["To"] = user.address
    mail["Subject"], mail["Message-ID"], mail["Date"] = f"Update {token}", f"<{token}@{hostname}>", formatdate()
    mail.set_content("The update sends this message to itself and removes it.\n")
    with smtplib.SMTP_SSL("127.0.0.1", 465, hostname, timeout=SECONDS, context=context()) as smtp:
        smtp.login(user.address, user.password)
        smtp.send_message(mail)


def fetch(user: Account, token: str) -> bytes:
    """Wait for the message and read it by IMAP, without a search, which may wait for the index. Raises LookupError."""
    end = time.monotonic() + SECONDS
    with imaplib.IMAP4_SSL("127.0.0.1", 993, ssl_context=context(), timeout=SECONDS) as box:
        box.login(user.address, user.password)
        while time.monotonic() < end:
            for folder in ("INBOX", "Junk"):
                status, count = box.select(folder, readonly=True)
                if status != "OK" or not int(count[0] or 0):
                    continue
                # the mailbox holds nothing but the probe's own messages
                for part in box.fetch("1:*", "(BODY.PEEK[])")[1]:
                    if isinstance(part, tuple) and token.encode() in part[1]:
                        return bytes(part[1])
            time.sleep(0.2)
    raise LookupError(f"accepted, and not in the mailbox after {SECONDS:.0f} s")


def private_key(domain: str, selector: str) -> str | None:
    """The key file of a selector; nothing that a header could lead elsewhere."""
    if not (re.fullmatch(r"[\w.-]+", domain) and re.fullmatch(r"[\w.-]+", selector)):
        return None
    paths = (keys / domain / f"{selector}.key" for keys in KEYS)
    return next((str(path) for path in paths if path.is_file()), None)


def arrives(user: Account, hostname: str) -> None:
    """Have a message with an attachment, for the virus scanner, arrive on port 25. Raises LookupError."""
    token = f"update{uuid.uuid4().hex}"
    with smtplib.SMTP("127.0.0.1", 25, hostname, timeout=SECONDS) as smtp:
        smtp.sendmail("", [user.address], delivery.compose(token, hostname).as_bytes())
    fetch(user, token)


def filtered(hostname: str) -> str:
    """Whether port 25 refuses the test message for spam filters."""
    with smtplib.SMTP("127.0.0.1", 25, hostname, timeout=SECONDS) as smtp:
        smtp.ehlo_or_helo_if_needed()
        smtp.mail("")
        smtp.rcpt(delivery.RECIPIENT)
        head = f"From: {delivery.RECIPIENT}\r\nTo: {delivery.RECIPIENT}\r\nSubject: filter\r\n"
        text = f"{head}Message-ID: <{uuid.uuid4().hex}@{hostname}>\r\n\r\n{GTUBE}\r\n"
        code, reply = smtp.data(text.encode())
    return (
        "" if code == 554 else f"the filter's test message was not refused: {code} {reply.decode('utf-8', 'replace')}"
    )


def logs_in(user: Account, hostname: str) -> str:
    """Whether the webmail lets the mailbox in."""
    connection = http.client.HTTPSConnection(hostname, timeout=SECONDS)
    # this host, whatever its name leads to
    plain = socket.create_connection(("127.0.0.1", 443), SECONDS)
    connection.sock = context().wrap_socket(plain, server_hostname=hostname)
    headers = {"User-Agent": "mailwright-update"}
    connection.request("GET", "/?_task=login", headers=headers)
    page = connection.getresponse()
    text = page.read().decode("utf-8", "replace")
    token = re.search(r'name="_token" value="([^"]+)"', text)
    if not token:
        return f"the webmail shows no log-in form: {page.status}"
    cookies = "; ".join(value.split(";")[0] for name, value in page.getheaders() if name.lower() == "set-cookie")
    form = {"_token": token[1], "_task": "login", "_action": "login", "_user": user.address, "_pass": user.password}
    headers |= {"Cookie": cookies, "Content-Type": "application/x-www-form-urlencoded"}
    connection.request("POST", "/?_task=login", urlencode(form), headers)
    answer = connection.getresponse()
    location = answer.getheader("Location", "")
    connection.close()
    return (
        "" if answer.status == 302 and "_task=mail" in location else f"the webmail refuses to log in: {answer.status}"
    )


def look(request: Mapping[str, Any]) -> Findings:
    """All checks once."""
    hostname = request["hostname"]
    found: Findings = {}

    def check(name: str, work: Callable[[], str | None]) -> None:
        try:
            found[name] = work() or ""
        except Exception as error:  # whatever goes wrong is the finding
            found[name] = reason(error)

    def chain(user: Account) -> None:
        token = f"update{uuid.uuid4().hex}"
        check("submission", lambda: submit(user, hostname, token))
        if found["submission"]:
            found["delivery"] = found["signature"] = "nothing was submitted"
            return
        message: list[bytes] = []
        check("delivery", lambda: message.append(fetch(user, token)))
        if not message:
            found["signature"] = "nothing was delivered"
            return
        check("signature", lambda: signed(message[0]))

    def signed(message: bytes) -> str:
        verified = signatures.verify(message, private_key)
        if not verified:
            return "the message is not signed"
        return "; ".join(f"selector {selector}: {wrong}" for selector, wrong in verified.items() if wrong)

    try:
        with account() as user:
            found["postgresql"] = ""
            chain(user)
            check("incoming", lambda: arrives(user, hostname))
            if request["features"].get("webmail"):
                check("webmail", lambda: logs_in(user, hostname))
    except Exception as error:
        found["postgresql"] = found["submission"] = reason(error)
    check("filter", lambda: filtered(hostname))
    check("units", lambda: ", ".join(services.down(request.get("units", {}))))
    return found


def worse(before: Findings, now: Findings) -> Findings:
    """What is wrong now and was well before."""
    return {name: text for name, text in now.items() if text and not before.get(name)}


def compare(request: Mapping[str, Any], before: Findings, seconds: float) -> tuple[Findings, Findings]:
    """Look until nothing is worse than before or the time is up; gives all findings and those that are worse."""
    end = time.monotonic() + seconds
    while True:
        now = look(request)
        bad = worse(before, now)
        if not bad or time.monotonic() > end:
            return now, bad
        time.sleep(1.0)
