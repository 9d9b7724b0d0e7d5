"""What is asked of the cluster, its nodes, tasks and storages."""

from __future__ import annotations

from typing import Any

from tests.pve import views
from tests.pve.calls import Call
from tests.pve.errors import forbidden, refused
from tests.pve.storage import TOTAL
from tests.pve.tasks import UPID, Task

REPOID = "1a2b3c4d5e6f7a8b"


async def version(call: Call) -> dict[str, Any]:
    text = ".".join(str(part) for part in call.cluster.version)
    return {"version": text, "release": call.cluster.release, "repoid": REPOID}


async def cluster_status(call: Call) -> list[dict[str, Any]]:
    cluster = call.cluster
    here = cluster.entrance
    rows: list[dict[str, Any]] = [
        {
            "type": "node",
            "id": f"node/{node.name}",
            "name": node.name,
            "nodeid": node.number,
            "ip": f"10.0.0.{node.number}",
            "online": int(node.online),
            "local": int(node is here),
            "level": "",
        }
        for node in cluster.nodes.values()
    ]
    if len(rows) > 1:  # a single node is no cluster, and has no such entry
        online = sum(row["online"] for row in rows)
        rows.append(
            {
                "type": "cluster",
                "id": "cluster",
                "name": cluster.name,
                "version": len(rows),
                "nodes": len(rows),
                "quorate": int(online * 2 > len(rows)),
            }
        )
    return rows


async def resources(call: Call) -> list[dict[str, Any]]:
    cluster, type = call.cluster, call.params.get("type")
    cluster.questions += 1
    odd = cluster.questions % 2 == 1
    may = cluster.access.view(call.who)
    rows: list[dict[str, Any]] = []
    if type in (None, "vm"):
        rows += [
            views.resource(cluster, container, odd)
            for container in cluster.containers.values()
            if "VM.Audit" in may(f"/vms/{container.vmid}")
        ]
        rows += [
            views.machine_row(machine)
            for machine in cluster.machines.values()
            if "VM.Audit" in may(f"/vms/{machine.vmid}")
        ]
    if type in (None, "node"):
        rows += [
            views.node_row(cluster, node, audited=call.may(f"/nodes/{node.name}", "Sys.Audit"))
            for node in cluster.nodes.values()
        ]
    if type in (None, "storage"):
        rows += [
            {"id": f"storage/{node}/{name}", "type": "storage", "node": node, "storage": name, "status": "available"}
            for node in cluster.nodes
            for name in cluster.storages
            if call.may(f"/storage/{name}", "Datastore.Audit", "Datastore.AllocateSpace", any=True)
        ]
    return rows


async def next_id(call: Call) -> str:
    wanted = call.params.get("vmid")
    if wanted is None:
        return str(call.cluster.next_vmid())
    if call.cluster.taken(wanted):
        raise refused({"vmid": f"VM {wanted} already exists"})
    return str(wanted)


async def nodes(call: Call) -> list[dict[str, Any]]:
    return [
        views.node_row(call.cluster, node, audited=call.may(f"/nodes/{node.name}", "Sys.Audit"))
        for node in call.cluster.nodes.values()
    ]


async def node_status(call: Call) -> dict[str, Any]:
    memory = {"total": views.NODE_MEMORY, "used": 4 << 30, "free": 12 << 30, "available": 12 << 30}
    text = ".".join(str(part) for part in call.cluster.version)
    return {
        "uptime": int(call.cluster.clock() - call.cluster.began) + 1000,
        "loadavg": ["0.12", "0.10", "0.09"],
        "memory": memory,
        "swap": {"total": 0, "used": 0, "free": 0},
        "rootfs": {"total": TOTAL, "used": 7 << 30, "free": TOTAL - (7 << 30), "avail": TOTAL - (7 << 30)},
        "cpuinfo": {"cpus": views.CORES, "cores": views.CORES, "sockets": 1, "model": "Emulated"},
        "cpu": 0.05,
        "wait": 0.001,
        "kversion": "Linux 6.14.8-2-pve",
        "pveversion": f"pve-manager/{text}/{REPOID}",
        "boot-info": {"mode": "efi"},
        "current-kernel": {"machine": "x86_64", "release": "6.14.8-2-pve", "sysname": "Linux", "version": "#1"},
    }


