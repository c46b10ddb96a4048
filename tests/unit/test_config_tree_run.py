# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""config_tree on real files in a scratch directory: swaps, failures half-way, a kill before every system call."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.config_tree.apply import Outcome, Run
from ansible_collections.mailwright.server.plugins.module_utils.config_tree.plan import ConfigTreeError, File
from ansible_collections.mailwright.server.plugins.module_utils.config_tree.settings import Command, Settings
from ansible_collections.mailwright.server.plugins.module_utils.config_tree.store import read_live
from ansible_collections.mailwright.server.plugins.module_utils.config_tree.units import Unit

STEPS = ("open", "rename", "unlink", "fsync", "mkdir", "fchown", "fchmod", "symlink")


class Host:
    """A scratch directory with a configuration tree, its records, and a log that a command writes."""

    def __init__(self, root: Path) -> None:
        self.etc = root / "etc"
        self.log = root / "log"
        self.records = str(root / "records")

    def settings(self, contents: dict[str, str], command: str = "") -> Settings:
        files = {}
        for name, text in contents.items():
            path = str(self.etc / name)
            files[path] = File(path, text.encode(), str(os.getuid()), str(os.getgid()))
        # The log holds what the service would have read at its last activation.
        line = command or f"cat {self.etc}/a > {self.log}"
        return Settings("x", files, [], commands=(Command(("sh", "-c", line), ("*",)),))

    def run(self, contents: dict[str, str], command: str = "", *, check_mode: bool = False) -> Outcome:
        settings = self.settings(contents, command)
        return Run(settings, check_mode=check_mode, want_diff=False, records=self.records).run()

    def tree(self) -> dict[str, Any]:
        return {str(p.relative_to(self.etc)): read_live(str(p)) for p in sorted(self.etc.rglob("*")) if not p.is_dir()}

    def texts(self) -> dict[str, str]:
        return {name: found.content.decode() for name, found in self.tree().items()}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


OLD = {"a": "old a", "d/b": "old b", "gone": "old"}
NEW = {"a": "new a", "d/b": "old b", "e/f/c": "new c"}


def test_creates_changes_removes_and_then_finds_nothing_to_do(host: Host) -> None:
    first = host.run(OLD)
    assert [os.path.basename(p) for p in first.plan.create] == ["a", "b", "gone"]
    (host.etc / "foreign").write_text("foreign")
    second = host.run(NEW)
    touched = (second.plan.create, second.plan.change, second.plan.remove)
    assert [[os.path.basename(p) for p in part] for part in touched] == [["c"], ["a"], ["gone"]]
    assert host.texts() == {**NEW, "foreign": "foreign"}
    assert host.log.read_text() == "new a"
    host.log.unlink()
    third = host.run(NEW)
    assert third.as_result()["changed"] is False
    assert not host.log.exists()


