# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates by ACME: what certbot is asked, what its words mean, and the deploy hook on real files."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.certificate import acme, deploy
from ansible_collections.mailwright.server.plugins.module_utils.certificate.pair import Pair, parse_pair, self_sign
from ansible_collections.mailwright.server.plugins.module_utils.certificate.rollover import Key, State
from ansible_collections.mailwright.server.plugins.module_utils.certificate.store import CertificateStore
from ansible_collections.mailwright.server.plugins.module_utils.probes import dane, renewal
from ansible_collections.mailwright.server.plugins.modules.acme_account import account_uri

HOST = "mx1.acme.test"
NOW = datetime.now(UTC).replace(microsecond=0)
ORDER = acme.Order((HOST,), "https://ca.test/dir", "me@acme.test", "http-01", "rsa", 60)
CONFIG = f"""
# renew_before_expiry = 30 days
version = 4.0.0
[renewalparams]
reuse_key = True
key_type = rsa
renew_hook = {acme.HOOK}
server = https://ca.test/dir
authenticator = webroot
[[webroot_map]]
{HOST} = /var/lib/mailwright/acme
"""


def pair(names: tuple[str, ...] = (HOST,), start: datetime = NOW, key: bytes | None = None) -> Pair:
    return self_sign(list(names), start, key)


# What certbot is asked for


def test_nothing_is_asked_for_when_all_is_as_wanted() -> None:
    assert acme.reasons(ORDER, acme.parse_renewal(CONFIG), pair(), NOW) == []


@pytest.mark.parametrize(
    ("order", "config", "names", "reason"),
    [
        (replace(ORDER, names=(HOST, "b.test")), CONFIG, (HOST,), f"names: {HOST}"),
        (replace(ORDER, directory="https://b.test/"), CONFIG, (HOST,), "server: https://ca.test/dir"),
        (replace(ORDER, challenge="dns-01"), CONFIG, (HOST,), "authenticator: webroot"),
        (replace(ORDER, key_type="ecdsa"), CONFIG, (HOST,), "key_type: rsa"),
        (ORDER, CONFIG.replace("reuse_key = True", ""), (HOST,), "reuse_key: not set"),
        (ORDER, CONFIG.replace(acme.HOOK, "/bin/true"), (HOST,), "renew_hook: /bin/true"),
        (ORDER, CONFIG, (HOST, "b.test"), f"names: {HOST}, b.test"),
    ],
)
def test_what_differs_is_the_reason(order: acme.Order, config: str, names: tuple[str, ...], reason: str) -> None:
    assert acme.reasons(order, acme.parse_renewal(config), pair(names), NOW) == [reason]


def test_none_and_an_expired_one_are_reasons() -> None:
    assert acme.reasons(ORDER, {}, None, NOW) == ["there is none yet"]
    old = pair(start=NOW - timedelta(days=500))
    assert acme.reasons(ORDER, acme.parse_renewal(CONFIG), old, NOW) == [f"it expired on {old.not_after:%Y-%m-%d}"]


def test_the_key_is_kept_unless_its_kind_changes() -> None:
    config = acme.parse_renewal(CONFIG)
    assert not acme.key_changes(ORDER, config, pair())
    assert not acme.key_changes(replace(ORDER, key_type="ecdsa"), {}, None)
    assert acme.key_changes(replace(ORDER, key_type="ecdsa"), config, pair())
    command = acme.certbot_command(ORDER, new_key=False)
    assert "--reuse-key" in command and "--new-key" not in command
    assert "--new-key" in acme.certbot_command(ORDER, new_key=True)


def test_dns_01_names_the_file_with_the_key_and_not_the_key() -> None:
    command = acme.certbot_command(replace(ORDER, challenge="dns-01", names=(HOST, "b.test")), new_key=False)
    assert command[command.index("--dns-rfc2136-credentials") + 1] == acme.CREDENTIALS
    assert "--webroot" not in command
    assert [command[i + 1] for i, word in enumerate(command) if word == "--domain"] == [HOST, "b.test"]


def test_certbots_words_become_one_line() -> None:
    said = (
        "Certbot failed to authenticate some domains (authenticator: webroot). The Certificate Authority reported these"
        f" problems:\n  Domain: {HOST}\n  Type:   connection\n  Detail: dial tcp 192.0.2.1:80: connection refused\n\n"
        "Hint: The Certificate Authority failed\nSome challenges have failed.\nAsk for help at https://x.test.\n"
    )
    line = acme.explain(said)
    assert line.startswith(f"{HOST}: dial tcp 192.0.2.1:80: connection refused (connection); port 80 must lead to")
    assert "\n" not in line
    assert acme.explain("Saving debug log to /x\nAnother instance is running.\nAsk for help\n") == (
        "Another instance is running."
    )
    assert acme.explain("") == "certbot did not say why"


