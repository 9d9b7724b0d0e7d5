"""Following what a flow uses with the typed client."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flow_manager.client import FlowManagerClient, ServiceRefused


def sample(number: int, memory: int | None, **fields: Any) -> dict[str, Any]:
    figures = {"cpu_percent": None, "memory_bytes": memory, "memory_limit_bytes": None, "pids": None}
    shared = {"container_id": "x", "timestamp": "2026-01-19T10:30:00.000Z"}
    return {"subscription_id": f"use-{number}", "resource_usage": figures, **shared, **fields}


def following(service: Any, *, before_the_reply: list[dict[str, Any]] | None = None) -> None:
    """Each `follow_usage` gets an id of its own: use-1, use-2 …"""
    number = 0

    async def answer() -> dict[str, Any]:
        nonlocal number
        number += 1
        for event in before_the_reply or []:
            await service.emit("resource_usage", event)
        return {"error": False, "data": {"subscription_id": f"use-{number}"}}

    service.answers["follow_usage"] = lambda _request: answer()
    service.answers["unfollow_usage"] = {"error": False, "data": {}}


async def test_figures_come_also_after_a_lost_connection(service) -> None:
    following(service)
    async with FlowManagerClient(service.url) as client, asyncio.timeout(10):
        follower = client.follow_usage("x")
        first = asyncio.create_task(anext(follower))
        await service.wait_for("follow_usage")
        await service.emit("resource_usage", sample(1, 10))
        assert (await first).resource_usage.memory_bytes == 10
        service.cut()
        second = asyncio.create_task(anext(follower))
        await service.wait_for("follow_usage", 2)
        await service.emit("resource_usage", sample(1, 11))  # of nobody any more
        await service.emit("resource_usage", sample(2, 20))
        assert (await second).resource_usage.memory_bytes == 20
        await follower.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(follower)
    assert service.requests("unfollow_usage") == [{"subscription_id": "use-2"}]


async def test_who_is_slow_gets_the_newest_figures_alone(service) -> None:
    following(service, before_the_reply=[sample(1, memory) for memory in (1, 2, 3)])
    async with FlowManagerClient(service.url) as client, asyncio.timeout(10):
        assert (await anext(client.follow_usage("x"))).resource_usage.memory_bytes == 3


async def test_it_ends_with_the_flow(service) -> None:
    following(service, before_the_reply=[sample(1, 1), sample(1, None, ended="container_not_found")])
    async with FlowManagerClient(service.url) as client, asyncio.timeout(10):
        assert [one.resource_usage.memory_bytes async for one in client.follow_usage("x")] == [1]
        assert client._usage.followers == []


async def test_a_flow_deleted_while_the_connection_was_away_ends_it_too(service) -> None:
    following(service, before_the_reply=[sample(1, 1)])
    async with FlowManagerClient(service.url) as client, asyncio.timeout(10):
        follower = client.follow_usage("x")
        await anext(follower)
        service.answers["follow_usage"] = {
            "error": True,
            "code": "container_not_found",
            "error_type": "docker_api_error",
            "message": "no flow container 'x'",
            "details": {},
        }
        service.cut()
        with pytest.raises(StopAsyncIteration):
            await anext(follower)


async def test_a_flow_that_is_not_there_is_refused(service) -> None:
    service.answers["follow_usage"] = {
        "error": True,
        "code": "container_not_found",
        "error_type": "docker_api_error",
        "message": "no flow container 'x'",
        "details": {},
    }
    async with FlowManagerClient(service.url) as client:
        with pytest.raises(ServiceRefused) as refused:
            await anext(client.follow_usage("x"))
    assert refused.value.code == "container_not_found"
