"""A flow's own terminal, as one who looks has it: a connection to its holder, which hands on what the flow writes, and the
PTY itself, for what is typed and for the size.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

from flow_manager.errors import ExecFailed
from flow_manager.runtimes.process.holding import set_size, socket_path
from flow_manager.runtimes.process.launch import KIND

# One `terminal_output` has as much.
READ_BYTES = 64 * 1024
# The holder answers at once, but may just be starting, on a machine that is busy; in seconds.
ANSWER_SECONDS = 10.0
# Between the end of the output and the flow's, seconds at most. Where its holder was killed, the flow may go on.
CODE_SECONDS = 2.5


async def attach(folder: Path, cols: int, rows: int) -> MainTerminal:
    """The terminal of the flow in that folder. :raises ExecFailed: nobody holds it any more."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    master = -1
    try:
        with socket_path(folder) as path:
            connection.connect(path)
        async with asyncio.timeout(ANSWER_SECONDS):
            await _readable(connection)
        _, given, _, _ = socket.recv_fds(connection, 1, 1)
        if not given:
            raise ConnectionResetError(errno.ECONNRESET, "it has ended")
        master = given[0]
        os.set_inheritable(master, False)
        reader, writer = await asyncio.open_unix_connection(sock=connection, limit=READ_BYTES)
    except BaseException as exc:
        connection.close()
        if master >= 0:
            os.close(master)
        if isinstance(exc, OSError):  # TimeoutError is one
            reason = "what held the flow's terminal was ended; a restart of the flow makes a new one"
            raise ExecFailed(reason, kind=KIND, reason=reason) from exc
        raise
    terminal = MainTerminal(reader, writer, master)
    await terminal.resize(cols, rows)
    return terminal


class MainTerminal:
    """A `Terminal`. The flow goes on when it is closed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, master: int) -> None:
        self._reader = reader
        self._writer = writer
        self._master: int | None = master
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self._closed = False
        self._listeners: list[Callable[[], object]] = []
        self._code: asyncio.Future[int | None] = self._loop.create_future()
        self._waiting: set[asyncio.Future[None]] = set()

    async def read(self) -> bytes:
        try:
            data = await self._reader.read(READ_BYTES)
        except OSError:
            data = b""
        if not data:
            self._give_back()
        return data

    async def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view and (master := self._master) is not None:
            try:
                view = view[os.write(master, view) :]
            except BlockingIOError:
                await self._writable(master)
            except OSError:
                return

    async def resize(self, cols: int, rows: int) -> None:
        if self._master is not None:
            try:
                set_size(self._master, cols, rows)
            except OSError as exc:
                if exc.errno != errno.EIO:
                    raise

    async def wait(self) -> int | None:
        await self._over.wait()
        if not self._closed:
            await asyncio.wait([self._code], timeout=CODE_SECONDS)
        return self._code.result() if self._code.done() else None

    async def close(self) -> None:
        self._closed = True
        for listener in self._listeners:
            listener()
        self._writer.close()
        self._give_back()
        try:
            await self._writer.wait_closed()
        except OSError:
            pass

    def on_close(self, listener: Callable[[], object]) -> None:
        """Called once it is given up."""
        self._listeners.append(listener)

    def flow_ended(self, code: int | None) -> None:
        if not self._code.done():
            self._code.set_result(code)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _give_back(self) -> None:
        # At once: without its holder, ours is what keeps the terminal from being hung up.
        master, self._master = self._master, None
        if master is not None:
            self._loop.remove_writer(master)
            os.close(master)
        for waiter in list(self._waiting):
            _set(waiter)
        self._over.set()

    async def _writable(self, master: int) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiting.add(waiter)
        self._loop.add_writer(master, _set, waiter)
        try:
            await waiter
        finally:
            self._waiting.discard(waiter)
            if self._master == master:
                self._loop.remove_writer(master)


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    loop.add_reader(connection, _set, waiter)
    try:
        await waiter
    finally:
        loop.remove_reader(connection)


def _set(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
