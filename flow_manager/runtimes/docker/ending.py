"""Stopping and killing: a signal, a wait for the end, a KILL; and knowing which containers are about to end.

The engine's own `stop` is not used: 20.10 ignores its `signal`, and one that was given up goes on inside the engine and
kills, much later, a flow that was meanwhile wanted again.
"""

from __future__ import annotations

import asyncio
import signal as signals
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from aiodocker.exceptions import DockerError

from flow_manager.errors import (
    ContainerNotFound,
    ContainerStopped,
    FlowManagerError,
    OperationTimeout,
    StopFailed,
)
from flow_manager.runtimes.base import Observation
from flow_manager.runtimes.docker.causes import Causes
from flow_manager.runtimes.docker.client import Answer
from flow_manager.runtimes.docker.containers import Containers, Handle
from flow_manager.runtimes.docker.errors import RAW, Subject, repeatable, translated
from flow_manager.runtimes.docker.retry import repeat

KILL = "SIGKILL"
# A KILL works within milliseconds, unless the process hangs in the kernel: then the flow can't be stopped, and this says when.
KILL_SECONDS = 10.0
# Seconds between looks at a container that was paused and is said to run.
PAUSE_WAITS = (0.02, 0.1, 0.3, 0.6)
# After a signal of somebody else's a container is believed to be about to end for this long: Docker's own default grace.
SIGNAL_MEMORY = 11.0


def normal(signal: str) -> str:
    """`TERM`, `SIGTERM` and `15` are one signal: its name with SIG, or what it was when it has none."""
    try:
        return signals.Signals(int(signal)).name if signal.isdigit() else f"SIG{signal.upper().removeprefix('SIG')}"
    except ValueError:
        return signal


def _still_runs(seen: Observation) -> StopFailed:
    return StopFailed(
        f"flow '{seen.id}' still runs after {KILL}", container_id=seen.id, reason="the kill had no effect"
    )


