# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Roundcube as a person sees it: a real Chromium that clicks, types and reads. Knows nothing of pytest."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Concatenate, ParamSpec, TypeVar
from urllib.parse import urlencode

from connection import Lab, wait_until
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from playwright.sync_api import Dialog, Error, FrameLocator, Locator, Page, Request, expect, sync_playwright

CHROMIUM = "/usr/bin/chromium"
NAME = "mx1.acme.test"
PATIENCE = 20.0
NETWORK_CHANGED = "ERR_NETWORK_CHANGED"
ONCE = ("send", "reply", "create_folder", "delete_folder", "add_filter", "change_password")
P = ParamSpec("P")
T = TypeVar("T")


class WebmailError(RuntimeError):
    """The page did not do what was asked, or said why not."""


def verified_key(lab: Lab, host: str) -> str:
    """The SPKI hash (base64 of SHA-256) of the certificate that the host serves on 443.

    Raises ssl.SSLError unless the lab's CA signed it for the webmail's name. Chromium is told to accept this key only.
    """
    with (
        socket.create_connection((lab.address(host), 443), timeout=30) as plain,
        lab.tls().wrap_socket(plain, server_hostname=NAME) as served,
    ):
        certificate = served.getpeercert(binary_form=True)
    if certificate is None:
        raise WebmailError(f"{host} serves no certificate on port 443")
    key = x509.load_der_x509_certificate(certificate).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(spki).digest()).decode()


def imap_name(name: str) -> str:
    """A folder's name in modified UTF-7 (RFC 3501, 5.1.3), as the webmail's addresses and IMAP carry it."""

    def encode(found: re.Match[str]) -> str:
        return "&" + base64.b64encode(found[0].encode("utf-16-be")).decode().rstrip("=").replace("/", ",") + "-"

    return re.sub(r"[^\x20-\x7e]+", encode, name.replace("&", "&-"))


def told(method: Callable[Concatenate[Webmail, P], T]) -> Callable[Concatenate[Webmail, P], T]:
    """Turn the browser's errors into one that says which step failed and what the page showed.

    Chromium drops every request when an address of this machine comes or goes, as when a lab host boots. A step
    that this disturbed, and that may be done twice, is done again.
    """

    @functools.wraps(method)
    def step(self: Webmail, /, *args: P.args, **kwargs: P.kwargs) -> T:
        for last in (False, False, True):
            self.notice, self._disturbed = "", False
            try:
                return method(self, *args, **kwargs)
            except (Error, AssertionError, TimeoutError) as error:
                if self._disturbed and not last and method.__name__ not in ONCE:
                    continue
                shown = f"; the page says: {self.notice}" if self.notice else ""
                shown += f"; {NETWORK_CHANGED}" if self._disturbed else ""
                text = str(error).strip().splitlines()[0]
                raise WebmailError(f"webmail, {method.__name__}: {text}{shown}") from error
        raise AssertionError

    return step


