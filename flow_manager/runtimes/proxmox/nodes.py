"""The nodes of a cluster: which there are, and on which a new container is made."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from flow_manager.errors import InvalidRequest, RuntimeUnavailable
from flow_manager.runtimes.proxmox.client import KIND, PveClient
from flow_manager.runtimes.proxmox.errors import translated
from flow_manager.runtimes.proxmox.failure import CallFailed
from flow_manager.runtimes.proxmox.resources import Row, text, whole

# The first release that knows OCI images, and `env` and `entrypoint` of a container.
OCI_SINCE = (9, 1)
# What the cluster said of its nodes so short a time ago still holds.
JUST_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Node:
    """`free` is memory in bytes, None where the login may not see it. `seen`: the server has news of it."""

    name: str
    online: bool
    seen: bool = True
    free: int | None = None


class Nodes:
    """`allowed`: those of the settings; none: all."""

    def __init__(self, client: PveClient, allowed: tuple[str, ...]) -> None:
        self._client = client
        self._allowed = allowed
        self._asking = asyncio.Lock()
        self.version: tuple[int, ...] = ()
        self.release = ""
        self.cluster_name: str | None = None
        self.names: tuple[str, ...] = ()
        # Of the last look, which was at this moment of the loop's clock.
        self.offline: frozenset[str] = frozenset()
        self._looked_at = float("-inf")
        self._looking = asyncio.Lock()

    async def look(self) -> list[Node]:
        """:raises FlowManagerError:"""
        with translated():
            data = await self._client.get("nodes")
        found = [
            Node(
                name=text(item.get("node")),
                # `unknown`, as after a boot, is no news: whether it answers shows when it is asked.
                online=item.get("status") != "offline",
                seen=item.get("status") == "online",
                free=_free(item),
            )
            for item in (data if isinstance(data, list) else [])
            if isinstance(item, Mapping) and text(item.get("node"))
        ]
        self.names = tuple(sorted(node.name for node in found))
        self.offline = frozenset(node.name for node in found if not node.online)
        self._looked_at = asyncio.get_running_loop().time()
        return found

    async def is_offline(self, name: str) -> bool:
        """As of a moment ago: of hundreds that ask at once, one call is made. :raises FlowManagerError:"""
        async with self._looking:
            if asyncio.get_running_loop().time() - self._looked_at > JUST_SECONDS:
                await self.look()
            return name in self.offline

    async def begin(self) -> None:
        """Version, nodes, and the cluster's name where the login may see it. Asked once. :raises FlowManagerError:"""
        async with self._asking:
            if self.version and self.names:
                return
            with translated():
                told = await self._client.get("version")
            self.release = text(told.get("version")) if isinstance(told, Mapping) else ""
            await self.look()
            try:
                status = await self._client.get("cluster/status")
            except CallFailed as failed:
                if failed.passing or failed.status == 401:
                    with translated():
                        raise
                status = None  # a narrow login: it works without
            for item in status if isinstance(status, list) else ():
                if isinstance(item, Mapping) and item.get("type") == "cluster":
                    self.cluster_name = text(item.get("name")) or None
            self.version = tuple(int(part) for part in self.release.split(".") if part.isdigit()) or (0,)

    @property
    def knows_oci(self) -> bool:
        return self.version >= OCI_SINCE

    async def choose(self, wanted: str | None, rows: Mapping[int, Row]) -> list[str]:
        """Where a container may be made, the best first: most free memory, else fewest containers.

        :raises InvalidRequest: no such node, or not allowed. :raises RuntimeUnavailable: none is online.
        """
        nodes = {node.name: node for node in await self.look()}
        if wanted is not None:
            self.check(wanted)
            if not nodes[wanted].online:
                raise _offline(f"the node '{wanted}' is offline")
            return [wanted]
        usable = [node for node in nodes.values() if node.online and (not self._allowed or node.name in self._allowed)]
        if not usable:
            raise _offline("no node is online that flows may be made on")
        load = Counter(row.node for row in rows.values())
        usable.sort(key=lambda node: (not node.seen, -(node.free or 0), load[node.name], node.name))
        return [node.name for node in usable]

    async def find(self, name: str) -> None:
        """It is a node of the cluster, whatever may be made on it. :raises InvalidRequest: it is not, with those that are."""
        if name not in self.names:
            await self.look()  # it may have joined meanwhile
        if name not in self.names:
            self.check(name)

    def check(self, name: str) -> None:
        """:raises InvalidRequest: naming the nodes that there are."""
        if name not in self.names:
            reason = f"no node '{name}'; there are: {', '.join(self.names)}"
        elif self._allowed and name not in self._allowed:
            reason = f"settings allow no flows on '{name}', only on: {', '.join(self._allowed)}"
        else:
            return
        raise InvalidRequest(
            f"proxmox.node: {reason}",
            fields=[{"path": "proxmox.node", "reason": reason}],
            available_node_names=list(self.names),
        )


def _free(item: Mapping[str, object]) -> int | None:
    most, used = whole(item.get("maxmem")), whole(item.get("mem"))
    return most - used if most is not None and used is not None else None


def _offline(reason: str) -> RuntimeUnavailable:
    return RuntimeUnavailable(reason, kind=KIND, reason=reason)
