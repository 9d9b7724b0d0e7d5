from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from flow_manager.contract.events import CLIENT_EVENTS
from flow_manager.errors import RateLimited
from flow_manager.gateway import lanes
from flow_manager.gateway.lanes import Lane, lane_of
from flow_manager.testing import eventually


@dataclass
class Item:
    name: str
    until: float


class Work:
    """Runs until it is let go."""

    def __init__(self, width: int = 1) -> None:
        self.begun: list[str] = []
        self.late: list[str] = []
        self.go_on: dict[str, asyncio.Event] = {}
        self.lane: Lane[Item] = Lane(width, run=self._run, late=lambda item: self.late.append(item.name))

    def enter(self, name: str, within: float = 60.0) -> None:
        self.lane.enter(Item(name, asyncio.get_running_loop().time() + within))

    def _run(self, item: Item) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(self._work(item.name))

    async def _work(self, name: str) -> None:
        self.begun.append(name)
        await self.go_on.setdefault(name, asyncio.Event()).wait()

    async def let_go(self, name: str) -> None:
        self.go_on[name].set()
        for _ in range(3):
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("event", "payload", "lane"),
    [
        ("get_status", {"container_id": "web"}, "looks"),
        ("get_logs", {"container_id": "web"}, "looks"),
        ("subscribe_activity", {}, "looks"),
        ("start_container", {"container_id": "web"}, "others"),
        ("exec_container", {"container_id": "web", "command": ["ls"]}, "others"),
        ("delete_container", {"container_id": "web"}, "others"),
        ("delete_container", {"container_id": "web", "force": True}, "ends"),
        ("kill_container", {"container_id": "web"}, "ends"),
    ],
)
def test_alike_events_share_a_lane(event: str, payload: dict[str, object], lane: str) -> None:
    known = CLIENT_EVENTS[event]
    assert lane_of(known, known.request.model_validate(payload)) == lane


async def test_so_many_run_and_the_others_come_in_order() -> None:
    work = Work(width=2)
    for name in "abcd":
        work.enter(name)
    await asyncio.sleep(0)
    assert work.begun == ["a", "b"]
    await work.let_go("b")
    assert work.begun == ["a", "b", "c"]
    await work.let_go("a")
    assert work.begun == ["a", "b", "c", "d"]
    await work.let_go("c")
    await work.let_go("d")


async def test_too_many_that_wait_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "MAX_WAITING", 1)
    work = Work()
    work.enter("a")
    work.enter("b")
    with pytest.raises(RateLimited) as refused:
        work.enter("c")
    assert refused.value.details["retry_after"] == 1
    await asyncio.sleep(0)
    await work.let_go("a")
    await work.let_go("b")


async def test_who_waits_too_long_is_told_so_and_never_run() -> None:
    work = Work()
    work.enter("a")
    work.enter("b", within=0.01)
    work.enter("c")
    await eventually(lambda: work.late == ["b"])
    await work.let_go("a")
    assert work.begun == ["a", "c"]
    await work.let_go("c")


async def test_no_timer_is_left_where_nobody_waits() -> None:
    work = Work()
    work.enter("a")
    work.enter("b")
    await asyncio.sleep(0)
    assert work.lane._timer is not None
    await work.let_go("a")
    assert work.lane._timer is None
    await work.let_go("b")
