"""Terminals beside local processes: a PTY of ours, and a session of its own on it."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import secrets
import struct
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path

from flow_manager.errors import ExecFailed
from flow_manager.runtimes.inside import BEST_SHELL, MARK, TERMINAL_TYPE, Command
from flow_manager.runtimes.marked import Marked
from flow_manager.runtimes.process.launch import KIND, TAKE_TERMINAL
from flow_manager.runtimes.process.leader import Leader
from flow_manager.runtimes.process.place import Place

log = logging.getLogger(__name__)

# One read of a PTY gives at most one page of 4 KiB; as many as make one frame are taken in a go.
READ_BYTES = 64 * 1024


async def open_terminal(place: Place, command: Command | None, cols: int, rows: int) -> ProcessTerminal:
    """A caller who gives up meanwhile leaves nothing behind. :raises ExecFailed: no PTY, no such folder, no process."""
    given = command or Command(BEST_SHELL)
    folder = Path(given.working_dir) if given.working_dir is not None else place.folder
    if not folder.is_dir():
        raise ExecFailed(f"the working directory {folder} does not exist", kind=KIND)
    mark = secrets.token_hex(16)
    environment = {**place.environment, "TERM": TERMINAL_TYPE, **given.environment, MARK: mark}
    try:
        master, slave = os.openpty()
    except OSError as exc:
        raise ExecFailed(f"no terminal is to be had: {exc.strerror}", kind=KIND) from None
    try:
        _resize(master, cols, rows)
        os.set_blocking(master, False)
        arguments = [
            "/bin/sh",
            "-c",
            TAKE_TERMINAL,
            os.ttyname(slave),
            str(place.cgroup_procs) if place.cgroup_procs is not None else "",
            *given.argv,
        ]
        # Some milliseconds in which the loop stands: given to a thread, it could not be undone when the caller gives up.
        process = subprocess.Popen(  # noqa: S603, ASYNC220 - running what is asked for is the purpose
            arguments,
            env=environment,
            cwd=folder,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            close_fds=True,
        )
    except OSError as exc:
        os.close(master)
        raise ExecFailed(f"it could not be started: {exc.strerror}", kind=KIND) from None
    finally:
        os.close(slave)
    process.returncode = 0  # reaped by its pidfd alone; see launch.spawn
    leader = Leader.hold(process.pid)
    if leader is None:  # only the parent can reap it, and that is us
        os.close(master)
        raise ExecFailed("its process vanished", kind=KIND)
    return ProcessTerminal(master, leader, mark)


class ProcessTerminal:
    """The master side of a PTY, and the session on its other side."""

    def __init__(self, master: int, leader: Leader, mark: str) -> None:
        self._master: int | None = master
        self.leader = leader
        self._mark = mark
        self._loop = asyncio.get_running_loop()
        self._code: int | None = None
        self._ended = asyncio.Event()
        self._closing: asyncio.Task[None] | None = None
        self._listeners: list[Callable[[], object]] = []
        self._waiting: set[asyncio.Future[None]] = set()
        self._loop.add_reader(leader.descriptor, self._leader_ended)

    async def read(self) -> bytes:
        while (master := self._master) is not None:
            try:
                data = os.read(master, READ_BYTES)
            except BlockingIOError:
                if self._ended.is_set():
                    break  # somebody outside the session holds the other side open
                await self._ready(master, reading=True)
                continue
            except OSError:
                break  # EIO: nobody holds the other side any more
            if not data:
                break
            return data + self._more(master, READ_BYTES - len(data))
        self.begin_end()
        await self._ended.wait()
        self._give_back()
        return b""

    def _more(self, master: int, room: int) -> bytes:
        parts = []
        while room > 0:
            try:
                part = os.read(master, room)
            except OSError:  # nothing yet, or the end, which the next read finds
                break
            if not part:
                break
            parts.append(part)
            room -= len(part)
        return b"".join(parts)

    async def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view and (master := self._master) is not None and not self._ended.is_set():
            try:
                view = view[os.write(master, view) :]
            except BlockingIOError:
                await self._ready(master, reading=False)
            except OSError:
                return

    async def resize(self, cols: int, rows: int) -> None:
        if self._master is not None:
            _resize(self._master, cols, rows)

    async def wait(self) -> int | None:
        await self._ended.wait()
        return self._code

    async def close(self) -> None:
        self.begin_end()
        await self._ended.wait()
        self._give_back()

    def on_end(self, listener: Callable[[], object]) -> None:
        """Called once its session has ended."""
        self._listeners.append(listener)

    def begin_end(self) -> None:
        """As `close`, without waiting: readers get what was written, then the end."""
        if self._closing is None:
            self._closing = self._loop.create_task(self._end(), name="terminal-end")

    # --- inside -------------------------------------------------------------------------------------------------------

    def _leader_ended(self) -> None:
        # Not reaped yet: a zombie keeps its number, which is the session's, from being given away.
        self._loop.remove_reader(self.leader.descriptor)
        self.begin_end()

    async def _end(self) -> None:
        """Hang up, then kill, whatever is in the session or bears the mark; then the exit code."""
        self._loop.remove_reader(self.leader.descriptor)
        try:
            if not await Marked(MARK, self._mark, session=self.leader.pid).end():
                log.warning("processes of a terminal could not be ended")
            self._code = self.leader.reap()
        finally:
            for listener in self._listeners:
                listener()
            self.leader.close()
            self._ended.set()
            for waiter in list(self._waiting):
                _set(waiter)

    def _give_back(self) -> None:
        master, self._master = self._master, None
        if master is not None:
            self._loop.remove_reader(master)
            self._loop.remove_writer(master)
            os.close(master)

    async def _ready(self, master: int, *, reading: bool) -> None:
        """Until the terminal can be read or written, or its session has ended."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        add, remove = (
            (self._loop.add_reader, self._loop.remove_reader)
            if reading
            else (self._loop.add_writer, self._loop.remove_writer)
        )
        self._waiting.add(waiter)
        add(master, _set, waiter)
        try:
            await waiter
        finally:
            self._waiting.discard(waiter)
            if self._master == master:
                remove(master)


def _set(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _resize(master: int, cols: int, rows: int) -> None:
    try:
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
    except OSError as exc:
        if exc.errno != errno.EIO:  # the other side is gone: no program is there to be told
            raise
