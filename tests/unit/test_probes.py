# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the status report's probes judge what they saw, and how the report is written. No host is needed."""

from __future__ import annotations

import json
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.mailwright.server.plugins.module_utils.probes import (
    backup,
    delivery,
    disk,
    imap,
    queue,
    renewal,
    report,
    services,
    smtp,
    system,
    tls,
    web,
    wire,
)
from ansible_collections.mailwright.server.plugins.module_utils.probes.result import GROUPS, Result, duration, worst
from ansible_collections.mailwright.server.plugins.module_utils.probes.runner import Probe, output, reason, run_all

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 3, 1, tzinfo=UTC)
HOST = "mx1.acme.test"


def test_worst_and_duration() -> None:
    assert worst([]) == "skip"
    assert worst(["ok", "fail", "warn"]) == "fail"
    assert worst(["skip", "ok"]) == "ok"
    assert [duration(seconds) for seconds in (5, 300, 7200, 10 * 86400)] == ["5 s", "5 min", "2 h", "10 d"]


def test_result_becomes_json() -> None:
    result = Result("a", "queue", "ok", "fine", ("more",), 1.23456, {"x": 1})
    assert json.loads(json.dumps(result.to_dict())) == {
        "name": "a", "group": "queue", "status": "ok", "summary": "fine", "detail": ["more"], "seconds": 1.235,
        "data": {"x": 1},
    }  # fmt: skip


# The runner


def test_probes_run_side_by_side_and_one_that_breaks_or_hangs_is_a_result() -> None:
    both = threading.Barrier(2, timeout=5)

    def meet() -> list[Result]:
        both.wait()
        return [Result("met", "queue", "ok", "")]

    def breaks() -> list[Result]:
        raise ValueError("of\nno use")

    hang = threading.Event()
    probes = [
        Probe("hangs", "dns", lambda: [Result("late", "dns", "ok", str(hang.wait(20)))], 0.2),
        Probe("first", "queue", meet),
        Probe("second", "queue", meet),
        Probe("breaks", "system", breaks),
    ]
    start = time.monotonic()
    found = run_all(probes)
    hang.set()
    assert time.monotonic() - start < 4
    assert [(r.name, r.group, r.status, r.summary) for r in found] == [
        ("hangs", "dns", "fail", "no result within 0 s"),
        ("met", "queue", "ok", ""),
        ("met", "queue", "ok", ""),
        ("breaks", "system", "fail", "ValueError: of no use"),
    ]


def test_programs_that_fail_say_why() -> None:
    assert output(["echo", "yes"]) == "yes\n"
    with pytest.raises(RuntimeError, match=r"sh ended with 3: last"):
        output(["sh", "-c", "echo first >&2; echo last >&2; exit 3"])
    with pytest.raises(FileNotFoundError) as caught:
        output(["/no/such/program"])
    assert reason(caught.value) == "/no/such/program is not there"


# Ports


GREETING = f"220 {HOST} ESMTP"


@pytest.mark.parametrize(
    ("said", "problems"),
    [
        (smtp.Conversation(f"220-{HOST} ESMTP"), []),
        (smtp.Conversation(GREETING, ("PIPELINING", "STARTTLS"), "TLSv1.3", ("AUTH",)), []),
        (smtp.Conversation("554 go away"), ["greets with '554 go away', not with 220"]),
        (smtp.Conversation(""), ["greets with '', not with 220"]),
        (smtp.Conversation("220 other ESMTP"), [f"greets as 'other', not as {HOST}"]),
        (smtp.Conversation("220"), ["greets with '220', not with 220"]),
        (smtp.Conversation(GREETING, ("AUTH",)), ["does not offer STARTTLS", "offers to log in without TLS"]),
        (smtp.Conversation(GREETING, None, None, ("SIZE",)), ["no TLS", "does not offer to log in"]),
    ],
)
def test_smtp(said: smtp.Conversation, problems: list[str]) -> None:
    assert smtp.judge(HOST, said) == problems


