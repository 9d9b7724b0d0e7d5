"""The processes of a flow while it runs: reached as a group, through the leader that stands for them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

from flow_manager.errors import ContainerStopped, RuntimeRefused, StopFailed
from flow_manager.runtimes.process import kernel
from flow_manager.runtimes.process.launch import KIND
from flow_manager.runtimes.process.leader import Leader

# KILL can't be refused; a process that still is there after this sits in the kernel (a dead network disk, say).
KILL_TIMEOUT = 10.0
# A stop signal takes effect when each process next leaves the kernel: microseconds, or the length of a disk read.
FREEZE_TIMEOUT = 5.0
FREEZE_POLL = 0.001
FREEZE_LOOKS = 20


class FlowGroup:
    """One flow's group, run after run. `name` is the flow's, for what is told to people.

    `jobs`: it has a terminal, and so may have a shell that gives each job a group of its own. Such groups freeze and go on
    with the flow's; signals go to its own group alone, and what its end does not reach is found by its mark.
    """

    def __init__(self, name: str, *, jobs: bool = False) -> None:
        self._name = name
        self._jobs = jobs
        self._leader: Leader | None = None
        self._ended = asyncio.Event()
        self._ended.set()

    @property
    def leader(self) -> Leader | None:
        """None while nothing runs."""
        return self._leader

    @property
    def frozen(self) -> bool:
        """The kernel's word, not ours: whoever stops or continues the processes, this is what they do."""
        return self._leader is not None and self._leader.frozen

    def follow(self, leader: Leader, on_end: Callable[[], None]) -> None:
        """`on_end` is called in the loop once the leader ended; it ends with `forget`."""
        self._leader = leader
        self._ended.clear()
        asyncio.get_running_loop().add_reader(leader.descriptor, on_end)

    def forget(self) -> None:
        """Follow no longer; what runs goes on. Who waits for the end goes on, too."""
        if self._leader is not None:
            asyncio.get_running_loop().remove_reader(self._leader.descriptor)
            self._leader.close()
            self._leader = None
        self._ended.set()

    def send(self, number: int) -> None:
        """:raises ContainerStopped: it does not run. :raises RuntimeRefused: a process became another user's."""
        if self._leader is None or self._leader.ended:
            raise ContainerStopped(f"flow {self._name!r} does not run")
        try:
            if self._jobs and number == signal.SIGCONT:
                # Youngest first: a shell that goes on before its job would see it stopped, and take the terminal from it.
                for group in reversed([group for group in self._groups() if group != self._leader.pid]):
                    _signal(group, number)
            self._leader.signal_group(number)
        except PermissionError:
            raise RuntimeRefused("its processes belong to another user now", kind=KIND) from None

    async def ended(self) -> None:
        """Return once the run that goes on has ended, or is followed no longer."""
        await self._ended.wait()

    async def stop(self, number: int, timeout: float) -> None:
        """:raises StopFailed: it still runs after signal, grace and kill."""
        try:
            self.send(number)
            # A frozen process acts on a signal only once it goes on.
            self.send(signal.SIGCONT)
        except ContainerStopped:
            pass
        if not await self._wait_until_ended(timeout):
            await self.kill()

    async def kill(self) -> None:
        """:raises StopFailed: it still runs."""
        try:
            self.send(signal.SIGKILL)
        except ContainerStopped:
            pass  # it ended meanwhile, and is about to be seen to
        if not await self._wait_until_ended(KILL_TIMEOUT):
            raise StopFailed(f"flow {self._name!r} still runs {KILL_TIMEOUT:.0f} s after KILL", timeout=KILL_TIMEOUT)

    async def freeze(self) -> bool:
        """False when it was frozen already. :raises ContainerStopped, StopFailed:"""
        self.send(0)
        if self.frozen:
            return False
        try:
            async with asyncio.timeout(FREEZE_TIMEOUT):
                await self._freeze()
        except TimeoutError:
            self.send(signal.SIGCONT)
            raise StopFailed(f"its processes could not be frozen in {FREEZE_TIMEOUT:.0f} s") from None
        return True

    async def thaw(self) -> bool:
        """False when it was not frozen. :raises ContainerStopped, StopFailed:"""
        self.send(0)
        if not self.frozen:
            return False
        self.send(signal.SIGCONT)
        try:
            async with asyncio.timeout(FREEZE_TIMEOUT):
                while self.frozen:  # noqa: ASYNC110 - the kernel tells nobody; one look is nearly always enough
                    await asyncio.sleep(FREEZE_POLL)
        except TimeoutError:
            raise StopFailed(f"its processes did not go on in {FREEZE_TIMEOUT:.0f} s") from None
        return True

    async def _freeze(self) -> None:
        while True:
            self.send(signal.SIGSTOP)
            for _ in range(FREEZE_LOOKS):
                if self._all_frozen():
                    return await self._freeze_jobs()
                await asyncio.sleep(FREEZE_POLL)
            # A shell that waits in vfork(2) for a child that froze before its exec does not freeze, and would not until
            # that child goes on: let both, and try again.
            self.send(signal.SIGCONT)
            await asyncio.sleep(FREEZE_POLL)

    def _all_frozen(self) -> bool:
        if self._leader is None:
            raise ContainerStopped(f"flow {self._name!r} does not run")
        if not self._leader.frozen:  # one look at one process, before the pass over all
            return False
        members = kernel.groups().get(self._leader.pid, [])
        return bool(members) and all(member.frozen for member in members)

    async def _freeze_jobs(self) -> None:
        """Oldest first, each once its shell is frozen: waitpid(2) tells a shell that still runs of a job that is stopped."""
        while self._jobs and (group := next(iter(self._groups(running=True)), None)) is not None:
            self.send(0)
            try:
                _signal(group, signal.SIGSTOP)
                for _ in range(FREEZE_LOOKS):
                    await asyncio.sleep(FREEZE_POLL)
                    if group not in self._groups(running=True):
                        break
                else:
                    _signal(group, signal.SIGCONT)  # as above
                    await asyncio.sleep(FREEZE_POLL)
            except PermissionError:
                raise RuntimeRefused("its processes belong to another user now", kind=KIND) from None

    def _groups(self, *, running: bool = False) -> list[int]:
        """Groups of its session, oldest first; `running`: those of which not all is frozen."""
        found: dict[int, tuple[int, int]] = {}
        for member in kernel.sessions().get(self._leader.pid, []) if self._leader is not None else []:
            if not (running and member.frozen):
                age = (member.start_ticks, member.pid)
                found[member.group] = min(age, found.get(member.group, age))
        return sorted(found, key=lambda group: found[group])

    async def _wait_until_ended(self, timeout: float) -> bool:
        try:
            async with asyncio.timeout(timeout):
                await self._ended.wait()
        except TimeoutError:
            return False
        return True


def _signal(group: int, number: int) -> None:
    """:raises PermissionError: a process became another user's."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass  # it has ended
