# Managed by mailwright: changes are overwritten.
"""What the inventory says, as the role wrote it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.mailwright.server.plugins.module_utils.sending import warmup, webhooks

PATH = Path("/etc/mailwright/api.json")
DATABASE = "host=/run/postgresql dbname=mailwright application_name=mailwright-api options='-c synchronous_commit=on'"


@dataclass(frozen=True)
class Settings:
    """See the role's argument spec."""

    hostname: str
    # those that decide on a domain's records
    features: dict[str, bool]
    # names of the inventory that have no mail
    parked_domains: tuple[str, ...]
    # whom role addresses of new domains lead to
    admin: str
    message_size_limit: int
    connections: int
    keep_days: int
    webhook_networks: tuple[str, ...]
    # address, schedule, and whether there is a relay
    warmup: dict[str, Any] | None

    @classmethod
    def load(cls, path: Path = PATH) -> Settings:
        """Raises OSError, ValueError or TypeError when the file is not what the role writes."""
        settings = cls(**json.loads(path.read_text(encoding="utf-8")))
        for name in ("message_size_limit", "connections", "keep_days"):
            value = getattr(settings, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{path}: {name} is {value!r}: write a number from 1 on")
        # raises ValueError, which names the network
        webhooks.parse_networks(settings.webhook_networks)
        if settings.warmup is not None:
            warmup.check_schedule(settings.warmup["schedule"])
        return settings
