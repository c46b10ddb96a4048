# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Let services run what is installed now, with mail acceptance closed for as short as possible.

A message is in danger where one side has it and the other does not know yet: cleanup has written it and the client
waits for the answer, or Dovecot has stored it and Postfix has not noted that. So Postfix is stopped only at a moment
when neither is under way: new connections are refused, the queue manager is held, and what is under way may end.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from ansible_collections.mailwright.server.plugins.module_utils.probes.services import UNITS, parse_units
from ansible_collections.mailwright.server.plugins.module_utils.txn.programs import output, run
from ansible_collections.mailwright.server.plugins.module_utils.txn.storage import TransactionError

POSTFIX, RSPAMD = "postfix.service", "rspamd.service"
# What a message passes through while Postfix has it: restarted together, while nothing is under way.
MAIL_PATH = (
    "postgresql@17-main.service", "redis-server.service", "unbound.service", "postfix-mta-sts-resolver.service",
    "postsrsd.service", "rspamd.service", "dovecot.service",
)  # fmt: skip
# The units that read what a role's config_tree wrote, by the manifest's name.
CONFIGURED = {
    "api": (
        "mailwright-api.service",
        "mailwright-dispatch.service",
        "mailwright-webhooks.service",
        "mailwright-domains.path",
        "nginx.service",
    ),
    "base": ("systemd-journald.service",),
    "clamav": ("clamav-daemon.service", "clamav-freshclam.service"),
    "dovecot": ("dovecot.service",),
    "firewall": ("nftables.service", "fail2ban.service"),
    "metrics": ("mailwright-exporter.service", "prometheus.service", "nginx.service"),
    "mta_sts": ("postfix-mta-sts-resolver.service",),
    "postfix": (POSTFIX, "postsrsd.service"),
    "postgresql": ("postgresql@17-main.service",),
    "redis": ("redis-server.service",),
    "reports": (
        "mailwright-reports.timer",
        "mailwright-dmarc-reports.timer",
        "mailwright-tls-results.socket",
        "mailwright-tls-results.service",
        "mailwright-tls-reports.timer",
        "mailwright-blocklists.timer",
    ),
    "resolver": ("unbound.service",),
    "roundcube": ("php8.4-fpm.service", "nginx.service"),
    "rspamd": ("rspamd.service",),
    "web": ("nginx.service",),
}
# A client may take its time to send a message, which is not ours until it has sent it all. One that is being delivered
# comes a second time when that is cut short, and on a busy host it may take long.
RECEIVING_SECONDS, DELIVERING_SECONDS = 3.0, 30.0
# What the queue manager has handed out may not have been opened yet.
STILL_SECONDS = 0.3
START_SECONDS = 30.0
TABLE = "mailwright_transaction"
# Where a unit of which systemd knows only that its process runs accepts connections.
ANSWERS = {RSPAMD: "/run/rspamd/milter.sock", "dovecot.service": "/run/dovecot/postfix-lmtp"}
SPOOL = "/var/spool/postfix"


def states() -> dict[str, str]:
    """Unit -> systemd's active state, of the managed units that this host has."""
    names = [name for name, _feature in UNITS]
    shown = parse_units(output(["systemctl", "show", "--property=Id,LoadState,ActiveState", *names]))
    return {name: s["ActiveState"] for name, s in shown.items() if s["LoadState"] == "loaded"}


def down(before: dict[str, str]) -> list[str]:
    """Units that were active and are not."""
    now = states()
    return sorted(name for name, state in before.items() if state == "active" and now.get(name) != "active")


def switched_on(unit: str) -> bool:
    """Whether the unit is to start at boot, as far as somebody says so."""
    return output(["systemctl", "is-enabled", unit], codes=None).strip() not in ("disabled", "masked", "not-found")


def stop_others(before: Mapping[str, str]) -> None:
    """Stop the managed units that run and did not before."""
    others = [unit for unit, state in states().items() if state == "active" and before.get(unit) != "active"]
    if others:
        run(["systemctl", "stop", *others])


def going_down() -> bool:
    """Whether systemd is about to end, or has ended: no unit can be started any more, whatever is wrong with it."""
    state = output(["systemctl", "is-system-running"], codes=None).strip()
    return state not in ("initializing", "starting", "running", "degraded", "maintenance")


def outdated() -> set[str]:
    """Managed units with a process that runs a program or a library which is not on the disk any more."""
    found = set()
    for name, _feature in UNITS:
        group = output(["systemctl", "show", "-P", "ControlGroup", name]).strip()
        if group and any(_replaced(pid) for pid in _processes(group)):
            found.add(name)
    return found


def _processes(group: str) -> Iterator[str]:
    for path in Path(f"/sys/fs/cgroup{group}").rglob("cgroup.procs"):
        with contextlib.suppress(OSError):
            yield from path.read_text(encoding="ascii").split()


def _replaced(pid: str) -> bool:
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace").splitlines()
        return any(" /usr/" in line and line.endswith(" (deleted)") for line in lines)
    return False


