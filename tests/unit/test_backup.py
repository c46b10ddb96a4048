# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The copy of a mail store under change, the choice of a snapshot, and what the status report says of backups."""

from __future__ import annotations

import datetime
import itertools
import os
import random
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.backup import mailstore, services
from ansible_collections.mailwright.server.plugins.module_utils.backup.restic import (
    NoRepositoryError,
    Restic,
    Snapshot,
    choose,
    is_final,
    said,
)
from ansible_collections.mailwright.server.plugins.module_utils.backup.settings import (
    BackupError,
    BusyError,
    Settings,
    lock,
)
from ansible_collections.mailwright.server.plugins.module_utils.probes.backup import TIMERS, evaluate

FOLDERS = ("", ".A", ".B", ".C", ".Archive.2025")


def make_home(store: Path, messages: int) -> Path:
    home = store / "acme.test/alice"
    for folder in FOLDERS:
        for kind in ("cur", "new", "tmp"):
            (home / "Maildir" / folder / kind).mkdir(parents=True)
    for number in range(messages):
        path = home / "Maildir" / FOLDERS[number % len(FOLDERS)] / "cur" / f"{number}.M1.mx:2,"
        path.write_text(f"message {number}\n")
    (home / "Maildir/dovecot-uidlist").write_text("3 V1 N1\n")
    (home / "Maildir/dovecot.index.log").write_text("index")
    (home / "Maildir/tmp/half").write_text("half")
    (home / "sieve").mkdir()
    (home / "sieve/main.sieve").write_text("keep;\n")
    (home / ".dovecot.sieve").symlink_to("sieve/main.sieve")
    return home


def contents(target: Path) -> Counter[str]:
    return Counter(path.read_text() for kind in ("cur", "new") for path in target.rglob(f"{kind}/*"))


def test_what_is_copied(tmp_path: Path) -> None:
    make_home(tmp_path / "vmail", 20)
    (tmp_path / "vmail/.backup").mkdir()
    staged = mailstore.stage(str(tmp_path / "vmail"), str(tmp_path / "vmail/.backup"))
    copy = tmp_path / "vmail/.backup/acme.test/alice"
    assert staged.messages == {"alice@acme.test": 20}
    assert staged.restless == []
    assert contents(copy) == contents(tmp_path / "vmail/acme.test/alice")
    assert (copy / "Maildir/dovecot-uidlist").read_text() == "3 V1 N1\n"
    assert os.readlink(copy / ".dovecot.sieve") == "sieve/main.sieve"
    assert (copy / "sieve/main.sieve").read_text() == "keep;\n"
    assert list((copy / "Maildir/tmp").iterdir()) == []
    assert not list(copy.rglob("dovecot.index*"))
    assert os.stat(copy / "Maildir/cur/0.M1.mx:2,").st_nlink == 2
    mailstore.remove(str(tmp_path / "vmail/.backup"))
    assert len(contents(tmp_path / "vmail/acme.test/alice")) == 20


def test_what_is_no_mail_of_the_owner_is_not_followed(tmp_path: Path) -> None:
    home = make_home(tmp_path / "vmail", 1)
    (tmp_path / "secret").write_text("secret")
    (home / "Maildir/cur/9.x").symlink_to(tmp_path / "secret")
    (home / "elsewhere").symlink_to(tmp_path)
    os.mkfifo(home / "pipe")
    mailstore.stage(str(tmp_path / "vmail"), str(tmp_path / "vmail/.backup"))
    copy = tmp_path / "vmail/.backup/acme.test/alice"
    assert (copy / "Maildir/cur/9.x").is_symlink()
    assert (copy / "elsewhere").is_symlink()
    assert not (copy / "pipe").exists()


class Mover(threading.Thread):
    """Somebody who moves, flags and receives mail for some time, then rests, as the owner of a mailbox does."""

    def __init__(self, home: Path, seed: int, seconds: float) -> None:
        super().__init__()
        self.maildir, self.random, self.seconds = home / "Maildir", random.Random(seed), seconds
        self.delivered = 0

    def run(self) -> None:
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            for _turn in range(20):
                self.step()
            time.sleep(0.001)

    def step(self) -> None:
        kind = self.random.random()
        source = self.maildir / self.random.choice(FOLDERS) / "cur"
        names = sorted(os.listdir(source))
        if kind < 0.2 or not names:
            self.delivered += 1
            name = f"d{self.delivered}.M2.mx"
            (self.maildir / "tmp" / name).write_text(f"delivered {self.delivered}\n")
            os.rename(self.maildir / "tmp" / name, self.maildir / "new" / name)
            return
        name = self.random.choice(names)
        if kind < 0.6:
            flags = "S" if not name.endswith("S") else ""
            os.rename(source / name, source / (name.partition(":")[0] + ":2," + flags))
            return
        # as Dovecot does it: a second link, then the first one goes
        target = self.maildir / self.random.choice(FOLDERS) / "cur" / f"m{self.random.random()}.mx:2,"
        os.link(source / name, target)
        os.unlink(source / name)


