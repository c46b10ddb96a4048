# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The units that the roles manage, the firewall's table, the jails and the virus signatures."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from ansible_collections.mailwright.server.plugins.module_utils.probes.result import Result, Status, duration
from ansible_collections.mailwright.server.plugins.module_utils.probes.runner import output, reason

# Every unit a role keeps running, and the feature it belongs to (None: always).
UNITS: tuple[tuple[str, str | None], ...] = (
    ("postfix.service", None),
    ("dovecot.service", None),
    ("rspamd.service", None),
    ("redis-server.service", None),
    ("postgresql@17-main.service", None),
    ("unbound.service", None),
    ("nginx.service", None),
    ("nftables.service", None),
    ("fail2ban.service", None),
    ("systemd-journald.service", None),
    ("logrotate.timer", None),
    ("php8.4-fpm.service", "webmail"),
    ("phpsessionclean.timer", "webmail"),
    ("roundcube-cleandb.timer", "webmail"),
    ("roundcube-gc.timer", "webmail"),
    ("clamav-daemon.service", "clamav"),
    ("clamav-freshclam.service", "clamav"),
    ("postsrsd.service", None),
    ("postfix-mta-sts-resolver.service", "mta_sts_outbound"),
    ("mailwright-api.socket", "api"),
    ("mailwright-api.service", "api"),
    ("mailwright-dispatch.service", "api"),
    ("mailwright-webhooks.service", "api"),
    ("mailwright-domains.path", "api"),
    ("mailwright-index.timer", "fulltext"),
    ("mailwright-exporter.service", "metrics"),
    ("prometheus-node-exporter.service", "metrics"),
    ("prometheus-postgres-exporter.service", "metrics"),
    ("prometheus.service", "prometheus"),
    ("mailwright-reports.timer", None),
    ("mailwright-dmarc-reports.timer", "dmarc_reports"),
    ("mailwright-tls-results.socket", "tls_reports"),
    ("mailwright-tls-results.service", "tls_reports"),
    ("mailwright-tls-reports.timer", "tls_reports"),
    ("mailwright-blocklists.timer", "blocklists"),
)
JAILS: tuple[tuple[str, str | None], ...] = (
    ("sshd", None),
    ("postfix", None),
    ("dovecot", None),
    ("roundcube-auth", "webmail"),
)
PROPERTIES = "Id,LoadState,ActiveState,SubState,UnitFileState,Result,NRestarts"
# postgresql@17-main is enabled by a generator, journald is started by its sockets.
STARTS_AT_BOOT = ("enabled", "enabled-runtime", "static", "generated", "alias", "indirect")
CLAMAV_DIRECTORY = "/var/lib/clamav"
CLAMD_SOCKET = "/run/clamav/clamd.ctl"
# The official signatures change daily; a list of one's own may rest for long.
OFFICIAL = ("daily.cvd", "daily.cld")
OFFICIAL_WARN, OFFICIAL_FAIL, OWN_WARN = 3 * 86400, 14 * 86400, 60 * 86400


def wanted(table: tuple[tuple[str, str | None], ...], features: Mapping[str, bool]) -> list[str]:
    """The names that the enabled features ask for."""
    return [name for name, feature in table if feature is None or features.get(feature, False)]


def parse_units(text: str) -> dict[str, dict[str, str]]:
    """Read what `systemctl show` prints: a block of NAME=VALUE for each unit, by its Id."""
    blocks = (dict(line.partition("=")[::2] for line in block.splitlines()) for block in text.split("\n\n"))
    return {block["Id"]: block for block in blocks if "Id" in block}


def evaluate_unit(unit: str, state: Mapping[str, str]) -> Result:
    """Judge one unit by its properties (systemctl(1))."""
    name = unit.removesuffix(".service")
    active, loaded = state.get("ActiveState", ""), state.get("LoadState", "")
    words = f"{active} ({state.get('SubState', '')})"
    status: Status = "ok"
    if loaded != "loaded":
        status, words = "fail", {"not-found": "not installed", "masked": "masked"}.get(loaded, f"not loaded: {loaded}")
    elif active != "active":
        status = "fail"
        if state.get("Result") not in ("success", "", None):
            words += f", result {state['Result']}"
    elif state.get("UnitFileState") not in STARTS_AT_BOOT:
        status, words = "warn", f"runs, but is {state.get('UnitFileState')}: not started at boot"
    data = {"active": active, "enabled": state.get("UnitFileState", ""), "restarts": state.get("NRestarts", "")}
    return Result(name, "services", status, words, data=data)


