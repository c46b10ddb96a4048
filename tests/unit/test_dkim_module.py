# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""DKIM keys: the module on real files, its keys used by dkimpy to sign and verify."""

from __future__ import annotations

import base64
import fcntl
import grp
import json
import multiprocessing
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dkim
import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.mailwright.server.plugins.module_utils.dkim.generate import generate_key, public_text
from ansible_collections.mailwright.server.plugins.module_utils.dkim.state import (
    Key,
    State,
    new_selector,
    numbered_selector,
    parse_domains,
    parse_state,
    render_state,
)
from ansible_collections.mailwright.server.plugins.module_utils.dns.names import selector_error
from ansible_collections.mailwright.server.plugins.module_utils.secrets.files import write_atomic
from ansible_collections.mailwright.server.plugins.modules import dkim_rotation as dkim_module
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.usefixtures("module_process")

OWN = {"owner": pwd.getpwuid(os.geteuid()).pw_name, "group": grp.getgrgid(os.getegid()).gr_name}
MESSAGE = b"From: alice@acme.test\r\nTo: dave@peer.test\r\nSubject: hello\r\n\r\nHello, Dave.\r\n"


START = "2026-03-01T12:00:00+00:00"


@pytest.fixture
def apply(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the module on a directory of its own; gives the result."""

    def run(*domains: str, check: bool = False, **more: Any) -> dict[str, Any]:
        arguments = OWN | {"path": str(tmp_path / "dkim"), "domains": list(domains), "filter_configurations": []} | more
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


def of(result: dict[str, Any], domain: str, algorithm: str = "rsa") -> dict[str, Any]:
    """The newest key of a domain and algorithm."""
    found: dict[str, Any] = [key for key in result["keys"][domain] if key["algorithm"] == algorithm][-1]
    return found


def sights(result: dict[str, Any], now: str, sight: str = "live") -> dict[str, Any]:
    """Observations of all that a run wants to be published, and the time to act upon them."""
    observations = [
        {"domain": domain, "selector": key["selector"], "sight": sight, "observed": now}
        for domain, keys in result["keys"].items()
        for key in keys
    ]
    return {"observations": observations, "now": now}


def signed(key: dict[str, Any], domain: str) -> bytes:
    content = Path(key["path"]).read_bytes()
    if key["algorithm"] == "ed25519":
        # dkimpy takes the seed alone
        content = base64.b64encode(base64.b64decode(content)[:32])
    algorithm = {"rsa": b"rsa-sha256", "ed25519": b"ed25519-sha256"}[key["algorithm"]]
    signature: bytes = dkim.sign(
        MESSAGE, key["selector"].encode(), domain.encode(), content, signature_algorithm=algorithm
    )
    return signature


@pytest.mark.parametrize("algorithm", ["rsa", "ed25519"])
def test_a_key_signs_what_its_record_verifies(apply: Any, algorithm: str) -> None:
    result = apply("acme.test", "globex.test")
    key, other = of(result, "acme.test", algorithm), of(result, "globex.test", algorithm)
    signature = signed(key, "acme.test")

    def verify(text: str) -> bool:
        return bool(dkim.verify(signature + MESSAGE, dnsfunc=lambda *_question, **_options: text.encode()))

    assert verify(key["dns"])
    assert not verify(other["dns"])
    assert result["records"][f"{key['selector']}._domainkey.acme.test."] == key["dns"]


def test_an_rsa_key_has_2048_bits_and_an_ed25519_key_is_one_line_of_base64(apply: Any) -> None:
    result = apply("acme.test")
    path = of(result, "acme.test")["path"]
    shown = subprocess.run(
        ["openssl", "pkey", "-in", path, "-noout", "-text"], check=True, capture_output=True, text=True
    )
    assert "2048 bit" in shown.stdout
    key = of(result, "acme.test", "ed25519")
    octets = base64.b64decode(Path(key["path"]).read_bytes(), validate=True)
    assert len(octets) == 64 and key["dns"] == f"v=DKIM1; k=ed25519; p={base64.b64encode(octets[32:]).decode()}"


@pytest.mark.parametrize("algorithm", ["rsa", "ed25519"])
def test_a_key_file_gives_its_record_again(algorithm: str) -> None:
    content, text = generate_key(algorithm)
    assert public_text(algorithm, content) == text
    assert public_text(algorithm, content[:40]) is None and public_text(algorithm, b"") is None


def test_a_key_is_generated_once(apply: Any, tmp_path: Path) -> None:
    planned = apply("acme.test", check=True)
    assert planned["changed"] and planned["generated"] == ["acme.test"]
    assert all(key["planned"] and key["selector"].endswith("0000") for key in planned["keys"]["acme.test"])
    assert not (tmp_path / "dkim").exists()

    first = apply("acme.test")
    assert first["changed"] and [key["state"] for key in first["keys"]["acme.test"]] == ["active", "active"]
    assert all(key["signs"] and not key["planned"] for key in first["keys"]["acme.test"])
    files = [Path(key["path"]) for key in first["keys"]["acme.test"]]
    home = files[0].parent
    assert [mode(path) for path in (*files, home, home.parent)] == [0o640, 0o640, 0o750, 0o750]
    assert mode(home / "state.json") == 0o640

    for check in (True, False):
        again = apply("acme.test", check=check)
        assert not again["changed"] and again["keys"] == first["keys"] and again["generated"] == []
    assert sorted(os.listdir(home)) == sorted([*(path.name for path in files), "state.json"])


def test_without_ed25519_there_is_an_rsa_key_alone(apply: Any) -> None:
    assert [key["algorithm"] for key in apply("acme.test", ed25519=False)["keys"]["acme.test"]] == ["rsa"]


def test_a_state_of_version_1_is_carried_over(apply: Any, tmp_path: Path) -> None:
    content, text = generate_key("rsa")
    home = tmp_path / "dkim/acme.test"
    home.mkdir(parents=True, mode=0o750)
    (home / "20260101raaaa.key").write_bytes(content)
    entry = {"selector": "20260101raaaa", "created": "2026-01-01T00:00:00+00:00", "dns": text}
    (home / "state.json").write_text(json.dumps({"version": 1, "active": {"rsa": entry}}))
    result = apply("acme.test", now=START)
    assert all(key["state"] == "active" for key in result["keys"]["acme.test"])
    # beside a key that is taken as published the new one waits until it is seen
    assert of(result, "acme.test")["dns"] == text and not of(result, "acme.test", "ed25519")["signs"]
    seen = apply("acme.test", **sights(result, START))
    assert all(key["signs"] for key in seen["keys"]["acme.test"])


def test_a_year_of_daily_runs_rotates_and_cleans_up(apply: Any) -> None:
    result = apply("acme.test", now=START)
    first = of(result, "acme.test")
    for day in (*range(3), *range(178, 240)):
        now = (datetime.fromisoformat(START) + timedelta(days=day)).isoformat()
        result = apply("acme.test", **sights(result, now))
    assert [key["state"] for key in result["keys"]["acme.test"]] == ["active", "active"]
    assert of(result, "acme.test")["selector"] != first["selector"]
    assert not Path(first["path"]).exists()
    assert Path(first["path"]).with_suffix(".revoked").read_bytes() == b""


def test_a_run_with_the_same_observations_changes_nothing(apply: Any) -> None:
    result = apply("acme.test", now=START)
    seen = sights(result, START)
    planned, done, again = (
        apply("acme.test", check=True, **seen),
        apply("acme.test", **seen),
        apply("acme.test", **seen),
    )
    assert planned["changed"] and planned["diff"] == done["diff"]
    assert " active live\n" in done["diff"]["after"]
    assert not again["changed"] and again["keys"] == done["keys"]


def test_observations_of_another_time_are_named_and_not_used(apply: Any) -> None:
    result = apply("acme.test", now=START)
    after = apply("acme.test", **sights(result, START) | {"now": "2026-03-02T12:00:00+00:00"})
    assert after["ignored"] == ["acme.test"] and not after["changed"]


def test_a_domain_that_leaves_keeps_its_records(apply: Any) -> None:
    key = of(apply("acme.test", "globex.test"), "globex.test")
    result = apply("acme.test")
    assert result["orphaned"] == ["globex.test"] and result["changed"]
    left = of(result, "globex.test")
    assert (left["state"], left["signs"], left["dns"]) == ("retiring", False, key["dns"])
    assert Path(key["path"]).exists() and not apply("acme.test")["changed"]


def test_a_compromised_key_is_replaced(apply: Any) -> None:
    result = apply("acme.test", now=START)
    old = of(result, "acme.test")
    apply("acme.test", **sights(result, START))
    named = [{"domain": "acme.test", "selectors": [old["selector"]]}]
    result = apply("acme.test", now=START, compromised=named)
    assert {key["state"] for key in result["keys"]["acme.test"]} == {"active", "generated"}
    # seen, then beyond the reach of every cache, then signing, then the filter does without the old one
    for hour in (12, 14, 15, 16):
        assert old["selector"] not in {
            key["selector"] for key in result["keys"]["acme.test"] if key["state"] == "revoked"
        }
        result = apply("acme.test", **sights(result, f"2026-03-01T{hour}:30:00+00:00"))
        states = {key["selector"]: key["state"] for key in result["keys"]["acme.test"]}
        if states[old["selector"]] == "revoked":
            break
    assert states.pop(old["selector"]) == "revoked" and set(states.values()) == {"active"}
    assert result["records"][f"{old['selector']}._domainkey.acme.test."] == "v=DKIM1; k=rsa; p="
    assert not Path(old["path"]).exists()


@pytest.mark.parametrize("entry", [{"domain": "other.test"}, {"domain": "acme.test", "selectors": ["20200101raaaa"]}])
def test_a_compromised_key_that_is_unknown_is_an_error(apply: Any, entry: dict[str, Any]) -> None:
    apply("acme.test")
    failed = apply("acme.test", compromised=[entry])
    assert failed["failed"] and "compromised[0]" in failed["msg"]


def test_a_key_in_the_filters_configuration_is_in_use(apply: Any, tmp_path: Path) -> None:
    result = apply("acme.test", now=START)
    old = of(result, "acme.test")
    configuration = tmp_path / "signing.conf"
    configuration.write_text(f'selector = "{old["selector"]}";')
    named = {"compromised": [{"domain": "acme.test", "selectors": [old["selector"]]}], "immediate": True}
    apply("acme.test", now=START, filter_configurations=[str(configuration)], **named)
    assert Path(old["path"]).exists()
    apply("acme.test", now=START, filter_configurations=[str(tmp_path / "absent")])
    assert not Path(old["path"]).exists()


def test_a_leftover_that_is_no_key_is_left_alone(apply: Any, tmp_path: Path) -> None:
    leftover = tmp_path / "dkim/acme.test/20260301raaaa.key"
    leftover.parent.mkdir(parents=True)
    leftover.write_text("half")
    result = apply("acme.test")
    assert result["generated"] == ["acme.test"]
    assert Path(of(result, "acme.test")["path"]).exists() and leftover.read_text() == "half"


class Life:
    """Runs the module in a process that is killed before the n-th system call that changes something on disk."""

    CALLS = ("mkdir", "chown", "chmod", "fsync", "rename", "unlink", "link", "replace")

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.configuration = directory / "signing.conf"

    def run(self, kill_at: int | None, **arguments: Any) -> dict[str, Any] | None:
        """The module's result; None: it was killed."""
        output = self.directory / "result.json"
        output.unlink(missing_ok=True)
        process = multiprocessing.get_context("fork").Process(target=self._child, args=(kill_at, output, arguments))
        process.start()
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL)
        if process.exitcode != 0:
            return None
        result: dict[str, Any] = json.loads(output.read_text())
        assert not result.get("failed"), result
        signing = [key["selector"] for keys in result["keys"].values() for key in keys if key["signs"]]
        self.configuration.write_text("".join(f'"{selector}"' for selector in signing))
        return result

    def _child(self, kill_at: int | None, output: Path, arguments: dict[str, Any]) -> None:
        calls = 0

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def wrapper(*args: Any, **options: Any) -> Any:
                nonlocal calls
                if calls == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                calls += 1
                return call(*args, **options)

            return wrapper

        for name in self.CALLS:
            setattr(os, name, counted(getattr(os, name)))
        given = OWN | {
            "path": str(self.directory / "dkim"), "domains": ["acme.test"],
            "filter_configurations": [str(self.configuration)],
        }  # fmt: skip
        sys.stdout = output.open("w")
        with patch_module_args(given | arguments):
            dkim_module.main()

    def check(self) -> None:
        """The state parses, names no key that is not on disk, and at most one key for each algorithm is active."""
        home = self.directory / "dkim/acme.test"
        if not (home / "state.json").exists():
            return
        state = parse_state((home / "state.json").read_text())
        active = [key for key in state.keys if key.state == "active"]
        assert len({key.algorithm for key in active}) == len(active)
        for key in state.keys:
            content = home / f"{key.selector}.key"
            if key.state != "revoked":
                assert public_text(key.algorithm, content.read_bytes()) == key.dns
            else:
                assert (home / f"{key.selector}.revoked").exists()