def test_check_mode_writes_nothing(host: Host, tmp_path: Path) -> None:
    outcome = host.run(OLD, check_mode=True)
    assert len(outcome.plan.create) == 3
    assert outcome.commands
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_replaced_and_not_followed(host: Host, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("theirs")
    host.etc.mkdir()
    (host.etc / "a").symlink_to(target)
    host.run({"a": "ours"})
    assert target.read_text() == "theirs"
    assert not (host.etc / "a").is_symlink()


def test_a_failed_rename_restores_files_links_and_directories(host: Host) -> None:
    host.run(OLD)
    (host.etc / "link").symlink_to("nowhere")
    before = host.tree()
    wanted = {**NEW, "link": "file now", "z": "cannot be written"}
    run = Run(host.settings(wanted), check_mode=False, want_diff=False, records=host.records)
    show = run.systemd.show

    def block(*arguments: Any, **options: Any) -> Any:
        # Between plan and swap a directory appears where the last file is to go.
        (host.etc / "z").mkdir(exist_ok=True)
        return show(*arguments, **options)

    run.systemd.show = block  # type: ignore[method-assign]
    with pytest.raises(ConfigTreeError, match=r"cannot write .*/z: Is a directory\nall files and units were put back"):
        run.run()
    (host.etc / "z").rmdir()
    assert host.tree() == before
    assert not (host.etc / "e").exists()
    assert host.run(OLD).as_result()["changed"] is False


def test_a_failed_command_restores_all_and_shows_no_secret(host: Host) -> None:
    host.run(OLD)
    before = host.tree()
    settings = host.settings(NEW, f"cat {host.etc}/s; cat {host.etc}/a > {host.log}; exit 3")
    path = str(host.etc / "s")
    secret = File(path, b"password=sup3rsecret", str(os.getuid()), str(os.getgid()), 0o600, True)
    failing = Settings("x", {**settings.files, path: secret}, [], commands=settings.commands)
    with pytest.raises(ConfigTreeError, match="exit code 3") as caught:
        Run(failing, check_mode=False, want_diff=False, records=host.records).run()
    assert "sup3rsecret" not in str(caught.value)
    assert host.tree() == before
    assert host.log.read_text() == "old a"
    assert sorted(os.listdir(host.records)) == [".lock", "x.json"]
    assert host.run(OLD).as_result()["changed"] is False


@pytest.mark.parametrize("declared", [None, False])
def test_what_is_declared_open_is_shown_although_others_may_not_read_it(host: Host, declared: bool | None) -> None:
    content = "mode=standalone\n"
    path = str(host.etc / "a")
    file = File(path, content.encode(), str(os.getuid()), str(os.getgid()), 0o640, declared is None)
    permissions = [{"path": path, "sensitive": declared}]
    good = Settings("x", {path: file}, permissions)
    Run(good, check_mode=False, want_diff=False, records=host.records).run()
    command = Command(("sh", "-c", "printf 'running %s%s' stand alone; exit 3"), ("*",))
    failing = replace(good, files={path: replace(file, content=b"mode=none\n")}, commands=(command,))
    with pytest.raises(ConfigTreeError, match="exit code 3") as caught:
        Run(failing, check_mode=False, want_diff=False, records=host.records).run()
    assert ("running standalone" in str(caught.value)) == (declared is False)


def test_a_plan_leaves_checks_out_while_a_unit_is_not_installed(host: Host) -> None:
    path = str(host.etc / "a")
    file = File(path, b"", str(os.getuid()), str(os.getgid()))
    settings = Settings("x", {path: file}, [], checks=(("false",),), units=(Unit("no-such-unit.service"),))
    outcome = Run(settings, check_mode=True, want_diff=False, records=host.records).run()
    assert outcome.skipped_checks == ["false"]
    with pytest.raises(ConfigTreeError, match="the check 'false' failed"):
        Run(replace(settings, units=()), check_mode=True, want_diff=False, records=host.records).run()


def test_missing_users_are_named_and_nothing_is_written(host: Host) -> None:
    path = str(host.etc / "a")
    settings = Settings("x", {path: File(path, b"", "no-such-user", "no-such-group")}, [])
    with pytest.raises(ConfigTreeError, match=r"group 'no-such-group'.*\n.*user 'no-such-user'"):
        Run(settings, check_mode=False, want_diff=False, records=host.records).run()
    assert not host.etc.exists()
    assert Run(settings, check_mode=True, want_diff=False, records=host.records).run().plan.create == (path,)


def killed_before(step: int, work: Callable[[], object]) -> bool:
    """Run ``work`` in a child that is killed before its nth system call that writes; say whether it came to that."""
    child = os.fork()
    if child == 0:
        try:
            left = step

            def counting(real: Callable[..., Any]) -> Callable[..., Any]:
                def call(*arguments: Any, **options: Any) -> Any:
                    nonlocal left
                    left -= 1
                    if left < 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return real(*arguments, **options)

                return call

            for name in STEPS:
                setattr(os, name, counting(getattr(os, name)))
            work()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    return False


@pytest.fixture
def memory() -> Iterator[Path]:
    """A scratch directory in memory where there is one: thousands of fsync calls cost nothing there."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as path:
        yield Path(path)


@pytest.mark.parametrize("later", [NEW, OLD, {"a": "third", "only": "x"}], ids=["same", "back", "other"])
@pytest.mark.parametrize("command", ["", "exit 3"], ids=["good", "rolled-back"])
def test_a_kill_before_any_step_is_healed_by_the_next_run(memory: Path, command: str, later: dict[str, str]) -> None:
    step = 0
    while True:
        host = Host(memory / str(step))
        host.run(OLD)
        (host.etc / "foreign").write_text("foreign")
        killed = killed_before(step, lambda host=host: host.run(NEW, command))  # type: ignore[misc]
        if not killed:
            break
        known = set(host.texts())
        assert {"a", "d/b", "foreign"} <= known
        assert host.texts()["a"] in ("old a", "new a")
        host.run(later)
        assert host.texts() == {**later, "foreign": "foreign"}, step
        assert host.log.read_text() == later["a"], step
        assert sorted(os.listdir(host.records)) == [".lock", "x.json"], step
        assert host.run(later).as_result()["changed"] is False, step
        step += 1
    assert step > 20
