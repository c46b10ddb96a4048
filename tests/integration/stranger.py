# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A client of the server under test. It runs on another host: one JSON request a line in, one answer a line out.

Needs nothing but Python's standard library. It verifies no certificate: it has come to misbehave.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import socket
import ssl
import sys
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from typing import Any

Request = dict[str, Any]
QUIET_SECONDS = 1.5


class Line:
    """One TCP connection, with or without TLS."""

    def __init__(self, request: Request) -> None:
        source = (request["source"], 0) if request.get("source") else None
        address = (request["host"], request["port"])
        self.socket = socket.create_connection(address, request.get("timeout", 60), source_address=source)
        self.rest = b""
        if request.get("tls"):
            self.encrypt()

    def encrypt(self) -> None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.socket = context.wrap_socket(self.socket)
        self.rest = b""

    def line(self) -> bytes:
        while b"\n" not in self.rest:
            got = self.socket.recv(65536)
            if not got:
                raise ConnectionError("closed")
            self.rest += got
        line, _newline, self.rest = self.rest.partition(b"\n")
        return line + b"\n"

    def reply(self) -> str:
        """One SMTP reply, all of its lines."""
        lines = []
        while True:
            lines.append(self.line())
            if lines[-1][3:4] != b"-":
                return b"".join(lines).decode(errors="replace")

    def all(self) -> str:
        """Whatever arrives until nothing does for a while, or the server hangs up."""
        found, self.rest = self.rest, b""
        timeout = self.socket.gettimeout()
        try:
            while True:
                got = self.socket.recv(65536)
                if not got:
                    return (found + b"[closed]").decode(errors="replace")
                found += got
                self.socket.settimeout(QUIET_SECONDS)
        except TimeoutError:
            return found.decode(errors="replace")
        finally:
            self.socket.settimeout(timeout)


def talk(request: Request) -> list[str]:
    """Go through the steps; an answer for each. A step: send (text) and read (reply, all, line, none), or tls."""
    answers: list[str] = []
    try:
        line = Line(request)
    except OSError as error:
        return [f"[no connection: {error}]"]
    try:
        for step in request["steps"]:
            if step.get("tls"):
                line.encrypt()
                answers.append("[tls]")
                continue
            if "send" in step:
                line.socket.sendall(step["send"].encode("latin-1"))
            read = step.get("read", "reply")
            answers.append(
                line.reply() if read == "reply" else line.all() if read == "all"
                else line.line().decode(errors="replace") if read == "line" else ""
            )  # fmt: skip
    except OSError as error:
        answers.append(f"[closed: {error}]")
    finally:
        line.socket.close()
    return answers


def pairs(request: Request) -> list[tuple[str, str]]:
    """User and password of each guess: ``user`` is one for all or as many as there are passwords."""
    words, user = request["passwords"], request["user"]
    return list(zip(user if isinstance(user, list) else [user] * len(words), words, strict=True))


def imap_guesses(request: Request) -> list[str]:
    """Log in with each password, all in one connection or each in one of its own."""

    def one_connection(guesses: list[tuple[str, str]]) -> list[str]:
        steps = [{"read": "line"}]
        steps += [{"send": f'a LOGIN "{user}" "{word}"\r\n', "read": "line"} for user, word in guesses]
        return talk({**request, "port": 993, "tls": True, "steps": steps})[1:]

    all_guesses = pairs(request)
    groups = [all_guesses] if request["together"] else [[guess] for guess in all_guesses]
    with ThreadPoolExecutor(len(groups)) as pool:
        return [answer for answers in pool.map(one_connection, groups) for answer in answers]


def submission_guesses(request: Request) -> list[str]:
    """AUTH PLAIN on port 465, each password in a connection of its own."""

    def guess(pair: tuple[str, str]) -> str:
        token = base64.b64encode("\0".join(("", *pair)).encode()).decode()
        steps = [{}, {"send": "EHLO stranger.example\r\n"}, {"send": f"AUTH PLAIN {token}\r\n"}]
        return talk({**request, "port": 465, "tls": True, "steps": steps})[-1]

    with ThreadPoolExecutor(len(request["passwords"])) as pool:
        return list(pool.map(guess, pairs(request)))


def webmail_guesses(request: Request) -> list[str]:
    """Fill in the webmail's form with each password as a browser does: its session cookie, its token."""

    def send(method: str, path: str, body: str | None, headers: dict[str, str]) -> tuple[int, str, list[str]]:
        line = Line({**request, "port": 443})
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(request["name"])
        connection.sock = context.wrap_socket(line.socket, server_hostname=request["name"])
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        cookies = [value.partition(";")[0] for key, value in answer.getheaders() if key.lower() == "set-cookie"]
        text = answer.read().decode(errors="replace")
        connection.close()
        return answer.status, text, cookies

    def guess(pair: tuple[str, str]) -> str:
        try:
            _status, page, cookies = send("GET", "/", None, {})
            token = re.search(r'name="_token" value="([^"]*)"', page)
            form = {
                "_token": token[1] if token else "", "_task": "login", "_action": "login", "_timezone": "UTC",
                "_url": "", "_user": pair[0], "_pass": pair[1],
            }  # fmt: skip
            headers = {
                "Content-Type": "application/x-www-form-urlencoded", "Cookie": "; ".join(cookies),
                **request.get("headers", {}),
            }  # fmt: skip
            status, _page, _cookies = send("POST", "/?_task=login", urllib.parse.urlencode(form), headers)
            return str(status)
        except OSError as error:
            return f"[no connection: {error}]"

    with ThreadPoolExecutor(5) as pool:
        return list(pool.map(guess, pairs(request)))


def connects(request: Request) -> list[str]:
    """For each port an empty string, or why no connection opens."""

    def one(port: int) -> str:
        return "".join(talk({**request, "port": port, "steps": []}))

    with ThreadPoolExecutor(len(request["ports"])) as pool:
        return list(pool.map(one, request["ports"]))


ACTIONS = {
    "connects": connects,
    "talk": talk,
    "imap": imap_guesses,
    "submission": submission_guesses,
    "webmail": webmail_guesses,
}


def main() -> None:
    """Answer requests until standard input ends."""
    with contextlib.suppress(BrokenPipeError):
        for text in sys.stdin:
            request = json.loads(text)
            print(json.dumps(ACTIONS[request.pop("action")](request)), flush=True)


if __name__ == "__main__":
    main()
