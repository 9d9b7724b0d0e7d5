"""The emulator as proxmoxer sees it, from a first look to a container that was created, run and deleted."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from proxmoxer import ProxmoxAPI

from tests.pve.emulator import Emulator

PATIENCE = 15.0


def client(pve: Emulator, token: tuple[str, str]) -> ProxmoxAPI:
    user, _, name = token[0].partition("!")
    host = pve.url.removeprefix("https://")
    return ProxmoxAPI(
        host, user=user, token_name=name, token_value=token[1], verify_ssl=str(pve.ca_file), timeout=PATIENCE
    )


def ended(api: ProxmoxAPI, node: str, upid: str) -> str:
    deadline = time.monotonic() + PATIENCE
    while (status := api.nodes(node).tasks(upid).status.get())["status"] != "stopped":
        assert time.monotonic() < deadline, upid
        time.sleep(0.005)
    return str(status["exitstatus"])


async def test_a_container_is_created_started_asked_stopped_and_deleted_through_proxmoxer() -> None:
    async with Emulator() as pve:
        token = pve.token()
        seen = await asyncio.to_thread(_live, client(pve, token))
    assert seen == {
        "nextid": "100",
        "create": "OK",
        "start": "OK",
        "status": "running",
        "shutdown": "OK",
        "delete": "OK",
        "left": [],
    }


def _live(api: ProxmoxAPI) -> dict[str, Any]:
    seen: dict[str, Any] = {"nextid": api.cluster.nextid.get()}
    node = api.nodes("pve2")
    upid = node.lxc.post(
        vmid=seen["nextid"], ostemplate="local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst", rootfs="local:4"
    )
    seen["create"] = ended(api, "pve2", upid)
    seen["start"] = ended(api, "pve2", node.lxc(100).status.start.post())
    seen["status"] = node.lxc(100).status.current.get()["status"]
    seen["shutdown"] = ended(api, "pve2", node.lxc(100).status.shutdown.post(timeout=5))
    seen["delete"] = ended(api, "pve2", node.lxc(100).delete())
    seen["left"] = node.lxc.get()
    return seen
