"""What is asked of a storage, and how a template gets there."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from aiohttp import web

from tests.pve.archive import read_image
from tests.pve.calls import Call
from tests.pve.errors import TaskFailed, died, forbidden, refused
from tests.pve.storage import TOTAL, Storage, Template
from tests.pve.tasks import Task


def _row(storage: Storage) -> dict[str, Any]:
    used = TOTAL if storage.full else storage.used
    return {
        "type": "dir",
        "content": storage.content,
        "active": int(storage.active and storage.enabled),
        "enabled": int(storage.enabled),
        "shared": 0,
        "total": TOTAL,
        "used": used,
        "avail": TOTAL - used,
    }


async def storages(call: Call) -> list[dict[str, Any]]:
    rows = []
    for name, storage in call.cluster.storages.items():
        wanted = call.params.get("content")
        if wanted and not set(wanted.split(",")) & set(storage.content.split(",")):
            continue
        if call.may(f"/storage/{name}", "Datastore.Audit", "Datastore.AllocateSpace", any=True):
            row = _row(storage)
            rows.append({**row, "storage": name, "used_fraction": row["used"] / TOTAL})
    return rows


async def index(call: Call) -> list[dict[str, str]]:
    names = ("content", "download-url", "oci-registry-pull", "status", "upload")
    return [{"subdir": name} for name in names]


async def status(call: Call) -> dict[str, Any]:
    return _row(call.cluster.storage(call.params["storage"]))


async def content(call: Call) -> list[dict[str, Any]]:
    storage = call.cluster.storage(call.params["storage"])
    if call.params.get("content", "vztmpl") != "vztmpl":
        return []
    return [
        {
            "volid": storage.volid(template),
            "content": "vztmpl",
            "format": template.format,
            "size": template.size,
            "ctime": template.ctime,
        }
        for template in storage.templates.values()
    ]


async def remove(call: Call) -> str:
    storage = call.cluster.storage(call.params["storage"])
    call.need(f"/storage/{storage.name}", "Datastore.AllocateTemplate")
    volid = str(call.params["volume"])
    if ":" not in volid:
        volid = f"{storage.name}:{volid}"
    if (template := storage.find(volid)) is None:
        raise died(f"volume '{volid}' does not exist")

    async def body(task: Task) -> None:
        await asyncio.sleep(call.cluster.timing.task)
        storage.templates.pop(template.name, None)

    return call.cluster.fork(call, "imgdel", body, id="")


async def upload(call: Call) -> str:
    """A file by multipart: `filename` is the file itself. An OCI archive is looked into, others are only noted."""
    storage = call.cluster.storage(call.params["storage"])
    file = call.params["filename"]
    if not isinstance(file, web.FileField):
        raise died("upload: no file")
    data = file.file.read()
    algorithm, wanted = call.params.get("checksum-algorithm"), call.params.get("checksum")
    name = file.filename

    async def body(task: Task) -> None:
        await asyncio.sleep(call.cluster.timing.task)
        if storage.full:
            raise TaskFailed("import failed: No space left on device")
        if algorithm and hashlib.new(algorithm, data).hexdigest() != str(wanted).lower():
            raise TaskFailed(f"checksum mismatch for uploaded file {name}")
        storage.templates[name] = Template(name, len(data), int(call.cluster.clock()), read_image(data))

    return call.cluster.fork(call, "imgcopy", body, id="")


async def pull(call: Call) -> str:
    cluster, reference = call.cluster, str(call.params["reference"])
    storage = cluster.storage(call.params["storage"])
    call.need(f"/nodes/{call.node}", "Sys.AccessNetwork")
    name = call.params.get("filename") or reference.rpartition("/")[2].replace(":", "_")
    name = name if name.endswith(".tar") else f"{name}.tar"
    if name in storage.templates:
        raise refused({"filename": f"'{name}' already exists"})

    async def body(task: Task) -> None:
        await asyncio.sleep(cluster.timing.task)
        if (image := cluster.registry.get(reference)) is None:
            raise TaskFailed(f"command 'skopeo copy docker://{reference}' failed: exit code 1")
        if storage.full:
            raise TaskFailed("command 'skopeo copy' failed: No space left on device")
        storage.templates[name] = Template(name, ctime=int(cluster.clock()), oci=image)

    return cluster.fork(call, "imgpull", body, id=name)


async def download(call: Call) -> str:
    """From an address. A checksum can't be held against anything here, and is taken for good."""
    cluster, url, name = call.cluster, str(call.params["url"]), str(call.params["filename"])
    storage = cluster.storage(call.params["storage"])
    if not (call.may("/", "Sys.Audit", "Sys.Modify") or call.may(f"/nodes/{call.node}", "Sys.AccessNetwork")):
        raise forbidden(f"/nodes/{call.node}, Sys.AccessNetwork")
    if name in storage.templates:
        raise died(f"refusing to override existing file '{name}'")

    async def body(task: Task) -> None:
        await asyncio.sleep(cluster.timing.task)
        if url not in cluster.downloads:
            raise TaskFailed(f"download of '{url}' to '{name}' failed: exit code 8")
        if storage.full:
            raise TaskFailed(f"download of '{url}' failed: No space left on device")
        storage.templates[name] = Template(name, ctime=int(cluster.clock()), oci=cluster.downloads[url])

    return cluster.fork(call, "download", body, id=name)
