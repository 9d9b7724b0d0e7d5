"""Running a command in a container: create, start with both outputs attached, and its exit code by inspect."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiodocker.exceptions import DockerError

from flow_manager.errors import ContainerNotFound, ContainerStopped, FlowManagerError, OperationTimeout
from flow_manager.runtimes.base import Observation
from flow_manager.runtimes.docker.containers import READ_SECONDS, Containers, Handle
from flow_manager.runtimes.docker.errors import Subject, translated
from flow_manager.runtimes.docker.exec_end import CommandEnding
from flow_manager.runtimes.docker.exec_output import Demultiplexer
from flow_manager.runtimes.docker.exec_words import not_begun, refused_by_the_kernel
from flow_manager.runtimes.docker.observe import dig, text, whole
from flow_manager.runtimes.inside import MARK, Command, ExecOutcome
from flow_manager.runtimes.signals import KILLED_BY_SIGNAL

# The outputs end with the process, or some milliseconds before the engine has noticed its end.
FIRST_LOOK, LONGEST_LOOK = 0.005, 0.25
# So long a killed command's container may take to be seen to have ended, too, where its processes aren't seen from here.
SETTLE_SECONDS = 3.0
KILLED = KILLED_BY_SIGNAL + 9
# Of the engine's own words where the command's output would be.
OCI = b"OCI runtime"


class Executor:
    """Runs commands. The container's user is kept; `environment` comes on top of the container's own."""

    def __init__(
        self,
        containers: Containers,
        ending: CommandEnding,
        wait_for_end: Callable[[Handle, float], Awaitable[bool]],
        *,
        timeout: float,
        new_mark: Callable[[], str],
    ) -> None:
        """`wait_for_end(handle, seconds)`: of the container. `timeout`: of an engine call. `new_mark`: see `leftovers`."""
        self._containers = containers
        self._client = containers.client
        self._ending = ending
        self._wait_for_end = wait_for_end
        self._timeout = timeout
        self._new_mark = new_mark

    async def run(self, handle: Handle, command: Command, timeout: float, limit: int) -> ExecOutcome:
        """See `runtimes.inside.Inside.exec`. A ContainerNotFound says that nothing was started."""
        mark, before = self._new_mark(), self._containers.last_seen(handle.flow_id)
        exec_id = await self._create(handle, command, mark)
        output = Demultiplexer(limit)
        running = asyncio.create_task(self._run(handle, exec_id, output), name="docker-exec")
        left: bool | None = None
        state: Any = None
        try:
            await asyncio.wait([running], timeout=timeout)
            if over := running.done():
                state = running.result()
            else:
                left = not await self._ending.end(handle.runtime_id, exec_id, mark) or None
        except BaseException:
            # A caller that gives up, an engine that is lost: what was started must not go on unknown to anybody.
            await self._abandon(running)
            await self._ending.end(handle.runtime_id, exec_id, mark)
            raise
        finally:
            await self._abandon(running)
        if not over:
            raise await self._late(handle, timeout, left)
        return await self._outcome(handle, command, output, state, before)

    async def _create(self, handle: Handle, command: Command, mark: str) -> str:
        body: dict[str, Any] = {
            "Cmd": list(command.argv),
            "Env": [f"{name}={value}" for name, value in {**command.environment, MARK: mark}.items()],
            "AttachStdout": True,
            "AttachStderr": True,
            "Tty": False,
        }
        if command.working_dir is not None:
            body["WorkingDir"] = command.working_dir
        path = f"containers/{handle.runtime_id}/exec"
        with translated(Subject(handle.flow_id, operation="exec")):
            made = await self._client.call("POST", path, body=body, timeout=self._timeout)
            return text(made.data["Id"])

    async def _run(self, handle: Handle, exec_id: str, output: Demultiplexer) -> Any:
        """Its state after its end; None where the engine does not know it any more."""
        with translated(Subject(handle.flow_id, operation="exec")):
            body = {"Detach": False, "Tty": False}
            try:
                async with self._client.stream("POST", f"exec/{exec_id}/start", body=body) as response:
                    while chunk := await response.content.readany():
                        output.feed(chunk)
            except DockerError as exc:
                if OCI.decode() not in exc.message:
                    if exc.status == 404:  # its container went between create and start
                        return None
                    raise
                # Engines that look before they answer tell it here what others write into the output.
                return {"Pid": 0, "ExitCode": 126, "words": exc.message}
            wait = FIRST_LOOK
            while (state := await self._ending.state(exec_id)) is not None and dig(state, "Running") is True:
                # It closed its outputs and goes on, as daemons do.
                await asyncio.sleep(wait)
                wait = min(wait * 2, LONGEST_LOOK)
            return state

    async def _late(self, handle: Handle, timeout: float, left: bool | None) -> FlowManagerError:
        seen = await self._look(handle)
        if seen is None or seen.state != "running":
            return self._stopped(handle, seen, left)
        return OperationTimeout(
            f"the command had not ended after {timeout:g} s", operation="exec", timeout=timeout, left_running=left
        )

    async def _outcome(
        self, handle: Handle, command: Command, output: Demultiplexer, state: Any, before: Observation | None
    ) -> ExecOutcome:
        code = whole(dig(state, "ExitCode"))
        name, stdout, stderr = command.argv[0], output.stdout.kept, output.stderr.kept
        if code is None or code == KILLED:
            # Killed by itself, or with its container?
            seen = await self._look_after_a_kill(handle)
            same = before is None or before.started_at is None or (seen and seen.started_at == before.started_at)
            if code is None or seen is None or seen.state != "running" or not same:
                raise self._stopped(handle, seen)
        words = text(dig(state, "words")) or (stdout.decode(errors="replace") if stdout.startswith(OCI) else "")
        if not words and dig(state, "Pid") == 0 and code in (126, 127, 128):
            words = stdout.decode(errors="replace")
        if words and not whole(dig(state, "Pid")):
            code, told = not_begun(words, name)
            return ExecOutcome(code, b"", told.encode())
        if refused := refused_by_the_kernel(code, stdout, stderr, name):
            return ExecOutcome(refused[0], b"", refused[1].encode())
        return ExecOutcome(code, stdout, stderr, output.truncated)

    async def _look_after_a_kill(self, handle: Handle) -> Observation | None:
        """A container's commands end with it some moments before the engine says that it ended."""
        try:
            with translated(Subject(handle.flow_id)):
                state = await self._client.call("GET", f"containers/{handle.runtime_id}/json", timeout=READ_SECONDS)
            if not await self._ending.lives(handle.runtime_id, whole(dig(state.data, "State", "Pid")) or 0):
                await self._wait_for_end(handle, SETTLE_SECONDS)
        except ContainerNotFound:
            return None
        return await self._look(handle)

    async def _look(self, handle: Handle) -> Observation | None:
        """None: it is gone. :raises RuntimeUnavailable:"""
        try:
            async with asyncio.timeout(READ_SECONDS):
                return await self._containers.inspect(handle.flow_id)
        except ContainerNotFound:
            return None

    def _stopped(self, handle: Handle, seen: Observation | None, left: bool | None = None) -> FlowManagerError:
        state = seen.state if seen is not None else "removed"
        words = f"is {state}" if state == "paused" else "ended while the command ran"
        return ContainerStopped(
            f"flow '{handle.flow_id}' {words}", container_id=handle.flow_id, state=state, left_running=left
        )

    async def _abandon(self, running: asyncio.Task[Any]) -> None:
        running.cancel()
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # it was told to whoever asked; nobody else is to be warned of it
