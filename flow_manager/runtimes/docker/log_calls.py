"""Asking the engine for what a flow wrote: the last lines, and the new ones."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from datetime import datetime

from flow_manager.runtimes.docker.client import EngineClient
from flow_manager.runtimes.docker.containers import READ_SECONDS, Handle
from flow_manager.runtimes.docker.errors import Subject, translated
from flow_manager.runtimes.docker.logs import LogReader, position_text, since_text
from flow_manager.runtimes.inside import LogLine, LogPosition

# What `tail` lines may take at most, in bytes; of more, the end is kept.
MAX_BYTES = 4 * 1024 * 1024
# The engine counts entries, of which a long line has several: so many are asked for before a start in mid-line is taken.
MAX_ENTRIES = 65_536
MORE_ENTRIES = 4
# After an interruption so many entries are caught up on. Without a bound the engine would read a log of gigabytes from its
# beginning, to find the few lines that are new.
CATCH_UP = 100_000
BOTH = {"stdout": "1", "stderr": "1", "timestamps": "1"}


async def last_lines(client: EngineClient, handle: Handle, *, tail: int, since: datetime | None) -> list[LogLine]:
    """:raises ContainerNotFound, Unsupported, RuntimeUnavailable:"""
    # One more than asked for tells whether the first line is whole: the one after it is.
    asked = tail + 1
    while True:
        async with asyncio.timeout(READ_SECONDS):
            reader, lines = await _read(client, handle, asked, since)
        if reader.entries < asked or len(lines) > tail or asked >= MAX_ENTRIES:
            break
        asked *= MORE_ENTRIES
    return list(lines)[-tail:]


async def _read(
    client: EngineClient, handle: Handle, entries: int, since: datetime | None
) -> tuple[LogReader, deque[LogLine]]:
    params = {**BOTH, "tail": str(entries)}
    if since is not None:
        params["since"] = since_text(since)
    reader, lines, size = LogReader(tty=handle.tty), deque[LogLine](), 0
    async with client.stream("GET", f"containers/{handle.runtime_id}/logs", params=params) as response:
        while True:
            chunk = await response.content.readany()
            for line in reader.feed(chunk) if chunk else reader.rest():
                lines.append(line)
                size += len(line.text)
            while size > MAX_BYTES:
                size -= len(lines.popleft().text)
            if not chunk:
                return reader, lines
            await asyncio.sleep(0)  # a long answer that is there already would hold up everybody else


async def follow(client: EngineClient, handle: Handle, *, after: LogPosition) -> AsyncGenerator[list[LogLine], None]:
    """Until the container ends, whose last lines come before. :raises ContainerNotFound, Unsupported, RuntimeUnavailable:"""
    params = {**BOTH, "follow": "1", "tail": str(CATCH_UP)}
    if after:
        params["since"] = position_text(after[0] + 1)
    reader = LogReader(tty=handle.tty)
    with translated(Subject(handle.flow_id)):
        async with client.stream("GET", f"containers/{handle.runtime_id}/logs", params=params) as response:
            while chunk := await response.content.readany():
                if lines := reader.feed(chunk):
                    yield lines
    # What has no newline at the end of a run never gets one.
    if lines := [line._replace(whole=True) for line in reader.rest()]:
        yield lines
