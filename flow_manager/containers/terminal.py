"""One open terminal: what its program writes, to all who look; what they type, to the program.

Flow control, so that memory is bounded and nobody waits for a slow viewer:

- the program is read as fast as the *fastest* viewer takes it, and freely while nobody looks (a program must not hang
  because nobody looks at it);
- each viewer reads the ring at a pace of its own. One that falls more than the ring behind goes on at the oldest byte that
  is kept: the offset that jumps tells it so;
- input waits here up to a bound; past `INPUT_EASY` bytes its sender gets its answer only when the program has read.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from flow_manager.containers.terminal_ring import Ring
from flow_manager.errors import FlowManagerError, QueueFull
from flow_manager.runtimes.inside import Terminal

log = logging.getLogger(__name__)

KEPT = 1024 * 1024
# One `terminal_output` at most: one frame that others can get in between soon.
CHUNK = 64 * 1024
# How far the fastest viewer may be behind before the program is held up: two frames keep its connection busy.
AHEAD = 2 * CHUNK
# Output within so many seconds of the last frame is gathered; a key's echo after a rest goes out at once.
GATHER = 0.004
# Between two reads while nobody looks, in seconds: `yes` in a terminal that was left must not take a processor.
UNSEEN_REST = 0.01
# Bytes of input that may wait for the program, and up to which its sender is answered at once.
INPUT_LIMIT = 1024 * 1024
INPUT_EASY = 64 * 1024
# An answer is never held back for longer, in seconds: the input is accepted, the program will read it or not.
INPUT_PATIENCE = 5.0
# Seconds that a runtime may take to end a terminal and what runs in it, and to tell the exit code.
CLOSE_TIMEOUT = 10.0
CODE_TIMEOUT = 5.0


class Viewer(Protocol):
    """One client that looks at a terminal."""

    def output(self, terminal_id: str, offset: int, data: bytes) -> None: ...

    def closed(self, terminal_id: str, exit_code: int | None) -> None: ...

    async def room(self) -> None:
        """Return once it takes more."""
        ...


class OpenTerminal:
    """`open` it, `join` viewers to it, `write`; ends when its program does, or by `close`. `ended(self)` is called once."""

    def __init__(self, id: str, inner: Terminal, *, ended: Callable[[OpenTerminal], None]) -> None:
        self.id = id
        self.exit_code: int | None = None
        self.over = False
        self._closing = False
        self._inner = inner
        self._ended = ended
        self._ring = Ring(KEPT)
        self._looks: dict[Viewer, _Look] = {}
        self._wrote = asyncio.Event()
        self._took = asyncio.Event()
        self._typed: deque[bytes] = deque()
        self._typed_bytes = 0
        self._type = asyncio.Event()
        self._read = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pump: asyncio.Task[None] | None = None
        self._typist: asyncio.Task[None] | None = None

    @property
    def viewers(self) -> int:
        return len(self._looks)

    @property
    def head(self) -> int:
        """Bytes that it ever wrote."""
        return self._ring.end

    def open(self) -> None:
        self._pump = self._spawn(self._read_all(), "output")
        self._typist = self._spawn(self._type_all(), "input")

    # --- those who look -----------------------------------------------------------------------------------------------

    def join(self, viewer: Viewer, after: int | None) -> int:
        """Show it to this viewer from offset `after` (None: all that is kept); where that is. One that looks starts anew."""
        self.leave(viewer)
        look = _Look(self, viewer, self._ring.clamp(after))
        self._looks[viewer] = look
        begun = look.position
        look.task = self._spawn(look.follow(), "viewer")
        self._took.set()
        return begun

    def leave(self, viewer: Viewer) -> bool:
        """True when it looked."""
        look = self._looks.pop(viewer, None)
        if look is None:
            return False
        if look.task is not None:
            look.task.cancel()
        self._took.set()  # the program no longer waits for this one
        return True

    # --- what they do -------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Input, in the order of the calls; see `easy`.

        :raises QueueFull: the program does not read, and too much waits for it; nothing of `data` is taken.
        """
        if self._typed_bytes + len(data) > INPUT_LIMIT:
            raise QueueFull(
                "the terminal's program does not read its input", limit=INPUT_LIMIT, terminal_id=self.id, retry_after=1
            )
        self._typed.append(data)
        self._typed_bytes += len(data)
        self._type.set()

    async def easy(self) -> None:
        """Until the program is not far behind with reading, or for a while: who types waits, and nothing piles up."""
        try:
            async with asyncio.timeout(INPUT_PATIENCE):
                while self._typed_bytes > INPUT_EASY and not self.over:
                    self._read.clear()
                    await self._read.wait()
        except TimeoutError:
            pass

    async def resize(self, cols: int, rows: int) -> None:
        """:raises FlowManagerError: the runtime's."""
        await self._inner.resize(cols, rows)

    # --- its end ------------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """End it and what runs in it; viewers get what was written, and are told. Bounded; may be called again."""
        self._closing = True
        self._took.set()  # what is left is read to the end, whoever takes it
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._inner.close()
                if self._pump is not None:
                    await asyncio.wait({self._pump})
        except TimeoutError:
            log.warning("a terminal could not be ended in %.0f s", CLOSE_TIMEOUT)
        except FlowManagerError as error:
            log.warning("a terminal could not be ended: %s", error.message)
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait({self._pump})
        if not self.over:
            self._end(None)

    async def told(self) -> None:
        """Once it has ended: until every viewer has got all of it, and knows."""
        while looking := {look.task for look in self._looks.values() if look.task is not None}:
            await asyncio.wait(looking)

    async def forget(self) -> None:
        """Give back all that is left of it."""
        for viewer in list(self._looks):
            self.leave(viewer)
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._ring.clear()

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _read_all(self) -> None:
        try:
            while data := await self._inner.read():
                self._ring.append(data)
                self._wrote.set()
                self._wrote = asyncio.Event()
                # Also where a read never has to wait: everybody else gets a turn.
                await asyncio.sleep(0 if self._looks else UNSEEN_REST)
                await self._somebody_takes()
            code = await self._code()
        except FlowManagerError as error:
            log.info("a terminal ended: %s", error.message)
            code = None
        except Exception:
            log.exception("a terminal could not be read")
            code = None
        self._end(code)

    async def _code(self) -> int | None:
        try:
            async with asyncio.timeout(CODE_TIMEOUT):
                return await self._inner.wait()
        except TimeoutError:
            return None

    async def _somebody_takes(self) -> None:
        while (
            self._looks
            and not self._closing
            and min(self._ring.end - look.position for look in self._looks.values()) > AHEAD
        ):
            self._took.clear()
            await self._took.wait()

    async def _type_all(self) -> None:
        while True:
            while self._typed:
                data = self._typed[0]
                try:
                    await self._inner.write(data)
                except FlowManagerError as error:
                    log.info("a terminal takes no input: %s", error.message)
                self._typed.popleft()
                self._typed_bytes -= len(data)
                self._read.set()
            self._type.clear()
            await self._type.wait()

    def _end(self, code: int | None) -> None:
        self.over, self.exit_code = True, code
        if self._typist is not None:
            self._typist.cancel()
        self._typed.clear()
        self._typed_bytes = 0
        self._read.set()
        self._wrote.set()
        self._ended(self)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=f"terminal-{name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class _Look:
    """One viewer's place in what a terminal wrote."""

    def __init__(self, terminal: OpenTerminal, viewer: Viewer, position: int) -> None:
        self.position = position
        self.task: asyncio.Task[None] | None = None
        self._terminal = terminal
        self._viewer = viewer

    async def follow(self) -> None:
        """Hand on what there is, then what comes, then the end."""
        terminal, ring, loop = self._terminal, self._terminal._ring, asyncio.get_running_loop()
        sent = 0.0
        while True:
            wrote = terminal._wrote
            if self.position >= ring.end:
                if terminal.over:
                    break
                await wrote.wait()
                if (rest := sent + GATHER - loop.time()) > 0 and ring.end - self.position < CHUNK:
                    await asyncio.sleep(rest)
            await self._viewer.room()
            self.position = ring.clamp(self.position)
            data = ring.read(self.position, CHUNK)
            if data:
                self._viewer.output(terminal.id, self.position, data)
                self.position += len(data)
                sent = loop.time()
                terminal._took.set()
        terminal._looks.pop(self._viewer, None)
        self._viewer.closed(terminal.id, terminal.exit_code)
