"""Following what a flow writes, by looking at its files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from flow_manager.runtimes.inside import LogLine, LogPosition
from flow_manager.runtimes.process.flow import ProcessFlow, translate

# Two calls of stat(2) for each followed flow; people take a tenth of a second for at once.
LOOK_EVERY = 0.1


async def follow(flow: ProcessFlow, after: LogPosition) -> AsyncGenerator[list[LogLine], None]:
    """Until the flow has ended, and all that it wrote was given. :raises NoSpace, RuntimeRefused:"""
    position = after
    while True:
        # Asked before the files: what a flow wrote before its end is in them by then.
        ended = flow.written
        try:
            lines, more = flow.output.after(position, ended=ended)
        except OSError as exc:
            if flow.removed:
                return
            raise translate(exc) from exc
        if lines:
            position = lines[-1].position
            yield lines
        if more:
            await asyncio.sleep(0)
        elif ended:
            return
        else:
            await asyncio.sleep(LOOK_EVERY)