def moments() -> list[dict[str, Any]]:
    """Runs whose writes differ: the first, the rotation from due to removed, an emergency."""
    days = [0, 1, 2, 180, 181, 182, 183, 185, 187, 189, 191, 193, *range(195, 225, 2), 230]
    return [{"day": day} for day in days] + [{"day": 231, "emergency": True}, {"day": 232}]


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_every_write_the_next_run_goes_on(tmp_path: Path, seed: int) -> None:
    life = Life(tmp_path)
    result: dict[str, Any] = {"keys": {}}
    kills = 0
    for number, moment in enumerate(moments()):
        now = (datetime.fromisoformat(START) + timedelta(days=moment["day"])).isoformat()
        more: dict[str, Any] = {}
        if moment.get("emergency"):
            more["compromised"] = [{"domain": "acme.test", "selectors": [of(result, "acme.test")["selector"]]}]
        # every write of the run in one life, every third in the others
        for kill_at in range(number % 3 if seed else 0, 200, 1 if seed == 0 else 2 + seed):
            done = life.run(kill_at, **sights(result, now) | more)
            life.check()
            if done is not None:
                result = done
                break
            kills += 1
        after = life.run(None, **sights(result, now))
        assert after is not None
        result = after
        life.check()
        assert any(key["signs"] for key in result["keys"]["acme.test"])
    assert kills > 10
    states = sorted(key["state"] for key in result["keys"]["acme.test"])
    assert states == ["active", "active", "revoked"]
    home = tmp_path / "dkim/acme.test"
    assert not [path for path in home.iterdir() if path.suffix not in (".key", ".revoked", ".json", ".new")]


