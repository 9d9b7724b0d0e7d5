"""The engine's events, as a stream that does not end: it reconnects, and says when something may have been missed.

An event is a hint. The engine keeps 256 of them in memory and none over a restart, so that after every gap a `resync` asks
whoever listens to look at everything again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp
import orjson

from flow_manager.errors import FlowManagerError
from flow_manager.runtimes.base import LABEL_ID, LABEL_INSTANCE, RuntimeEvent, RuntimeEventType
from flow_manager.runtimes.docker.client import EngineClient
from flow_manager.runtimes.docker.containers import Containers
from flow_manager.runtimes.docker.ending import Ending
from flow_manager.runtimes.docker.errors import RAW, translate
from flow_manager.runtimes.docker.observe import dig, text, whole
from flow_manager.runtimes.docker.pull import LineSplitter
from flow_manager.util.backoff import exponential

TYPES: dict[str, RuntimeEventType] = {
    "create": "created",
    "start": "started",
    "die": "died",
    "pause": "paused",
    "unpause": "unpaused",
    "destroy": "removed",
}
CONNECT_SECONDS = 5.0
# A frozen engine keeps its connections open and says nothing: after so much silence it is asked.
SILENCE_SECONDS = 15.0
FIRST_WAIT = 0.25
LONGEST_WAIT = 15.0
NANO = 1_000_000_000


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """What is read of the engine's event: `Actor.ID` and `Action`; the attributes only as further hints."""

    runtime_id: str
    action: str
    attributes: dict[str, Any]
    nano: int


def parse(raw: bytes) -> EngineEvent | None:
    """One line of the stream; None for whatever is no event of a container. Never raises: one odd event must not end it."""
    try:
        data = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    runtime_id, action = text(dig(data, "Actor", "ID")), text(dig(data, "Action"))
    if not runtime_id or not action:
        return None
    attributes = dig(data, "Actor", "Attributes")
    nano = whole(dig(data, "timeNano")) or 0
    return EngineEvent(runtime_id, action, attributes if isinstance(attributes, dict) else {}, nano)


def moment(nano: int) -> datetime | None:
    """`time` is in seconds, and aiodocker makes it a naive local one: only `timeNano` is used."""
    try:
        return datetime.fromtimestamp(nano / NANO, UTC) if nano else None
    except (ValueError, OverflowError, OSError):
        return None


class Feed:
    """One watcher's stream."""

    def __init__(
        self,
        client: EngineClient,
        containers: Containers,
        ending: Ending,
        ping: Callable[[], Awaitable[None]],
        closed: asyncio.Event,
        removed: Callable[[], None],
    ) -> None:
        self._client = client
        self._containers = containers
        self._ending = ending
        self._ping = ping
        self._closed = closed
        self._removed = removed
        self._last_nano = 0
        self._out_of_memory: set[str] = set()

    async def events(self) -> AsyncIterator[RuntimeEvent]:
        """`resync` once connected; `unavailable` when the engine is lost, `available` and `resync` when it is back."""
        down = False
        waits = exponential(FIRST_WAIT, maximum=LONGEST_WAIT)
        while not self._closed.is_set():
            reason = "the engine ended its event stream"
            async with AsyncExitStack() as stack:
                try:
                    async with asyncio.timeout(CONNECT_SECONDS):
                        stream = self._client.stream("GET", "events", params=self._parameters())
                        response = await stack.enter_async_context(stream)
                except (*RAW, FlowManagerError) as exc:
                    reason = translate(exc).message
                else:
                    if down:
                        down = False
                        yield RuntimeEvent("available", at=datetime.now(UTC))
                    yield RuntimeEvent("resync", at=datetime.now(UTC))
                    lines = LineSplitter()
                    try:
                        while chunk := await self._read(response):
                            waits = exponential(FIRST_WAIT, maximum=LONGEST_WAIT)
                            for line in lines.feed(chunk):
                                if (event := self._take(line)) is not None:
                                    yield event
                    except (*RAW, FlowManagerError) as exc:
                        reason = translate(exc).message
            if self._closed.is_set():
                return
            if not down:
                down = True
                yield RuntimeEvent("unavailable", reason=reason, at=datetime.now(UTC))
            await self._sleep(next(waits))

    def _parameters(self) -> dict[str, str]:
        label = f"{LABEL_INSTANCE}={self._containers.instance}"
        parameters = {"filters": json.dumps({"type": ["container"], "label": [label]})}
        if self._last_nano:
            parameters["since"] = f"{self._last_nano // NANO}.{self._last_nano % NANO:09d}"
        return parameters

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """The next bytes; while there are none, the engine is asked from time to time whether it is still there."""
        while True:
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    return await response.content.readany()
            except TimeoutError:
                await self._ping()

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        except TimeoutError:
            pass

    def _take(self, line: bytes) -> RuntimeEvent | None:
        event = parse(line)
        if event is None:
            return None
        # `since` is inclusive: the last one comes again after each reconnect. A hint twice does no harm.
        self._last_nano = max(self._last_nano, event.nano)
        flow_id = self._containers.flow_of(event.runtime_id) or text(event.attributes.get(LABEL_ID))
        if event.action in ("kill", "die", "start"):
            self._ending.noticed(event.runtime_id, event.action, text(event.attributes.get("signal")) or None)
        if event.action == "oom":
            self._out_of_memory.add(event.runtime_id)
        if event.action == "destroy":
            self._out_of_memory.discard(event.runtime_id)
            self._containers.forget_container(event.runtime_id)
            self._removed()
        kind: RuntimeEventType | None = TYPES.get(event.action)
        if event.action.startswith("health_status"):
            kind = "health"
        if kind is None or not flow_id:
            return None
        if kind != "died":
            return RuntimeEvent(kind, flow_id, at=moment(event.nano))
        cause = "oom" if event.runtime_id in self._out_of_memory else "exit"
        self._out_of_memory.discard(event.runtime_id)
        code = text(event.attributes.get("exitCode"))
        exit_code = int(code) if code.isascii() and code.isdigit() else None
        return RuntimeEvent(kind, flow_id, exit_code=exit_code, cause=cause, at=moment(event.nano))