def concerned(packages: Collection[str], files: Collection[str], manifests: Mapping[str, Collection[str]]) -> list[str]:
    """Managed units that run something else now: their package, a library, or their configuration changed.

    manifests: what config_tree wrote, by its name.
    """
    units = {name for name, _feature in UNITS}
    found = outdated()
    if packages:
        listing = output(["dpkg-query", "-L", *sorted(packages)], codes=(0, 1)).split()
        found |= {os.path.basename(path) for path in listing if "/systemd/system/" in path} & units
        # an instance of postgresql@.service, and PHP programs, which only the interpreter's unit runs
        if any(name.startswith("postgresql-") for name in packages):
            found.add("postgresql@17-main.service")
        if any(name.startswith("roundcube") for name in packages):
            found.add("php8.4-fpm.service")
        # protocols, plugins and table types are packages of their own
        found |= {
            f"{name}.service" for name in ("dovecot", "postfix") if any(p.startswith(f"{name}-") for p in packages)
        }
    for manifest, paths in manifests.items():
        if set(files) & set(paths):
            found |= set(CONFIGURED.get(manifest, ()))
    present = states()
    return [name for name, _feature in UNITS if name in found and name in present and present[name] != "inactive"]


def restart(units: Sequence[str]) -> float:
    """Restart units; returns the seconds for which no new mail was accepted. Raises TransactionError."""
    run(["systemctl", "daemon-reload"])
    run(["systemctl", "reset-failed", *units], codes=None)
    path = [unit for unit in MAIL_PATH if unit in units]
    for unit in units:
        # one by one: the virus scanner alone may take half a minute, and meanwhile mail goes on
        if unit not in path and unit != POSTFIX:
            run(["systemctl", "restart", unit])
    if not path and POSTFIX not in units:
        return 0.0
    with closed():
        started = time.monotonic()
        quiet()
        jobs = [_start(["systemctl", "stop", POSTFIX])]
        if RSPAMD in path:
            # told to stop, its workers wait ten seconds for connections that nobody uses
            run(["systemctl", "kill", "--signal=KILL", RSPAMD], codes=None)
        if path:
            jobs.append(_start(["systemctl", "restart", *path]))
        problems = [problem for job in jobs if (problem := _finish(job))]
        for unit in path:
            _answers(unit)
        # also when something did not come up: mail that cannot be filtered or delivered is answered with "later"
        run(["systemctl", "start", POSTFIX])
        seconds = time.monotonic() - started
    if problems:
        raise TransactionError("; ".join(problems))
    return seconds


def _start(argv: list[str]) -> tuple[list[str], subprocess.Popen[str]]:
    return argv, subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _finish(job: tuple[list[str], subprocess.Popen[str]]) -> str:
    argv, process = job
    said, _none = process.communicate(timeout=120)
    return f"{' '.join(argv)}: {said.strip()[-600:]}" if process.returncode else ""


def _answers(unit: str) -> None:
    """Wait until a unit accepts connections, as far as it has a socket to try; its failing shows elsewhere."""
    end = time.monotonic() + START_SECONDS
    while unit in ANSWERS and time.monotonic() < end:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1.0)
            client.connect(ANSWERS[unit])
            return
        if states().get(unit) in ("failed", "inactive"):
            return
        time.sleep(0.05)


@contextlib.contextmanager
def closed() -> Iterator[None]:
    """Refuse new connections for mail from outside meanwhile, so that senders come again at once."""
    rules = f"""table inet {TABLE} {{
        chain input {{
            type filter hook input priority -10
            tcp dport {{ 25, 465, 587 }} ct state new reject with tcp reset
        }}
    }}
    """
    run(["nft", "-f", "-"], data=rules)
    try:
        yield
    finally:
        reopen()


def reopen() -> None:
    """Take back what closed and quiet did, also in a run that was killed."""
    run(["nft", "delete", "table", "inet", TABLE], codes=None)
    for pid in _named("qmgr"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def quiet() -> None:
    """Hold the queue manager, and wait until no message is between two hands; not for ever."""
    managers = _named("qmgr")
    for pid in managers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    # it stays held: were it ended, Postfix would start another one, which would deliver until Postfix itself stops
    began = seen = time.monotonic()
    while (now := time.monotonic()) - seen < STILL_SECONDS:
        receiving, delivering = _under_way(managers)
        if (delivering and now - began < DELIVERING_SECONDS) or (receiving and now - began < RECEIVING_SECONDS):
            seen = now
        time.sleep(0.02)


def told_outcome(sockets: str) -> set[int]:
    """Processes whose last words the queue manager has not read yet, in what `ss -Hxnp` prints (ss(8))."""
    owners: dict[str, list[int]] = {}
    unread = []
    for line in sockets.splitlines():
        fields = line.split()
        # type, state, bytes to read, bytes sent, path and inode, the other end's path and inode, who has it open
        if len(fields) < 9 or fields[0] != "u_str":
            continue
        owners[fields[5]] = [int(pid) for pid in re.findall(r"pid=(\d+)", fields[8])]
        if fields[2] != "0" and '"qmgr"' in fields[8]:
            unread.append(fields[7])
    return {pid for inode in unread for pid in owners.get(inode, [])}


def _named(name: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if path.read_text(encoding="utf-8").strip() == name:
                found.append(int(path.parent.name))
    return found


def _under_way(managers: Collection[int]) -> tuple[bool, bool]:
    """Whether a message is being received, and whether one is being delivered: who has its file open.

    A delivery has ended when its outcome is noted in the message's file and told to the queue manager. The process
    keeps the file open until that one has heard it, which is held.
    """
    receiving = delivering = False
    told = told_outcome(output(["ss", "-Hxnp"]))
    group = output(["systemctl", "show", "-P", "ControlGroup", POSTFIX]).strip()
    for pid in _processes(group) if group else ():
        if int(pid) in managers:
            continue
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                target = os.readlink(link)
                receiving = receiving or target.startswith((f"{SPOOL}/incoming/", f"{SPOOL}/maildrop/"))
                delivering = delivering or (int(pid) not in told and target.startswith(f"{SPOOL}/active/"))
    return receiving, delivering
