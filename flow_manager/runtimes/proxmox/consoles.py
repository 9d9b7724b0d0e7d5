"""The consoles of containers: who has which, and what a container must have for it. One at a time a container."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from flow_manager.errors import (
    Conflict,
    ContainerNotFound,
    ContainerStopped,
    FlowManagerError,
    RuntimeUnavailable,
    Unsupported,
)
from flow_manager.runtimes.proxmox.client import KIND, PveClient
from flow_manager.runtimes.proxmox.console import Line, Lines
from flow_manager.runtimes.proxmox.console_session import Over, Session, leave
from flow_manager.runtimes.proxmox.errors import Subject, translated
from flow_manager.runtimes.proxmox.inventory import Inventory
from flow_manager.runtimes.proxmox.known import Known, written
from flow_manager.runtimes.proxmox.nodes import Nodes
from flow_manager.runtimes.proxmox.resources import text

# proxmox-termproxy takes API tokens since the one that came with this release.
TOKENS_SINCE = (9, 1)
# A stopped container's status follows some three seconds after its console has ended.
SETTLE_SECONDS = 8.0
LOOK_SECONDS = 0.25
# Whoever gives up waits this long for what was begun to be ended; then that goes on without them.
UNDO_SECONDS = 15.0
CLOSE_SECONDS = 3.0
_CWD = "lxc.init.cwd"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command runs: what the flow's own program was given."""

    mode: str
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    folder: str | None = None


@dataclass(slots=True)
class _Turn:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    holder: str = ""
    users: int = 0


