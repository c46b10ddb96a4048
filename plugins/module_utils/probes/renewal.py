# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether certificates by ACME renew themselves: certbot's timer, its last run, and whether its result is in use."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ansible_collections.mailwright.server.plugins.module_utils.certificate.deploy import LINEAGES, Settings, pending
from ansible_collections.mailwright.server.plugins.module_utils.certificate.pair import LIBRARY_ERROR
from ansible_collections.mailwright.server.plugins.module_utils.probes.result import Result, Status, worst
from ansible_collections.mailwright.server.plugins.module_utils.probes.runner import output
from ansible_collections.mailwright.server.plugins.module_utils.probes.services import parse_units

TIMER, SERVICE = "certbot.timer", "certbot.service"
PROPERTIES = "Id,LoadState,ActiveState,UnitFileState,Result,LastTriggerUSec,ExecMainExitTimestamp"


def evaluate(units: Mapping[str, Mapping[str, str]], waiting: bool | None) -> Result:
    """Judge the units' properties (systemctl(1)); `waiting`: certbot has a certificate that is not in use (None: it
    has none at all)."""
    timer, service = units.get(TIMER, {}), units.get(SERVICE, {})
    findings: list[tuple[Status, str]] = []
    active = timer.get("ActiveState") == "active"
    if timer.get("LoadState") != "loaded":
        findings.append(("fail", "certbot is not installed"))
    elif not active:
        findings.append(("fail", f"{TIMER} is {timer.get('ActiveState')}: nothing renews the certificate"))
    elif timer.get("UnitFileState") != "enabled":
        findings.append(("warn", f"{TIMER} is {timer.get('UnitFileState')}: not started at boot"))
    if waiting is None:
        findings.append(("warn", "certbot has no certificate: the next apply asks for one"))
    elif waiting:
        text = "certbot's newest certificate is not in use: journalctl -t deploy-certificate says why"
        findings.append(("fail", text))
    last = service.get("ExecMainExitTimestamp", "")
    if service.get("Result") not in ("success", "", None):
        findings.append(("warn", f"the last run failed ({last}): /var/log/letsencrypt/letsencrypt.log says why"))
    lines = [text for _status, text in findings] or [f"timer active, last run {last or 'none yet'}"]
    data = {"timer": timer.get("ActiveState", ""), "last_run": last, "last_result": service.get("Result", "")}
    status = worst(status for status, _text in findings) if findings else "ok"
    return Result("renewal", "certificates", status, lines[0], tuple(lines[1:]), data=data)


def probe(hostname: str) -> list[Result]:
    """Ask systemd, and compare certbot's newest certificate with the live one."""
    units = parse_units(output(["systemctl", "show", f"--property={PROPERTIES}", TIMER, SERVICE]))
    if LIBRARY_ERROR:
        return [Result("renewal", "certificates", "fail", "python3-cryptography is not installed on the host")]
    settings = Settings(hostname, (hostname,), "/etc/mailwright/tls")
    try:
        waiting: bool | None = pending(settings, os.path.join(LINEAGES, hostname))
    except FileNotFoundError:
        waiting = None
    return [evaluate(units, waiting)]
