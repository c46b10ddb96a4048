# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots' files and retention, kept packages, the engine as one file, and DKIM verification against dkimpy."""

from __future__ import annotations

import base64
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import dkim
import pytest
from ansible_collections.mailwright.server.plugins.module_utils.packages import store
from ansible_collections.mailwright.server.plugins.module_utils.probes import transaction
from ansible_collections.mailwright.server.plugins.module_utils.txn import bundle, health, launch, signatures, snapshot
from ansible_collections.mailwright.server.plugins.module_utils.txn.services import told_outcome
from ansible_collections.mailwright.server.plugins.module_utils.txn.storage import TransactionError
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

MESSAGE = (
    b"From:  Alice <alice@acme.test>\r\nTo: bob@acme.test\r\nSubject: a long\r\n\tsubject  with   blanks\r\n"
    b"Message-ID: <1@acme.test>\r\n\r\nHello  \r\n\tthere \t\r\n\r\n\r\n"
)


# --- signatures -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An RSA key in PEM form and an Ed25519 key as Rspamd reads it, by selector."""
    directory = tmp_path_factory.mktemp("keys")
    pem = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / "r.key").write_bytes(pem)
    key = ed25519.Ed25519PrivateKey.generate()
    raw = key.private_bytes_raw() + key.public_key().public_bytes_raw()
    (directory / "e.key").write_bytes(base64.b64encode(raw))
    return {"r": directory / "r.key", "e": directory / "e.key"}


def sign(keys: dict[str, Path], selector: str, form: str, message: bytes = MESSAGE) -> bytes:
    parts = tuple(part.encode() for part in form.split("/"))
    key = keys[selector].read_bytes()
    if selector == "e":
        key = base64.b64encode(base64.b64decode(key)[:32])
    algorithm = b"rsa-sha256" if selector == "r" else b"ed25519-sha256"
    header = dkim.sign(
        message, selector.encode(), b"acme.test", key, canonicalize=parts, signature_algorithm=algorithm,
        include_headers=[b"from", b"to", b"subject"],
    )  # fmt: skip
    return bytes(header) + message


@pytest.mark.parametrize("form", ["relaxed/relaxed", "simple/simple", "relaxed/simple", "simple/relaxed"])
@pytest.mark.parametrize("selector", ["r", "e"])
def test_a_signature_verifies_and_a_changed_message_does_not(keys: dict[str, Path], selector: str, form: str) -> None:
    def find(_domain: str, name: str) -> str | None:
        return str(keys[name])

    signed = sign(keys, selector, form)
    assert signatures.verify(signed, find) == {selector: ""}
    assert signatures.verify(signed.replace(b"Hello", b"Hallo"), find)[selector].startswith("the body")
    assert signatures.verify(signed.replace(b"long", b"short"), find) == {selector: "does not verify"}
    assert signatures.verify(signed, lambda _d, _s: None) == {selector: "the host has no such key"}


def test_both_signatures_of_a_message_are_seen(keys: dict[str, Path]) -> None:
    twice = sign(keys, "e", "relaxed/relaxed", sign(keys, "r", "relaxed/relaxed"))
    assert signatures.verify(twice, lambda _d, name: str(keys[name])) == {"r": "", "e": ""}
    assert signatures.verify(MESSAGE, lambda _d, _s: None) == {}


@pytest.mark.parametrize("selector", ["../../secret", "a/b", ""])
def test_a_header_leads_to_no_other_file(selector: str) -> None:
    assert health.private_key("acme.test", selector) is None
    assert health.private_key("..", "x") is None


# --- health ---------------------------------------------------------------------------------------------------------


def test_what_was_broken_before_is_not_held_against_a_change() -> None:
    before = {"delivery": "", "webmail": "no log-in form"}
    assert health.worse(before, {"delivery": "", "webmail": "refuses", "units": "x"}) == {"units": "x"}
    assert health.worse(before, {"delivery": "lost", "webmail": ""}) == {"delivery": "lost"}


@pytest.mark.parametrize(
    ("last", "status", "words"),
    [
        ({"ending": "committed"}, "ok", "committed"),
        ({"ending": "rolled back", "phase": "deploy", "cause": "no"}, "warn", "rolled back in phase deploy: no"),
        ({"ending": "inconsistent", "cause": "no", "undo_cause": "never", "advice": "run"}, "fail", "inconsistent: no"),
        ({"record": "intent"}, "warn", "under way"),
    ],
)
def test_the_status_report_tells_how_the_last_change_ended(last: dict[str, str], status: str, words: str) -> None:
    found = transaction.evaluate("20261126T131500Z", "update", last)
    assert (found.status, found.group) == (status, "system")
    assert words in found.summary


# --- packages -------------------------------------------------------------------------------------------------------