def test_dovecot_greetings() -> None:
    assert imap.judge(993, ["* OK [CAPABILITY IMAP4rev1] ready"]) == []
    assert imap.judge(993, ["* BYE no"]) == ["greets with '* BYE no', not with * OK"]
    assert imap.judge(995, ["+OK ready"]) == []
    assert imap.judge(995, ["-ERR"]) == ["greets with '-ERR', not with +OK"]
    assert imap.judge(4190, ['"STARTTLS"', 'OK "ready"']) == []
    assert imap.judge(4190, ['OK "ready"']) == ["does not offer STARTTLS"]
    assert imap.judge(4190, ["BYE"]) == ["greets with 'BYE', not with OK"]


def reply(text: str) -> web.Reply:
    return web.parse(text.replace("\n", "\r\n"))


PAGE = 'HTTP/1.1 200 OK\nStrict-Transport-Security: max-age=1\n\n<input name="_pass">'


@pytest.mark.parametrize(
    ("port", "webmail", "text", "problems"),
    [
        (443, True, PAGE, []),
        (443, True, PAGE.replace("Strict", "Not"), ["no Strict-Transport-Security header"]),
        (443, True, PAGE.replace("_pass", "x"), ["the webmail shows no log-in form"]),
        (443, True, PAGE.replace("200", "502"), ["the webmail answers 502"]),
        (443, False, PAGE.replace("200", "403"), []),
        (443, False, PAGE.replace("200", "500"), ["answers 500"]),
        (443, True, "SSH-2.0-OpenSSH", ["does not speak HTTP"]),
        (443, True, "", ["does not speak HTTP"]),
        (80, True, f"HTTP/1.1 301 Moved\nLocation: https://{HOST}/\n\n", []),
        (
            80,
            True,
            f"HTTP/1.1 302 Found\nLocation: https://{HOST}/\n\n",
            [f"302 https://{HOST}/, not 301 https://{HOST}/"],
        ),
        (80, True, "HTTP/1.1 200 OK\n\n", [f"200 , not 301 https://{HOST}/"]),
    ],
)
def test_web(port: int, webmail: bool, text: str, problems: list[str]) -> None:
    assert web.judge(port, HOST, webmail, reply(text)) == problems


def test_an_address_of_no_interface_only_warns() -> None:
    fine = wire.Answer("192.0.2.1", True, ())
    assert wire.port_result("p", [fine]).status == "ok"
    remote = wire.Answer("192.0.2.2", False, ("no answer in time",))
    found = wire.port_result("p", [fine, remote])
    assert (found.status, found.detail) == ("warn", ())
    assert found.summary.startswith("192.0.2.2: no answer in time (asked from the host itself")
    broken = wire.Answer("192.0.2.3", True, ("a", "b"))
    found = wire.port_result("p", [remote, broken])
    assert found.status == "fail"
    assert found.detail == ("192.0.2.3: a", "192.0.2.3: b")


def test_wire_reads_lines_in_time_and_says_when_there_is_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def serve() -> None:
            for words in ([b"220-a", b" b\r\n220", b" c\r\n"], []):
                with server.accept()[0] as peer:
                    for piece in words:
                        peer.sendall(piece)
                    # until the client goes
                    peer.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        with wire.connect("127.0.0.1", port, 5) as stream:
            assert [stream.line(), stream.line()] == ["220-a b", "220 c"]
        start = time.monotonic()
        with pytest.raises(TimeoutError), wire.connect("127.0.0.1", port, 0.3) as stream:
            stream.line()
        assert time.monotonic() - start < 3
        thread.join()
    answer = imap.probe(4190, HOST, "127.0.0.1", 1)
    assert answer.local
    assert answer.problems
    assert not wire.is_local("192.0.2.77")


# Certificates


def served(days: float = 90, names: tuple[str, ...] = (HOST,), distrust: str | None = None) -> tls.Served:
    return tls.Served(tls.Certificate(names, NOW - timedelta(1), NOW + timedelta(days), "aa"), distrust)


