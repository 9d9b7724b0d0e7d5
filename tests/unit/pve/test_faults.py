"""Faults of the connection, and the control path for those who aren't Python."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import tomllib
from typing import Any

import aiohttp
import pytest

from flow_manager.settings.runtime import RuntimeSettings
from tests.unit.pve.conftest import Api

C = "/nodes/pve1/lxc"


async def test_a_cut_connection_has_had_no_effect(api: Api) -> None:
    vmid = api.pve.add_container()
    api.pve.faults.cut("POST */status/start")
    with pytest.raises(aiohttp.ClientConnectionError):
        await api.post(f"{C}/{vmid}/status/start")
    assert api.pve.cluster.tasks.all == {}
    assert await api.ends("POST", f"{C}/{vmid}/status/start") == "OK"


async def test_a_recycled_worker_has_done_it_and_does_not_say_so(api: Api) -> None:
    vmid = api.pve.add_container()
    api.pve.faults.recycle("*/status/start")
    with pytest.raises(aiohttp.ClientConnectionError):
        await api.post(f"{C}/{vmid}/status/start")
    (task,) = api.pve.cluster.tasks.all.values()
    assert (await api.task(task.upid))["exitstatus"] == "OK"
    assert api.pve.containers[vmid].running
    assert [each.status for each in api.pve.requests if each.method == "POST"] == [200]


async def test_a_slow_answer_is_slow_on_its_path_alone(api: Api) -> None:
    api.pve.faults.slow(30, "/version")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await api.get("/version")
    assert (await api.get("/nodes")).status == 200
    api.pve.faults.clear()
    assert (await api.get("/version")).status == 200


async def test_any_answer_can_be_had_once(api: Api) -> None:
    api.pve.faults.answer(596, "Connection timed out", "/cluster/*", times=1)
    reply = await api.get("/cluster/resources")
    assert (reply.status, reply.reason, reply.body) == (596, "Connection timed out", None)
    assert (await api.get("/cluster/resources")).status == 200


async def test_a_whole_server_goes_and_comes_back(api: Api) -> None:
    assert (await api.get("/version")).status == 200
    api.pve.faults.down()
    with pytest.raises(aiohttp.ClientConnectionError):
        await api.get("/version")
    api.pve.faults.up()
    assert (await api.get("/version")).status == 200


# --- over HTTP --------------------------------------------------------------------------------------------------------


async def control(api: Api, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body)
    async with api.session.request(method, f"{api.pve.control_url}/{path}", data=data) as answer:
        return answer.status, json.loads(await answer.text())


async def test_faults_are_switched_over_http(api: Api) -> None:
    assert await control(api, "POST", "faults/node_offline", {"node": "pve2"}) == (200, {"ok": True, "result": None})
    assert (await api.get("/nodes/pve2/lxc")).status == 595
    assert (await control(api, "POST", "faults/storage_full"))[0] == 200
    assert api.pve.cluster.storages["local"].full
    status, told = await control(api, "POST", "faults/explode")
    assert (status, "node_offline" in told["error"]) == (404, True)
    assert (await control(api, "POST", "faults/close"))[0] == 404
    assert (await control(api, "POST", "faults/node_offline", {"planet": "x"}))[0] == 400
    assert (await control(api, "POST", "faults/node_offline", {"node": "x"}))[0] == 400


async def test_containers_are_made_and_handled_over_http(api: Api) -> None:
    _, told = await control(api, "POST", "containers", {"name": "web", "running": True})
    vmid = told["result"]
    status, rows = await control(api, "GET", "containers")
    assert (status, rows[0]["vmid"], rows[0]["status"]) == (200, vmid, "running")
    assert (await control(api, "POST", f"containers/{vmid}/stop"))[0] == 200
    assert (await api.get(f"{C}/{vmid}/status/current")).data["status"] == "stopped"
    assert (await control(api, "POST", f"containers/{vmid}/migrate", {"node": "pve2"}))[0] == 200
    assert api.pve.containers[vmid].node == "pve2"
    assert (await control(api, "POST", f"containers/{vmid}/dance"))[0] == 404
    assert (await control(api, "POST", f"containers/{vmid}/remove"))[0] == 200
    assert api.pve.containers == {}


async def test_calls_and_requests_are_told_over_http(api: Api) -> None:
    await api.get("/version")
    assert await control(api, "GET", "calls") == (200, {"GET /version": 1})
    _, requests = await control(api, "GET", "requests")
    assert [(each["path"], each["status"]) for each in requests] == [("/version", 200)]


async def test_without_its_secret_there_is_no_control(api: Api) -> None:
    async with api.session.post(f"{api.pve.url}/emulator/wrong/faults/down") as answer:
        assert answer.status in (401, 501)
    assert (await api.get("/version")).status == 200


# --- python -m tests.pve ----------------------------------------------------------------------------------------------


async def test_it_serves_by_itself_and_tells_how_to_use_it() -> None:
    command = (sys.executable, "-m", "tests.pve", "--port", "0", "--containers", "3", "--task-time", "0.01")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        text = ""
        async with asyncio.timeout(40):
            while "/calls" not in text:
                line = await process.stdout.readline()
                assert line, text
                text += line.decode()
        example = "\n".join(line for line in text.splitlines() if line.startswith("[") or " = " in line)
        facts = tomllib.loads(example)["runtimes"]["house"]
        RuntimeSettings.model_validate(facts)
        context = await asyncio.to_thread(ssl.create_default_context, cafile=facts["ca_file"])
        headers = {"Authorization": f"PVEAPIToken={facts['token_id']}={facts['secret']}"}
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
            url = f"{facts['url']}/api2/json/cluster/resources?type=vm"
            async with session.get(url, headers=headers) as answer:
                rows = (await answer.json())["data"]
        assert sorted(row["status"] for row in rows) == ["running", "stopped", "stopped"]
    finally:
        process.terminate()
        async with asyncio.timeout(20):
            await process.communicate()
    assert process.returncode == 0
