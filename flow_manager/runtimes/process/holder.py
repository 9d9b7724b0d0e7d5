"""Holds the terminal of a flow that was made with `tty`: a program of its own, because a manager may be killed.

The side of a PTY that programs do not see must stay open for as long as they run: when its last holder is gone, the kernel
hangs them up. So the manager starts this beside such a flow (`python -I -S holder.py`, the standard library alone), in a
session of its own, and is not needed any more.

It reads all that the flow writes, whether anybody looks or not, into the flow's log and to each connection on its socket.
A new connection gets one byte and, with it, the PTY itself (SCM_RIGHTS, unix(7)): what is typed, and the size, go there
straight. A connection that takes nothing holds the flow up, as a terminal does; not where another one waits for more.

It ends with the flow's first process, once all that was written is handed on, and removes its socket.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable

READ_BYTES = 64 * 1024
# Nobody has the other side open (a program may close its terminal, and open it again): looked at again so often, in seconds.
QUIET_POLL = 0.1
# A connection that took nothing for so long, in seconds, is given up where there are others.
STALL = 5.0
# What was written last may be taken for so long after the flow's end, in seconds.
FAREWELL = 2.0
# A manager opens fewer; more are not let in before one leaves.
MAX_VIEWERS = 64
# Ends with its flow alone: a service manager sends TERM to all processes of a service, and flows may take their time.
IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Viewer:
    """One connection. Memory is bounded: nothing is read while something waits for it."""

    def __init__(self, connection: socket.socket, now: Callable[[], float]) -> None:
        self.connection = connection
        self.gone = False
        self.pending = b""
        self._now = now
        self._took = now()

    def stalled(self) -> bool:
        return bool(self.pending) and self._now() - self._took > STALL

    def give(self, data: bytes) -> None:
        if not self.pending:
            self._took = self._now()
        self.pending += data
        self.flush()

    def flush(self) -> None:
        while self.pending and not self.gone:
            try:
                sent = self.connection.send(self.pending)
            except BlockingIOError:
                return
            except OSError:
                self.gone = True
                return
            self.pending = self.pending[sent:]
            self._took = self._now()

    def listen(self) -> None:
        """It says nothing; its end is seen so."""
        try:
            self.gone = self.gone or not self.connection.recv(READ_BYTES)
        except BlockingIOError:
            pass
        except OSError:
            self.gone = True


class Holder:
    """`master`, `leader` (a pidfd) and `output` are descriptors."""

    def __init__(
        self,
        master: int,
        listener: socket.socket,
        leader: int,
        output: int,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._master = master
        self._listener = listener
        self._leader = leader
        self._output = output
        self._now = now
        self._viewers: list[Viewer] = []
        self._ended: float | None = None
        self._quiet = False

    def hold(self) -> None:
        """Until the flow has ended."""
        while not self._over():
            self._turn()
        for viewer in self._viewers:
            viewer.connection.close()

    def _over(self) -> bool:
        if self._ended is None:
            return False
        if self._now() - self._ended > FAREWELL:
            return True  # somebody from outside has it open, or a connection does not take the rest
        return self._quiet and not any(viewer.pending for viewer in self._viewers)

    def _turn(self) -> None:
        self._viewers = self._living()
        held_up = any(viewer.pending for viewer in self._viewers)
        reads = not held_up and not self._quiet
        poll = select.poll()
        if len(self._viewers) < MAX_VIEWERS:
            poll.register(self._listener, select.POLLIN)
        if self._ended is None:
            poll.register(self._leader, select.POLLIN)
        if reads:
            poll.register(self._master, select.POLLIN)
        for viewer in self._viewers:
            poll.register(viewer.connection, select.POLLIN | (select.POLLOUT if viewer.pending else 0))
        # A poll that waits for an event alone would not see a stall, the farewell's end, or a terminal opened again.
        ticks = self._quiet or held_up or self._ended is not None
        ready = {descriptor for descriptor, _ in poll.poll(QUIET_POLL * 1000 if ticks else None)}
        if self._leader in ready:
            self._ended = self._now()
        for viewer in self._viewers:
            if viewer.connection.fileno() in ready:
                viewer.listen()
                viewer.flush()
        if self._master in ready or self._quiet:
            self._pass_on()
        if self._listener.fileno() in ready:
            self._welcome()

    def _living(self) -> list[Viewer]:
        given_up = [viewer for viewer in self._viewers if viewer.stalled()]
        if len(given_up) < len(self._viewers):
            for viewer in given_up:
                viewer.gone = True
        for viewer in self._viewers:
            if viewer.gone:
                viewer.connection.close()
        return [viewer for viewer in self._viewers if not viewer.gone]

    def _pass_on(self) -> None:
        parts, room = [], READ_BYTES
        self._quiet = False
        while room > 0:  # one read of a PTY gives 4 KiB at most
            try:
                part = os.read(self._master, room)
            except BlockingIOError:
                break
            except OSError:  # EIO: nobody has the other side open
                self._quiet = True
                break
            parts.append(part)
            room -= len(part)
        data = b"".join(parts)
        if data:
            self._log(data)
            for viewer in self._viewers:
                viewer.give(data)

    def _log(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._output, data) :]
            except OSError:
                return  # a full disk loses lines of the log, as it does without a terminal; it ends no flow

    def _welcome(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # it left already, or no descriptor is free
        connection.setblocking(False)
        try:
            socket.send_fds(connection, [b"\0"], [self._master])
        except OSError:
            connection.close()
        else:
            self._viewers.append(Viewer(connection, self._now))


def main(master: int, listener: int, leader: int, output: int, path: str) -> None:
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=listener) as listening:
        listening.setblocking(False)
        ours = os.stat(path).st_ino  # noqa: PTH116 - pathlib costs a third of the start
        Holder(master, listening, leader, output).hold()
        try:
            if os.stat(path).st_ino == ours:  # noqa: PTH116
                os.unlink(path)  # noqa: PTH108
        except FileNotFoundError:
            pass


if __name__ == "__main__":
    _master, _listener, _leader, _output = map(int, sys.argv[1:5])
    main(_master, _listener, _leader, _output, sys.argv[5])
