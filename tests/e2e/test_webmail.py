# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What people do in the webmail, done in a real browser against a real mail server."""

from __future__ import annotations

import base64
import email
import email.policy
import hashlib
import http.client
import imaplib
import os
import re
import socket
import zipfile
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

import pytest
from connection import Lab, message, wait_until
from webmail import NAME, Webmail, WebmailError, imap_name

ALICE = "alice@acme.test"
DAVE = "dave@peer.test"
NEW_PASSWORD = "a new \"one\" 'with' $quotes \\ 7%u"


def deliver(lab: Lab, host: str, mail: EmailMessage, folder: str = "INBOX") -> None:
    """dave sends it, and it is in alice's folder."""
    lab.dave_sends(mail, host)
    word = re.search(r"e2etoken\w+", str(mail["Subject"]))
    assert word
    wait_until(lambda: lab.find(ALICE, word[0], folder, host), 45, f"dave's message in {folder}")


def get(lab: Lab, host: str, path: str) -> tuple[int, http.client.HTTPMessage, str]:
    """GET a path of the webmail as nobody; the certificate is verified."""
    connection = http.client.HTTPConnection(NAME, timeout=30)
    connection.sock = lab.tls().wrap_socket(
        socket.create_connection((lab.address(host), 443), timeout=30), server_hostname=NAME
    )
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode(errors="replace")
    finally:
        connection.close()


def eventually(browser: Webmail, look: Callable[[], list[str]], what: str) -> None:
    """Let the browser work until there is something to see."""

    def probe() -> list[str]:
        browser.page.wait_for_timeout(100)
        return look()

    wait_until(probe, 15, what)


def dave_has_decoded(lab: Lab, token: str) -> EmailMessage | None:
    """The new message of dave's whose decoded subject holds the token."""
    lines = lab.ssh("peer", "find ~dave/Maildir -type f -mmin -3 -exec base64 -w0 {} ';' -exec echo ';'").split()
    for line in lines:
        mail = email.message_from_bytes(base64.b64decode(line), policy=email.policy.default)
        if token in str(mail["Subject"]):
            return mail
    return None


def stored_hash(lab: Lab, host: str) -> str:
    sql = f"SELECT password FROM directory.mailbox WHERE address = '{ALICE}'"
    return lab.ssh(host, "psql -AtX -U mailwright mailwright", data=sql).strip()


def test_login_and_logout(browser: Webmail, lab: Lab) -> None:
    browser.login(ALICE, lab.password)
    assert {"Inbox", "Drafts", "Sent", "Junk", "Trash", "Archive"} <= set(browser.folders())
    cookies = {cookie["name"]: cookie for cookie in browser.page.context.cookies()}
    for name in ("roundcube_sessid", "roundcube_sessauth"):
        assert cookies[name]["secure"] and cookies[name]["httpOnly"] and cookies[name]["sameSite"] == "Strict", name
    browser.logout()
    browser.page.goto(f"https://{NAME}/?_task=mail")
    assert browser.page.locator("#rcmloginuser").is_visible(), "the session outlived the log-out"
    assert browser.complaints == [] or all("401" in line for line in browser.complaints)


def test_wrong_password_is_refused(browser: Webmail, lab: Lab) -> None:
    with pytest.raises(WebmailError, match="Login failed"):
        browser.login(ALICE, lab.password + "x")


def test_a_stranger_learns_nothing(lab: Lab, host: str) -> None:
    version = lab.ssh(host, "dpkg-query -W -f '${Version}' roundcube-core")
    upstream = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    assert upstream
    number = str(int(upstream[1]) * 10000 + int(upstream[2]) * 100 + int(upstream[3]))
    status, headers, page = get(lab, host, "/")
    assert status == 200
    assert "rcmloginuser" in page
    assert upstream[0] not in page and f'rcversion":{number}' not in page and "Roundcube Webmail" not in page
    assert "max-age=" in headers["Strict-Transport-Security"]
    assert headers["X-Frame-Options"].lower() == "sameorigin"
    assert "frame-ancestors 'self'" in headers["Content-Security-Policy"]
    assert headers["X-Powered-By"] is None
    assert headers["Server"] == "nginx"
    cookie = headers["Set-Cookie"].lower()
    assert "secure" in cookie and "httponly" in cookie and "samesite=strict" in cookie


