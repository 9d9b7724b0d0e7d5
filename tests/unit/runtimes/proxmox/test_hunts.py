"""The hunt for a container's address."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from flow_manager.runtimes.hub import EventHub
from flow_manager.runtimes.proxmox.feed import Feed
from flow_manager.testing import eventually


class Inventory:
    def __init__(self) -> None:
        self.asked = 0

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def see_addresses(self, known: Any) -> None:
        self.asked += 1
        await asyncio.Event().wait()


async def test_a_restart_that_one_look_shows_as_an_end_and_a_start_is_hunted_anew() -> None:
    inventory: Any = Inventory()
    nothing: Any = None
    feed = Feed(inventory, nothing, nothing, EventHub(), interval=5.0)
    known: Any = SimpleNamespace(
        flow_id="abcdefghijkl", vmid=100, state="running", located=False, removed=False, addresses=()
    )
    feed.started(known)
    await eventually(lambda: inventory.asked == 1)
    feed.ended(known)
    feed.started(known)
    await eventually(lambda: inventory.asked == 2)
    await asyncio.sleep(0)
    assert list(feed._hunting) == ["abcdefghijkl"], "the end of the first one takes nothing of the second's"
    await feed.close()