LIVE = served().certificate


def test_a_certificate_by_acme_names_its_issuer_and_may_be_short_lived() -> None:
    six_days = tls.Certificate((HOST,), NOW - timedelta(2), NOW + timedelta(4), "aa", "Pebble")
    found = tls.evaluate(993, tls.Served(six_days, None), six_days, HOST, "acme", NOW)
    assert (found.status, found.summary) == ("ok", "ACME, by Pebble, 4 days left")
    late = tls.evaluate(993, tls.Served(six_days, None), six_days, HOST, "acme", NOW + timedelta(3))
    assert late.status == "warn"
    own = tls.evaluate(993, served(), LIVE, HOST, "acme", NOW)
    assert (own.status, own.summary) == ("warn", "self-signed: the ACME server has not given one yet")


@pytest.mark.parametrize(
    ("seen", "mode", "status", "words"),
    [
        (served(), "files", "ok", "90 days left"),
        (served(21), "files", "ok", "21 days left"),
        (served(20.9), "files", "warn", "expires in 21 days"),
        (served(3), "files", "warn", "expires in 3 days"),
        (served(2.9), "files", "fail", "expires in 2.9 days"),
        (served(-0.1), "files", "fail", "expired on"),
        (served(distrust="unable to get issuer"), "files", "warn", "chain not verified: unable to get issuer"),
        (served(distrust="self-signed certificate"), "self_signed", "ok", "self-signed, 90 days left"),
        (served(names=("mail.acme.test",)), "files", "fail", f"is for mail.acme.test, not for {HOST}"),
        (served(names=()), "files", "fail", f"is for no name, not for {HOST}"),
        (served(names=("*.acme.test",)), "files", "ok", "90 days left"),
        (served(names=("*.test",)), "files", "fail", "is for *.test"),
        (served(names=("*.mx1.acme.test",)), "files", "fail", "is for *.mx1"),
    ],
)
def test_certificate(seen: tls.Served, mode: str, status: str, words: str) -> None:
    found = tls.evaluate(993, seen, LIVE, HOST, mode, NOW)
    assert (found.name, found.group, found.status) == ("993 imaps", "certificates", status)
    assert found.summary.startswith(words)


def test_names_that_the_certificate_lacks() -> None:
    names = [HOST, *(f"{service}.acme.test" for service in ("autoconfig", "autodiscover", "mta-sts"))]
    assert tls.evaluate_names(443, ("*.acme.test",), names).status == "ok"
    found = tls.evaluate_names(443, (HOST, "mta-sts.acme.test"), names)
    assert (found.status, found.group) == ("warn", "certificates")
    assert found.summary == "the certificate lacks autoconfig.acme.test, autodiscover.acme.test"
    many = [f"mta-sts.{number}.test" for number in range(5)]
    assert tls.evaluate_names(443, (HOST,), many).summary.endswith("mta-sts.2.test and 2 more")


def test_certificate_that_is_not_the_installed_one() -> None:
    other = tls.Certificate((HOST,), NOW, NOW + timedelta(90), "bb")
    assert "has not loaded it" in tls.evaluate(465, served(), other, HOST, "files", NOW).summary
    assert tls.evaluate(465, served(), None, HOST, "files", NOW).status == "fail"
    early = tls.evaluate(465, served(), LIVE, HOST, "files", NOW - timedelta(2))
    assert (early.status, early.summary) == ("fail", "not valid before 2026-02-28 00:00 UTC")


# Services