class Ending:
    """Ends containers."""

    def __init__(self, containers: Containers, *, timeout: float) -> None:
        self._containers = containers
        self._timeout = timeout
        self._own: Counter[str] = Counter()
        self._signalled: dict[str, float] = {}
        # Those who tell from the engine's events why a container ended; they are told of our own signals.
        self.causes: set[Causes] = set()

    async def stop(self, handle: Handle, signal: str | None, grace: float) -> Observation:
        """:raises ContainerNotFound, StopFailed, InvalidRequest, RuntimeUnavailable:"""
        chosen = normal(signal or handle.stop_signal) if grace > 0 else KILL
        with self._under_way(handle.runtime_id):
            try:
                end = await self._signal_and_wait(handle, chosen, grace)
                over = end is not None
            except ContainerStopped:
                end, over = None, True
            if end is not None and (told := self._containers.ended(handle, end.data)) is not None:
                return told
            seen = await self._containers.inspect(handle.flow_id)
        if seen.running and not over:
            raise _still_runs(seen)
        return seen  # it may run again by now: somebody started it after its end

    async def _signal_and_wait(self, handle: Handle, signal: str, grace: float) -> Answer | None:
        """What the engine says of its end; None: it still runs. :raises ContainerStopped: it did not run."""
        if signal != normal(handle.stop_signal):
            # The engine lets a paused container see its own stop signal, and no other one.
            await self._let_go_on(handle)
        async with self._waiting(handle, grace + 2 * KILL_SECONDS + self._timeout) as end:
            await self._send(handle, signal)
            if signal != KILL:
                await asyncio.wait([end], timeout=grace)
                if end.done():
                    return end.result()
                await self._send(handle, KILL)
            await asyncio.wait([end], timeout=KILL_SECONDS)
            return end.result() if end.done() else None

    async def kill(self, handle: Handle, signal: str) -> Observation:
        """:raises ContainerNotFound, ContainerStopped, StopFailed, InvalidRequest, RuntimeUnavailable:"""
        if normal(signal) != KILL:
            await self._send(handle, signal)
            return await self._containers.inspect(handle.flow_id)
        end = await self._signal_and_wait(handle, KILL, 0)
        seen = await self._containers.inspect(handle.flow_id)
        if seen.running and end is None:
            raise _still_runs(seen)
        return seen

    @asynccontextmanager
    async def _waiting(self, handle: Handle, within: float) -> AsyncIterator[asyncio.Task[Answer | None]]:
        """Waits from before the signal on: whoever looks only afterwards may see what was started anew meanwhile."""
        task = asyncio.create_task(self._end(handle, within), name="docker-wait")
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # it was told to whoever asked; nobody else is to be warned of it

    async def ended(self, handle: Handle, within: float) -> bool:
        """Wait for the end of the container, at most `within` seconds; False when it still runs then."""
        return await self._end(handle, within) is not None

    async def _end(self, handle: Handle, within: float) -> Answer | None:
        """The engine's answer to a wait for the end; None when it still runs after `within` seconds."""

        async def once() -> Answer:
            path = f"containers/{handle.runtime_id}/wait"
            return await self._containers.client.long_call(
                "POST", path, params={"condition": "not-running"}, timeout=within + 1
            )

        try:
            return await repeat(once, within=within)
        except TimeoutError:
            return None
        except RAW as exc:
            with translated(Subject(handle.flow_id)):
                raise exc
        raise AssertionError("unreachable: translated raises")

    async def _send(self, handle: Handle, signal: str) -> None:
        async def once() -> Answer:
            path = f"containers/{handle.runtime_id}/kill"
            # The engine answers a KILL only after the end, and itself gives up after some ten seconds.
            return await self._containers.client.call("POST", path, params={"signal": signal}, timeout=self._timeout)

        for causes in self.causes:
            causes.announce(handle.runtime_id)
        try:
            with translated(Subject(handle.flow_id, signal=signal, operation="kill")):
                await repeat(once, within=self._timeout)
        except FlowManagerError:
            for causes in self.causes:
                causes.withdraw(handle.runtime_id)
            raise

    async def _let_go_on(self, handle: Handle) -> None:
        if (await self._containers.inspect(handle.flow_id)).state == "paused":
            await self.unpause(handle)

    async def pause(self, handle: Handle) -> Observation:
        """What the engine says afterwards, once it says that it is paused or does not run at all.

        Right after an unpause 20.10 may say `running` of one that is frozen: it hears late of that unpause's end, and takes it
        for news. It corrects itself within milliseconds, when it hears of the pause.

        :raises ContainerNotFound, ContainerStopped, RuntimeUnavailable:
        """
        with translated(Subject(handle.flow_id, operation="pause")):
            try:
                path = f"containers/{handle.runtime_id}/pause"
                await self._containers.client.call("POST", path, timeout=self._timeout)
            except DockerError as exc:
                if "already paused" not in exc.message:
                    raise
        seen = await self._containers.inspect(handle.flow_id)
        for wait in PAUSE_WAITS:
            if seen.state != "running":
                break
            await asyncio.sleep(wait)
            seen = await self._containers.inspect(handle.flow_id)
        return seen  # running still: somebody has let it go on already

    async def unpause(self, handle: Handle) -> Observation:
        """An unpause right after a pause can answer 500 "is not paused" under load: so look, and repeat while it is.

        :raises ContainerNotFound, ContainerStopped, OperationTimeout, RuntimeUnavailable:
        """
        subject = Subject(handle.flow_id, operation="unpause")
        path = f"containers/{handle.runtime_id}/unpause"
        for wait in (0.02, 0.1, 0.5, 1.0, 2.0):
            with translated(subject):
                try:
                    await self._containers.client.call("POST", path, timeout=self._timeout)
                except DockerError as exc:
                    if "not paused" not in exc.message and "not running" not in exc.message and not repeatable(exc):
                        raise
            seen = await self._containers.inspect(handle.flow_id)
            if seen.state != "paused":
                if seen.running:
                    return seen
                raise ContainerStopped(f"flow '{seen.id}' does not run", container_id=seen.id)
            await asyncio.sleep(wait)
        raise OperationTimeout(f"flow '{handle.flow_id}' stays paused", operation="unpause")

    # --- what is about to end -----------------------------------------------------------------------------------------

    @contextmanager
    def _under_way(self, runtime_id: str) -> Iterator[None]:
        self._own[runtime_id] += 1
        try:
            yield
        finally:
            self._own[runtime_id] -= 1
            if self._own[runtime_id] <= 0:
                del self._own[runtime_id]

    def noticed(self, runtime_id: str, action: str, signal: str | None) -> None:
        """An event of the engine: somebody sent a signal, or the container ended, or began anew."""
        if action != "kill":
            self._signalled.pop(runtime_id, None)
            return
        flow_id = self._containers.flow_of(runtime_id)
        handle = self._containers.handle(flow_id) if flow_id else None
        if handle is not None and signal and normal(signal) in (KILL, normal(handle.stop_signal)):
            now = asyncio.get_running_loop().time()
            for old in [known for known, at in self._signalled.items() if now - at > SIGNAL_MEMORY]:
                del self._signalled[old]
            self._signalled[runtime_id] = now

    async def settled(self, handle: Handle) -> bool:
        """False when a stop was under way and the container has ended by now; True when nothing was, or it ran on.

        While one is under way the engine answers a start with 304, as if the container ran and would go on running.
        """
        left = (
            self._signalled.get(handle.runtime_id, -SIGNAL_MEMORY) + SIGNAL_MEMORY - asyncio.get_running_loop().time()
        )
        if self._own[handle.runtime_id] > 0:
            left = self._timeout
        if left <= 0:
            return True
        try:
            return not await self.ended(handle, left)
        except ContainerNotFound:
            return False