async def node_version(call: Call) -> dict[str, Any]:
    return await version(call)


async def containers(call: Call) -> list[dict[str, Any]]:
    now, may = call.cluster.clock(), call.cluster.access.view(call.who)
    return [
        views.listed(container, now)
        for container in call.cluster.containers.values()
        if container.node == call.node and "VM.Audit" in may(f"/vms/{container.vmid}")
    ]


async def current(call: Call) -> dict[str, Any]:
    return views.current(call.cluster.need(call.node, call.vmid), call.cluster.clock())


async def interfaces(call: Call) -> list[dict[str, Any]] | None:
    found = call.cluster.at(call.node, call.vmid)
    return (
        None if found is None else views.interfaces(found, call.cluster.clock())
    )  # null also for one that is not there


async def container_index(call: Call) -> list[dict[str, str]]:
    names = ("config", "pending", "status", "vncproxy", "termproxy", "vncwebsocket", "clone", "template", "interfaces")
    return [{"subdir": name} for name in names]


async def status_index(call: Call) -> list[dict[str, str]]:
    return [{"subdir": name} for name in ("current", "start", "stop", "shutdown", "suspend", "resume", "reboot")]


# --- tasks ------------------------------------------------------------------------------------------------------------


def _task(call: Call, privilege: str = "Sys.Audit") -> Task:
    upid = str(call.params["upid"])
    if not UPID.fullmatch(upid):
        raise refused({"upid": "unable to parse worker upid"})
    task = call.cluster.task(call.node, upid)
    if task is None:
        raise refused({"upid": "no such task"})
    if task.who != call.who and not call.may(f"/nodes/{call.node}", privilege):
        raise forbidden(f"/nodes/{call.node}, {privilege}")
    return task


def _row(task: Task) -> dict[str, Any]:
    row = task.describe()
    if not task.running:
        row |= {"endtime": task.endtime, "status": task.exitstatus}
    return row


def _ending(task: Task) -> str:
    """As `statusfilter` calls it."""
    if task.running:
        return "unknown"
    return "error" if task.failed else "ok" if task.exitstatus == "OK" else "warning"


def _wanted(call: Call, task: Task) -> bool:
    params = call.params
    source = params.get("source", "archive")
    tests = (
        source == "all" or (source == "active") == task.running,
        "vmid" not in params or task.id == str(params["vmid"]),
        "typefilter" not in params or task.type == params["typefilter"],
        "since" not in params or task.starttime >= params["since"],
        "until" not in params or task.starttime <= params["until"],
        "userfilter" not in params or str(params["userfilter"]).lower() in task.who.id.lower(),
        not params.get("errors") or task.failed,
        "statusfilter" not in params or _ending(task) in str(params["statusfilter"]).split(","),
    )
    return all(tests)


async def tasks(call: Call) -> list[dict[str, Any]]:
    audits = call.may(f"/nodes/{call.node}", "Sys.Audit")
    found = [
        task
        for task in reversed(call.cluster.tasks.all.values())
        if task.node == call.node and (audits or task.who == call.who) and _wanted(call, task)
    ]
    call.total = len(found)
    start, limit = call.params.get("start", 0), call.params.get("limit", 50)
    return [_row(task) for task in found[start : start + limit]]


async def cluster_tasks(call: Call) -> list[dict[str, Any]]:
    audits = call.may("/", "Sys.Audit")
    found = [task for task in reversed(call.cluster.tasks.all.values()) if audits or task.who == call.who]
    return [_row(task) for task in found[:25]]


async def task_status(call: Call) -> dict[str, Any]:
    task = _task(call)
    told = {**task.describe(), "status": "running" if task.running else "stopped"}
    return told if task.running else {**told, "exitstatus": task.exitstatus}


async def task_log(call: Call) -> list[dict[str, Any]]:
    lines = _task(call).lines
    call.total = len(lines)
    start, limit = call.params.get("start", 0), call.params.get("limit", 50)
    numbered = list(enumerate(lines, 1))[start : start + limit if limit else None]
    return [{"n": number, "t": text} for number, text in numbered] or [{"n": 1, "t": "no content"}]


async def task_index(call: Call) -> list[dict[str, str]]:
    return [{"name": "log"}, {"name": "status"}]


async def task_kill(call: Call) -> None:
    await call.cluster.tasks.kill(_task(call, "Sys.Modify"))
