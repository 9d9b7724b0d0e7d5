"""The containers of this instance and those to be adopted: found in one list of the whole cluster, keyed by the flow's id."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from flow_manager.errors import ContainerNotFound, FlowManagerError, RuntimeUnavailable
from flow_manager.runtimes.proxmox.addresses import of_interfaces
from flow_manager.runtimes.proxmox.claims import Claims
from flow_manager.runtimes.proxmox.client import KIND, PveClient
from flow_manager.runtimes.proxmox.description import TAG, read_description
from flow_manager.runtimes.proxmox.errors import Subject, translate, translated
from flow_manager.runtimes.proxmox.failure import CallFailed
from flow_manager.runtimes.proxmox.identity import Judge
from flow_manager.runtimes.proxmox.known import Known, written
from flow_manager.runtimes.proxmox.nodes import Nodes
from flow_manager.runtimes.proxmox.resources import Row, row, tags_of, text
from flow_manager.util.clock import Clock

# Reads of configs that are under way at the same time; the server has three workers for them.
WIDTH = 4
# A config that was read less than this long ago is not read again by a whole look: at start two follow each other.
FRESH_SECONDS = 30.0
# One that can't be read (a right that is missing for it) is tried again after so long.
RETRY_SECONDS = 60.0
# What was said so short a time ago still holds; the server itself sees an end only some three seconds later.
JUST_SECONDS = 1.5

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PassedOver:
    """One whose config was read and is nothing to us, or could not be read (`readable` False); `away`: for its node's sake."""

    at: float
    tags: frozenset[str]
    readable: bool
    away: bool = False


