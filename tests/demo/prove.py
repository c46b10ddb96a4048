# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo's proof: each line is something that happened on the hosts just now, with the time it took."""

from __future__ import annotations

import email
import email.policy
import hashlib
import json
import os
import re
import shlex
import smtplib
import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from email.message import EmailMessage
from typing import Any

import dkim
import dns.exception
import dns.resolver
from connection import Lab, message, wait_until
from webmail import Webmail

GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
# in two parts, so that no scanner takes this file for it
EICAR = r"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-" + "STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
PATIENCE = 45.0


API = "https://mx1.acme.test/api/v1"


class NotProvedError(Exception):
    """What should have been seen and was not."""


class Proof:
    """Runs the lines in order and remembers what each saw, for those that build on it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.lines: list[tuple[str, bool, str, float]] = []

    def line(self, text: str, probe: Callable[[], str]) -> None:
        started = time.monotonic()
        try:
            good, seen = True, probe()
        except (NotProvedError, TimeoutError, OSError, RuntimeError, smtplib.SMTPException) as error:
            good, seen = False, " ".join(str(error).split())
        seconds = time.monotonic() - started
        self.lines.append((text, good, seen, seconds))
        print(f"{'ok  ' if good else 'FAIL'} {text:<58} {seconds:6.1f} s  {seen}", flush=True)


def curl(lab: Lab, path: str, body: dict[str, Any] | None = None) -> str:
    """A request to the sending API, as one would type it."""
    words = ["curl", "-sS", "--cacert", lab.env["LAB_CA"], "--resolve", f"mx1.acme.test:443:{lab.address('mx1')}",
             "-H", f"Authorization: Bearer {lab.env['LAB_API_KEY']}"]  # fmt: skip
    if body is not None:
        words += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    return shlex.join([*words, API + path])


def send_by_api(lab: Lab, subject: str) -> str:
    """The line that sends to dave."""
    text = "Sent by the API."
    body = {"from": "Shop <shop@acme.test>", "to": ["dave@peer.test"], "subject": subject, "text": text}
    return curl(lab, "/emails", body)


def answer_of(command: str) -> dict[str, Any]:
    """Run the line, and give what the API answers."""
    done = subprocess.run(["sh", "-c", command], text=True, capture_output=True, timeout=60, check=False)
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise NotProvedError(f"curl: exit code {done.returncode}: {done.stdout}{done.stderr}") from None
    if "data" not in answer and "id" not in answer:
        raise NotProvedError(f"the API answers {answer}")
    return answer


def peer_log(lab: Lab, token: str) -> str:
    """Why peer has not got rid of a message yet, in the words of the server it talks to."""
    queue = lab.ssh("peer", "postqueue -j", check=False)
    reasons = re.findall(r'"delay_reason": "([^"]*)"', queue)
    return f"; peer says: {reasons[-1]}" if reasons else f"; peer's queue is empty ({token})"


def authentication_results(text: str, authserv: str) -> str:
    """All results that one server wrote into a message, as one string."""
    parsed = email.message_from_string(text, policy=email.policy.default)
    found = [str(value) for value in parsed.get_all("Authentication-Results", []) if str(value).startswith(authserv)]
    return " ".join(found)


def require(results: str, *wanted: str) -> None:
    missing = [word for word in wanted if word not in results]
    if missing:
        raise NotProvedError(f"no {', '.join(missing)} in: {results or 'no Authentication-Results at all'}")


def refused(lab: Lab, body: EmailMessage, by: str) -> str:
    """Hand a message to mx1's port 25 from peer, as a stranger's server does; it must be refused after DATA."""
    script = f"""
import smtplib, sys
with smtplib.SMTP({lab.address("mx1")!r}, 25, "peer.peer.test", timeout=60) as smtp:
    try:
        smtp.starttls()
        smtp.sendmail("dave@peer.test", ["alice@acme.test"], sys.stdin.buffer.read())
        print("250 accepted")
    except smtplib.SMTPResponseException as error:
        print(error.smtp_code, error.smtp_error.decode())
    except smtplib.SMTPException as error:
        print(repr(error))
