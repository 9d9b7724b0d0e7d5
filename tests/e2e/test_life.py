"""A service's start and end: what it refuses, what it leaves running, and how long it takes."""

from __future__ import annotations

import asyncio
import gzip
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
import socketio

from flow_manager.app import Service
from flow_manager.errors import DiskFull, SettingsRefused, StateFolderLocked
from flow_manager.settings.runtime import RuntimeSettings
from flow_manager.testing import eventually
from tests.e2e.conftest import Platform, running


@pytest.mark.docker
async def test_docker_flows_go_on_after_the_end_and_it_says_so(
    docker_platform: Platform, connect: Callable[..., Any], started: Callable[..., Any]
) -> None:
    engine = str(docker_platform.runtimes["docker"].url)
    service = await started(docker_platform.settings())
    client = await connect(service)
    polling = await connect(service, transports=["polling"])
    await client.ok("subscribe_activity")
    await polling.ok("subscribe_activity")
    flow = await client.ok("create_container", name="goes-on", start=True, **docker_platform.sleeper)
    began = time.monotonic()
    await service.stop()
    assert time.monotonic() - began < 10
    assert any("go on" in line for line in service.farewell), service.farewell
    shown = await asyncio.to_thread(
        subprocess.run,
        ["docker", "-H", engine, "inspect", "-f", "{{.State.Running}}", "goes-on"],
        capture_output=True,
        text=True,
    )
    assert shown.stdout.strip() == "true"
    async with running(docker_platform.settings()) as again:
        client = await connect(again)
        await client.ok("delete_container", container_id=flow["id"], force=True)


async def test_process_flows_end_with_the_service_and_it_says_so(
    process_platform: Platform, connect: Callable[..., Any], started: Callable[..., Any]
) -> None:
    service = await started(process_platform.settings())
    client = await connect(service)
    marker = "12345.678"
    await client.ok("create_container", start=True, image="local", command=["sleep", marker])
    assert [p for p in psutil.process_iter(["cmdline"]) if marker in (p.info["cmdline"] or [])]
    await service.stop()
    assert any("stopped" in line for line in service.farewell), service.farewell
    assert not [p for p in psutil.process_iter(["cmdline"]) if marker in (p.info["cmdline"] or [])]


async def test_an_operation_under_way_at_the_end_is_answered_and_the_end_is_bounded(
    memory_platform: Platform, connect: Callable[..., Any], started: Callable[..., Any]
) -> None:
    service = await started(memory_platform.settings(shutdown_timeout=1))
    client = await connect(service)
    flow = await client.ok("create_container", start=True, image="memory", command=["ignore-term"])
    stopping = asyncio.create_task(client.call("stop_container", container_id=flow["id"], timeout=500))

    async def under_way() -> bool:
        status = await client.ok("get_status", container_id=flow["id"])
        return bool(status["flow_state"] == "stopping")

    await eventually(under_way)
    began = time.monotonic()
    await service.stop()
    assert time.monotonic() - began < 15
    reply = await stopping
    assert reply["code"] == "shutting_down"


async def test_the_end_is_in_time_with_flows_that_ignore_it_and_a_stop_under_way(
    process_platform: Platform, connect: Callable[..., Any], started: Callable[..., Any]
) -> None:
    service = await started(process_platform.settings())
    client = await connect(service)
    command = ["sh", "-c", "trap '' TERM; echo; while :; do sleep 1; done"]
    flows = [await client.ok("create_container", start=True, image="local", command=command) for _ in range(2)]
    stopping = asyncio.create_task(client.call("stop_container", container_id=flows[0]["id"], timeout=500))
    await asyncio.sleep(0.2)
    began = time.monotonic()
    await service.stop()
    assert time.monotonic() - began < service.settings.shutdown_timeout + 5
    assert (await stopping)["code"] == "shutting_down"
    async with running(process_platform.settings()) as again:
        client = await connect(again)
        entries = (await client.ok("list_activity", container_id=flows[1]["id"]))["entries"]
        assert [entry["type"] for entry in entries][:2] == ["container_stopped", "container_started"]