@pytest.mark.parametrize("seed", range(6))
def test_mail_that_moves_meanwhile_is_there_once(tmp_path: Path, seed: int) -> None:
    home = make_home(tmp_path / "vmail", 400)
    there = contents(home)
    mover = Mover(home, seed, 1.0)
    mover.start()
    try:
        staged = mailstore.stage(str(tmp_path / "vmail"), str(tmp_path / "vmail/.backup"))
    finally:
        mover.join()
    copied = contents(tmp_path / "vmail/.backup")
    assert staged.restless == []
    assert {text: count for text, count in copied.items() if count != 1} == {}
    assert there.keys() - copied.keys() == set()


def test_a_mailbox_that_never_holds_still_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = make_home(tmp_path / "vmail", 20)
    listing = mailstore.listing
    flags = itertools.cycle("S" * number for number in range(1, 50))

    def listed_and_changed(path: str) -> mailstore.Listing:
        found = listing(path)
        message = next((home / "Maildir/cur").iterdir())
        message.rename(message.with_name(f"{message.name.partition(':')[0]}:2,{next(flags)}"))
        return found

    monkeypatch.setattr(mailstore, "listing", listed_and_changed)
    staged = mailstore.stage(str(tmp_path / "vmail"), str(tmp_path / "vmail/.backup"), patience=0.3)
    assert staged.restless == ["alice@acme.test"]


def test_deliveries_do_not_hold_it_up(tmp_path: Path) -> None:
    home = make_home(tmp_path / "vmail", 400)
    mover = Mover(home, 1, 3.0)
    mover.step = lambda: Mover.step(mover) if mover.delivered < 0 else deliver(mover)  # type: ignore[method-assign]
    start = time.monotonic()
    mover.start()
    staged = mailstore.stage(str(tmp_path / "vmail"), str(tmp_path / "vmail/.backup"))
    seconds = time.monotonic() - start
    mover.join()
    assert staged.restless == []
    assert seconds < 3.0


def deliver(mover: Mover) -> None:
    mover.delivered += 1
    (mover.maildir / "new" / f"d{mover.delivered}").write_text("x")


def test_a_tree_is_copied_as_a_whole(tmp_path: Path) -> None:
    """A state names its keys: a copy never has one that lacks a key which it names."""
    tree = tmp_path / "dkim"
    tree.mkdir()
    end = threading.Event()

    def rotate() -> None:
        number = 0
        while not end.is_set():
            number += 1
            (tree / f"{number}.key").write_text("key")
            (tree / "state.new").write_text(str(number))
            os.rename(tree / "state.new", tree / "state")
            (tree / f"{number - 1}.key").unlink(missing_ok=True)
            time.sleep(0.3)

    thread = threading.Thread(target=rotate)
    thread.start()
    try:
        for _turn in range(5):
            services.copy_tree(str(tree), str(tmp_path / "copy"))
            assert (tmp_path / "copy" / f"{(tmp_path / 'copy/state').read_text()}.key").exists()
    finally:
        end.set()
        thread.join()


def snapshot(text: str) -> Snapshot:
    moment = datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)
    return Snapshot(f"{moment:%d%H%M}aabbccddeeff", moment, "mx1")


SNAPSHOTS = [snapshot("2026-03-01 02:30:10"), snapshot("2026-03-02 02:30:10"), snapshot("2026-03-03 02:30:10")]


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        ("latest", 2),
        ("2026-03-01", 0),
        ("2026-03-02", 1),
        ("2026-03-02 02:29", 0),
        ("2026-03-02 02:30", 1),
        ("2026-04-01", 2),
        ("020230aa", 1),
    ],
)
def test_choosing_a_snapshot(wanted: str, index: int) -> None:
    assert choose(SNAPSHOTS, wanted) == SNAPSHOTS[index]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("2026-02-28", "no snapshot is as old as 2026-02-28: the oldest is 010230aa of 2026-03-01 02:30:10 UTC"),
        ("yesterday", "'yesterday' is neither a date, such as 2026-03-01"),
        ("02", "'02' is neither"),
    ],
)
def test_choosing_none(wanted: str, message: str) -> None:
    with pytest.raises(BackupError) as caught:
        choose(SNAPSHOTS, wanted)
    assert str(caught.value).startswith(message)
    with pytest.raises(BackupError, match="has no snapshot of this host"):
        choose([], wanted)


