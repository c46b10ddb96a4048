# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports 25, 465 and 587: the greeting, TLS, and that nobody is asked for a password in clear text."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.mailwright.server.plugins.module_utils.probes import wire

NAMES = {25: "25 smtp", 465: "465 submissions", 587: "587 submission"}


@dataclass(frozen=True)
class Conversation:
    """What a server said: greeting, then EHLO keywords before and after TLS (None: not asked), TLS version."""

    greeting: str
    before: tuple[str, ...] | None = None
    tls: str | None = None
    after: tuple[str, ...] | None = None


def judge(hostname: str, said: Conversation) -> list[str]:
    """What is wrong with a conversation (RFC 5321 sections 3.1 and 4.2, RFC 8314 section 3.3, RFC 4954 section 4)."""
    words = said.greeting[4:].split()
    if said.greeting[:3] != "220" or said.greeting[3:4] not in ("-", " "):
        return [f"greets with {said.greeting!r}, not with 220"]
    problems = []
    if not words or words[0].lower() != hostname:
        problems.append(f"greets as {words[0] if words else ''!r}, not as {hostname}")
    if said.before is not None:
        if "STARTTLS" not in said.before:
            problems.append("does not offer STARTTLS")
        if "AUTH" in said.before:
            problems.append("offers to log in without TLS")
    if said.after is not None:
        if not said.tls:
            problems.append("no TLS")
        if "AUTH" not in said.after:
            problems.append("does not offer to log in")
    return problems


def probe(port: int, hostname: str, address: str, timeout: float) -> wire.Answer:
    """Talk to one address of a port; `timeout` in seconds."""
    try:
        said = _converse(port, hostname, address, timeout)
    except OSError as error:
        return wire.failure(address, error)
    problems = tuple(judge(hostname, said))
    return wire.Answer(address, wire.is_local(address), problems, f"{said.greeting} {said.tls or ''}".strip())


def _converse(port: int, hostname: str, address: str, timeout: float) -> Conversation:
    with wire.connect(address, port, timeout) as stream:
        if port == 465:
            stream.start_tls(hostname)
        greeting = stream.line()
        # From outside, postscreen sends the first line at once and the rest seconds later; who speaks first is a bot.
        if not greeting.startswith("220 "):
            return Conversation(greeting)
        before = None
        if port != 465:
            before = _keywords(stream, hostname)
            stream.send("STARTTLS\r\n")
            if not stream.line().startswith("220"):
                return Conversation(greeting, before)
            stream.start_tls(hostname)
        after = _keywords(stream, hostname)
        stream.send("QUIT\r\n")
        return Conversation(greeting, before, stream.tls, None if port == 25 else after)


def _keywords(stream: wire.Stream, hostname: str) -> tuple[str, ...]:
    stream.send(f"EHLO {hostname}\r\n")
    words = []
    while True:
        line = stream.line()
        words.append(line[4:].partition(" ")[0].upper())
        if line[3:4] != "-":
            return tuple(words)