@pytest.mark.docker
async def test_a_frozen_engine_ends_what_waits_for_it_and_holds_no_shutdown_up(
    private_docker_engine: Callable[[], Any],
    short_folder: Path,
    connect: Callable[..., Any],
    started: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tests.engine import BUSYBOX_IMAGE

    monkeypatch.setattr("flow_manager.runtimes.docker.events.SILENCE_SECONDS", 3.0)

    engine = await asyncio.to_thread(private_docker_engine)
    (short_folder / "code").mkdir()
    platform = Platform("docker", short_folder, {}, {}, {}, runtimes={"docker": RuntimeSettings(url=engine.host)})
    service = await started(platform.settings())
    client = await connect(service)
    sleeper = {"image": BUSYBOX_IMAGE, "command": ["sleep", "600"]}
    flow = await client.ok("create_container", start=True, **sleeper)
    pid = engine.pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        replies = await asyncio.gather(
            client.call("stop_container", container_id=flow["id"], timeout=1),
            client.call("create_container", **sleeper),
        )
        assert {reply["code"] for reply in replies} == {"runtime_unavailable"}
        assert time.monotonic() - began < 35
        assert (await client.ok("get_status", container_id=flow["id"]))["stale"] is True
        began = time.monotonic()
        assert (await client.refused("pause_container", container_id=flow["id"]))["code"] == "runtime_unavailable"
        assert time.monotonic() - began < 10
        began = time.monotonic()
        await service.stop()
        assert time.monotonic() - began < service.settings.shutdown_timeout + 5
        assert any("go on" in line for line in service.farewell)
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_what_left_a_flows_session_ends_with_it(process_platform: Platform, connect: Callable[..., Any]) -> None:
    async with running(process_platform.settings()) as service:
        client = await connect(service)
        marker = "23456.789"
        command = ["sh", "-c", f"setsid sleep {marker} & sleep 1000"]

        def there() -> bool:
            return any(marker in (p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"]))

        for verb in ("stop_container", "kill_container", "delete_container"):
            flow = await client.ok("create_container", start=True, image="local", command=command)
            await eventually(there)
            await client.ok(verb, container_id=flow["id"], **({"force": True} if verb == "delete_container" else {}))
            assert not there(), verb


async def test_two_services_cannot_share_a_sockets_folder(memory_platform: Platform) -> None:
    other = memory_platform.settings(state_dir=memory_platform.root / "other")
    async with running(memory_platform.settings()):
        with pytest.raises(SettingsRefused, match="--sockets-dir"):
            await Service(other).start()


async def test_two_services_cannot_share_a_state_folder(memory_platform: Platform) -> None:
    async with running(memory_platform.settings()):
        with pytest.raises(StateFolderLocked):
            await Service(memory_platform.settings()).start()


async def test_a_service_whose_disk_is_full_ends_all_the_same(
    memory_platform: Platform, connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise DiskFull("the disk that holds the manager's state is full")

    async with running(memory_platform.settings()) as service:
        client = await connect(service)
        flow = await client.ok("create_container", start=True, idle={"idle_timeout": 60}, **memory_platform.sleeper)
        await client.ok("start_container", container_id=flow["id"], wait="ready")
        monkeypatch.setattr("flow_manager.store.flows.SqlFlows.used", full)
        await service.stop()
    # Its folder is free again, its threads have ended.
    async with running(memory_platform.settings()) as other:
        assert other.port


async def test_all_is_closed_though_a_step_of_the_end_fails(memory_platform: Platform) -> None:
    service = Service(memory_platform.settings())
    await service.start()

    async def fails() -> None:
        raise ZeroDivisionError("a bug")

    service._undo.append(fails)
    with pytest.raises(ZeroDivisionError):
        await service.stop()
    async with running(memory_platform.settings()) as other:
        assert other.port


async def test_a_start_that_is_refused_leaves_nothing_open(memory_platform: Platform) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SettingsRefused, match="--port"):
            await Service(memory_platform.settings(port=taken.getsockname()[1])).start()
    async with running(memory_platform.settings()) as service:
        assert service.port


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
async def test_without_tokens_only_loopback_is_served(memory_platform: Platform, host: str) -> None:
    with pytest.raises(SettingsRefused, match="token"):
        await Service(memory_platform.settings(host=host)).start()


async def test_the_default_runtime_must_exist(memory_platform: Platform) -> None:
    with pytest.raises(SettingsRefused, match="nonsense"):
        await Service(memory_platform.settings(runtime="nonsense")).start()


async def test_health_and_readiness_are_told_apart(memory_platform: Platform) -> None:
    async with running(memory_platform.settings()) as service, aiohttp.ClientSession() as http:
        for path in ("/healthz", "/readyz", "/metrics", "/asyncapi.json", "/"):
            async with http.get(service.url + path) as answer:
                assert answer.status == 200, path
        service._runtimes["memory"].faults.go_away()  # type: ignore[attr-defined]
        async with http.get(service.url + "/healthz") as answer:
            assert answer.status == 200
        async with http.get(service.url + "/readyz") as answer:
            assert answer.status == 503


async def test_a_token_decides_who_one_is_and_what_one_may(
    memory_platform: Platform, connect: Callable[..., Any]
) -> None:
    import hashlib

    def hashed(token: str) -> str:
        return "sha256:" + hashlib.sha256(token.encode()).hexdigest()

    auth = {
        "tokens": [
            {"name": "ann", "hash": hashed("tok-ann"), "tenant": "acme"},
            {"name": "bob", "hash": hashed("tok-bob")},
            {"name": "eve", "hash": hashed("tok-eve"), "scopes": ["read"]},
        ]
    }
    async with running(memory_platform.settings(auth=auth)) as service:
        with pytest.raises(socketio.exceptions.ConnectionError):
            await connect(service, token="wrong")
        with pytest.raises(socketio.exceptions.ConnectionError):
            await connect(service)
        ann, bob, eve = [await connect(service, token=f"tok-{name}") for name in ("ann", "bob", "eve")]
        for client in (ann, bob, eve):
            await client.ok("subscribe_activity")
        made = await bob.ok("create_container", name="bobs", **memory_platform.sleeper)
        assert (await eve.ok("get_status", container_id="bobs"))["id"] == made["id"]
        assert (await eve.refused("start_container", container_id="bobs"))["code"] == "forbidden"
        assert (await ann.refused("get_status", container_id=made["id"]))["code"] == "container_not_found"
        assert await ann.ok("list_containers") == []
        await bob.until(lambda: bob.events("activity"))
        assert ann.events("activity") == [] and ann.events("container_status") == []
        assert (await ann.ok("list_activity"))["entries"] == []
        await bob.ok("delete_container", container_id="bobs")


async def test_nothing_that_comes_in_is_unpacked(memory_platform: Platform, started: Callable[..., Any]) -> None:
    """190 KB of gzip are 200 MB; unpacking them held everybody up, also when nobody read them."""
    service = await started(memory_platform.settings())
    base = f"{service.url}/socket.io/?EIO=4&transport=polling"
    async with aiohttp.ClientSession() as session:
        async with session.get(base) as answer:
            sid = (await answer.text()).split('"')[3]
        async with session.post(f"{base}&sid={sid}", data="40"):
            pass
        close = gzip.compress(b"1")
        async with session.post(f"{base}&sid={sid}", data=close, headers={"Content-Encoding": "gzip"}) as answer:
            assert answer.status == 200  # a packet that is none
        async with session.post(f"{base}&sid={sid}", data="1") as answer:
            assert answer.status == 200  # still there
        async with session.post(f"{base}&sid={sid}", data="1") as answer:
            assert answer.status == 400
