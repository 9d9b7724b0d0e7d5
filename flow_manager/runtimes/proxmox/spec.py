"""A FlowSpec as what the server's `create` and `clone` take. Pure, and built from nothing.

Parameters are those of `POST /nodes/{node}/lxc` in PVE 9.2; whatever a server does not know it refuses.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from flow_manager.contract.proxmox import ProxmoxOptions
from flow_manager.errors import InvalidRequest, Unsupported
from flow_manager.runtimes.base import LABEL_ID, LABEL_INSTANCE, LABEL_NAME, LABEL_TENANT, FlowSpec
from flow_manager.runtimes.proxmox.addresses import parse_net
from flow_manager.runtimes.proxmox.client import KIND
from flow_manager.runtimes.proxmox.description import TAG, write_description
from flow_manager.runtimes.proxmox.ending import KILL, POLITE, check_signal, short
from flow_manager.runtimes.proxmox.identity import LABEL_VMID
from flow_manager.runtimes.proxmox.known import LABEL_CREATED, LABEL_IMAGE, LABEL_STOP_SIGNAL
from flow_manager.settings.runtime import RuntimeSettings

LABEL_ATTEMPT = "flow-manager.attempt"
MIB = 1024 * 1024
# The server takes no less.
MIN_MEMORY = 16
# What its `env` and `entrypoint` may hold (pve-container, `env`): no control characters but the tab.
_NAME = re.compile(r"\w+\Z", re.ASCII)
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*\Z")


def check(spec: FlowSpec, *, knows_oci: bool) -> None:
    """:raises Unsupported, InvalidRequest: before anything is asked of the server."""
    for wanted, capability, words in (
        (spec.mounts, "volumes", "mount the manager's folders (only root@pam may bind-mount)"),
        (spec.networks, "networks", "join an engine's networks"),
        (spec.code_folder, "put_code", "take code in"),
        (spec.working_dir, "working_dir", "set a working directory by its API"),
        (spec.pids, "limits", "limit the number of processes"),
        (spec.command and not knows_oci, "command", "set a command before version 9.1"),
        (spec.environment and not knows_oci, "environment", "set an environment before version 9.1"),
    ):
        if wanted:
            raise Unsupported(f"Proxmox VE can't {words}", kind=KIND, capability=capability)
    for port in spec.ports:
        if port.host_port not in (0, port.container_port):
            raise Unsupported(
                "a container has an address of its own here: its ports are not published elsewhere",
                kind=KIND,
                capability="ports",
            )
    check_signal(spec.stop_signal)
    for name, value in environment(spec).items():
        if not _NAME.match(name) or not _VALUE.match(value):
            _refuse(f"environment.{name}", "Proxmox VE takes letters, digits and _ in names, no line breaks in values")
    if any(not _VALUE.match(part) for part in spec.command or ()):
        _refuse("command", "Proxmox VE takes no line breaks and control characters in a command")


def labels(spec: FlowSpec, *, vmid: int, attempt: str, now: datetime) -> dict[str, str]:
    """The container's own truth; the manager's win over the client's."""
    own = {
        **spec.labels,
        LABEL_ID: spec.id,
        LABEL_NAME: spec.name,
        LABEL_INSTANCE: spec.instance,
        LABEL_TENANT: spec.tenant,
        LABEL_VMID: str(vmid),
        LABEL_IMAGE: spec.image,
        LABEL_CREATED: now.isoformat(timespec="milliseconds"),
        LABEL_ATTEMPT: attempt,
    }
    if spec.stop_signal is not None and short(spec.stop_signal) in {KILL, *POLITE}:
        own[LABEL_STOP_SIGNAL] = spec.stop_signal
    return own


def description(spec: FlowSpec, *, vmid: int, attempt: str, now: datetime) -> str:
    try:
        return write_description(labels(spec, vmid=vmid, attempt=attempt, now=now))
    except ValueError as exc:
        raise _refusal("labels", str(exc)) from None


def environment(spec: FlowSpec) -> dict[str, str]:
    """The flow's own variables, and the manager's, which win."""
    return {**spec.environment, "FLOW_ID": spec.id, **spec.channel_variables}