def test_the_account_is_the_one_that_renews(tmp_path: Path) -> None:
    directory = "https://ca.test:14000/dir"
    assert account_uri(tmp_path, HOST, directory) is None
    settings = tmp_path / "renewal" / f"{HOST}.conf"
    settings.parent.mkdir()
    settings.write_text(f"account = abc\nserver = {directory}\n")
    assert account_uri(tmp_path, HOST, directory) is None
    for name, uri in (("abc", "https://ca.test/acct/1"), ("other", "https://ca.test/acct/2")):
        file = tmp_path / "accounts" / "ca.test:14000" / "dir" / name / "regr.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"body": {}, "uri": uri}))
    assert account_uri(tmp_path, HOST, directory) == "https://ca.test/acct/1"
    assert account_uri(tmp_path, HOST, "https://b.test/dir") is None
    for wrong in ("{}", "[]", '{"uri": "x; y"}', "nonsense"):
        (tmp_path / "accounts" / "ca.test:14000" / "dir" / "abc" / "regr.json").write_text(wrong)
        with pytest.raises(ValueError, match=r".+"):
            account_uri(tmp_path, HOST, directory)


# The published records


def test_tlsa_records() -> None:
    assert deploy.parse_tlsa(f"# mine\n3 1 1 {'AB' * 32}  # current\n\n3 1 1 {'01' * 32}\n") == {"ab" * 32, "01" * 32}
    assert deploy.parse_tlsa("") == frozenset()
    for wrong in ("2 1 1 " + "ab" * 32, "3 1 1 abc", "ab" * 32):
        with pytest.raises(ValueError, match="line 1"):
            deploy.parse_tlsa(wrong)


def test_the_digest_is_that_of_openssl(tmp_path: Path) -> None:
    made = pair()
    (tmp_path / "c.pem").write_bytes(made.chain_pem)
    command = f"openssl x509 -in {tmp_path}/c.pem -pubkey -noout | openssl pkey -pubin -outform DER | openssl sha256 -r"
    found = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    assert found.split()[0] == made.spki


# What is refused


