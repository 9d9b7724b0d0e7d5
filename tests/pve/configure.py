"""GET and PUT of a configuration: what is taken over at once, what waits, what only root@pam may."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tests.pve.calls import Call
from tests.pve.container import Container
from tests.pve.errors import TaskFailed, died, forbidden, refused
from tests.pve.options import FEATURES, NET, NOT_KEPT, SINCE_9_1, plain, privilege
from tests.pve.schema import UNKNOWN, parts

READ_ONLY = ("unprivileged",)
NET_ORDER = (
    *("name", "bridge", "firewall", "gw", "gw6", "host-managed", "hwaddr", "ip", "ip6"),
    *("link_down", "mtu", "rate", "tag", "trunks", "type"),
)


def check_options(call: Call, options: Mapping[str, Any], *, path: str | None = None) -> None:
    """What a caller may set, option by option. :raises ApiError: 403, or 400 for what came only with 9.1."""
    if not call.cluster.has_oci and (early := [name for name in SINCE_9_1 if name in options]):
        raise refused(dict.fromkeys(early, UNKNOWN))
    for name, value in options.items():
        kind = plain(name)
        if not call.who.is_root:
            _check_root_only(kind, str(value))
        if path is not None:
            call.need(path, privilege(name))


def _check_root_only(kind: str, value: str) -> None:
    if kind == "mp":
        volume = value.split(",")[0].removeprefix("volume=")
        if volume.startswith("/"):
            type = "device" if volume.startswith("/dev/") else "bind"
            raise forbidden(f"mount point type {type} is only allowed for root@pam")
    elif kind == "hookscript":
        raise forbidden("changing the hookscript is only allowed for root@pam")
    elif kind == "dev":
        raise forbidden("configuring device passthrough is only allowed for root@pam")
    elif kind == "features" and set(parts(FEATURES, value)) - {"nesting"}:
        raise forbidden("changing feature flags (except nesting) is only allowed for root@pam")


def check_bridges(call: Call, options: Mapping[str, Any]) -> None:
    """:raises ApiError: 403 where SDN.Use is missing."""
    for name, value in options.items():
        if plain(name) == "net" and (bridge := parts(NET, str(value)).get("bridge")):
            call.need(f"/sdn/zones/localnetwork/{bridge}", "SDN.Use")


def written(container: Container, name: str, value: Any) -> Any:
    """An option as it comes back: net in an order of its own, with the address of the card and `type=veth` added."""
    if plain(name) == "net":
        found = parts(NET, str(value))
        found.setdefault("hwaddr", container.cluster.mac())
        found["type"] = "veth"
        return ",".join(f"{key}={found[key]}" for key in NET_ORDER if key in found)
    if name == "tags":
        return ";".join(part for part in re.split(r"[,;\s\0]+", str(value)) if part)
    return value


async def get(call: Call) -> dict[str, Any]:
    container = call.cluster.need(call.node, call.vmid)
    if snapshot := call.params.get("snapshot"):
        raise died(f"snapshot '{snapshot}' does not exist")
    options = dict(container.config)
    if not call.params.get("current"):
        options |= container.pending
        options = {name: value for name, value in options.items() if name not in container.dropped}
    if "description" in options:
        options["description"] = f"{options['description'].rstrip(chr(10))}\n"
    if container.raw:
        options["lxc"] = [list(pair) for pair in container.raw]
    return {**options, "digest": container.digest}


async def pending(call: Call) -> list[dict[str, Any]]:
    container = call.cluster.need(call.node, call.vmid)
    rows: list[dict[str, Any]] = []
    for name in sorted({*container.config, *container.pending}):
        row: dict[str, Any] = {"key": name}
        if name in container.config:
            row["value"] = container.config[name]
        if name in container.pending:
            row["pending"] = container.pending[name]
        if name in container.dropped:
            row["delete"] = 1
        rows.append(row)
    return rows


async def put(call: Call) -> None:
    container = call.cluster.need(call.node, call.vmid)
    options = {name: value for name, value in call.params.items() if name not in NOT_KEPT}
    drops = [name for name in re.split(r"[,;\s]+", call.params.get("delete", "")) if name]
    reverts = [name for name in re.split(r"[,;\s]+", call.params.get("revert", "")) if name]
    path = f"/vms/{call.vmid}"
    for name in [*drops, *reverts]:
        call.need(path, privilege(name))
    check_options(call, options, path=path)
    check_bridges(call, options)
    for name in [*options, *drops]:
        if name in READ_ONLY:
            raise died(f"unable to modify read-only option: '{name}'")
    try:
        async with container.flock.taken(call.cluster.timing.lock_wait):
            _change(call, container, options, drops, reverts)
    except TaskFailed as failure:
        raise died(str(failure)) from None


def _change(call: Call, container: Container, options: Mapping[str, Any], drops: list[str], reverts: list[str]) -> None:
    if container.lock:
        raise died(f"CT is locked ({container.lock})")
    if (digest := call.params.get("digest")) and digest != container.digest:
        raise died("detected modified configuration - file changed by other user? Try again.")
    container.note(call.cluster.clock())
    for name in drops:
        container.drop(name)
    for name, value in options.items():
        container.put(name, written(container, name, value))
    for name in reverts:
        container.pending.pop(name, None)
        container.dropped.discard(name)
