"""The first process of a flow, held so that its number can never mean another process.

A pid is reused after its process is gone. A pidfd (pidfd_open(2), Linux 5.3) refers to one process for ever, becomes
readable when it ends, whoever's child it is, and works on every event loop. The leader is its session's and its process
group's first process, so its pid is the group's number, too.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from flow_manager.runtimes.process import kernel
from flow_manager.runtimes.signals import KILLED_BY_SIGNAL


class Leader:
    """Made by `hold`; `close` gives the descriptor back and leaves the process alone."""

    def __init__(self, pid: int, start_ticks: int, descriptor: int) -> None:
        self.pid = pid
        self.start_ticks = start_ticks
        self.descriptor = descriptor

    @classmethod
    def hold(cls, pid: int, start_ticks: int | None = None) -> Leader | None:
        """None when that process (begun at `start_ticks`, where given) is gone. A zombie can still be held."""
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        # Only now that the descriptor is bound to one process does its start time prove which.
        stat = kernel.read_stat(pid)
        if stat is None or (start_ticks is not None and stat.start_ticks != start_ticks):
            os.close(descriptor)
            return None
        return cls(pid, stat.start_ticks, descriptor)

    @property
    def ended(self) -> bool:
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        return bool(poll.poll(0))

    @property
    def frozen(self) -> bool:
        stat = kernel.read_stat(self.pid)
        return stat is not None and stat.start_ticks == self.start_ticks and stat.frozen

    def signal_group(self, number: int) -> bool:
        """Send to every process of the group; False when the leader is gone.

        :raises PermissionError: a process became another user's.
        """
        try:
            # A leader that was not reaped yet, even a zombie, keeps its number from being given away.
            signal.pidfd_send_signal(self.descriptor, 0)
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def reap(self) -> int | None:
        """The exit code (128 + n for signal n) of a leader that ended; None where it is another's child: not to be known."""
        try:
            result = os.waitid(os.P_PIDFD, self.descriptor, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return None
        if result is None:
            return None
        return result.si_status if result.si_code == os.CLD_EXITED else KILLED_BY_SIGNAL + result.si_status

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


@contextmanager
def ending(leader: Leader) -> Iterator[asyncio.Future[None]]:
    """The future is done once the leader ended."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def told() -> None:
        loop.remove_reader(leader.descriptor)
        if not future.done():
            future.set_result(None)

    loop.add_reader(leader.descriptor, told)
    try:
        yield future
    finally:
        loop.remove_reader(leader.descriptor)
        future.cancel()
