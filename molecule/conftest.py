# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The scenario's mail server, for its checks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from ansible_collections.mailwright.server.molecule.resources.server import Server
from connection import Lab


@pytest.fixture(scope="session")
def server() -> Server:
    scenario = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
    variables = yaml.safe_load((scenario / "inventory/mailservers.yml").read_text())["mailservers"]["vars"]
    return Server(Lab.load(), f"mx-{os.environ['MOLECULE_SCENARIO_NAME']}", variables)
