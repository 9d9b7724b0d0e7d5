"""Nodes that are offline: what their containers do isn't known, which is told of each of them; it stays as it was last seen."""

from __future__ import annotations

from collections.abc import Mapping

from flow_manager.runtimes.base import RuntimeEvent
from flow_manager.runtimes.hub import EventHub
from flow_manager.runtimes.proxmox.inventory import Inventory
from flow_manager.runtimes.proxmox.nodes import Nodes
from flow_manager.runtimes.proxmox.resources import Row

# The nodes are asked for with each twelfth look (once a minute), with each third while one is offline, and at once where the
# cluster has lost or found news of all containers of a node.
SELDOM, OFTEN = 12, 3


class Absent:
    def __init__(self, inventory: Inventory, nodes: Nodes, hub: EventHub) -> None:
        self._inventory, self._nodes, self._hub = inventory, nodes, hub
        self._looks = 0
        self._silent: frozenset[str] = frozenset()

    async def see(self, rows: Mapping[int, Row]) -> None:
        """After a look at the whole cluster. :raises FlowManagerError:"""
        self._looks += 1
        if len(self._nodes.names) > 1:
            silent = _silent(rows)
            if silent != self._silent or self._looks % (OFTEN if self._nodes.offline else SELDOM) == 0:
                await self._nodes.look()
            self._silent = silent
        for known in list(self._inventory.known.values()):
            away = known.node in self._nodes.offline
            if away == known.away:
                continue
            known.away = away
            self._hub.publish(
                RuntimeEvent(
                    "unavailable" if away else "available",
                    known.flow_id,
                    reason=f"its node '{known.node}' is offline" if away else None,
                    at=self._inventory.now(),
                )
            )


def _silent(rows: Mapping[int, Row]) -> frozenset[str]:
    """Nodes of whose containers there is no news at all."""
    nodes = {row.node for row in rows.values()}
    return frozenset(nodes - {row.node for row in rows.values() if row.status != "unknown"})
