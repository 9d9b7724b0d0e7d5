"""Ending all that one terminal, command or flow started, on this machine.

Each of its processes bears a mark (a variable with a value of its own) in its environment, whatever session it went to; one
that was started with an empty environment still is in the session. Linux only (/proc, pidfd).
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from flow_manager.runtimes.process import kernel

# Between hang-up and KILL, in seconds: shells write their history, editors their swap file.
GRACE = 0.5
POLL = 0.02
# Processes that fork while they are being killed are found in the next round.
ROUNDS = 50


def anywhere(_pid: int) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Marked:
    """The processes that bear `name=value` or are in `session`; of these, those of which `ours(pid)` holds."""

    name: str
    value: str
    session: int | None = None
    ours: Callable[[int], bool] = anywhere

    async def end(self) -> bool:
        """Hang up, then kill. True when nothing is left; takes about `GRACE` seconds where something ignores the hang-up."""
        loop = asyncio.get_running_loop()
        left = await asyncio.to_thread(self.signal, signal.SIGHUP, signal.SIGCONT)
        deadline = loop.time() + GRACE
        while left and loop.time() < deadline:
            await asyncio.sleep(POLL)
            left = await asyncio.to_thread(self.signal)
        return await self.kill()

    async def kill(self, rounds: int = ROUNDS) -> bool:
        """KILL, without a warning. True when nothing is left; False where one may not be killed, or forks faster than this."""
        for _ in range(rounds):
            if not await asyncio.to_thread(self.signal, signal.SIGKILL):
                return True
            await asyncio.sleep(POLL)
        return False

    def signal(self, *numbers: int) -> int:
        """Send these to all of them; how many there were. Reads all of /proc: some ms."""
        found = 0
        for pid in kernel.pids():
            if not self._belongs(pid):
                continue
            try:
                # Bound first and looked at again: the number can't come to mean another process in between.
                descriptor = os.pidfd_open(pid)
            except OSError:
                continue
            try:
                if self._belongs(pid) and self.ours(pid):
                    found += 1
                    for number in numbers:
                        signal.pidfd_send_signal(descriptor, number)
            except OSError:  # it ended, or became another user's
                continue
            finally:
                os.close(descriptor)
        return found

    def _belongs(self, pid: int) -> bool:
        bears = kernel.environment_holds(pid, self.name, self.value)
        if not bears and self.session is None:
            return False
        stat = kernel.read_stat(pid)
        return stat is not None and stat.alive and (bears or stat.session == self.session)