@pytest.mark.parametrize(
    "path",
    [
        "/installer", "/installer/", "/installer/index.php", "/config/", "/config/config.inc.php", "/logs/",
        "/logs/errors.log", "/temp/", "/bin/", "/bin/update.sh", "/SQL/", "/SQL/postgres.initial.sql", "/vendor/",
        "/composer.json", "/CHANGELOG.md", "/README.md", "/skins/", "/skins/elastic/", "/plugins/", "/program/",
        "/program/js/", "/program/include/iniset.php", "/skins/elastic/meta.json",
        "/skins/elastic/templates/login.html",
        "/plugins/password/config.inc.php", "/plugins/managesieve/Changelog", "/plugins/managesieve/composer.json",
        "/plugins/password/localization/en_US.inc", "/plugins/mailwright/mailwright.php", "/.htaccess",
        "/index.php/x", "/plugins/../../../../etc/passwd", "/skins/..%2f..%2f..%2f..%2fetc/roundcube/debian-db.php",
    ],
)  # fmt: skip
def test_not_served(lab: Lab, host: str, path: str) -> None:
    status, _headers, page = get(lab, host, path)
    assert status in (400, 404)
    assert len(page) < 300


def test_configuration_is_private(lab: Lab, host: str) -> None:
    readable = lab.ssh(
        host, "setpriv --reuid nobody --regid nogroup --clear-groups sh -c '"
        "for f in /etc/roundcube/config.inc.php /etc/roundcube/debian-db.php /etc/roundcube/plugins/*/config.inc.php "
        "/etc/mailwright/secrets/*; do ! cat $f >/dev/null 2>&1 || echo $f; done'",
    )  # fmt: skip
    ours = {"/etc/roundcube/config.inc.php", "/etc/roundcube/debian-db.php"}
    ours |= {f"/etc/roundcube/plugins/{name}/config.inc.php" for name in ("password", "managesieve")}
    assert not ours & set(readable.split())
    assert "/etc/mailwright/secrets" not in readable


def test_read_and_answer_with_an_attachment(alice: Webmail, lab: Lab, host: str, token: str, tmp_path: Path) -> None:
    deliver(lab, host, message(DAVE, ALICE, token, "Dear Alice, shall we meet on Tuesday?\n"))
    page = alice.open(token)
    assert "shall we meet on Tuesday" in page
    assert DAVE in page
    attachment = tmp_path / "agenda.bin"
    attachment.write_bytes(os.urandom(150_000))
    alice.reply(token, "Tuesday it is.", attachment)
    assert f"Re: {token}" in alice.messages("Sent")
    raw = wait_until(lambda: lab.dave_has(token), 60, "the answer in dave's Maildir")
    mail = email.message_from_string(raw, policy=email.policy.default)
    assert isinstance(mail, EmailMessage)
    assert mail["Subject"] == f"Re: {token}"
    body = mail.get_body(("plain",))
    assert body is not None and "Tuesday it is." in body.get_content()
    digests = [hashlib.sha256(part.get_content()).hexdigest() for part in mail.iter_attachments()]
    assert digests == [hashlib.sha256(attachment.read_bytes()).hexdigest()]
    assert alice.complaints == []
    assert lab.address(host) not in str(mail["User-Agent"]) and "Roundcube" not in raw.partition("\n\n")[0]


