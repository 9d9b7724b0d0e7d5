"""Terminals in containers: a program of ours on the container's console, or the console of its own program."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack

from flow_manager.errors import ExecFailed, FlowManagerError, InvalidRequest
from flow_manager.runtimes.inside import BEST_SHELL, TERMINAL_TYPE, Command
from flow_manager.runtimes.proxmox import console_script as script
from flow_manager.runtimes.proxmox.client import KIND
from flow_manager.runtimes.proxmox.console import Line
from flow_manager.runtimes.proxmox.console_session import END_SECONDS, LINE_SECONDS, Over, Session
from flow_manager.runtimes.proxmox.consoles import Consoles, Place
from flow_manager.runtimes.proxmox.known import Known

log = logging.getLogger(__name__)

# A command that is under way is waited for this long.
PATIENCE = 10.0
# A shutdown has eight seconds in all by default.
CLOSE_SECONDS = 4.0


class Terminals:
    def __init__(self, consoles: Consoles) -> None:
        self._consoles = consoles
        self._open: set[ConsoleTerminal] = set()

    async def close(self) -> None:
        """What doesn't end in time is ended by whoever comes to that console next."""
        if self._open:
            closing = [self._consoles.spawn(one.close(), "terminal-close") for one in self._open]
            await asyncio.wait(closing, timeout=CLOSE_SECONDS)

    async def open(
        self, known: Known, command: Command | None, *, main: bool, cols: int, rows: int
    ) -> ConsoleTerminal | MainTerminal:
        """See `runtimes.inside.Inside.attach`. A caller who gives up meanwhile leaves nothing behind."""
        place = await self._consoles.place(known, "attach")
        if main and place.mode != "console":
            reason = (
                f"the flow has no terminal of its own (its container's console is cmode={place.mode}, not `console`)"
            )
            raise InvalidRequest(f"target: {reason}", fields=[{"path": "target", "reason": reason}])
        if not main:
            self._consoles.need_shell(known, place, "attach")
        work = self._main(known, cols, rows) if main else self._shell(known, command, place, cols, rows)
        opening = self._consoles.spawn(work, "terminal-open")
        try:
            terminal: ConsoleTerminal | MainTerminal = await asyncio.shield(opening)
            return terminal
        except asyncio.CancelledError:
            self._consoles.spawn(_give_back(opening), "terminal-undo")
            raise

    async def _main(self, known: Known, cols: int, rows: int) -> MainTerminal:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._consoles.turn(known, "attach", patience=PATIENCE))
            line = await self._consoles.open(known, "attach")
            await line.resize(cols, rows)
            return MainTerminal(line, stack.pop_all())
        raise AssertionError("unreachable")

    async def _shell(
        self, known: Known, command: Command | None, place: Place, cols: int, rows: int
    ) -> ConsoleTerminal:
        given = command or Command(BEST_SHELL)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._consoles.turn(known, "attach", patience=PATIENCE))
            session = await self._consoles.enter(known, "attach", cols, rows)
            stack.push_async_callback(session.line.close)
            environment = {**place.environment, "TERM": TERMINAL_TYPE, **given.environment}
            folder = given.working_dir or place.folder
            try:
                await session.give(
                    script.terminal(session.nonce, secrets.token_hex(8), given.argv, environment, folder)
                )
                began = await session.said("run", within=LINE_SECONDS)
            except Over as over:
                raise await self._consoles.lost(known, "attach", str(over)) from None
            if began is None:
                raise ExecFailed("the terminal did not begin", kind=KIND, reason=session.screen())
            terminal = ConsoleTerminal(session, known, self._consoles, stack.pop_all())
            self._open.add(terminal)
            terminal.on_end = lambda: self._open.discard(terminal)
            return terminal
        raise AssertionError("unreachable")


class MainTerminal:
    """The console of the container's own program; that goes on without us."""

    def __init__(self, line: Line, stack: AsyncExitStack) -> None:
        self._line, self._stack = line, stack
        self._over = asyncio.Event()

    async def read(self) -> bytes:
        data = b"" if self._over.is_set() else await self._line.receive()
        if not data:
            self._over.set()
        return data

    async def write(self, data: bytes) -> None:
        if not self._over.is_set():
            await self._line.type(data)

    async def resize(self, cols: int, rows: int) -> None:
        if not self._over.is_set():
            await self._line.resize(cols, rows)

    async def wait(self) -> int | None:
        """Proxmox VE tells no exit codes."""
        await self._over.wait()
        return None

    async def close(self) -> None:
        self._over.set()
        await self._line.close()
        await self._stack.aclose()


