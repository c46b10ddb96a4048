# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports 993, 995 and 4190: Dovecot's greetings."""

from __future__ import annotations

from collections.abc import Sequence

from ansible_collections.mailwright.server.plugins.module_utils.probes import wire

NAMES = {993: "993 imaps", 995: "995 pop3s", 4190: "4190 sieve"}
# RFC 9051 section 7.1.1, RFC 1939 section 4
GREETINGS = {993: "* OK", 995: "+OK"}


def judge(port: int, lines: Sequence[str]) -> list[str]:
    """What is wrong with a greeting: one line, or for ManageSieve the capabilities (RFC 5804 section 1.7)."""
    if port in GREETINGS:
        wanted = GREETINGS[port]
        return [] if lines[0].startswith(wanted) else [f"greets with {lines[0]!r}, not with {wanted}"]
    if not lines[-1].startswith("OK"):
        return [f"greets with {lines[-1]!r}, not with OK"]
    # Whether it would take a password without TLS cannot be seen from here: Dovecot trusts whoever comes from its own
    # address.
    return [] if '"STARTTLS"' in lines else ["does not offer STARTTLS"]


def probe(port: int, hostname: str, address: str, timeout: float) -> wire.Answer:
    """Talk to one address of a port; `timeout` in seconds."""
    try:
        with wire.connect(address, port, timeout) as stream:
            if port in GREETINGS:
                stream.start_tls(hostname)
            lines = [stream.line()]
            while port == 4190 and not lines[-1].startswith(("OK", "NO", "BYE")):
                lines.append(stream.line())
    except OSError as error:
        return wire.failure(address, error)
    return wire.Answer(address, wire.is_local(address), tuple(judge(port, lines)), lines[-1])
