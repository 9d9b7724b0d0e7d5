"""What a runtime brings along to be held to the promises of `flow_manager.runtimes.base`.

Each runtime has one module `tests.contract.harness_<kind>` with

- `FIXTURES`: names of pytest fixtures that it needs (a private engine, say); they are asked for before it opens;
- `harness(tmp_path, **fixtures)`: an async context manager that yields a `RuntimeHarness` of an instance of its own and,
  at its end, removes whatever the test left.

The suite never looks behind the harness, so a promise is worded once and holds for all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import pytest

from flow_manager import errors
from flow_manager.runtimes.base import FlowSpec, PortBinding, Runtime, RuntimeEvent
from flow_manager.util.ids import new_flow_id

Behaviour = Literal[
    "sleeps",  # prints "ready", runs until it is told to end, TERM ends it with 143
    "exits",  # exits at once with `code`
    "prints",  # prints `lines`, then "ready", then as "sleeps"
    "ignores_term",  # prints "ready" once TERM does nothing any more; only KILL ends it
    "ends_with_zero",  # prints "ready"; at TERM it exits with 0
    "prints_environment",  # prints its environment as NAME=value lines, then "ready", then as "sleeps"
    "dies_soon",  # runs for some 0.3 s, then exits with 4
    "serves",  # prints "ready"; answers each TCP connection on its published port with the line "served"
    "complains",  # as "prints", but the lines go to its standard error
    "counts",  # prints "ready", then "line 1", "line 2" …, some tens a second
    "missing_command",  # its command does not exist
]
SERVED = b"served\n"
READY = "ready"
# How long the suite waits for something that should take milliseconds: only a failing test ever waits that long.
PATIENCE = 15.0


def flow_spec(
    instance: str,
    *,
    image: str,
    command: tuple[str, ...],
    serves: int | None = None,
    channels: Path | None = None,
    overrides: dict[str, Any],
) -> FlowSpec:
    """A flow with an id of its own. `serves`: the port on which it answers; `channels`: where its channel's folder shall be."""
    id = new_flow_id()
    fields: dict[str, Any] = {
        "id": id,
        "name": f"flow-{id}",
        "container_name": f"flow-{id}",
        "tenant": "default",
        "instance": instance,
        "image": image,
        "command": command,
        "ports": (PortBinding(serves, "tcp", 0),) if serves is not None else (),
        "channel_folder": channels / id if channels is not None else None,
    }
    return FlowSpec(**{**fields, **overrides})


class RuntimeHarness(Protocol):
    """One instance on one engine; `open` may be called again after a `close`, as a restarted manager would."""

    kind: str
    name: str
    """`name` that the runtimes are opened with."""
    instance: str
    fresh: str
    """The state of a flow that was never started."""
    clock_slack: float
    """Seconds by which the moment of a start may be told differently by another runtime object."""

    async def open(self) -> Runtime:
        """A new runtime object, opened, of this instance; the caller closes it."""
        ...

    async def open_other_instance(self) -> Runtime:
        """As `open`, on the same engine, of another instance."""
        ...

    def spec(self, behaviour: Behaviour, *, code: int = 0, lines: tuple[str, ...] = (), **overrides: Any) -> FlowSpec:
        """A new flow (id and names of its own) that behaves so; `overrides` are fields of FlowSpec.

        `name` and `container_name` are equal; `serves` has one port binding with host_port 0. There is a channel folder.
        """
        ...

    async def outside_kill(self, runtime: Runtime, id: str) -> None:
        """End the flow with SIGKILL behind the runtime's back."""
        ...

    async def outside_stop(self, runtime: Runtime, id: str) -> bool:
        """A person ends the flow by hand, as with `docker stop`. False: this runtime can't tell that from any other end."""
        ...

    def expected_environment(self, spec: FlowSpec) -> dict[str, str | None]:
        """All variables that the flow may see beside `spec.environment`; None: any value."""
        ...

    async def leftovers(self) -> list[str]:
        """Everything of this instance that exists: containers, processes, folders. For people to read."""
        ...


@asynccontextmanager
async def opened(harness: RuntimeHarness) -> AsyncIterator[Runtime]:
    runtime = await harness.open()
    try:
        yield runtime
    finally:
        await runtime.close()


async def until(condition: Callable[[], Awaitable[bool]], what: str, *, patience: float = PATIENCE) -> None:
    """Ask until it is so. For what can only be asked for; fails with `what` after `patience` seconds."""
    deadline = time.monotonic() + patience
    while not await condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {patience} s: {what}")
        await asyncio.sleep(0.01)


async def run(runtime: Runtime, spec: FlowSpec) -> str:
    """Create, start, and wait until the flow has printed "ready". Gives its id."""
    await runtime.create(spec)
    await runtime.start(spec.id)
    await printed(runtime, spec.id, READY)
    return spec.id


async def printed(runtime: Runtime, id: str, line: str) -> None:
    async def seen() -> bool:
        return line in await texts(runtime, id)

    await until(seen, f"flow {id} prints {line!r}")


async def texts(runtime: Runtime, id: str, tail: int = 100) -> list[str]:
    """What its last lines say."""
    if (behind := getattr(runtime, "behind", None)) is not None:
        # This runtime shows nothing of what its flows write; the harness looks behind it.
        found: list[str] = await behind(id)
        return found
    return [line.text for line in await runtime.logs(id, tail=tail)]


async def needs(runtime: Runtime, capability: str, call: Callable[[], Awaitable[object]] | None = None) -> None:
    """Skip what this runtime can't do, after it has said so itself."""
    if getattr(runtime.capabilities, capability):
        return
    if call is not None:
        with pytest.raises(errors.Unsupported) as caught:
            await call()
        assert caught.value.details["capability"] == capability
        assert caught.value.kind == runtime.kind
    pytest.skip(f"{runtime.kind} has no {capability}")


async def ended(runtime: Runtime, id: str) -> None:
    async def over() -> bool:
        return not (await runtime.inspect(id)).running

    await until(over, f"flow {id} ends")


class Events:
    """Collects what `watch` says, from the first `resync` on."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._changed = asyncio.Condition()
        self.seen: list[RuntimeEvent] = []
        self.over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Events:
        self._task = asyncio.create_task(self._collect(), name="contract-events")
        await self.wait_for("resync")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled() and (failure := self._task.exception()):
            raise failure

    async def _collect(self) -> None:
        stream = self._runtime.watch()
        try:
            async for event in stream:
                async with self._changed:
                    self.seen.append(event)
                    self._changed.notify_all()
        finally:
            await stream.aclose()  # type: ignore[attr-defined]
            self.over.set()

    def of(self, id: str) -> list[str]:
        """The types seen of one flow, in order."""
        return [event.type for event in self.seen if event.id == id]

    async def wait_for(self, type: str, id: str | None = None) -> RuntimeEvent:
        """The first event of this type (and flow), seen already or to come."""

        def matches() -> RuntimeEvent | None:
            return next((event for event in self.seen if event.type == type and event.id == id), None)

        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(lambda: matches() is not None)
        found = matches()
        assert found is not None
        return found