def test_killed_while_keys_are_made_nothing_is_left_that_holds_lock_or_connection(tmp_path: Path) -> None:
    """The workers inherit the store's lock and the standard output, which is the connection to the controller."""
    lock = tmp_path / "lock"
    script = (
        f"import fcntl; lock = open({str(lock)!r}, 'w'); fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "from ansible_collections.mailwright.server.plugins.module_utils.dkim.generate import generate_keys\n"
        "for _key in generate_keys(['rsa'] * 400): print('a key', flush=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout and process.stdout.readline() == "a key\n"
    process.kill()
    # raises TimeoutExpired while anybody has the other end
    process.communicate(timeout=20)
    with lock.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_state_names_a_key_only_after_the_key_is_on_disk(apply: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    existed: list[bool] = []

    def watched(path: str, *rest: Any) -> None:
        if path.endswith("state.json"):
            existed.append(any(name.endswith(".key") for name in os.listdir(os.path.dirname(path))))
        write_atomic(path, *rest)

    monkeypatch.setattr(dkim_module, "write_atomic", watched)
    apply("acme.test")
    assert existed == [True]


def test_broken_states_are_errors_reported_together(apply: Any, tmp_path: Path) -> None:
    apply("acme.test", "globex.test")
    paths = [tmp_path / f"dkim/{domain}/state.json" for domain in ("acme.test", "globex.test")]
    for path in paths:
        path.write_text("{")
    for check in (True, False):
        failed = apply("acme.test", "globex.test", check=check)
        assert failed["failed"] and len(failed["errors"]) == 2
        assert all(str(path) in failed["msg"] for path in paths)
    assert {path.read_text() for path in paths} == {"{"}


def test_a_key_whose_file_is_lost_is_replaced(apply: Any) -> None:
    lost = of(apply("acme.test"), "acme.test")
    Path(lost["path"]).unlink()
    result = apply("acme.test")
    states = {key["selector"]: (key["state"], key["signs"]) for key in result["keys"]["acme.test"]}
    assert states.pop(lost["selector"]) == ("retiring", False)
    assert set(states.values()) == {("active", True)}


def test_drifted_access_is_planned_and_corrected(apply: Any) -> None:
    key = Path(of(apply("acme.test"), "acme.test")["path"])
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
    created = datetime.now(UTC)
    keys = tuple(
        Key(f"20260301{letter}aaaa", algorithm, f"v=DKIM1; k={algorithm}; p=" + "A" * 392, "active", created, created)
        for letter, algorithm in (("e", "ed25519"), ("r", "rsa"))
    )
    for domain in domains:
        directory = tmp_path / "dkim" / domain
        directory.mkdir(mode=0o750)
        files = {f"{key.selector}.key": "key" for key in keys} | {"state.json": render_state(State(keys))}
        for name, text in files.items():
            (directory / name).write_text(text)
            (directory / name).chmod(0o640)
    started = time.monotonic()
    result = apply(*domains)
    assert time.monotonic() - started < 3
    assert not result["changed"] and len(result["keys"]) == 1000


def test_many_keys_are_generated_in_a_pool_and_all_differ(apply: Any) -> None:
    result = apply(*(f"d{number}.test" for number in range(4)))
    keys = [key for found in result["keys"].values() for key in found]
    assert len({key["dns"] for key in keys}) == len(keys) == 8
    for key in keys:
        assert public_text(key["algorithm"], Path(key["path"]).read_bytes()) == key["dns"]


@given(st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=4, max_size=4))
def test_a_selector_is_valid_dated_and_never_the_planned_one(suffix: str) -> None:
    letters = iter(suffix + "abcd")
    selector = new_selector(datetime(2026, 3, 1, tzinfo=UTC), "rsa", lambda _characters: next(letters))
    assert selector_error(selector) is None
    assert selector == f"20260301r{'abcd' if suffix == '0000' else suffix}"


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '{"version": 3}', '{"version": 2, "keys": []}', '{"version": 1, "active": []}',
        '{"version": 1, "active": {"rsa": {}}}', '{"version": 1, "active": {"rsa": "x"}}',
        '{"version": 1, "active": {"rsa": {"selector": "../x", "created": "2026-03-01T00:00:00+00:00", "dns": ""}}}',
        '{"version": 1, "active": {"rsa": {"selector": "x", "created": "2026-03-01", "dns": ""}}}',
        render_state(State()).replace('"keys": []', '"keys": [{}]'),
        render_state(State()).replace('"keys": []', '"keys": {}').replace('"used": []', '"used": ["../x"]'),
    ],
)  # fmt: skip
def test_a_state_that_is_not_one_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_state(text)


def test_domains_given_twice_name_the_first() -> None:
    assert parse_domains(["a.test", "b.test", "a.test"]) == ["domains[2]: 'a.test' is already domains[0]"]


def test_a_delegated_domains_selectors_are_known_ahead(apply: Any) -> None:
    planned = apply("far.test", "acme.test", delegated=["far.test"], now=START, check=True)["keys"]
    done = apply("far.test", "acme.test", delegated=["far.test"], now=START)["keys"]
    numbers = [numbered_selector("far.test", 1, algorithm) for algorithm in ("ed25519", "rsa")]
    assert [key["selector"] for key in done["far.test"]] == numbers
    # so the plan is exact
    assert [key["selector"] for key in planned["far.test"]] == numbers
    assert all(key["planned"] for key in planned["far.test"])
    assert not any(key["selector"].startswith("mw") for key in done["acme.test"])
    # the next ones are others, whatever became of the first
    later = "2026-10-01T12:00:00+00:00"
    selectors = {key["selector"] for key in apply("far.test", delegated=["far.test"], now=later)["keys"]["far.test"]}
    assert selectors >= {numbered_selector("far.test", 2, "rsa")}
