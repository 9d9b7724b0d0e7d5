"""Following logs with the typed client: each line once, also across a lost connection."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flow_manager.client import FlowManagerClient, ServiceRefused


def line(text: str, second: int) -> dict[str, Any]:
    return {"stream": "stdout", "text": text, "timestamp": f"2026-01-19T10:30:{second:02d}.000001Z"}


async def test_after_a_lost_connection_it_goes_on_without_gap_or_repeat(service) -> None:
    number = 0
    # The second answer begins with the moment of the newest line that came: two of its lines are known, one is not.
    given = [[line("a", 1), line("b", 2), line("b", 2)], [line("b", 2), line("b", 2), line("c", 2), line("d", 3)]]

    async def answer() -> dict[str, Any]:
        nonlocal number
        number += 1
        subscription_id = f"log-{number}"
        event = {"subscription_id": subscription_id, "container_id": "x", "lines": given[number - 1]}
        asyncio.get_running_loop().create_task(service.emit("log_lines", event))
        return {"error": False, "data": {"subscription_id": subscription_id}}

    service.answers["follow_logs"] = lambda _request: answer()
    seen: list[str] = []
    async with FlowManagerClient(service.url) as client, asyncio.timeout(10):
        follower = client.follow_logs("x", tail=5)
        async for one in follower:
            seen.append(one.text)
            if len(seen) == 3:
                service.cut()
            if len(seen) == 5:
                break
        service.answers["unfollow_logs"] = {"error": False, "data": {}}
        await follower.aclose()
        assert client._logs.followers == []
    assert seen == ["a", "b", "b", "c", "d"]
    first, second = service.requests("follow_logs")
    assert (first["tail"], first.get("since")) == (5, None)
    assert second["since"].startswith("2026-01-19T10:30:02.000001")
    assert service.requests("unfollow_logs") == [{"subscription_id": "log-2"}]


async def test_what_is_refused_is_raised(service) -> None:
    service.answers["follow_logs"] = {
        "error": True,
        "code": "too_many_streams",
        "error_type": "limit_error",
        "message": "enough",
        "details": {},
    }
    async with FlowManagerClient(service.url) as client:
        with pytest.raises(ServiceRefused) as refused:
            await anext(client.follow_logs("x"))
    assert refused.value.code == "too_many_streams"
