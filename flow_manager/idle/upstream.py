"""Where a flow's port is reached from here: the candidates, best first. Pure, except for the look at the machine's routes.

A container is reached by its own address wherever there is a route to it. Its published port goes through the engine's
forwarder, which accepts before the program listens, so it is the second choice; and the only one where the engine is on
another machine, whose inner networks nothing here leads to.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path

from flow_manager.contract.fields import parse_port_key
from flow_manager.contract.models import ContainerConfig
from flow_manager.runtimes.base import Observation

LOOPBACK = "127.0.0.1"
# Node's `listen(port, "localhost")` takes ::1 alone where the machine has IPv6.
LOOPBACKS = (LOOPBACK, "::1")
# Programs of these runtimes share this machine's own addresses.
LOCAL_KINDS = frozenset({"process", "memory"})
# A port that is published on every address is reached on loopback, too.
_ANY = {"0.0.0.0": LOOPBACK, "::": "::1", "": LOOPBACK}  # noqa: S104 - nothing is listened on here
# Linux, include/uapi/linux/route.h and ipv6_route.h: up, through a gateway, unreachable on purpose.
_UP, _GATEWAY, _REJECT = 0x1, 0x2, 0x200
_IN_CONTAINER = (Path("/.dockerenv"), Path("/run/.containerenv"))

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to a flow's port. `via_forwarder`: something in between accepts the connection for the program."""

    address: str
    port: int
    via_forwarder: bool = False

    @property
    def pair(self) -> tuple[str, int]:
        return self.address, self.port

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def flow_port(config: ContainerConfig, observation: Observation | None) -> int | None:
    """Where it listens: as configured, else the lowest TCP port of `ports`, else the lowest that is published or exposed."""
    if config.port is not None:
        return config.port
    exposed = observation.exposed if observation is not None else ()
    published = observation.ports if observation is not None else {}
    for choice in (_tcp_ports(config.ports), _tcp_ports(published), exposed):
        if port := min(choice, default=None):
            return port
    return None


def candidates(
    observation: Observation | None, port: int | None, kind: str, *, published_on: str = LOOPBACK
) -> tuple[Candidate, ...]:
    """The ways to the flow's own `port` (as the flow counts it, not the host), best first; none while nothing is known.

    `kind` is the runtime's, `published_on` the address on which its ports are published (`policy.publish_address`).
    """
    if observation is None or port is None:
        return ()
    published = observation.ports.get(f"{port}/tcp")
    if observation.engine_host is not None:
        where = _published_there(observation, published_on)
        return (Candidate(where, published, via_forwarder=True),) if where and published else ()
    if kind in LOCAL_KINDS:
        # The chosen PORT; a program that isn't told one listens where it always does.
        return tuple(Candidate(address, published or port) for address in LOOPBACKS)
    own = [Candidate(address, port) for address in observation.addresses if observation.emulated or _usable(address)]
    if published:
        own.append(Candidate(_ANY.get(published_on, published_on), published, via_forwarder=True))
    return tuple(own)


def moved(upstream: tuple[str, int], ways: Sequence[Candidate]) -> tuple[str, int]:
    """Where to go on: the same place while it is one of `ways`, or while none is known; else the best of them."""
    pairs = [way.pair for way in ways]
    return upstream if upstream in pairs or not pairs else pairs[0]


def no_way(observation: Observation | None, port: int, *, published_on: str = LOOPBACK) -> str:
    """Why there is no candidate, and what to do, in words for people."""
    if observation is not None and observation.engine_host is not None and observation.running:
        needed = f"the engine is on another machine, where port {port} is reached only if it is published"
        if f"{port}/tcp" not in observation.ports:
            return f"{needed}: name it in the flow's 'ports'"
        if not observation.engine_host:
            return "the name of the engine's machine can't be looked up"
        return (
            f"{needed} to the network: set policy.publish_address to 0.0.0.0 or an address of that machine, "
            "and make the flow anew"
        )
    return f"no address is known at which port {port} could be reached"


def _published_there(observation: Observation, published_on: str) -> str:
    """The address on the engine's machine at which its published ports are reached from here; empty: at none."""
    # Others publish their own containers' ports where they like: whether that is their loopback, the connection shows.
    if published_on in _ANY or observation.adopted:
        return observation.engine_host or ""
    return published_on if _usable(published_on) else ""


def _tcp_ports(keys: Iterable[str]) -> list[int]:
    found = [parse_port_key(key) for key in keys]
    return [port for port, protocol in found if protocol == "tcp"]


def _usable(text: str) -> bool:
    """Never a name (it could be the flow's to choose), never this machine itself, no group, no cloud's metadata service."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or address.is_multicast or address.is_link_local)


# --- this machine -----------------------------------------------------------------------------------------------------


def on_link(address: str, networks: Iterable[Network]) -> bool:
    """Whether this machine is on the address's own network, so that what answers there is that very container."""
    where = ip_address(address)
    return any(where in network for network in networks if network.version == where.version)


def networks_here() -> tuple[Network, ...]:
    """The networks that this machine is on; none where the system doesn't tell (not Linux). Loopback's is left out."""
    found: list[Network] = []
    for path, parse in (("/proc/net/route", parse_route), ("/proc/net/ipv6_route", parse_route_6)):
        try:
            lines = Path(path).read_text().splitlines()
        except OSError:
            continue
        found.extend(network for line in lines if (network := parse(line)) is not None)
    return tuple(found)


def parse_route(line: str) -> IPv4Network | None:
    """One line of /proc/net/route: `Iface Destination Gateway Flags … Mask …`, addresses in hex, in the machine's order."""
    fields = line.split()
    try:
        flags = int(fields[3], 16)
        destination, mask = _address_of(fields[1]), _address_of(fields[7])
    except (IndexError, ValueError):
        return None  # the head line
    if not flags & _UP or flags & (_GATEWAY | _REJECT) or int(mask) == 0:
        return None
    return IPv4Network(f"{destination}/{mask}", strict=False)


def parse_route_6(line: str) -> IPv6Network | None:
    """One line of /proc/net/ipv6_route: `destination prefix source prefix next-hop metric refs use flags interface`."""
    fields = line.split()
    try:
        destination, length, hop, flags = fields[0], int(fields[1], 16), int(fields[4], 16), int(fields[8], 16)
        network = IPv6Network((int(destination, 16), length), strict=False)
    except (IndexError, ValueError):
        return None
    if not flags & _UP or flags & (_GATEWAY | _REJECT) or hop or not length or fields[9] == "lo":
        return None
    return network


def in_container() -> bool:
    """Whether this manager itself runs in a container: then ports that the engine publishes on loopback are not here."""
    return any(path.exists() for path in _IN_CONTAINER)


def from_here(ways: Sequence[Candidate], *, contained: bool) -> Sequence[Candidate]:
    """Without what can't lead there: in a container (`in_container`), loopback's published ports are somebody else's."""
    own = [way for way in ways if not way.via_forwarder]
    return own if own and contained else ways


def _address_of(text: str) -> IPv4Address:
    return IPv4Address(int(text, 16).to_bytes(4, sys.byteorder))


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if isinstance(ip_address(address), IPv6Address) else socket.AF_INET
