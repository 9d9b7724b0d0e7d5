"""The main job, step by step, each one seen to happen: a service, a client, a flow, a message, and nothing left at the end."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flow_manager.cli.demo_place import Place
from flow_manager.cli.engine import EngineSaid
from flow_manager.util.carried import Carried

if TYPE_CHECKING:
    from flow_manager.client import FlowManagerClient
    from flow_manager.contract.activity import Activity
    from flow_manager.contract.wake import ContainerWakeEvent

# The whole demo, without what it waited for an image.
WHOLE = 60.0
CLEAN_UP = 15.0
# How long one thing may take to be seen after the service said that it happened.
SEEN_WITHIN = 10.0
LOOK_EVERY = 0.02
# The port that the flow's program listens on: in a container this one, as a process the free one that it is told.
PORT = "8000"
# Long enough to see that it waits, short enough for a demo; seconds.
IDLE_TIMEOUT = 2.0
# From a request to its answer, through a wake.
WAKE_WITHIN = 30.0
LABEL_INSTANCE = "flow-manager.instance"


class NotSeen(Exception):
    """A step did not happen, or not so that it could be seen; the message says what was seen instead."""


class Demo:
    """`show_step(words, seconds)` after each step was seen, `show_entry(entry)` for each activity entry as it comes, and
    `show_wake(step)` for each step of a wake."""

    def __init__(
        self,
        place: Place,
        *,
        show_step: Callable[[str, float], None],
        show_entry: Callable[[Activity], None],
        show_wake: Callable[[ContainerWakeEvent], None] = lambda _step: None,
    ) -> None:
        self._place = place
        self._show_wake = show_wake
        self._show_step = show_step
        self._show_entry = show_entry
        self._seen: list[Activity] = []
        self._news = asyncio.Condition()
        self._left_on_engine = 0
        self._carried = Carried()
        # What is being tried, for the message when it fails.
        self.step = "begin"

    async def run(self) -> None:
        """:raises NotSeen: and whatever went wrong in a step; nothing is left behind in either case."""
        # Short: a socket's path has at most 107 bytes, and $TMPDIR may be long.
        folder = Path(tempfile.mkdtemp(prefix=f"fm-demo-{os.getpid()}-", dir="/tmp"))
        try:
            folder.chmod(0o711)  # a flow that is not root must be able to reach its own folder below
            async with asyncio.timeout(WHOLE):
                await self._run(folder)
            async with self._step("nothing is left: no flow, no socket, no folder"):
                self._look_for_leftovers(folder)
                shutil.rmtree(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def _run(self, folder: Path) -> None:
        from flow_manager.app import Service
        from flow_manager.client import FlowManagerClient
        from flow_manager.contract import CONTRACT_VERSION

        code = folder / "code"
        write_program(code)
        service = Service(demo_settings(self._place, folder))
        try:
            async with self._step("the service is up"):
                await service.start()
            client = FlowManagerClient(service.url, on_wake=self._show_wake)
            try:
                async with self._step("a Socket.IO client is connected"):
                    await client.__aenter__()
                    _expect(client.hello.get("contract"), CONTRACT_VERSION)
                await self._with_client(client, code, service.proxy_url)
            finally:
                await client.close()
        finally:
            await self._end(service)

    async def _with_client(self, client: FlowManagerClient, code: Path, proxy_url: str) -> None:
        feed = client.subscribe_activity()
        async with self._step("it has subscribed to activity"):
            await feed.open()
        watching = asyncio.ensure_future(self._watch(feed))
        try:
            await self._main_job(client, code, proxy_url)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _main_job(self, client: FlowManagerClient, code: Path, proxy_url: str) -> None:
        flow_id: str | None = None
        try:
            async with self._step("a flow is created"):
                info = await client.create_container(
                    {
                        "name": "demo",
                        "image": self._place.image,
                        "runtime": self._place.runtime,
                        "command": self._place.command,
                        "code_path": str(code),
                        "ports": {PORT: 0},
                        "idle": {"idle_timeout": 0},
                    }
                )
                flow_id = info.id
                _expect(info.status, "created")
                await self._entry("container_created")
            async with self._step("it is started"):
                _expect((await client.start_container(flow_id)).state, "running")
                await self._entry("container_started")
            async with self._step("it has connected to its channel"):
                await self._connected(client, flow_id)
            async with self._step("it was sent a message and has replied"):
                question = {"question": secrets.token_hex(4)}
                answer = await client.send_message(flow_id, question, expect_reply=True, timeout=SEEN_WITHIN)
                _expect(answer.reply, {"echo": question})
                await self._entry("actor_event")
            await self._sleep_and_wake(client, flow_id, proxy_url)
            async with self._step("it is stopped"):
                _expect((await client.stop_container(flow_id, timeout=5)).state, "exited", "stopped")
                await self._entry("container_stopped")
            async with self._step("it is deleted"):
                await client.delete_container(flow_id)
                _expect(await client.list_containers(), [])
                await self._entry("container_deleted")
            flow_id = None
        finally:
            if flow_id is not None:
                await self._give_up(client, flow_id)

    async def _sleep_and_wake(self, client: FlowManagerClient, flow_id: str, proxy_url: str) -> None:
        async with self._step(f"it shall sleep after {IDLE_TIMEOUT:g} s without use"):
            told = await client.set_idle_policy(flow_id, {"idle_timeout": IDLE_TIMEOUT})
            _expect(told.idle.idle_timeout if told.idle else None, IDLE_TIMEOUT)
            await client.subscribe_wake_events(flow_id)
        async with self._step("nobody used it, and it has fallen asleep"):
            await self._entry("napped", within=IDLE_TIMEOUT + SEEN_WITHIN)
            _expect((await client.get_status(flow_id)).flow_state, "napping")
        async with self._step("an HTTP request has woken it and was answered"):
            _expect(await _get(proxy_url, "demo.localhost", "/hello"), (200, {"flow": flow_id, "path": "/hello"}, True))
            await self._entry("woke")
        async with self._step("the next request did not have to wait"):
            _expect(
                await _get(proxy_url, "demo.localhost", "/again"), (200, {"flow": flow_id, "path": "/again"}, False)
            )

    async def _connected(self, client: FlowManagerClient, flow_id: str) -> None:
        deadline = time.monotonic() + SEEN_WITHIN
        while not (status := await client.get_status(flow_id)).socket_connected:
            if status.state != "running":
                raise NotSeen(
                    f"the flow is {status.state}, exit code {status.exit_code}: {status.error or 'no reason known'}"
                )
            if time.monotonic() > deadline:
                raise NotSeen(f"no connection within {SEEN_WITHIN:g} s")
            await asyncio.sleep(LOOK_EVERY)

    async def _watch(self, feed: Any) -> None:
        async for entry in feed:
            self._show_entry(entry)
            async with self._news:
                self._seen.append(entry)
                self._news.notify_all()

    async def _entry(self, kind: str, *, within: float = SEEN_WITHIN) -> None:
        """Wait until the activity log has told of it."""
        try:
            async with asyncio.timeout(within), self._news:
                await self._news.wait_for(lambda: any(entry.type == kind for entry in self._seen))
        except TimeoutError:
            raise NotSeen(f"no activity entry {kind} within {within:g} s") from None

    @contextlib.asynccontextmanager
    async def _step(self, words: str) -> AsyncIterator[None]:
        self.step = words
        began = time.monotonic()
        yield
        self._show_step(words, time.monotonic() - began)

    async def _give_up(self, client: FlowManagerClient, flow_id: str) -> None:
        """A step failed, or somebody pressed Ctrl-C: the flow must go all the same."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLEAN_UP):
                await self._carried.through(client.delete_container(flow_id, force=True))

    async def _end(self, service: Any) -> None:
        instance = service.instance
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLEAN_UP):
                await service.stop()
        if self._place.engine is not None and instance:
            self._left_on_engine = await asyncio.to_thread(sweep, self._place, instance)

    def _look_for_leftovers(self, folder: Path) -> None:
        left = [path.name for path in (folder / "s").iterdir()]
        if left:
            raise NotSeen(f"{len(left)} folders of sockets are left")
        if self._left_on_engine:
            raise NotSeen(f"{self._left_on_engine} containers or networks were left on the engine")


