# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of config_tree, its settings, decisions and diffs: pure functions."""

from __future__ import annotations

import base64
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.config_tree.diff import activation_lines, make_diff
from ansible_collections.mailwright.server.plugins.module_utils.config_tree.plan import (
    ABSENT,
    File,
    Live,
    Plan,
    digest,
    make_plan,
    matches,
    owned_paths,
)
from ansible_collections.mailwright.server.plugins.module_utils.config_tree.settings import SettingsError, parse
from ansible_collections.mailwright.server.plugins.module_utils.config_tree.stage import overlay_points, redact
from ansible_collections.mailwright.server.plugins.module_utils.config_tree.systemd import not_accepting
from ansible_collections.mailwright.server.plugins.module_utils.config_tree.units import (
    Action,
    Unit,
    UnitState,
    decide,
    failures,
    full_name,
    parse_show,
    undo,
)
from hypothesis import given
from hypothesis import strategies as st

PATHS = st.sampled_from([f"/etc/{name}" for name in "abcdefg"])
CONTENTS = st.sampled_from([b"", b"one", b"two\n", b"\0\xff"])
IDS = st.sampled_from([0, 7])
MODES = st.sampled_from([0o600, 0o644])
FILES = st.builds(File, path=st.just(""), content=CONTENTS, mode=MODES, uid=IDS, gid=IDS)
LIVES = st.builds(Live, st.sampled_from(["file", "symlink"]), CONTENTS, IDS, IDS, MODES)


def applied(plan: Plan, wanted: dict[str, File], live: dict[str, Live]) -> dict[str, Live]:
    after = dict(live)
    for path in plan.remove:
        del after[path]
    for path in (*plan.create, *plan.change):
        file = wanted[path]
        assert file.uid is not None
        assert file.gid is not None
        after[path] = Live("file", file.content, file.uid, file.gid, file.mode)
    return after


@given(st.dictionaries(PATHS, FILES), st.dictionaries(PATHS, LIVES), st.sets(PATHS))
def test_applying_the_plan_gives_what_is_wanted_and_touches_nothing_else(
    wanted: dict[str, File], live: dict[str, Live], owned: set[str]
) -> None:
    plan = make_plan(wanted, live, owned)
    after = applied(plan, wanted, live)
    expected = {p: found for p, found in live.items() if p not in owned}
    expected |= {p: Live("file", f.content, f.uid or 0, f.gid or 0, f.mode) for p, f in wanted.items()}
    assert after == expected
    assert set(plan.paths) <= set(wanted) | owned
    assert make_plan(wanted, after, wanted.keys()).paths == ()
    assert all(p not in live for p in plan.create)
    assert all(p in live and live[p] != after[p] for p in plan.change)


@pytest.mark.parametrize(("kind", "word"), [("directory", "directory"), ("other", "special"), ("blocked", "parent")])
def test_what_is_no_file_is_a_conflict_and_is_not_removed(kind: str, word: str) -> None:
    live = {"/etc/a": Live(kind), "/etc/b": Live(kind)}
    plan = make_plan({"/etc/a": File("/etc/a", b"")}, live, ["/etc/b"])
    assert plan.paths == ()
    assert len(plan.conflicts) == 1
    assert word in plan.conflicts[0]


def test_a_missing_user_counts_as_a_change() -> None:
    wanted = {"/etc/a": File("/etc/a", b"x", owner="nobody-yet", uid=None)}
    assert make_plan(wanted, {"/etc/a": Live("file", b"x", 0, 0, 0o644)}, []).change == ("/etc/a",)


def test_an_announced_path_is_ours_only_with_the_announced_content() -> None:
    live = {"/etc/a": Live("file", b"ours"), "/etc/b": Live("file", b"theirs")}
    pending = {"/etc/a": digest(b"ours"), "/etc/b": digest(b"ours"), "/etc/c": digest(b"ours"), "/etc/d": None}
    assert owned_paths({"/etc/m": "1"}, pending, live) == {"/etc/m": "1", "/etc/a": digest(b"ours")}


