# Copyright: mailwright contributors
# GNU General Public License v3.0-or-later (see COPYING)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What webhooks post, received on peer by webhook_receiver.py."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from connection import Lab, wait_until

PROGRAM = Path(__file__).parent / "webhook_receiver.py"
PLAIN, ENCRYPTED = 8088, 8443


class Receiver:
    """What came to peer's ports."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.base = f"http://{lab.address('peer')}:{PLAIN}"

    def requests(self, path: str) -> list[dict[str, Any]]:
        lines = self.lab.ssh("peer", "cat /run/webhooks.log 2>/dev/null || true").splitlines()
        found = [json.loads(line) for line in lines]
        return [{**entry, "body": base64.b64decode(entry["body"])} for entry in found if entry["path"] == path]

    def wait(self, path: str, count: int = 1) -> list[dict[str, Any]]:
        def enough() -> list[dict[str, Any]] | None:
            found = self.requests(path)
            return found if len(found) >= count else None

        return wait_until(enough, 60, f"{count} posts to {path}")


def signature(secret: str, request: dict[str, Any]) -> str:
    """As Standard Webhooks says, written here by itself."""
    headers = request["headers"]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + request["body"]
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


@contextlib.contextmanager
def receiving(lab: Lab) -> Iterator[Receiver]:
    """Both receivers, as long as the block runs."""
    lab.ssh("peer", "cat > /run/webhooks.py", data=PROGRAM.read_text())
    command = "systemd-run -q --unit=webhooks-{0} python3 /run/webhooks.py --log /run/webhooks.log --port {0}"
    try:
        lab.ssh("peer", command.format(PLAIN))
        lab.ssh("peer", command.format(ENCRYPTED) + " --certificate /etc/ssl/peer.pem --key /etc/ssl/peer.key")
        ready = f"ss -ltn | grep -c -e ':{PLAIN} ' -e ':{ENCRYPTED} ' || true"
        wait_until(lambda: lab.ssh("peer", ready).strip() == "2", 30, "the receivers listen")
        yield Receiver(lab)
    finally:
        units = f"webhooks-{PLAIN} webhooks-{ENCRYPTED}"
        lab.ssh("peer", f"systemctl stop {units}; systemctl reset-failed {units}; rm -f /run/webhooks.*", check=False)
