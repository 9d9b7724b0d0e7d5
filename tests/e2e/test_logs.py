"""Logs and figures of real flows through the whole service."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from flow_manager.settings.models import Settings
from tests.e2e.conftest import Platform, running

WRITES = "echo out; echo err >&2; while :; do sleep 0.1; n=$((n+1)); echo line $n; done"


def writer(platform: Platform) -> dict[str, Any]:
    if platform.kind == "memory":
        return {"image": "memory", "command": ["count"]}
    return {"image": platform.sleeper["image"], "command": ["sh", "-c", WRITES]}


def texts(client: Any) -> list[str]:
    return [line["text"] for event in client.events("log_lines") for line in event["lines"]]


async def test_lines_are_followed_across_a_restart_and_a_sleep_until_the_flow_is_deleted(
    platform: Platform, connect
) -> None:
    async with running(platform.settings()) as service:
        client = await connect(service)
        flow = (await client.ok("create_container", name="writer", start=True, **writer(platform)))["id"]
        followed = await client.ok("follow_logs", container_id="writer", tail=1000)
        await client.until(lambda: "line 3" in texts(client))
        await client.ok("restart_container", container_id="writer", timeout=0)
        await client.until(lambda: texts(client).count("line 3") == 2)
        await client.ok("set_idle_policy", container_id="writer", idle={"idle_timeout": 600, "stop_timeout": 0})
        await client.ok("sleep_container", container_id="writer")
        last = (await client.ok("get_logs", container_id="writer", tail=1))["lines"][0]
        assert (await client.ok("get_status", container_id="writer"))["flow_state"] == "napping"
        await client.until(lambda: texts(client)[-1] == last["text"])
        await client.ok("wake_container", container_id="writer")
        await client.until(lambda: texts(client).count("line 3") == 3)
        await client.ok("stop_container", container_id="writer", timeout=0)
        whole = (await client.ok("get_logs", container_id="writer", tail=10_000))["lines"]
        await client.until(lambda: len(texts(client)) == len(whole))
        assert [line for event in client.events("log_lines") for line in event["lines"]] == whole
        assert {line["stream"] for line in whole} == ({"stdout"} if platform.kind == "memory" else {"stdout", "stderr"})
        await client.ok("delete_container", container_id="writer")
        await client.until(lambda: client.events("log_lines")[-1].get("ended") == "container_not_found")
        assert client.events("log_lines")[-1]["subscription_id"] == followed["subscription_id"]
        assert client.events("log_lines")[-1]["container_id"] == flow


async def test_figures_come_with_the_first_status_and_to_those_who_follow(platform: Platform, connect) -> None:
    async with running(platform.settings()) as service:
        client = await connect(service)
        await client.ok("create_container", name="writer", start=True, **writer(platform))
        async with asyncio.timeout(20):
            # On a machine that is busy starting it, a first reading may take longer than a status waits.
            while True:
                used = (await client.ok("get_status", container_id="writer"))["resource_usage"]
                if used["cpu_percent"] is not None and used["memory_bytes"]:
                    break
                await asyncio.sleep(0.1)
        assert used["pids"] >= 1
        await client.ok("follow_usage", container_id="writer")
        await client.until(lambda: len(client.events("resource_usage")) >= 3)
        await client.ok("stop_container", container_id="writer", timeout=0)
        await client.until(lambda: client.events("resource_usage")[-1]["resource_usage"]["memory_bytes"] is None)
        assert (await client.ok("get_status", container_id="writer"))["resource_usage"]["memory_bytes"] is None


async def test_the_command_line_follows_and_ends_with_the_flow(process_platform: Platform, connect) -> None:
    async with running(process_platform.settings()) as service:
        client = await connect(service)
        await client.ok("create_container", name="writer", start=True, **writer(process_platform))
        program = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "flow_manager", "logs", "-f", "--url", service.url, "writer",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            assert program.stdout is not None
            async with asyncio.timeout(30):
                while (await program.stdout.readline()) != b"line 5\n":
                    pass
                await client.ok("delete_container", container_id="writer", force=True)
                _out, err = await program.communicate()
        finally:
            if program.returncode is None:
                program.kill()
                await program.wait()
        assert program.returncode == 0, err
        assert err == b"err\n"


@pytest.mark.docker
@pytest.mark.parametrize("tty", [False, True])
async def test_two_hundred_followers_of_a_chatty_container_come_and_go(
    docker_platform: Platform, connect, tty: bool
) -> None:
    """One engine stream for all; other calls stay fast; nothing is left of them."""
    settings: Settings = docker_platform.settings()
    async with running(settings) as service:
        client = await connect(service)
        command = ["sh", "-c", "while :; do echo a line that is some forty letters long; done"]
        image = docker_platform.sleeper["image"]
        await client.ok("create_container", name="chatty", start=True, image=image, command=command, tty=tty)
        runtime = service._runtimes["docker"]
        before = runtime.client._open_streams  # type: ignore[attr-defined]
        slowest = 0.0
        loop = asyncio.get_running_loop()
        for _ in range(3):
            followed = await asyncio.gather(
                *(client.ok("follow_logs", container_id="chatty", tail=1) for _ in range(200))
            )
            assert runtime.client._open_streams <= before + 1  # type: ignore[attr-defined]
            for _ in range(5):
                began = loop.time()
                await runtime.inspect((await client.ok("get_container", container_id="chatty"))["id"])
                slowest = max(slowest, loop.time() - began)
            await asyncio.gather(*(client.ok("unfollow_logs", **one) for one in followed))
            client.seen.clear()
        await client.ok("kill_container", container_id="chatty")
        # A chatty container fills two cores; what waited for its stream would wait until its time-out, ten seconds.
        assert slowest < 8.0
        async with asyncio.timeout(10):
            while runtime.client._open_streams > before:  # type: ignore[attr-defined]  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await client.ok("delete_container", container_id="chatty")