def create_parameters(
    spec: FlowSpec, settings: RuntimeSettings, *, vmid: int, template: str, text: str
) -> dict[str, Any]:
    """`text` is the description. Never `start`: that would begin a second task whose id nobody is told."""
    options = spec.proxmox or ProxmoxOptions()
    return {
        "vmid": vmid,
        "ostemplate": template,
        "hostname": spec.container_name,
        "description": text,
        "tags": TAG,
        # The schema's default is 0, the code's 1: said, so that neither matters.
        "unprivileged": 1,
        "rootfs": f"{options.storage or settings.storage}:{options.disk or settings.disk}",
        "net0": net(options, settings),
        # systemd in an unprivileged container wants it, and nothing else may be had without root@pam.
        "features": "nesting=1" if options.nesting is not False else None,
        "cmode": console(spec),
        "pool": options.pool or settings.pool,
        "swap": 0,
        **limits(spec),
    }


def clone_parameters(
    spec: FlowSpec, settings: RuntimeSettings, *, vmid: int, text: str, full: bool, target: str | None
) -> dict[str, Any]:
    options = spec.proxmox or ProxmoxOptions()
    return {
        "newid": vmid,
        "hostname": spec.container_name,
        "description": text,
        "full": int(full),
        # A linked clone lives where its template does.
        "storage": options.storage if full else None,
        "pool": options.pool or settings.pool,
        "target": target,
    }


def console(spec: FlowSpec) -> str:
    """What its one console shows: its own program's terminal where that was asked for, else a shell, which commands need."""
    return "console" if spec.tty else "shell"


def limits(spec: FlowSpec) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if spec.memory is not None:
        found["memory"] = max(MIN_MEMORY, math.ceil(spec.memory / MIB))
    if spec.cpus is not None:
        found |= {"cpulimit": spec.cpus, "cores": max(1, math.ceil(spec.cpus))}
    return found


def net(options: ProxmoxOptions, settings: RuntimeSettings) -> str:
    parts = {
        "name": "eth0",
        "bridge": options.bridge or settings.bridge,
        "ip": options.ip or "dhcp",
        "gw": options.gateway,
        "tag": options.vlan,
    }
    return ",".join(f"{key}={value}" for key, value in parts.items() if value is not None)


def check_cloned(original: Mapping[str, Any]) -> None:
    """Only `net0` of a clone can be given another address. :raises InvalidRequest: two containers would have one."""
    others = {key: value for key, value in original.items() if re.fullmatch(r"net[1-9][0-9]*", key)}
    for key, value in sorted(others.items()):
        if _is_fixed(parse_net(str(value))):
            raise _refusal(
                "proxmox.clone", f"the original has a fixed address on {key}, which the clone would have too"
            )


def _is_fixed(parts: Mapping[str, str]) -> bool:
    return parts.get("ip", "dhcp") not in ("dhcp", "manual") or parts.get("ip6", "auto") not in (
        "dhcp",
        "auto",
        "manual",
    )


def cloned_net(source: str, options: ProxmoxOptions) -> str | None:
    """What `net0` of a clone must be; None where the copy is right. A clone has its original's fixed address.

    :raises InvalidRequest: two containers would have one address.
    """
    parts = parse_net(source)
    asked = {"ip": options.ip, "gw": options.gateway, "bridge": options.bridge, "tag": options.vlan}
    wanted = {key: str(value) for key, value in asked.items() if value is not None}
    if _is_fixed(parts) and options.ip is None:
        raise _refusal(
            "proxmox.ip",
            f"the original has the fixed address {parts.get('ip') or parts.get('ip6')}: give the clone its own, or dhcp",
        )
    if not wanted:
        return None
    # The hardware address is the clone's own already; an address of IPv6 would be the original's.
    if options.ip is not None:
        parts.pop("gw", None)
        if parts.get("ip6", "auto") not in ("dhcp", "auto", "manual"):
            parts.pop("ip6"), parts.pop("gw6", None)
    return ",".join(f"{key}={value}" for key, value in {**parts, **wanted}.items())


def merged_env(existing: str, own: Mapping[str, str]) -> str:
    """The image's variables and ours, ours last, as the server keeps them: parted by NUL."""
    pairs = dict(item.split("=", 1) for item in existing.split("\0") if "=" in item)
    return "\0".join(f"{name}={value}" for name, value in {**pairs, **own}.items())


def entrypoint(command: tuple[str, ...]) -> str:
    return shlex.join(command)


def _refuse(path: str, reason: str) -> None:
    raise _refusal(path, reason)


def _refusal(path: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{path}: {reason}", fields=[{"path": path, "reason": reason}])