def test_packages_are_read_and_named_as_apt_names_them() -> None:
    listing = (
        "postfix\tamd64\t3.10-1\tinstalled\ndovecot-core\tamd64\t1:2.4-1\thalf-configured\nold\tall\t1\tconfig-files\n"
    )
    found = store.parse(listing)
    assert [package.name for package in found] == ["dovecot-core", "postfix"]
    assert found[0].file == "dovecot-core_1%3a2.4-1_amd64.deb"


def test_debs_are_kept_without_space_and_pruned(tmp_path: Path) -> None:
    archives, kept = tmp_path / "archives", tmp_path / "kept"
    archives.mkdir()
    one, two = store.Package("a", "all", "1"), store.Package("a", "all", "2")
    (archives / one.file).write_bytes(b"one")
    (archives / two.file).write_bytes(b"two")
    store.keep([one, two, store.Package("b", "all", "1")], archives, kept)
    assert (kept / one.file).samefile(archives / one.file)
    assert store.prune([two], kept) == [one.file]
    assert [path.name for path in kept.iterdir()] == [two.file]


# --- snapshots ------------------------------------------------------------------------------------------------------


def test_retention() -> None:
    endings = [("1", "committed"), ("2", "rolled back"), ("3", "inconsistent"), ("4", "by hand"), ("5", "committed"),
               ("6", ""), ("7", "committed"), ("8", "rolled back"), ("9", "rolled back")]  # fmt: skip
    assert snapshot.superfluous(endings) == ["1", "2", "8"]
    assert snapshot.superfluous([]) == []


def test_an_entry_tells_what_a_reader_would_notice(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    path.chmod(0o640)
    entry = snapshot.read_entry(str(path), "managed")
    assert entry is not None
    assert snapshot.same(snapshot.read_entry(str(path), "other"), entry)
    os.utime(path, (1, 1))
    assert snapshot.same(snapshot.read_entry(str(path), "managed"), entry)
    path.chmod(0o600)
    assert not snapshot.same(snapshot.read_entry(str(path), "managed"), entry)
    path.unlink()
    assert snapshot.read_entry(str(path), "managed") is None
    path.symlink_to("elsewhere")
    assert not snapshot.same(snapshot.read_entry(str(path), "managed"), entry)


def test_space_is_checked_before_anything_is_written(tmp_path: Path) -> None:
    snapshot.need(tmp_path, 1, "this")
    with pytest.raises(TransactionError, match=r"not enough space in .*: this needs"):
        snapshot.need(tmp_path, 2**60, "this")


# --- the engine as one file -----------------------------------------------------------------------------------------


def test_the_engine_is_one_file_that_needs_nothing_but_python(tmp_path: Path) -> None:
    content = bundle.archive()
    assert content == bundle.archive()
    assert launch.UNIT in (Path(__file__).parents[2] / "roles/transaction/tasks/main.yml").read_text()
    path = tmp_path / "restore.pyz"
    path.write_bytes(content)
    done = subprocess.run([sys.executable, "-I", str(path), "--help"], text=True, capture_output=True, check=True)
    assert "Bring this host back to the snapshot" in done.stdout
    # imported at once, so that nothing is missing when it is needed
    program = f"import sys; sys.path.insert(0, {str(path)!r}); import {bundle.PREFIX}.txn.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-I", "-S", "-c", program], text=True, capture_output=True, check=True)
    outside = {name.partition(".")[0] for name in loaded.stdout.split()} - set(sys.stdlib_module_names)
    assert outside <= {"__main__", "ansible_collections"}, outside
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert not [name for name in archive.namelist() if "ansible/module_utils" in name]


def test_a_delivery_whose_outcome_waits_to_be_heard_has_ended() -> None:
    sockets = (
        'u_dgr ESTAB 9 0 * 7 * 1 users:(("qmgr",pid=70,fd=7))\n'
        'u_str ESTAB 25 0 * 11 * 12 users:(("qmgr",pid=70,fd=9))\n'
        'u_str ESTAB 0 0 private/lmtp 12 * 11 users:(("lmtp",pid=71,fd=6))\n'
        'u_str ESTAB 0 0 * 21 * 22 users:(("qmgr",pid=70,fd=10))\n'
        'u_str ESTAB 0 0 private/smtp 22 * 21 users:(("smtp",pid=72,fd=6))\n'
        'u_str ESTAB 25 0 * 31 * 32 users:(("auth",pid=73,fd=6))\n'
        'u_str ESTAB 0 0 * 32 * 31 users:(("smtpd",pid=74,fd=6))\n'
        "u_str ESTAB 25 0 * 41 * 42\n"
    )
    assert told_outcome(sockets) == {71}
    assert told_outcome("") == set()
