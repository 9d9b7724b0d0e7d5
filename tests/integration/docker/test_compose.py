"""docker-compose.yml, run for real: the service in a container, and a page that sleeps and wakes."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flow_manager.client import FlowManagerClient, ServiceRefused
from flow_manager.util.ids import derived_flow_id
from tests.engine import BUSYBOX_IMAGE, engine_api, private_engines, service_image

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(180)]

REPOSITORY = Path(__file__).resolve().parents[3]
PROJECT = "sample"
# Two cores that do many things at once need their time for an engine, an image and a service.
PATIENCE = 60.0
SLEEPS_AFTER = 2


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@dataclass
class Stack:
    """One `docker-compose up`."""

    command: list[str]
    folder: Path
    environment: dict[str, str]
    port: int
    proxy_port: int

    def compose(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self.command, "--project-name", PROJECT, "--file", str(REPOSITORY / "docker-compose.yml"), *arguments],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def networks(self, name: str) -> set[str]:
        """Those that a container, or the service of this name, is on."""
        host = self.environment["DOCKER_HOST"]
        for container in engine_api.request(host, "GET", "/containers/json"):
            if f"/{name}" in container["Names"] or container["Labels"].get("com.docker.compose.service") == name:
                return set(container["NetworkSettings"]["Networks"])
        raise AssertionError(f"no container {name}")

    @property
    def token(self) -> str:
        return (self.folder / "state" / "token").read_text().strip()

    def page(self, **headers: str) -> tuple[int, str, dict[str, str]]:
        """What a visitor of http://web.localhost:8081 gets, redirects and proxies aside."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.proxy_port}/", headers={"Host": f"web.localhost:{self.proxy_port}", **headers}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=PATIENCE) as answer:
                return answer.status, answer.read().decode(), dict(answer.headers)
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode(), dict(refused.headers)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[FlowManagerClient]:
        async with FlowManagerClient(f"http://127.0.0.1:{self.port}", token=self.token) as client:
            yield client


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    """One of our own: the labels alone are to be enough, and nobody else's manager may see them."""
    with private_engines() as start:
        made = start()
        service_image.ensure(made.host)
        yield made


@pytest.fixture
def stack(engine: Any, docker_compose: list[str]) -> Iterator[Stack]:
    folder = Path(tempfile.mkdtemp(prefix="fm-compose-"))
    port, proxy_port = free_port(), free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "DOCKER_HOST": engine.host,
        "DOCKER_SOCKET": engine.host.removeprefix("unix://"),
        "FLOW_MANAGER_IMAGE": service_image.NAME,
        "FLOW_MANAGER_DIR": str(folder),
        "FLOW_MANAGER_CONTROL_PORT": str(port),
        "FLOW_MANAGER_PROXY_PORT": str(proxy_port),
        "WEB_IMAGE": BUSYBOX_IMAGE,
        "WEB_IDLE_TIMEOUT": f"{SLEEPS_AFTER}s",
    }
    made = Stack(docker_compose, folder, environment, port, proxy_port)
    try:
        made.compose("up", "-d", "--no-build")
        answers(made)
        yield made
    finally:
        print(made.compose("logs", "--no-color", "manager"))
        made.compose("down", "--volumes", "--timeout", "15")
        left = engine_api.request(engine.host, "GET", "/networks")
        assert {network["Name"] for network in left} == {"bridge", "host", "none"}, "no network is left behind"
        shutil.rmtree(folder)


def answers(stack: Stack) -> None:
    deadline = time.monotonic() + PATIENCE
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            with opener.open(f"http://127.0.0.1:{stack.port}/readyz", timeout=5) as answer:
                assert answer.status == 200
                return
        except (OSError, urllib.error.URLError) as error:
            assert time.monotonic() < deadline, f"the service does not answer: {error}"
            time.sleep(0.1)


async def until(client: FlowManagerClient, condition: Callable[[Any], bool], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while True:
        found = [flow for flow in await client.list_containers() if flow.name == "web"]
        if found and condition(found[0]):
            return found[0]
        assert time.monotonic() < deadline, f"{what}: {found}"
        await asyncio.sleep(0.1)


async def test_the_sample_is_adopted_and_stays_one_flow_however_it_is_made(stack: Stack) -> None:
    flow_id = derived_flow_id("docker", PROJECT, "web", "1")
    assert (stack.folder / "state" / "token").stat().st_mode & 0o777 == 0o600
    with pytest.raises(ServiceRefused, match="token"):
        async with FlowManagerClient(f"http://127.0.0.1:{stack.port}", token="x" * 43) as stranger:
            await stranger.list_containers()
    async with stack.client() as client:
        web = await until(client, lambda flow: True, "it is adopted")
        assert (web.id, web.adopted, web.socket_path, web.idle.idle_timeout) == (flow_id, True, None, SLEEPS_AFTER)
        assert len(await client.list_containers()) == 1, "the service itself carries no label"
        # A flow that a client makes is on a network of its own, which the contained service has joined to reach it.
        made = await client.create_container(
            {"image": BUSYBOX_IMAGE, "name": "other", "command": ["sleep", "600"]}, start=True
        )
        assert stack.networks("other") <= stack.networks("manager")
        await client.delete_container(made.id, force=True)
        before = web.runtime_id
        await asyncio.to_thread(stack.compose, "up", "-d", "--no-build", "--force-recreate", "--no-deps", "web")
        anew = await until(client, lambda flow: flow.runtime_id != before, "it is followed")
        assert anew.id == flow_id
        types = [entry.type for entry in (await client.list_activity()).entries]
        assert types.count("container_adopted") == 1
        assert "container_recreated" in types
        await asyncio.to_thread(stack.compose, "rm", "--stop", "--force", "web")
        await until(client, lambda flow: flow.status == "dead", "its end is seen")


async def test_the_page_sleeps_when_nobody_looks_and_wakes_for_the_next_visitor(stack: Stack) -> None:
    async with stack.client() as client:
        await until(client, lambda flow: flow.status == "running", "it is adopted")
        assert (await asyncio.to_thread(stack.page))[0] == 200
        await until(client, lambda flow: flow.status == "exited", "it falls asleep")
        status, body, headers = await asyncio.to_thread(stack.page)
        assert (status, "Good morning" in body) == (200, True), body
        assert headers.get("X-Flow-Cold-Start") == "true"
        await until(client, lambda flow: flow.status == "running", "it is awake")
        status, body, headers = await asyncio.to_thread(stack.page)
        assert (status, "X-Flow-Cold-Start" in headers) == (200, False)
        await until(client, lambda flow: flow.status == "exited", "it falls asleep again")
        # A browser gets the page that waits, at once.
        status, body, _ = await asyncio.to_thread(stack.page, Accept="text/html")
        assert status == 200
        assert "Good morning" not in body
        await until(client, lambda flow: flow.status == "running", "it wakes behind the page")
        types = [entry.type for entry in (await client.list_activity()).entries]
        assert {"napped", "woke"} <= set(types)
