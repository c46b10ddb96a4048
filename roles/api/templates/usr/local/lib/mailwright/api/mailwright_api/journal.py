# Managed by mailwright: changes are overwritten.
"""Postfix's lines in the journal, from where they were last read."""

from __future__ import annotations

import os
import pwd
import syslog
from datetime import datetime
from typing import NamedTuple

from systemd import journal

# Written by ourselves, to know that everything logged before has been read.
BARRIER = "mailwright-dispatch-barrier"
LARGEST_BATCH = 500


class Entry(NamedTuple):
    """A line with its place."""

    cursor: str
    identifier: str
    message: str
    at: datetime


class Follower:
    """Reads in order. Its methods block."""

    def __init__(self) -> None:
        self.reader = journal.Reader()
        # By user, which the kernel vouches for: anybody may log as postfix/qmgr.
        self.reader.add_match(f"_UID={pwd.getpwnam('postfix').pw_uid}", "SYSLOG_FACILITY=2")
        self.reader.add_disjunction()
        self.reader.add_match(f"_UID={os.getuid()}", f"SYSLOG_IDENTIFIER={BARRIER}")

    def start(self) -> str:
        """Where to begin the first time: at the end. Gives the cursor, empty in an empty journal."""
        self.reader.seek_tail()
        last = self.reader.get_previous()
        return str(last["__CURSOR"]) if last else ""

    def seek(self, cursor: str) -> None:
        """Go on behind this cursor."""
        if not cursor:
            self.reader.seek_head()
            return
        self.reader.seek_cursor(cursor)
        entry = self.reader.get_next()
        # when that line was rotated away, the one found is a later one, and is still to be read
        if entry and entry["__CURSOR"] != cursor:
            self.reader.get_previous()

    def read(self, seconds: float) -> list[Entry]:
        """What is new; waits that long when nothing is."""
        entries = self._next()
        if not entries:
            self.reader.wait(seconds)
            entries = self._next()
        return entries

    def _next(self) -> list[Entry]:
        entries: list[Entry] = []
        while len(entries) < LARGEST_BATCH and (entry := self.reader.get_next()):
            message = entry.get("MESSAGE", "")
            if isinstance(message, bytes):
                message = message.decode("utf-8", "replace")
            identifier = str(entry.get("SYSLOG_IDENTIFIER", ""))
            entries.append(Entry(entry["__CURSOR"], identifier, message, entry["__REALTIME_TIMESTAMP"].astimezone()))
        return entries


def log_barrier(token: str) -> None:
    """Log a line the way that Postfix does: what Postfix logged before comes before it."""
    syslog.openlog(BARRIER, 0, syslog.LOG_MAIL)
    syslog.syslog(syslog.LOG_INFO, token)
