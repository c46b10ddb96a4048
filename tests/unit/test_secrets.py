# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets on the host: the module on real files, and rspamd's hash against one that rspamadm made."""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.mailwright.server.plugins.module_utils.secrets.files import own_access, write_atomic
from ansible_collections.mailwright.server.plugins.module_utils.secrets.rspamd_password import hash_password, zbase32
from ansible_collections.mailwright.server.plugins.modules import secrets as secrets_module

OWN = {"owner": pwd.getpwuid(os.geteuid()).pw_name, "group": grp.getgrgid(os.getegid()).gr_name}


@pytest.fixture
def apply(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the module on a directory of its own; gives (result, all that was printed)."""

    def run(*secrets: dict[str, Any], check: bool = False) -> tuple[dict[str, Any], str]:
        entries = [OWN | entry for entry in secrets]
        arguments = {"path": str(tmp_path / "secrets"), "secrets": entries}
        with (
            patch_module_args(arguments | {"_ansible_check_mode": check, "_ansible_diff": True}),
            pytest.raises(SystemExit),
        ):
            secrets_module.main()
        printed = capsys.readouterr().out
        return json.loads(printed), printed

    return run


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_a_secret_is_generated_once_and_its_content_never_changes(apply: Any, tmp_path: Path) -> None:
    planned, _printed = apply({"name": "des"}, check=True)
    assert planned["changed"] and planned["created"] == ["des"]
    assert not (tmp_path / "secrets").exists()

    done, _printed = apply({"name": "des"})
    file = tmp_path / "secrets/des"
    content = file.read_text()
    assert done["diff"] == planned["diff"]
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}\n", content)
    assert (mode(file), mode(file.parent)) == (0o600, 0o711)

    again, _printed = apply({"name": "des", "length": 64, "format": "x={secret}"})
    assert not again["changed"] and again["created"] == []
    assert file.read_text() == content


def test_two_secrets_differ_and_follow_their_format(apply: Any, tmp_path: Path) -> None:
    apply({"name": "a", "format": "requirepass {secret}\n"}, {"name": "b", "format": "requirepass {secret}\n"})
    first, second = ((tmp_path / "secrets" / name).read_text() for name in "ab")
    assert first != second
    assert re.fullmatch(r"requirepass [A-Za-z0-9_-]{43}\n", first)


def test_drifted_access_is_planned_and_corrected(apply: Any, tmp_path: Path) -> None:
    apply({"name": "a", "mode": "0640"})
    file = tmp_path / "secrets/a"
    content = file.read_bytes()
    file.chmod(0o644)
    file.parent.chmod(0o755)
    planned, _printed = apply({"name": "a", "mode": "0640"}, check=True)
    assert planned["changed"] and planned["created"] == [] and mode(file) == 0o644
    done, _printed = apply({"name": "a", "mode": "0640"})
    assert done["diff"] == planned["diff"] and "0644" in done["diff"]["before"]
    assert (mode(file), mode(file.parent)) == (0o640, 0o711)
    assert file.read_bytes() == content
    assert not apply({"name": "a", "mode": "0640"})[0]["changed"]


def test_an_absent_group_stops_the_apply_but_not_the_plan(apply: Any, tmp_path: Path) -> None:
    wanted = {"name": "a", "group": "no_such_group"}
    assert apply(wanted, check=True)[0]["created"] == ["a"]
    failed, _printed = apply(wanted)
    assert failed["failed"] and "secrets[0]: this host has no group no_such_group" in failed["msg"]
    assert not (tmp_path / "secrets").exists()


def test_all_errors_are_reported_at_once(apply: Any) -> None:
    failed, _printed = apply(
        {"name": "../x"},
        {"name": "b", "length": 4},
        {"name": "c", "mode": "rw"},
        {"name": "d", "format": "no place"},
        {"name": "e"},
        {"name": "e"},
        {"name": "f.inc"},
        {"name": "f", "kind": "rspamd_password", "length": 49, "format": "{secret}"},
    )
    for part in (
        "secrets[0].name", "secrets[1].length", "secrets[2].mode", "secrets[3].format", "secrets[5].name",
        "secrets[7].name: the file f.inc", "secrets[7].length", "secrets[7].format",
    ):  # fmt: skip
        assert part in failed["msg"]


def test_a_secret_is_not_written_through_a_link(apply: Any, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/a").symlink_to(tmp_path / "elsewhere")
    failed, _printed = apply({"name": "a"})
    assert failed["failed"] and "neither a regular file" in failed["msg"]
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="root owns the clear text")
def test_the_rspamd_password_and_its_hash(apply: Any, tmp_path: Path) -> None:
    wanted = {"name": "ctl", "kind": "rspamd_password", "mode": "0640"}
    _result, printed = apply(wanted)
    clear, include = tmp_path / "secrets/ctl", tmp_path / "secrets/ctl.inc"
    lines = re.fullmatch(r'password = "(.*)";\nenable_password = "(.*)";\n', include.read_text())
    assert lines and lines[1] == lines[2] and lines[1].startswith("$1$")
    assert (mode(clear), mode(include)) == (0o600, 0o640)
    password = clear.read_text().strip()
    assert password not in printed and lines[1] not in printed and password not in include.read_text()

    before = include.read_text()
    assert not apply(wanted)[0]["changed"]
    assert include.read_text() == before
    include.unlink()
    assert apply(wanted)[0]["created"] == [] and clear.read_text().strip() == password
    clear.unlink()
    assert apply(wanted)[0]["created"] == ["ctl"] and clear.read_text().strip() != password


def test_nothing_secret_is_printed(apply: Any, tmp_path: Path) -> None:
    _result, printed = apply({"name": "a"})
    assert (tmp_path / "secrets/a").read_text().strip() not in printed


def test_the_hash_is_the_one_rspamadm_makes() -> None:
    # rspamadm 3.12.1: pw -q -e -t pbkdf2, password "correct-horse".
    made = "$1$g51dnq5jcfqg77fkbtqknr8mfupqzwzt$f94sqfi6zp5xbahin4hc4rqiwcoc9n6fnmbhu95rhbcfi9ansbxy"
    salt = unzbase32(made.split("$")[2], 20)
    assert zbase32(salt) == made.split("$")[2]
    assert hash_password(b"correct-horse", salt) == made
    assert hash_password(b"correct-horsf", salt) != made


def unzbase32(text: str, length: int) -> bytes:
    """Inverse of zbase32."""
    number = sum("ybndrfg8ejkmcpqxot1uwisza345h769".index(letter) << 5 * index for index, letter in enumerate(text))
    return number.to_bytes(length, "little")


def test_a_password_rspamd_would_treat_differently_is_refused() -> None:
    with pytest.raises(ValueError, match="1 to 64"):
        hash_password(b"x" * 65, bytes(20))


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("old")
    with pytest.raises(KeyError):
        write_atomic(str(file), b"new", type(own_access(0o600))("no_such_user", OWN["group"], 0o600))
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_key_pair_is_made_once_and_its_lost_half_only_if_nothing_is_lost(apply: Any, tmp_path: Path) -> None:
    wanted = {"name": "mail-crypt", "kind": "key_pair"}
    result, printed = apply(wanted, check=True)
    assert result["created"] == ["mail-crypt"] and not (tmp_path / "secrets").exists()
    _result, printed = apply(wanted)
    private, public = tmp_path / "secrets/mail-crypt", tmp_path / "secrets/mail-crypt.pub"
    made = private.read_text(), public.read_text()
    assert made[0].startswith("-----BEGIN PRIVATE KEY-----\n") and made[1].startswith("-----BEGIN PUBLIC KEY-----\n")
    assert (mode(private), mode(public)) == (0o600, 0o600)
    assert made[0].splitlines()[1] not in printed
    assert not apply(wanted)[0]["changed"]

    public.unlink()
    apply(wanted)
    assert (private.read_text(), public.read_text()) == made

    private.unlink()
    for check in (True, False):
        failed, _printed = apply(wanted, check=check)
        assert failed["failed"] and "mail-crypt is gone" in failed["msg"]
    assert not private.exists() and public.read_text() == made[1]


def test_a_private_key_that_is_none_is_an_error(apply: Any, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/mail-crypt").write_text("garbage\n")
    failed, printed = apply({"name": "mail-crypt", "kind": "key_pair"})
    assert failed["failed"] and "openssl pkey" in failed["msg"] and "garbage" not in printed
