# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The scenario's mail server as the network sees it."""

from __future__ import annotations

import contextlib
import http.client
import imaplib
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.model.spec import FEATURE_OPTIONS
from connection import Lab, message, wait_until


@dataclass(frozen=True)
class Server:
    """The scenario's mail server, reached from outside."""

    lab: Lab
    host: str
    variables: dict[str, Any]

    @property
    def hostname(self) -> str:
        """The name in the certificate, as A-label."""
        return str(self.variables["mail_hostname"]).encode("idna").decode()

    @property
    def address(self) -> str:
        return self.lab.address(self.host)

    def feature(self, name: str) -> bool:
        return bool(self.variables.get("mail_features", {}).get(name, FEATURE_OPTIONS[name]["default"]))

    def trust(self) -> ssl.SSLContext:
        """Trusts the lab's CA where a certificate was given, otherwise the one that the host made for itself."""
        if "mail_tls" in self.variables:
            return self.lab.tls()
        made = self.lab.ssh(self.host, f"cat /etc/mailwright/tls/{self.hostname}/live/fullchain.pem")
        return ssl.create_default_context(cadata=made)

    def tls(self, port: int, context: ssl.SSLContext, name: str | None = None) -> ssl.SSLSocket:
        """A TLS connection to a port, after the port's own STARTTLS where it has one; raises ssl.SSLError."""
        plain = socket.create_connection((self.address, port), 30)
        try:
            for wait_for, then_say in STARTTLS.get(port, ()):
                read_reply(plain, wait_for)
                plain.sendall(then_say)
            if port in STARTTLS:
                read_reply(plain, b"OK" if port == 4190 else b"220 ")
            return context.wrap_socket(plain, server_hostname=name or self.hostname)
        except BaseException:
            plain.close()
            raise

    def get(self, path: str) -> tuple[int, dict[str, str], str]:
        """A page of the webmail: status, headers (lower case), text."""
        connection = http.client.HTTPConnection(self.hostname, timeout=30)
        connection.sock = self.tls(443, self.trust())
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode(errors="replace")
        finally:
            connection.close()

    @contextlib.contextmanager
    def imap(self, user: str, password: str) -> Iterator[imaplib.IMAP4_SSL]:
        context = self.trust()
        context.check_hostname = False  # reached by address; a check of its own looks at the name
        with imaplib.IMAP4_SSL(self.address, 993, ssl_context=context, timeout=30) as connection:
            connection.login(user, password)
            yield connection

    def inject(self, recipient: str) -> EmailMessage:
        """Hand a message to the host's own sendmail, as a program on the host would."""
        mail = message(f"root@{self.hostname}", recipient)
        self.lab.ssh(self.host, f"sendmail -i {recipient}", data=mail.as_string())
        return mail

    def arrived(self, user: str, password: str, mail: EmailMessage, seconds: float = 60) -> bytes:
        """Wait for a message in the inbox; gives it. Raises TimeoutError."""

        def found() -> bytes | None:
            with self.imap(user, password) as box:
                box.select("INBOX", readonly=True)
                numbers = box.search(None, "HEADER", "Subject", f'"{mail["Subject"]}"')[1][0].split()
                # imaplib's types allow None and plain bytes, which a FETCH of a found number does not give
                return box.fetch(numbers[0].decode(), "(BODY.PEEK[])")[1][0][1] if numbers else None  # type: ignore[index, return-value]

        return wait_until(found, seconds, f"{mail['Subject']} in the inbox of {user}")


# What is read, then said, before the TLS handshake; the answer to the last word is read as well.
SMTP = ((b"220 ", b"EHLO client.example\r\n"), (b"250 ", b"STARTTLS\r\n"))
STARTTLS = {25: SMTP, 587: SMTP, 4190: ((b"OK", b"STARTTLS\r\n"),)}


def read_reply(connection: socket.socket, last: bytes) -> bytes:
    """Read until a line begins with `last`; gives all lines. Raises AssertionError when the connection ends before."""
    text = b""
    while not (text.endswith(b"\n") and text.splitlines()[-1].startswith(last)):
        piece = connection.recv(4096)
        assert piece, f"the connection ended after {text!r}, before {last!r}"
        text += piece
    return text
