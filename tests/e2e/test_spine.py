"""The main job, end to end, on every runtime: create, start, talk, watch, stop, delete."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Platform, running

ABSENT = "aaaaaaaaaaaa"
ERROR_TYPES = {"memory": "memory_error", "process": "process_error", "docker": "docker_api_error"}


@pytest.mark.parametrize("transports", [["websocket"], ["polling"]], ids=["websocket", "polling"])
async def test_a_client_runs_talks_to_watches_and_deletes_a_flow(
    platform: Platform, connect: Callable[..., Any], transports: list[str]
) -> None:
    async with running(platform.settings()) as service:
        client = await connect(service, transports=transports)
        await client.until(lambda: client.events("hello"))
        hello = client.events("hello")[0]
        assert hello["contract"] == 1 and hello["principal"] == "local" and platform.kind in hello["runtimes"]

        subscription = await client.ok("subscribe_activity")
        assert subscription["gap"] is False and subscription["stream"] == hello["stream"]

        made = await client.ok(
            "create_container", name="reports", environment={"DB_PASSWORD": "hunter22"}, **platform.echo
        )
        flow = made["id"]
        assert made["status"] == "created" and made["name"] == "reports"
        assert made["environment"] == {"DB_PASSWORD": "***"}

        assert (await client.ok("start_container", container_id="reports"))["state"] == "running"
        await client.connected_flow(flow)
        delivery = await client.ok("send_message", container_id=flow, message={"n": 1}, expect_reply=True)
        assert delivery["delivered"] is True and delivery["reply"] == {"echo": {"n": 1}}

        paused = await client.ok("pause_container", container_id=flow)
        assert paused["state"] == "paused"
        assert (await client.refused("send_message", container_id=flow, message={}))["code"] == "not_connected"
        assert (await client.ok("unpause_container", container_id=flow))["state"] == "running"
        assert (await client.ok("restart_container", container_id=flow, timeout=5))["state"] == "running"
        await client.connected_flow(flow)
        assert (await client.refused("delete_container", container_id=flow))["code"] == "container_running"

        stopped = await client.ok("stop_container", container_id=flow, timeout=5)
        assert stopped["state"] == "exited" and stopped["desired"] == "stopped" and stopped["socket_connected"] is False
        refused = await client.refused("send_message", container_id=flow, message={"n": 2})
        assert (refused["error_type"], refused["code"]) == ("socket_communication_error", "not_connected")

        assert await client.ok("delete_container", container_id=flow) == {"container_id": flow, "deleted": True}
        assert await client.ok("list_containers") == []
        await client.until(lambda: "container_deleted" in client.activity())
        assert [
            kind for kind in client.activity() if kind.startswith("container_") and kind != "container_message"
        ] == [
            "container_created",
            "container_started",
            "container_paused",
            "container_unpaused",
            "container_restarted",
            "container_stopped",
            "container_deleted",
        ]
        assert "hunter22" not in str(client.seen)
    assert not list((platform.root / "s").iterdir()), "a flow's socket folder was left"
    assert not list((platform.root / "state" / "code").glob("*")), "a flow's code was left"


async def test_kill_ends_a_flow_at_once_and_the_code_is_told(platform: Platform, connect: Callable[..., Any]) -> None:
    async with running(platform.settings()) as service:
        client = await connect(service)
        flow = (await client.ok("create_container", start=True, **platform.sleeper))["id"]
        killed = await client.ok("kill_container", container_id=flow)
        assert (killed["state"], killed["exit_code"]) == ("exited", 137)
        refused = await client.refused("kill_container", container_id=flow)
        assert (refused["error_type"], refused["code"]) == ("state_error", "container_stopped")
        await client.ok("delete_container", container_id=flow)


async def test_each_refusal_has_its_type_and_code_and_leaves_nothing(
    platform: Platform, connect: Callable[..., Any]
) -> None:
    own = ERROR_TYPES[platform.kind]
    async with running(platform.settings()) as service:
        client = await connect(service)
        await client.ok("create_container", name="taken", **platform.sleeper)
        for event, data, error_type, code in (
            ("get_status", {"container_id": ABSENT}, own, "container_not_found"),
            ("start_container", {"container_id": "nobody"}, own, "container_not_found"),
            ("delete_container", {"container_id": ABSENT, "force": True}, own, "container_not_found"),
            ("create_container", {**platform.sleeper, "name": "taken"}, own, "name_conflict"),
            ("create_container", platform.missing_image, own, "image_not_found"),
            ("create_container", {**platform.sleeper, "runtime": "nowhere"}, "validation_error", "invalid_request"),
            ("create_container", {**platform.sleeper, "code_path": "/etc"}, "permission_error", "path_not_allowed"),
            ("create_container", {**platform.sleeper, "unknown": 1}, "validation_error", "invalid_request"),
            ("create_container", {}, "validation_error", "invalid_request"),
            ("stop_container", {"container_id": "taken", "timeout": 601}, "validation_error", "invalid_request"),
            ("no_such_event", {}, "validation_error", "unknown_event"),
        ):
            refused = await client.refused(event, **data)
            assert (refused["error_type"], refused["code"]) == (error_type, code), (event, data, refused)
            assert refused["timestamp"].endswith("Z")
        assert [info["name"] for info in await client.ok("list_containers")] == ["taken"]
        assert len(client.events("error")) == 11
        await client.ok("delete_container", container_id="taken")


async def test_a_repeated_request_does_nothing_twice(platform: Platform, connect: Callable[..., Any]) -> None:
    async with running(platform.settings()) as service:
        one, two = await connect(service), await connect(service)
        replies = await asyncio.gather(
            *(client.call("create_container", request_id="r-1", **platform.sleeper) for client in (one, two, one, two))
        )
        assert len({reply["data"]["id"] for reply in replies}) == 1
        other = await one.refused("create_container", request_id="r-1", name="other", **platform.sleeper)
        assert other["code"] == "conflict"
        assert len(await one.ok("list_containers")) == 1
        await one.ok("delete_container", container_id=replies[0]["data"]["id"])


@pytest.mark.parametrize("kind", ["process", pytest.param("docker", marks=pytest.mark.docker)])
async def test_a_restarted_service_finds_its_flows_again(
    kind: str, request: pytest.FixtureRequest, connect: Callable[..., Any]
) -> None:
    platform: Platform = request.getfixturevalue(f"{kind}_platform")
    async with running(platform.settings()) as service:
        client = await connect(service)
        flow = (await client.ok("create_container", name="keeps", start=True, **platform.echo))["id"]
        await client.connected_flow(flow)
        cursor = (await client.ok("list_activity"))["entries"][0]["cursor"]
        stream = client.events("hello")[0]["stream"]
    async with running(platform.settings()) as service:
        client = await connect(service)
        status = await client.ok("get_status", container_id="keeps")
        assert status["id"] == flow and status["stale"] is False
        if platform.kind == "docker":
            assert status["state"] == "running"
            await client.connected_flow(flow)
            reply = await client.ok("send_message", container_id=flow, message={"again": True}, expect_reply=True)
            assert reply["reply"] == {"echo": {"again": True}}
        else:
            assert status["state"] in ("exited", "stopped"), "process flows end with the service"
        replay = await client.ok("subscribe_activity", after=cursor, stream=stream)
        assert replay["gap"] is False
        assert client.events("hello")[0]["stream"] == stream
        await client.ok("delete_container", container_id=flow, force=True)


@pytest.mark.docker
async def test_what_happens_outside_is_seen_told_and_survived(
    docker_platform: Platform, connect: Callable[..., Any]
) -> None:
    import subprocess

    async with running(docker_platform.settings()) as service:
        client = await connect(service)
        await client.ok("subscribe_activity")
        flow = (await client.ok("create_container", name="outside-test", start=True, **docker_platform.sleeper))["id"]
        engine = str(docker_platform.runtimes["docker"].url)

        async def docker(*words: str) -> None:
            await asyncio.to_thread(subprocess.run, ["docker", "-H", engine, *words], check=True, capture_output=True)

        await docker("kill", "outside-test")
        await client.until(lambda: "container_died" in client.activity())
        await docker("start", "outside-test")
        await client.until(lambda: client.activity()[-1:] == ["container_started"])
        await docker("pause", "outside-test")
        await client.until(lambda: client.activity()[-1:] == ["container_paused"])
        await docker("unpause", "outside-test")
        await client.until(lambda: client.activity()[-1:] == ["container_unpaused"])
        await docker("rm", "-f", "outside-test")
        await client.until(lambda: "container_lost" in client.activity())
        status = await client.ok("get_status", container_id=flow)
        assert status["state"] == "dead" and status["error"]
        await client.ok("delete_container", container_id=flow)


async def test_activity_is_replayed_and_followed_with_neither_gap_nor_repeat(
    memory_platform: Platform, connect: Callable[..., Any]
) -> None:
    async with running(memory_platform.settings()) as service:
        maker, reader = await connect(service), await connect(service)
        start = (await reader.ok("subscribe_activity"))["cursor"]
        await reader.ok("unsubscribe_activity")

        async def make() -> None:
            for _ in range(30):
                flow = (await maker.ok("create_container", **memory_platform.sleeper))["id"]
                await maker.ok("delete_container", container_id=flow)

        making = asyncio.create_task(make())
        for _ in range(5):
            # What is on its way when a subscription is replaced would rightly come twice: end it first.
            await reader.ok("unsubscribe_activity")
            cursors = [entry["cursor"] for entry in reader.events("activity")]
            plan = await reader.ok("subscribe_activity", after=max(cursors, default=start))
            assert plan["gap"] is False
            await asyncio.sleep(0.01)
        await making
        await reader.until(lambda: len(reader.events("activity")) >= 60)
        cursors = [entry["cursor"] for entry in reader.events("activity")]
        assert cursors == sorted(set(cursors)) and len(cursors) == 60


async def test_a_deleted_flows_history_stays_readable_by_its_id(
    memory_platform: Platform, connect: Callable[..., Any]
) -> None:
    async with running(memory_platform.settings()) as service:
        client = await connect(service)
        flow = (await client.ok("create_container", **memory_platform.sleeper))["id"]
        await client.ok("delete_container", container_id=flow)
        types = [entry["type"] for entry in (await client.ok("list_activity", container_id=flow))["entries"]]
        assert types == ["container_deleted", "container_created"]
        replay = await client.ok("subscribe_activity", container_id=flow, after=0)
        assert replay["replayed"] == 2
        assert (await client.refused("list_activity", container_id=ABSENT))["code"] == "container_not_found"


def test_the_example_flow_and_the_sdk_are_where_the_readme_says() -> None:
    root = Path(__file__).resolve().parents[2]
    assert (root / "examples" / "echo.py").is_file() and (root / "flow_sdk" / "__init__.py").is_file()