def test_filter_into_a_folder_that_can_be_deleted(alice: Webmail, lab: Lab, host: str, token: str) -> None:
    folder = f"Projekt Übermut v1.2 {token}"
    alice.create_folder(folder)
    assert folder in alice.folders()
    alice.add_filter(f"rule {token}", "Subject", token, folder)
    deliver(lab, host, message(DAVE, ALICE, f"{token} filed", "By a rule.\n"), f'"{imap_name(folder)}"')
    assert alice.messages(folder) == [f"{token} filed"]
    assert f"{token} filed" not in alice.messages("INBOX")
    assert alice.complaints == []
    # the search index is made in the background; what remains of a deleted folder must not hold its words
    remains = f"find /var/vmail/acme.test/alice -name '*{token}*'"
    wait_until(lambda: lab.ssh(host, f"{remains} -exec find {{}} -name 'fts*' ';'"), 15, "the folder's search index")
    alice.delete_folder(folder)
    assert folder not in alice.folders()
    assert lab.ssh(host, remains) == ""


def test_archive(alice: Webmail, lab: Lab, host: str, token: str) -> None:
    deliver(lab, host, message(DAVE, ALICE, token))
    alice.archive(token)
    assert token in alice.messages("Archive")
    assert token not in alice.messages("INBOX")


def test_download_several_as_zip(alice: Webmail, lab: Lab, host: str, token: str, tmp_path: Path) -> None:
    first = message(DAVE, ALICE, f"{token} a", "First.\n")
    contents = {"one.bin": os.urandom(5000), "two.bin": os.urandom(6000)}
    for name, data in contents.items():
        first.add_attachment(data, maintype="application", subtype="octet-stream", filename=name)
    deliver(lab, host, first)
    deliver(lab, host, message(DAVE, ALICE, f"{token} b", "Second.\n"))
    alice.download_messages([f"{token} a", f"{token} b"], tmp_path / "messages.zip")
    with zipfile.ZipFile(tmp_path / "messages.zip") as archive:
        mails = [email.message_from_bytes(archive.read(name)) for name in archive.namelist()]
    assert sorted(str(mail["Subject"]) for mail in mails) == [f"{token} a", f"{token} b"]
    alice.download_attachments(f"{token} a", tmp_path / "attachments.zip")
    with zipfile.ZipFile(tmp_path / "attachments.zip") as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == contents


def test_html_message_runs_and_fetches_nothing(alice: Webmail, lab: Lab, host: str, token: str) -> None:
    mail = message(DAVE, ALICE, token, "Plain.\n")
    mail.add_alternative(
        """<html><head><link rel="stylesheet" href="http://tracker.test/style.css">
        <style>body { background: url(http://tracker.test/css.png) } @import "http://tracker.test/import.css";</style>
        </head><body onload="alert('body')"><p>Visible text of the letter.</p>
        <script>alert('script'); parent.window.pwned = 1</script>
        <img src="http://tracker.test/pixel.png"><img src="x" onerror="alert('img')">
        <svg onload="alert('svg')"><script>alert('svg script')</script></svg>
        <iframe src="http://tracker.test/frame.html"></iframe><object data="http://tracker.test/object"></object>
        <a href="javascript:alert('link')">Click me</a><form action="http://tracker.test/form"><input name=a></form>
        <div style="background-image: url('http://tracker.test/inline.png')">Box</div></body></html>""",
        subtype="html",
    )
    deliver(lab, host, mail)
    assert "Visible text of the letter." in alice.open(token)
    frame = alice.page.frame_locator("iframe#messagecontframe")
    link = frame.get_by_text("Click me")
    if link.evaluate("element => element.tagName") == "A":
        link.click()
    alice.page.wait_for_load_state("networkidle")
    assert [url for url in alice.requests if "tracker.test" in url] == []
    assert {url.split("/")[2] for url in alice.requests if url.startswith("http")} == {NAME}
    assert alice.dialogs == []
    assert all(part.evaluate("() => window.pwned") is None for part in alice.page.frames)
    assert frame.locator("#messagebody script, #messagebody iframe, #messagebody object").count() == 0
    # on the reader's demand only the pictures: which also shows that the test would see a request
    frame.locator("#remote-objects-message a").filter(has_text=re.compile("Allow", re.I)).first.click()
    eventually(alice, lambda: [url for url in alice.requests if "pixel.png" in url], "the picture's request")
    assert not [url for url in alice.requests if re.search(r"tracker.test/(frame|object|form)", url)]
    assert alice.dialogs == []


