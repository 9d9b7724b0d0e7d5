"""Containers come and go: from a template, from an image, by clone; and why they don't."""

from __future__ import annotations

import io
import json
import tarfile
from typing import Any

import aiohttp
import pytest

from tests.pve.storage import OciImage
from tests.unit.pve.conftest import Api, served, until

C = "/nodes/pve1/lxc"
DEBIAN = "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst"
NET = "name=eth0,bridge=vmbr0,ip=dhcp"


async def create(api: Api, vmid: int, **params: Any) -> str:
    return await api.ends("POST", C, vmid=vmid, **{"ostemplate": DEBIAN, **params})


async def test_a_container_is_made_of_a_template(api: Api) -> None:
    assert await create(api, 300, hostname="web", rootfs="local:2", net0=NET, tags="a,b", description="text") == "OK"
    config = (await api.get(f"{C}/300/config")).data
    told = {name: config[name] for name in ("hostname", "memory", "swap", "ostype", "unprivileged", "tags", "rootfs")}
    assert told == {
        "hostname": "web",
        "memory": 512,
        "swap": 512,
        "ostype": "debian",
        "unprivileged": 1,
        "tags": "a;b",
        "rootfs": "local:300/vm-300-disk-0.raw,size=2G",
    }
    assert "lock" not in config


async def test_nextid_is_a_string_and_no_reservation(api: Api) -> None:
    api.pve.add_container(vmid=100)
    assert (await api.get("/cluster/nextid")).data == "101"
    assert (await api.get("/cluster/nextid")).data == "101"
    assert (await api.get("/cluster/nextid", vmid=200)).data == "200"
    reply = await api.get("/cluster/nextid", vmid=100)
    assert (reply.status, reply.body["errors"]) == (400, {"vmid": "VM 100 already exists"})


async def test_a_number_that_is_taken_is_a_500_on_every_node(api: Api) -> None:
    api.pve.add_container("pve2", vmid=100)
    reply = await api.post(C, vmid=100, ostemplate=DEBIAN)
    assert (reply.status, reply.reason) == (500, "CT 100 already exists on node 'pve2'")


async def test_while_it_is_made_it_is_locked_and_its_number_taken(api: Api) -> None:
    api.pve.cluster.timing.task = 600
    upid = (await api.post(C, vmid=300, ostemplate=DEBIAN)).data
    assert (await api.get(f"{C}/300/config")).data["lock"] == "create"
    assert (await api.post(C, vmid=300, ostemplate=DEBIAN)).status == 500
    assert (await api.get("/cluster/nextid", vmid=300)).status == 400
    assert await api.ends("POST", f"{C}/300/status/start") == "CT is locked (create)"
    for who in ("flow@pve", "flow@pve!flow"):
        api.pve.grant(who, {"/nodes": ("Sys.Modify",)})
    await api.delete(f"/nodes/pve1/tasks/{upid}")
    assert (await api.get(f"{C}/300/config")).status == 500  # nothing is left of one that was killed


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"ostemplate": "local:vztmpl/no.tar.zst"}, "volume 'local:vztmpl/no.tar.zst' does not exist"),
        ({"ostemplate": "nfs:vztmpl/no.tar.zst"}, "storage 'nfs' does not exist"),
    ],
)
async def test_a_template_that_is_not_there_is_a_500_and_leaves_nothing(
    api: Api, params: dict[str, str], text: str
) -> None:
    reply = await api.post(C, vmid=300, **params)
    assert (reply.status, reply.reason) == (500, text)
    assert 300 not in api.pve.containers


async def test_a_full_storage_makes_the_task_fail_and_leaves_nothing(api: Api) -> None:
    api.pve.faults.storage_full("local")
    assert "No space left on device" in await create(api, 300)
    assert 300 not in api.pve.containers
    assert (await api.get("/nodes/pve1/storage/local/status")).data["avail"] == 0
    api.pve.faults.storage_free("local")
    assert await create(api, 300) == "OK"


