"""Running a command in a container through its console: its outputs apart, and its exit code."""

from __future__ import annotations

import asyncio
import re
import secrets

from flow_manager.errors import Conflict, ExecFailed, FlowManagerError, OperationTimeout, RuntimeUnavailable
from flow_manager.runtimes.capped import Capped
from flow_manager.runtimes.inside import Command, ExecOutcome
from flow_manager.runtimes.proxmox import console_script as script
from flow_manager.runtimes.proxmox.client import KIND
from flow_manager.runtimes.proxmox.console_session import LINE_SECONDS, Over, Session, finish, leave
from flow_manager.runtimes.proxmox.consoles import UNDO_SECONDS, Consoles, Place
from flow_manager.runtimes.proxmox.known import Known

COLS, ROWS = 80, 24
# Processes are looked for and killed in up to fifteen rounds of a tenth of a second.
END_SECONDS = 12.0
# A megabyte of each output is some three on the line, in hexadecimal digits six.
OUTPUT_SECONDS = 60.0
OUTPUT_FACTOR = 4
NOT_RUNNABLE, NOT_FOUND = 126, 127
# A shell's own words of what it could not begin: `/tmp/.flow-…/s: 4: exec: name: not found`.
_SHELLS = re.compile(rb"\S*/\.flow-[0-9a-f]+/s: [^\n]*: (?P<why>[^:\n]+)\n\Z")


class Executor:
    def __init__(self, consoles: Consoles) -> None:
        self._consoles = consoles
        self._stops: set[asyncio.Event] = set()

    def end(self) -> None:
        """Give up all that is under way: what was begun in containers is ended."""
        for stop in self._stops:
            stop.set()

    async def run(self, known: Known, command: Command, timeout: float, limit: int) -> ExecOutcome:
        """See `runtimes.inside.Inside.exec`. Waits for its turn for as long as it may run."""
        place = await self._consoles.place(known, "exec")
        self._consoles.need_shell(known, place, "exec")
        async with self._consoles.turn(known, "exec", patience=timeout):
            stop = asyncio.Event()
            self._stops.add(stop)
            running = self._consoles.spawn(self._run(known, command, place, timeout, limit, stop), "exec")
            try:
                outcome: ExecOutcome = await asyncio.shield(running)
                return outcome
            except asyncio.CancelledError:
                # What was begun is ended before the next one has its turn.
                stop.set()
                await asyncio.wait([running], timeout=UNDO_SECONDS)
                raise
            finally:
                self._stops.discard(stop)

    async def _run(
        self, known: Known, command: Command, place: Place, timeout: float, limit: int, stop: asyncio.Event
    ) -> ExecOutcome:
        session = await self._consoles.enter(known, "exec", COLS, ROWS)
        try:
            return await self._in(session, known, command, place, timeout, limit, stop)
        except Over as over:
            error = await self._consoles.lost(known, "exec", str(over))
            if isinstance(error, RuntimeUnavailable) and not await self._consoles.reclaim(known, "exec"):
                error.details["left_running"] = True
            raise error from None
        finally:
            await session.line.close()

    async def _in(
        self,
        session: Session,
        known: Known,
        command: Command,
        place: Place,
        timeout: float,
        limit: int,
        stop: asyncio.Event,
    ) -> ExecOutcome:
        """:raises Over:"""
        if stop.is_set():
            await leave(session)
            raise Conflict("the command was given up", operation="exec")
        environment = {**place.environment, **command.environment}
        folder = command.working_dir or place.folder
        await session.give(script.run(session.nonce, secrets.token_hex(8), command.argv, environment, folder, limit))
        began = await session.said("run", "end", within=LINE_SECONDS)
        if began is None or began[0] != "run":
            await finish(session, began)
            raise ExecFailed(
                "the container has no folder for what a command writes (/tmp, /dev/shm, /run, /var/tmp), or no mkfifo",
                kind=KIND,
                reason=session.screen(),
            )
        said = await self._wait(session, timeout, stop)
        late = said is None
        if said is None:
            await session.line.type(script.INTERRUPT)
            said = await session.said("out", within=END_SECONDS)
        if said is None:
            raise self._late(timeout, True)
        keep = OUTPUT_FACTOR * limit + 4096
        stdout = await session.said("err", within=OUTPUT_SECONDS, keep=keep)
        stderr = await session.said("done", within=OUTPUT_SECONDS, keep=keep)
        ended = await finish(session, await session.said("end", within=OUTPUT_SECONDS))
        if ended is None or stdout is None or stderr is None:
            raise RuntimeUnavailable("the container's console stopped in the middle of an answer", kind=KIND, reason="")
        if stop.is_set():
            raise RuntimeUnavailable("the runtime is closed", kind=KIND, reason="the runtime is closed")
        if ended.how in "TL" and late:
            raise self._late(timeout, True if ended.how == "L" else None)
        if ended.how == "F":
            raise ExecFailed(f"the working directory {folder} does not exist", kind=KIND)
        return _outcome(ended.code, command.argv[0], said[0].rpartition(":")[2], stdout[1], stderr[1], limit)

    async def _wait(self, session: Session, timeout: float, stop: asyncio.Event) -> tuple[str, bytes] | None:
        """Until it has ended; None: its time is over, or nobody wants it any more."""
        reading = asyncio.create_task(session.said("out", within=timeout), name="proxmox-exec-wait")
        given_up = asyncio.create_task(stop.wait(), name="proxmox-exec-stop")
        try:
            await asyncio.wait([reading, given_up], return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                return reading.result()
            return None
        finally:
            for task in (reading, given_up):
                task.cancel()
            await asyncio.wait([reading, given_up])

    def _late(self, timeout: float, left: bool | None) -> FlowManagerError:
        return OperationTimeout(
            f"the command had not ended after {timeout:g} s", operation="exec", timeout=timeout, left_running=left
        )


def _outcome(code: int, name: str, way: str, stdout: bytes, stderr: bytes, limit: int) -> ExecOutcome:
    """:raises RuntimeUnavailable: something else wrote in between."""
    outputs = Capped(limit), Capped(limit)
    try:
        for kept, data in zip(outputs, (stdout, stderr), strict=True):
            kept.feed(script.decoded(way, data))
    except ValueError:
        reason = "something else wrote on the container's console while the command's output was read"
        raise RuntimeUnavailable(reason, kind=KIND, reason=reason) from None
    told = outputs[1].kept
    if code in (NOT_FOUND, NOT_RUNNABLE) and not outputs[0].kept and (found := _SHELLS.match(told)):
        why = "not found" if code == NOT_FOUND else found["why"].decode(errors="replace").lower()
        told = f"{name}: {why}\n".encode()
    return ExecOutcome(code, outputs[0].kept, told, truncated=outputs[0].cut or outputs[1].cut)
