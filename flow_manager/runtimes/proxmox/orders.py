"""Giving the server an order, once: what became of one whose answer was lost is looked up before it is given again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal, TypeVar

from flow_manager.errors import (
    Conflict,
    ContainerRunning,
    ContainerStopped,
    FlowManagerError,
    OperationTimeout,
    RuntimeUnavailable,
)
from flow_manager.runtimes.base import RuntimeEvent, RuntimeEventType
from flow_manager.runtimes.hub import EventHub
from flow_manager.runtimes.proxmox.client import PveClient
from flow_manager.runtimes.proxmox.errors import Subject, translate
from flow_manager.runtimes.proxmox.failure import CallFailed
from flow_manager.runtimes.proxmox.inventory import Inventory
from flow_manager.runtimes.proxmox.known import Known
from flow_manager.runtimes.proxmox.resources import Status
from flow_manager.runtimes.proxmox.tasks import Tasks
from flow_manager.runtimes.proxmox.upid import parse_upid
from flow_manager.util.backoff import exponential

TRIES = 3
# The server's clock and ours are compared by its Date header, in whole seconds.
CLOCK_SLACK = 2.0
# A backup of a whole disk holds its lock for minutes, a snapshot or an action for seconds: those are worth waiting for. The
# server itself waits ten seconds for an action of somebody else's, and then fails the task.
LOCK_SECONDS = 60.0
FIRST_LOOK, LONGEST_LOOK = 0.05, 1.0
# After a stop's task is done the container is still "running" for some three seconds; more is needed on a busy node.
SETTLE_SECONDS = 20.0
T = TypeVar("T")
_START_TYPES = ("vzstart", "hastart", "vzresume")
_STOP_TYPES = ("vzstop", "vzshutdown", "hastop", "vzsuspend")


class Orders:
    """Actions on one container, one at a time for each."""

    def __init__(self, client: PveClient, inventory: Inventory, tasks: Tasks, hub: EventHub, *, timeout: float) -> None:
        self._client, self._inventory, self._tasks, self._hub = client, inventory, tasks, hub
        self.timeout = timeout
        self.lock_seconds = LOCK_SECONDS

    @asynccontextmanager
    async def turn(self, known: Known, operation: str) -> AsyncIterator[None]:
        """This container is ours alone meanwhile. :raises Conflict: another action did not end in time."""
        known.acting += 1
        try:
            try:
                async with asyncio.timeout(self.timeout):
                    await known.lock.acquire()
            except TimeoutError:
                raise Conflict("another operation on this container does not end", operation=operation) from None
            try:
                yield
            finally:
                known.lock.release()
        finally:
            known.acting -= 1
            known.turns += 1

    async def order(self, known: Known, action: str, subject: Subject, goal: Status, **params: Any) -> str | None:
        """`POST …/status/<action>`; the task's id, None when it is as wanted already.

        :raises CallFailed: what the server answered, or that it did not.
        """
        # In a task of its own: a caller that gives up does not call back what was sent.
        ordering = asyncio.create_task(self._order(known, action, subject, goal, params), name=f"proxmox-{action}")
        known.ordering = ordering
        ordering.add_done_callback(partial(_remember, known, action))
        return await asyncio.shield(ordering)

    async def settle(self, known: Known, subject: Subject, *, overruling: bool = False) -> None:
        """Wait for what an earlier caller began and gave up: what is seen meanwhile is about to change. `overruling`: not for
        a shutdown, which a stop can put an end to."""
        if known.ordering is not None:
            await asyncio.wait([known.ordering])
        if known.left is None or (overruling and known.shutting_down):
            return
        action, upid = known.left
        await self._tasks.ended(parse_upid(upid), subject, within=self.timeout)
        known.left = None
        if action == "shutdown":
            await self.reached(known, "stopped", within=SETTLE_SECONDS / 4)

    async def _order(
        self, known: Known, action: str, subject: Subject, goal: Status, params: dict[str, Any]
    ) -> str | None:
        types = _START_TYPES if goal == "running" else _STOP_TYPES
        waits = exponential(0.2, maximum=2.0)
        for attempt in range(1, TRIES + 1):
            asked = self._client.server_time() - CLOCK_SLACK
            try:
                upid = await self._inventory.at(
                    known, lambda: self._client.post(f"{known.path}/status/{action}", **params), subject
                )
            except CallFailed as failed:
                if isinstance(translate(failed, subject), ContainerStopped | ContainerRunning) or "already running" in (
                    failed.words
                ):
                    return None  # it is so already
                if not failed.passing or attempt == TRIES:
                    raise
                if failed.lost:
                    done = await self._what_became_of_it(known, types, asked, goal)
                    if done is not False:
                        if done is not None:
                            known.own_tasks.append(done)
                        return done
                await asyncio.sleep(next(waits))
            else:
                known.own_tasks.append(str(upid))
                return str(upid)
        raise AssertionError("unreachable")

    async def _what_became_of_it(
        self, known: Known, types: tuple[str, ...], asked: float, goal: Status
    ) -> str | Literal[False] | None:
        """The id of the task that the lost order began, None when all is as wanted, False when it never arrived."""
        found = await self._tasks.since(known.node, known.vmid, types, asked)
        if found:
            return found[0].text
        return None if (await self._inventory.current(known)).status == goal else False

    async def done(self, known: Known, action: str, subject: Subject, goal: Status, **params: Any) -> None:
        """Give the order and follow it until its task is done. :raises FlowManagerError:"""
        try:
            upid = await self.order(known, action, subject, goal, **params)
        except CallFailed as failed:
            raise translate(failed, subject) from None
        if upid is not None:
            try:
                await self._tasks.finish(upid, subject, within=self.timeout)
            except (OperationTimeout, RuntimeUnavailable):
                raise  # nobody knows how it ended
            except FlowManagerError:
                known.left = None
                raise
            known.left = None

    async def patiently(
        self, act: Callable[[], Awaitable[T]], *, known: Known | None = None, within: float | None = None
    ) -> T:
        """`act` again while the container is locked (a backup, an action of somebody else's); of a `known` one it is told that
        it waits, and for what, unless the second try succeeds. :raises Conflict: named."""
        loop = asyncio.get_running_loop()
        patience = self.lock_seconds if within is None else within
        deadline = loop.time() + patience
        waits = exponential(0.3, maximum=3.0)
        held_by: str | None = None
        told: str | None = None
        try:
            while True:
                try:
                    return await act()
                except Conflict as locked:
                    if loop.time() >= deadline:
                        raise
                    before, held_by = held_by, str(locked.details.get("operation") or locked.message)
                    if known is not None and before is not None and held_by != told:
                        told = held_by
                        self._tell("waiting", known, told)
                await asyncio.sleep(next(waits))
        finally:
            if known is not None and told is not None:
                self._tell("waited", known, told)

    def _tell(self, type: RuntimeEventType, known: Known, lock: str) -> None:
        reason = f"its container's lock ({lock})"
        self._hub.publish(RuntimeEvent(type, known.flow_id, reason=reason, at=self._inventory.now()))

    async def reached(self, known: Known, goal: Status, *, within: float) -> bool:
        """Wait until it is so; what the tasks say is not always what is."""
        loop = asyncio.get_running_loop()
        deadline, wait = loop.time() + within, FIRST_LOOK
        while True:
            found = await self._inventory.current(known)
            if found.status == goal:
                self._inventory.saw(known, found)
                return True
            if loop.time() >= deadline:
                self._inventory.saw(known, found)
                return False
            await asyncio.sleep(wait)
            wait = min(wait * 1.6, LONGEST_LOOK)

    def late(self, known: Known, operation: str, waited_for: str) -> OperationTimeout:
        return OperationTimeout(
            f"the container {known.vmid} is not {waited_for} after {self.timeout:g} s",
            operation=operation,
            waited_for=waited_for,
            timeout=self.timeout,
        )


def _remember(known: Known, action: str, done: asyncio.Task[str | None]) -> None:
    if known.ordering is done:
        known.ordering = None
    if not done.cancelled() and done.exception() is None and (upid := done.result()) is not None:
        known.left = (action, upid)
