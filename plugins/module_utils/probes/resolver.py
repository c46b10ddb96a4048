# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's own resolver, with an answer for every question. Needs python3-dnspython."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.dns.rrset import text_value

try:
    import dns.exception
    import dns.resolver
    import dns.reversename
except ImportError:
    HAVE_LIBRARIES = False
else:
    HAVE_LIBRARIES = True


@dataclass(frozen=True)
class Reply:
    """What the resolver says of a name and type: record data in the form of RRset.values (none: there are none),
    or why it cannot say."""

    values: tuple[str, ...] = ()
    error: str | None = None


class Resolver:
    """The host's own resolver, with an answer for every question. Safe to ask from several threads."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._local = threading.local()

    def ask(self, name: str, kind: str) -> Reply:
        """Ask for a name (absolute) and type; TXT comes as text_value writes it."""
        if not hasattr(self._local, "resolver"):
            self._local.resolver = dns.resolver.Resolver()
            self._local.resolver.lifetime = self._timeout
        try:
            answer = self._local.resolver.resolve(name, kind, search=False)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return Reply()
        except dns.resolver.NoNameservers:
            return Reply(error="SERVFAIL")
        except dns.exception.Timeout:
            return Reply(error="no answer in time")
        except dns.exception.DNSException as error:
            return Reply(error=str(error))
        return Reply(tuple(sorted(_value(record, kind) for record in answer)))

    def reverse(self, address: str) -> Reply:
        """Ask for the names of an address."""
        return self.ask(dns.reversename.from_address(address).to_text(), "PTR")


def _value(record: Any, kind: str) -> str:
    if kind == "TXT":
        return text_value(b"".join(record.strings))
    text: str = record.to_text()
    return text if kind in ("A", "AAAA") else text.lower()