def test_globs_cross_directories() -> None:
    assert matches("/etc/postfix/sql/x.cf", ["/etc/postfix/*"])
    assert not matches("/etc/postfix-x/y", ["/etc/postfix/*"])
    assert not matches("/etc/a", [])


UP = UnitState(load="loaded", active="active", sub="running", file_state="enabled", can_reload=True)
DOWN = UnitState(load="loaded", active="inactive", file_state="enabled", can_reload=True)
OFF = UnitState(load="loaded", active="inactive", file_state="disabled")
UNIT = Unit("x.service", restart_on=("/etc/x/master.cf",))


@pytest.mark.parametrize(
    ("unit", "state", "changed", "switch", "act"),
    [
        (UNIT, UP, [], "", ""),
        (UNIT, UP, ["/etc/x/main.cf"], "", "reload"),
        (UNIT, UP, ["/etc/x/main.cf", "/etc/x/master.cf"], "", "restart"),
        (Unit("x.service", restart_on=("*",)), UP, ["/etc/x/main.cf"], "", "restart"),
        (UNIT, UnitState(load="loaded", active="active", file_state="static"), ["/etc/x/main.cf"], "", "restart"),
        (UNIT, UP, ["/etc/systemd/system/x.service"], "", "restart"),
        (UNIT, UP, ["/etc/systemd/system/x.service.d/10.conf"], "", "restart"),
        (UNIT, UP, ["/etc/systemd/system/y.service"], "", "reload"),
        (Unit("x@a.service"), UP, ["/etc/systemd/system/x@.service"], "", "restart"),
        (Unit("x.service", reload_on=("/etc/x/*",)), UP, ["/etc/y"], "", ""),
        (Unit("x.service", reload_on=()), UP, ["/etc/y"], "", ""),
        (Unit("x.service", reload_on=(), restart_on=("/etc/y",)), UP, ["/etc/y"], "", "restart"),
        (UNIT, DOWN, [], "", "start"),
        (UNIT, DOWN, ["/etc/x/master.cf"], "", "start"),
        (UNIT, OFF, [], "enable", "start"),
        (UNIT, UnitState(), [], "enable", "start"),
        (UNIT, UnitState(load="loaded", active="failed", file_state="static"), [], "", "start"),
        (UNIT, UnitState(load="loaded", active="activating", file_state="enabled"), [], "", "start"),
        (
            UNIT,
            UnitState(load="loaded", active="activating", file_state="enabled", can_reload=True),
            ["/etc/x/a"],
            "",
            "restart",
        ),
        (UNIT, UnitState(load="loaded", active="inactive", file_state="enabled", finished=True), [], "", ""),
        (Unit("x.service", started=False, enabled=False), UP, [], "disable", "stop"),
        (Unit("x.service", started=False, enabled=False), OFF, ["/etc/x/main.cf"], "", ""),
        (Unit("x.service", started=False, enabled=False), UnitState(), [], "", ""),
        (Unit("x.service", enabled=False), UP, [], "disable", ""),
        (Unit("x.socket", started=None), OFF, ["/etc/systemd/system/x.socket.d/a.conf"], "enable", ""),
        (Unit("x.socket", started=None), UnitState(load="loaded", file_state="enabled"), [], "", ""),
    ],
)
def test_decide(unit: Unit, state: UnitState, changed: list[str], switch: str, act: str) -> None:
    assert decide(unit, state, changed) == Action(unit.name, switch, act)


def test_undo_puts_back() -> None:
    assert undo(Action("x", "enable", "start")) == Action("x", "disable", "stop")
    assert undo(Action("x", "", "reload")).act == "reload-or-restart"


@pytest.mark.parametrize(
    ("state", "before", "reason"),
    [
        (UP, 0, None),
        (replace(UP, restarts=3), 3, None),
        (replace(UP, restarts=1), 0, "active (running), after it ended and systemd started it again"),
        (DOWN, 0, "inactive (dead)"),
        (UnitState(), 0, "not-found"),
    ],
)
def test_a_unit_that_is_down_or_was_started_again_has_failed(state: UnitState, before: int, reason: str | None) -> None:
    found = failures([Action("x.service", "", "reload")], {"x.service": state}, {"x.service": before})
    assert found == ({} if reason is None else {"x.service": reason})


