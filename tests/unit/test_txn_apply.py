# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An apply's transaction: what ends its waiting, its snapshot without packages, and how the play knows of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure
from ansible_collections.mailwright.server.plugins.action import config_tree
from ansible_collections.mailwright.server.plugins.module_utils.txn import engine, launch, machine, services, snapshot
from ansible_collections.mailwright.server.plugins.module_utils.txn.journal import History
from ansible_collections.mailwright.server.plugins.module_utils.txn.storage import Transaction, TransactionError
from ansible_collections.mailwright.server.plugins.plugin_utils import guard

CONFIRM, SILENCE = 20, 60
SETTINGS = {"kind": "apply", "gate": True, "confirm_seconds": CONFIRM, "silence_seconds": SILENCE, "health_seconds": 0}


def opened(root: Path, **settings: Any) -> Transaction:
    transaction = Transaction.create("20261126T131500Z", {**SETTINGS, **settings}, b"engine", root)
    transaction.sign_of_life()
    return transaction


class Clock:
    """Takes the place of the engine's; what is to happen happens while the engine sleeps."""

    def __init__(self, *events: tuple[float, Callable[[], object]]) -> None:
        self.now = 0.0
        self.events = sorted(events, key=lambda event: event[0])

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        while self.events and self.events[0][0] <= self.now:
            self.events.pop(0)[1]()


def waits(monkeypatch: pytest.MonkeyPatch, transaction: Transaction, clock: Clock) -> None:
    """What the engine does while the playbook works."""
    monkeypatch.setattr(engine, "time", clock)
    engine.Engine(transaction, at_boot=False).apply(transaction.history())


# --- waiting for the playbook ---------------------------------------------------------------------------------------


def test_what_was_wrong_before_is_named() -> None:
    probe = {"findings": {"submission": "connection refused", "units": ""}, "units": {}}
    assert launch.not_judged(History(effects={"probe": probe})) == [
        "wrong before the change already, so not judged: submission: connection refused"
    ]
    assert launch.not_judged(History()) == []


def test_an_apply_goes_on_while_it_gives_signs_of_life_and_ends_with_its_confirmation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    transaction = opened(tmp_path)

    def task(number: int) -> tuple[float, Callable[[], object]]:
        at = number * SILENCE * 0.9
        return at, lambda: os.utime(transaction.directory / "alive", (at, at))

    end = 5 * SILENCE
    clock = Clock(
        *(task(number) for number in range(1, 6)), (1, transaction.guard), (CONFIRM - 1, transaction.reached),
        (end, transaction.confirm),
    )  # fmt: skip
    waits(monkeypatch, transaction, clock)
    assert clock.now == pytest.approx(end, abs=1)


@pytest.mark.parametrize(
    ("happens", "cause", "after"),
    [
        (lambda transaction: transaction.guard(), "nobody reached the host over a new connection", CONFIRM),
        (lambda transaction: transaction.abandon("Dovecot: no"), "Dovecot: no", 0),
        (lambda _transaction: None, "nothing was heard of the apply", SILENCE),
    ],
)
def test_an_apply_that_goes_wrong_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, happens: Callable[[Transaction], None], cause: str, after: float
) -> None:
    transaction = opened(tmp_path)
    happens(transaction)
    clock = Clock()
    with pytest.raises(TransactionError, match=cause):
        waits(monkeypatch, transaction, clock)
    assert clock.now == pytest.approx(after, abs=1)


def test_what_was_applied_is_undone_from_the_first_change_on(tmp_path: Path) -> None:
    transaction = opened(tmp_path)
    transaction.append({"record": "start"})
    for step in ("probe", "snapshot"):
        transaction.append({"record": "intent", "step": step})
        transaction.append({"record": "done", "step": step})
    assert machine.decide(transaction.history()) == machine.Action("do", "apply")
    transaction.append({"record": "start"})
    assert machine.decide(transaction.history()) == machine.Action("end", ending="rolled back")
    transaction.append({"record": "intent", "step": "apply"})
    assert machine.decide(transaction.history()) == machine.Action("undo", "undo-packages")


