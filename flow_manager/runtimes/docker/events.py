"""The engine's events, as a stream that does not end: it reconnects, and says when something may have been missed.

An event is a hint. The engine keeps 256 of them in memory and none over a restart, so that after every gap a `resync` asks
whoever listens to look at everything again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import aiohttp
import orjson

from flow_manager.errors import FlowManagerError
from flow_manager.runtimes.base import RuntimeEvent, RuntimeEventType
from flow_manager.runtimes.docker.causes import Causes
from flow_manager.runtimes.docker.client import EngineClient
from flow_manager.runtimes.docker.containers import Containers
from flow_manager.runtimes.docker.ending import Ending, normal
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
# What is asked for. Not by label: the engine can only AND them, and a flow is ours by one label or adopted by another.
ACTIONS = [*TYPES, "kill", "stop", "oom", "rename", "health_status"]
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

    @property
    def labels(self) -> dict[str, str]:
        """The container's labels are among the attributes."""
        return {key: value for key, value in self.attributes.items() if isinstance(value, str)}

    @property
    def exit_code(self) -> int | None:
        code = text(self.attributes.get("exitCode"))
        return int(code) if code.isascii() and code.isdigit() else None


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
        self._causes = Causes()

    async def events(self) -> AsyncIterator[RuntimeEvent]:
        """`resync` once connected; `unavailable` when the engine is lost, `available` and `resync` when it is back."""
        self._ending.causes.add(self._causes)
        try:
            async with aclosing(self._events()) as events:
                async for event in events:
                    yield event
        finally:
            self._ending.causes.discard(self._causes)

    async def _events(self) -> AsyncGenerator[RuntimeEvent, None]:
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
                                for event in self._take(line):
                                    yield await self._confirmed(event)
                    except (*RAW, FlowManagerError) as exc:
                        reason = translate(exc).message
            if self._closed.is_set():
                return
            if not down:
                down = True
                yield RuntimeEvent("unavailable", reason=reason, at=datetime.now(UTC))
            await self._sleep(next(waits))

    def _parameters(self) -> dict[str, str]:
        parameters = {"filters": json.dumps({"type": ["container"], "event": ACTIONS})}
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

    async def _confirmed(self, event: RuntimeEvent) -> RuntimeEvent:
        """An engine that is told to end stops all its containers, in the words of somebody who runs `docker stop`.

        But then it takes no new connections any more, and what it stopped is wanted when it is back.
        """
        if event.cause != "stop" or await self._client.accepts():
            return event
        return replace(event, cause=None)

    def _take(self, line: bytes) -> list[RuntimeEvent]:
        event = parse(line)
        if event is None:
            return []
        # `since` is inclusive: the last one comes again after each reconnect. A hint twice does no harm.
        self._last_nano = max(self._last_nano, event.nano)
        name = text(event.attributes.get("name"))
        identity = self._containers.judge.identity(event.labels, name, event.runtime_id)
        flow_id = self._containers.flow_of(event.runtime_id) or (identity.flow_id if identity else None)
        if flow_id is None:
            return []
        at = moment(event.nano)
        known = self._containers.handle(flow_id)
        replaced = known is not None and known.runtime_id != event.runtime_id
        if event.action == "rename":
            if identity is None or identity.flow_id == flow_id:
                return []
            # An adopted container's id comes from its name, unless compose made it: now it is another flow.
            self._containers.forget_container(event.runtime_id)
            return [RuntimeEvent("removed", flow_id, at=at), RuntimeEvent("created", identity.flow_id, at=at)]
        cause = self._note(event, known.stop_signal if known else None)
        kind: RuntimeEventType | None = TYPES.get(event.action)
        if event.action.startswith("health_status"):
            kind = "health"
        if event.action == "stop" and self._causes.stopped(event.runtime_id):
            kind, cause = "died", "stop"
        if event.action == "destroy":
            self._removed()
            self._containers.forget_container(event.runtime_id)
        if kind in ("created", "started") and replaced:
            # Made anew by whoever made it: the next look finds the newer one.
            self._containers.forget(flow_id)
        elif replaced:
            return []  # the end of one whose place another one has taken already
        if kind is None:
            return []
        if kind != "died":
            return [RuntimeEvent(kind, flow_id, at=at)]
        return [RuntimeEvent(kind, flow_id, exit_code=event.exit_code, cause=cause, at=at)]

    def _note(self, event: EngineEvent, stop_signal: str | None) -> str | None:
        """Keep what tells why a container ends; the cause where it has ended now."""
        causes = self._causes
        signal = text(event.attributes.get("signal"))
        if event.action in ("kill", "die", "start"):
            self._ending.noticed(event.runtime_id, event.action, signal or None)
        if event.action == "kill" and signal:
            wanted = normal(stop_signal) if stop_signal else None
            causes.signalled(event.runtime_id, normal(signal), event.nano, stop_signal=wanted)
        elif event.action == "oom":
            causes.out_of_memory(event.runtime_id)
        elif event.action in ("start", "destroy"):
            causes.forget(event.runtime_id)
        elif event.action == "die":
            return causes.ended(event.runtime_id, event.exit_code, event.nano)
        return None
