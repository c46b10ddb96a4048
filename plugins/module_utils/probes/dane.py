# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether other servers can verify the certificate's key by TLSA records, and how far a change of the key is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.mailwright.server.plugins.module_utils.certificate.deploy import live_pair
from ansible_collections.mailwright.server.plugins.module_utils.certificate.pair import LIBRARY_ERROR
from ansible_collections.mailwright.server.plugins.module_utils.certificate.rollover import NOTHING, Key, State, parse
from ansible_collections.mailwright.server.plugins.module_utils.certificate.store import CertificateStore
from ansible_collections.mailwright.server.plugins.module_utils.dns import tlsa
from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import RRset, zone_text
from ansible_collections.mailwright.server.plugins.module_utils.dns.verify import LIBRARY_ERROR as DNS_ERROR
from ansible_collections.mailwright.server.plugins.module_utils.dns.verify import NoAnswerError, Server
from ansible_collections.mailwright.server.plugins.module_utils.probes.result import Result, Status, worst

STORE = "/etc/mailwright/tls"
STATE_FILE = "dane.json"
RESOLVER = Server("127.0.0.1")
# Digits of a digest that are shown in a line.
SHOWN = 12


@dataclass(frozen=True)
class Reply:
    """What the resolver says: digests, and whether they are secure; or why it cannot say."""

    digests: frozenset[str] = frozenset()
    secure: bool = False
    error: str | None = None


def evaluate(hostname: str, live: str | None, state: State, reply: Reply) -> Result:
    """Judge the records of a host that wants some; `live` is the digest of the certificate in use."""
    wanted = [] if state.withdrawn else sorted(state.keys)
    missing = [digest for digest in wanted if digest not in reply.digests]
    findings: list[tuple[Status, str]] = []
    if reply.error is not None:
        findings.append(("fail", f"{tlsa.tlsa_name(hostname)} TLSA: cannot be asked for: {reply.error}"))
    elif reply.digests and live not in reply.digests:
        text = "servers that check DANE send no mail: no TLSA record has the key in use"
        findings.append(("fail", f"{text}, {str(live)[:SHOWN]}"))
    elif not wanted:
        findings.append(("warn", "there is no TLSA record: does the zone validate? The next apply looks again"))
    elif not reply.digests:
        findings.append(("warn", "no TLSA record is published yet"))
    elif missing:
        findings.append(("warn", f"not published: {', '.join(digest[:SHOWN] for digest in missing)}"))
    if reply.digests and not reply.secure:
        findings.append(("warn", "the TLSA records are not secure (no AD): nobody believes them"))
    keys = [_line(digest, key) for digest, key in sorted(state.keys.items(), key=lambda item: item[1].state)]
    status = worst(status for status, _text in findings) if findings else "ok"
    lines = [*(text for _status, text in findings), *keys]
    if missing and not reply.error:
        values = tuple(f"3 1 1 {digest}" for digest in wanted)
        records = zone_text([RRset(tlsa.tlsa_name(hostname), "TLSA", 3600, values)])
        lines += ["publish:", *records.splitlines()]
    data = {"keys": {digest: key.state for digest, key in state.keys.items()}, "live": live, "secure": reply.secure}
    return Result("TLSA", "dns", status, lines[0], tuple(lines[1:]), data=data)


_NEXT: Mapping[str, str] = {
    "generated": "its certificate waits; next: seen everywhere",
    "published": "its certificate waits; next: installed by rotate_tls, after twice the TTL",
    "propagated": "its certificate waits; next: installed by rotate_tls",
    "active": "in use",
    "retiring": "not in use any more; next: removed by rotate_tls",
}


def _line(digest: str, key: Key) -> str:
    return f"3 1 1 {digest[:SHOWN]}: {key.state} since {key.since:%Y-%m-%d %H:%M} UTC, {_NEXT[key.state]}"


def probe(hostname: str) -> list[Result]:
    """Read what the host remembers, and ask its resolver."""
    if LIBRARY_ERROR or DNS_ERROR:
        return [Result("TLSA", "dns", "fail", "python3-dnspython or python3-cryptography is not installed on the host")]
    store = CertificateStore(STORE, hostname)
    try:
        state = parse(Path(store.directory, STATE_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        state = NOTHING
    live = live_pair(store)
    try:
        reply = Reply(*tlsa.ask(hostname, RESOLVER))
    except NoAnswerError as error:
        reply = Reply(error=str(error))
    return [evaluate(hostname, live.spki if live else None, state, reply)]
