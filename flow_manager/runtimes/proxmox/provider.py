"""Flows as LXC containers on Proxmox VE."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from flow_manager.contract.models import ResourceUsage
from flow_manager.errors import (
    ContainerNotFound,
    InvalidRequest,
    NameConflict,
    NotAllowed,
    RuntimeUnavailable,
    Unsupported,
)
from flow_manager.runtimes.base import Capabilities, FlowSpec, Observation, Progress, RuntimeEvent
from flow_manager.runtimes.hub import EventHub
from flow_manager.runtimes.inside import Command, ExecOutcome, LogLine, NothingInside, Terminal
from flow_manager.runtimes.proxmox.claims import Claims
from flow_manager.runtimes.proxmox.client import KIND, PveClient
from flow_manager.runtimes.proxmox.console_exec import Executor
from flow_manager.runtimes.proxmox.consoles import Consoles
from flow_manager.runtimes.proxmox.create import Creator
from flow_manager.runtimes.proxmox.ending import Ending
from flow_manager.runtimes.proxmox.errors import translate, translated
from flow_manager.runtimes.proxmox.failure import CallFailed
from flow_manager.runtimes.proxmox.feed import Feed
from flow_manager.runtimes.proxmox.identity import Judge
from flow_manager.runtimes.proxmox.inventory import Inventory
from flow_manager.runtimes.proxmox.known import Known
from flow_manager.runtimes.proxmox.login import client_of
from flow_manager.runtimes.proxmox.nodes import Nodes
from flow_manager.runtimes.proxmox.orders import Orders
from flow_manager.runtimes.proxmox.resources import usage
from flow_manager.runtimes.proxmox.starting import Starter
from flow_manager.runtimes.proxmox.tasks import Tasks
from flow_manager.runtimes.proxmox.terminal import Terminals
from flow_manager.settings.models import FlowSettings, LimitSettings
from flow_manager.settings.runtime import RuntimeSettings
from flow_manager.util.clock import Clock, SystemClock


class ProxmoxProvider(NothingInside):
    """The runtime `proxmox`: one server, or the cluster that it belongs to.

    A flow is found by the lines in its container's description; one that others made, by the tag `flow-manager`, or because
    a client or the settings (`flows`) named it (see `identity`). Nothing else on the cluster is touched, and of others'
    containers nothing is written. `interval` in seconds overrides the settings'.
    """

    kind = KIND

    def __init__(
        self,
        name: str,
        settings: RuntimeSettings,
        *,
        instance: str,
        limits: LimitSettings,
        sockets_dir: Path,
        state_dir: Path,
        clock: Clock | None = None,
        interval: float | None = None,
        flows: Sequence[FlowSettings] = (),
    ) -> None:
        self.name = name
        self.capabilities = Capabilities(
            pause=settings.pause,
            signals=False,
            exec=True,
            attach=True,
            tty=True,
            exit_codes=False,
            logs=False,
            local_socket=False,
            mounts=False,
            limits=True,
            images=True,
        )
        self.client: PveClient = client_of(settings)
        declared = frozenset(flow.vmid for flow in flows if flow.vmid is not None)
        self._claims = Claims(state_dir / "runtimes" / f"{name}.json", declared)
        judge = Judge(name, instance, bool(settings.adopt))
        self.nodes = Nodes(self.client, settings.nodes)
        self._inventory = Inventory(
            self.client, self.nodes, judge, self._claims, clock or SystemClock(), emulated=settings.emulated
        )
        tasks = Tasks(self.client)
        self._hub = EventHub()
        orders = Orders(self.client, self._inventory, tasks, self._hub, timeout=limits.operation_timeout)
        self._ending = Ending(self.client, self._inventory, orders, tasks, self._claims)
        self._starter = Starter(self._inventory, orders, tasks, self._claims)
        self._creator = Creator(self.client, self._inventory, self.nodes, tasks, orders, self._ending, settings)
        self._consoles = Consoles(self.client, self._inventory, self.nodes)
        self._executor = Executor(self._consoles)
        self._terminals = Terminals(self._consoles)
        self._feed = Feed(self._inventory, self.nodes, tasks, self._hub, interval=interval or settings.interval)
        self._closed = False

    # --- life ---------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """The server may be away: it is asked until it is back."""
        self._claims.load()
        await self.client.open()
        self._feed.open()

    async def close(self) -> None:
        """Containers go on; watchers end. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._hub.close()
        self._executor.end()
        await self._terminals.close()
        await self._consoles.close()
        await self._creator.close()
        await self._feed.close()
        await self.client.close()

    async def ping(self, timeout: float = 5.0) -> None:
        """Also says whether the login is still good. :raises RuntimeUnavailable:"""
        with translated():
            told = await self.client.get("version", within=timeout)
        if not isinstance(told, Mapping) or "version" not in told:
            reason = "what answers is no Proxmox VE server"
            raise RuntimeUnavailable(reason, kind=KIND, reason=reason)

    @property
    def available_node_names(self) -> tuple[str, ...]:
        """The cluster's nodes, as far as it was reached."""
        return self.nodes.names

    # --- verbs --------------------------------------------------------------------------------------------------------

    async def create(self, spec: FlowSpec, progress: Progress | None = None) -> Observation:
        """With `proxmox.vmid` nothing is made: that container is managed from now on, and left as it is."""
        if spec.proxmox is not None and spec.proxmox.vmid is not None:
            return await self._take_on(spec.proxmox.vmid, spec.proxmox.node)
        known = await self._creator.create(spec, progress)
        self._feed.tell("created", known)
        return known.observation()

    async def start(self, id: str) -> Observation:
        known = await self._inventory.find(id)
        self._inventory.read_soon(known)
        seen, began = await self._starter.start(known)
        if began:
            self._feed.started(known)
            if not seen.running:
                self._feed.ended(known, cause="exit")
        return seen

    async def stop(self, id: str, *, signal: str | None = None, timeout: float = 10.0) -> Observation:
        known = await self._inventory.find(id)
        seen, over = await self._ending.stop(known, signal, timeout)
        if over:
            self._feed.ended(known)
        return seen

    async def kill(self, id: str, signal: str = "SIGKILL") -> Observation:
        known = await self._inventory.find(id)
        seen = await self._ending.kill(known, signal)
        self._feed.ended(known)
        return seen

    async def pause(self, id: str) -> Observation:
        known = await self._inventory.find(id)
        self._need_pause()
        seen = await self._starter.pause(known)
        self._feed.tell("paused", known)
        return seen

    async def unpause(self, id: str) -> Observation:
        known = await self._inventory.find(id)
        self._need_pause()
        seen = await self._starter.unpause(known)
        self._feed.tell("unpaused", known)
        return seen

    async def remove(self, id: str, *, force: bool = False) -> None:
        """Also of a container that others made: whoever only wants to let go of it calls `release`."""
        try:
            known = await self._inventory.find(id)
            await self._ending.remove(known, force=force)
        except ContainerNotFound:
            return
        self._feed.tell("removed", known)

    async def release(self, id: str) -> None:
        """Let go of a container that a client named; it stays as it is."""
        known = self._inventory.known.get(id)
        if known is not None and known.vmid in self._claims.claimed:
            self._claims.forget(known.vmid)
            self._inventory.forget(known)

    # --- reads --------------------------------------------------------------------------------------------------------

    async def inspect(self, id: str) -> Observation:
        """One that was in its node's list a moment ago is not asked again: a start of the manager looks at each of a thousand."""
        known = await self._inventory.find(id)
        if known.acting or not self._inventory.just_listed(known):
            await self._inventory.look(known)
        return known.observation()

    async def logs(self, id: str, *, tail: int = 100, since: datetime | None = None) -> list[LogLine]:
        """The API shows nothing of what a container writes. :raises Unsupported:"""
        await self._inventory.find(id)
        raise self._unsupported("logs")

    async def stats(self, id: str) -> ResourceUsage:
        """Of the last look at all containers; of one that has just been started, its own."""
        known = await self._inventory.find(id)
        if known.state != "running":
            return ResourceUsage()
        if known.row is not None and (found := usage(known.row)).memory_bytes:
            return found
        return usage(await self._inventory.look(known))

    async def glance(self) -> list[Observation]:
        """Costs nothing: what the last look at the whole cluster left."""
        await self._feed.looked()
        return [known.observation() for known in self._inventory.known.values()]

    async def list(self) -> list[Observation]:
        """The whole cluster, the configs of all that may be ours, and the live list of each node that holds one."""
        await self.nodes.begin()
        rows = await self._inventory.read_rows()
        await self._feed.missing([known for known in self._inventory.known.values() if known.vmid not in rows])
        await self._inventory.meet(rows.values(), fresh=True)
        there = [known for known in self._inventory.known.values() if known.vmid in rows]
        for node in sorted({rows[known.vmid].node for known in there}):
            await self._live(node, [known for known in there if rows[known.vmid].node == node])
        return [known.observation() for known in there if not known.removed]

    async def _live(self, node: str, there: Sequence[Known]) -> None:
        try:
            live = await self._inventory.node_rows(node)
        except CallFailed as failed:
            if failed.status == 401:
                raise translate(failed) from None
            return  # that node is away: its containers are as they were last seen
        for known in there:
            known.node = node
            if (row := live.get(known.vmid)) is not None and not known.acting:
                self._inventory.listed(known, row)
            self._feed.seek(known)

    def watch(self) -> AsyncIterator[RuntimeEvent]:
        return self._hub.watch()

    # --- inside -------------------------------------------------------------------------------------------------------

    async def exec(self, id: str, command: Command, *, timeout: float, limit: int) -> ExecOutcome:
        known = await self._inventory.find(id)
        return await self._executor.run(known, command, timeout, limit)

    async def attach(
        self, id: str, command: Command | None, *, main: bool = False, cols: int = 80, rows: int = 24
    ) -> Terminal:
        known = await self._inventory.find(id)
        return await self._terminals.open(known, command, main=main, cols=cols, rows=rows)

    # --- others' containers -------------------------------------------------------------------------------------------

    async def _take_on(self, vmid: int, node: str | None) -> Observation:
        """:raises ContainerNotFound, InvalidRequest, NameConflict, NotAllowed, RuntimeUnavailable:"""
        await self.nodes.begin()
        if node is not None:
            await self.nodes.find(node)
        rows = await self._inventory.read_rows()
        row = rows.get(vmid)
        if row is None:
            raise ContainerNotFound(str(vmid), kind=KIND, reason="the login sees no such LXC container")
        if node is not None and row.node != node:
            reason = f"the container {vmid} is on the node '{row.node}'"
            raise InvalidRequest(f"proxmox.node: {reason}", fields=[{"path": "proxmox.node", "reason": reason}])
        if row.template:
            reason = f"{vmid} is a template: clone it"
            raise InvalidRequest(f"proxmox.vmid: {reason}", fields=[{"path": "proxmox.vmid", "reason": reason}])
        claimed_before = vmid in self._claims.claimed
        self._claims.claim(vmid)
        try:
            await self._inventory.meet([row], fresh=True)
            known = self._inventory.by_vmid(vmid)
            if known is None:
                raise NotAllowed(f"the container {vmid} is another manager's, or can't be read", vmid=vmid)
            if not known.identity.adopted:
                raise NameConflict(
                    f"the container {vmid} is a flow already", kind=KIND, name=str(vmid), container_id=known.flow_id
                )
            await self._inventory.look(known)
        except BaseException:
            if not claimed_before:
                self._claims.forget(vmid)
            raise
        return known.observation()

    def _need_pause(self) -> None:
        if not self.capabilities.pause:
            raise Unsupported(
                f"the runtime '{self.name}' can't pause: its checkpoint is experimental, and `pause` is off",
                kind=KIND,
                capability="pause",
            )