def test_a_name_that_was_never_held_does_not_hold_up_the_others() -> None:
    live = pair((HOST, "held.test"))
    assert deploy.needed_names([HOST, "held.test", "new.test"], live) == [HOST, "held.test"]
    assert deploy.needed_names([HOST, "new.test"], None) == [HOST]


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (pair(("b.test",)), "covers mx1.acme.test"),
        (pair(start=NOW - timedelta(days=500)), "expired on"),
        (pair(start=NOW + timedelta(days=2)), "not valid before"),
    ],
)
def test_a_certificate_that_does_not_serve_is_refused(new: Pair, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        deploy.accept(new.chain_pem, new.key_pem, [HOST], None, NOW)
    assert "certificate_pem" not in str(caught.value)


def test_a_key_of_another_certificate_is_refused_and_not_shown() -> None:
    key = pair().key_pem
    with pytest.raises(ValueError, match="not that of the certificate") as caught:
        deploy.accept(pair().chain_pem, key, [HOST], None, NOW)
    assert key.decode().splitlines()[1] not in str(caught.value)


def test_with_dane_only_a_published_key_is_admitted() -> None:
    new = pair()
    assert deploy.admits(None, new) and deploy.admits(frozenset({"00" * 32, new.spki}), new)
    assert not deploy.admits(frozenset({"00" * 32}), new) and not deploy.admits(frozenset(), new)


# The hook on files


class Host:
    """Certbot's directory, ours, and a command in place of the services' reload that counts how often it ran."""

    def __init__(self, directory: Path) -> None:
        self.lineage = directory / "letsencrypt" / HOST
        self.lineage.mkdir(parents=True)
        self.settings = directory / "settings.json"
        self.settings.write_text(json.dumps({"hostname": HOST, "names": [HOST], "path": str(directory / "tls")}))
        self.store = CertificateStore(str(directory / "tls"), HOST)
        self.log = directory / "reloads"
        self.reload = ["sh", "-c", f"echo x >> {self.log}"]

    def renew(self, new: Pair) -> None:
        (self.lineage / "fullchain.pem").write_bytes(new.chain_pem)
        (self.lineage / "privkey.pem").write_bytes(new.key_pem)

    def hook(self) -> tuple[int, str]:
        return deploy.hook(str(self.settings), self.reload)

    def live(self) -> str:
        content = self.store.read()
        assert content
        return parse_pair(*content).fingerprint

    def reloads(self) -> int:
        return len(self.log.read_text().split()) if self.log.exists() else 0


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host(tmp_path)
    monkeypatch.setenv("RENEWED_LINEAGE", str(made.lineage))
    first = pair()
    made.store.write(first.chain_pem, first.key_pem)
    made.renew(pair(key=first.key_pem))
    return made


def test_the_hook_installs_once_and_reloads_once(host: Host) -> None:
    before = host.live()
    assert host.hook() == (0, f"{HOST}: a new certificate is in use")
    assert host.live() != before
    assert host.hook() == (0, f"{HOST}: nothing to do")
    assert host.reloads() == 1


def test_the_hook_lets_a_key_that_is_not_published_wait_and_keeps_the_old_one(host: Host) -> None:
    before = host.live()
    settings = deploy.Settings.load(str(host.settings))
    tlsa = Path(host.store.directory, deploy.TLSA)
    tlsa.write_text(f"3 1 1 {'00' * 32}\n")
    assert deploy.pending(settings, str(host.lineage))
    for _turn in range(2):
        code, text = host.hook()
        assert code == 0 and "WAITS, the one before it stays in use: its key has no TLSA record" in text
        assert (host.live(), host.reloads()) == (before, 0)
        assert not deploy.pending(settings, str(host.lineage))
    waiting = deploy.next_pair(host.store)
    assert waiting is not None and waiting.fingerprint != before
    tlsa.write_text("nonsense\n")
    code, text = host.hook()
    assert code == 1 and f"{tlsa}: line 1" in text
    tlsa.write_text(f"3 1 1 {waiting.spki}\n")
    assert deploy.pending(settings, str(host.lineage))
    assert host.hook() == (0, f"{HOST}: a new certificate is in use")
    assert (host.live(), deploy.next_pair(host.store)) == (waiting.fingerprint, None)
    assert len(os.listdir(host.store.directory)) == 4  # two pairs, the link, the list


def test_a_reload_that_failed_is_made_up_for(host: Host) -> None:
    works = host.reload
    host.reload = ["sh", "-c", "echo nginx is down >&2; exit 1"]
    code, text = host.hook()
    assert code == 1 and text.endswith("not every service has loaded it: nginx is down")
    settings = deploy.Settings.load(str(host.settings))
    assert deploy.pending(settings, str(host.lineage))
    host.reload = works
    assert host.hook()[0] == 0
    assert host.reloads() == 1
    assert not deploy.pending(settings, str(host.lineage))


def test_another_certificate_of_certbots_is_left_alone(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    before = host.live()
    monkeypatch.setenv("RENEWED_LINEAGE", "/etc/letsencrypt/live/www.acme.test")
    assert host.hook()[0] == 0
    assert host.live() == before


def test_missing_settings_are_said(host: Host) -> None:
    host.settings.unlink()
    code, text = host.hook()
    assert code == 1 and "cannot install" in text


# The status report

GOOD = {
    "certbot.timer": {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled"},
    "certbot.service": {"Result": "success", "ExecMainExitTimestamp": "Tue 2026-11-24 00:49:35 UTC"},
}


def test_renewal_that_works() -> None:
    found = renewal.evaluate(GOOD, False)
    assert (found.status, found.summary) == ("ok", "timer active, last run Tue 2026-11-24 00:49:35 UTC")


@pytest.mark.parametrize(
    ("unit", "change", "waiting", "status", "words"),
    [
        ("certbot.timer", {"ActiveState": "inactive"}, False, "fail", "nothing renews"),
        ("certbot.timer", {"UnitFileState": "disabled"}, False, "warn", "not started at boot"),
        ("certbot.timer", {"LoadState": "not-found"}, False, "fail", "not installed"),
        ("certbot.service", {"Result": "exit-code"}, False, "warn", "last run failed"),
        ("certbot.service", {}, True, "fail", "not in use"),
        ("certbot.service", {}, None, "warn", "no certificate"),
    ],
)
def test_renewal_that_does_not(
    unit: str, change: dict[str, str], waiting: bool | None, status: str, words: str
) -> None:
    found = renewal.evaluate({**GOOD, unit: {**GOOD[unit], **change}}, waiting)
    assert found.status == status
    assert words in found.summary


A, B = "aa" * 32, "bb" * 32


@pytest.mark.parametrize(
    ("states", "reply", "status", "words"),
    [
        ({A: "active"}, dane.Reply(frozenset({A}), True), "ok", "3 1 1 aaaaaaaaaaaa: active since"),
        ({A: "active", B: "published"}, dane.Reply(frozenset({A, B}), True), "ok", "in use"),
        ({A: "active", B: "generated"}, dane.Reply(frozenset({A}), True), "warn", "not published: bbbbbbbbbbbb"),
        ({A: "active"}, dane.Reply(frozenset({B}), True), "fail", "send no mail"),
        ({A: "active"}, dane.Reply(frozenset({A})), "warn", "not secure"),
        ({A: "active"}, dane.Reply(), "warn", "no TLSA record is published yet"),
        ({A: "active"}, dane.Reply(error="SERVFAIL"), "fail", "cannot be asked for: SERVFAIL"),
        ({}, dane.Reply(), "warn", "does the zone validate?"),
        ({}, dane.Reply(frozenset({B})), "fail", "send no mail"),
    ],
)
def test_the_report_on_tlsa_records(states: dict[str, str], reply: dane.Reply, status: str, words: str) -> None:
    found = dane.evaluate(HOST, A, State({digest: Key(name, NOW) for digest, name in states.items()}), reply)
    assert (found.status, words in found.summary) == (status, True), found
    assert ("publish:" in found.detail) == (reply.error is None and bool(set(states) - reply.digests))
