"""A program on a pseudo-terminal of its own, which many may look at: what dtach is to a console."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import struct
import termios
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

READ = 65536
# A late comer sees this much of what was on the screen; tests that look behind it see more.
SCREEN = 4096
KEPT = 1 << 18
# How much a program may leave unread of what is typed, before more is dropped (a terminal's own queue holds 4 KB).
MOST_TYPED = 1 << 20
GRACE = 2.0


def of_session(leader: int) -> list[int]:
    """All processes of a session, as /proc knows them: a shell's background jobs have groups of their own."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(path.parent.name))
    return found


class Terminal:
    def __init__(self) -> None:
        self._master = -1
        self._process: asyncio.subprocess.Process | None = None
        self._watchers: list[Callable[[bytes], None]] = []
        self._typed = bytearray()
        self._end: asyncio.Task[None] | None = None
        self.recent = b""
        self.ended = asyncio.Event()
        self.exit_code: int | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    async def open(self, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self._master, slave = os.openpty()
        try:
            os.set_blocking(self._master, False)
            # `setsid --ctty` and not a function between fork and exec, which uvloop does not bear.
            self._process = await asyncio.create_subprocess_exec(
                *("setsid", "--ctty", *command),
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env=dict(environment),
                cwd=folder,
            )
        except BaseException:
            os.close(self._master)
            self._master = -1
            raise
        finally:
            os.close(slave)
        asyncio.get_running_loop().add_reader(self._master, self._readable)
        self._end = asyncio.create_task(self._wait(), name=f"pve-terminal-{self.pid}")

    def watch(self, watcher: Callable[[bytes], None]) -> Callable[[], None]:
        """Call it with what is printed from now on; gives what takes it away again."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher) if watcher in self._watchers else None

    def write(self, data: bytes) -> None:
        if self._master >= 0 and len(self._typed) < MOST_TYPED:
            self._typed += data
            self._writable()

    def resize(self, columns: int, rows: int) -> None:
        if self._master >= 0:
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def size(self) -> tuple[int, int]:
        rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(self._master, termios.TIOCGWINSZ, bytes(8)))
        return columns, rows

    def signal(self, number: int) -> None:
        """To the program alone, as an init gets it."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def close(self) -> None:
        """End everything of its session."""
        if self._process is None:
            return
        for pid in {self.pid, *of_session(self.pid)}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self.ended.wait()

    def _readable(self) -> bool:
        """Whether there was something."""
        try:
            data = os.read(self._master, READ)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            data = b""
        if not data:  # nobody holds the other side any more
            self._hang_up()
            return False
        self.recent = (self.recent + data)[-KEPT:]
        for watcher in list(self._watchers):
            watcher(data)
        return True

    def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._typed:
                del self._typed[: os.write(self._master, self._typed)]
        except BlockingIOError:
            loop.add_writer(self._master, self._writable)
            return
        except OSError:
            self._typed.clear()
        loop.remove_writer(self._master)

    def _hang_up(self) -> None:
        if self._master >= 0:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._master)
            loop.remove_writer(self._master)
            os.close(self._master)
            self._master = -1

    async def _wait(self) -> None:
        assert self._process is not None
        self.exit_code = await self._process.wait()
        for pid in of_session(self._process.pid):  # an init takes all with it
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0)  # what it printed last
        while self._master >= 0 and self._readable():
            pass
        self._hang_up()
        self.ended.set()