def evaluate_failed(listing: str, managed: list[str]) -> list[Result]:
    """Other units that failed, as `systemctl list-units --failed --plain --no-legend` prints them."""
    others = [line.split()[0] for line in listing.splitlines() if line.split() and line.split()[0] not in managed]
    return [Result(unit, "services", "warn", "failed, not a unit of ours") for unit in others]


def probe_units(features: Mapping[str, bool]) -> list[Result]:
    """Ask systemd for the units."""
    units = wanted(UNITS, features)
    states = parse_units(output(["systemctl", "show", f"--property={PROPERTIES}", *units]))
    failed = output(["systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager"])
    return [evaluate_unit(unit, states.get(unit, {})) for unit in units] + evaluate_failed(failed, units)


def probe_firewall() -> list[Result]:
    """Whether the kernel holds our table: the unit says only that it was loaded once."""
    listing = output(["nft", "list", "tables"]).splitlines()
    there = "table inet mailwright" in listing
    words = "table inet mailwright is loaded" if there else "table inet mailwright is not loaded: every port is open"
    return [Result("firewall", "services", "ok" if there else "fail", words)]


def evaluate_jails(text: str, features: Mapping[str, bool]) -> Result:
    """Judge what `fail2ban-client status` prints."""
    line = next((line for line in text.splitlines() if "Jail list:" in line), ":")
    active = [jail.strip() for jail in line.partition(":")[2].split(",") if jail.strip()]
    missing = [jail for jail in wanted(JAILS, features) if jail not in active]
    words = f"not active: {', '.join(missing)}" if missing else f"active: {', '.join(active)}"
    return Result("jails", "services", "fail" if missing else "ok", words, data={"active": active, "missing": missing})


def probe_jails(features: Mapping[str, bool]) -> list[Result]:
    """Ask fail2ban for its jails."""
    return [evaluate_jails(output(["fail2ban-client", "status"]), features)]


def evaluate_signatures(pong: str, files: Mapping[str, float], now: float) -> Result:
    """Judge clamd's answer to PING and its databases (name and time of last change, seconds since 1970)."""
    name = "signatures"
    databases = {file: when for file, when in files.items() if not file.endswith((".dat", ".sha", ".sign"))}
    if not databases:
        return Result(name, "services", "fail", "ClamAV has no signatures: mail is deferred until it has")
    if pong != "PONG":
        return Result(name, "services", "fail", f"clamd does not answer: {pong or 'nothing'}")
    official = [when for file, when in databases.items() if file in OFFICIAL]
    age = max(0.0, now - max(official or databases.values()))
    status: Status = "ok"
    if official:
        status = "fail" if age >= OFFICIAL_FAIL else "warn" if age >= OFFICIAL_WARN else "ok"
    elif age >= OWN_WARN:
        status = "warn"
    words = f"{duration(age)} old" + ("" if official else " (no official ones)")
    return Result(name, "services", status, words, data={"age_seconds": round(age), "databases": sorted(databases)})


def probe_signatures(timeout: float) -> list[Result]:
    """Ping clamd and look at its databases; `timeout` in seconds."""
    try:
        with os.scandir(CLAMAV_DIRECTORY) as entries:
            files = {entry.name: entry.stat().st_mtime for entry in entries if entry.is_file()}
    except FileNotFoundError:
        files = {}
    return [evaluate_signatures(_ping(timeout), files, time.time())]


def _ping(timeout: float) -> str:
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout)
            connection.connect(CLAMD_SOCKET)
            connection.sendall(b"zPING\0")
            return connection.recv(64).rstrip(b"\0").decode("ascii", "replace")
    except OSError as error:
        return f"{Path(CLAMD_SOCKET)}: {reason(error)}"
