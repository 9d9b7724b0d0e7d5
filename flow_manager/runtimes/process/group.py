"""The processes of a flow while it runs: reached as a group, through the leader that stands for them."""

from __future__ import annotations

import asyncio
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
    """One flow's group, run after run. `name` is the flow's, for what is told to people."""

    def __init__(self, name: str) -> None:
        self._name = name
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
                    return
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

    async def _wait_until_ended(self, timeout: float) -> bool:
        try:
            async with asyncio.timeout(timeout):
                await self._ended.wait()
        except TimeoutError:
            return False
        return True