def demo_settings(place: Place, folder: Path) -> Any:
    """A service of its own on a free port; it may use nothing but this folder."""
    from flow_manager.settings.models import LogSettings, PolicySettings, Settings

    return Settings(
        port=0,
        proxy_port=0,
        runtime=place.runtime,
        # The user's own containers, labelled or not, are none of the demo's business.
        adopt=False,
        state_dir=folder / "state",
        sockets_dir=folder / "s",
        policy=PolicySettings(code_roots=(folder / "code",)),
        log=LogSettings(level="ERROR"),
    )


async def _get(proxy_url: str, host: str, path: str) -> tuple[int, Any, bool]:
    """A program's GET through the proxy: status, JSON body (or its text), and whether it had to wait for a wake."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=WAKE_WITHIN)
    # The name is sent, not looked up: not every resolver knows *.localhost.
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(proxy_url + path, headers={"Host": host, "Accept": "application/json"}) as answer,
    ):
        text = await answer.text()
        cold = answer.headers.get("X-Flow-Cold-Start") == "true"
    try:
        return answer.status, json.loads(text), cold
    except ValueError:
        return answer.status, text[:200], cold


def write_program(folder: Path) -> None:
    """The flow's program and the SDK beside it, both out of the installed packages."""
    sdk = importlib.util.find_spec("flow_sdk")
    if sdk is None or sdk.origin is None:
        raise NotSeen("the package flow_sdk is not installed")
    folder.mkdir()
    shutil.copyfile(sdk.origin, folder / "flow_sdk.py")
    shutil.copyfile(Path(__file__).with_name("demo_flow.py"), folder / "main.py")


def sweep(place: Place, instance: str) -> int:
    """Remove what a demo left on the engine, containers and networks of its own instance alone; how many. Blocking."""
    engine = place.engine
    removed = 0
    if engine is None:
        return removed
    wanted = f"%7B%22label%22%3A%5B%22{LABEL_INSTANCE}%3D{instance}%22%5D%7D"  # {"label":["…=…"]}
    with contextlib.suppress(OSError, ValueError, EngineSaid, KeyError, TypeError):
        for container in engine.get(f"/containers/json?all=1&filters={wanted}") or []:
            removed += 1
            engine.delete(f"/containers/{container['Id']}?force=1&v=1", timeout=CLEAN_UP)
        for network in engine.get(f"/networks?filters={wanted}") or []:
            removed += 1
            engine.delete(f"/networks/{network['Id']}", timeout=CLEAN_UP)
    return removed


def _expect(found: Any, *wanted: Any) -> None:
    if found not in wanted:
        raise NotSeen(f"expected {' or '.join(map(repr, wanted))}, saw {found!r}")