async def test_start_1_starts_it_by_a_second_task(api: Api) -> None:
    assert await create(api, 300, start=1) == "OK"
    await until(lambda: api.pve.containers[300].running, "it starts")
    await until(lambda: not any(task.running for task in api.pve.cluster.tasks.all.values()), "the task ends")
    assert [row["type"] for row in (await api.get("/nodes/pve1/tasks")).data] == ["vzstart", "vzcreate"]


# --- images -----------------------------------------------------------------------------------------------------------


async def test_an_image_brings_its_environment_and_what_it_starts(api: Api) -> None:
    image = OciImage(entrypoint="/bin/serve --fast", env={"A": "1", "B": "two words"}, working_dir="/srv", user="1000")
    volume = api.pve.add_template("image.tar", oci=image)
    assert await create(api, 300, ostemplate=volume, net0=NET) == "OK"
    config = (await api.get(f"{C}/300/config")).data
    assert (config["entrypoint"], config["env"], config["cmode"]) == (
        "/bin/serve --fast",
        "A=1\0B=two words",
        "console",
    )
    assert "host-managed=1" in config["net0"]
    assert ["lxc.signal.halt", "SIGTERM"] in config["lxc"]
    assert {"lxc.init.cwd", "lxc.init.uid"} <= {name for name, _ in config["lxc"]}


async def test_a_caller_overrules_the_image(api: Api) -> None:
    assert await create(api, 300, ostemplate="local:vztmpl/loop.tar", env="FLOW=x", cmode="shell") == "OK"
    config = (await api.get(f"{C}/300/config")).data
    assert (config["env"], config["cmode"]) == ("FLOW=x", "shell")


async def test_before_9_1_there_are_no_images() -> None:
    async with served(version="8.4.1") as api:
        reply = await api.post(C, vmid=300, ostemplate="local:vztmpl/loop.tar")
        assert reply.status == 500
        role = {"/storage/local": ("Datastore.AllocateTemplate",)}
        token = api.pve.token("up", user="up@pve", role=role)
        puller = Api.by_token(api.pve, api.session, token)
        reply = await puller.post("/nodes/pve1/storage/local/oci-registry-pull", reference="alpine:3")
        assert reply.status == 501