def test_content_policy_stops_foreign_script(alice: Webmail) -> None:
    """The wall behind Roundcube's own cleaning: a script of another host does not load, even if put into the page."""
    alice.page.evaluate(
        """() => { const script = document.createElement('script'); script.src = 'https://tracker.test/x.js';
        document.head.append(script); }"""
    )
    eventually(alice, lambda: [line for line in alice.complaints if "Content Security" in line], "the refusal")


def test_non_ascii(alice: Webmail, lab: Lab, host: str, token: str) -> None:
    subject = f"Grüße aus Zürich für 30 € 🙂 {token}"
    deliver(lab, host, message(DAVE, ALICE, subject, "Żółć, 日本語, עברית, emoji 🎉.\n"))
    assert "Żółć, 日本語, עברית, emoji 🎉." in alice.open(subject)
    alice.send(DAVE, f"Réponse {token} 你好", "Voilà: ąęß 日本語 🎉")
    mail = wait_until(lambda: dave_has_decoded(lab, token), 60, "the message in dave's Maildir")
    assert mail["Subject"] == f"Réponse {token} 你好"
    body = mail.get_body(("plain",))
    assert body is not None and "Voilà: ąęß 日本語 🎉" in body.get_content()


def test_change_password(browser: Webmail, lab: Lab, host: str, inventory: list[str]) -> None:
    old = stored_hash(lab, host)
    browser.login(ALICE, lab.password)
    with pytest.raises(WebmailError, match=r"(?i)current password"):
        browser.change_password("not the old one", NEW_PASSWORD)
    assert stored_hash(lab, host) == old
    with pytest.raises(WebmailError, match=r"(?i)at least 10"):
        browser.change_password(lab.password, "short7")
    browser.change_password(lab.password, NEW_PASSWORD)
    new = stored_hash(lab, host)
    assert new.startswith("{ARGON2ID}$argon2id$v=19$") and new != old
    assert "Inbox" in browser.folders(), "the running session goes on with the new password"
    with pytest.raises(WebmailError, match="Login failed"):
        browser.login(ALICE, lab.password)
    with pytest.raises(imaplib.IMAP4.error), lab.imap(ALICE, host):
        pass
    browser.login(ALICE, NEW_PASSWORD)
    with lab.imap(ALICE, host, NEW_PASSWORD) as box:
        assert box.noop()[0] == "OK"
    applied = lab.playbook(*inventory, "mailwright.server.site")
    assert applied.returncode == 0, applied.stdout[-3000:]
    recap = re.search(rf"^{host} +: ok=\d+ +changed=(\d+)", applied.stdout, re.MULTILINE)
    assert recap and recap[1] == "0", applied.stdout[-3000:]
    assert stored_hash(lab, host) == new, "an apply keeps what the user chose"
    browser.login(ALICE, NEW_PASSWORD)
    browser.change_password(NEW_PASSWORD, lab.password)
    browser.login(ALICE, lab.password)


def test_no_complaints_in_the_log(lab: Lab, host: str, started: str) -> None:
    """PHP saw no error in all of this: neither of Roundcube's nor of what it may not open."""
    lines = lab.ssh(host, f"journalctl -q --since '{started}' -t roundcube-php -t roundcube -o cat --no-pager")
    # the style sheet that the reader allowed is one that Roundcube would fetch itself, which it may not
    wrong = [line for line in lines.splitlines() if "PHP " in line and "_action=modcss" not in line]
    assert wrong == []
