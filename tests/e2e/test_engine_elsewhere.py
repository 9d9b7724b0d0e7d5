"""Flows on an engine of another machine. A relay on TCP and `remote = true` stand for the machine: nothing is mounted, the
channel is the TLS port, and only published ports lead to flows."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from flow_manager.app import Service
from flow_manager.runtimes.base import LABEL_INSTANCE
from flow_manager.settings.models import Settings
from flow_manager.settings.runtime import RuntimeSettings
from flow_manager.util.ids import new_flow_id
from tests.e2e.conftest import Platform, running
from tests.engine import BUSYBOX_IMAGE, engine_api

pytestmark = pytest.mark.docker

WEB_PORT = 8000


class Relay:
    """An engine's socket, on a port of the loopback."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            there, back = await asyncio.open_unix_connection(self._path)
            try:
                await asyncio.gather(_pass_on(reader, back), _pass_on(there, writer))
            finally:
                back.transport.abort()
        except asyncio.CancelledError:
            pass  # the end of the test; asyncio would report it as an error of its own
        finally:
            writer.transport.abort()
            self._tasks.discard(task)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.transport.abort()


@pytest.fixture
async def relay(docker_engine: str) -> AsyncIterator[Relay]:
    async with Relay(docker_engine.removeprefix("unix://")) as relay:
        yield relay


@pytest.fixture
def here(docker_engine: str) -> str:
    """This machine's address, as the engine's containers reach it."""
    bridge = engine_api.request(docker_engine, "GET", "/networks/bridge")
    return str(bridge["IPAM"]["Config"][0]["Gateway"])


def free_port(address: str) -> int:
    with socket.socket() as free:
        free.bind((address, 0))
        return int(free.getsockname()[1])


@pytest.fixture
def instance(docker_engine: str) -> Iterator[str]:
    """Nothing of it is left, even by a test that fails."""
    instance = f"t-{new_flow_id()}"
    yield instance
    for container in containers(docker_engine, instance):
        engine_api.request(docker_engine, "DELETE", f"/containers/{container['Id']}", params={"force": 1, "v": 1})
    filters = json.dumps({"label": [f"{LABEL_INSTANCE}={instance}"]})
    for network in engine_api.request(docker_engine, "GET", "/networks", params={"filters": filters}):
        engine_api.request(docker_engine, "DELETE", f"/networks/{network['Id']}")


@pytest.fixture
def name() -> str:
    """Of a container, which other tests on the same engine don't use."""
    return f"web-{new_flow_id()}"


@pytest.fixture
def there(docker_platform: Platform, relay: Relay, here: str, instance: str) -> Callable[..., Settings]:
    code = docker_platform.root / "code"
    for version in ("one", "two", "bad"):
        folder = code / version
        (folder / "deep" / "er").mkdir(parents=True)
        (folder / "deep" / "er" / "version").write_text(version)
        (folder / "version").symlink_to("deep/er/version")
        (folder / "start").write_text("exit 3" if version == "bad" else f"exec httpd -f -p {WEB_PORT} -h /flow")
    port = free_port(here)

    def settings(**changes: Any) -> Settings:
        values: dict[str, Any] = {
            "runtimes": {"docker": RuntimeSettings(url=relay.url, remote=True)},
            "channel": {"tls_listen": f"{here}:{port}"},
            "instance": instance,
            "policy": {"code_roots": [str(code)], "publish_address": "0.0.0.0"},
            **changes,
        }
        return docker_platform.settings(**values)

    return settings


@pytest.fixture
def web(docker_platform: Platform, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "image": BUSYBOX_IMAGE,
        "command": ["sh", "/flow/start"],
        "code_path": str(docker_platform.root / "code" / "one"),
        "port": WEB_PORT,
        "ports": {str(WEB_PORT): 0},
        "idle": {"wake_timeout": 60},
    }


def containers(host: str, instance: str) -> list[Any]:
    filters = json.dumps({"label": [f"{LABEL_INSTANCE}={instance}"]})
    found: list[Any] = engine_api.request(host, "GET", "/containers/json", params={"all": 1, "filters": filters})
    return found


async def version(service: Service, name: str) -> str:
    async with (
        aiohttp.ClientSession(service.proxy_url, headers={"Host": f"{name}.localhost"}) as http,
        http.get("/version") as answer,
    ):
        assert answer.status == 200, await answer.text()
        return await answer.text()


