# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from ansible_collections.mailwright.server.plugins.module_utils.packages.plan import (
    interrupted,
    missing,
    simulated,
    states,
)

SIMULATED = """\
Reading package lists...
The following NEW packages will be installed:
  postfix ssl-cert
Remv exim4-daemon-light [4.98.2-1] []
Inst ssl-cert (1.1.3 Debian:13.2/stable [all])
Inst libssl3t64 [3.5.1-1] (3.5.4-1~deb13u1 Debian-Security:13/stable-security [amd64]) []
Inst postfix (3.10.13-0+deb13u1 Debian:13.2/stable [amd64])
Conf ssl-cert (1.1.3 Debian:13.2/stable [all])
"""


def test_a_simulation_tells_new_upgraded_and_removed_packages() -> None:
    assert simulated(SIMULATED) == [
        ("exim4-daemon-light", "4.98.2-1", ""),
        ("libssl3t64", "3.5.1-1", "3.5.4-1~deb13u1"),
        ("postfix", "", "3.10.13-0+deb13u1"),
        ("ssl-cert", "", "1.1.3"),
    ]


def test_only_fully_installed_packages_count() -> None:
    found = states("postfix installed\ndovecot-core half-configured\nnginx config-files\n")
    assert missing(["postfix", "dovecot-core", "nginx", "redis-server"], found) == [
        "dovecot-core",
        "nginx",
        "redis-server",
    ]
    assert interrupted(found) == ["dovecot-core"]
