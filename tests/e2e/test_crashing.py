"""A flow that crashes right after each start: started again ever more rarely, whoever asks, and whoever waits hears why."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from flow_manager.app import Service

# Long enough to be called ready, where nothing but running is asked for; it listens, for those who come by a port.
PROGRAM = """
import os, socket, sys, time
listener = socket.create_server(("127.0.0.1", int(os.environ.get("PORT", "0"))))
time.sleep(0.15)
os._exit(3)
"""
# Seconds for which it is asked for, many times a second. Held back for 1, 2, 4 s it is started at 0 and 1 s, and once more where
# the machine is slow; else ten times.
ASKED_FOR, MOST_STARTS = 2.5, 3
PAUSE = 0.1


async def crashing(client: Any, kind: str, **fields: Any) -> str:
    command = ["die-soon", "3"] if kind == "memory" else [sys.executable, "-c", PROGRAM]
    image = "memory" if kind == "memory" else "local"
    made = await client.ok("create_container", name="crashing", image=image, command=command, start=False, **fields)
    return str(made["id"])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def starts(client: Any) -> int:
    """Each start ends with one of these."""
    return sum(kind in ("flow_failed", "wake_failed") for kind in client.activity())


async def ask_again_and_again(ask: Callable[[], Awaitable[object]]) -> list[object]:
    loop = asyncio.get_running_loop()
    told: list[object] = []
    end = loop.time() + ASKED_FOR
    while loop.time() < end:
        told.append(await ask())
        await asyncio.sleep(PAUSE)
    return told


@pytest.mark.parametrize("kind", ["memory", "process"])
@pytest.mark.parametrize("idle", [None, {"idle_timeout": 60}], ids=["without a policy", "with a policy"])
async def test_messages_start_it_ever_more_rarely_and_who_waits_hears_the_exit_code_and_when_to_come_back(
    request: pytest.FixtureRequest, connect: Callable[..., Any], kind: str, idle: dict[str, Any] | None
) -> None:
    platform = request.getfixturevalue(f"{kind}_platform")
    async with Service(platform.settings()) as service:
        client = await connect(service)
        await client.ok("subscribe_activity")
        flow = await crashing(client, kind, **({"idle": idle} if idle else {}))

        async def send() -> dict[str, Any]:
            message = {"container_id": flow, "message": {}, "wake": True, "expect_reply": True, "timeout": 20}
            return await client.refused("send_message", **message)

        replies: Any = await ask_again_and_again(send)
        for reply in replies:
            assert reply["code"] == "start_failed", reply
            assert (reply["details"]["exit_code"], reply["details"]["queued"]) == (3, True)
            assert reply["details"]["retry_after"] >= 1
        assert 1 <= starts(client) <= MOST_STARTS
        await client.ok("delete_container", container_id=flow, force=True)


@pytest.mark.parametrize("by", ["exec", "http", "tcp"])
async def test_commands_requests_and_connections_start_it_ever_more_rarely(
    process_platform: Any, connect: Callable[..., Any], by: str
) -> None:
    tcp_port, port = free_port(), free_port()
    routes = [{"listen": f"127.0.0.1:{tcp_port}", "container": "crashing", "port": port}]
    async with Service(process_platform.settings(tcp_routes=routes)) as service, aiohttp.ClientSession() as http:
        client = await connect(service)
        await client.ok("subscribe_activity")
        idle = {"idle_timeout": 60, "ready": {"delay": 0}} if by == "exec" else {"idle_timeout": 60}
        flow = await crashing(client, "process", idle=idle, port=port, environment={"PORT": str(port)})

        async def run() -> object:
            return (await client.call("exec_container", container_id=flow, command=["true"])).get("code")

        async def get() -> object:
            async with http.get(service.proxy_url, headers={"Host": "crashing.localhost"}) as response:
                return response.status

        async def join() -> object:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", tcp_port)
                await reader.read()
                writer.close()
            return None

        ways: dict[str, Callable[[], Awaitable[object]]] = {"exec": run, "http": get, "tcp": join}
        assert len(await ask_again_and_again(ways[by])) > 0
        assert 1 <= starts(client) <= MOST_STARTS
        await client.ok("delete_container", container_id=flow, force=True)
