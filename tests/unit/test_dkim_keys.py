# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""DKIM keys: the module on real files, its keys used by dkimpy to sign and verify."""

from __future__ import annotations

import grp
import json
import os
import pwd
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dkim
import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.mailwright.server.plugins.module_utils.dkim.state import (
    ActiveKey,
    new_selector,
    parse_domains,
    parse_state,
    render_state,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.names import selector_error
from ansible_collections.mailwright.server.plugins.module_utils.secrets.files import write_atomic
from ansible_collections.mailwright.server.plugins.modules import dkim_keys as dkim_module
from hypothesis import given
from hypothesis import strategies as st

OWN = {"owner": pwd.getpwuid(os.geteuid()).pw_name, "group": grp.getgrgid(os.getegid()).gr_name}
MESSAGE = b"From: alice@acme.test\r\nTo: dave@peer.test\r\nSubject: hello\r\n\r\nHello, Dave.\r\n"


@pytest.fixture
def apply(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the module on a directory of its own; gives the result."""

    def run(*domains: str, check: bool = False, **more: str) -> dict[str, Any]:
        arguments = OWN | {"path": str(tmp_path / "dkim"), "domains": list(domains)} | more
        with (
            patch_module_args(arguments | {"_ansible_check_mode": check, "_ansible_diff": True}),
            pytest.raises(SystemExit),
        ):
            dkim_module.main()
        printed = capsys.readouterr().out
        assert "PRIVATE" not in printed
        result: dict[str, Any] = json.loads(printed)
        return result

    return run


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_a_key_signs_what_its_record_verifies(apply: Any) -> None:
    keys = apply("acme.test", "globex.test")["keys"]
    key = keys["acme.test"]
    private = Path(key["path"]).read_bytes()
    signature = dkim.sign(MESSAGE, key["selector"].encode(), b"acme.test", private)

    def verify(text: str) -> bool:
        return bool(dkim.verify(signature + MESSAGE, dnsfunc=lambda *_question, **_options: text.encode()))

    assert verify(key["dns"])
    assert not verify(keys["globex.test"]["dns"])
    shown = subprocess.run(
        ["openssl", "pkey", "-in", key["path"], "-noout", "-text"], check=True, capture_output=True, text=True
    )
    assert "2048 bit" in shown.stdout


def test_a_key_is_generated_once(apply: Any, tmp_path: Path) -> None:
    planned = apply("acme.test", check=True)
    assert planned["changed"] and planned["generated"] == ["acme.test"]
    assert planned["keys"]["acme.test"]["planned"] and planned["keys"]["acme.test"]["selector"].endswith("r0000")
    assert not (tmp_path / "dkim").exists()

    first = apply("acme.test")
    key = Path(first["keys"]["acme.test"]["path"])
    assert first["changed"] and not first["keys"]["acme.test"]["planned"]
    assert [mode(path) for path in (key, key.parent, key.parent.parent)] == [0o640, 0o750, 0o750]
    assert mode(key.parent / "state.json") == 0o640

    for check in (True, False):
        again = apply("acme.test", check=check)
        assert not again["changed"] and again["keys"] == first["keys"] and again["generated"] == []
    assert sorted(os.listdir(key.parent)) == sorted([key.name, "state.json"])


def test_a_domain_that_leaves_keeps_its_key(apply: Any) -> None:
    key = apply("acme.test", "globex.test")["keys"]["globex.test"]
    result = apply("acme.test")
    assert result["orphaned"] == ["globex.test"] and not result["changed"]
    assert Path(key["path"]).exists()
    assert apply("acme.test", "globex.test")["keys"]["globex.test"] == key


def test_a_crash_between_key_and_state_leaves_a_domain_that_gets_a_key(apply: Any, tmp_path: Path) -> None:
    leftover = tmp_path / "dkim/acme.test/20260301raaaa.key"
    leftover.parent.mkdir(parents=True)
    leftover.write_text("half")
    result = apply("acme.test")
    assert result["generated"] == ["acme.test"]
    assert Path(result["keys"]["acme.test"]["path"]).exists() and leftover.read_text() == "half"


def test_state_names_a_key_only_after_the_key_is_on_disk(apply: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    existed: list[bool] = []

    def watched(path: str, *rest: Any) -> None:
        if path.endswith("state.json"):
            existed.append(any(name.endswith(".key") for name in os.listdir(os.path.dirname(path))))
        write_atomic(path, *rest)

    monkeypatch.setattr(dkim_module, "write_atomic", watched)
    apply("acme.test")
    assert existed == [True]


def test_a_lost_key_and_a_broken_state_are_errors_reported_together(apply: Any, tmp_path: Path) -> None:
    keys = apply("acme.test", "globex.test")["keys"]
    Path(keys["acme.test"]["path"]).unlink()
    state = tmp_path / "dkim/globex.test/state.json"
    state.write_text("{")
    for check in (True, False):
        failed = apply("acme.test", "globex.test", check=check)
        assert failed["failed"] and len(failed["errors"]) == 2
        assert keys["acme.test"]["path"] in failed["msg"] and str(state) in failed["msg"]
    assert state.read_text() == "{"


def test_drifted_access_is_planned_and_corrected(apply: Any) -> None:
    key = Path(apply("acme.test")["keys"]["acme.test"]["path"])
    key.chmod(0o644)
    planned = apply("acme.test", check=True)
    assert planned["changed"] and mode(key) == 0o644
    done = apply("acme.test")
    assert done["diff"] == planned["diff"] and mode(key) == 0o640
    assert not apply("acme.test")["changed"]


def test_an_absent_group_stops_the_apply_but_not_the_plan(apply: Any, tmp_path: Path) -> None:
    assert apply("acme.test", check=True, group="no_such_group")["generated"] == ["acme.test"]
    failed = apply("acme.test", group="no_such_group")
    assert failed["failed"] and "no group no_such_group" in failed["msg"]
    assert not (tmp_path / "dkim").exists()


def test_names_that_would_leave_the_directory_are_refused(apply: Any, tmp_path: Path) -> None:
    failed = apply("../acme.test", "acme.test", "acme.test", "a.test\n")
    assert [error.split(":")[0] for error in failed["errors"]] == ["domains[0]", "domains[2]", "domains[3]"]
    assert not (tmp_path / "dkim").exists()


def test_a_thousand_domains_with_keys_are_read_in_time(apply: Any, tmp_path: Path) -> None:
    domains = [f"d{number}.test" for number in range(1000)]
    (tmp_path / "dkim").mkdir(mode=0o750)
    for domain in domains:
        directory = tmp_path / "dkim" / domain
        directory.mkdir(mode=0o750)
        key = ActiveKey("20260301raaaa", "2026-03-01T00:00:00+00:00", "v=DKIM1; k=rsa; p=" + "A" * 392)
        for name, text in (("20260301raaaa.key", "key"), ("state.json", render_state(key))):
            (directory / name).write_text(text)
            (directory / name).chmod(0o640)
    started = time.monotonic()
    result = apply(*domains)
    assert time.monotonic() - started < 1.5
    assert not result["changed"] and len(result["keys"]) == 1000


def test_many_keys_are_generated_in_a_pool_and_all_differ(apply: Any) -> None:
    keys = apply(*(f"d{number}.test" for number in range(6)))["keys"].values()
    assert len({key["dns"] for key in keys}) == 6
    for key in keys:
        shown = subprocess.run(
            ["openssl", "pkey", "-in", key["path"], "-pubout", "-outform", "PEM"], check=True, capture_output=True
        )
        assert "".join(shown.stdout.decode().splitlines()[1:-1]) == key["dns"].partition("p=")[2]


@given(st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=4, max_size=4))
def test_a_selector_is_valid_dated_and_never_the_planned_one(suffix: str) -> None:
    letters = iter(suffix + "abcd")
    selector = new_selector(datetime(2026, 3, 1, tzinfo=UTC), lambda _characters: next(letters))
    assert selector_error(selector) is None
    assert selector == f"20260301r{'abcd' if suffix == '0000' else suffix}"


def test_the_state_reads_back_and_keeps_other_algorithms_out() -> None:
    key = ActiveKey("20260301raaaa", "2026-03-01T00:00:00+00:00", "v=DKIM1; k=rsa; p=AA==")
    assert parse_state(render_state(key)) == key
    assert json.loads(render_state(key))["version"] == 1
    assert parse_state('{"version": 1, "active": {}}') is None


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '{"version": 2, "active": {}}', '{"version": 1, "active": []}',
        '{"version": 1, "active": {"rsa": {}}}', '{"version": 1, "active": {"rsa": "x"}}',
        '{"version": 1, "active": {"rsa": {"selector": "../x", "created": "", "dns": ""}}}',
    ],
)  # fmt: skip
def test_a_state_that_is_not_one_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_state(text)


def test_domains_given_twice_name_the_first() -> None:
    assert parse_domains(["a.test", "b.test", "a.test"]) == ["domains[2]: 'a.test' is already domains[0]"]