def test_units_and_jails_are_those_of_the_roles() -> None:
    running: set[str] = set()
    for path in ROOT.glob("roles/*/tasks/*.yml"):
        for task in yaml.safe_load(path.read_text()):
            tree = task.get("mailwright.server.config_tree", {})
            running |= {
                unit["name"] for unit in tree.get("units", []) if unit.get("state") not in ("stopped", "unmanaged")
            }
    # the renewal of certificates and the backup are probes of their own
    assert {unit for unit, _feature in services.UNITS} == running - {renewal.TIMER, *backup.TIMERS}
    jails: set[str] = set()
    for path in ROOT.glob("roles/firewall/templates/etc/fail2ban/jail.d/*"):
        jails |= {line.strip("[]\n") for line in path.read_text().splitlines() if line.startswith("[")}
    assert {jail for jail, _feature in services.JAILS} == jails - {"DEFAULT"}


def test_units_by_feature() -> None:
    small = services.wanted(services.UNITS, {"webmail": False, "clamav": False})
    assert "postfix.service" in small
    assert not {"php8.4-fpm.service", "clamav-daemon.service"} & set(small)


RUNS = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "UnitFileState": "enabled"}


@pytest.mark.parametrize(
    ("state", "status", "words"),
    [
        (RUNS, "ok", "active (running)"),
        ({**RUNS, "UnitFileState": "disabled"}, "warn", "runs, but is disabled: not started at boot"),
        ({**RUNS, "ActiveState": "inactive", "SubState": "dead", "Result": "success"}, "fail", "inactive (dead)"),
        ({**RUNS, "ActiveState": "failed", "SubState": "failed", "Result": "oom-kill"}, "fail",
         "failed (failed), result oom-kill"),
        ({**RUNS, "ActiveState": "activating", "SubState": "auto-restart"}, "fail", "activating (auto-restart)"),
        ({"LoadState": "not-found", "ActiveState": "inactive"}, "fail", "not installed"),
        ({"LoadState": "masked", "ActiveState": "inactive"}, "fail", "masked"),
        ({}, "fail", "not loaded: "),
    ],
)  # fmt: skip
def test_unit(state: dict[str, str], status: str, words: str) -> None:
    found = services.evaluate_unit("postfix.service", state)
    assert (found.name, found.status, found.summary) == ("postfix", status, words)


def test_systemctl_output() -> None:
    text = "NRestarts=0\nId=a.service\nActiveState=active\n\nId=b@1.service\nResult=exit=code\n"
    assert services.parse_units(text)["a.service"]["ActiveState"] == "active"
    assert services.parse_units(text)["b@1.service"]["Result"] == "exit=code"
    failed = "postfix.service loaded failed failed Postfix\nbackup.service loaded failed failed Backup\n"
    assert [r.name for r in services.evaluate_failed(failed, ["postfix.service"])] == ["backup.service"]
    assert services.evaluate_failed("", []) == []


def test_jails() -> None:
    text = "Status\n|- Number of jail:\t3\n`- Jail list:\tdovecot, postfix, sshd\n"
    assert services.evaluate_jails(text, {"webmail": False}).status == "ok"
    found = services.evaluate_jails(text, {"webmail": True})
    assert (found.status, found.summary) == ("fail", "not active: roundcube-auth")
    assert services.evaluate_jails("", {}).status == "fail"


DAY = 86400.0


@pytest.mark.parametrize(
    ("pong", "files", "status"),
    [
        ("PONG", {"daily.cld": 99 * DAY, "main.cvd": 1 * DAY}, "ok"),
        ("PONG", {"daily.cld": 97 * DAY, "own.hdb": 99 * DAY}, "warn"),
        ("PONG", {"daily.cvd": 80 * DAY}, "fail"),
        ("PONG", {"own.hdb": 80 * DAY}, "ok"),
        ("PONG", {"own.hdb": 10 * DAY}, "warn"),
        ("PONG", {"freshclam.dat": 99 * DAY}, "fail"),
        ("", {"daily.cld": 99 * DAY}, "fail"),
    ],
)
def test_signatures(pong: str, files: dict[str, float], status: str) -> None:
    assert services.evaluate_signatures(pong, files, 100 * DAY).status == status


# Queue, disk, memory, updates