class Webmail:
    """One browser on one host's webmail.

    requests, dialogs and complaints hold what the browser asked for, every alert, and every error of its console,
    since the last log-in.
    """

    def __init__(self, lab: Lab, host: str = "mx1") -> None:
        key = verified_key(lab, host)
        self._playwright = sync_playwright().start()
        self._browser = self._playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox", "--no-first-run", "--disable-background-networking", "--disable-component-update",
                "--disable-sync", "--disable-quic", "--disable-gpu", f"--ignore-certificate-errors-spki-list={key}",
                f"--host-resolver-rules=MAP {NAME} {lab.address(host)}, MAP * ~NOTFOUND",
            ],
        )  # fmt: skip
        self.notice, self._disturbed = "", False
        self._fresh()

    def __enter__(self) -> Webmail:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._browser.close()
        self._playwright.stop()

    def _fresh(self) -> None:
        """Another person sits down: no cookies, nothing remembered."""
        for old in self._browser.contexts:
            old.close()
        context = self._browser.new_context(viewport={"width": 1400, "height": 900}, locale="en-US")
        context.set_default_timeout(PATIENCE * 1000)
        self.requests: list[str] = []
        self.dialogs: list[str] = []
        self.complaints: list[str] = []
        self.page: Page = context.new_page()
        self.page.on("request", self._on_request)
        self.page.on("requestfailed", self._on_failure)
        self.page.on("dialog", self._on_dialog)
        self.page.on("console", lambda line: self.complaints.append(line.text) if line.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _on_request(self, request: Request) -> None:
        self.requests.append(request.url)

    def _on_failure(self, request: Request) -> None:
        self._disturbed = self._disturbed or NETWORK_CHANGED in (request.failure or "")

    def _on_dialog(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.accept()

    def _visit(self, **query: str) -> None:
        self.page.goto(f"https://{NAME}/?{urlencode(query)}")

    def _frame(self, title: str) -> FrameLocator:
        return self.page.frame_locator(f"iframe#{title}")

    def _confirmed(self) -> str:
        """Wait for the green notice that ends a step, and give its text; a red one is an error."""
        notices = self.page.locator("#messagestack > div:not(.loading)")
        notices.first.wait_for()
        self.notice = notices.first.inner_text().strip()
        if "confirmation" not in (notices.first.get_attribute("class") or ""):
            raise WebmailError(f"the page says: {self.notice}")
        return self.notice

    def screenshot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)

    @told
    def login(self, user: str, password: str) -> None:
        """Log in as a new visitor; raises WebmailError with the page's words when refused."""
        self._fresh()
        self._visit()
        self.page.locator("#rcmloginuser").fill(user)
        self.page.locator("#rcmloginpwd").fill(password)
        self.page.locator("#rcmloginsubmit").click()
        answer = self.page.locator("body.task-mail #mailboxlist, body.task-login #messagestack > div:not(.loading)")
        answer.first.wait_for()
        if self.page.locator("body.task-login").count():
            self.notice = answer.first.inner_text().strip()
            raise WebmailError(f"log-in as {user} refused: {self.notice}")

    @told
    def logout(self) -> None:
        # a click that comes while the page loads something is ignored
        self.page.wait_for_function("() => !rcmail.busy")
        self.page.locator("#taskmenu a.logout").click()
        self.page.locator("#rcmloginuser").wait_for()

    @told
    def folders(self) -> list[str]:
        """Names as the page shows them, with their path: Lists/Announcements."""
        self._visit(_task="mail")
        self.page.locator("#mailboxlist li.mailbox.inbox").wait_for()
        self._settle()
        paths: list[str] = self.page.locator("#mailboxlist li.mailbox").evaluate_all(
            """items => items.map(item => {
                const names = [];
                for (let one = item; one; one = one.parentElement.closest('li.mailbox'))
                    names.unshift([...one.querySelector(':scope > a').childNodes]
                        .filter(node => node.nodeType === Node.TEXT_NODE).map(node => node.data).join('').trim());
                return names.join('/');
            })"""
        )
        return paths

    def _list(self, folder: str) -> None:
        self._visit(_task="mail", _mbox=imap_name(folder))
        self._settle()

    def _settle(self) -> None:
        """Wait until the message list is there."""
        self.page.wait_for_function("() => window.rcmail && !rcmail.busy && rcmail.env.messagecount !== undefined")

    def _row(self, subject: str) -> Locator:
        return self.page.locator("#messagelist tr.message").filter(
            has=self.page.locator("td.subject span.subject", has_text=re.compile(rf"^\s*{re.escape(subject)}\s*$"))
        )

    def _found(self, subject: str, folder: str, seconds: float = PATIENCE) -> Locator:
        """The message's line in the folder's list; looks again until it is there."""

        def look() -> Locator | None:
            self._list(folder)
            self.page.locator("#messagelist tr.message, #mailboxlist li.selected").first.wait_for()
            with_subject = self._row(subject)
            return with_subject if with_subject.count() else None

        return wait_until(look, seconds, f"{subject!r} in {folder}", every=0.5)

    @told
    def messages(self, folder: str = "INBOX") -> list[str]:
        """The subjects in a folder, as listed on its first page."""
        self._list(folder)
        return [text.strip() for text in self.page.locator("#messagelist tr.message span.subject").all_inner_texts()]

    @told
    def open(self, subject: str, folder: str = "INBOX") -> str:
        """Click the message and read what the preview shows: headers and body, as text."""
        self._found(subject, folder).first.locator("td.subject").click()
        body = self._frame("messagecontframe").locator("#messagebody")
        body.wait_for()
        return self._frame("messagecontframe").locator("#layout-content, body").first.inner_text()

    @told
    def send(self, to: str, subject: str, body: str, attachment: Path | None = None) -> None:
        """Write a message and send it; returns when the page says that it is sent."""
        self._visit(_task="mail", _action="compose")
        self._fill_and_send(to, subject, body, attachment)

    @told
    def reply(self, to_subject: str, body: str, attachment: Path | None = None, folder: str = "INBOX") -> None:
        """Answer a message with the reply button."""
        self._found(to_subject, folder).first.locator("td.subject").click()
        self._frame("messagecontframe").locator("#messagebody").wait_for()
        self.page.locator("#toolbar-menu a.reply").click()
        self._fill_and_send(None, None, body, attachment)

    def _fill_and_send(self, to: str | None, subject: str | None, body: str, attachment: Path | None) -> None:
        text = self.page.locator("#composebody")
        text.wait_for()
        if to is not None:
            recipient = self.page.locator("#compose_to input")
            recipient.fill(to)
            recipient.press("Enter")
        if subject is not None:
            self.page.locator("#compose-subject").fill(subject)
        text.fill(body)
        if attachment is not None:
            self.page.locator("#uploadform input[type=file]").first.set_input_files(attachment)
            self.page.locator("#attachment-list li a.filename", has_text=attachment.name).wait_for()
            expect(self.page.locator("#attachment-list li.uploading")).to_have_count(0)
        self.page.locator("button.send, a.send").filter(visible=True).first.click()
        # it tells of success for a moment only, and goes back to the list by itself; of failure it tells, and stays
        failure = "#messagestack > div:not(.loading):not(.confirmation)"
        self.page.locator(f"#mailboxlist li.mailbox.inbox, {failure}").first.wait_for()
        if self.page.locator(failure).count():
            self._confirmed()
        self._settle()

    @told
    def archive(self, subject: str, folder: str = "INBOX") -> None:
        """Select a message and press the archive button."""
        row = self._found(subject, folder)
        row.first.locator("td.subject").click()
        self.page.locator("#toolbar-menu a.archive").click()
        row.first.wait_for(state="hidden")

    @told
    def download_messages(self, subjects: list[str], to: Path, folder: str = "INBOX") -> None:
        """Select several messages and save them as one ZIP of .eml files."""
        for number, subject in enumerate(subjects):
            row = self._found(subject, folder) if not number else self._row(subject)
            row.first.locator("td.subject").click(modifiers=["Control"] if number else [])
        self.page.locator("#toolbar-menu a.more").click()
        menu = self.page.locator("#messagelist-menu, #message-menu").filter(visible=True)
        menu.locator("a.download").first.click()
        with self.page.expect_download() as saved:
            self.page.locator("#zipdownload-menu a.download.mbox, #zipdownload-menu a.download.maildir").last.click()
        saved.value.save_as(to)

    @told
    def download_attachments(self, subject: str, to: Path, folder: str = "INBOX") -> None:
        """Save all attachments of a message as one ZIP."""
        self._found(subject, folder).first.locator("td.subject").click()
        link = self._frame("messagecontframe").locator("a.zipdownload")
        with self.page.expect_download() as saved:
            link.click()
        saved.value.save_as(to)

    @told
    def create_folder(self, name: str) -> None:
        self._visit(_task="settings", _action="folders")
        self.page.locator("a.create").filter(visible=True).first.click()
        form = self._frame("preferences-frame")
        form.locator("[name=_name]").fill(name)
        form.locator("button.submit").click()
        self._confirmed()

    @told
    def delete_folder(self, name: str) -> None:
        self._visit(_task="settings", _action="folders")
        self.page.locator("#subscription-table li.mailbox > a").filter(has_text=name).first.click()
        self._frame("preferences-frame").locator("[name=_name]").wait_for()
        self.page.locator("#toolbar-menu a.delete, .header a.delete").filter(visible=True).first.click()
        self.page.locator(".ui-dialog button.delete, .ui-dialog button.mainaction").filter(visible=True).first.click()
        self._confirmed()

    @told
    def add_filter(self, name: str, header: str, contains: str, folder: str) -> None:
        """Make a Sieve rule: when the header (Subject, From, To) contains the text, move the message to the folder."""
        self._visit(_task="settings", _action="plugin.managesieve")
        self.page.locator("a.create").filter(visible=True).first.click()
        form = self._frame("filter-box")
        form.locator("#_name").fill(name)
        form.locator("select[name='_header[0]']").select_option(header.lower())
        form.locator("select[name='_rule_op[0]']").select_option("contains")
        form.locator("input[name='_rule_target[0][]']").fill(contains)
        form.locator("select[name='_action_type[0]']").select_option("fileinto")
        form.locator("select[name='_action_mailbox[0]']").select_option(label=folder)
        form.locator("button.submit").click()
        self._confirmed()

    @told
    def change_password(self, old: str, new: str) -> None:
        self._visit(_task="settings", _action="plugin.password")
        self.page.locator("#curpasswd").fill(old)
        self.page.locator("#newpasswd").fill(new)
        self.page.locator("#confpasswd").fill(new)
        self.page.locator("button.submit").filter(visible=True).first.click()
        self._confirmed()
