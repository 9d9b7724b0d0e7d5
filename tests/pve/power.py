"""Start, stop, shutdown, reboot, suspend and resume: a 200 says no more than that a worker was forked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.pve.calls import Call
from tests.pve.cluster import Cluster
from tests.pve.container import Container
from tests.pve.errors import TaskFailed, died, forbidden, refused
from tests.pve.schema import UNKNOWN
from tests.pve.tasks import Task

SHUTDOWN_SECONDS = 60
# lxc-stop waits, and then the server waits once more (125 s were seen with a timeout of 60).
WAITS = 2
# pve-container 5.1.11: before, nothing ended a shutdown that somebody had ordered.
OVERRULE_SINCE = (8, 2)


@asynccontextmanager
async def locked(cluster: Cluster, container: Container, *, skiplock: bool = False) -> AsyncIterator[None]:
    """The flock of a container, and no lock in its configuration. :raises TaskFailed:"""
    async with container.flock.taken(cluster.timing.lock_wait):
        if cluster.containers.get(container.vmid) is not container:
            raise TaskFailed(f"Configuration file 'nodes/{container.node}/lxc/{container.vmid}.conf' does not exist")
        if container.lock and not skiplock:
            raise TaskFailed(f"CT is locked ({container.lock})")
        yield


def _skiplock(call: Call) -> bool:
    asked = bool(call.params.get("skiplock"))
    if asked and not call.who.is_root:
        raise forbidden("skiplock is only allowed for root@pam")
    return asked


def _running(call: Call, word: str = "CT") -> Container:
    """:raises ApiError: it does not run; a missing one is answered in the same words."""
    found = call.cluster.at(call.node, call.vmid)
    if found is None or not found.seen_running:
        raise died(f"{word} {call.vmid} not running")
    return found


def _file_with_ha(call: Call, container: Container, type: str, *, starts: bool) -> str:
    """The worker only files the request; the state is reached later, by the manager of the high availability."""
    cluster = call.cluster

    async def reach() -> None:
        await asyncio.sleep(cluster.timing.ha_delay)
        await (cluster.inside.start if starts else cluster.inside.stop)(container)

    async def body(task: Task) -> None:
        await asyncio.sleep(cluster.timing.task)
        cluster.inside.later(reach())

    return cluster.fork(call, type, body)


async def start(call: Call) -> str:
    cluster, skiplock = call.cluster, _skiplock(call)
    found = cluster.at(call.node, call.vmid)
    if found is not None and found.seen_running:
        raise died(f"CT {call.vmid} already running")
    if found is not None and found.ha:
        return _file_with_ha(call, found, "hastart", starts=True)

    async def body(task: Task) -> None:
        container = cluster.need_in_task(call.node, call.vmid)  # a missing one fails here, not before
        async with locked(cluster, container, skiplock=skiplock):
            if container.is_template:
                raise TaskFailed("you can't start a CT if it's a template")
            await asyncio.sleep(cluster.timing.task)
            if container.seen_running:
                raise TaskFailed(f"CT {call.vmid} already running")
            try:
                await cluster.inside.start(container)
            except OSError as error:
                task.lines.append(str(error))
                raise TaskFailed(f"startup for container '{call.vmid}' failed") from None

    return cluster.fork(call, "vzstart", body)


async def stop(call: Call) -> str:
    cluster, skiplock = call.cluster, _skiplock(call)
    container = _running(call)
    if container.ha:
        return _file_with_ha(call, container, "hastop", starts=False)
    if "overrule-shutdown" in call.params and cluster.version < OVERRULE_SINCE:
        raise refused({"overrule-shutdown": UNKNOWN})
    if call.params.get("overrule-shutdown"):
        everybodys = call.may(f"/nodes/{call.node}", "Sys.Modify")
        for task in list(cluster.tasks.all.values()):
            mine = everybodys or task.who == call.who
            if mine and task.running and task.type == "vzshutdown" and task.id == str(call.vmid):
                await cluster.tasks.kill(task)

    async def body(task: Task) -> None:
        async with locked(cluster, container, skiplock=skiplock):
            await asyncio.sleep(cluster.timing.task)
            await cluster.inside.stop(container)

    return cluster.fork(call, "vzstop", body)


async def _shut_down(cluster: Cluster, container: Container, timeout: float, *, kill: bool) -> None:
    await asyncio.sleep(cluster.timing.task)
    waits = 1 if kill else WAITS
    if await cluster.inside.shutdown(container, timeout * waits * cluster.timing.second):
        return
    if not kill:
        raise TaskFailed("container did not stop")
    await cluster.inside.stop(container)


async def shutdown(call: Call) -> str:
    cluster = call.cluster
    container = _running(call)
    timeout = call.params.get("timeout", SHUTDOWN_SECONDS)
    if container.ha:
        return _file_with_ha(call, container, "hastop", starts=False)

    async def body(task: Task) -> None:
        async with locked(cluster, container):  # held for as long as the shutdown takes
            await _shut_down(cluster, container, timeout, kill=bool(call.params.get("forceStop")))

    return cluster.fork(call, "vzshutdown", body)


async def reboot(call: Call) -> str:
    cluster = call.cluster
    container = _running(call, "VM")  # sic

    async def body(task: Task) -> None:
        async with locked(cluster, container):
            await _shut_down(cluster, container, call.params.get("timeout", SHUTDOWN_SECONDS), kill=True)
            await asyncio.sleep(cluster.timing.task)
            await cluster.inside.start(container)

    return cluster.fork(call, "vzreboot", body)


async def suspend(call: Call) -> str:
    """A checkpoint by CRIU, not a freeze: where there is none, the worker fails."""
    cluster = call.cluster
    container = _running(call)

    async def body(task: Task) -> None:
        async with locked(cluster, container):
            await asyncio.sleep(cluster.timing.task)
            if not cluster.criu:
                command = f"lxc-checkpoint -n {call.vmid} -s -D /var/lib/vz/dump"
                raise TaskFailed(f"command '{command}' failed: exit code 1")
            await cluster.inside.stop(container)

    return cluster.fork(call, "vzsuspend", body)


async def resume(call: Call) -> str:
    cluster = call.cluster
    found = cluster.at(call.node, call.vmid)
    if found is not None and found.seen_running:
        raise died(f"CT {call.vmid} already running")

    async def body(task: Task) -> None:
        container = cluster.need_in_task(call.node, call.vmid)
        async with locked(cluster, container):
            await asyncio.sleep(cluster.timing.task)
            if not cluster.criu:
                command = f"lxc-checkpoint -n {call.vmid} -r --foreground -D /var/lib/vz/dump"
                raise TaskFailed(f"command '{command}' failed: exit code 1")
            await cluster.inside.start(container)

    return cluster.fork(call, "vzresume", body)
