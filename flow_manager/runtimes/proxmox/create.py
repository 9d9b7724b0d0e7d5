"""Making a container, and leaving nothing of it when that fails at any step or is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any

from flow_manager.contract.proxmox import ProxmoxOptions
from flow_manager.errors import FlowManagerError, ImageNotFound, NameConflict, RuntimeUnavailable
from flow_manager.runtimes.base import FlowSpec, Progress
from flow_manager.runtimes.proxmox import spec as parameters
from flow_manager.runtimes.proxmox.client import KIND, PveClient
from flow_manager.runtimes.proxmox.description import TAG, read_description
from flow_manager.runtimes.proxmox.ending import Ending
from flow_manager.runtimes.proxmox.errors import Subject, translate, translated
from flow_manager.runtimes.proxmox.failure import CallFailed
from flow_manager.runtimes.proxmox.inventory import Inventory
from flow_manager.runtimes.proxmox.known import Known
from flow_manager.runtimes.proxmox.nodes import Nodes
from flow_manager.runtimes.proxmox.orders import CLOCK_SLACK, Orders
from flow_manager.runtimes.proxmox.resources import Row, text, whole
from flow_manager.runtimes.proxmox.sources import Sources
from flow_manager.runtimes.proxmox.tasks import Tasks
from flow_manager.settings.runtime import RuntimeSettings
from flow_manager.util.ids import new_short_id

# Somebody else took the number between the question and the order; more than a few times is no coincidence.
VMID_TRIES = 8
# Whoever gave a create up waits this long for its undoing; after that it goes on without them.
UNDO_SECONDS = 5.0
# A shutdown has eight seconds in all by default.
CLOSE_SECONDS = 2.0


class Creator:
    def __init__(
        self,
        client: PveClient,
        inventory: Inventory,
        nodes: Nodes,
        tasks: Tasks,
        orders: Orders,
        ending: Ending,
        settings: RuntimeSettings,
    ) -> None:
        self._client, self._inventory, self._nodes = client, inventory, nodes
        self._tasks, self._ending, self._settings, self._orders = tasks, ending, settings, orders
        self._sources = Sources(client)
        self._numbering = asyncio.Lock()
        self._names: set[str] = set()
        self._background: set[asyncio.Task[Any]] = set()

    async def create(self, spec: FlowSpec, progress: Progress | None) -> Known:
        """:raises ImageNotFound, NameConflict, NoSpace, Unsupported, InvalidRequest, RuntimeRefused, RuntimeUnavailable:"""
        await self._nodes.begin()
        parameters.check(spec, knows_oci=self._nodes.knows_oci)
        # In a task of its own: an order that was sent is carried out, whether anybody waits for it or not.
        making = self._spawn(self._named(spec, progress or (lambda _text: None)), "create")
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            undoing = self._spawn(self._take_back(making), "undo-create")
            await asyncio.wait([undoing], timeout=UNDO_SECONDS)
            raise

    def _spawn(self, work: Coroutine[Any, Any, Any], what: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name=f"proxmox-{what}")
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def close(self) -> None:
        """Finish what is being made or undone, for a moment."""
        if self._background:
            await asyncio.wait(self._background, timeout=CLOSE_SECONDS)
        for task in self._background:
            task.cancel()

    async def _take_back(self, making: asyncio.Task[Known]) -> None:
        await asyncio.wait([making])
        if making.cancelled() or making.exception() is not None:
            return
        known = making.result()
        try:
            await self._ending.destroy(known.vmid, known.path)
        except FlowManagerError:
            return  # its lines say whose it is: a later look finds it
        self._inventory.gone(known)

    async def _named(self, spec: FlowSpec, progress: Progress) -> Known:
        """Names are not unique on a cluster; those of this instance's own containers are."""
        rows = await self._inventory.read_rows()
        await self._inventory.meet(rows.values())
        taken = {known.config.name for known in self._inventory.known.values() if not known.identity.adopted}
        if spec.container_name in taken | self._names:
            raise NameConflict(f"the name '{spec.container_name}' is taken", kind=KIND, name=spec.container_name)
        self._names.add(spec.container_name)
        try:
            return await self._make(spec, rows, progress)
        finally:
            self._names.discard(spec.container_name)

    async def _make(self, spec: FlowSpec, rows: dict[int, Row], progress: Progress) -> Known:
        options = spec.proxmox or ProxmoxOptions()
        attempt = new_short_id("create")
        if options.clone is not None:
            source = rows.get(options.clone)
            if source is None:
                reason = f"no container {options.clone} that could be cloned"
                raise ImageNotFound(reason, kind=KIND, image=spec.image, reason=reason)
            node = (await self._nodes.choose(options.node, rows))[0] if options.node else source.node
            return await self._clone(spec, options, source, node, attempt)
        nodes = await self._nodes.choose(options.node, rows)
        node, template = await self._sources.find(options.template or spec.image, nodes)
        progress(f"making it of {template} on {node}")

        async def order(vmid: int) -> str:
            made_by = parameters.description(spec, vmid=vmid, attempt=attempt, now=self._inventory.now())
            values = parameters.create_parameters(spec, self._settings, vmid=vmid, template=template, text=made_by)
            return await self._order(f"nodes/{node}/lxc", values, node, vmid, ("vzcreate",))

        return await self._numbered(spec, node, attempt, order, original=None)

    async def _clone(self, spec: FlowSpec, options: ProxmoxOptions, source: Row, node: str, attempt: str) -> Known:
        path = f"nodes/{source.node}/lxc/{source.vmid}"
        with translated(Subject(str(source.vmid))):
            original = await self._client.get(f"{path}/config", current=1)
        # Refused before anything is made.
        parameters.check_cloned(original)
        parameters.cloned_net(text(original.get("net0")), options)
        full = options.full if options.full is not None else not source.template

        async def order(vmid: int) -> str:
            made_by = parameters.description(spec, vmid=vmid, attempt=attempt, now=self._inventory.now())
            target = node if node != source.node else None
            values = parameters.clone_parameters(
                spec, self._settings, vmid=vmid, text=made_by, full=full, target=target
            )
            # The task belongs to the original: it is that one's node, and its number.
            return await self._order(f"{path}/clone", values, source.node, source.vmid, ("vzclone",))

        return await self._numbered(spec, node, attempt, order, original=options)

    # --- the order ----------------------------------------------------------------------------------------------------

    async def _numbered(
        self, spec: FlowSpec, node: str, attempt: str, order: Any, *, original: ProxmoxOptions | None
    ) -> Known:
        """Order it under a free number; a number is only taken once the server has taken it."""
        subject = Subject(spec.id, name=spec.container_name, image=spec.image, operation="create", node=node)
        for last in [False] * (VMID_TRIES - 1) + [True]:
            vmid = await self._free_number()
            try:
                return await self._under(vmid, spec, node, attempt, order, subject, original)
            except NameConflict as conflict:
                if last or "already exists" not in conflict.message:
                    raise
            finally:
                self._inventory.making.discard(vmid)
        raise AssertionError("unreachable")

    async def _under(
        self,
        vmid: int,
        spec: FlowSpec,
        node: str,
        attempt: str,
        order: Any,
        subject: Subject,
        original: ProxmoxOptions | None,
    ) -> Known:
        path = f"nodes/{node}/lxc/{vmid}"
        try:
            upid = await order(vmid)
        except CallFailed as failed:
            if failed.lost:
                await self._undo(vmid, path, attempt)
            raise translate(failed, subject) from None
        try:
            await self._tasks.finish(upid, subject, within=self._orders.timeout)
            return await self._complete(spec, vmid, node, path, original)
        except FlowManagerError as error:
            if (left := await self._undo(vmid, path, attempt)) is not None:
                error.details["left"] = left
            raise
        except BaseException:
            await self._undo(vmid, path, attempt)
            raise

    async def _order(self, path: str, values: dict[str, Any], node: str, about: int, types: tuple[str, ...]) -> str:
        """Once. A lost answer is looked for among the tasks, and given up where there is none: never a create twice."""
        asked = self._client.server_time() - CLOCK_SLACK
        try:
            return str(await self._client.post(path, **values))
        except CallFailed as failed:
            if not failed.lost:
                raise
            # The task of a create carries the new number, which is ours alone; that of a clone the original's.
            found = await self._tasks.since(
                node, about if "newid" in values else int(str(values["vmid"])), types, asked
            )
            if len(found) != 1:
                raise
            return found[0].text

    async def _complete(
        self, spec: FlowSpec, vmid: int, node: str, path: str, original: ProxmoxOptions | None
    ) -> Known:
        """What create and clone can't be given at once: the image's own environment is only known now."""
        with translated(Subject(spec.id, operation="create")):
            config = await self._client.get(f"{path}/config", current=1)
            changes: dict[str, Any] = {}
            if self._nodes.knows_oci:
                changes["env"] = parameters.merged_env(text(config.get("env")), parameters.environment(spec))
                if spec.command is not None:
                    changes["entrypoint"] = parameters.entrypoint(spec.command)
            if original is not None:
                changes |= {"tags": TAG, "net0": parameters.cloned_net(text(config.get("net0")), original)}
                changes |= parameters.limits(spec)
            if text(config.get("cmode")) != parameters.console(spec):
                changes["cmode"] = parameters.console(spec)  # an image's container is given its program's
            if changes:
                await self._orders.patiently(partial(self._write, path, changes, spec.id))
                config = await self._client.get(f"{path}/config", current=1)
        known = self._inventory.take(Row(vmid, node, "stopped", tags=frozenset({TAG})), config)
        known = known or self._inventory.by_vmid(vmid)
        if known is None:
            reason = f"the container {vmid} does not carry the lines that it was made with"
            raise RuntimeUnavailable(reason, kind=KIND, reason=reason)
        return known

    async def _write(self, path: str, changes: dict[str, Any], flow_id: str) -> None:
        with translated(Subject(flow_id, operation="create")):
            await self._client.put(f"{path}/config", **changes)

    async def _undo(self, vmid: int, path: str, attempt: str) -> str | None:
        """Destroy it, if it is the one of this attempt: a number may be somebody else's by now. What is left, in words."""
        task = self._spawn(self._undo_now(vmid, path, attempt), "undo-create")
        await asyncio.wait([task], timeout=UNDO_SECONDS)
        return task.result() if task.done() and not task.cancelled() else None

    async def _undo_now(self, vmid: int, path: str, attempt: str) -> str | None:
        try:
            config = await self._client.get(f"{path}/config", current=1)
            if config.get("lock") == "create" and "description" not in config:
                # Its worker was killed. Nothing in the API clears that lock, and it says of nobody whose it is.
                return f"the container {vmid} is left, locked (create): on its node, `pct unlock {vmid}` and `pct destroy {vmid}`"
            if read_description(text(config.get("description"))).get(parameters.LABEL_ATTEMPT) == attempt:
                await self._ending.destroy(vmid, path)
        except (CallFailed, FlowManagerError):
            return None
        if (known := self._inventory.by_vmid(vmid)) is not None:
            self._inventory.forget(known)
        return None

    async def _free_number(self) -> int:
        """`nextid` reserves nothing, and creates that run at a time are told the same: what was told is kept in mind."""
        async with self._numbering:
            with translated():
                told = whole(await self._client.get("cluster/nextid"))
                vmid = told if told is not None else 100
                while vmid in self._inventory.making or (vmid != told and not await self._is_free(vmid)):
                    vmid += 1
            self._inventory.making.add(vmid)
            return vmid

    async def _is_free(self, vmid: int) -> bool:
        try:
            await self._client.get("cluster/nextid", vmid=vmid)
        except CallFailed as failed:
            if failed.status != 400:
                raise
            return False
        return True
