# Managed by mailwright: changes are overwritten.
"""Connections to strangers: where a URL leads is found out once, checked, and connected to as it was found."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import httpcore
from ansible_collections.mailwright.server.plugins.module_utils.sending import webhooks


class RefusedError(Exception):
    """The name leads where nothing may be posted to."""


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, as the system finds them."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Guard(httpcore.AsyncNetworkBackend):
    """Connects to public addresses alone: to the very address that was checked, never by name."""

    def __init__(
        self,
        networks: Sequence[webhooks.Network],
        find: Callable[[str, int], Awaitable[list[str]]] = resolve,
        backend: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        self.networks, self.find = networks, find
        self.backend = backend or httpcore.AnyIOBackend()

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:  # fmt: skip
        addresses = await self.find(host, port)
        # one address that is not public is enough: it would be taken when the others do not answer
        for address in addresses:
            if not webhooks.reachable(address, self.networks):
                raise RefusedError(f"{host} leads to {address}, which is no address of the internet")
        error: Exception = OSError(f"{host} has no address")
        for address in addresses:
            try:
                return await self.backend.connect_tcp(address, port, timeout, local_address, socket_options)
            except (OSError, httpcore.ConnectError, httpcore.ConnectTimeout) as failure:
                error = failure
        raise error

    async def connect_unix_socket(self, *_arguments: Any, **_options: Any) -> httpcore.AsyncNetworkStream:
        raise RefusedError("a socket of this host")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
