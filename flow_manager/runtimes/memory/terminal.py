"""Make-believe terminals: an echo with a few words.

| line typed, or command | does |
| --- | --- |
| `stty size` | prints rows and columns |
| `echo WORD…` | prints the words |
| `cat` | prints each line that is typed, until Ctrl-D |
| `yes` | prints `y` without end, until Ctrl-C |
| `exit N` | ends with code N |
| anything else | is not found: 127, for a command |

What is typed is echoed. Ctrl-C gives a new line and a new prompt, Ctrl-D on an empty line is `exit 0`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from flow_manager.runtimes.inside import BEST_SHELL, Command

# What may wait for a reader; `yes` is held up at that.
HIGH_WATER = 64 * 1024
PROMPT = b"$ "
NOT_FOUND = 127
INTERRUPTED = 130
INTERRUPT, END_OF_INPUT, ERASE = 0x03, 0x04, 0x7F
YES = b"y\r\n" * 1024
Doing = Literal["shell", "cat", "yes"]


class MemoryTerminal:
    """A `Terminal`. `main` is the flow's own: it ends with the flow alone, and `close` leaves it."""

    def __init__(self, command: Command | None, cols: int, rows: int, *, main: bool = False) -> None:
        self.main = main
        self._size = (cols, rows)
        self._command = None if command is None or command.argv == BEST_SHELL else " ".join(command.argv)
        self._out = bytearray()
        self._line = bytearray()
        self._doing: Doing = "shell"
        self._code: int | None = None
        self._over = asyncio.Event()
        self._changed = asyncio.Event()
        self._listeners: list[Callable[[], object]] = []
        if main:
            self._doing = "cat"
        elif self._command is None:
            self._put(PROMPT)
        else:
            self._run(self._command)

    async def read(self) -> bytes:
        while not self._out:
            if self._over.is_set():
                return b""
            if self._doing == "yes":
                await asyncio.sleep(0)
                self._put(YES)
                continue
            self._changed.clear()
            await self._changed.wait()
        data = bytes(self._out[:HIGH_WATER])
        del self._out[:HIGH_WATER]
        return data

    async def write(self, data: bytes) -> None:
        for byte in data:
            if self._over.is_set():
                return
            self._typed(byte)

    async def resize(self, cols: int, rows: int) -> None:
        self._size = (cols, rows)

    async def wait(self) -> int | None:
        await self._over.wait()
        return self._code

    async def close(self) -> None:
        self.end(None if self.main else 129)

    def end(self, code: int | None) -> None:
        """Its program, or its flow, ended."""
        if not self._over.is_set():
            self._code = code
            self._over.set()
            self._changed.set()
            for listener in self._listeners:
                listener()

    def on_end(self, listener: Callable[[], object]) -> None:
        self._listeners.append(listener)
        if self._over.is_set():
            listener()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _put(self, data: bytes) -> None:
        # One that types and never reads loses what is more, as on a real one.
        self._out += data[: max(0, HIGH_WATER - len(self._out))]
        self._changed.set()

    def _typed(self, byte: int) -> None:
        if byte == INTERRUPT:
            self._line.clear()
            self._put(b"^C\r\n")
            self._done(INTERRUPTED)
        elif byte == END_OF_INPUT and not self._line:
            if self._doing == "shell":
                self.end(0)
            elif self._doing == "cat":
                self._done(0)
        elif byte in b"\r\n":
            line = self._line.decode(errors="replace")
            self._line.clear()
            self._put(b"\r\n")
            if self._doing == "cat":
                self._put(line.encode() + b"\r\n")
            elif self._doing == "shell":
                self._run(line)
        elif byte == ERASE:
            del self._line[-1:]
            self._put(b"\b \b")
        elif len(self._line) < HIGH_WATER:
            self._line.append(byte)
            self._put(bytes((byte,)))

    def _run(self, line: str) -> None:
        word, _, rest = line.strip().partition(" ")
        if word in ("cat", "yes"):
            self._doing = "cat" if word == "cat" else "yes"
            return
        if word == "exit":
            self.end(int(rest) if rest.isdigit() else 0)
            return
        code = 0
        if (word, rest) == ("stty", "size"):
            self._put(b"%d %d\r\n" % (self._size[1], self._size[0]))
        elif word == "echo":
            self._put(rest.encode() + b"\r\n")
        elif word:
            code = NOT_FOUND
            self._put(f"{word}: not found\r\n".encode())
        self._done(code)

    def _done(self, code: int) -> None:
        """A command ended: the shell asks for the next, a terminal that was on this command alone ends with it."""
        if self.main:
            return
        if self._command is not None:
            self.end(code)
            return
        self._doing = "shell"
        self._put(PROMPT)
