# Managed by mailwright: changes are overwritten.
"""Delivery reports that come back after the other server had accepted a message. Postfix hands them over by LMTP."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable
from typing import Any

from aiosmtpd.lmtp import LMTP
from ansible_collections.mailwright.server.plugins.module_utils.sending import dsn

SOCKET = "/run/mailwright-dispatch/lmtp.sock"
# What Postfix's alias map makes of our envelope senders.
_RECIPIENT = re.compile(r"([a-z2-7]{26})@bounces\.mailwright\.invalid")

Record = Callable[[str, dsn.Report], Awaitable[None]]
log = logging.getLogger(__name__)


class Handler:
    """Takes reports to our own envelope senders, and drops what is no report: somebody's absence reply."""

    def __init__(self, hostname: str, record: Record) -> None:
        self.hostname, self.record = hostname, record

    # aiosmtpd finds its hooks by these names
    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any) -> str:  # noqa: N802
        if not _RECIPIENT.fullmatch(address):
            return "550 5.1.1 No such address"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        report = dsn.parse(envelope.content)
        # what this host itself gave up is in its log, with more about it
        if report is None or report.reporter == self.hostname:
            return "250 2.0.0 OK"
        try:
            for address in envelope.rcpt_tos:
                await self.record(address.partition("@")[0], report)
        except Exception:
            log.exception("a report could not be recorded; Postfix keeps it")
            return "451 4.3.0 Try again later"
        return "250 2.0.0 OK"


async def listen(hostname: str, record: Record, limit: int) -> asyncio.Server:
    """Open the socket. Any local user may connect: a report counts only with a token that nobody can guess."""
    server = await asyncio.get_running_loop().create_unix_server(
        lambda: LMTP(Handler(hostname, record), hostname=hostname, data_size_limit=limit, enable_SMTPUTF8=True), SOCKET
    )
    os.chmod(SOCKET, 0o666)  # noqa: S103
    return server