def test_addresses_at_which_nobody_listens_are_told(tmp_path: Path) -> None:
    path, gone = str(tmp_path / "socket"), str(tmp_path / "gone")
    with socket.socket(socket.AF_UNIX) as unix, socket.create_server(("127.0.0.1", 0)) as tcp:
        unix.bind(path)
        unix.listen()
        port = tcp.getsockname()[1]
        assert not_accepting([path, gone, f"127.0.0.1:{port}"]) == [gone]
    assert not_accepting([path, f"127.0.0.1:{port}"]) == [path, f"127.0.0.1:{port}"]


@pytest.mark.parametrize("address", ["25", "localhost:25", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "x/y", ""])
def test_an_address_is_a_path_or_an_ipv4_address_with_port(address: str) -> None:
    unit = {"name": "x", "listens": ["127.0.0.1:25", "/run/x.sock", address]}
    with pytest.raises(SettingsError) as caught:
        parse({"name": "x", "files": [], "units": [unit]})
    assert str(caught.value).startswith(f"units[0].listens: {address!r} must be an IPv4 address with a port")


def test_parse_show_reads_blocks_in_the_order_asked() -> None:
    text = (
        "Type=notify\nRemainAfterExit=no\nLoadState=loaded\nActiveState=active\nSubState=running\n"
        "UnitFileState=enabled\nCanReload=yes\nResult=success\n\n"
        "Type=oneshot\nRemainAfterExit=no\nLoadState=loaded\nActiveState=inactive\nSubState=dead\n"
        "UnitFileState=static\nCanReload=no\nResult=success\nInactiveEnterTimestampMonotonic=17\n"
    )
    states = parse_show(text, ["a.service", "b.service"])
    assert states["a.service"] == UnitState("loaded", "active", "running", "enabled", True, "notify", False)
    assert states["b.service"].finished
    assert states["b.service"].running
    with pytest.raises(ValueError, match="2 units"):
        parse_show(text, ["a.service"])


def test_full_name() -> None:
    assert [full_name(n) for n in ("postfix", "x.timer", "a@1.b")] == ["postfix.service", "x.timer", "a@1.b.service"]


def parameters(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "files": [], "permissions": [], "check": [], "commands": [], "units": [], **changes}


def payload(path: str, content: bytes = b"x", **more: str) -> dict[str, str]:
    return {"path": path, "content": base64.b64encode(content).decode(), **more}


def test_permissions_last_match_wins_for_each_key() -> None:
    settings = parse(
        parameters(
            files=[payload("/etc/a/b"), payload("/etc/a/exe", mode="0755"), payload("/etc/c")],
            permissions=[
                {"path": "/etc/a/*", "group": "mail", "mode": "0640"},
                {"path": "/etc/a/exe", "owner": "games", "mode": "0750"},
                {"path": "/etc/a/exe", "sensitive": False},
            ],
        )
    )
    plain, exe, default = settings.files["/etc/a/b"], settings.files["/etc/a/exe"], settings.files["/etc/c"]
    assert (plain.owner, plain.group, plain.mode, plain.sensitive) == ("root", "mail", 0o640, True)
    assert (exe.owner, exe.group, exe.mode, exe.sensitive) == ("games", "mail", 0o750, False)
    assert (default.owner, default.group, default.mode, default.sensitive) == ("root", "root", 0o644, False)


def test_an_executable_source_keeps_its_bit_unless_permissions_say_otherwise() -> None:
    files = [payload("/etc/a/exe", mode="0755")]
    assert parse(parameters(files=files)).files["/etc/a/exe"].mode == 0o755
    other = parse(parameters(files=files, permissions=[{"path": "*", "mode": "0600"}]))
    assert other.files["/etc/a/exe"].mode == 0o600


