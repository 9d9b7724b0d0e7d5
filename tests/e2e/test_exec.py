"""Commands in flows through the whole service, with a plain client, on each runtime."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from flow_manager.app import Service
from flow_manager.client import FlowManagerClient
from flow_manager.runtimes.process.kernel import find_session_leader
from flow_manager.settings.models import Settings
from flow_manager.testing import eventually
from tests.e2e.conftest import Client, Platform
from tests.e2e.conftest import running as running_service

MIB = 1024 * 1024


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Service]:
    """A service whose flows are gone afterwards: a container would go on."""
    async with running_service(settings) as service:
        try:
            yield service
        finally:
            async with FlowManagerClient(service.url) as client:
                for flow in await client.list_containers():
                    await client.delete_container(flow.id, force=True)


async def flow(client: Client, platform: Platform, **fields: Any) -> str:
    made = await client.ok("create_container", **{**platform.sleeper, **fields}, start=True)
    return str(made["id"])


async def entries(client: Client, kind: str = "exec") -> list[dict[str, Any]]:
    return [e for e in (await client.ok("list_activity", limit=1000))["entries"] if e["type"] == kind]


async def test_a_command_runs_and_is_told_of(platform: Platform, connect: Callable[..., Any]) -> None:
    async with running(platform.settings()) as service:
        client = await connect(service)
        id = await flow(client, platform, environment={"TOKEN": "supersecretvalue"})
        argv = ["echo", "hello", "supersecretvalue", "--password=hunter2"]
        result = await client.ok("exec_container", container_id=id, command=argv)
        assert result == {
            "exit_code": 0,
            "stdout": "hello supersecretvalue --password=hunter2\n",
            "stderr": "",
            "truncated": False,
        }
        missing = await client.ok("exec_container", container_id=id, command=["no-such-command"])
        assert missing["exit_code"] == 127
        newest, told = await entries(client)
        assert (told["actor"], told["details"]["exit_code"]) == ("local", 0)
        assert told["details"]["command"] == ["echo", "hello", "***", "--password=***"]
        assert told["details"]["duration"] >= 0 and newest["details"]["exit_code"] == 127
        text = json.dumps([newest, told])
        assert "supersecret" not in text and "hunter2" not in text


async def test_bad_requests_are_refused_and_run_nothing(platform: Platform, connect: Callable[..., Any]) -> None:
    async with running(platform.settings()) as service:
        client = await connect(service)
        id = await flow(client, platform)
        bad: list[dict[str, Any]] = [
            {"command": []},
            {"command": [""]},
            {"command": ["a\0b"]},
            {"command": ["x"] * 10_000},
            {"command": "ls"},
            {"command": ["ls"], "timeout": 0},
            {"command": ["ls"], "timeout": 601},
            {"command": ["ls"], "environment": {"1X": "a"}},
            {"command": ["ls"], "environment": {"A=B": "a"}},
            {"command": ["ls"], "environment": {"FLOW_ID": "a"}},
            {"command": ["ls"], "environment": {"A": "a\0"}},
            {"command": ["ls"], "working_dir": "relative"},
            {"command": ["ls"], "user": "root"},
        ]
        for request in bad:
            refused = await client.refused("exec_container", container_id=id, **request)
            assert refused["code"] == "invalid_request", request
        gone = await client.refused("exec_container", container_id="aaaaaaaaaaaa", command=["ls"])
        assert gone["code"] == "container_not_found"
        assert await entries(client) == []


async def test_a_repeated_request_gives_the_first_reply_and_runs_once(
    process_platform: Platform, connect: Callable[..., Any]
) -> None:
    platform = process_platform
    async with running(platform.settings()) as service:
        client = await connect(service)
        id = await flow(client, platform)
        notes = platform.root / "notes"
        script = f"echo ran >>{notes}; head -c 700000 /dev/urandom; head -c 700000 /dev/zero >&2; yes | head -c 1000000"
        request = {"container_id": id, "command": ["sh", "-c", script], "request_id": "one"}
        first, together = await asyncio.gather(
            client.call("exec_container", **request), client.call("exec_container", **request)
        )
        again = await client.call("exec_container", **request)
        assert first["error"] is False and first == together == again
        assert notes.read_text() == "ran\n"
        other = await client.refused("exec_container", **{**request, "command": ["true"]})
        assert other["code"] == "conflict"


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_the_largest_replies_reach_a_plain_client_many_at_a_time(
    process_platform: Platform, connect: Callable[..., Any], transport: str
) -> None:
    """Zeros are the worst: six bytes of JSON each. Also where less may wait for a client than one reply takes."""
    settings = process_platform.settings(limits={"client_buffer": 65536})
    async with running(settings) as service:
        client = await connect(service, transports=[transport])
        await client.ok("subscribe_activity")
        id = await flow(client, process_platform)
        script = "head -c 2000000 /dev/zero; head -c 2000000 /dev/zero >&2; exit 4"
        replies = await asyncio.gather(
            *(client.ok("exec_container", container_id=id, command=["sh", "-c", script]) for _ in range(6))
        )
        for reply in replies:
            assert (reply["exit_code"], reply["truncated"]) == (4, True)
            assert set(reply["stdout"]) == set(reply["stderr"]) == {"\0"}
            assert len(reply["stdout"]) > 300_000
        text = await client.ok("exec_container", container_id=id, command=["sh", "-c", "yes | head -c 100000000"])
        assert (len(text["stdout"]), text["truncated"]) == (MIB, True)
        assert client.sio.connected


async def test_a_flow_that_sleeps_is_woken_and_kept_awake(platform: Platform, connect: Callable[..., Any]) -> None:
    async with running(platform.settings()) as service:
        client = await connect(service)
        id = await flow(client, platform, idle={"idle_timeout": 0.5, "stop_timeout": 1})

        async def asleep() -> bool:
            return bool((await client.ok("get_status", container_id=id))["flow_state"] == "napping")

        await eventually(asleep, 30)
        running_one = asyncio.create_task(client.ok("exec_container", container_id=id, command=["sleep", "2"]))

        async def kept() -> bool:
            leases = (await client.ok("explain_container", container_id=id))["leases"]
            return [(lease["kind"], lease["holder"]) for lease in leases] == [("exec", "local: sleep")]

        await eventually(kept, 30)
        # Four times its idle timeout, and it was awake to the end.
        assert (await running_one)["exit_code"] == 0
        await eventually(asleep, 30)
        await client.ok("stop_container", container_id=id)
        stopped = await client.refused("exec_container", container_id=id, command=["true"])
        assert (stopped["code"], stopped["error_type"]) == ("container_stopped", "state_error")


async def test_a_flow_that_is_killed_in_mid_exec_says_so_soon(platform: Platform, connect: Callable[..., Any]) -> None:
    async with running(platform.settings()) as service:
        client = await connect(service)
        id = await flow(client, platform)
        running_one = asyncio.create_task(client.call("exec_container", container_id=id, command=["sleep", "4371"]))
        await asyncio.sleep(0.5)
        await client.ok("kill_container", container_id=id)
        reply = await asyncio.wait_for(running_one, 15)
        assert reply["code"] == "container_stopped"
        (told,) = await entries(client)
        assert told["details"]["code"] == "container_stopped"


async def test_a_late_command_is_told_with_its_time(platform: Platform, connect: Callable[..., Any]) -> None:
    async with running(platform.settings()) as service:
        client = await connect(service)
        id = await flow(client, platform)
        late = await client.refused("exec_container", container_id=id, command=["sleep", "4381"], timeout=0.3)
        assert (late["code"], late["error_type"]) == ("timeout", "state_error")
        assert late["details"] == {"operation": "exec", "timeout": 0.3}


async def test_a_client_that_goes_away_ends_nothing(process_platform: Platform, connect: Callable[..., Any]) -> None:
    async with running(process_platform.settings()) as service:
        client, other = await connect(service), await connect(service)
        id = await flow(client, process_platform)
        notes = process_platform.root / "notes"
        await client.sio.emit(
            "exec_container", {"container_id": id, "command": ["sh", "-c", f"sleep 1; echo done >{notes}"]}
        )
        await asyncio.sleep(0.3)
        await client.close()

        async def told() -> bool:
            return bool(await entries(other))

        await eventually(told, 30)
        assert notes.read_text() == "done\n"


@pytest.mark.parametrize("with_request_id", [False, True])
async def test_a_shutdown_ends_what_commands_started_and_answers(
    platform: Platform, connect: Callable[..., Any], started: Callable[..., Any], with_request_id: bool
) -> None:
    service = await started(platform.settings())
    client = await connect(service)
    id = await flow(client, platform)
    more = {"request_id": "one"} if with_request_id else {}
    under_way = [
        asyncio.create_task(client.call("exec_container", container_id=id, command=["sleep", "4391"], **more))
        for _ in range(3 if not with_request_id else 1)
    ]
    await asyncio.sleep(0.7)
    began = time.monotonic()
    await service.stop()
    assert time.monotonic() - began < 12
    for reply in await asyncio.gather(*under_way):
        assert reply["code"] == "shutting_down"
    if platform.kind == "process":
        assert find_session_leader("FLOW_ID", id) is None
    if platform.kind == "docker":
        async with running(platform.settings()) as again:
            back = await connect(again)
            look = "for c in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$c; echo; done 2>/dev/null | grep '^sleep 4391'"
            left = await back.ok("exec_container", container_id=id, command=["sh", "-c", look])
            assert left["stdout"] == ""


async def test_too_many_at_once_are_refused_and_leave_room_for_a_stop(
    memory_platform: Platform, connect: Callable[..., Any]
) -> None:
    async with running(memory_platform.settings()) as service:
        client = await connect(service)
        id = await flow(client, memory_platform)
        many = [
            asyncio.create_task(client.call("exec_container", container_id=id, command=["sleep", "60"]))
            for _ in range(60)
        ]
        refused, _ = await asyncio.wait(many, timeout=2)
        assert len(refused) == 28
        assert {task.result()["code"] for task in refused} == {"too_many_streams"}
        assert {task.result()["details"]["retry_after"] for task in refused} == {1}
        await client.ok("kill_container", container_id=id)
        assert {reply["code"] for reply in await asyncio.gather(*many)} == {"too_many_streams", "container_stopped"}


async def test_the_typed_client_runs_commands(platform: Platform) -> None:
    async with running(platform.settings()) as service, FlowManagerClient(service.url) as client:
        made = await client.create_container({**platform.sleeper}, start=True)
        result = await client.exec_container(made.id, ["env"], environment={"A": "b c"}, timeout=30)
        assert result.exit_code == 0 and "A=b c" in result.stdout.splitlines() and not result.truncated
        assert (await client.exec_container(made.id, ["pwd"], working_dir="/etc")).stdout == "/etc\n"
        await client.delete_container(made.id, force=True)


async def test_the_command_line_is_the_command(process_platform: Platform, connect: Callable[..., Any]) -> None:
    async with running(process_platform.settings()) as service:
        client = await connect(service)
        id = await flow(client, process_platform)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "flow_manager", "--url", service.url, "exec", "--workdir", "/etc", "--env", "A=b",
            id, "--", "sh", "-c", "pwd; echo $A >&2; exit 9",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=Path(__file__).resolve().parents[2],
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), 40)
        assert (process.returncode, out, err) == (9, b"/etc\n", b"b\n")