def test_what_restic_said_is_one_line() -> None:
    text = '{"message_type":"exit_error","code":1,"message":"Fatal: disk full"}\nsecond\n'
    assert said(subprocess.CompletedProcess([], 1, "", text)) == "Fatal: disk full; second"


# What restic 0.18 says of OpenStack Swift's answers.
RETRYING = "Stat(<config/>) returned error, retrying after 1.338853086s: Stat: "
NO_BUCKET = f"{RETRYING}The specified bucket does not exist.\n"
WRONG_SECRET = (
    f"{RETRYING}The request signature we calculated does not match the signature you provided. "
    "Check your key and signing method.\n"
)


@pytest.mark.parametrize(
    ("line", "final"),
    [
        (NO_BUCKET, True),
        (WRONG_SECRET, True),
        (f"{RETRYING}dial tcp 192.0.2.1:443: connect: connection refused\n", False),
        ("error: open /var/vmail/Access Denied: permission denied\n", False),
    ],
)
def test_what_need_not_be_asked_again(line: str, final: bool) -> None:
    assert is_final(line) is final


@pytest.mark.parametrize(
    ("said_last", "kind", "message"),
    [
        (NO_BUCKET, NoRepositoryError, "there is no repository at s3:https://store.test/mx1/"),
        (WRONG_SECRET, BackupError, "refuses the log-in: mail_backup.s3 must be"),
    ],
)
def test_what_a_service_refuses_is_said(said_last: str, kind: type[BackupError], message: str) -> None:
    restic = Restic(Settings("mx1.acme.test", "s3:https://store.test/mx1/"))
    error = restic.error("cat", subprocess.CompletedProcess([], 1, "", said_last))
    assert error.__class__ is kind and message in str(error)


def test_one_run_at_a_time(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with lock(path), pytest.raises(BusyError), lock(path):
        pass
    with lock(path):
        pass


ACTIVE = {name: {"ActiveState": "active", "UnitFileState": "enabled"} for name in TIMERS}
DAY = 86400
NOON = 1772366400.0  # 2026-03-01 12:00 UTC


def good(text: str) -> dict[str, Any]:
    return {"ok": True, "finished": text, "messages": 5}


BAD = {"ok": False, "finished": "2026-03-01T11:00:00Z", "message": "disk full"}


@pytest.mark.parametrize(
    ("state", "set_up", "status", "summary"),
    [
        ({}, NOON - 3600, "ok", "none yet, set up 60 min ago"),
        ({}, NOON - 3 * DAY, "fail", "none yet, set up 3 d ago, which is more than 36 h"),
        ({"last_good": good("2026-03-01T02:30:00Z")}, 0, "ok", "last good backup 10 h ago, 5 messages"),
        ({"last_good": good("2026-02-27T02:30:00Z")}, 0, "fail", "last good backup 2 d ago, which is more than 36 h"),
        (
            {"last_good": good("2026-03-01T02:30:00Z"), "last_run": BAD},
            0,
            "warn",
            "the last run failed (2026-03-01T11:00:00Z): disk full",
        ),
        (
            {"last_good": good("2026-03-01T02:30:00Z"), "last_run": BAD, "last_check": BAD},
            0,
            "fail",
            "the last check failed (2026-03-01T11:00:00Z): disk full",
        ),
    ],
)
def test_status(state: dict[str, Any], set_up: float, status: str, summary: str) -> None:
    result = evaluate(state, ACTIVE, set_up, 36 * 3600, NOON)
    assert (result.status, result.summary) == (status, summary)


def test_status_without_a_timer() -> None:
    state = {"last_good": good("2026-03-01T02:30:00Z")}
    stopped: dict[str, dict[str, str]] = {**ACTIVE, TIMERS[0]: {"ActiveState": "inactive"}}
    assert evaluate(state, stopped, 0, 36 * 3600, NOON).summary.startswith("mailwright-backup.timer is inactive")
    assert evaluate(state, {}, 0, 36 * 3600, NOON).status == "fail"


def test_owners_go_by_name(tmp_path: Path) -> None:
    tree, copy, beside = tmp_path / "tree", tmp_path / "copy", tmp_path / "tree.restored"
    for directory in (copy, beside):
        (directory / "a").mkdir(parents=True)
        (directory / "a/key").write_text("key")
    found = services.owners(str(tree), str(copy))
    me = f"{copy.owner()}:{copy.group()}"
    assert found == {str(tree): me, f"{tree}/a": me, f"{tree}/a/key": me}
    gone = {f"{tree}/a/key": "nobody-of-that-name:nogroup-either"}
    services.give(str(tree), found | gone, str(beside))
    assert (beside / "a/key").read_text() == "key"