def entry(queue_name: str, age: float, address: str = "dave@peer.test", why: str | None = None) -> dict[str, Any]:
    recipient = {"address": address, **({"delay_reason": why} if why else {})}
    return {"queue_name": queue_name, "queue_id": "x", "arrival_time": 100000 - age, "recipients": [recipient]}


@pytest.mark.parametrize(
    ("entries", "status", "words"),
    [
        ([], "ok", "0 active, 0 deferred, 0 hold"),
        ([entry("active", 5), entry("deferred", 600)], "ok", "1 active, 1 deferred, 0 hold, the oldest for 10 min"),
        ([entry("deferred", 60)] * 50, "ok", "0 active, 50 deferred"),
        ([entry("deferred", 60)] * 51, "warn", "0 active, 51 deferred"),
        ([entry("deferred", 3601)], "warn", "0 active, 1 deferred"),
        ([entry("hold", 99999)], "ok", "0 active, 0 deferred, 1 hold"),
        ([entry("deferred", 99999, delivery.RECIPIENT)], "ok", "0 active, 0 deferred"),
    ],
)
def test_queue(entries: list[dict[str, Any]], status: str, words: str) -> None:
    found = queue.evaluate(entries, 100000, delivery.RECIPIENT)
    assert found.status == status
    assert found.summary.startswith(words)


def test_queue_names_the_commonest_reasons() -> None:
    waiting = [entry("deferred", 4000, why="down")] * 3 + [entry("deferred", 1, why="slow")]
    assert queue.evaluate(waiting, 100000, "").detail == ("3 x down", "1 x slow")


@pytest.mark.parametrize(
    ("space", "inodes", "status"),
    [(84.9, None, "ok"), (85, 10.0, "warn"), (95, 10.0, "fail"), (10, 85.0, "warn"), (10, 95.0, "fail")],
)
def test_disk(space: float, inodes: float | None, status: str) -> None:
    assert disk.evaluate(disk.Usage("/", space, inodes, 2**30)).status == status


def test_disk_counts_as_df_does_and_each_file_system_once(tmp_path: Path) -> None:
    assert disk.percent(100, 40, 20) == 75.0
    assert disk.percent(0, 0, 0) == 0.0
    assert len(disk.measure([str(tmp_path), str(tmp_path), "/no/such"])) == 1


def test_memory() -> None:
    sizes = system.parse_meminfo("MemTotal:  1000 kB\nMemFree: 10 kB\nMemAvailable:  100 kB\nHugePages_Total: 0\n")
    found = system.evaluate_memory(sizes)
    assert (found.status, found.data["available_bytes"]) == ("warn", 102400)
    assert system.evaluate_memory({"MemTotal": 1000, "MemAvailable": 30}).status == "fail"
    assert system.evaluate_memory({"MemTotal": 1000, "MemAvailable": 500}).status == "ok"


def test_reboot() -> None:
    assert system.evaluate_reboot(None, "6.12.1", None).status == "ok"
    assert system.evaluate_reboot(None, "6.12.1", "6.12.1").status == "ok"
    assert system.evaluate_reboot(None, "6.12.1", "6.12.2").status == "warn"
    assert system.evaluate_reboot(["libc6", "libc6"], "x", None).summary == "required by libc6"


PLAN = """Inst libssl3 [3.5.1] (3.5.2 Debian-Security:13/stable-security [amd64])
Inst nano [8.4] (8.4-1 Debian:13.2/stable [amd64])
Conf libssl3 (3.5.2 Debian-Security:13/stable-security [amd64])
"""


def test_updates() -> None:
    found = system.evaluate_updates(PLAN, DAY)
    assert (found.status, found.summary) == ("warn", "2 pending, 1 of them for security")
    assert found.detail == ("security: libssl3",)
    assert system.evaluate_updates(PLAN.splitlines()[1], DAY).status == "ok"
    assert system.evaluate_updates("", DAY).summary == "none pending"
    assert system.evaluate_updates("", 9 * DAY).status == "warn"
    assert system.evaluate_updates("", None).status == "warn"


