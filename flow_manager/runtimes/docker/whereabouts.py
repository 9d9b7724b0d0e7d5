"""Is the engine on another machine? Then no folder of this one can be mounted, and only published ports lead to flows."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from flow_manager.settings.runtime import RuntimeSettings
from flow_manager.util.hosts import is_loopback

# A name server that hangs must hold up neither the start of a service nor a look at all containers.
RESOLVE_SECONDS = 3.0

Resolve = Callable[[str], Awaitable[str]]


def host_of(url: str) -> str | None:
    """The host's name or address in an engine's url; None for a socket of this machine."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def is_elsewhere(url: str, settings: RuntimeSettings) -> bool:
    """As settings say; else by the address.

    Whoever says how the engine's host sees this service's folders says that it does: a proxy in front of this machine's
    socket is reached over the network, too.
    """
    if settings.remote is not None:
        return settings.remote
    if settings.sockets_host_dir is not None or settings.state_host_dir is not None:
        return False
    host = host_of(url)
    return host is not None and not is_loopback(host)


class EngineHost:
    """The other machine, where its published ports are reached. Names are looked up now and then, never in a hurry."""

    def __init__(self, url: str, resolve: Resolve | None = None) -> None:
        self._name = host_of(url) or ""
        self._resolve = resolve or _resolve
        self.address = self._name if _is_address(self._name) else ""

    async def look_up(self) -> None:
        """Where the name leads now; what was known stays where nobody can tell."""
        if not self._name or _is_address(self._name):
            return
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                self.address = await self._resolve(self._name)
        except (OSError, UnicodeError, TimeoutError):
            pass


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


async def _resolve(name: str) -> str:
    found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return str(found[0][4][0])
