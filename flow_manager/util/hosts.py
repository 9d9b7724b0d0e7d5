"""Who is meant by a Host or an Origin header: pure rules against DNS rebinding and cross-site sockets.

A page on `evil.example` can let its name point to 127.0.0.1 and then reach a service on loopback as its own origin; only
the Host header still says `evil.example`. And a WebSocket may be opened across origins; only the Origin header tells.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

_HOST = re.compile(
    r"(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_.])?)(?::(?P<port>[0-9]{1,5}))?\Z"
)
_ORIGIN = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#@\s]+)\Z")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Authority:
    """A host name in lower case, without brackets and trailing dot, and its port where one was given."""

    name: str
    port: int | None


def parse_authority(text: str) -> Authority | None:
    """`name[:port]`, or None when the text is not one: user info, paths, spaces and empty names are refused."""
    match = _HOST.match(text)
    if match is None or len(text) > 261:
        return None
    port = int(match["port"]) if match["port"] is not None else None
    if port is not None and port > 65535:
        return None
    name = match["name"].lower()
    if name.startswith("["):
        if not _is_address(name[1:-1]):
            return None
        return Authority(name[1:-1], port)
    return Authority(name.removesuffix("."), port)


def is_loopback(name: str) -> bool:
    """`localhost`, 127.0.0.0/8 or ::1. Names below `localhost` are flows, not this service."""
    if name == "localhost":
        return True
    return _is_address(name) and ip_address(name).is_loopback


@dataclass(frozen=True, slots=True)
class HostRule:
    """What the control port answers to: loopback names, configured names and, where tokens guard it, its own address."""

    names: frozenset[str]
    origins: frozenset[str]
    own_address: bool

    @classmethod
    def of(cls, hosts: Iterable[str], origins: Iterable[str], *, own_address: bool) -> HostRule:
        return cls(frozenset(hosts), frozenset(_canonical_origin(origin) for origin in origins), own_address)

    def accepts_host(self, host: Authority, local_address: str | None) -> bool:
        """`local_address`: where this connection arrived. An address can't be the product of DNS rebinding, a name can."""
        if host.name in self.names or is_loopback(host.name):
            return True
        if not self.own_address or local_address is None or not _is_address(host.name):
            return False
        return ip_address(host.name) == ip_address(local_address.partition("%")[0])

    def accepts_origin(self, origin: str, host: Authority) -> bool:
        """The page must come from the very host and port that it calls, or from a configured origin."""
        if _canonical_origin(origin) in self.origins:
            return True
        match = _ORIGIN.match(origin.lower())
        if match is None:
            return False
        source = parse_authority(match["authority"])
        if source is None or source.name != host.name:
            return False
        default = _DEFAULT_PORTS[match["scheme"]]
        return (source.port or default) == (host.port or default)


def _canonical_origin(origin: str) -> str:
    return origin.lower().rstrip("/")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