def test_a_first_apply_guards_the_firewall_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    begun: list[dict[str, Any]] = []

    def begin(request: dict[str, Any]) -> str:
        begun.append(request)
        return ""

    monkeypatch.setattr(launch, "APPLIED", tmp_path / "postfix.json")
    monkeypatch.setattr(launch, "begin", begin)
    monkeypatch.setattr(launch, "find", lambda _name: opened(tmp_path))
    monkeypatch.setattr(launch, "wait", lambda *_arguments: History(intended=frozenset({"apply"})))
    assert launch.begin_apply(SETTINGS, guard=False) is None
    guarded = launch.begin_apply(SETTINGS, guard=True)
    assert guarded is not None and guarded.guarded
    assert [request["gate"] for request in begun] == [False]
    (tmp_path / "postfix.json").touch()
    (tmp_path / "open").unlink()
    (tmp_path / "20261126T131500Z").rename(tmp_path / "old")
    assert launch.begin_apply(SETTINGS, guard=False) is not None
    assert begun[-1]["gate"]


# --- going back while the host goes down ----------------------------------------------------------------------------


@pytest.mark.parametrize("down", [True, False])
def test_a_way_back_that_fails_as_the_host_goes_down_has_not_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, down: bool
) -> None:
    transaction = opened(tmp_path)
    run = engine.Engine(transaction, at_boot=False)

    def fails(_history: Any) -> Any:
        raise TransactionError("systemctl daemon-reload: Connection reset by peer")

    run.steps["undo-activate"] = fails
    monkeypatch.setattr(services, "going_down", lambda: down)
    action = machine.Action("undo", "undo-activate")
    if down:
        with pytest.raises(TransactionError, match="systemd is going down"):
            run.step(action, transaction.history())
    else:
        run.step(action, transaction.history())
    assert bool(transaction.history().undo_failed) is not down


@pytest.mark.parametrize(
    ("said", "down"),
    [("running\n", False), ("degraded\n", False), ("stopping\n", True), ("offline\n", True), ("", True)],
)
def test_what_systemd_says_when_it_goes_down(monkeypatch: pytest.MonkeyPatch, said: str, *, down: bool) -> None:
    monkeypatch.setattr(services, "output", lambda _argv, **_options: said)
    assert services.going_down() is down


