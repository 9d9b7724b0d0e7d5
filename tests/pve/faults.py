"""Faults, by switch: each can be had from Python, and from anywhere over the emulator's control path."""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
from collections.abc import Callable
from dataclasses import dataclass

from tests.pve.cluster import Cluster
from tests.pve.tasks import KILLED

ALL = "*"


@dataclass(slots=True)
class Rule:
    """`path` is a pattern as of file names, of the path or of `METHOD path`; `times` None: until it is cleared."""

    path: str
    times: int | None

    def takes(self, method: str, path: str) -> bool:
        if self.times == 0 or not any(fnmatch.fnmatchcase(text, self.path) for text in (path, f"{method} {path}")):
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass(slots=True)
class Slow(Rule):
    seconds: float


@dataclass(slots=True)
class Answer(Rule):
    status: int
    message: str


class Faults:
    def __init__(self, cluster: Cluster, hang_up: Callable[[], None]) -> None:
        self._cluster = cluster
        self._hang_up = hang_up
        self.slows: list[Slow] = []
        self.cuts: list[Rule] = []
        self.recycles: list[Rule] = []
        self.answers: list[Answer] = []
        self._held: dict[int, asyncio.Event] = {}
        self._holders: set[asyncio.Task[None]] = set()
        self._cleared = asyncio.Event()
        self.is_down = False

    # --- nodes ------------------------------------------------------------------------------------------------------

    def node_offline(self, node: str, status: int = 595) -> None:
        """Its peers can't reach it: 595, or 596 where it takes the connection and says nothing."""
        self._cluster.nodes[node].online = False
        self._cluster.nodes[node].unreachable = status

    def node_online(self, node: str) -> None:
        self._cluster.nodes[node].online = True

    def down(self) -> None:
        """The whole server: each connection is cut off, open ones too."""
        self.is_down = True
        self._hang_up()

    def up(self) -> None:
        self.is_down = False

    # --- tasks and locks --------------------------------------------------------------------------------------------

    def fail_next(self, task_type: str, message: str = KILLED) -> None:
        """The next worker of this type ends so, without its effect. `WARNINGS: n` is a success, and has its effect."""
        self._cluster.tasks.fate(task_type, message)

    def hold_lock(self, vmid: int, lock: str = "backup") -> None:
        """The lock in the configuration, as a running backup holds it."""
        self._cluster.containers[vmid].config["lock"] = lock

    def release_lock(self, vmid: int) -> None:
        self._cluster.containers[vmid].config.pop("lock", None)

    async def hold_flock(self, vmid: int) -> None:
        """The lock on the file, as another action holds it: the next ones wait, and then give up."""
        container, released, taken = self._cluster.containers[vmid], asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            async with container.flock.taken(60):
                taken.set()
                await released.wait()

        self._held[vmid] = released
        holder = asyncio.create_task(hold(), name=f"pve-flock-{vmid}")
        self._holders.add(holder)
        await taken.wait()

    def release_flock(self, vmid: int) -> None:
        self._held.pop(vmid).set()

    def storage_full(self, storage: str = "local") -> None:
        self._cluster.storages[storage].full = True

    def storage_free(self, storage: str = "local") -> None:
        self._cluster.storages[storage].full = False

    def flap(self, vmid: int) -> None:
        """In /cluster/resources it is `unknown` every other time."""
        self._cluster.flapping.add(vmid)

    # --- rights -----------------------------------------------------------------------------------------------------

    def revoke(self, token_id: str) -> None:
        """The token is gone: 401 from now on."""
        self._cluster.access.tokens.pop(token_id)

    def expire(self, token_id: str) -> None:
        self._cluster.access.tokens[token_id].expire = self._cluster.clock() - 1

    def remove_right(self, token_id: str, privilege: str | None = None) -> None:
        """One privilege, or all of them, on every path."""
        self._cluster.access.remove_right(token_id, privilege)

    # --- the connection ---------------------------------------------------------------------------------------------

    def slow(self, seconds: float, path: str = ALL, times: int | None = None) -> None:
        """Each answer that matches comes that much later; its effect too."""
        self.slows.append(Slow(path, times, seconds))

    async def delay(self, seconds: float) -> None:
        """Until it is over, or the faults are cleared."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._cleared.wait()

    def cut(self, path: str = ALL, times: int | None = 1) -> None:
        """The connection is cut before anything is done."""
        self.cuts.append(Rule(path, times))

    def recycle(self, path: str = ALL, times: int | None = 1) -> None:
        """The worker goes after it did what was asked, and before it says so."""
        self.recycles.append(Rule(path, times))

    def answer(self, status: int, message: str, path: str = ALL, times: int | None = 1) -> None:
        """Answer so, whatever is asked."""
        self.answers.append(Answer(path, times, status, message))

    def hang_up(self) -> None:
        """Cut every open connection, consoles too; new ones are taken."""
        self._hang_up()

    def clear(self) -> None:
        """All of the connection's faults."""
        for rules in (self.slows, self.cuts, self.recycles, self.answers):
            rules.clear()
        self._cleared.set()
        self._cleared = asyncio.Event()
        self.is_down = False

    async def close(self) -> None:
        for released in self._held.values():
            released.set()
        for holder in self._holders:
            holder.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await holder
