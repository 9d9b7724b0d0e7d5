"""Create, clone, template and delete."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from tests.pve import power
from tests.pve.calls import Call
from tests.pve.cluster import Cluster
from tests.pve.configure import check_bridges, check_options, written
from tests.pve.container import Container
from tests.pve.errors import TaskFailed, died
from tests.pve.options import NOT_KEPT, plain
from tests.pve.storage import OciImage, Template
from tests.pve.tasks import Task

DEFAULT_STORAGE = "local"
# What a full storage's programs say.
FULL = "No space left on device"


def _storage_of(call: Call) -> str:
    """Where the root file system is made: `STORAGE:SIZE`, or `storage`, or the default."""
    rootfs = str(call.params.get("rootfs", ""))
    volume = rootfs.split(",")[0].removeprefix("volume=")
    return volume.partition(":")[0] if ":" in volume else str(call.params.get("storage", DEFAULT_STORAGE))


def _rootfs(container: Container, call: Call, storage: str) -> str:
    volume = str(call.params.get("rootfs", "")).split(",")[0].removeprefix("volume=").partition(":")[2] or "4"
    if volume in ("0", "0.0"):
        return f"{storage}:{container.vmid}/subvol-{container.vmid}-disk-0.subvol"
    return f"{storage}:{container.vmid}/vm-{container.vmid}-disk-0.raw,size={volume}G"


def _exists(cluster: Cluster, vmid: int) -> None:
    if (why := cluster.taken(vmid)) is not None:
        raise died(why)


async def create(call: Call) -> str:
    cluster, vmid = call.cluster, call.vmid
    pool = call.params.get("pool")
    if not (pool and call.may(f"/pool/{pool}", "VM.Allocate")):
        call.need(f"/vms/{vmid}", "VM.Allocate")
    _exists(cluster, vmid)
    options = {name: value for name, value in call.params.items() if name not in NOT_KEPT}
    options.setdefault("unprivileged", 1)
    if not options["unprivileged"]:
        call.need("/", "Sys.Modify")
    check_options(call, options)
    storage = _storage_of(call)
    call.need(f"/storage/{storage}", "Datastore.AllocateSpace")
    check_bridges(call, options)
    template = cluster.template(str(call.params["ostemplate"]))
    call.need(
        f"/storage/{call.params['ostemplate'].partition(':')[0]}",
        "Datastore.AllocateSpace",
        "Datastore.Audit",
        any=True,
    )
    room = cluster.storage(storage)
    if template.oci is not None and not cluster.has_oci:
        raise died(f"unable to create CT {vmid} - unable to detect OS distribution")

    # Its configuration is there at once, locked, and nobody else gets the number.
    container = cluster.add(call.node, vmid, {"lock": "create"})
    container.pool = str(pool) if pool else None
    container.ha = bool(call.params.get("ha-managed"))

    async def body(task: Task) -> None:
        try:
            await asyncio.sleep(cluster.timing.task)
            if room.full:
                raise TaskFailed(f"unable to create CT {vmid} - unable to write root file system: {FULL}")
            _fill(container, call, options, template, storage)
        except (TaskFailed, asyncio.CancelledError):
            cluster.forget(container)
            raise
        if call.params.get("start"):
            # A worker of its own, whose UPID the caller is not told.
            cluster.tasks.fork(call.node, "vzstart", str(vmid), call.who, starts, delay=cluster.timing.task)

    async def starts(task: Task) -> None:
        async with power.locked(cluster, container):
            await asyncio.sleep(cluster.timing.task)
            await cluster.inside.start(container)

    return cluster.fork(call, "vzcreate", body)


def _fill(container: Container, call: Call, options: dict[str, Any], template: Template, storage: str) -> None:
    if template.oci is not None:
        _from_image(container, template.oci)
        # Nothing in such an image sets up the network: the server does it from outside.
        for name, value in options.items():
            if plain(name) == "net" and "host-managed" not in str(value):
                options[name] = f"{value},host-managed=1"
    config = container.config
    config |= {"arch": "amd64", "memory": 512, "swap": 512, "ostype": _system(template)}
    config |= {name: written(container, name, value) for name, value in options.items()}
    config["rootfs"] = _rootfs(container, call, storage)
    config.setdefault("hostname", f"CT{container.vmid}")
    config.pop("lock", None)
    if "lock" in options:
        config["lock"] = options["lock"]
    container.note(call.cluster.clock())


def _from_image(container: Container, image: OciImage) -> None:
    container.behaviour = replace(container.behaviour, serves=image.serves)
    container.config |= {"cmode": "console"}
    if image.entrypoint:
        container.config["entrypoint"] = image.entrypoint
    if image.env:
        container.config["env"] = "\0".join(f"{name}={value}" for name, value in image.env.items())
    container.raw = [("lxc.signal.halt", image.stop_signal)]
    if image.working_dir:
        container.raw.append(("lxc.init.cwd", image.working_dir))
    if image.user:
        container.raw.append(("lxc.init.uid", image.user))


def _system(template: Template) -> str:
    name = template.name.partition("-")[0]
    return name if name in ("debian", "ubuntu", "alpine", "fedora") else "unmanaged"


async def clone(call: Call) -> str:
    cluster, newid = call.cluster, int(call.params["newid"])
    pool = call.params.get("pool")
    if not (pool and call.may(f"/pool/{pool}", "VM.Allocate")):
        call.need(f"/vms/{newid}", "VM.Allocate")
    source = cluster.need(call.node, call.vmid)
    storage = str(call.params.get("storage") or str(source.config.get("rootfs", "local:")).partition(":")[0])
    call.need(f"/storage/{storage}", "Datastore.AllocateSpace")
    check_bridges(call, source.config)
    target = str(call.params.get("target", call.node))
    if target not in cluster.nodes:
        raise died(f"no such cluster node '{target}'")
    room = cluster.storage(storage)
    if source.lock:
        raise died(f"CT is locked ({source.lock})")
    full = bool(call.params.get("full", not source.is_template))
    if full and source.running and not call.params.get("snapname"):
        raise died("Full clone of a running container is only possible from a snapshot")
    if not full:
        raise died(f"Linked clone feature for '{source.config.get('rootfs', 'rootfs')}' is not available")
    _exists(cluster, newid)
    copy = cluster.add(target, newid, {"lock": "create"})
    copy.pool = str(pool) if pool else None

    async def body(task: Task) -> None:
        try:
            await asyncio.sleep(cluster.timing.task)
            if room.full:
                raise TaskFailed(f"clone failed: {FULL}")
        except (TaskFailed, asyncio.CancelledError):
            cluster.forget(copy)
            raise
        kept = {name: value for name, value in source.config.items() if name not in ("lock", "template")}
        kept["rootfs"] = str(kept.get("rootfs", "")).replace(f"{source.vmid}", f"{newid}")
        for name, value in list(kept.items()):
            if plain(name) == "net":  # another card, but the same ip=
                kept[name] = written(copy, name, _without(str(value), "hwaddr"))
        copy.raw = list(source.raw)
        copy.behaviour = replace(source.behaviour)
        copy.note(cluster.clock())
        copy.config = kept
        for name in ("hostname", "description"):
            if name in call.params:
                copy.config[name] = call.params[name]

    return cluster.fork(call, "vzclone", body)


def _without(text: str, key: str) -> str:
    return ",".join(part for part in text.split(",") if not part.startswith(f"{key}="))


async def template(call: Call) -> None:
    container = call.cluster.need(call.node, call.vmid)
    if container.running:
        raise died("you can't convert a CT to template if the CT is running")
    container.config["template"] = 1


async def destroy(call: Call) -> str:
    cluster = call.cluster
    container = cluster.need(call.node, call.vmid)
    if container.config.get("protection"):
        raise died(f"can't remove CT {call.vmid} - protection mode enabled")
    if container.ha and not call.params.get("purge"):
        raise died(f"unable to remove CT {call.vmid} - used in HA resources and purge parameter not set.")
    if container.seen_running and not call.params.get("force"):
        raise died(f"unable to destroy CT {call.vmid} - container is running")

    async def body(task: Task) -> None:
        async with power.locked(cluster, container):
            await asyncio.sleep(cluster.timing.task)
            if container.seen_running and not call.params.get("force"):
                raise TaskFailed(f"unable to destroy CT {call.vmid} - container is running")
            await cluster.inside.stop(container)
            cluster.forget(container)

    return cluster.fork(call, "vzdestroy", body)