# The message


def test_delivery() -> None:
    assert delivery.queue_id("2.0.0 Ok: queued as 4jWns15W0rzqCn9") == "4jWns15W0rzqCn9"
    assert delivery.queue_id("2.0.0 Ok") == ""
    arrived = delivery.evaluate(delivery.Attempt(None, "4j", 0.2, 0.5, "INBOX"))
    assert (arrived.status, arrived.seconds) == ("ok", 0.5)
    assert delivery.evaluate(delivery.Attempt(None, "4j", 0.2, 0.5, "Junk")).status == "warn"
    refused = delivery.evaluate(delivery.Attempt("451 4.7.1 later"))
    assert (refused.status, refused.summary) == ("fail", "not accepted on port 25: 451 4.7.1 later")
    waits = delivery.evaluate(delivery.Attempt(None, "4j", 0.2, waiting="deferred: lmtp is down"))
    assert (waits.status, waits.detail) == ("fail", ("deferred: lmtp is down",))
    message = delivery.compose("probe1", HOST)
    assert message["Message-ID"] == f"<probe1@{HOST}>"
    assert list(message.iter_attachments())


# The report


def registered(*results: Result) -> dict[str, Any]:
    status = worst(result.status for result in results)
    return {"hostname": HOST, "status": status, "seconds": 1.25, "results": [result.to_dict() for result in results]}


def test_report_folds_what_is_well_and_shows_what_is_not() -> None:
    found = registered(
        Result("b", "dns", "fail", "missing", ("publish:", "x. 1 IN A 192.0.2.1")),
        Result("c", "dns", "warn", "odd"),
        Result("d", "dns", "ok", "fine"),
        Result("e", "dns", "ok", "fine"),
        Result("a", "services", "ok", "runs"),
    )
    text = report.text_report("mx1", report.host_report(found), verbose=False)
    assert text.splitlines() == [
        "mx1 (mx1.acme.test): NOT HEALTHY (1 failed, 1 warned, 3 ok in 1.2 s)",
        "  ok    services      a: runs",
        "  FAIL  dns           b: missing",
        "                      publish:",
        "                      x. 1 IN A 192.0.2.1",
        "  warn  dns           c: odd",
        "  ok    dns           2: d, e",
    ]
    text = report.text_report("mx1", report.host_report(found), verbose=True)
    assert "  ok    dns           d: fine" in text


def test_report_is_printable_whatever_a_server_says() -> None:
    text = report.text_report("mx1", report.host_report(registered(Result("a", "ports", "fail", "\x1b[2J\xe4"))), False)
    assert text.isascii()
    assert "\\x1b[2J\\xe4" in text


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"unreachable": True, "msg": "no\nroute"}, "cannot be reached: no route"),
        ({"failed": True, "msg": "The inventory has 1 mistake:\nx"}, "The inventory has 1 mistake:\nx"),
        ({"skipped": True}, "cannot be reached"),
        ({}, "gave no results"),
        ({"results": []}, "gave no results"),
    ],
)
def test_report_of_a_host_without_results(given: dict[str, Any], error: str) -> None:
    whole = report.document({"mx1": registered(Result("a", "queue", "ok", "")), "mx2": given})
    assert (whole["status"], whole["hosts"]["mx2"]["error"]) == ("fail", error)
    assert whole["hosts"]["mx1"]["status"] == "ok"
    lines = report.text_report("mx2", whole["hosts"]["mx2"], verbose=False).splitlines()
    assert lines[0] == "mx2: NOT HEALTHY"
    assert len(lines) == 1 + len(error.splitlines())


def test_every_group_is_printed() -> None:
    results = [Result(f"of-{group}", group, "ok", "") for group in GROUPS]
    text = report.text_report("mx1", report.host_report(registered(*results)), verbose=False)
    assert all(f"of-{group}" in text for group in GROUPS)