def test_all_errors_are_reported_at_once() -> None:
    bad = parameters(
        name="../x",
        files=[
            payload("etc/a"),
            payload("/etc/../a"),
            payload("/a"),
            payload("/run/a"),
            payload("/etc/f"),
            payload("/etc/f"),
            payload("/etc/f/g"),
            {"path": "/etc/h", "content": "*"},
        ],
        permissions=[{"path": "*", "mode": 416}, {"path": "*", "mode": "u=rw"}],
        check=["a 'b", " "],
        units=[{"name": "x"}, {"name": "x.service"}],
    )
    with pytest.raises(SettingsError) as caught:
        parse(bad)
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "name",
        "permissions[0].mode",
        "permissions[1].mode",
        "files[0].path",
        "files[1].path",
        "files[2].path",
        "files[3].path",
        "files[5].path",
        "files[7].content",
        "files",
        "check[0]",
        "check[1]",
        "units[1].name",
    ]


def test_a_stopped_unit_is_disabled_unless_said_otherwise() -> None:
    units = parse(
        parameters(units=[{"name": "a.timer", "state": "stopped"}, {"name": "b", "state": "started", "enabled": None}])
    ).units
    assert [(u.name, u.started, u.enabled) for u in units] == [
        ("a.timer", False, False),
        ("b.service", True, True),
    ]


def shown(wanted: File | None, old: Live, *, is_open: bool = False) -> list[dict[str, str]]:
    files = {} if wanted is None else {"/etc/a": wanted}
    live = {"/etc/a": old}
    plan = make_plan(files, live, ["/etc/a"])
    return make_diff(plan, files, live, lambda _path: is_open, lambda uid, gid: (f"u{uid}", f"g{gid}"))


def test_commands_and_units_are_part_of_the_diff() -> None:
    assert activation_lines(["sievec /etc/dovecot/sieve"], {"b.service": "restarted", "a.socket": "stopped"}) == [
        "command sievec /etc/dovecot/sieve",
        "unit b.service: restarted",
        "unit a.socket: stopped",
    ]


def test_diff_hides_secrets_old_and_new() -> None:
    open_file, closed_file = Live("file", b"old-secret", 0, 0, 0o644), Live("file", b"old-secret", 0, 0, 0o600)
    for wanted, old in (
        (File("/etc/a", b"new-secret", sensitive=True), open_file),
        (File("/etc/a", b"new-secret", sensitive=True), ABSENT),
        (File("/etc/a", b"new-secret"), closed_file),
        (None, closed_file),
    ):
        entries = shown(wanted, old)
        assert "secret" not in repr(entries)
        assert any(e["before"] != e["after"] for e in entries)
    assert "old-secret" in repr(shown(None, closed_file, is_open=True))


def test_diff_shows_metadata_links_and_binaries() -> None:
    meta = shown(File("/etc/a", b"x", owner="vmail", uid=5), Live("file", b"x", 0, 0, 0o600), is_open=True)
    assert [(e["before"], e["after"]) for e in meta] == [
        ("owner: u0\ngroup: g0\nmode: 0600\n", "owner: vmail\ngroup: root\nmode: 0644\n"),
    ]
    link = shown(File("/etc/a", b"x\n"), Live("symlink", b"/etc/b", 0, 0, 0o777))
    assert [(e["before"], e["after"]) for e in link] == [("symbolic link to /etc/b\n", "x\n")]
    binary = shown(File("/etc/a", b"\0b"), Live("file", b"\0a", 0, 0, 0o644))
    assert binary[0]["before"] != binary[0]["after"]
    assert binary[0]["before"].startswith("<binary")


def test_redact_removes_quoted_lines_and_values() -> None:
    secret = b'# comment stays\npassword = hunter22\nkey "quoted-value"\n'
    text = 'bad line: password = hunter22\nnear "quoted-value" and hunter22; # comment stays'
    cleaned = redact(text, [secret])
    assert "hunter22" not in cleaned
    assert "quoted-value" not in cleaned
    assert "# comment stays" in cleaned


def test_overlay_points_follow_deeper_mounts() -> None:
    mounts = ["/", "/etc", "/etc/hosts", "/var/mail", "/proc"]
    assert overlay_points(["/etc/a/b", "/etc/hosts", "/var/mail/x/y", "/usr/local/bin/z"], mounts) == [
        "/etc",
        "/usr",
        "/var/mail",
    ]
