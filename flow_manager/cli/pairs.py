"""Options that hold two things: KEY=VALUE, HOST:CONTAINER. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping

import typer


def split_pair(text: str, option: str) -> tuple[str, str]:
    """`KEY=VALUE`; a KEY alone has an empty value. :raises typer.BadParameter: without a key."""
    key, _, value = text.partition("=")
    if not key:
        raise typer.BadParameter("KEY=VALUE is wanted", param_hint=option)
    return key, value


def environment(texts: list[str], own: Mapping[str, str]) -> dict[str, str]:
    """`K=V`, or `K` for the value that it has here (left out where it has none, as docker does)."""
    found = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not key:
            raise typer.BadParameter("KEY=VALUE or KEY is wanted", param_hint="--env")
        if separator:
            found[key] = value
        elif key in own:
            found[key] = own[key]
    return found


def volumes(texts: list[str]) -> dict[str, str]:
    """`HOST:CONTAINER[:ro|:rw]`; a host path that begins with `.` or `~` is made absolute."""
    found = {}
    for text in texts:
        source, separator, inside = text.partition(":")
        if not separator or not source or not inside:
            raise typer.BadParameter(f"{text!r}: HOST:CONTAINER[:ro|:rw] is wanted", param_hint="--volume")
        if not source.startswith(("/", ".", "~")):
            raise typer.BadParameter(
                f"{text!r}: named volumes are not supported, give a host folder (./{source})", param_hint="--volume"
            )
        found[os.path.abspath(os.path.expanduser(source))] = inside  # noqa: PTH100, PTH111 - no link may be followed
    return found


def published(texts: list[str]) -> dict[str, int]:
    """`HOST:CONTAINER[/proto]`; a CONTAINER alone gets any free host port."""
    found = {}
    for text in texts:
        parts = text.split(":")
        if len(parts) > 2:
            raise typer.BadParameter(
                f"{text!r}: the address is the service's setting policy.publish_address", param_hint="--publish"
            )
        host = parts[0] if len(parts) == 2 else "0"
        if not (host.isascii() and host.isdigit()) or int(host) > 65535:
            raise typer.BadParameter(f"{text!r}: HOST:CONTAINER[/proto] is wanted", param_hint="--publish")
        found[parts[-1]] = int(host)
    return found


_NUMBERS = frozenset({"vmid", "clone", "disk", "vlan"})
_SWITCHES = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def place(texts: list[str]) -> dict[str, str | int | bool]:
    """`node=pve1,vmid=101`: a place on Proxmox VE. The service says which keys there are."""
    found: dict[str, str | int | bool] = {}
    for text in ",".join(texts).split(","):
        key, separator, value = text.strip().partition("=")
        if not key or not separator:
            raise typer.BadParameter(f"{text!r}: K=V is wanted", param_hint="--proxmox")
        if key in _NUMBERS:
            if not (value.isascii() and value.isdigit()):
                raise typer.BadParameter(f"{text!r}: a number is wanted", param_hint="--proxmox")
            found[key] = int(value)
        elif key in ("full", "nesting"):
            if value.lower() not in _SWITCHES:
                raise typer.BadParameter(f"{text!r}: true or false is wanted", param_hint="--proxmox")
            found[key] = _SWITCHES[value.lower()]
        else:
            found[key] = value
    return found
