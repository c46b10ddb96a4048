# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A message of our own through the whole chain: smtpd, filter, queue, LMTP, mailbox; read back, then removed.

The recipient is no mailbox of the directory: Postfix sends it to Dovecot (transport_maps), Dovecot's user database
knows it and its password database does not. Its domain is under .invalid (RFC 6761 section 6.4) and not hosted, so
only this host, one of mynetworks, can send to it.
"""

from __future__ import annotations

import json
import smtplib
import subprocess
import time
import uuid
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate

from ansible_collections.mailwright.server.plugins.module_utils.probes.result import Result
from ansible_collections.mailwright.server.plugins.module_utils.probes.runner import output, reason

RECIPIENT = "status-probe@mailwright.invalid"
SECONDS = 20.0
EVERY = 0.1


@dataclass(frozen=True)
class Attempt:
    """What became of the message. `refused` is why smtpd did not take it; times are seconds since the connection."""

    refused: str | None = None
    queue_id: str = ""
    accepted: float = 0.0
    arrived: float | None = None
    mailbox: str = ""
    waiting: str = ""


def evaluate(attempt: Attempt) -> Result:
    """Judge an attempt."""
    data = {"queue_id": attempt.queue_id, "accepted_seconds": round(attempt.accepted, 3), "mailbox": attempt.mailbox}
    if attempt.refused is not None:
        words = f"not accepted on port 25: {attempt.refused}"
        return Result("message", "delivery", "fail", words, data=data)
    if attempt.arrived is None:
        words = f"accepted as {attempt.queue_id}, not delivered within {SECONDS:.0f} s"
        detail = (attempt.waiting,) if attempt.waiting else ()
        return Result("message", "delivery", "fail", words, detail, SECONDS, data)
    words = f"in the mailbox after {attempt.arrived:.2f} s (filtered and queued after {attempt.accepted:.2f} s)"
    if attempt.mailbox != "INBOX":
        return Result("message", "delivery", "warn", f"{words}, but in {attempt.mailbox}", (), attempt.arrived, data)
    return Result("message", "delivery", "ok", words, (), attempt.arrived, data)


def queue_id(reply: str) -> str:
    """The queue id in smtpd's answer to the message: "2.0.0 Ok: queued as ID"."""
    return reply.rpartition("queued as ")[2].split()[0] if "queued as " in reply else ""


def compose(token: str, hostname: str) -> EmailMessage:
    """The message: complete, so that the filter finds nothing to dislike."""
    message = EmailMessage()
    message["From"] = message["To"] = RECIPIENT
    message["Subject"] = f"Status report {token}"
    message["Message-ID"] = f"<{token}@{hostname}>"
    message["Date"] = formatdate()
    message["Auto-Submitted"] = "auto-generated"
    message.set_content("The status report sends this message to itself and removes it.\n")
    # The virus scanner is asked about attachments only.
    message.add_attachment(token.encode(), maintype="application", subtype="octet-stream", filename="probe.bin")
    return message


def probe(hostname: str) -> list[Result]:
    """Send, wait, judge, remove."""
    token = f"probe{uuid.uuid4().hex}"
    attempt = _attempt(token, hostname)
    if attempt.queue_id:
        _remove(token, attempt)
    return [evaluate(attempt)]


def _attempt(token: str, hostname: str) -> Attempt:
    start = time.monotonic()
    try:
        with smtplib.SMTP("127.0.0.1", 25, hostname, timeout=SECONDS) as connection:
            connection.ehlo_or_helo_if_needed()
            # The null sender: whatever goes wrong, nobody gets a bounce (RFC 5321 section 4.5.5).
            code, reply = connection.mail("")
            if code == 250:
                code, reply = connection.rcpt(RECIPIENT)
            if code == 250:
                code, reply = connection.data(compose(token, hostname).as_bytes())
    except smtplib.SMTPResponseException as error:
        return Attempt(f"{error.smtp_code} {error.smtp_error!r}")
    except OSError as error:
        return Attempt(reason(error))
    if code != 250:
        return Attempt(f"{code} {reply.decode('utf-8', 'replace')}")
    accepted = time.monotonic() - start
    number = queue_id(reply.decode("utf-8", "replace"))
    while (left := start + SECONDS - time.monotonic()) > 0:
        mailbox = _find(token, left)
        if mailbox:
            return Attempt(None, number, accepted, time.monotonic() - start, mailbox)
        time.sleep(EVERY)
    return Attempt(None, number, accepted, waiting=_waiting(number))


def _find(token: str, timeout: float) -> str:
    """The mailbox that holds the message; empty when none does or Dovecot does not answer."""
    query = ["mailbox", "*", "header", "message-id", token]
    try:
        listing = output(["doveadm", "-f", "flow", "fetch", "-u", RECIPIENT, "mailbox", *query], timeout)
    except (OSError, RuntimeError, subprocess.TimeoutExpired):
        return ""
    return listing.strip().partition("mailbox=")[2]


def _waiting(number: str) -> str:
    for line in output(["postqueue", "-j"]).splitlines():
        entry = json.loads(line)
        if entry["queue_id"] == number:
            reasons = [str(recipient.get("delay_reason", "no attempt yet")) for recipient in entry["recipients"]]
            return f"{entry['queue_name']}: {'; '.join(reasons)}"
    return f"left the queue: journalctl -g {number}"


def _remove(token: str, attempt: Attempt) -> None:
    """Take the message out of the mailbox, or out of the queue."""
    if attempt.arrived is None:
        subprocess.run(["postsuper", "-d", attempt.queue_id], capture_output=True, timeout=10, check=False)
    # Also what an earlier report, cut off in the middle, has left behind.
    for query in (["header", "message-id", token], ["savedbefore", "1h"]):
        argv = ["doveadm", "expunge", "-u", RECIPIENT, "mailbox", "*", *query]
        subprocess.run(argv, capture_output=True, timeout=10, check=False)
