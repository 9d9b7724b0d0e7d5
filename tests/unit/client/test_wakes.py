"""Following wakes through the typed client."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flow_manager.client import FlowManagerClient, ServiceRefused
from flow_manager.client.wakes import WakeFollower
from flow_manager.contract.models import IdlePolicy
from flow_manager.contract.wake import WakeHistory
from flow_manager.testing import eventually

EXPLANATION: dict[str, Any] = {
    "container_id": "abcdefghijkl",
    "name": "reports",
    "flow_state": "napping",
    "desired": "running",
    "idle": {"idle_timeout": 300},
    "leases": [],
    "sleeps_in": None,
    "sleeps_at": None,
    "last_slept": {"at": "2026-01-19T10:30:00.000Z", "reason": "idle for 300 s"},
    "last_woke": None,
    "crashes": 0,
    "retry_in": None,
    "waiting_for": None,
    "error": None,
    "summary": "asleep",
}


def step(number: int, kind: str = "starting") -> dict[str, Any]:
    return {"type": kind, "message": kind, "timestamp": "2026-01-19T10:30:00.000Z", "id": number, "error": None}


async def test_sleep_wake_policy_and_explanation_are_models(service) -> None:
    for event in ("set_idle_policy", "explain_container"):
        service.answers[event] = {"error": False, "data": EXPLANATION}
    async with FlowManagerClient(service.url) as client:
        assert (await client.sleep_container("reports")).flow_state == "ready"
        assert (await client.wake_container("reports", wait=False)).state == "running"
        told = await client.set_idle_policy("reports", IdlePolicy(idle_timeout=300))
        assert (await client.explain_container("reports")) == told
        await client.set_idle_policy("reports", {"idle_timeout": "5m", "stop_method": "pause"})
    assert told.last_slept is not None
    assert told.last_slept.reason == "idle for 300 s"
    assert service.requests("wake_container")[0]["wait"] is False
    assert [request["idle"] for request in service.requests("set_idle_policy")] == [
        {"idle_timeout": 300},
        {"idle_timeout": 300, "stop_method": "pause"},
    ]
    assert all(request["request_id"] for request in service.requests("set_idle_policy"))


async def test_steps_come_once_each_in_order_also_across_a_lost_connection(service) -> None:
    seen: list[int] = []
    service.answers["subscribe_wake_events"] = {"error": False, "data": {"history": [step(1)]}}
    async with FlowManagerClient(service.url, on_wake=lambda event: seen.append(event.id)) as client:
        history = await client.subscribe_wake_events("reports")
        assert [event.id for event in history.history] == [1]
        await service.emit("wake_event", {**step(2), "container_id": "abcdefghijkl"})
        await eventually(lambda: seen == [2])
        # While it is away, two more steps happen.
        missed = [step(number) for number in (1, 2, 3, 4)]
        service.answers["subscribe_wake_events"] = {"error": False, "data": {"history": missed}}
        service.cut()
        await service.wait_for("subscribe_wake_events", 2)
        await eventually(lambda: seen == [2, 3, 4])
        await service.emit("wake_event", {**step(4), "container_id": "abcdefghijkl"})
        await service.emit("wake_event", {**step(5, "ready"), "container_id": "abcdefghijkl"})
        await eventually(lambda: seen == [2, 3, 4, 5])
        await client.unsubscribe_wake_events("reports")
        service.cut()
        await eventually(lambda: service.connects == 3)
        await client.get_status("reports")
    assert len(service.requests("subscribe_wake_events")) == 2


async def test_a_flow_that_is_gone_after_a_reconnect_is_no_longer_followed(service) -> None:
    service.answers["subscribe_wake_events"] = {"error": False, "data": {"history": []}}
    async with FlowManagerClient(service.url) as client:
        await client.subscribe_wake_events("reports")
        gone = {"error": True, "error_type": "memory_error", "code": "container_not_found", "message": "none"}
        service.answers["get_status"] = {**gone, "details": {}, "timestamp": "2026-01-19T10:30:00Z"}
        service.cut()
        await service.wait_for("get_status")
        await eventually(lambda: client._wakes._followed == {})
        service.cut()
        await eventually(lambda: service.connects == 3)
        with pytest.raises(ServiceRefused):
            await client.get_status("reports")
    assert len(service.requests("get_status")) == 2


async def test_a_connection_that_is_lost_again_while_flows_are_followed_anew_loses_none_of_them() -> None:
    asked: list[str] = []
    held = asyncio.Event()

    async def subscribe(flow: str) -> WakeHistory:
        asked.append(flow)
        if asked == ["a", "b", "a", "b"]:
            await held.wait()  # the connection on which `a` was followed anew is lost meanwhile
        return WakeHistory(history=[])

    async def identify(flow: str) -> str:
        return flow

    follower = WakeFollower(subscribe, identify, lambda _step: None)
    await follower.follow("a")
    await follower.follow("b")
    follower.connected()
    await eventually(lambda: len(asked) == 4)
    follower.connected()
    held.set()
    await eventually(lambda: asked[4:] == ["a", "b"])
    await follower.close()