# --- the snapshot ---------------------------------------------------------------------------------------------------


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A host's configuration below a directory: one managed file, one unit that is enabled."""
    for name in ("records", "secrets", "snapshots", "units/multi-user.target.wants", "etc"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(snapshot, "ROOT", tmp_path / "snapshots")
    monkeypatch.setattr(snapshot, "RECORDS", tmp_path / "records")
    monkeypatch.setattr(snapshot, "SECRETS", tmp_path / "secrets")
    monkeypatch.setattr(snapshot, "UNITS", tmp_path / "units")
    monkeypatch.setattr(snapshot, "conffiles", dict)
    (tmp_path / "etc/main.cf").write_text("one\n")
    (tmp_path / "records/postfix.json").write_text(f'{{"{tmp_path}/etc/main.cf": "x"}}')
    (tmp_path / "units/multi-user.target.wants/one.service").symlink_to("/lib/one.service")
    return tmp_path


def test_a_snapshot_of_the_configuration_brings_files_and_enabled_units_back(host: Path) -> None:
    taken = snapshot.create("20261126T131500Z", "before apply", b"engine", {}, whole=False)
    assert not taken.whole and taken.other_packages() == ([], []) and taken.restore_packages() == []
    assert not any((taken.directory / "packages").iterdir()) and not any((taken.directory / "databases").iterdir())
    wants = host / "units/multi-user.target.wants"
    (host / "etc/main.cf").write_text("two\n")
    (host / "etc/new.cf").write_text("new\n")
    # written by a task that was killed before it could note that
    (host / "records/web.pending").write_text(f'{{"{host}/etc/new.cf": null}}')
    (wants / "one.service").unlink()
    (wants / "two.service").symlink_to("/lib/two.service")
    changed = taken.restore_files(None)
    assert {Path(path).name for path in changed} == {"main.cf", "new.cf", "one.service", "two.service", "web.pending"}
    assert (host / "etc/main.cf").read_text() == "one\n"
    assert not (host / "etc/new.cf").exists()
    assert [path.name for path in wants.iterdir()] == ["one.service"]
    assert taken.changed_files(None) == []


def test_what_dpkg_and_ucf_leave_beside_a_configuration_file_goes_with_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    etc = tmp_path / "etc"
    etc.mkdir()
    for name in ("main.cf", "main.cf.dpkg-old", "config.inc.php", "config.inc.php.ucf-dist", "config.inc.php.mine"):
        (etc / name).touch()
    (tmp_path / "registry").write_text(f"roundcube {etc}/config.inc.php\npostfix {etc}/main.cf\n")
    monkeypatch.setattr(snapshot, "UCF", tmp_path)
    monkeypatch.setattr(
        snapshot, "output", lambda _argv: f"roundcube-core\n\npostfix\n {etc}/main.cf 0123\n {etc}/gone 45\n"
    )
    # ucf knows Roundcube's file by the name of its source
    assert {Path(path).name: package for path, package in snapshot.conffiles().items()} == {
        "main.cf": "postfix", "main.cf.dpkg-old": "postfix", "gone": "postfix",
        "config.inc.php": "", "config.inc.php.ucf-dist": "",
    }  # fmt: skip


def test_a_file_that_an_update_left_goes_with_it(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, other = host / "etc/config.inc.php", host / "etc/other.conf"
    for path in (config, other):
        path.write_text("one\n")
    found = {str(config): "", str(other): "other"}
    monkeypatch.setattr(snapshot, "conffiles", lambda: found)
    taken = snapshot.create("20261127T101500Z", "before update", b"engine", {}, whole=False)
    for path in (config, other):
        left = path.with_name(f"{path.name}.ucf-dist")
        left.write_text("two\n")
        found[str(left)] = found[str(path)]
    assert taken.changed_files({"third"}) == [f"{config}.ucf-dist"]
    assert taken.changed_files(None) == [f"{config}.ucf-dist", f"{other}.ucf-dist"]
    assert taken.restore_files(None) == [f"{config}.ucf-dist", f"{other}.ucf-dist"]
    assert sorted(path.name for path in (host / "etc").iterdir()) == ["config.inc.php", "main.cf", "other.conf"]


def test_applies_do_not_push_out_the_snapshots_of_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [True, *[False] * 5, True, False]
    found = [SimpleNamespace(id=str(n), ending="committed", whole=whole) for n, whole in enumerate(kinds)]
    monkeypatch.setattr(snapshot, "all_snapshots", lambda: found)
    assert snapshot.unneeded() == ["1", "2", "3"]


# --- the fact -------------------------------------------------------------------------------------------------------


def test_the_fact_of_another_play_counts_for_nothing() -> None:
    task, other = (SimpleNamespace(get_play=lambda name=name: SimpleNamespace(_uuid=name)) for name in ("one", "two"))
    facts = {"ansible_facts": guard.remember(task, {"id": "X", "gate": True})}
    assert guard.opened(task, facts)["id"] == "X"
    assert guard.opened(other, facts) == {}
    assert guard.opened(task, {}) == {}
    # what was guarded alone has ended
    assert guard.opened(task, {"ansible_facts": guard.remember(task, {"id": "X", "gate": False})})["id"] == ""


# --- the task -------------------------------------------------------------------------------------------------------


class Task(config_tree.ActionModule):
    """config_tree's controller half, with answers instead of a host; notes what it did."""

    def __init__(self, **answers: Any) -> None:
        self.did: list[str] = []
        self.answers = answers
        self._task = SimpleNamespace(name="Postfix", get_play=lambda: SimpleNamespace(_uuid="one"))
        self._connection = SimpleNamespace(reset=lambda: self.did.append("hangs up"))

    def _module(self, name: str, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        del variables
        what = str(arguments.get("state", name))
        self.did.append(what)
        answer = self.answers.get(what, {"id": "X", "gate": False})
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)

    def acts(self, *, guarded: bool) -> dict[str, Any]:
        return self._guarded({}, guard.begin({"gate": True}, {}, guarded), {})


def test_a_guarded_task_comes_over_a_new_connection() -> None:
    task = Task(**{config_tree.MODULE: {"changed": True}})
    result = task.acts(guarded=True)
    assert task.did == ["begun", config_tree.MODULE, "hangs up", "reached"]
    assert result == {"changed": True, "ansible_facts": {guard.FACT: {"play": "one", "id": ""}}}


def test_a_guarded_task_that_is_cut_off_says_so() -> None:
    task = Task(reached=AnsibleConnectionFailure("timed out"), **{config_tree.MODULE: {"changed": True}})
    with pytest.raises(AnsibleConnectionFailure, match=r"cut the host off.*timed out"):
        task.acts(guarded=True)


def test_the_first_task_of_a_transaction_undoes_it_when_it_fails() -> None:
    task = Task(
        begun={"id": "X", "gate": True}, abandoned={"failed": True, "msg": "ROLLED BACK"},
        **{config_tree.MODULE: {"failed": True, "msg": "no"}},
    )  # fmt: skip
    assert task.acts(guarded=False)["msg"] == "ROLLED BACK"
    assert task.did == ["begun", config_tree.MODULE, "abandoned"]