class ConsoleTerminal:
    """A program of ours; all that it started ends with it. `on_end` is called once that is done."""

    def __init__(self, session: Session, known: Known, consoles: Consoles, stack: AsyncExitStack) -> None:
        self._session, self._known, self._consoles, self._stack = session, known, consoles, stack
        self._line = session.line
        self._last = re.compile(rb"(?:\r\n)?<%s:(end:[^<>]*)>" % session.nonce.encode())
        # What may be the beginning of the last word is held back until it is known not to be.
        self._start = f"\r\n<{session.nonce}:end:".encode()
        self._held = session.take()
        self._code: int | None = None
        self._ended: script.Ended | None = None
        self._lost = False
        self._over = asyncio.Event()
        self._reading = asyncio.Lock()
        self._closing: asyncio.Task[None] | None = None
        self.on_end: Callable[[], None] = _nothing

    async def read(self) -> bytes:
        async with self._reading:
            while not self._over.is_set():
                if data := self._ready():
                    return data
                if self._ended is not None or self._lost:
                    break
                data = await self._line.receive()
                if not data:
                    self._lost = True
                    data, self._held = self._held, b""
                    if data:
                        return data
                    break
                self._held += data
        await self.close()
        return b""

    def _ready(self) -> bytes:
        """What may be shown of what came."""
        if found := self._last.search(self._held):
            data, self._held = self._held[: found.start()], b""
            self._ended = script.ended(found[1].decode())
            return data
        at = self._beginning()
        data, self._held = self._held[:at], self._held[at:]
        return data

    def _beginning(self) -> int:
        whole = self._held.find(self._start)
        if whole >= 0 and len(self._held) - whole < len(self._start) + 32:
            return whole
        for length in range(min(len(self._start), len(self._held)), 0, -1):
            if self._held.endswith(self._start[:length]):
                return len(self._held) - length
        return len(self._held)

    async def write(self, data: bytes) -> None:
        if not self._over.is_set() and self._ended is None and self._closing is None:
            await self._line.type(data)

    async def resize(self, cols: int, rows: int) -> None:
        if not self._over.is_set() and self._ended is None and self._closing is None:
            await self._line.resize(cols, rows)

    async def wait(self) -> int | None:
        await self._over.wait()
        return self._code

    async def close(self) -> None:
        if self._closing is None:
            self._closing = self._consoles.spawn(self._close(), "terminal-end")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        try:
            if self._ended is None and not self._lost:
                await self._end()
            if self._ended is not None:
                self._code = self._ended.code
                if self._ended.how == "L":
                    log.warning("processes of a terminal in flow %s could not be ended", self._known.flow_id)
                if self._ended.leaves:
                    await self._session.gone()
                return
            await self._line.close()
            if await self._consoles.lives(self._known) and not await self._consoles.reclaim(self._known, "attach"):
                log.warning("a terminal in flow %s was lost, and may go on", self._known.flow_id)
        except FlowManagerError as error:
            log.info("a terminal was not ended as it should be: %s", error.message)
        finally:
            self._over.set()
            self.on_end()
            await self._line.close()
            await self._stack.aclose()

    async def _end(self) -> None:
        """What watches inside is told by the size; what it wrote until then is nobody's any more."""
        await self._line.resize(script.END_COLS, script.END_ROWS)
        try:
            async with asyncio.timeout(END_SECONDS):
                # Whoever reads now takes what comes first; without the lock it finds that this is over.
                async with self._reading:
                    while self._ended is None and not self._lost:
                        data = await self._line.receive()
                        self._lost = not data
                        self._held += data
                        self._ready()
        except TimeoutError:
            self._lost = True
            log.info("a terminal in flow %s did not end by itself", self._known.flow_id)


def _nothing() -> None:
    """Nobody wants to know."""


async def _give_back(opening: asyncio.Task[ConsoleTerminal | MainTerminal]) -> None:
    await asyncio.wait([opening])
    if not opening.cancelled() and opening.exception() is None:
        await opening.result().close()
