"""What is told of containers and nodes: `status/current`, the list of a node, the resources of the cluster."""

from __future__ import annotations

from typing import Any

from tests.pve.cluster import Cluster, Machine, Node
from tests.pve.container import DISK, MIB, Container

CORES = 4
NODE_MEMORY = 16 << 30
USED_MEMORY = 24 * MIB
# Seconds after a start in which the uptime is -1.
BARELY = 0.02
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def size_of_rootfs(container: Container) -> int:
    for part in str(container.config.get("rootfs", "")).split(","):
        if part.startswith("size=") and part[-1] in UNITS and part[5:-1].isdigit():
            return int(part[5:-1]) * UNITS[part[-1]]
    return DISK


def _measures(container: Container, up: float) -> dict[str, Any]:
    """Plausible figures that grow with time; all of them null while it does not run."""
    running = up >= 0
    return {
        "cpu": 0.01 if up > 0.5 else 0,
        "mem": USED_MEMORY if running else 0,
        "disk": 200 * MIB if running else 0,
        "maxdisk": size_of_rootfs(container),
        "maxmem": int(container.config.get("memory", 512)) * MIB,
        "diskread": int(up * 1000) if running else 0,
        "diskwrite": int(up * 100) if running else 0,
        "netin": int(up * 500) if running else 0,
        "netout": int(up * 300) if running else 0,
        "uptime": int(up) if running else 0,
    }


def _uptime(container: Container, now: float, started_at: float | None) -> float:
    return -1.0 if started_at is None else max(0.0, now - started_at)


def listed(container: Container, now: float) -> dict[str, Any]:
    """One row of the list of a node: the truth."""
    told: dict[str, Any] = {
        "vmid": container.vmid,
        "type": "lxc",
        "name": container.name,
        "status": "running" if container.seen_running else "stopped",
        "cpus": container.config.get("cores", CORES),
        "swap": 0,
        "maxswap": int(container.config.get("swap", 512)) * MIB,
        **_measures(container, _uptime(container, now, container.started_at)),
    }
    for name in ("tags", "lock", "template"):
        if value := container.config.get(name):
            told[name] = value
    if container.running:
        if container.started_at is not None and now - container.started_at < BARELY:
            told["uptime"] = -1  # a process that began after the last tick of the kernel's clock
        told["pid"] = container.pid
        told |= dict.fromkeys(("pressurecpusome", "pressurecpufull", "pressureiosome", "pressureiofull"), 0)
        told |= dict.fromkeys(("pressurememorysome", "pressurememoryfull"), 0)
    return told


def current(container: Container, now: float) -> dict[str, Any]:
    ha: dict[str, Any] = {"managed": 1, "state": "started"} if container.ha else {"managed": 0}
    if container.ha and not container.seen_running:
        ha["state"] = "stopped"
    return {**listed(container, now), "ha": ha}


def resource(cluster: Cluster, container: Container, odd: bool) -> dict[str, Any]:
    """One row of /cluster/resources: where it is and its lock and tags are fresh, what it does is as old as the last report.

    A container that pvestatd has not yet seen, or whose node is silent, is `unknown`, without figures. A new one flaps:
    `odd` is every other question.
    """
    told: dict[str, Any] = {
        "id": f"lxc/{container.vmid}",
        "type": "lxc",
        "vmid": container.vmid,
        "node": container.node,
        "status": "unknown",
    }
    for name in ("tags", "lock"):
        if value := container.config.get(name):
            told[name] = value
    if container.pool:
        told["pool"] = container.pool
    if container.ha:
        told["hastate"] = "started" if container.running else "stopped"
    moment = cluster.last_report
    seen = container.seen_at(moment)
    flaps = odd and container.vmid in cluster.flapping
    if seen is None or not cluster.nodes[container.node].online or not cluster.nodes[container.node].reports or flaps:
        return told
    told |= {"status": seen["status"], "name": seen["name"], "template": 1 if container.is_template else 0}
    figures = _measures(container, _uptime(container, moment, seen["started_at"]))
    return {**told, **figures, "maxcpu": container.config.get("cores", CORES), "memhost": figures["mem"]}


def machine_row(machine: Machine) -> dict[str, Any]:
    """`type=vm` brings virtual machines too."""
    told = {"id": f"qemu/{machine.vmid}", "type": "qemu", "vmid": machine.vmid, "node": machine.node}
    told |= {"name": machine.name, "status": "running" if machine.running else "stopped", "template": 0}
    return {**told, "cpu": 0, "maxcpu": 2, "mem": 0, "maxmem": 2 << 30, "disk": 0, "maxdisk": 8 << 30, "uptime": 1000}


def node_row(cluster: Cluster, node: Node, *, audited: bool) -> dict[str, Any]:
    told: dict[str, Any] = {
        "node": node.name,
        "type": "node",
        "id": f"node/{node.name}",
        "status": "offline" if not node.online else "online" if node.reports else "unknown",
        "level": "",
    }
    if node.online:
        told["ssl_fingerprint"] = ":".join(["AB"] * 32)
    if audited and node.online and node.reports:
        told |= {"cpu": 0.05, "maxcpu": CORES, "mem": 4 << 30, "maxmem": NODE_MEMORY}
        told |= {"disk": 7 << 30, "maxdisk": 100 << 30, "uptime": int(cluster.clock() - cluster.began) + 1000}
    return told


def interfaces(container: Container, now: float) -> list[dict[str, Any]] | None:
    """As `ip -j a` in its network namespace says; null when it is stopped."""
    if not container.running or container.address is None:
        return None
    mac = next(
        (part[7:] for part in str(container.config.get("net0", "")).split(",") if part.startswith("hwaddr=")), ""
    )
    mac = (mac or "BC:24:11:00:00:01").lower()
    lease = container.behaviour.lease
    early = container.started_at is not None and now - container.started_at < lease
    autoconfigured = [(f"fd00::be24:11ff:fe{mac[9:11]}:{mac[12:14]}{mac[15:17]}", "64")] if lease else []
    local = f"fe80::be24:11ff:fe{mac[9:11]}:{mac[12:14]}{mac[15:17]}"
    return [
        _interface("lo", "00:00:00:00:00:00", ("127.0.0.1", "8"), ("::1", "128")),
        _interface("eth0", mac, None if early else (container.address, "24"), (local, "64"), *autoconfigured),
    ]


def _interface(name: str, mac: str, four: tuple[str, str] | None, *sixes: tuple[str, str]) -> dict[str, Any]:
    listed = [("inet", four)] if four else []
    return {
        "name": name,
        "hwaddr": mac,
        "hardware-address": mac,
        **({"inet": "/".join(four)} if four else {}),
        "inet6": "/".join(sixes[0]),
        "ip-addresses": [
            {"ip-address": address, "ip-address-type": type, "prefix": prefix}
            for type, (address, prefix) in [*listed, *(("inet6", six) for six in sixes)]
        ],
    }
