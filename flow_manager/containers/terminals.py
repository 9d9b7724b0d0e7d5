"""All open terminals: whose they are, how long they outlive their viewers, and what they mean to their flows.

A terminal belongs to a principal: to anybody else it does not exist, in the same words. It outlives its viewers by `LINGER`
seconds, and its own end by `AFTERLIFE`, in which whoever comes back still gets the last output and the exit code.

Use of the flow is what a person does: opening, joining, typing, resizing. Output alone keeps no flow awake, else a forgotten
`top` would for ever.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from flow_manager.containers.entry import FlowEntry
from flow_manager.containers.repeats import another_request
from flow_manager.containers.status import state_of
from flow_manager.containers.terminal import OpenTerminal, Viewer
from flow_manager.containers.use import Lease
from flow_manager.contract.inside import AttachContainer, Attached
from flow_manager.contract.principal import Principal
from flow_manager.errors import (
    FlowManagerError,
    InvalidRequest,
    ShuttingDown,
    TooManyStreams,
    Unsupported,
)
from flow_manager.runtimes.inside import Command

if TYPE_CHECKING:
    from flow_manager.containers.core import Core

log = logging.getLogger(__name__)

# How long one stays open with nobody looking (wire contract: "outlives its client for 5 minutes"), in seconds.
LINGER = 300.0
# How long the end of an ended one is kept, in seconds: longer than a lost connection takes to come back.
AFTERLIFE = 60.0
# Each keeps 1 MiB, a PTY and some processes: more than people open, an end to what a faulty client can pile up. So many open
# ones, and as many that have ended.
MAX_OF_PRINCIPAL = 32
MAX_OF_FLOW = 32
# Requests whose input is known to be typed, a terminal: more than a client has under way when it loses its connection.
REMEMBERED = 256
# How long viewers may take the last output at a shutdown, in seconds.
FAREWELL = 0.5


class _Held:
    """One terminal, and what is known of it beside."""

    def __init__(self, entry: FlowEntry, principal: Principal, target: str, opened_at: float) -> None:
        self.entry = entry
        self.owner = _owner(principal)
        self.target = target
        self.opened_at = opened_at
        self.terminal: OpenTerminal | None = None  # None while it is being opened
        self.lease: Lease | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.waking = False
        self.request: AttachContainer | None = None
        self.opened: asyncio.Event = asyncio.Event()
        # What was typed by which request.
        self.typed: dict[str, bytes] = {}

    def release(self) -> None:
        lease, self.lease = self.lease, None
        if lease is not None:
            lease.release()

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Terminals:
    """`linger` and `afterlife` in seconds; `new_id` gives an id that nobody can guess."""

    def __init__(
        self,
        core: Core,
        *,
        linger: float = LINGER,
        afterlife: float = AFTERLIFE,
        new_id: Callable[[], str] = lambda: secrets.token_urlsafe(24),
    ) -> None:
        self._core = core
        self._linger = linger
        self._afterlife = afterlife
        self._new_id = new_id
        self._held: dict[str, _Held] = {}
        self._closing = False
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Open ones."""
        return sum(1 for held in self._held.values() if held.terminal is None or not held.terminal.over)

    # --- opening and joining ------------------------------------------------------------------------------------------

    async def attach(self, principal: Principal, request: AttachContainer, viewer: Viewer) -> Attached:
        """A new terminal, or the live one that is asked for; shown to `viewer` from the next turn of the loop on.

        :raises ContainerNotFound: also for what the principal may not see.
        :raises InvalidRequest: no such terminal (of this principal, of this flow), or `main` of a flow without one.
        :raises ContainerStopped, WakeTimeout, StartFailed, DependencyFailed: it does not run, and why it did not wake.
        :raises Unsupported, ExecFailed, TooManyStreams, RuntimeUnavailable, ShuttingDown:
        """
        entry = self._core.table.resolve(principal, request.container_id)
        self._refuse_when_closing()
        joins = request.terminal_id or await self._opened_before(entry, principal, request)
        if joins is None:
            terminal_id = await self._open(entry, principal, request)
        else:
            terminal_id = joins
            if self._own(principal, terminal_id)[0].entry is not entry:
                raise _unknown(terminal_id)
        held, terminal = self._own(principal, terminal_id)
        held.stop_timer()
        if not terminal.over:
            if held.lease is None:
                held.lease = self._use(held)
            held.lease.touch()
            if joins is not None:
                await terminal.resize(request.cols, request.rows)
        offset = terminal.join(viewer, request.after)
        if terminal.over:
            self._later(held, self._afterlife, terminal)
        return Attached(terminal_id=terminal_id, offset=offset)

    async def _open(self, entry: FlowEntry, principal: Principal, request: AttachContainer) -> str:
        runtime, main = entry.runtime, request.target == "main"
        if not runtime.capabilities.attach:
            raise Unsupported(
                f"the runtime '{runtime.name}' opens no terminals", kind=runtime.kind, capability="attach"
            )
        if main and not runtime.capabilities.tty:
            raise Unsupported(f"flows of '{runtime.name}' have no terminal", kind=runtime.kind, capability="tty")
        if main and request.command is not None:
            reason = "the flow's own program is there already"
            raise InvalidRequest(f"command: {reason}", fields=[{"path": "command", "reason": reason}])
        terminal_id = self._new_id()
        held = _Held(entry, principal, request.target, self._core.clock.monotonic())
        held.request = request
        self._refuse_too_many(held)
        self._held[terminal_id] = held  # counts from now on
        try:
            # Held while it wakes, too: it must not fall asleep again before it is used.
            held.lease = self._use(held)
            await self._core.uses.running(entry, reason=f"{principal.name} opens a terminal in it")
            self._refuse_when_closing()
            inner = await runtime.attach(
                entry.id,
                Command(tuple(request.command)) if request.command is not None else None,
                main=main,
                cols=request.cols,
                rows=request.rows,
            )
        except BaseException:
            held.release()
            del self._held[terminal_id]
            held.opened.set()
            raise
        held.terminal = terminal = OpenTerminal(terminal_id, inner, ended=self._ended)
        terminal.open()
        held.opened.set()
        self._core.activity.log_terminal_opened(entry.ref, principal.name, target=request.target)
        if self._closing or self._core.table.get(entry.id) is not entry:
            await terminal.close()
            raise ShuttingDown("the service is shutting down") if self._closing else _unknown(terminal_id)
        return terminal_id

    async def _opened_before(self, entry: FlowEntry, principal: Principal, request: AttachContainer) -> str | None:
        """The terminal that the same request opened, or is opening: its reply was lost with its connection.

        :raises Conflict: that id was another request's.
        """
        for terminal_id, held in list(self._held.items()):
            known = held.request
            if request.request_id is None or known is None or known.request_id != request.request_id:
                continue
            if held.owner != _owner(principal):
                continue
            # The size may differ: a window was resized before its client came back.
            if held.entry is not entry or (known.target, known.command) != (request.target, request.command):
                raise another_request(request.request_id)
            await held.opened.wait()
            return terminal_id if terminal_id in self._held else None
        return None

    def _use(self, held: _Held) -> Lease:
        return self._core.uses.use(held.entry, "terminal", f"{held.owner[1]}: {held.target}")

    # --- using --------------------------------------------------------------------------------------------------------

    async def write(self, principal: Principal, terminal_id: str, data: bytes, request_id: str | None = None) -> None:
        """Input, in the order of the calls; the same `request_id` is typed once.

        :raises InvalidRequest: no such open terminal. :raises QueueFull: the program doesn't read.
        :raises Conflict: that id came with other input.
        """
        held, terminal = self._live(principal, terminal_id)
        if request_id is not None and (known := held.typed.get(request_id)) is not None:
            if known != _digest(data):
                raise another_request(request_id)
            return
        self._touch(held)
        if state_of(held.entry) != "running" and not held.waking:
            # A flow that was paused to sleep keeps its terminals: who types wakes it.
            held.waking = True
            self._spawn(self._wake(held))
        terminal.write(data)
        if request_id is not None:
            held.typed[request_id] = _digest(data)
            if len(held.typed) > REMEMBERED:
                del held.typed[next(iter(held.typed))]
        await terminal.easy()

    async def resize(self, principal: Principal, terminal_id: str, cols: int, rows: int) -> None:
        """:raises InvalidRequest: no such open terminal."""
        held, terminal = self._live(principal, terminal_id)
        self._touch(held)
        await terminal.resize(cols, rows)

    def detach(self, principal: Principal, terminal_id: str, viewer: Viewer) -> None:
        """This viewer looks no longer; harmless where it did not. :raises InvalidRequest: no such terminal."""
        held, terminal = self._own(principal, terminal_id)
        if terminal.leave(viewer):
            self._abandoned(held, terminal)

    def leave(self, viewer: Viewer) -> None:
        """This viewer is gone, and looks at nothing any more."""
        for held in list(self._held.values()):
            if held.terminal is not None and held.terminal.leave(viewer):
                self._abandoned(held, held.terminal)

    async def _wake(self, held: _Held) -> None:
        try:
            await self._core.uses.running(held.entry, reason=f"{held.owner[1]} types in its terminal")
        except FlowManagerError as error:
            log.info("flow %s was not woken for its terminal: %s", held.entry.id, error.message)
        finally:
            held.waking = False

    @staticmethod
    def _touch(held: _Held) -> None:
        if held.lease is not None:
            held.lease.touch()

    # --- ends ---------------------------------------------------------------------------------------------------------

    def flow_gone(self, flow_id: str) -> None:
        """The flow was deleted or released: its terminals end."""
        for held in self._held.values():
            if held.entry.id == flow_id and held.terminal is not None and not held.terminal.over:
                self._spawn(held.terminal.close())

    async def close(self) -> None:
        """Open none any more, end all that are open, tell their viewers. Bounded by the runtimes' own limits."""
        self._closing = True
        terminals = [held.terminal for held in self._held.values() if held.terminal is not None]
        await asyncio.gather(*(terminal.close() for terminal in terminals if not terminal.over))
        try:
            async with asyncio.timeout(FAREWELL):
                for terminal in terminals:
                    await terminal.told()
        except TimeoutError:
            pass  # a viewer that doesn't read
        for held in self._held.values():
            held.stop_timer()
        self._held.clear()
        for terminal in terminals:
            await terminal.forget()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    def _ended(self, terminal: OpenTerminal) -> None:
        held = self._held.get(terminal.id)
        if held is None:
            return
        held.release()
        self._core.activity.log_terminal_closed(
            held.entry.ref,
            held.owner[1],
            target=held.target,
            exit_code=terminal.exit_code,
            seconds=round(self._core.clock.monotonic() - held.opened_at, 3),
        )
        # What it started may have outlived it: its runtime ends that, too.
        self._spawn(terminal.close())
        self._later(held, self._afterlife, terminal)
        ended = [one for one in self._held.values() if one.owner == held.owner and one.terminal and one.terminal.over]
        for one in ended[:-MAX_OF_PRINCIPAL]:
            one.stop_timer()
            if one.terminal is not None:
                self._spawn(self._forget(one.terminal))

    def _abandoned(self, held: _Held, terminal: OpenTerminal) -> None:
        if terminal.viewers:
            return
        held.release()
        if not terminal.over:
            self._later(held, self._linger, terminal)

    def _later(self, held: _Held, seconds: float, terminal: OpenTerminal) -> None:
        held.stop_timer()
        if not self._closing:
            held.timer = asyncio.get_running_loop().call_later(
                seconds, lambda: self._spawn(self._forget(terminal) if terminal.over else terminal.close())
            )

    async def _forget(self, terminal: OpenTerminal) -> None:
        self._held.pop(terminal.id, None)
        await terminal.forget()

    # --- finding ------------------------------------------------------------------------------------------------------

    def _own(self, principal: Principal, terminal_id: str) -> tuple[_Held, OpenTerminal]:
        held = self._held.get(terminal_id)
        if held is None or held.terminal is None or held.owner != _owner(principal):
            raise _unknown(terminal_id)
        return held, held.terminal

    def _live(self, principal: Principal, terminal_id: str) -> tuple[_Held, OpenTerminal]:
        held, terminal = self._own(principal, terminal_id)
        if terminal.over:
            raise _unknown(terminal_id, "has ended", exit_code=terminal.exit_code)
        return held, terminal

    def _refuse_too_many(self, wanted: _Held) -> None:
        live = [held for held in self._held.values() if held.terminal is None or not held.terminal.over]
        for many, limit, whose in (
            (sum(held.owner == wanted.owner for held in live), MAX_OF_PRINCIPAL, f"{wanted.owner[1]} has"),
            (sum(held.entry is wanted.entry for held in live), MAX_OF_FLOW, "the flow has"),
        ):
            if many >= limit:
                raise TooManyStreams(f"{whose} {limit} open terminals already", limit=limit)

    def _refuse_when_closing(self) -> None:
        self._core.refuse_when_closing()
        if self._closing:
            raise ShuttingDown("the service is shutting down")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="terminals")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _owner(principal: Principal) -> tuple[str, str]:
    return principal.tenant, principal.name


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _unknown(terminal_id: str, reason: str = "is not an open terminal", **details: Any) -> InvalidRequest:
    return InvalidRequest(
        f"terminal_id: '{terminal_id}' {reason}",
        fields=[{"path": "terminal_id", "reason": reason}],
        terminal_id=terminal_id,
        **details,
    )