def archive(config: dict[str, Any]) -> bytes:
    blobs = {"blobs/sha256/c": {"config": config}, "blobs/sha256/m": {"config": {"digest": "sha256:c"}}}
    blobs["index.json"] = {"manifests": [{"digest": "sha256:m"}]}
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in blobs.items():
            data = json.dumps(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


async def upload(api: Api, content: str, data: bytes, **more: str) -> aiohttp.ClientResponse:
    form = aiohttp.FormData({"content": content, **more})
    form.add_field("filename", data, filename="mine.tar")
    url = f"{api.pve.url}/api2/json/nodes/pve1/storage/local/upload"
    async with api.session.post(url, data=form, headers=api.headers) as answer:
        await answer.read()
        return answer


async def test_an_image_is_uploaded_and_used(api: Api) -> None:
    data = archive({"Entrypoint": ["/bin/sh"], "Cmd": ["-c", "sleep 9"], "Env": ["A=1"], "StopSignal": "SIGINT"})
    answer = await upload(api, "vztmpl", data)
    assert answer.status == 200
    await api.task((await answer.json())["data"])
    volumes = {row["volid"]: row for row in (await api.get("/nodes/pve1/storage/local/content", content="vztmpl")).data}
    assert volumes["local:vztmpl/mine.tar"]["size"] == len(data)
    assert await create(api, 300, ostemplate="local:vztmpl/mine.tar") == "OK"
    config = (await api.get(f"{C}/300/config")).data
    assert (config["entrypoint"], config["env"]) == ("/bin/sh -c 'sleep 9'", "A=1")
    assert ["lxc.signal.halt", "SIGINT"] in config["lxc"]


async def test_snippets_can_not_be_uploaded(api: Api) -> None:
    assert (await upload(api, "snippets", b"x")).status == 400


async def test_an_image_is_pulled_where_its_registry_has_it(api: Api) -> None:
    api.pve.cluster.registry["example.test/team/app:1"] = OciImage(entrypoint="/app")
    path = "/nodes/pve1/storage/local/oci-registry-pull"
    assert (await api.post(path, reference="example.test/team/app:1")).status == 403  # Sys.AccessNetwork
    for who in ("flow@pve", "flow@pve!flow"):
        api.pve.grant(who, {"/nodes": ("Sys.AccessNetwork",)})
    assert await api.ends("POST", path, reference="example.test/team/app:1") == "OK"
    assert "skopeo" in await api.ends("POST", path, reference="example.test/team/app:2")
    assert await create(api, 300, ostemplate="local:vztmpl/app_1.tar") == "OK"
    assert await api.ends("DELETE", "/nodes/pve1/storage/local/content/local:vztmpl/app_1.tar") == "OK"
    assert (await api.post(C, vmid=301, ostemplate="local:vztmpl/app_1.tar")).status == 500
    assert (await api.post(path, reference="no tag")).status == 400


async def test_a_template_is_downloaded_where_it_is_to_be_had(api: Api) -> None:
    api.pve.cluster.downloads["https://example.test/x.tar.zst"] = None
    api.pve.grant("flow@pve", {"/nodes": ("Sys.AccessNetwork",)})
    api.pve.grant("flow@pve!flow", {"/nodes": ("Sys.AccessNetwork",)})
    path = "/nodes/pve1/storage/local/download-url"
    params = {"content": "vztmpl", "filename": "x.tar.zst"}
    assert await api.ends("POST", path, url="https://example.test/x.tar.zst", **params) == "OK"
    assert (await api.post(path, url="https://example.test/x.tar.zst", **params)).status == 500
    params["filename"] = "y.tar.zst"
    assert "failed" in await api.ends("POST", path, url="https://example.test/y.tar.zst", **params)
    assert (await api.post(path, url="ftp://example.test/y", **params)).status == 400
    assert await create(api, 300, ostemplate="local:vztmpl/x.tar.zst") == "OK"


# --- clones -----------------------------------------------------------------------------------------------------------


async def test_a_clone_has_a_card_of_its_own_and_the_address_of_the_other(api: Api) -> None:
    net = "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01,ip=10.0.0.5/24,type=veth"
    vmid = api.pve.add_container(net0=net, tags="golden")
    assert await api.ends("POST", f"{C}/{vmid}/clone", newid=300, hostname="copy", full=1, target="pve2") == "OK"
    config = (await api.get("/nodes/pve2/lxc/300/config")).data
    assert (config["hostname"], config["tags"]) == ("copy", "golden")
    assert "ip=10.0.0.5/24" in config["net0"]
    assert "BC:24:11:00:00:01" not in config["net0"]


async def test_a_clone_is_refused_for_a_running_one_a_taken_number_and_a_link(api: Api) -> None:
    runs, still = api.pve.add_container(running=True), api.pve.add_container()
    golden = api.pve.add_container(template=True)
    seen = [
        (await api.post(f"{C}/{runs}/clone", newid=300)).reason,
        (await api.post(f"{C}/{still}/clone", newid=runs)).reason,
        (await api.post(f"{C}/{golden}/clone", newid=300)).reason,
    ]
    assert seen == [
        "Full clone of a running container is only possible from a snapshot",
        f"CT {runs} already exists on node 'pve1'",
        f"Linked clone feature for 'local:{golden}/vm-{golden}-disk-0.raw,size=4G' is not available",
    ]
    assert await api.ends("POST", f"{C}/{golden}/clone", newid=300, full=1) == "OK"
    assert "template" not in (await api.get(f"{C}/300/config")).data


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_a_running_container_is_not_deleted_without_force(api: Api) -> None:
    vmid = api.pve.add_container(running=True)
    reply = await api.delete(f"{C}/{vmid}")
    assert (reply.status, reply.reason) == (500, f"unable to destroy CT {vmid} - container is running")
    assert await api.ends("DELETE", f"{C}/{vmid}", force=1, purge=1) == "OK"
    assert (await api.get(f"{C}/{vmid}/config")).status == 500


async def test_a_protected_container_is_not_deleted(api: Api) -> None:
    vmid = api.pve.add_container(protection=1)
    assert "protection mode enabled" in (await api.delete(f"{C}/{vmid}", force=1)).reason