async def test_a_flow_there_has_its_code_and_talks_over_tls(
    there: Callable[..., Settings],
    docker_platform: Platform,
    connect: Callable[..., Any],
    docker_engine: str,
    name: str,
    instance: str,
) -> None:
    async with running(there()) as service:
        client = await connect(service)
        await client.ok("subscribe_activity")
        made = await client.ok("create_container", name=name, start=True, **docker_platform.echo)
        await client.connected_flow(made["id"])
        answer = await client.ok("send_message", container_id=name, message={"n": 1}, expect_reply=True)
        assert answer["reply"] == {"echo": {"n": 1}}
        (container,) = containers(docker_engine, instance)
        seen = engine_api.request(docker_engine, "GET", f"/containers/{container['Id']}/json")
        assert seen["Mounts"] == []
        names = {item.partition("=")[0] for item in seen["Config"]["Env"]}
        assert {"FLOW_ID", "FLOW_CODE", "FLOW_URL", "FLOW_TOKEN", "FLOW_CA"} <= names
        assert "FLOW_SOCKET" not in names
        await client.ok("delete_container", container_id=name, force=True)
    assert containers(docker_engine, instance) == []
    assert not list((docker_platform.root / "state" / "code").iterdir())


async def test_a_request_wakes_a_flow_there_through_its_published_port_and_finds_other_code_after_an_update(
    there: Callable[..., Settings],
    web: dict[str, Any],
    docker_platform: Platform,
    connect: Callable[..., Any],
    docker_engine: str,
    name: str,
    instance: str,
) -> None:
    code = docker_platform.root / "code"
    async with running(there()) as service:
        client = await connect(service)
        made = await client.ok("create_container", **web)
        assert await version(service, name) == "one"
        updated = await client.ok("update_container", container_id=name, code_path=str(code / "two"))
        assert updated["id"] == made["id"]
        assert await version(service, name) == "two"
        await client.refused("update_container", container_id=name, code_path=str(code / "bad"))
        assert await version(service, name) == "two"
        await client.ok("sleep_container", container_id=name)
        assert await version(service, name) == "two"
        await client.ok("rollback_container", container_id=name)
        assert await version(service, name) == "one"
        await client.ok("delete_container", container_id=name, force=True)
    assert containers(docker_engine, instance) == []
    assert not list((docker_platform.root / "state" / "code").iterdir())


async def test_a_tcp_route_leads_there_through_the_published_port(
    there: Callable[..., Settings], web: dict[str, Any], connect: Callable[..., Any], name: str
) -> None:
    port = free_port("127.0.0.1")
    routes = [{"listen": f"127.0.0.1:{port}", "container": name, "port": WEB_PORT}]
    async with running(there(tcp_routes=routes)) as service:
        client = await connect(service)
        await client.ok("create_container", **web)
        async with asyncio.timeout(90):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /version HTTP/1.0\r\n\r\n")
            answer = await reader.read()
        writer.close()
        assert answer.endswith(b"\r\n\r\none")
        await client.ok("delete_container", container_id=name, force=True)


async def test_a_port_that_is_not_published_to_the_network_is_an_answer_that_says_what_to_set(
    there: Callable[..., Settings],
    web: dict[str, Any],
    docker_platform: Platform,
    connect: Callable[..., Any],
    name: str,
    instance: str,
) -> None:
    code = [str(docker_platform.root / "code")]
    async with running(there(policy={"code_roots": code})) as service:
        client = await connect(service)
        web["idle"] = {"wake_timeout": 5}  # the start itself may take long on a busy machine
        await client.ok("create_container", **web)
        refused = await client.refused("wake_container", container_id=name)
        assert refused["code"] == "wake_timeout"
        assert "set policy.publish_address to 0.0.0.0" in refused["message"]
        await client.ok("delete_container", container_id=name, force=True)


async def test_a_folder_of_this_machine_is_no_volume_there(
    there: Callable[..., Settings], docker_platform: Platform, connect: Callable[..., Any], name: str, instance: str
) -> None:
    async with running(there()) as service:
        client = await connect(service)
        refused = await client.refused(
            "create_container", volumes={str(docker_platform.root): "/data"}, **docker_platform.sleeper
        )
        assert (refused["code"], refused["details"]["capability"]) == ("unsupported", "volumes")


async def test_code_that_can_not_be_copied_leaves_no_container(
    there: Callable[..., Settings],
    web: dict[str, Any],
    docker_platform: Platform,
    connect: Callable[..., Any],
    docker_engine: str,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    instance: str,
) -> None:
    async with running(there()) as service:
        client = await connect(service)
        assert service._core is not None
        code = service._core.code
        put = code.put

        async def lost(flow_id: str, source: Path) -> Path:
            folder = await put(flow_id, source)
            await asyncio.to_thread(shutil.rmtree, folder)
            return folder

        monkeypatch.setattr(code, "put", lost)
        refused = await client.refused("create_container", **web)
        assert refused["code"] == "runtime_refused"
        assert "code can't be read" in refused["message"]
        assert containers(docker_engine, instance) == []
