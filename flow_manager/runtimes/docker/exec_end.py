"""Ending a command in a container that is over its time, or that nobody waits for any more."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from aiodocker.exceptions import DockerError

from flow_manager.errors import FlowManagerError
from flow_manager.runtimes.docker import marked
from flow_manager.runtimes.docker.client import EngineClient
from flow_manager.runtimes.docker.containers import READ_SECONDS
from flow_manager.runtimes.docker.errors import RAW
from flow_manager.runtimes.docker.observe import dig, text, whole
from flow_manager.runtimes.process import kernel

# Long enough for a KILL on a machine that is busy on every core; a shutdown waits for it.
END_SECONDS = 3.0
# A start that was given up may begin a moment later; floors of the engine say 60 ms.
BEGIN_SECONDS = 1.0
POLL = 0.02
LIVES_SECONDS = 0.1
# What forks while it is being killed is met in the next round; what is left after them is tried from inside.
ROUNDS = 5


class CommandEnding:
    """Ends what an exec started. `seen`: which processes of a container can be reached from here."""

    def __init__(self, client: EngineClient, seen: marked.Seen = marked.on_this_machine) -> None:
        self._client = client
        self._seen = seen

    async def end(self, runtime_id: str, exec_id: str, mark: str) -> bool:
        """True once it does not run (any more); False where that can't be brought about in `END_SECONDS`. Never raises."""
        try:
            async with asyncio.timeout(END_SECONDS):
                return await self._end(runtime_id, exec_id, mark)
        except (*RAW, FlowManagerError):
            return False

    async def _end(self, runtime_id: str, exec_id: str, mark: str) -> bool:
        state = await self._begun(exec_id)
        if state is None:
            return True
        leader = whole(dig(state, "Pid")) or 0
        if not await self.kill_from_here(runtime_id, leader, mark):
            await self.kill_from_inside(runtime_id, mark)
        while True:
            state = await self.state(exec_id)
            if state is None or dig(state, "Running") is not True:
                return True
            await asyncio.sleep(POLL)

    async def _begun(self, exec_id: str) -> Any:
        """Its state; None where it never began."""
        end = asyncio.get_running_loop().time() + BEGIN_SECONDS
        while (state := await self.state(exec_id)) is not None:
            if dig(state, "Running") is True or dig(state, "ExitCode") is not None:
                return state
            if asyncio.get_running_loop().time() > end:
                return None
            await asyncio.sleep(POLL)
        return None

    async def state(self, exec_id: str) -> Any:
        """The engine's inspect of an exec; None: it knows none, its container is gone. Raises the libraries' errors."""
        try:
            return (await self._client.call("GET", f"exec/{exec_id}/json", timeout=READ_SECONDS)).data
        except DockerError as exc:
            if exc.status == 404:
                return None
            raise

    async def lives(self, runtime_id: str, init: int) -> bool:
        """Does the container's first process live? False also where it isn't seen from here."""
        for _ in range(2):
            stat = kernel.read_stat(init) if init and self._seen(init, runtime_id) else None
            if stat is None or not stat.alive:
                return False
            # It waits for the others of its container before it ends itself: looked at twice.
            await asyncio.sleep(LIVES_SECONDS)
        return True

    async def kill_from_here(self, runtime_id: str, leader: int, mark: str) -> bool:
        """False when none is seen from here, or one may not be killed."""
        found = marked.seen_here(runtime_id, mark, leader or None, self._seen)
        return await asyncio.to_thread(found.signal, signal.SIGKILL) > 0 and await found.kill(ROUNDS)

    async def kill_from_inside(self, runtime_id: str, mark: str) -> None:
        """Begun, not waited for. Raises the libraries' errors."""
        body = {"Cmd": marked.ending_inside(mark, hang_up=False), "AttachStdout": False, "AttachStderr": False}
        made = await self._client.call("POST", f"containers/{runtime_id}/exec", body=body, timeout=END_SECONDS)
        path = f"exec/{text(dig(made.data, 'Id'))}/start"
        await self._client.call("POST", path, body={"Detach": True, "Tty": False}, timeout=END_SECONDS)
