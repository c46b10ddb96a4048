# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Zones of their own for tests, on ns1's two name servers: Knot (port 53) and PowerDNS (port 5300, API on 8081)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dns.message
import dns.query
import requests
from connection import Lab, wait_until

PDNS_PORT = 5300
APEX = "@ 3600 SOA ns1.lab.test. hostmaster.lab.test. 1 3600 600 86400 300\n@ 3600 NS ns1.lab.test.\n"


class Knot:
    """Zones that change by dynamic update with the lab's TSIG key, signed like all of the lab's."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.settings: dict[str, Any] = {
            "type": "rfc2136", "server": lab.address("ns1"), "key_name": "lab.", "key_secret": lab.env["LAB_TSIG"],
        }  # fmt: skip
        self.server = lab.address("ns1")

    def add(self, zones: Mapping[str, str]) -> None:
        """Serve zones (without final dot) with these master-file lines beside SOA and NS."""
        lines = []
        for zone, text in zones.items():
            lines += [f"cat > /var/lib/knot/zones/{zone}.zone <<'END'", f"$ORIGIN {zone}.\n{APEX}{text}END",
                      f"printf -- 'zone:\\n  - domain: {zone}\\n' > /etc/knot/zones.d/{zone}.conf"]  # fmt: skip
        lines += ["chown knot: /var/lib/knot/zones/*", "knotc reload >/dev/null"]
        self.lab.ssh("ns1", "mkdir -p /etc/knot/zones.d && sh -e", data="\n".join(lines))
        for zone in zones:
            wait_until(lambda zone=zone: self._served(zone), 60, f"knot serves {zone}")  # type: ignore[misc]

    def remove(self, zones: Sequence[str]) -> None:
        files = " ".join(f"/etc/knot/zones.d/{zone}.conf /var/lib/knot/zones/{zone}.zone" for zone in zones)
        lines = [
            f"rm -f {files}",
            "knotc reload >/dev/null",
            f"knotc -f zone-purge +orphan {' '.join(zones)} >/dev/null",
        ]
        self.lab.ssh("ns1", "sh", data="\n".join(lines))

    def _served(self, zone: str) -> bool:
        return bool(dns.query.udp(dns.message.make_query(zone, "SOA"), self.server, 5).answer)


class PowerDns:
    """Zones that change by the HTTP API."""

    def __init__(self, lab: Lab) -> None:
        self.settings: dict[str, Any] = {
            "type": "powerdns", "url": f"http://{lab.address('ns1')}:8081", "key": lab.env["LAB_PDNS_KEY"],
        }  # fmt: skip
        self.server = f"{lab.address('ns1')}:{PDNS_PORT}"
        self._url = f"{self.settings['url']}/api/v1/servers/localhost/zones"
        self._session = requests.Session()
        self._session.headers["X-API-Key"] = self.settings["key"]

    def add(self, zones: Mapping[str, str]) -> None:
        """Serve zones (without final dot) with these master-file lines beside SOA and NS."""
        for zone, text in zones.items():
            body = {"name": f"{zone}.", "kind": "Native", "zone": f"$ORIGIN {zone}.\n{APEX}{text}"}
            answer = self._session.post(self._url, json=body, timeout=30)
            assert answer.status_code == 201, answer.text

    def remove(self, zones: Sequence[str]) -> None:
        for zone in zones:
            self._session.delete(f"{self._url}/{zone}.", timeout=30)
