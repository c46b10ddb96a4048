# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each provider's table of settings, its constructor and its page agree."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers import (
    cloudflare,
    desec,
    digitalocean,
    gandi,
    google,
    hetzner,
    ovh,
    route53,
)

PAGE = (Path(__file__).parents[3] / "docs/how-to/dns-providers.md").read_text()
PROVIDERS = {
    "Cloudflare": (cloudflare, cloudflare.Cloudflare),
    "deSEC": (desec, desec.Desec),
    "DigitalOcean": (digitalocean, digitalocean.DigitalOcean),
    "Gandi": (gandi, gandi.Gandi),
    "Google Cloud DNS": (google, google.Google),
    "Hetzner": (hetzner, hetzner.Hetzner),
    "OVHcloud": (ovh, ovh.Ovh),
    "Amazon Route 53": (route53, route53.Route53),
}


@pytest.mark.parametrize("title", sorted(PROVIDERS))
def test_settings_constructor_and_page_agree(title: str) -> None:
    module: ModuleType
    module, provider = PROVIDERS[title]
    keywords = {
        name: parameter.default is parameter.empty
        for name, parameter in inspect.signature(provider).parameters.items()
        if name != "transport"
    }
    assert {name: setting.required for name, setting in module.SETTINGS.items()} == keywords
    section = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section
    assert set(re.findall(r"^\| `(\w+)` \|", section[1], re.MULTILINE)) == set(keywords)