"""
    answer = lab.ssh("peer", f"python3 -c '{script.replace(chr(39), chr(34))}'", data=body.as_string()).strip()
    if not answer.startswith("5") or by not in answer:
        raise NotProvedError(f"expected a 5xx reply that says {by!r}, got: {answer}")
    return answer


def prove(lab: Lab) -> bool:
    """Prove the mail server in the lab; prints a line for each promise and gives whether all hold."""
    proof = Proof(lab)
    kept: dict[str, Any] = {}
    hello = message("dave@peer.test", "alice@acme.test", body="Dear Alice, shall we meet on Tuesday? Dave\n")
    token = str(hello["Subject"])

    def dave_to_alice() -> str:
        lab.dave_sends(hello)
        try:
            found = wait_until(lambda: lab.find("alice@acme.test", token), PATIENCE, "the message in alice's INBOX")
        except TimeoutError as error:
            raise NotProvedError(f"{error}{peer_log(lab, token)}") from None
        kept["received"] = found[0].decode()
        return "by IMAP over TLS"

    def filtered() -> str:
        if "received" not in kept:
            raise NotProvedError("the message did not arrive")
        results = authentication_results(kept["received"], "mx1.acme.test")
        require(results, "dkim=pass", "spf=pass", "dmarc=pass")
        return "dkim=pass spf=pass dmarc=pass"

    def alice_reads() -> str:
        if "received" not in kept:
            raise NotProvedError("the message did not arrive")
        with Webmail(lab) as browser:
            browser.login("alice@acme.test", lab.password)
            text = browser.open(token)
        if "shall we meet on Tuesday" not in text:
            raise NotProvedError(f"the page shows: {text[:200]}")
        return "in Chromium"

    answer = message("alice@acme.test", "dave@peer.test", f"Re: {token} answer", "Tuesday it is. Alice\n")
    attachment = os.urandom(200_000)
    answer.add_attachment(attachment, maintype="application", subtype="octet-stream", filename="agenda.bin")

    def alice_to_dave() -> str:
        with lab.submission("alice@acme.test") as smtp:
            smtp.send_message(answer)
        identity = str(answer["Message-ID"]).strip("<>")
        raw = wait_until(lambda: lab.dave_has(identity), PATIENCE, "the answer in dave's Maildir")
        kept["answer"] = raw
        parts = email.message_from_string(raw, policy=email.policy.default).iter_attachments()
        if [part.get_payload(decode=True) for part in parts] != [attachment]:
            raise NotProvedError("the attachment is not what alice sent")
        return "200 kB attachment byte for byte"

    def peer_verified() -> str:
        if "answer" not in kept:
            raise NotProvedError("the answer did not arrive")
        results = authentication_results(kept["answer"], "peer.peer.test")
        require(results, "dkim=pass", "spf=pass", "dmarc=pass")
        return "dkim=pass spf=pass dmarc=pass, says peer"

    def key_is_live() -> str:
        if "answer" not in kept:
            raise NotProvedError("the answer did not arrive")
        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers = [lab.address("ns1")]
        asked: list[str] = []

        def lookup(name: bytes, timeout: int = 5) -> bytes | None:
            asked.append(name.decode())
            try:
                return b"".join(resolver.resolve(name.decode(), "TXT", lifetime=timeout)[0].strings)
            except dns.exception.DNSException:
                return None

        raw = kept["answer"].encode()
        signatures = [str(value) for value in email.message_from_bytes(raw).get_all("DKIM-Signature", [])]
        algorithms = sorted(value for text in signatures for value in re.findall(r"\ba=([\w-]+)", text))
        if algorithms != ["ed25519-sha256", "rsa-sha256"]:
            raise NotProvedError(f"signed with {', '.join(algorithms) or 'nothing'}")
        for index in range(len(signatures)):
            if not dkim.DKIM(raw).verify(index, dnsfunc=lookup):
                raise NotProvedError(f"the key in the DNS does not verify it: {asked[-1]}")
        return " ".join(name.removesuffix("._domainkey.acme.test.") for name in asked)

    def forwarded() -> str:
        mail = message("dave@peer.test", "friends@acme.test")
        lab.dave_sends(mail)
        raw = wait_until(lambda: lab.dave_has(str(mail["Subject"])), PATIENCE, "the message back in dave's Maildir")
        results = authentication_results(raw, "peer.peer.test")
        require(results, "spf=pass smtp.mailfrom=mx1.acme.test", "dkim=pass", "dmarc=pass")
        return "dkim=pass spf=pass dmarc=pass, says peer"

    def gtube() -> str:
        return refused(lab, message("dave@peer.test", "alice@acme.test", body=GTUBE + "\n"), "Gtube")

    def eicar() -> str:
        virus = message("dave@peer.test", "alice@acme.test")
        virus.add_attachment(EICAR.encode(), maintype="application", subtype="octet-stream", filename="e.com")
        return refused(lab, virus, "Virus")

    def learned_spam() -> int:
        # where Bayes keeps its count; rspamc's statistics also ask fuzzy storages on the internet, which takes its time
        return int(lab.ssh("mx1", "redis-cli -s /run/redis/redis-server.sock HGET RS learns_spam").strip() or 0)

    def junk_is_learnt() -> str:
        words = " ".join(hashlib.sha256(f"{token}{i}".encode()).hexdigest()[:9] for i in range(60))
        spam = message("dave@peer.test", "alice@acme.test", body=f"Buy these: {words}\n")
        before = learned_spam()
        lab.dave_sends(spam)
        wait_until(lambda: lab.find("alice@acme.test", str(spam["Subject"])), PATIENCE, "the message in alice's INBOX")
        with lab.imap("alice@acme.test") as box:
            box.select("INBOX")
            number = box.search(None, "SUBJECT", f'"{spam["Subject"]}"')[1][0].split()[0].decode()
            box.copy(number, "Junk")
            box.store(number, "+FLAGS", "\\Deleted")
            box.expunge()
        wait_until(lambda: learned_spam() > before, 15, "one more message learnt in Rspamd's Bayes data")
        return f"{before} -> {learned_spam()} messages learnt as spam"

    def sent_by_api() -> str:
        sent = answer_of(send_by_api(lab, f"{token} by API"))

        def history() -> list[dict[str, Any]] | None:
            events: list[dict[str, Any]] = answer_of(curl(lab, f"/emails/{sent['id']}/events"))["data"]
            return events if events[-1]["kind"] == "delivered" else None

        events = wait_until(history, PATIENCE, "the event delivered")
        first, last = (datetime.fromisoformat(events[place]["at"]) for place in (0, -1))
        raw = wait_until(lambda: lab.dave_has(sent["message_id"].strip("<>")), PATIENCE, "it in dave's Maildir")
        require(authentication_results(raw, "peer.peer.test"), "dkim=pass", "spf=pass", "dmarc=pass")
        return f"{' -> '.join(event['kind'] for event in events)} in {(last - first).total_seconds():.1f} s, DMARC pass"

    proof.line("dave@peer.test writes to alice@acme.test, she reads it", dave_to_alice)
    proof.line("mx1 verified dave's DKIM, SPF and DMARC", filtered)
    proof.line("alice reads it in the webmail", alice_reads)
    proof.line("alice answers with an attachment, dave has it", alice_to_dave)
    proof.line("peer verified alice's DKIM, SPF and DMARC", peer_verified)
    proof.line("her RSA and Ed25519 signatures verify with the live DNS", key_is_live)
    proof.line("mail to an alias that leads to dave passes there (SRS)", forwarded)
    proof.line("spam (GTUBE) is refused", gtube)
    proof.line("a virus (EICAR) is refused", eicar)
    proof.line("a message moved to Junk is learnt", junk_is_learnt)
    proof.line("an application sends to dave by the API (curl)", sent_by_api)
    failed = [text for text, good, _seen, _seconds in proof.lines if not good]
    total = len(proof.lines)
    print(f"\n{total - len(failed)} of {total} proved" + (f"; not: {', '.join(failed)}" if failed else ""))
    return not failed
