"""The terminal of a flow that was made with `tty`: who holds it (`holder`), from its start to its end.

A holder does not bear FLOW_ID: it ends after its flow, and is none of the flow's. It has a mark of its own, by which a
manager that starts again finds it. It is in no cgroup of the flow's: the limits are the flow's, and a flow out of memory
must not lose its terminal for that.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flow_manager.runtimes.marked import Marked
from flow_manager.runtimes.process import holder, kernel
from flow_manager.runtimes.process.leader import Leader, ending

log = logging.getLogger(__name__)

HOLDER_MARK = "FLOW_TERMINAL_OF"
SOCKET = "terminal.sock"
# As a terminal has it that nobody has looked at yet.
COLS, ROWS = 80, 24
# The holder's own farewell, and a loaded machine's second.
END_SECONDS = holder.FAREWELL + 2.0
# More than there may be terminals of one flow.
BACKLOG = 64
# What a Python that was built with a shared library of its own needs to start.
INHERITED = ("LD_LIBRARY_PATH",)


def set_size(master: int, cols: int, rows: int) -> None:
    """:raises OSError: EIO where no program is there to be told."""
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


@contextmanager
def opened_pty() -> Iterator[tuple[int, int]]:
    """Both sides, for as long as they are handed on. :raises OSError: none is free."""
    master, slave = os.openpty()
    try:
        os.set_blocking(master, False)
        set_size(master, COLS, ROWS)
        yield master, slave
    finally:
        os.close(master)
        os.close(slave)


@contextmanager
def socket_path(folder: Path) -> Iterator[str]:
    """The socket in that folder, by a path that is short wherever the folder is: an address has 107 bytes (unix(7))."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)


def start(flow_id: str, folder: Path, *, master: int, leader: int, output: int, manager: Mapping[str, str]) -> int:
    """The pid of a holder for the flow whose first process is `leader`. Blocks for milliseconds.

    :raises OSError: nothing is left then.
    """
    path = folder / SOCKET
    path.unlink(missing_ok=True)  # of a holder that was killed
    watched = os.pidfd_open(leader)
    try:
        with socket.socket(socket.AF_UNIX) as listener, socket_path(folder) as short:
            # Before the bind: so the file is never anybody else's to open.
            os.fchmod(listener.fileno(), 0o600)
            listener.bind(short)
            listener.listen(BACKLOG)
            handed = (master, listener.fileno(), watched, output)
            process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-I", "-S", holder.__file__, *map(str, handed), str(path)],
                env={name: manager[name] for name in INHERITED if name in manager} | {HOLDER_MARK: flow_id},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=handed,
            )
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(watched)
    process.returncode = 0  # reaped by its pidfd alone; see launch.spawn
    return process.pid


class Holding:
    """A flow's holder, as the manager knows it."""

    def __init__(self, flow_id: str, folder: Path) -> None:
        self._flow_id = flow_id
        self._socket = folder / SOCKET
        self._leader: Leader | None = None

    def begin(self, pid: int) -> None:
        """It was started just now."""
        self._leader = Leader.hold(pid)

    def find(self) -> None:
        """An earlier manager may have started it."""
        pid = kernel.find_session_leader(HOLDER_MARK, self._flow_id)
        self._leader = Leader.hold(pid) if pid is not None else None

    async def ended(self) -> None:
        """After the flow's end: return once it has handed on what was written last, and is gone."""
        leader, self._leader = self._leader, None
        try:
            if leader is not None:
                with ending(leader) as over:
                    await asyncio.wait([over], timeout=END_SECONDS)
            if leader is None or not leader.ended:
                await Marked(HOLDER_MARK, self._flow_id).kill()
            if leader is not None:
                leader.reap()
        finally:
            if leader is not None:
                leader.close()
        try:
            self._socket.unlink(missing_ok=True)
        except OSError as exc:
            log.warning("the socket of a terminal was left: %s", exc)

    def forget(self) -> None:
        """Leave it to the next manager."""
        if self._leader is not None:
            self._leader.close()
            self._leader = None
