# Managed by mailwright: changes are overwritten.
"""Delivery reports and complaints that come back after a message was delivered. Postfix hands them over by LMTP."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable
from typing import Any

from aiosmtpd.lmtp import LMTP
from ansible_collections.mailwright.server.plugins.module_utils.sending import arf, dsn

SOCKET = "/run/mailwright-dispatch/lmtp.sock"
# What Postfix's alias map makes of our envelope senders.
_RECIPIENT = re.compile(r"([a-z2-7]{26})@bounces\.mailwright\.invalid")
# …and of the address that providers send complaints to.
COMPLAINTS = "fbl@bounces.mailwright.invalid"

Record = Callable[[str, dsn.Report], Awaitable[None]]
Complain = Callable[[str, arf.Complaint], Awaitable[None]]
log = logging.getLogger(__name__)


class Handler:
    """Takes reports to our own envelope senders, and drops what is no report: somebody's absence reply."""

    def __init__(self, hostname: str, record: Record, complain: Complain) -> None:
        self.hostname, self.record, self.complain = hostname, record, complain

    # aiosmtpd finds its hooks by these names
    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any) -> str:  # noqa: N802
        if address != COMPLAINTS and not _RECIPIENT.fullmatch(address):
            return "550 5.1.1 No such address"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        report, complaint = dsn.parse(envelope.content), arf.parse(envelope.content)
        # what this host itself gave up is in its log, with more about it
        if report is not None and report.reporter == self.hostname:
            report = None
        try:
            for address in envelope.rcpt_tos:
                token = complaint.token if address == COMPLAINTS and complaint else address.partition("@")[0]
                if complaint is not None and token is not None:
                    await self.complain(token, complaint)
                elif report is not None and address != COMPLAINTS:
                    await self.record(token or "", report)
        except Exception:
            log.exception("a report could not be recorded; Postfix keeps it")
            return "451 4.3.0 Try again later"
        return "250 2.0.0 OK"


async def listen(hostname: str, record: Record, complain: Complain, limit: int) -> asyncio.Server:
    """Open the socket. Any local user may connect: a report counts only with a token that nobody can guess."""
    server = await asyncio.get_running_loop().create_unix_server(
        lambda: LMTP(
            Handler(hostname, record, complain), hostname=hostname, data_size_limit=limit, enable_SMTPUTF8=True
        ),
        SOCKET,
    )
    os.chmod(SOCKET, 0o666)  # noqa: S103
    return server
