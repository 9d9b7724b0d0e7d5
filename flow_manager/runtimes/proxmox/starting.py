"""Starting, and the experimental pause."""

from __future__ import annotations

from flow_manager.errors import ContainerStopped, StartFailed
from flow_manager.runtimes.base import Observation
from flow_manager.runtimes.proxmox.claims import Claims
from flow_manager.runtimes.proxmox.errors import Subject
from flow_manager.runtimes.proxmox.inventory import Inventory
from flow_manager.runtimes.proxmox.known import Known
from flow_manager.runtimes.proxmox.orders import SETTLE_SECONDS, Orders
from flow_manager.runtimes.proxmox.tasks import Tasks


class Starter:
    def __init__(self, inventory: Inventory, orders: Orders, tasks: Tasks, claims: Claims) -> None:
        self._inventory, self._orders, self._tasks, self._claims = inventory, orders, tasks, claims

    async def start(self, known: Known) -> tuple[Observation, bool]:
        """Its observation, and whether this began a run. One that runs is left as it is.

        :raises ContainerNotFound, StartFailed, Conflict, OperationTimeout, RuntimeUnavailable:
        """
        subject = Subject(known.flow_id, operation="start")
        async with self._orders.turn(known, "start"):
            await self._orders.settle(known, subject)
            if (await self._inventory.look(known)).status == "running":
                return known.observation(), False
            action = "resume" if known.state == "paused" else "start"
            known.problem = None
            try:
                await self._orders.patiently(lambda: self._orders.done(known, action, subject, "running"), known=known)
            except StartFailed as failed:
                known.problem = failed.message
                await self._inventory.look(known)
                raise
            await self._running(known)
            return known.observation(), True

    async def _running(self, known: Known) -> None:
        """After the task: `OK` is a running init, except under the high availability manager, where it is a filed request."""
        found = await self._inventory.current(known)
        if found.ha and found.status != "running":
            if not await self._orders.reached(known, "running", within=self._orders.timeout):
                raise self._orders.late(known, "start", "running")
        else:
            # A program that ends at once did run: its run is told, and then its end.
            known.saw("running", self._inventory.now(), self._inventory.monotonic())
            self._claims.set_paused(known.vmid, False)
            self._inventory.saw(known, found)
        await self._inventory.see_addresses(known)

    async def pause(self, known: Known) -> Observation:
        """Checkpoint it (CRIU): its processes are written to disk and end. It counts as paused until it runs again."""
        subject = Subject(known.flow_id, operation="pause")
        async with self._orders.turn(known, "pause"):
            if (await self._inventory.look(known)).status != "running":
                if known.state == "paused":
                    return known.observation()
                raise ContainerStopped(f"flow '{known.flow_id}' does not run", state=known.state)
            await self._orders.patiently(lambda: self._orders.done(known, "suspend", subject, "stopped"), known=known)
            self._claims.set_paused(known.vmid, True)
            if not await self._orders.reached(known, "stopped", within=SETTLE_SECONDS):
                self._claims.set_paused(known.vmid, False)
                raise self._orders.late(known, "pause", "paused")
            return known.observation()

    async def unpause(self, known: Known) -> Observation:
        if (await self._inventory.look(known)).status != "running" and known.state != "paused":
            raise ContainerStopped(f"flow '{known.flow_id}' does not run", state=known.state)
        return (await self.start(known))[0]
