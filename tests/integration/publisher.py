# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the module dns_records in this process, which may be told to kill itself at a step of the ledger's protocol.

Reads {"arguments": {…}, "die": STEP} on standard input; the module prints its result. SIGKILL leaves no chance to
clean up, as a power cut would.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from ansible.module_utils.testing import patch_module_args
from ansible_collections.mailwright.server.plugins.module_utils.dns import publish
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.powerdns import PowerDNS
from ansible_collections.mailwright.server.plugins.module_utils.dns.providers.rfc2136 import Rfc2136
from ansible_collections.mailwright.server.plugins.modules import dns_records

# The first ledger write is the intent, the second settles; there are two zones, worked on one after the other.
STEPS = (
    "before the intent", "within the intent", "after the intent", "before the first zone", "after the first zone",
    "after the last zone", "within settling", "after settling",
)  # fmt: skip


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def around(target: Any, name: str, before: dict[int, Callable[[], None]], after: dict[int, Callable[[], None]]) -> None:
    """Do something before or after the n-th call of a function."""
    real = getattr(target, name)
    calls = 0

    def counted(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        before.get(calls, lambda: None)()
        result = real(*arguments, **keywords)
        after.get(calls, lambda: None)()
        return result

    setattr(target, name, counted)


def arm(step: str) -> None:
    """Make this process die at a step."""
    if step == "before the intent":
        around(publish, "write_ledger", {1: kill}, {})
    elif step == "after the intent":
        around(publish, "write_ledger", {}, {1: kill})
    elif step == "after settling":
        around(publish, "write_ledger", {}, {2: kill})
    elif step.startswith("within"):
        around(os, "rename", {1 if step == "within the intent" else 2: kill}, {})
    else:
        for provider in (Rfc2136, PowerDNS):
            if step == "before the first zone":
                around(provider, "apply", {1: kill}, {})
            else:
                around(provider, "apply", {}, {1 if step == "after the first zone" else 2: kill})


def main() -> None:
    order = json.load(sys.stdin)
    if order.get("die"):
        assert order["die"] in STEPS
        arm(order["die"])
    with patch_module_args(order["arguments"]):
        dns_records.main()


if __name__ == "__main__":
    main()
