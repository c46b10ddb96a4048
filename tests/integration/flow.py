# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on peer: sends numbered messages without a pause, and tells what became of each.

Argument, as JSON: host, token, rate (messages a second), to, and user and password of the mailbox that submits.
Even numbers come from outside to port 25, odd ones from the user to port 465. Each number is sent once, whatever the
answer. When standard input ends, prints a list of [number, started, answered, outcome] as JSON; outcome is accepted,
refused, or unsure when the connection broke after the message was sent and before the answer.
Meanwhile one user stays logged in by IMAP.
"""

from __future__ import annotations

import contextlib
import imaplib
import json
import smtplib
import ssl
import sys
import threading
import time

SETTINGS = json.loads(sys.argv[1])
TLS = ssl.create_default_context()
TLS.check_hostname = False
TLS.verify_mode = ssl.CERT_NONE
results: list[list[object]] = []
stop = threading.Event()


def text(number: int, sender: str) -> str:
    token, to = SETTINGS["token"], SETTINGS["to"]
    return (
        f"From: {sender}\r\nTo: {to}\r\nSubject: {token} {number}\r\nMessage-ID: <{token}.{number}@peer.test>\r\n"
        f"Date: {time.strftime('%a, %d %b %Y %H:%M:%S +0000', time.gmtime())}\r\n\r\nNumber {number}.\r\n"
    )


def attempt(number: int) -> str:
    inside = number % 2
    sent = False
    try:
        if inside:
            smtp: smtplib.SMTP = smtplib.SMTP_SSL(SETTINGS["host"], 465, "client.example", timeout=60, context=TLS)
        else:
            smtp = smtplib.SMTP(SETTINGS["host"], 25, "peer.peer.test", timeout=60)
        with contextlib.closing(smtp):
            smtp.ehlo()
            sender = SETTINGS["user"] if inside else "dave@peer.test"
            if inside:
                smtp.login(SETTINGS["user"], SETTINGS["password"])
            if smtp.mail(sender)[0] != 250 or smtp.rcpt(SETTINGS["to"])[0] != 250 or smtp.docmd("DATA")[0] != 354:
                return "refused"
            sent = True
            smtp.send(text(number, sender).encode() + b".\r\n")
            return "accepted" if smtp.getreply()[0] == 250 else "refused"
    except (OSError, smtplib.SMTPException):
        return "unsure" if sent else "refused"


def send(number: int) -> None:
    started = time.time()
    outcome = attempt(number)
    results.append([number, started, time.time(), outcome])


def read() -> None:
    """A mail program that stays connected and comes again when it is cut off."""
    while not stop.is_set():
        with (
            contextlib.suppress(OSError, imaplib.IMAP4.error),
            imaplib.IMAP4_SSL(SETTINGS["host"], 993, ssl_context=TLS, timeout=10) as box,
        ):
            box.login(SETTINGS["to"], SETTINGS["password"])
            while not stop.wait(0.5):
                box.select("INBOX", readonly=True)
        stop.wait(0.5)


def wait_for_the_end() -> None:
    sys.stdin.read()
    stop.set()


def main() -> None:
    threading.Thread(target=wait_for_the_end, daemon=True).start()
    reader = threading.Thread(target=read)
    reader.start()
    threads: list[threading.Thread] = []
    begin = time.monotonic()
    number = 0
    while not stop.wait(max(0.0, begin + number / SETTINGS["rate"] - time.monotonic())):
        # a server takes so many connections from one client; where it is slower, there are fewer messages
        if sum(thread.is_alive() for thread in threads[-200:]) < 30:
            thread = threading.Thread(target=send, args=(number,))
            thread.start()
            threads.append(thread)
        number += 1
    for thread in [*threads, reader]:
        thread.join(90)
    print(json.dumps(results))


main()
