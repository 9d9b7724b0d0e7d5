"""Following all containers by one call for the whole cluster, again and again; what it tells late is asked for where it matters.

The server has no events. `/cluster/resources` knows at once which containers there are, on which node, with which tags; what
they do it knows up to ten seconds late, and says `unknown` where it has no news. So a difference is only taken for true
after the container itself (`status/current`), or its node's list where several differ, has said the same.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from functools import partial

from flow_manager.errors import ContainerNotFound, FlowManagerError, RuntimeRefused, RuntimeUnavailable
from flow_manager.runtimes.base import RuntimeEvent, RuntimeEventType
from flow_manager.runtimes.hub import EventHub
from flow_manager.runtimes.proxmox.absent import Absent
from flow_manager.runtimes.proxmox.client import KIND
from flow_manager.runtimes.proxmox.errors import translate
from flow_manager.runtimes.proxmox.failure import CallFailed
from flow_manager.runtimes.proxmox.inventory import Inventory
from flow_manager.runtimes.proxmox.known import Known
from flow_manager.runtimes.proxmox.nodes import Nodes
from flow_manager.runtimes.proxmox.resources import Row
from flow_manager.runtimes.proxmox.tasks import Tasks
from flow_manager.util.backoff import exponential

# Up to so many differences on a node are asked for one by one; beyond, its whole list is cheaper.
ONE_BY_ONE = 3
# Who ended it is looked for among the tasks of the last so many seconds: the list is ten seconds late, and asked every five.
ENDED_WITHIN = 40.0
# Not a reboot, a move or a backup: those bring it back.
_BY_HAND = ("vzstop", "vzshutdown", "vzsuspend", "hastop")
# DHCP takes some seconds, a slow boot a minute; after that it has no address.
ADDRESS_FIRST, ADDRESS_LONGEST, ADDRESS_SECONDS = 0.5, 5.0, 90.0
# Each costs its node a fork.
HUNTERS = 4
FIRST_WAIT, LONGEST_WAIT = 0.5, 15.0
# Nothing tells that notes were edited: at each third look (15 s) those that were read the longest ago are read again, one
# container's, so that a thousand at rest cost no more than 20 calls a minute. A tag that changes is seen at the next look.
READ_EVERY = 3


class Feed:
    """One task for all watchers. `up` says whether the server answered when it was last asked; `reason` why not."""

    def __init__(self, inventory: Inventory, nodes: Nodes, tasks: Tasks, hub: EventHub, *, interval: float) -> None:
        self._inventory, self._nodes, self._tasks, self._hub = inventory, nodes, tasks, hub
        self._absent = Absent(inventory, nodes, hub)
        self._interval = interval
        self._looks = 0
        self._task: asyncio.Task[None] | None = None
        self._hunting: dict[str, asyncio.Task[None]] = {}
        self._hunts: set[asyncio.Task[None]] = set()  # those that are about to end, too
        self._hunters = asyncio.Semaphore(HUNTERS)
        self.up = False
        self.reason: str | None = None
        self._looked = asyncio.Event()

    def open(self) -> None:
        self._task = asyncio.create_task(self._run(), name="proxmox-feed")

    async def close(self) -> None:
        tasks = [task for task in (self._task, *self._hunts) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def looked(self) -> None:
        """Wait for the first look. :raises RuntimeUnavailable: the last one failed."""
        await self._looked.wait()
        if not self.up:
            reason = self.reason or "no answer"
            raise RuntimeUnavailable(f"the Proxmox VE server can't be used: {reason}", kind=KIND, reason=reason)

    async def _run(self) -> None:
        waits = exponential(min(FIRST_WAIT, self._interval), maximum=LONGEST_WAIT)
        while True:
            try:
                await self._nodes.begin()
                await self.look()
            except (FlowManagerError, CallFailed) as exc:
                error = translate(exc) if isinstance(exc, CallFailed) else exc
                self._lost(str(error.details.get("reason") or error.message))
                await asyncio.sleep(next(waits))
            except Exception as exc:
                # One odd answer must never end the following of a whole cluster.
                self._lost(f"its answer was not understood ({type(exc).__name__})")
                await asyncio.sleep(next(waits))
            else:
                self._found()
                waits = exponential(min(FIRST_WAIT, self._interval), maximum=LONGEST_WAIT)
                await asyncio.sleep(self._interval)

    def _lost(self, reason: str) -> None:
        first, was_up = not self._looked.is_set(), self.up
        self.up, self.reason = False, reason
        self._looked.set()
        if was_up or first:
            self._hub.publish(RuntimeEvent("unavailable", reason=reason, at=self._inventory.now()))

    def _found(self) -> None:
        was_down = self._looked.is_set() and not self.up
        self.up, self.reason = True, None
        self._looked.set()
        if was_down:
            self._hub.publish(RuntimeEvent("available", at=self._inventory.now()))
            self._hub.publish(RuntimeEvent("resync", reason="the server answers again", at=self._inventory.now()))

    # --- one look -----------------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """:raises FlowManagerError, CallFailed:"""
        inventory = self._inventory
        before = dict(inventory.known)
        rows = await inventory.read_rows()
        await self.missing([known for known in before.values() if known.vmid not in rows])
        self._looks += 1
        again = inventory.to_read_again(turn=self._looks % READ_EVERY == 0)
        for known in await inventory.meet(rows.values(), again=again):
            if known.flow_id not in before and not known.acting:
                self.tell("created", known)
                if known.state == "running":
                    self.started(known)
        self._tell_of_edits()
        for flow_id, known in before.items():
            if known.let_go and flow_id not in inventory.known:
                self.tell("removed", known)
        doubted = [known for known in inventory.known.values() if self._differs(known, rows.get(known.vmid))]
        await self._absent.see(rows)
        if doubted := [known for known in doubted if not known.away]:
            await self._verify(doubted)

    def _tell_of_edits(self) -> None:
        """What stands in a container's notes, or its name, is another: whoever hears it looks again."""
        rewritten, self._inventory.rewritten = self._inventory.rewritten, []
        for known in dict.fromkeys(rewritten):
            if not known.removed:
                self.tell("health", known)

    def _differs(self, known: Known, row: Row | None) -> bool:
        if row is None or known.acting:
            return False
        known.node = row.node
        if row.status == "unknown":
            return False
        if (
            row.status == known.state == "running"
            and row.uptime is not None
            and not known.another_run(self._inventory.monotonic(), row.uptime)
        ):
            known.row = row
            return False
        if row.status == "running" and known.state == "running" and row.uptime is None:
            return False
        known.row = row
        return not (row.status == "stopped" and known.state in ("stopped", "paused"))

    async def _verify(self, doubted: Iterable[Known]) -> None:
        by_node: dict[str, list[Known]] = defaultdict(list)
        for known in doubted:
            by_node[known.node].append(known)
        for node, group in by_node.items():
            turns = {known.vmid: known.turns for known in group}
            found: dict[int, Row] = {}
            try:
                if len(group) > ONE_BY_ONE:
                    found = await self._inventory.node_rows(node)
                else:
                    for known in group:
                        found[known.vmid] = await self._inventory.current(known)
            except (CallFailed, FlowManagerError):
                continue  # that node, or that container, can't be asked now: the next look tries again
            for known in group:
                # What one of our own actions changed meanwhile, it has told itself.
                if known.vmid in found and not known.acting and known.turns == turns[known.vmid] and not known.removed:
                    await self._take_in(known, found[known.vmid])

    async def _take_in(self, known: Known, row: Row) -> None:
        ran, since = known.state == "running", known.started_at
        self._inventory.saw(known, row)
        if known.state == "running" and not ran:
            self.started(known)
        elif known.state == "running" and known.started_at != since:
            self.tell("died", known, cause=None)
            self.started(known)
        elif ran and known.state != "running":
            self.ended(known, cause=await self._cause(known))

    async def _cause(self, known: Known) -> str | None:
        """`stop` where a task says that somebody ended it; `exit` where none does and the login may see others' tasks."""
        try:
            since = self._tasks.server_time() - ENDED_WITHIN
            found = await self._tasks.since(known.node, known.vmid, _BY_HAND, since)
        except (CallFailed, FlowManagerError):
            return None
        return "stop" if any(task.text not in known.own_tasks for task in found) else "exit"

    async def missing(self, gone: list[Known]) -> None:
        """Gone from the list: removed, or the right to see it was. That must not pass for a removal of everything.

        :raises RuntimeUnavailable: nothing can be seen any more.
        """
        for known in gone:
            if known.acting or known.removed:
                continue
            try:
                await self._inventory.current(known)
            except ContainerNotFound:
                self._inventory.gone(known)
                self.tell("removed", known)
            except RuntimeRefused as refused:
                if len(gone) == len(self._inventory.known) and len(gone) > 0:
                    reason = f"{refused.message}: no container can be seen any more"
                    raise RuntimeUnavailable(reason, kind=KIND, reason=reason) from None
                # A server that destroys a container forgets the rights on it, too.
                self._inventory.gone(known)
                self.tell("removed", known)

    # --- telling ------------------------------------------------------------------------------------------------------

    def tell(
        self, type: RuntimeEventType, known: Known, *, cause: str | None = None, at: datetime | None = None
    ) -> None:
        self._hub.publish(RuntimeEvent(type, known.flow_id, cause=cause, at=at or self._inventory.now()))

    def started(self, known: Known) -> None:
        self.tell("started", known)
        self.seek(known)

    def seek(self, known: Known) -> None:
        """Find out where it is reached, in the background."""
        if known.state == "running" and not known.located and known.flow_id not in self._hunting:
            task = asyncio.create_task(self._hunt(known), name=f"proxmox-address-{known.vmid}")
            self._hunting[known.flow_id] = task
            self._hunts.add(task)
            task.add_done_callback(partial(self._hunted, known.flow_id))

    def ended(self, known: Known, *, cause: str | None = None) -> None:
        # Forgotten at once: a restart that one look shows as an end and a start needs another one.
        if (hunt := self._hunting.pop(known.flow_id, None)) is not None:
            hunt.cancel()
        self.tell("died", known, cause=cause)

    def _hunted(self, flow_id: str, hunt: asyncio.Task[None]) -> None:
        self._hunts.discard(hunt)
        if self._hunting.get(flow_id) is hunt:
            del self._hunting[flow_id]

    async def _hunt(self, known: Known) -> None:
        """An address by DHCP comes some seconds after the start: whoever waits for it is told to look again."""
        deadline = asyncio.get_running_loop().time() + ADDRESS_SECONDS
        waits = exponential(ADDRESS_FIRST, maximum=ADDRESS_LONGEST)
        told = known.addresses
        while known.state == "running" and not known.removed and asyncio.get_running_loop().time() < deadline:
            async with self._hunters:
                await self._inventory.see_addresses(known)
            if known.addresses != told:
                self.tell("health", known)
                told = known.addresses
            if known.located:
                return
            await asyncio.sleep(next(waits))
