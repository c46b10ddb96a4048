# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What certbot is asked for, when, and what it means by what it says. Pure: no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from ansible_collections.mailwright.server.plugins.module_utils.certificate.pair import Pair

HOOK = "/usr/local/lib/mailwright/deploy-certificate"
WEBROOT = "/var/lib/mailwright/acme"
CREDENTIALS = "/etc/mailwright/acme/rfc2136.ini"
AUTHENTICATORS = {"http-01": "webroot", "dns-01": "dns-rfc2136"}
# What certbot prints for each name that the ACME server could not verify; the kinds are those of RFC 8555 section 6.7.
_PROBLEM = re.compile(r"^\s*(?:Domain|Identifier): (\S+)\s+Type:\s+(\S+)\s+Detail: (.+?)\s*$", re.MULTILINE)
_ADVICE = {
    "connection": "port 80 must lead to this host from everywhere, by every address of the name",
    "dns": "the name must exist and lead to this host",
    "unauthorized": "the name must lead to this host, or its _acme-challenge record be visible to everybody",
    "rateLimited": "wait as long as it says; until then each try counts again",
}
_TAIL_LINES = 3


@dataclass(frozen=True)
class Order:
    """A certificate to be had: `names` with the host's first, which names certbot's lineage too; the rest as in the
    model. `propagation` is how long DNS servers may take to show a record, in seconds."""

    names: tuple[str, ...]
    directory: str
    email: str
    challenge: str
    key_type: str
    propagation: int


def parse_renewal(text: str) -> dict[str, str]:
    """Read the settings with which certbot renews a certificate, /etc/letsencrypt/renewal/NAME.conf."""
    lines = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip() for key, _equals, value in lines}


def reasons(order: Order, renewal: Mapping[str, str], pair: Pair | None, now: datetime) -> list[str]:
    """Say why a certificate must be asked for; nothing when certbot's own, `pair`, and its settings are as wanted.

    Renewal in time is not among them: certbot's timer does that by itself.
    """
    if pair is None:
        return ["there is none yet"]
    found = []
    if pair.not_after <= now:
        found.append(f"it expired on {pair.not_after:%Y-%m-%d}")
    if set(pair.names) != set(order.names):
        found.append(f"names: {', '.join(pair.names)}")
    wanted = {
        "server": order.directory,
        "authenticator": AUTHENTICATORS[order.challenge],
        "key_type": order.key_type,
        "reuse_key": "True",
        "renew_hook": HOOK,
    }
    found += [f"{key}: {renewal.get(key, 'not set')}" for key, value in wanted.items() if renewal.get(key) != value]
    return found


def key_changes(order: Order, renewal: Mapping[str, str], pair: Pair | None) -> bool:
    """Whether the certificate's key cannot be kept, as another kind of key is wanted."""
    return pair is not None and renewal.get("key_type") != order.key_type


def certbot_command(order: Order, *, new_key: bool) -> list[str]:
    """Certbot's arguments; it remembers them for the renewals (certbot(1)).

    The key is kept on renewal, so that a published TLSA record stays true.
    """
    command = [
        "certbot", "certonly", "--non-interactive", "--agree-tos", "--no-eff-email", "--email", order.email,
        "--server", order.directory, "--cert-name", order.names[0], "--renew-with-new-domains", "--force-renewal",
        "--reuse-key", "--key-type", order.key_type, "--deploy-hook", HOOK,
    ]  # fmt: skip
    if order.key_type == "rsa":
        command += ["--rsa-key-size", "2048"]
    else:
        command += ["--elliptic-curve", "secp256r1"]
    if new_key:
        command.append("--new-key")
    if order.challenge == "http-01":
        command += ["--webroot", "--webroot-path", WEBROOT]
    else:
        command += [
            "--dns-rfc2136", "--dns-rfc2136-credentials", CREDENTIALS,
            "--dns-rfc2136-propagation-seconds", str(order.propagation),
        ]  # fmt: skip
    for name in order.names:
        command += ["--domain", name]
    return command


def explain(output: str) -> str:
    """What went wrong, in one line, from what certbot printed: each name with the ACME server's words, and advice."""
    problems = _PROBLEM.findall(output)
    if problems:
        parts = [f"{name}: {detail} ({kind})" for name, kind, detail in dict.fromkeys(problems)]
        kinds = dict.fromkeys(kind for _name, kind, _detail in problems)
        return "; ".join(parts + [_ADVICE[kind] for kind in kinds if kind in _ADVICE])
    noise = ("Saving debug log", "Ask for help", "See the logfile", "- - -")
    said = [line.strip() for line in output.splitlines() if line.strip() and not line.startswith(noise)]
    return " ".join(said[-_TAIL_LINES:]) or "certbot did not say why"
