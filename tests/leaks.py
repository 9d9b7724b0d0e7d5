"""What a test may not leave: asyncio tasks, child processes, listening Unix sockets."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import psutil

# What is on its way out when a test ends (a cancelled task, a killed process) gets this long.
GRACE = 2.0
POLL = 0.01
# Libraries whose tasks end in bounded time by themselves: a closed connection's ping task sleeps on for up to 25 s, a
# client's loops end when they like, and aiohttp lingers 10 s for a body that was announced.
LIBRARIES = ("/engineio/", "/socketio/", "/aiohttp/web_protocol.py")
# Helpers of the standard library that live as long as the interpreter.
LASTING = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


def children() -> set[int]:
    """Pids of this process's own children, zombies too: one that nobody waited for is a leak as well."""
    lists = list(Path("/proc/self/task").glob("*/children"))
    if not lists:  # not Linux, or a kernel without CONFIG_PROC_CHILDREN
        return {child.pid for child in psutil.Process().children()}
    found: set[int] = set()
    for path in lists:
        try:
            found.update(int(pid) for pid in path.read_text().split())
        except OSError:
            continue  # that thread ended meanwhile; its children are another thread's now
    return found


def describe(pid: int) -> str | None:
    """None for one that is gone or may stay."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return f"process {pid} (zombie): {process.name()}"
        command = " ".join(process.cmdline()) or process.name()
        if any(name in command for name in LASTING):
            return None
        return f"process {pid} ({process.status()}): {command[:200]}"
    except psutil.NoSuchProcess:
        return None


def bound_sockets(folder: Path) -> set[str]:
    """Unix sockets below `folder` that somebody still holds: a file alone is no leak, a listener is."""
    try:
        lines = Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]
    except OSError:
        return set()
    paths = {line.split(maxsplit=7)[7] for line in lines if line.count("/")}
    return {path for path in paths if path.startswith(f"{folder}/") and path.endswith(".sock") and Path(path).exists()}


def left_children(before: set[int]) -> list[str]:
    deadline = time.monotonic() + GRACE
    while True:
        left = [text for pid in sorted(children() - before) if (text := describe(pid))]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(POLL)


def _counted(tasks: list[asyncio.Task[object]]) -> list[asyncio.Task[object]]:
    """Without those of `LIBRARIES`, and then without those of the standard library, which they wait for (`Queue.get`)."""
    places = {task: _place(task) for task in tasks}
    theirs = [task for task in tasks if any(name in places[task] for name in LIBRARIES)]
    return [task for task in tasks if task not in theirs and not (theirs and "/asyncio/" in places[task])]


def _place(task: asyncio.Task[object]) -> str:
    code = getattr(task.get_coro(), "cr_code", None)
    return code.co_filename if code is not None else ""


async def left_tasks() -> list[str]:
    """Tasks of the running loop that are still there after `GRACE` seconds."""
    deadline = time.monotonic() + GRACE
    while True:
        left = _counted(
            [task for task in asyncio.all_tasks() if task is not asyncio.current_task() and not task.done()]
        )
        if not left or time.monotonic() > deadline:
            return [repr(task) for task in left]
        await asyncio.sleep(POLL)
