"""What answers inside a container, and that nothing of it is left when it ends."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.pve.container import Behaviour
from tests.pve.emulator import Emulator
from tests.pve.storage import OciImage
from tests.unit.pve.conftest import Api, until

C = "/nodes/pve1/lxc"
LOOP = "sh -c 'echo pid $$; while :; do sleep 0.05; done'"


async def refuses(address: str) -> bool:
    host, _, port = address.partition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


async def test_a_running_container_answers_and_a_stopped_one_refuses(api: Api) -> None:
    vmid = api.pve.add_container(name="web")
    address = api.pve.address(vmid)
    assert await refuses(address)
    await api.ends("POST", f"{C}/{vmid}/status/start")
    async with api.session.post(f"http://{address}/a?b=c", data="body") as answer:
        assert (await answer.text()) == f"hello from CT {vmid} (web)\nPOST /a?b=c\nbody"
    async with api.session.ws_connect(f"http://{address}/ws") as websocket:
        await websocket.send_str("you")
        assert await websocket.receive_str() == "echo you"
        await api.ends("POST", f"{C}/{vmid}/status/stop")
        assert (await websocket.receive()).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSE)
    assert await refuses(address)


async def test_its_port_is_that_of_its_environment(api: Api) -> None:
    vmid = api.pve.add_container(running=True, env="A=1\0PORT=8123")
    assert api.pve.address(vmid).endswith(":8123")
    assert not await refuses(api.pve.address(vmid))


async def test_one_that_boots_slowly_runs_before_it_answers(api: Api) -> None:
    vmid = api.pve.add_container(behaviour=Behaviour(boot=30))
    await api.ends("POST", f"{C}/{vmid}/status/start")
    assert (await api.get(f"{C}/{vmid}/status/current")).data["status"] == "running"
    assert await refuses(api.pve.address(vmid))


async def test_an_entrypoint_really_runs_with_its_environment_and_no_other(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_HOST", "x")
    image = OciImage(entrypoint="sh -c 'env; echo done; exec sleep 60'", env={"FROM_IMAGE": "1"})
    volume = api.pve.add_template("env.tar", oci=image)
    await api.ends("POST", C, vmid=300, ostemplate=volume, env="FLOW_ID=abc\0TWO=two words")
    await api.ends("POST", f"{C}/300/status/start")
    container = api.pve.containers[300]
    await until(lambda: "done" in container.written, "it prints")
    lines = container.written.replace("\r", "").splitlines()
    assert {"FLOW_ID=abc", "TWO=two words", "container=lxc"} <= set(lines)
    assert not any(line.startswith(("SECRET_OF_THE_HOST", "FROM_IMAGE")) for line in lines)
    assert f"PVE_EMULATOR_ADDRESS={container.address}" in lines


async def test_a_program_that_ends_ends_its_container(api: Api) -> None:
    vmid = api.pve.add_container(running=True, entrypoint="sh -c 'echo bye; exit 3'")
    await until(lambda: not api.pve.containers[vmid].running, "it stops")
    assert "bye" in api.pve.containers[vmid].written


async def test_a_shutdown_sends_the_signal_of_the_image(api: Api) -> None:
    script = 'sh -c \'trap "echo interrupted; exit 0" INT; trap "" TERM; echo ready; while :; do sleep 0.05; done\''
    volume = api.pve.add_template("int.tar", oci=OciImage(entrypoint=script, stop_signal="SIGINT"))
    await api.ends("POST", C, vmid=300, ostemplate=volume)
    await api.ends("POST", f"{C}/300/status/start")
    container = api.pve.containers[300]
    await until(lambda: "ready" in container.written, "it is ready")
    assert await api.ends("POST", f"{C}/300/status/shutdown", timeout=20) == "OK"
    assert "interrupted" in container.written


async def test_a_stop_kills_everything_of_its_session(api: Api) -> None:
    vmid = api.pve.add_container(running=True, entrypoint="sh -c 'sleep 1000 & echo child $!; exec sleep 1000'")
    container = api.pve.containers[vmid]
    await until(lambda: "child" in container.written and "\n" in container.written, "it has a child")
    child = int(container.written.split()[1])
    assert psutil.pid_exists(child)
    await api.ends("POST", f"{C}/{vmid}/status/stop")
    await until(lambda: not psutil.pid_exists(child), "the child is gone")


async def test_a_port_that_is_taken_makes_the_start_fail(api: Api) -> None:
    vmid = api.pve.add_container()
    host, _, port = api.pve.address(vmid).partition(":")
    with socket.create_server((host, int(port))):
        assert await api.ends("POST", f"{C}/{vmid}/status/start") == f"startup for container '{vmid}' failed"
        assert not api.pve.containers[vmid].running
    assert await api.ends("POST", f"{C}/{vmid}/status/start") == "OK"


async def test_one_that_is_stopped_before_its_program_has_begun_runs_nothing(api: Api) -> None:
    vmid = api.pve.add_container(running=True, entrypoint=LOOP)
    await api.pve.containers[vmid].stop_outside()
    await api.pve.cluster.inside.settle()
    program = api.pve.containers[vmid].program
    await until(lambda: program is None or program.ended.is_set(), "the program is gone")
    assert not api.pve.containers[vmid].running


async def test_an_emulator_whose_port_is_taken_does_not_open_and_leaves_nothing(api: Api) -> None:
    second = Emulator(port=int(api.pve.url.rpartition(":")[2]))
    with pytest.raises(OSError, match="in use"):
        await second.open()
    assert not second.ca_file.parent.exists()


async def test_nothing_of_an_emulator_is_left(api: Api) -> None:
    vmid = api.pve.add_container(running=True, entrypoint=LOOP)
    container, folder = api.pve.containers[vmid], api.pve.ca_file.parent
    await until(lambda: "pid" in container.written, "it runs")
    program, address = container.pid, api.pve.address(api.pve.add_container(running=True))
    assert program and psutil.pid_exists(program)
    await api.pve.close()
    assert not psutil.pid_exists(program)
    assert await refuses(address)
    assert not Path(folder).exists()
