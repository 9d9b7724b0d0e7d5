"""A shell of ours on a container's console: entered, given a script, and left as it was found.

The server holds ONE session a container, which outlives each connection and which people see in its web pages, too. So what is
found there is cleared: a half-typed line, what an earlier terminal of ours left running, in the end (by an interrupt) anything.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Callable

from flow_manager.errors import Conflict, FlowManagerError
from flow_manager.runtimes.proxmox import console_script as script
from flow_manager.runtimes.proxmox.console import Line

log = logging.getLogger(__name__)

# A new shell takes some 0.1 s until it asks for a line, on a busy node seconds; one that is joined may say nothing at all.
PROMPT_SECONDS, QUIET_SECONDS = 3.0, 0.15
# What is typed is answered at once, unless the machine is very busy or something else reads it.
ANSWER_SECONDS = 6.0
# What watches inside looks once a second; then it hangs up, waits half a second, and kills.
END_SECONDS = 8.0
CLEAR_SECONDS, INTERRUPT_SECONDS = 3.0, 0.5
# One line of a script: written, read, acknowledged.
LINE_SECONDS = 20.0
GONE_SECONDS = 3.0
TRIES = 4
# busybox ash asks where the cursor is before it reads a line.
CURSOR_QUESTION, CURSOR_ANSWER = b"\x1b[6n", b"\x1b[1;1R"
# Of what is on the screen, this much is kept while a word is looked for, and this much is shown to people.
KEPT, SHOWN = 64 * 1024, 200
# Of the words that our scripts say.
LONGEST_WORD = 128
_SEQUENCES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[^\[]|[\x00-\x09\x0b-\x1f\x7f]")


class Over(Exception):
    """The console's session ended, or the connection to it."""


class Session:
    """On one line. `enter` first; then `give` a script and read what it says; `line.close` at the end."""

    def __init__(self, line: Line, new_nonce: Callable[[], str] = lambda: secrets.token_hex(8)) -> None:
        self.line = line
        self.nonce = ""
        self._new_nonce = new_nonce
        self._seen = bytearray()

    async def enter(self, cols: int, rows: int, *, ours: bool = False) -> None:
        """Get a shell to listen. `ours`: what is found there was left by us, so it need not be treated gently.

        :raises Conflict: something else runs there, and goes on at an interrupt. :raises Over:
        """
        await self.line.resize(cols, rows)
        if await self._prompt():
            await self.line.type(CURSOR_ANSWER)
        for attempt in range(TRIES):
            if attempt or ours:
                await self._clear(cols, rows)
            self.nonce = self._new_nonce()
            await self.line.type(script.KILL_LINE + script.loading(self.nonce))
            if await self.said("go", within=ANSWER_SECONDS) is not None:
                return
        reason = f"its console shows: {self.screen()}" if self.screen() else "its console does not answer"
        raise Conflict(
            "the container's console is in use by something that an interrupt does not end; end it there (pct console, or "
            f"the server's web pages); {reason}",
            operation="console",
            reason=reason,
        )

    async def give(self, text: str) -> None:
        """:raises Over: :raises Conflict: nothing reads there any more."""
        for line in script.lines(text):
            await self.line.type(line)
            if line != b".\n" and await self.said("ok", within=LINE_SECONDS) is None:
                raise Conflict("the container's console stopped answering", operation="console")

    async def said(self, *names: str, within: float, keep: int = KEPT) -> tuple[str, bytes] | None:
        """The next of these words, with what belongs to it, and what was written before it (of that, the last `keep` bytes).

        None: it did not come in time. :raises Over:
        """
        word = re.compile(rb"<%s:((?:%s)(?::[^<>]*)?)>" % (self.nonce.encode(), "|".join(names).encode()))
        looked = 0
        try:
            async with asyncio.timeout(within):
                while (found := word.search(self._seen, looked)) is None:
                    looked = max(0, len(self._seen) - LONGEST_WORD)
                    if len(self._seen) > keep + LONGEST_WORD:
                        del self._seen[: len(self._seen) - keep]
                        looked = max(0, len(self._seen) - LONGEST_WORD)
                    await self.more()
        except TimeoutError:
            return None
        name, before = found[1].decode(), bytes(self._seen[: found.start()])
        del self._seen[: found.end()]
        return name, before

    async def more(self) -> bytes:
        """Read on; what came is kept until it is taken. :raises Over:"""
        data = await self.line.receive()
        if not data:
            raise Over(self.screen())
        self._seen += data
        return data

    def take(self) -> bytes:
        data, self._seen = bytes(self._seen), bytearray()
        return data

    async def gone(self) -> None:
        """The shell ends, too: wait until the server has seen it, so that the next one does not join what is about to end."""
        try:
            async with asyncio.timeout(GONE_SECONDS):
                while await self.line.receive():
                    pass
        except TimeoutError:
            log.debug("a console's session did not end with its shell")

    def screen(self) -> str:
        """What is to be seen there, for people: its end."""
        text = _SEQUENCES.sub("", self._seen.decode(errors="replace"))
        return " ".join(text.split())[-SHOWN:]

    async def _prompt(self) -> bool:
        """Wait for a prompt. True: it asked for the cursor's place.

        What is typed before that may be lost: dtach clears the screen, and lxc-attach flushes the terminal after that.
        """
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + PROMPT_SECONDS, PROMPT_SECONDS
        while (left := deadline - loop.time()) > 0:
            try:
                async with asyncio.timeout(min(left, pause)):
                    await self.more()
            except TimeoutError:
                break
            pause = QUIET_SECONDS if self.screen() else PROMPT_SECONDS
        return CURSOR_QUESTION in self._seen

    async def _passing(self, seconds: float) -> None:
        """What is written meanwhile is of no interest. :raises Over:"""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    await self.more()
                    del self._seen[: -SHOWN * 4]
        except TimeoutError:
            return

    async def _clear(self, cols: int, rows: int) -> None:
        """End what is there: a terminal of ours by the size, anything else by an interrupt."""
        await self.line.resize(script.END_COLS, script.END_ROWS)
        await self._passing(CLEAR_SECONDS)
        await self.line.resize(cols, rows)
        await self.line.type(script.INTERRUPT)
        await self._passing(INTERRUPT_SECONDS)


async def leave(session: Session) -> None:
    """Of a session that was entered and not given anything. Whatever fails here leaves a shell that does nothing."""
    try:
        await session.give(script.nothing(session.nonce))
        await finish(session, await session.said("end", within=ANSWER_SECONDS))
    except (Over, FlowManagerError):
        return


async def finish(session: Session, last: tuple[str, bytes] | None) -> script.Ended | None:
    """After our script's last word: what it says; None where it says nothing."""
    ended = script.ended(last[0]) if last is not None else None
    if ended is not None and ended.leaves:
        await session.gone()
    return ended
