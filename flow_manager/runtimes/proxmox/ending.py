"""Stopping and killing, and removing.

A shutdown holds the container's lock in the server for its whole time, and twice over: so its time is ours to count, and
what comes after it overrules it.
"""

from __future__ import annotations

import asyncio
import math

from flow_manager.errors import (
    Conflict,
    ContainerRunning,
    ContainerStopped,
    FlowManagerError,
    RuntimeRefused,
    StopFailed,
    Unsupported,
)
from flow_manager.runtimes.base import Observation
from flow_manager.runtimes.proxmox.claims import Claims
from flow_manager.runtimes.proxmox.client import KIND, PveClient
from flow_manager.runtimes.proxmox.errors import Subject, translate
from flow_manager.runtimes.proxmox.failure import CallFailed
from flow_manager.runtimes.proxmox.inventory import Inventory
from flow_manager.runtimes.proxmox.known import Known
from flow_manager.runtimes.proxmox.orders import SETTLE_SECONDS, Orders
from flow_manager.runtimes.proxmox.tasks import Tasks, succeeded
from flow_manager.runtimes.proxmox.upid import parse_upid
from flow_manager.runtimes.signals import signal_number

KILL = "KILL"
# What a shutdown sends is the container's own affair (PWR for a system's init, the image's own signal otherwise): no other
# can be asked for.
POLITE = frozenset({"TERM", "PWR"})
# A high availability manager looks every ten seconds.
HA_SECONDS = 30.0


def short(signal: str | None) -> str | None:
    return signal.upper().removeprefix("SIG") if signal else None


def check_signal(signal: str | None) -> None:
    """:raises InvalidRequest: no signal. :raises Unsupported: it can't be sent from outside."""
    if signal is not None and signal_number(signal) and short(signal) not in {KILL, *POLITE}:
        raise Unsupported(f"Proxmox VE can't send {signal} to a container", kind=KIND, capability="signals")


