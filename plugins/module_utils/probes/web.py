# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports 80 and 443: the redirect, and the webmail's log-in page."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.mailwright.server.plugins.module_utils.probes import wire

NAMES = {80: "80 http", 443: "443 https"}
# The form that Roundcube's log-in page holds; an error page of PHP or nginx does not.
LOGIN_FORM = 'name="_pass"'


@dataclass(frozen=True)
class Reply:
    """A status code (0: no HTTP), headers by lower-case name, and the body."""

    code: int
    headers: dict[str, str]
    body: str


def parse(text: str) -> Reply:
    """Read a whole HTTP/1 answer."""
    head, _blank, body = text.partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    words = first.split()
    code = int(words[1]) if len(words) > 1 and words[0].startswith("HTTP/") and words[1].isdigit() else 0
    headers = {name.strip().lower(): value.strip() for name, _colon, value in (line.partition(":") for line in lines)}
    return Reply(code, headers, body)


def judge(port: int, hostname: str, webmail: bool, reply: Reply) -> list[str]:
    """What is wrong with the answer to GET /."""
    if not reply.code:
        return ["does not speak HTTP"]
    if port == 80:
        wanted = f"https://{hostname}/"
        location = reply.headers.get("location", "")
        return [] if reply.code == 301 and location == wanted else [f"{reply.code} {location}, not 301 {wanted}"]
    problems = []
    if "strict-transport-security" not in reply.headers:
        problems.append("no Strict-Transport-Security header")
    if webmail and reply.code != 200:
        problems.append(f"the webmail answers {reply.code}")
    elif webmail and LOGIN_FORM not in reply.body:
        problems.append("the webmail shows no log-in form")
    elif reply.code >= 500:
        problems.append(f"answers {reply.code}")
    return problems


def probe(port: int, hostname: str, webmail: bool, address: str, timeout: float) -> wire.Answer:
    """Ask one address of a port for its first page; `timeout` in seconds."""
    try:
        with wire.connect(address, port, timeout) as stream:
            if port == 443:
                stream.start_tls(hostname)
            stream.send(f"GET / HTTP/1.0\r\nHost: {hostname}\r\nUser-Agent: mailwright-status\r\n\r\n")
            reply = parse(stream.rest())
    except OSError as error:
        return wire.failure(address, error)
    problems = tuple(judge(port, hostname, webmail, reply))
    return wire.Answer(address, wire.is_local(address), problems, f"HTTP {reply.code}")
