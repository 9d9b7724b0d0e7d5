"""Ending a command in a container: no call of the engine does it.

All that a command started bears its mark, the variable FLOW_EXEC_ID, in its environment; what cleaned that away is mostly
still in its session. From this machine it is ended by pid where the engine's processes are seen here: each one's cgroup must
name the container, so that neither a reused pid nor a process of another machine's number is hit. Else (a remote engine, a
manager in a container of its own) a second exec looks for the mark from inside, with what the image has.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiodocker.exceptions import DockerError

from flow_manager.errors import FlowManagerError
from flow_manager.runtimes.docker.client import EngineClient
from flow_manager.runtimes.docker.containers import READ_SECONDS
from flow_manager.runtimes.docker.errors import RAW
from flow_manager.runtimes.docker.observe import dig, text, whole

MARK = "FLOW_EXEC_ID"
PROC = Path("/proc")
# Long enough for a KILL on a machine that is busy on every core; a shutdown waits for it.
END_SECONDS = 3.0
# A start that was given up may begin a moment later; floors of the engine say 60 ms.
BEGIN_SECONDS = 1.0
POLL = 0.02
LIVES_SECONDS = 0.1
# What forks while it is being killed is met in the next round.
ROUNDS = 5
# `grep` and the shell's own `kill` are all that it needs. It runs as the command's own user: the kernel shows an environment
# to nobody else in there. The mark is an argument, in which no shell looks for anything.
FROM_INSIDE = """
n=0
while [ $n -lt 5 ]; do
  found=
  for e in /proc/[0-9]*/environ; do
    if grep -q "$1" "$e" 2>/dev/null; then
      p=${e#/proc/}
      kill -9 "${p%/environ}" 2>/dev/null && found=1
    fi
  done
  [ -z "$found" ] && exit 0
  n=$((n + 1))
done
"""


class CommandEnding:
    """Ends what an exec started. `proc` is this machine's."""

    def __init__(self, client: EngineClient, proc: Path = PROC) -> None:
        self._client = client
        self._proc = proc

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
        if not await asyncio.to_thread(self.kill_from_here, runtime_id, leader, mark):
            await self._kill_from_inside(runtime_id, mark)
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
            if not (init and self._is_of(str(init), runtime_id) and self._alive(str(init))):
                return False
            # It waits for the others of its container before it ends itself: looked at twice.
            await asyncio.sleep(LIVES_SECONDS)
        return True

    # --- from this machine --------------------------------------------------------------------------------------------

    def kill_from_here(self, runtime_id: str, leader: int, mark: str) -> bool:
        """KILL each of its processes that is seen here; False when none was, or one may not be killed. Blocks some ms."""
        met = False
        for _ in range(ROUNDS):
            found = list(self._members(runtime_id, leader, mark))
            if not found:
                return met
            met = True
            for pid in found:
                if not self._kill(pid, runtime_id):
                    return False
        return met

    def _members(self, runtime_id: str, leader: int, mark: str) -> Iterator[int]:
        wanted = f"{MARK}={mark}".encode()
        for name in os.listdir(self._proc):  # noqa: PTH208 - a list of Paths costs thrice
            if not (name.isdigit() and self._is_of(name, runtime_id) and self._alive(name)):
                continue
            if leader in (int(name), self._session(name)) or wanted in self._environment(name):
                yield int(name)

    def _kill(self, pid: int, runtime_id: str) -> bool:
        try:
            held = os.pidfd_open(pid)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        try:
            # Looked at again now that the descriptor is bound to one process: the number may have been given away.
            if self._is_of(str(pid), runtime_id):
                signal.pidfd_send_signal(held, signal.SIGKILL)
        except ProcessLookupError:
            pass
        except PermissionError:
            return False
        finally:
            os.close(held)
        return True

    def _is_of(self, pid: str, runtime_id: str) -> bool:
        return bool(runtime_id) and runtime_id.encode() in self._read(pid, "cgroup")

    def _environment(self, pid: str) -> list[bytes]:
        return self._read(pid, "environ").split(b"\0")

    def _alive(self, pid: str) -> bool:
        return self._stat(pid)[:1] not in ([], [b"Z"], [b"X"])

    def _session(self, pid: str) -> int:
        fields = self._stat(pid)
        return int(fields[3]) if len(fields) > 3 else -1

    def _stat(self, pid: str) -> list[bytes]:
        # The name in parentheses may itself hold spaces and parentheses.
        return self._read(pid, "stat").rpartition(b")")[2].split()

    def _read(self, pid: str, name: str) -> bytes:
        try:
            return (self._proc / pid / name).read_bytes()
        except OSError:
            return b""

    # --- from inside --------------------------------------------------------------------------------------------------

    async def _kill_from_inside(self, runtime_id: str, mark: str) -> None:
        body = {"Cmd": ["sh", "-c", FROM_INSIDE, "sh", f"{MARK}={mark}"], "AttachStdout": False, "AttachStderr": False}
        made = await self._client.call("POST", f"containers/{runtime_id}/exec", body=body, timeout=END_SECONDS)
        path = f"exec/{text(dig(made.data, 'Id'))}/start"
        await self._client.call("POST", path, body={"Detach": True, "Tty": False}, timeout=END_SECONDS)