class Inventory:
    """Finds and reads. What the server says of every container at once is kept in `rows`."""

    def __init__(
        self, client: PveClient, nodes: Nodes, judge: Judge, claims: Claims, clock: Clock, *, emulated: bool = False
    ) -> None:
        self._client = client
        self._nodes = nodes
        self._claims = claims
        self._clock = clock
        self.judge = judge
        self._emulated = emulated
        self.known: dict[str, Known] = {}
        self.rows: dict[int, Row] = {}
        self._by_vmid: dict[int, Known] = {}
        self._passed_over: dict[int, PassedOver] = {}
        self._scanning = asyncio.Lock()
        # Those whose config was found changed: whoever tells of it takes them out.
        self.rewritten: list[Known] = []
        self._due: set[int] = set()
        # Numbers of containers that are being made right now: half of one must not be taken for a whole one.
        self.making: set[int] = set()

    # --- the whole cluster --------------------------------------------------------------------------------------------

    async def read_rows(self) -> dict[int, Row]:
        """All containers that the login may see: one call. :raises FlowManagerError:"""
        with translated():
            data = await self._client.get("cluster/resources", type="vm")
        found = [row(item) for item in data] if isinstance(data, list) else []
        self.rows = {one.vmid: one for one in found if one is not None}
        return self.rows

    async def node_rows(self, node: str) -> dict[int, Row]:
        """What is true now on one node; the cluster's list may be ten seconds old. :raises CallFailed:"""
        data = await self._client.get(f"nodes/{node}/lxc")
        found = [row(item, node=node) for item in data] if isinstance(data, list) else []
        return {one.vmid: one for one in found if one is not None}

    async def meet(
        self, rows: Iterable[Row], *, fresh: bool = False, again: frozenset[int] = frozenset()
    ) -> list[Known]:
        """Read the configs of those that may be ours and are not known yet; `fresh`: of the known ones too; `again`: of these
        numbers in any case. Gives the new ones."""
        async with self._scanning:
            now = self._clock.monotonic()
            wanted = [one for one in rows if one.vmid in again or self._worth_reading(one, now, fresh)]
            width = asyncio.Semaphore(WIDTH)
            # One that does not answer is not asked for each of its hundreds: seconds each.
            away = set(self._nodes.offline)

            async def read(one: Row) -> Known | None:
                async with width:
                    return await self._read(one, away)

            read_ones = await asyncio.gather(*(read(one) for one in wanted), return_exceptions=True)
            for failed in read_ones:
                if isinstance(failed, BaseException):
                    raise failed
            return [found for found in read_ones if isinstance(found, Known)]

    def _worth_reading(self, one: Row, now: float, fresh: bool) -> bool:
        known = self._by_vmid.get(one.vmid)
        if known is not None:
            if not known.identity.adopted:
                return fresh and now - known.read_at > FRESH_SECONDS
            # A tag is seen at once, and who changes one may have changed the notes with it.
            untagged = not self._claims.names(one.vmid) and TAG not in one.tags
            return untagged or known.read_tags != one.tags or (fresh and now - known.read_at > FRESH_SECONDS)
        if one.template or one.vmid in self.making or (TAG not in one.tags and not self._claims.names(one.vmid)):
            return False
        passed = self._passed_over.get(one.vmid)
        if passed is None or fresh:
            return True
        if passed.away and one.status != "unknown":
            return True  # its node is back
        # One that was read and is none of ours stays so until its tags change; another manager's is not read for ever.
        return passed.tags != one.tags or (not passed.readable and now - passed.at > RETRY_SECONDS)

    async def _read(self, one: Row, away: set[str]) -> Known | None:
        """Take in one container; the Known only when it is new. `away`: nodes that did not answer just now.

        :raises FlowManagerError: the server itself can't be used.
        """
        if one.node in away and one.status == "unknown":
            self._passed_over_for_its_node(one)
            return None
        try:
            config = await self._client.get(f"nodes/{one.node}/lxc/{one.vmid}/config", current=1)
        except CallFailed as failed:
            known = self._by_vmid.get(one.vmid)
            if known is not None and failed.status != 401:
                known.read_at, known.read_tags = self._clock.monotonic(), one.tags
                return None  # what is known of it holds; its turn comes again
            if failed.passing and one.status == "unknown":
                # The cluster has no news of it either: that is its node, and must not hold up the others' flows.
                away.add(one.node)
                self._passed_over_for_its_node(one)
                return None
            if failed.passing or failed.status == 401:
                raise translate(failed) from None
            self._passed_over[one.vmid] = PassedOver(self._clock.monotonic(), one.tags, False)
            return None
        return self.take(one, config if isinstance(config, dict) else {})

    def _passed_over_for_its_node(self, one: Row) -> None:
        if one.vmid not in self._by_vmid:
            self._passed_over[one.vmid] = PassedOver(self._clock.monotonic(), one.tags, False, away=True)

    def take(self, one: Row, config: dict[str, Any]) -> Known | None:
        """What its config says of it. None when it is nothing to us, or known already."""
        labels = read_description(text(config.get("description")))
        identity = self.judge.identity(one.vmid, tags_of(config), labels, claimed=self._claims.names(one.vmid))
        known = self._by_vmid.get(one.vmid)
        if identity is None or config.get("template") in (1, "1"):
            self._passed_over[one.vmid] = PassedOver(self._clock.monotonic(), one.tags, True)
            if known is not None:
                known.let_go = True
                self.forget(known)
            return None
        self._passed_over.pop(one.vmid, None)
        new = known is None or known.identity != identity
        if known is None or new:
            if known is not None:
                self.forget(known)
            known = Known(
                one.vmid, one.node, identity, written(config, labels, one.vmid), row=one, emulated=self._emulated
            )
            known.state = "paused" if one.vmid in self._claims.paused else "stopped"
            if one.status == "running":
                known.saw("running", self._clock.now(), self._clock.monotonic(), one.uptime)
            self.known[known.flow_id] = self._by_vmid[one.vmid] = known
        else:
            before, known.config = known.config, written(config, labels, one.vmid)
            if known.config != before:
                self.rewritten.append(known)
        known.read_at, known.read_tags = self._clock.monotonic(), one.tags
        return known if new else None

    def to_read_again(self, *, turn: bool) -> frozenset[int]:
        """Containers of others whose notes may have been edited: those that were started meanwhile, and where it is one's
        `turn`, that which was read the longest ago."""
        due, self._due = self._due, set()
        if turn:
            others = (known for known in self._by_vmid.values() if known.identity.adopted and not known.acting)
            oldest = min(others, key=lambda known: known.read_at, default=None)
            due |= set() if oldest is None else {oldest.vmid}
        return frozenset(due)

    def read_soon(self, known: Known) -> None:
        """Who edits a container's notes tries it out next."""
        if known.identity.adopted:
            self._due.add(known.vmid)

    def forget(self, known: Known) -> None:
        known.removed = True
        if self.known.get(known.flow_id) is known:
            del self.known[known.flow_id]
        if self._by_vmid.get(known.vmid) is known:
            del self._by_vmid[known.vmid]

    def gone(self, known: Known) -> None:
        """It is no more: whoever makes another one under this number means another one."""
        self.forget(known)
        self._claims.forget(known.vmid)

    def by_vmid(self, vmid: int) -> Known | None:
        return self._by_vmid.get(vmid)

    # --- one flow -----------------------------------------------------------------------------------------------------

    async def find(self, flow_id: str) -> Known:
        """:raises ContainerNotFound, RuntimeUnavailable:"""
        known = self.known.get(flow_id)
        if known is None:
            await self.meet((await self.read_rows()).values())
            known = self.known.get(flow_id)
        if known is None:
            raise self._why_not(flow_id)
        if known.away and await self._nodes.is_offline(known.node):
            raise silent(known.node, "is offline")
        return known

    def _why_not(self, flow_id: str) -> FlowManagerError:
        one = next((one for one in self.rows.values() if self.judge.derived(one.vmid) == flow_id), None)
        if one is None:
            # Which flow a container of our own is stands in its notes alone.
            hidden = {row.node for row in self.rows.values() if (it := self._passed_over.get(row.vmid)) and it.away}
            return silent(min(hidden)) if hidden else ContainerNotFound(flow_id, kind=KIND)
        passed = self._passed_over.get(one.vmid)
        if passed is not None and passed.away:
            return silent(one.node)
        if passed is not None and not passed.readable:
            reason = f"the container {one.vmid} can't be read"
            return RuntimeUnavailable(reason, kind=KIND, reason=reason)
        # It is there, and nobody asks (any more) that it be managed.
        return ContainerNotFound(flow_id, kind=KIND, left_alone=True)

    async def at(self, known: Known, act: Callable[[], Awaitable[T]], subject: Subject) -> T:
        """`act`, which uses `known.path`; once more where the container has moved to another node.

        Safe for every verb: a node that does not have the container has not acted upon it.

        :raises RuntimeUnavailable: its node is offline. :raises CallFailed: whatever else went wrong.
        """
        try:
            return await act()
        except CallFailed as failed:
            error = translate(failed, subject)
            unreached = failed.status in (595, 596)
            if not (isinstance(error, ContainerNotFound) or unreached):
                raise
            if await self.relocate(known):
                return await act()
            if unreached and await self._nodes.is_offline(known.node):
                raise silent(known.node, "is offline") from None
            raise

    async def relocate(self, known: Known) -> bool:
        """Where is it now? True when it is elsewhere than was thought. :raises ContainerNotFound: nowhere."""
        there = (await self.read_rows()).get(known.vmid)
        if there is None:
            self.gone(known)
            raise ContainerNotFound(known.flow_id, kind=KIND)
        moved, known.node = there.node != known.node, there.node
        return moved

    async def current(self, known: Known) -> Row:
        """What it does now, asked of itself. :raises FlowManagerError:"""
        subject = Subject(known.flow_id)

        async def ask() -> Any:
            return await self._client.get(f"{known.path}/status/current")

        with translated(subject):
            data = await self.at(known, ask, subject)
        found = row({**data, "vmid": known.vmid}, node=known.node) if isinstance(data, dict) else None
        if found is None:
            raise ContainerNotFound(known.flow_id, kind=KIND)
        return found

    async def look(self, known: Known) -> Row:
        """As `current`, taken in."""
        turns, acting = known.turns, known.acting
        found = await self.current(known)
        if known.turns == turns and (known.acting == acting):
            self.saw(known, found)
        await self.see_addresses(known)
        return found

    def listed(self, known: Known, found: Row) -> None:
        """As `saw`, of one in its node's own list."""
        self.saw(known, found)
        known.listed_at = self._clock.monotonic()

    def saw(self, known: Known, found: Row) -> None:
        known.row = found
        now, at = self._clock.now(), self._clock.monotonic()
        if found.status == "running":
            self._claims.set_paused(known.vmid, False)
            known.saw("running", now, at, found.uptime)
        elif found.status == "stopped":
            known.saw("paused" if known.vmid in self._claims.paused else "stopped", now, at)

    def just_listed(self, known: Known) -> bool:
        return self._clock.monotonic() - known.listed_at < JUST_SECONDS

    def now(self) -> datetime:
        return self._clock.now()

    def monotonic(self) -> float:
        return self._clock.monotonic()

    async def see_addresses(self, known: Known) -> bool:
        """Ask for them until they are all there; True when there are new ones. Whatever fails here fails nothing else."""
        if known.state != "running" or known.located:
            return False
        try:
            data = await self._client.get(f"{known.path}/interfaces", within=5.0)
        except (CallFailed, FlowManagerError):
            return False
        found, before = of_interfaces(data), known.addresses
        if known.state == "running" and found:
            known.addresses = found
        return known.addresses != before


def silent(node: str, what: str = "does not answer") -> RuntimeUnavailable:
    reason = f"its node '{node}' {what}"
    return RuntimeUnavailable(reason, kind=KIND, reason=reason)
