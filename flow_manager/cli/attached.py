"""The time in which a remote terminal is this one."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from flow_manager.cli import terminal as here
from flow_manager.client import FlowManagerClient, RemoteTerminal, ServiceRefused

END_OF_INPUT = b"\x04"
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
# Input that a program does not read yet is offered again after so many seconds.
OFFER_AGAIN = 0.5
UNDO_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class End:
    """How it came to its end: `exit_code` of the program, where it has ended and that is known; `signal` that ended us."""

    terminal_id: str
    exit_code: int | None = None
    detached: bool = False
    signal: int = 0
    skipped: int = 0


async def attached(
    client: FlowManagerClient,
    flow: str,
    *,
    target: Literal["shell", "main"],
    command: list[str] | None,
    terminal_id: str | None,
    keys: bytes,
) -> End:
    """:raises ServiceRefused, Unreachable: the terminal here is as it was then, too."""
    cols, rows = here.size()
    remote = await client.attach_container(
        flow, target=target, command=command, cols=cols, rows=rows, terminal_id=terminal_id
    )
    with here.raw():
        typed = here.Typed()
        typed.start()
        return await _show(remote, typed, keys, ends_with_input=target == "shell")


async def _show(remote: RemoteTerminal, typed: here.Typed, keys: bytes, *, ends_with_input: bool) -> End:
    loop = asyncio.get_running_loop()
    output = loop.create_task(_output(remote))
    typing = loop.create_task(_input(remote, typed, Keys(keys), ends_with_input))
    sizes = loop.create_task(_sizes(remote))
    tasks: set[asyncio.Task[None]] = {output, typing, sizes}
    with _signals() as ended_by:
        try:
            waiting: set[asyncio.Future[Any]] = {output, typing, ended_by}
            while True:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if output.done():
                    output.result()
                    return End(remote.id, remote.exit_code, skipped=remote.skipped)
                if ended_by.done():
                    await _undo()
                    return End(remote.id, signal=ended_by.result(), skipped=remote.skipped)
                try:
                    typing.result()
                except Detached:
                    await remote.detach()
                    await _undo()
                    return End(remote.id, detached=True, skipped=remote.skipped)
                waiting.discard(typing)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _undo() -> None:
    """Switch off what the program may have switched on; a terminal that is stopped (Ctrl-S) stays as it is."""
    try:
        async with asyncio.timeout(UNDO_SECONDS):
            await here.show(here.UNDO)
    except TimeoutError:
        pass


async def _output(remote: RemoteTerminal) -> None:
    while data := await remote.read():
        await here.show(data)


async def _input(remote: RemoteTerminal, typed: here.Typed, keys: Keys, ends_with_input: bool) -> None:
    """:raises Detached: the keys for that were typed."""
    last = b"\n"
    try:
        while data := await typed.read():
            passed = keys.passed(data)
            if passed:
                last = passed[-1:]
                await _type(remote, passed)
            if keys.found:
                raise Detached
        if ends_with_input:
            # A terminal takes the end of input for that only at the start of a line; elsewhere the first one ends the line.
            await _type(remote, END_OF_INPUT if last in b"\r\n" else END_OF_INPUT * 2)
    except ServiceRefused as refused:
        if refused.code != "invalid_request":  # it has ended, which the output tells, too
            raise


async def _type(remote: RemoteTerminal, data: bytes) -> None:
    while True:
        try:
            return await remote.write(data)
        except ServiceRefused as refused:
            if refused.code != "queue_full":
                raise
            await asyncio.sleep(OFFER_AGAIN)


async def _sizes(remote: RemoteTerminal) -> None:
    changed = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGWINCH, changed.set)
    try:
        while True:
            await changed.wait()
            changed.clear()
            try:
                await remote.resize(*here.size())
            except ServiceRefused:
                return  # it has ended
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)


@contextmanager
def _signals() -> Iterator[asyncio.Future[int]]:
    """Done with the number of the first signal that ends us: the terminal is put right before we go."""
    loop = asyncio.get_running_loop()
    came: asyncio.Future[int] = loop.create_future()

    def take(number: int) -> None:
        if not came.done():
            came.set_result(number)

    for number in ENDING:
        loop.add_signal_handler(number, take, number)
    try:
        yield came
    finally:
        for number in ENDING:
            loop.remove_signal_handler(number)


class Detached(Exception):
    """The detach keys were typed."""


class Keys:
    """Looks for a sequence of keys in what is typed. Pure."""

    def __init__(self, wanted: bytes) -> None:
        self._wanted = wanted
        self._held = 0
        self.found = False

    def passed(self, data: bytes) -> bytes:
        """What is to be sent on. The sequence's beginning is held back until the next key tells; the sequence is not sent."""
        if not self._wanted:
            return data
        out = bytearray()
        for byte in data:
            while self._held and byte != self._wanted[self._held]:
                # Not the sequence: its first key is sent, the rest of what was held may begin it anew.
                held = self._wanted[: self._held]
                for shorter in range(self._held - 1, -1, -1):
                    if held.endswith(self._wanted[:shorter]):
                        break
                out += held[: self._held - shorter]
                self._held = shorter
            if byte != self._wanted[self._held]:
                out.append(byte)
                continue
            self._held += 1
            if self._held == len(self._wanted):
                self.found = True
                return bytes(out)
        return bytes(out)
