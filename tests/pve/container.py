"""One container: where it is, what is written in its configuration, whether it runs."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tests.pve.locks import Flock
from tests.pve.options import LIVE, plain

if TYPE_CHECKING:
    from tests.pve.cluster import Cluster
    from tests.pve.terminal import Terminal

Status = Literal["running", "stopped"]
MIB = 1 << 20
GIB = 1 << 30
# A raw image of this size when nothing else is said.
DISK = 4 * GIB


@dataclass(slots=True)
class Behaviour:
    """What the inside of a container does; nothing of this is known to Proxmox VE.

    `boot`: seconds from "running" until it answers. `stop_time`: seconds that a shutdown takes; `ignores_shutdown`: for
    ever. `lease`: seconds until it has its address; before, it has one of IPv6. `serves`: a small HTTP server answers on its address (None: unless it has an entrypoint). `port`: where.
    """

    boot: float = 0.0
    stop_time: float = 0.0
    ignores_shutdown: bool = False
    lease: float = 0.0
    serves: bool | None = None
    port: int | None = None


@dataclass(slots=True)
class Container:
    vmid: int
    node: str
    config: dict[str, Any]
    cluster: Cluster
    folder: Path
    raw: list[tuple[str, str]] = field(default_factory=list)
    behaviour: Behaviour = field(default_factory=Behaviour)
    status: Status = "stopped"
    pending: dict[str, Any] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    ha: bool = False
    pool: str | None = None
    started_at: float | None = None
    lingers_until: float = 0.0
    pid: int | None = None
    address: str | None = None
    # Times at which something was changed that pvestatd reports, with what it had been before.
    history: list[tuple[float, dict[str, Any] | None]] = field(default_factory=list)
    program: Terminal | None = None
    """Its entrypoint, where it has one that runs."""
    session: Terminal | None = None
    """The one console session, once somebody asked for one."""
    flock: Flock = field(init=False)

    def __post_init__(self) -> None:
        self.flock = Flock(self.vmid)

    @property
    def running(self) -> bool:
        return self.status == "running"

    @property
    def seen_running(self) -> bool:
        """What the server takes for running: its command socket, which stays for some seconds after the end."""
        return self.running or self.cluster.clock() < self.lingers_until

    @property
    def name(self) -> str:
        return str(self.config.get("hostname", f"CT{self.vmid}"))

    @property
    def lock(self) -> str | None:
        return self.config.get("lock")

    @property
    def is_template(self) -> bool:
        return bool(self.config.get("template"))

    @property
    def environment(self) -> dict[str, str]:
        pairs = (pair.partition("=") for pair in str(self.config.get("env", "")).split("\0") if pair)
        return {name: value for name, _, value in pairs}

    @property
    def digest(self) -> str:
        text = repr((sorted(self.config.items()), sorted(self.pending.items()), sorted(self.dropped), self.raw))
        return hashlib.sha1(text.encode()).hexdigest()

    @property
    def written(self) -> str:
        """What it (or its console) has printed lately: for the tests to look at."""
        return self.program.recent.decode(errors="replace") if self.program else ""

    # --- configuration ----------------------------------------------------------------------------------------------

    def put(self, name: str, value: Any) -> None:
        self.dropped.discard(name)
        if self.running and plain(name) not in LIVE:
            self.pending[name] = value
        else:
            self.pending.pop(name, None)
            self.config[name] = value

    def drop(self, name: str) -> None:
        self.pending.pop(name, None)
        if self.running and plain(name) not in LIVE:
            if name in self.config:
                self.dropped.add(name)
        else:
            self.config.pop(name, None)

    def apply_pending(self) -> None:
        self.config |= self.pending
        for name in self.dropped:
            self.config.pop(name, None)
        self.pending.clear()
        self.dropped.clear()

    # --- what a person does behind the manager's back ---------------------------------------------------------------

    # Each begins at once; who awaits what it gives knows that it has happened.

    def start_outside(self) -> asyncio.Task[None]:
        return self.cluster.inside.later(self.cluster.inside.start(self))

    def stop_outside(self) -> asyncio.Task[None]:
        """It ends: crashed, or ended by hand."""
        return self.cluster.inside.later(self.cluster.inside.stop(self))

    def remove_outside(self) -> asyncio.Task[None]:
        return self.cluster.inside.later(self._remove())

    def migrate(self, node: str) -> asyncio.Task[None]:
        """To another node, in restart mode: a running one is stopped there and started here."""
        return self.cluster.inside.later(self._migrate(node))

    async def _remove(self) -> None:
        await self.cluster.inside.stop(self)
        self.cluster.forget(self)

    async def _migrate(self, node: str) -> None:
        runs = self.running
        await self.cluster.inside.stop(self)
        self.node = node
        if runs:
            await self.cluster.inside.start(self)

    def set_status(self, status: Status, clock: Callable[[], float]) -> None:
        self.note(clock())
        self.status = status

    def note(self, now: float) -> None:
        """Keep what was so until now, for those who are told late."""
        self.history = [*self.history[-7:], (now, self.snapshot())]

    def snapshot(self) -> dict[str, Any]:
        return {"status": self.status, "name": self.name, "started_at": self.started_at}

    def seen_at(self, moment: float) -> dict[str, Any] | None:
        """What somebody saw who looked then; None: it wasn't there yet."""
        for changed_at, before in self.history:
            if changed_at >= moment:
                return before
        return self.snapshot()