class Ending:
    def __init__(self, client: PveClient, inventory: Inventory, orders: Orders, tasks: Tasks, claims: Claims) -> None:
        self._client, self._inventory, self._orders = client, inventory, orders
        self._tasks, self._claims = tasks, claims
        # False once this server has refused the parameter: it came with 8.2, and what a server is can't be told for certain.
        self._can_overrule = True

    async def stop(self, known: Known, signal: str | None, grace: float) -> tuple[Observation, bool]:
        """Its observation, and whether this ended a run.

        :raises ContainerNotFound, StopFailed, Unsupported, Conflict, RuntimeUnavailable:
        """
        chosen = signal or known.stop_signal
        check_signal(chosen)
        async with self._orders.turn(known, "stop"):
            await self._orders.settle(known, Subject(known.flow_id, operation="stop"), overruling=True)
            if (await self._inventory.look(known)).status != "running":
                if known.state == "paused":
                    # What a checkpoint wrote is let go of: the next start is a fresh one.
                    self._claims.set_paused(known.vmid, False)
                    known.state = "stopped"
                    return known.observation(), True
                return known.observation(), False
            if grace <= 0 or short(chosen) == KILL or not await self._polite(known, grace):
                await self._kill_now(known)
            await self._see_it_end(known)
            return known.observation(), True

    async def _polite(self, known: Known, grace: float) -> bool:
        """Ask it to end; False when it has not after `grace` seconds (or can't be asked)."""
        subject = Subject(known.flow_id, operation="stop")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        known.ending.set()
        try:
            upid = await self._orders.patiently(
                lambda: self._ask(known, subject, grace), known=known, within=min(grace, 30.0)
            )
            if upid is None:
                return True
            status = await self._tasks.ended(parse_upid(upid), subject, within=max(0.0, deadline - loop.time()))
            if status is None:
                return False
            known.left = None
            if not succeeded(status):
                return (await self._inventory.current(known)).status == "stopped"
            ha = known.row is not None and known.row.ha
            left = max(0.0, deadline - loop.time())
            return await self._orders.reached(known, "stopped", within=left + HA_SECONDS if ha else SETTLE_SECONDS)
        except Conflict:
            return False
        finally:
            known.ending.clear()

    async def _ask(self, known: Known, subject: Subject, grace: float) -> str | None:
        try:
            return await self._orders.order(known, "shutdown", subject, "stopped", timeout=math.ceil(grace))
        except CallFailed as failed:
            raise translate(failed, subject) from None

    async def kill(self, known: Known, signal: str) -> Observation:
        """Doesn't wait for a stop that is under way: it overrules it.

        :raises ContainerNotFound, ContainerStopped, StopFailed, Unsupported, RuntimeUnavailable:
        """
        if short(signal) != KILL and signal_number(signal):
            raise Unsupported(f"Proxmox VE can't send {signal} to a container", kind=KIND, capability="signals")
        if known.ending.is_set():
            known.acting += 1
            try:
                await self._kill_now(known)
                await self._see_it_end(known)
            finally:
                known.acting -= 1
                known.turns += 1
            return known.observation()
        async with self._orders.turn(known, "kill"):
            await self._orders.settle(known, Subject(known.flow_id, operation="kill"), overruling=True)
            if (await self._inventory.look(known)).status != "running":
                raise ContainerStopped(f"flow '{known.flow_id}' does not run", state=known.state)
            await self._kill_now(known)
            await self._see_it_end(known)
            return known.observation()

    async def _kill_now(self, known: Known) -> None:
        subject = Subject(known.flow_id, operation="kill")
        # A shutdown that nobody here remembers (ordered before a restart of the manager, or by a person) shows by its lock.
        overruling = known.shutting_down

        async def end() -> None:
            nonlocal overruling
            overrule = 1 if overruling and self._can_overrule else None
            try:
                await self._orders.done(known, "stop", subject, "stopped", **{"overrule-shutdown": overrule})
            except Conflict:
                overruling = True
                raise
            except (RuntimeRefused, StopFailed) as error:
                if overrule is None or "overrule-shutdown" not in error.message:
                    raise
                # A server before 8.2: its shutdown is waited for.
                self._can_overrule = False
                raise Conflict("a shutdown of it is under way", operation="shutdown") from None

        await self._orders.patiently(end, known=known)

    async def _see_it_end(self, known: Known) -> None:
        ha = known.row is not None and known.row.ha
        if not await self._orders.reached(
            known, "stopped", within=HA_SECONDS + SETTLE_SECONDS if ha else SETTLE_SECONDS
        ):
            raise StopFailed(f"flow '{known.flow_id}' still runs", container_id=known.flow_id, reason="it still runs")

    async def remove(self, known: Known, *, force: bool) -> None:
        """:raises ContainerRunning, RuntimeRefused, Conflict, RuntimeUnavailable:"""
        if force and known.ending.is_set():
            await self.kill(known, KILL)
        async with self._orders.turn(known, "delete"):
            if known.removed:
                return
            await self._orders.settle(known, Subject(known.flow_id, operation="delete"), overruling=force)
            runs = (await self._inventory.look(known)).status == "running" or known.state == "paused"
            if runs and not force:
                raise ContainerRunning(f"flow '{known.flow_id}' runs", state=known.state)
            try:
                # First as it is: one that is protected, or that the login may not remove, must not be killed for nothing.
                await self._orders.patiently(lambda: self._destroy(known.vmid, known.path, known.flow_id), known=known)
            except ContainerRunning:
                if not force:
                    raise
                await self._kill_now(known)
                await self._see_it_end(known)
                await self._orders.patiently(lambda: self._destroy(known.vmid, known.path, known.flow_id), known=known)
            self._inventory.gone(known)

    async def destroy(self, vmid: int, path: str) -> None:
        """Of a create that came to nothing."""
        await self._orders.patiently(lambda: self._destroy(vmid, path, str(vmid)))

    async def _destroy(self, vmid: int, path: str, flow_id: str) -> None:
        """Removing twice is harmless, so a lost answer is simply looked after: is it gone?"""
        subject = Subject(flow_id, operation="delete")
        for last in (False, True):
            try:
                upid = await self._client.delete(path, purge=1)
                await self._tasks.finish(upid, subject, within=self._orders.timeout)
            except CallFailed as failed:
                if vmid not in await self._inventory.read_rows():
                    return
                if last or not failed.lost:
                    raise translate(failed, subject) from None
            except FlowManagerError:
                if vmid not in await self._inventory.read_rows():
                    return
                raise
            else:
                return
