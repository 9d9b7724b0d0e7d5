"""Running one command in a memory flow, and waiting by a sleep that is given."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from flow_manager.errors import ContainerStopped, OperationTimeout
from flow_manager.runtimes.inside import Command, ExecOutcome
from flow_manager.runtimes.memory.engine import MemoryFlow
from flow_manager.runtimes.memory.exec import NOT_FOUND, Call, Program, capped


async def run(
    flow: MemoryFlow,
    programs: Mapping[str, Program],
    command: Command,
    *,
    timeout: float,
    limit: int,
    sleep: Callable[[float], Awaitable[None]],
) -> ExecOutcome:
    """See `runtimes.inside.Inside.exec`."""
    if flow.state != "running":
        raise not_running(flow)
    program = programs.get(command.argv[0])
    if program is None:
        return ExecOutcome(NOT_FOUND, b"", f"{command.argv[0]}: not found\n".encode())
    environment = {**flow.environment(), **command.environment}
    folder = command.working_dir or flow.spec.working_dir or "/"
    running = asyncio.ensure_future(program(Call(command.argv, environment, folder, sleep)))
    ended = asyncio.ensure_future(flow.ended.wait())
    try:
        in_time = await first(asyncio.wait({running, ended}, return_when=asyncio.FIRST_COMPLETED), sleep(timeout))
        if ended.done():
            raise not_running(flow)
        if not in_time:
            raise OperationTimeout(f"the command had not ended after {timeout:g} s", operation="exec", timeout=timeout)
        return capped(running.result(), limit)
    finally:
        running.cancel()
        ended.cancel()
        await asyncio.wait({running, ended})


def not_running(flow: MemoryFlow) -> ContainerStopped:
    words = "is paused" if flow.state == "paused" else "does not run"
    return ContainerStopped(f"flow {flow.spec.name!r} {words}", state=flow.state)


async def first(awaited: Awaitable[object], sleeping: Awaitable[None]) -> bool:
    """True when it came before the sleep was over."""
    wanted, timer = asyncio.ensure_future(awaited), asyncio.ensure_future(sleeping)
    try:
        await asyncio.wait({wanted, timer}, return_when=asyncio.FIRST_COMPLETED)
        return wanted.done()
    finally:
        wanted.cancel()
        timer.cancel()
        await asyncio.wait({wanted, timer})
