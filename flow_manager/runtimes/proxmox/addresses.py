"""Where a container is reached: what its interfaces have while it runs, else the fixed addresses of its config. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_interface
from typing import Any

from flow_manager.runtimes.proxmox.resources import text

# Networks inside the container (its own Docker, say) lead nowhere from here.
_INNER = re.compile(r"lo$|br-|veth|docker|podman|cni|flannel|virbr|tun|tap|wg")
_NET = re.compile(r"net([0-9]+)\Z")


def of_interfaces(data: Any) -> tuple[str, ...]:
    """`GET interfaces`, null when it does not run: real addresses, also those of DHCP. IPv4 first, link-local ones left out."""
    found: list[str] = []
    for interface in data if isinstance(data, list) else ():
        if not isinstance(interface, Mapping) or _INNER.match(text(interface.get("name"))):
            continue
        listed = interface.get("ip-addresses")
        if isinstance(listed, list):
            found += [text(item.get("ip-address")) for item in listed if isinstance(item, Mapping)]
        else:  # PVE 8
            found += [text(interface.get("inet")), text(interface.get("inet6"))]
    return _ordered(found)


def of_config(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The fixed ones of `net0`, `net1` …: `ip=10.0.0.5/24`; `dhcp`, `auto` and `manual` say nothing."""
    nets = sorted((int(match[1]), text(value)) for key, value in config.items() if (match := _NET.match(key)))
    found: list[str] = []
    for _, net in nets:
        parts = parse_net(net)
        found += [parts.get("ip", ""), parts.get("ip6", "")]
    return _ordered(found)


def wants_ipv4(config: Mapping[str, Any]) -> bool:
    """Whether one of IPv4 is to be expected: any card of its own has one, or gets one by DHCP."""
    nets = [parse_net(text(value)) for key, value in config.items() if _NET.match(key)]
    return any(net.get("ip", "manual") != "manual" for net in nets)


def in_order(addresses: Iterable[str]) -> tuple[str, ...]:
    """Those of IPv4 first, each once."""
    return _ordered(list(addresses))


def parse_net(net: str) -> dict[str, str]:
    """`name=eth0,bridge=vmbr0,ip=dhcp` → its parts, in order."""
    return {key: value for key, equals, value in (part.partition("=") for part in net.split(",")) if equals}


def _ordered(found: list[str]) -> tuple[str, ...]:
    addresses = []
    for item in found:
        try:
            address = ip_interface(item).ip
        except ValueError:
            continue
        if not address.is_link_local and not address.is_unspecified:
            addresses.append(address)
    return tuple(dict.fromkeys(str(address) for address in sorted(addresses, key=lambda one: one.version)))