class Consoles:
    def __init__(self, client: PveClient, inventory: Inventory, nodes: Nodes) -> None:
        self._client, self.inventory, self._nodes = client, inventory, nodes
        self._lines = Lines(client, inventory)
        self._turns: dict[int, _Turn] = {}
        self._background: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """What is under way is given a moment to end."""
        if self._background:
            await asyncio.wait(self._background, timeout=CLOSE_SECONDS)
        for task in self._background:
            task.cancel()
        if self._background:
            await asyncio.wait(self._background, timeout=1.0)
        await self._lines.close()

    def spawn(self, work: Coroutine[Any, Any, Any], what: str) -> asyncio.Task[Any]:
        """Something that must be carried through, whoever waits for it."""
        task = asyncio.create_task(work, name=f"proxmox-{what}")
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    # --- whose turn it is ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def turn(self, known: Known, operation: str, *, patience: float) -> AsyncIterator[None]:
        """The container's console is ours alone. :raises Conflict: it was not free within `patience` seconds.

        For a terminal nobody waits: it may be open for hours.
        """
        turn = self._turns.setdefault(known.vmid, _Turn())
        turn.users += 1
        try:
            if turn.lock.locked() and turn.holder == "attach":
                raise self._taken(turn)
            try:
                async with asyncio.timeout(patience):
                    await turn.lock.acquire()
            except TimeoutError:
                raise self._taken(turn) from None
            turn.holder = operation
            try:
                yield
            finally:
                turn.lock.release()
        finally:
            turn.users -= 1
            if not turn.users and self._turns.get(known.vmid) is turn:
                del self._turns[known.vmid]

    def _taken(self, turn: _Turn) -> Conflict:
        what = "a terminal is open" if turn.holder == "attach" else "a command runs"
        reason = f"{what} on the container's console, and Proxmox VE has one for each container"
        return Conflict(reason, operation=turn.holder, reason=reason)

    # --- whether there is one -----------------------------------------------------------------------------------------

    async def place(self, known: Known, capability: str) -> Place:
        """:raises Unsupported: an old server, with a token. :raises ContainerStopped, ContainerNotFound, RuntimeUnavailable:"""
        await self._nodes.begin()
        if self._client.by_token and self._nodes.version < TOKENS_SINCE:
            reason = f"Proxmox VE {self._nodes.release} takes no API token for a console (since 9.1)"
            raise Unsupported(
                f"{reason}: configure `user` and `password`, or upgrade it",
                kind=KIND,
                capability=capability,
                reason=reason,
            )
        subject = Subject(known.flow_id, operation=capability)

        async def read() -> Any:
            return await self._client.get(f"{known.path}/config", current=1)

        with translated(subject):
            config = await self.inventory.at(known, read, subject)
        await self.running(known)
        raw = config.get("lxc")
        pairs = [pair for pair in raw if isinstance(pair, list) and len(pair) == 2] if isinstance(raw, list) else []
        return Place(
            mode=text(config.get("cmode")) or "tty",
            environment=written(config, {}, known.vmid).environment,
            folder=next((text(value) for name, value in pairs if name == _CWD), None),
        )

    async def running(self, known: Known) -> None:
        """:raises ContainerStopped: it does not run now."""
        await self.inventory.look(known)
        if known.state != "running":
            raise ContainerStopped(
                f"flow '{known.flow_id}' is {known.state}", container_id=known.flow_id, state=known.state
            )

    def need_shell(self, known: Known, place: Place, capability: str) -> None:
        """:raises Unsupported: its console shows something else."""
        if place.mode == "shell":
            return
        shows = "asks for a login" if place.mode == "tty" else "is that of its own program"
        raise Unsupported(
            f"the console of the container {known.vmid} {shows} (cmode={place.mode}): set it to `shell` "
            f"(`pct set {known.vmid} --cmode shell`) and start the container anew",
            kind=KIND,
            capability=capability,
            reason=f"cmode={place.mode}",
        )

    # --- going in -----------------------------------------------------------------------------------------------------

    async def open(self, known: Known, capability: str) -> Line:
        return await self._lines.open(known, capability)

    async def enter(self, known: Known, capability: str, cols: int, rows: int, *, ours: bool = False) -> Session:
        """A shell that listens. :raises Conflict, ContainerStopped, Unsupported, RuntimeUnavailable:"""
        last = False
        while True:
            line = await self.open(known, capability)
            session = Session(line)
            try:
                await session.enter(cols, rows, ours=ours)
                return session
            except Over as over:
                # It may have joined a session that was just about to end; a second time it is no coincidence.
                await line.close()
                if last or not await self.lives(known, within=0.0):
                    raise await self.lost(known, capability, str(over)) from None
                last, ours = True, False  # what was left there has ended
            except BaseException:
                await line.close()
                raise

    async def lives(self, known: Known, *, within: float = SETTLE_SECONDS) -> bool:
        """Whether the container runs, after its console has ended: that is told some seconds late."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        while True:
            try:
                if (await self.inventory.current(known)).status != "running":
                    return False
            except ContainerNotFound:
                return False
            if loop.time() >= deadline:
                return True
            await asyncio.sleep(LOOK_SECONDS)

    async def lost(self, known: Known, capability: str, words: str) -> FlowManagerError:
        """Why a console ended that should not have."""
        if not await self.lives(known):
            state = "removed" if known.removed else known.state if known.state != "running" else "stopped"
            return ContainerStopped(f"flow '{known.flow_id}' ended meanwhile", container_id=known.flow_id, state=state)
        if "lxc-attach" in words:
            return Unsupported(
                f"the container {known.vmid} has no shell that could be used: {words}",
                kind=KIND,
                capability=capability,
                reason=words,
            )
        return _cut(words)

    async def reclaim(self, known: Known, capability: str) -> bool:
        """After a cut connection: end what is left there of ours. True: that was done."""
        try:
            session = await self.enter(known, capability, 80, 24, ours=True)
        except FlowManagerError:
            return False
        try:
            await leave(session)
        finally:
            await session.line.close()
        return True


def _cut(words: str) -> FlowManagerError:
    reason = (
        f"the connection to the container's console was cut ({words})" if words else "the console's connection was cut"
    )
    return RuntimeUnavailable(reason, kind=KIND, reason=reason)
