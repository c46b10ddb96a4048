# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""checkdmarc, as it comes from the Python package index, finds nothing to complain about in the published domains.

It asks peer's validating resolver, and runs where /etc/resolv.conf names that one, as it fetches policies by name.
"""

from __future__ import annotations

import json
import os
import smtplib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from connection import CHECKOUT, Lab

PROGRAM = CHECKOUT / ".venv/bin/checkdmarc"


def check(resolver: str, directory: Path, ca: str, *arguments: str) -> Any:
    """Run checkdmarc in a mount namespace; its report."""
    resolv = directory / "resolv.conf"
    resolv.write_text(f"nameserver {resolver}\n")
    report = directory / "report.json"
    report.unlink(missing_ok=True)
    script = 'mount --bind "$1" /etc/resolv.conf; shift; exec "$@"'
    subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh", str(resolv),
         str(PROGRAM), "--check-mx-tls", "--nameserver", resolver, "--timeout", "10", "--output", str(report), "--",
         *arguments],
        check=True, timeout=300, stdin=subprocess.DEVNULL, cwd=directory,
        env={**os.environ, "REQUESTS_CA_BUNDLE": ca, "SSL_CERT_FILE": ca},
    )  # fmt: skip
    return json.loads(report.read_text())


def complaints(found: Any, path: str = "") -> Iterator[str]:
    """Every error and warning in a report, with where it stands."""
    if isinstance(found, dict):
        for key, value in found.items():
            where = f"{path}.{key}"
            if (key in ("error", "warnings", "errors") and value) or (key == "valid" and value is not True):
                yield f"{where}: {value}"
            else:
                yield from complaints(value, where)
    elif isinstance(found, list):
        for index, value in enumerate(found):
            yield from complaints(value, f"{path}[{index}]")


@pytest.fixture(scope="module", autouse=True)
def known(lab: Lab) -> None:
    """postscreen lets an address wait that it has not seen, longer than checkdmarc waits."""
    with smtplib.SMTP(lab.address("mx1"), 25, "client.example", timeout=30) as connection:
        assert connection.noop()[0] == 250


@pytest.mark.parametrize("domain", ["acme.test", "globex.test"])
def test_checkdmarc_has_no_complaint(lab: Lab, lab_resolver: str, tmp_path: Path, domain: str) -> None:
    lab.ssh("peer", "unbound-control flush_zone .", check=False)
    report = check(lab_resolver, tmp_path, lab.env["LAB_CA"], domain)
    assert report["domain"] == domain
    # a domain without a logo has no BIMI record, which checkdmarc calls an error
    assert report.pop("bimi")["record"] is None
    assert list(complaints(report)) == []
    assert report["dnssec"] is True
    assert report["mx"]["hosts"][0]["hostname"] == "mx1.acme.test"
