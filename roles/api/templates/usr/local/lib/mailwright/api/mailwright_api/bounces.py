# Managed by mailwright: changes are overwritten.
"""What Postfix hands over by LMTP: delivery reports and complaints that come back after a message was delivered, and
mail to inbound routes."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable
from typing import Any

from aiosmtpd.lmtp import LMTP
from ansible_collections.mailwright.server.plugins.module_utils.sending import arf, dsn, inbound

SOCKET = "/run/mailwright-dispatch/lmtp.sock"
# What Postfix's alias map makes of our envelope senders.
_RECIPIENT = re.compile(r"([a-z2-7]{26})@bounces\.mailwright\.invalid")
# …and of the address that providers send complaints to.
COMPLAINTS = "fbl@bounces.mailwright.invalid"

Record = Callable[[str, dsn.Report], Awaitable[None]]
Complain = Callable[[str, arf.Complaint], Awaitable[None]]
# Sender, route, local part, content; gives whether there is such a route.
Keep = Callable[[str, str, str, bytes], Awaitable[bool]]
log = logging.getLogger(__name__)


class Handler:
    """Takes mail to inbound routes and reports to our own envelope senders; drops there what is no report, such as
    somebody's absence reply."""

    def __init__(self, hostname: str, record: Record, complain: Complain, keep: Keep) -> None:
        self.hostname, self.record, self.complain, self.keep = hostname, record, complain, keep

    # aiosmtpd finds its hooks by these names
    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any) -> str:  # noqa: N802
        if address != COMPLAINTS and not _RECIPIENT.fullmatch(address) and inbound.route_of(address) is None:
            return "550 5.1.1 No such address"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        # main.cf: one recipient at a time (lmtp_destination_recipient_limit)
        route = inbound.route_of(envelope.rcpt_tos[0])
        if route is not None:
            return await self._store(envelope, *route)
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

    async def _store(self, envelope: Any, local_part: str, route: str) -> str:
        """Only what is on disk is answered with success; until then Postfix has it."""
        try:
            known = await self.keep(envelope.mail_from or "", route, local_part, envelope.content)
        except Exception:
            log.exception("a message could not be stored; Postfix keeps it")
            return "451 4.3.0 Try again later"
        return "250 2.0.0 OK" if known else "550 5.1.1 No such address"


async def listen(hostname: str, record: Record, complain: Complain, keep: Keep) -> asyncio.Server:
    """Open the socket. Any local user may connect: a report counts only with a token that nobody can guess, and a
    route's id is no easier to guess.
    """
    server = await asyncio.get_running_loop().create_unix_server(
        lambda: LMTP(
            Handler(hostname, record, complain, keep), hostname=hostname, data_size_limit=None, enable_SMTPUTF8=True
        ),
        SOCKET,
    )
    os.chmod(SOCKET, 0o666)  # noqa: S103
    return server
