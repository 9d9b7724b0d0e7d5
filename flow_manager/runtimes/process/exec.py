"""Running a command beside a flow's own program: a session and process group of its own, the flow's environment, folder and
cgroup. What it started ends with it; what left its session is found by its mark.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from flow_manager.contract.fields import MANAGERS_OWN_VARIABLES
from flow_manager.errors import ContainerStopped, ExecFailed, FlowManagerError, OperationTimeout, StartFailed
from flow_manager.runtimes.capped import Capped
from flow_manager.runtimes.inside import MARK, Command, ExecOutcome
from flow_manager.runtimes.marked import Marked
from flow_manager.runtimes.process import launch
from flow_manager.runtimes.process.flow import ProcessFlow
from flow_manager.runtimes.process.leader import Leader, ending
from flow_manager.runtimes.signals import KILLED_BY_SIGNAL

log = logging.getLogger(__name__)

# A command gets this long after its time-out to tidy up, in seconds; then it is killed.
TERM_GRACE = 1.0
# KILL can't be refused; a process that still is there after this sits in the kernel.
KILL_SECONDS = 3.0
# After the end of its group the pipes are at their end, unless something that left the session still holds them.
DRAIN_SECONDS = 0.5
KILLED = KILLED_BY_SIGNAL + signal.SIGKILL


async def run(flow: ProcessFlow, command: Command, *, timeout: float, limit: int) -> ExecOutcome:
    """See `runtimes.inside.Inside.exec`."""
    if not flow.runs or flow.group.frozen:
        raise _stopped(flow)
    mark = secrets.token_hex(8)
    folder = Path(command.working_dir) if command.working_dir is not None else flow.working_folder()
    if not folder.is_dir():
        reason = f"the working directory {folder} does not exist"
        raise ExecFailed(reason, kind=launch.KIND, reason=reason)
    try:
        async with _outputs(limit) as (stdout, stderr):
            leader = await _spawn(flow, command, folder, mark, stdout, stderr)
            try:
                code = await _to_its_end(flow, leader, mark, timeout)
                await asyncio.wait([stdout.over, stderr.over], timeout=DRAIN_SECONDS)
            finally:
                flow.beside.discard(leader)
                leader.close()
            return ExecOutcome(code, stdout.data.kept, stderr.data.kept, stdout.data.cut or stderr.data.cut)
    except StartFailed as failed:
        as_a_shell = failed.details.get("exit_code")
        if as_a_shell is None:
            raise ExecFailed(failed.message, kind=launch.KIND, reason=failed.message) from None
        return ExecOutcome(as_a_shell, b"", f"{failed.message}\n".encode())
    except OSError as exc:
        reason = f"no room for a command: {exc.strerror or exc}"
        raise ExecFailed(reason, kind=launch.KIND, reason=reason) from exc


async def _spawn(
    flow: ProcessFlow, command: Command, folder: Path, mark: str, stdout: _Output, stderr: _Output
) -> Leader:
    cgroup = flow.cgroup()
    own = flow.environment(flow.ports)
    # Who the flow is stays true, whatever the command is given.
    told: dict[str, str] = {name: own[name] for name in MANAGERS_OWN_VARIABLES if name in own}
    spawning = asyncio.create_task(
        asyncio.to_thread(
            launch.spawn,
            command.argv,
            environment={**own, **command.environment, **told, MARK: mark},
            folder=folder,
            output=stdout.writer,
            errors=stderr.writer,
            cgroup_procs=cgroup.procs if cgroup else None,
        )
    )
    try:
        pid = await asyncio.shield(spawning)
    except asyncio.CancelledError:
        # A thread can't be called back: wait for the process that it makes, and end it.
        await asyncio.wait([spawning])
        if spawning.exception() is None and (leader := Leader.hold(spawning.result())) is not None:
            flow.beside.add(leader)
            try:
                await _end(leader, mark)
            finally:
                flow.beside.discard(leader)
                leader.close()
        raise
    finally:
        stdout.close_writer()
        stderr.close_writer()
    held = Leader.hold(pid)
    if held is None:  # only the parent can reap it, and that is us
        raise ExecFailed("its process vanished", kind=launch.KIND, reason="its process vanished")
    flow.beside.add(held)
    return held


async def _to_its_end(flow: ProcessFlow, leader: Leader, mark: str, timeout: float) -> int:
    """Its exit code, all of it ended and reaped."""
    with ending(leader) as ended:
        flow_ended = asyncio.ensure_future(flow.group.ended())
        try:
            await asyncio.wait([ended, flow_ended], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done() and not flow_ended.done() and not flow.group.frozen:
                _signal(leader, signal.SIGTERM)
                await asyncio.wait([ended, flow_ended], timeout=TERM_GRACE, return_when=asyncio.FIRST_COMPLETED)
                left = not await _end(leader, mark) or None
                raise OperationTimeout(
                    f"the command had not ended after {timeout:g} s",
                    operation="exec",
                    timeout=timeout,
                    left_running=left,
                )
            if not ended.done():
                raise _stopped(flow, not await _end(leader, mark) or None)
            # What it left in its group ends with it, as in a container; its own number is kept by it until it is reaped.
            _signal(leader, signal.SIGKILL)
            code = leader.reap()
        except asyncio.CancelledError:
            await _end(leader, mark)
            raise
        finally:
            flow_ended.cancel()
    if code is None or (code == KILLED and not flow.runs):
        raise _stopped(flow)
    return code


async def _end(leader: Leader, mark: str) -> bool:
    """KILL all of it and reap it; False where it still runs."""
    killed = _signal(leader, signal.SIGKILL)
    await Marked(MARK, mark).kill()
    with ending(leader) as ended:
        await asyncio.wait([ended], timeout=KILL_SECONDS)
    if not leader.ended:
        return False
    leader.reap()
    return killed


def _signal(leader: Leader, number: int) -> bool:
    try:
        leader.signal_group(number)
    except PermissionError:
        log.warning("a process of a command became another user's and was left")
        return False
    return True


def _stopped(flow: ProcessFlow, left: bool | None = None) -> FlowManagerError:
    state = flow.observe().state
    words = f"is {state}" if state != "running" else "ended while the command ran"
    return ContainerStopped(
        f"flow {flow.record.spec.name!r} {words}", container_id=flow.id, state=state, left_running=left
    )


class _Output(asyncio.Protocol):
    """Our end of a pipe, read until its end whatever comes; `writer` is the command's end."""

    def __init__(self, limit: int) -> None:
        self.data = Capped(limit)
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.reader, self.writer = os.pipe()
        self._transport: asyncio.BaseTransport | None = None

    async def open(self) -> None:
        reader = os.fdopen(self.reader, "rb", 0)
        try:
            self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: self, reader)
        except BaseException:
            reader.close()
            raise

    def data_received(self, data: bytes) -> None:
        self.data.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(None)

    def close_writer(self) -> None:
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    async def close(self) -> None:
        self.close_writer()
        if self._transport is not None:
            self._transport.close()
            await asyncio.wait([self.over])


@asynccontextmanager
async def _outputs(limit: int) -> AsyncIterator[tuple[_Output, _Output]]:
    """Two pipes, open. :raises OSError: no descriptor is left."""
    opened: list[_Output] = []
    try:
        for _ in range(2):
            output = _Output(limit)
            opened.append(output)
            await output.open()
        yield opened[0], opened[1]
    finally:
        for output in opened:
            await output.close()
