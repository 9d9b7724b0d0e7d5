"""Commands and terminals that an earlier run of this manager left in containers: one that is killed ends nothing, and the
engine goes on with all of it, `yes` in a terminal included.

What is left is known by its mark, which names the instance and its run. Only where the engine still runs an exec is anything
ended: what a command that is over had left in the background goes on, as it does while its manager lives. A program that was
started with an empty environment bears no mark, and stays.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import secrets
from collections.abc import Mapping
from typing import Any

from flow_manager.errors import FlowManagerError
from flow_manager.runtimes.docker import marked
from flow_manager.runtimes.docker.client import EngineClient
from flow_manager.runtimes.docker.containers import READ_SECONDS
from flow_manager.runtimes.docker.errors import RAW
from flow_manager.runtimes.docker.exec_end import CommandEnding
from flow_manager.runtimes.docker.exec_output import Demultiplexer
from flow_manager.runtimes.docker.observe import dig, text, whole
from flow_manager.runtimes.inside import MARK
from flow_manager.runtimes.process import kernel

log = logging.getLogger(__name__)

# Looking into a container from inside, and all that it takes, in seconds.
LOOK_SECONDS = 5.0
# Containers looked after at a time: the clients that just came back go first.
WIDTH = 2
LISTED_BYTES = 64 * 1024
# Prints the marks of what was begun from outside the container, whose parent is none of it. `$1`: the pattern of a mark.
MARKS_INSIDE = """
for folder in /proc/[0-9]*; do
  grep -q "^PPid:[^0-9]*0$" "$folder/status" 2>/dev/null && grep -aoe "$1" "$folder/environ" 2>/dev/null
done
exit 0
"""


class Marks:
    """Makes this run's marks, and knows those of earlier runs of the same instance: `<instance>-<run>-<number>`, all hex."""

    def __init__(self, instance: str) -> None:
        # An instance may have any name that settings give; in a pattern for grep it must have no meaning.
        self._instance = hashlib.sha256(instance.encode()).hexdigest()[:16]
        self._run = secrets.token_hex(4)

    def new(self) -> str:
        return f"{self._instance}-{self._run}-{secrets.token_hex(8)}"

    def is_left(self, mark: str) -> bool:
        return mark.startswith(f"{self._instance}-") and not mark.startswith(f"{self._instance}-{self._run}-")

    @property
    def pattern(self) -> str:
        return f"{MARK}={self._instance}-[0-9a-f-]*"


class Leftovers:
    """Ends them, once, in the background. `seen`: which processes of a container can be reached from here."""

    def __init__(
        self, client: EngineClient, ending: CommandEnding, marks: Marks, seen: marked.Seen = marked.on_this_machine
    ) -> None:
        self._client = client
        self._ending = ending
        self._marks = marks
        self._seen = seen
        self._task: asyncio.Task[None] | None = None

    def end_once(self, execs: Mapping[str, list[str]]) -> None:
        """`execs`: those that run, by the engine's id of their container."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._end_all(dict(execs)), name="docker-leftovers")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _end_all(self, execs: dict[str, list[str]]) -> None:
        width = asyncio.Semaphore(WIDTH)

        async def one(runtime_id: str, exec_ids: list[str]) -> None:
            async with width:
                try:
                    await self._end_in(runtime_id, exec_ids)
                except (*RAW, FlowManagerError) as exc:
                    log.warning("what was left in container %s was not ended: %s", runtime_id[:12], exc)

        await asyncio.gather(*(one(runtime_id, exec_ids) for runtime_id, exec_ids in execs.items()))

    async def _end_in(self, runtime_id: str, exec_ids: list[str]) -> None:
        far: list[str] = []
        for exec_id in exec_ids:
            state = await self._ending.state(exec_id)
            pid = whole(dig(state, "Pid")) or 0
            if dig(state, "Running") is not True or not pid:
                continue
            if not self._seen(pid, runtime_id):
                far.append(exec_id)
                continue
            mark = kernel.environment_of(pid).get(MARK, "")
            if self._marks.is_left(mark):
                await self._end(runtime_id, exec_id, mark)
        if far:
            async with asyncio.timeout(LOOK_SECONDS):
                marks = await self._marks_inside(runtime_id)
            for mark in marks:
                if self._marks.is_left(mark):
                    # Whose exec it is can't be told from afar; the mark alone finds its processes.
                    await self._end(runtime_id, None, mark)

    async def _end(self, runtime_id: str, exec_id: str | None, mark: str) -> None:
        log.info("ending what an earlier run left in container %s", runtime_id[:12])
        if exec_id is None:
            await self._ending.kill_from_inside(runtime_id, mark)
        elif not await self._ending.end(runtime_id, exec_id, mark):
            log.warning("what an earlier run left in container %s could not be ended", runtime_id[:12])

    async def _marks_inside(self, runtime_id: str) -> set[str]:
        body: dict[str, Any] = {
            "Cmd": ["/bin/sh", "-c", MARKS_INSIDE, "sh", self._marks.pattern],
            "AttachStdout": True,
            "AttachStderr": False,
        }
        made = await self._client.call("POST", f"containers/{runtime_id}/exec", body=body, timeout=READ_SECONDS)
        output = Demultiplexer(LISTED_BYTES)
        path = f"exec/{text(dig(made.data, 'Id'))}/start"
        async with self._client.stream("POST", path, body={"Detach": False, "Tty": False}) as response:
            while chunk := await response.content.readany():
                output.feed(chunk)
        found = re.findall(rf"{MARK}=([0-9a-f-]+)", output.stdout.kept.decode(errors="replace"))
        return set(found)
