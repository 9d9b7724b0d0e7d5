"""The terminal that the program runs in: raw while a remote one is shown, and as it was before, whatever happens."""

from __future__ import annotations

import asyncio
import os
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager

STDIN, STDOUT = 0, 1
READ_BYTES = 32 * 1024
DEFAULT_SIZE = (80, 24)
MAX_SIDE = 1000
# What a program may have left switched on when it is left in the middle: mouse, pasting, another screen, no cursor.
UNDO = b"\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[?1049l\x1b[?25h\x1b[0m"


@contextmanager
def raw() -> Iterator[None]:
    """Every key goes through as it is; at the end the terminal is as it was. Does nothing where stdin is none."""
    if not os.isatty(STDIN):
        yield
        return
    before = termios.tcgetattr(STDIN)
    try:
        tty.setraw(STDIN, termios.TCSANOW)
        yield
    finally:
        termios.tcsetattr(STDIN, termios.TCSADRAIN, before)


def size() -> tuple[int, int]:
    """Columns and rows."""
    for descriptor in (STDOUT, STDIN):
        try:
            found = os.get_terminal_size(descriptor)
        except OSError:
            continue
        if found.columns and found.lines:
            return min(found.columns, MAX_SIDE), min(found.lines, MAX_SIDE)
    return DEFAULT_SIZE


class Typed:
    """What is typed, or piped in: `start`, then `read` until it gives nothing.

    Read by a thread, one piece at a time: a file can't be polled, and a terminal must not be made non-blocking, because it
    is shared with the shell. The thread is left where it waits, and ends with the program.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self._more = threading.Semaphore(1)

    def start(self) -> None:
        threading.Thread(target=self._read_all, name="stdin", daemon=True).start()

    async def read(self) -> bytes:
        data = await self._pieces.get()
        self._more.release()
        return data

    def _read_all(self) -> None:
        data = b"-"
        while data:
            self._more.acquire()
            try:
                data = os.read(STDIN, READ_BYTES)
            except OSError:  # the terminal is gone
                data = b""
            try:
                self._loop.call_soon_threadsafe(self._pieces.put_nowait, data)
            except RuntimeError:  # the loop is closed: nobody listens any more
                return


async def show(data: bytes) -> None:
    """Write all of it, in a thread: whoever stops their terminal with Ctrl-S must stop neither the connection nor our end."""
    loop = asyncio.get_running_loop()
    written = asyncio.Event()

    def write() -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(STDOUT, view) :]
        except OSError:
            pass  # nobody looks any more: the signal for that, or the end of what is typed, ends us
        try:
            loop.call_soon_threadsafe(written.set)
        except RuntimeError:
            return  # the loop is closed

    threading.Thread(target=write, name="stdout", daemon=True).start()
    await written.wait()
