"""Named formats of parameters: each rule gives None, or why a text isn't one."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_\-+.]*")
Rule = Callable[[str], str | None]


def _matches(pattern: str, why: str) -> Rule:
    compiled = re.compile(pattern)
    return lambda text: None if compiled.fullmatch(text) else why.format(text)


def _each(rule: Rule, split: str = r"[,;\s\0]+") -> Rule:
    return lambda text: next((why for part in re.split(split, text) if part and (why := rule(part))), None)


def _address(version: int, words: tuple[str, ...] = (), *, network: bool = False) -> Rule:
    def rule(text: str) -> str | None:
        if text in words:
            return None
        try:
            found = ipaddress.ip_interface(text) if network else ipaddress.ip_address(text)
        except ValueError:
            found = None
        if found is None or found.version != version or (network and "/" not in text):
            return f"value does not look like a valid ipv{version} {'network configuration' if network else 'address'}"
        return None

    return rule


def _tag(text: str) -> str | None:
    return None if TAG.fullmatch(text) else f"invalid characters in tag - {text}"


FORMATS: dict[str, Rule] = {
    "pve-node": _matches(LABEL, "value does not look like a valid node name"),
    "pve-vmid": _matches(r"[1-9][0-9]{2,8}", "value does not look like a valid VM ID"),
    "pve-storage-id": _matches(r"(?i)[a-z][a-z0-9\-_.]*[a-z0-9]", "storage ID '{}' contains illegal characters"),
    "pve-volume-id": _matches(r"(?i)[a-z][a-z0-9\-_.]*[a-z0-9]:.+", "unable to parse volume ID '{}'"),
    "pve-configid": _matches(r"(?i)[a-z][a-z0-9_-]+", "invalid configuration ID '{}'"),
    "pve-configid-list": _each(_matches(r"(?i)[a-z][a-z0-9_-]+", "invalid configuration ID '{}'")),
    "pve-poolid": _matches(r"[A-Za-z0-9.\-_]+(/[A-Za-z0-9.\-_]+){0,2}", "value does not look like a valid pool name"),
    "pve-storage-content": _matches(r"[a-z]+", "invalid content type '{}'"),
    "pve-userid": _matches(r"[^\s:/]+@[A-Za-z][A-Za-z0-9.\-_]+", "value '{}' does not look like a valid user name"),
    "pve-realm": _matches(r"[A-Za-z][A-Za-z0-9.\-_]+", "value '{}' does not look like a valid realm"),
    "pve-roleid": _matches(r"[A-Za-z0-9.\-_]+", "value '{}' contains invalid characters"),
    "pve-tag-list": _each(_tag),
    "pve-startup-order": _matches(
        r"(\d+|(order|up|down)=\d+)(,(order|up|down)=\d+)*", "unable to parse startup options"
    ),
    "dns-name": _matches(rf"{LABEL}(\.{LABEL})*", "value does not look like a valid DNS name"),
    "dns-name-list": _each(_matches(rf"{LABEL}(\.{LABEL})*", "value does not look like a valid DNS name")),
    "lxc-ip-with-ll-iface-list": _each(
        lambda text: None if not _address(4)(text) or not _address(6)(text) else "value does not look like an address"
    ),
    "mac-addr": _matches(
        r"(?i)[a-f0-9][02468ace](:[a-f0-9]{2}){5}", "value does not look like a valid unicast MAC address"
    ),
    "disk-size": _matches(r"\d+(\.\d+)?[KMGT]?", "value does not look like a valid disk size: {}"),
    "ipv4": _address(4),
    "ipv6": _address(6),
    "pve-ipv4-config": _address(4, ("dhcp", "manual"), network=True),
    "pve-ipv6-config": _address(6, ("auto", "dhcp", "manual"), network=True),
    "pve-lxc-mp-string": _matches(r"(/|[A-Za-z]).*", "value does not look like a volume"),
}
