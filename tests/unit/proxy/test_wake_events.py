"""Server-sent events of a wake."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from flow_manager.errors import StartFailed
from flow_manager.proxy import wake_events
from flow_manager.proxy.held_request import ClientGone
from flow_manager.proxy.hold import asked_of
from flow_manager.proxy.wake_events import MAX_WAITING, last_seen, stream_wake_events
from flow_manager.testing import eventually
from tests.unit.proxy.slow_fakes import FakeFlow, FakeRegistry, FakeRequest


def listen(
    flow: FakeFlow,
    *headers: tuple[str, str],
    query: str = "",
    registry: FakeRegistry | None = None,
    heartbeat: float = 60,
) -> tuple[FakeRequest, asyncio.Task[None]]:
    request = FakeRequest(target=f"/.flow/wake-events{query}", headers=headers)
    context = (registry or FakeRegistry(flow)).context()
    stream = stream_wake_events(request, asked_of(request), flow, context, heartbeat=heartbeat)  # type: ignore[arg-type]
    return request, asyncio.create_task(stream)


def read(content: bytes) -> list[dict[str, Any]]:
    """As the standard says: LF, CR and CRLF all end a line; an empty line ends an event."""
    events: list[dict[str, Any]] = []
    fields: dict[str, str] = {}
    for line in content.decode().replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if not line:
            if "data" in fields:
                events.append({"id": int(fields["id"]), **json.loads(fields["data"])})
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            assert name in ("id", "data", "retry"), f"a line that is none of ours: {line!r}"
            assert name not in fields, f"{name} twice in one event"
            fields[name] = value
    return events


async def until(request: FakeRequest, count: int) -> None:
    await eventually(lambda: len(read(request.content)) >= count)


async def test_history_comes_first_then_what_happens_and_the_end_closes_it() -> None:
    flow = FakeFlow()
    flow.begin_wake(reason="x")
    request, task = listen(flow)
    await until(request, 1)
    flow.history.add("waiting_ready", "waiting for tcp 80")
    await until(request, 2)
    assert not request.ended
    flow.finish()
    await task
    assert [item["type"] for item in read(request.content)] == ["starting", "waiting_ready", "ready"]
    assert request.ended and request.status == 200
    assert request.header("content-type") == "text/event-stream; charset=utf-8"
    assert request.header("cache-control") == "no-store"
    assert request.content.startswith(b"retry: 2000\n\n")
    assert b"event:" not in request.content
    assert not flow.history._listeners


async def test_it_never_wakes_and_never_counts_as_use() -> None:
    flow = FakeFlow()
    request, task = listen(flow, heartbeat=0.01)
    await eventually(lambda: b": waiting\n\n" in request.content)
    assert flow.wakes == 0 and flow.leases == [] and not request.ended
    task.cancel()
    await asyncio.wait([task])
    assert not flow.history._listeners


async def test_an_error_closes_it_and_carries_its_reason() -> None:
    flow = FakeFlow()
    flow.begin_wake(reason="x")
    request, task = listen(flow)
    await until(request, 1)
    flow.finish(StartFailed("exit code 3"))
    await task
    assert read(request.content)[-1]["message"] == "exit code 3"


@pytest.mark.parametrize("by_query", [False, True])
async def test_a_reader_that_comes_back_gets_what_it_missed_and_no_more(by_query: bool) -> None:
    flow = FakeFlow()
    flow.begin_wake(reason="x")
    seen = flow.history.add("waking_dep", "waking db").id
    flow.history.add("dep_ready", "db is ready")
    given = {"query": f"?after={seen}"} if by_query else {}
    request, task = listen(flow, *([] if by_query else [("Last-Event-ID", str(seen))]), **given)
    await until(request, 1)
    flow.finish()
    await task
    assert [item["type"] for item in read(request.content)] == ["dep_ready", "ready"]


async def test_a_reader_that_has_seen_the_end_waits_for_the_next_wake() -> None:
    flow = FakeFlow()
    flow.begin_wake(reason="x")
    flow.finish(StartFailed("exit code 3"))
    seen = flow.history.entries()[-1].id
    request, task = listen(flow, ("Last-Event-ID", str(seen)), heartbeat=0.01)
    await eventually(lambda: b": waiting" in request.content)
    assert not request.ended and read(request.content) == []
    flow.begin_wake(reason="again")
    flow.finish()
    await task
    assert [item["type"] for item in read(request.content)] == ["starting", "ready"]


@pytest.mark.parametrize("given", ["999999999999999999", "-1", "x", "1e3", "９", "1" * 40, ""])
async def test_an_id_that_cant_be_gets_everything(given: str) -> None:
    flow = FakeFlow()
    flow.begin_wake(reason="x")
    flow.finish()
    request = FakeRequest(target="/.flow/wake-events")
    request.headers.append((b"Last-Event-ID", given.encode()))
    await stream_wake_events(request, asked_of(request), flow, FakeRegistry(flow).context())  # type: ignore[arg-type]
    assert len(read(request.content)) == 2


def test_the_header_wins_over_the_query_that_the_browser_repeats() -> None:
    request = FakeRequest(target="/.flow/wake-events?after=3", headers=[("Last-Event-ID", "7")])
    assert last_seen(asked_of(request)) == 7  # type: ignore[arg-type]


@pytest.mark.parametrize("ready", [True, False])
async def test_who_asks_after_a_wake_that_nobody_noted_isnt_left_waiting(ready: bool) -> None:
    flow = FakeFlow(state="error", error="exit code 3")
    if ready:
        flow.be_ready()
    request, task = listen(flow)
    async with asyncio.timeout(5):
        await task
    (event,) = read(request.content)
    assert (event["type"], event["message"]) == (("ready", "web is ready") if ready else ("error", "exit code 3"))
    assert request.ended


async def test_a_flow_that_somebody_started_by_hand_ends_the_waiting_at_the_next_heartbeat() -> None:
    flow = FakeFlow()
    request, task = listen(flow, heartbeat=0.01)
    await eventually(lambda: b": waiting" in request.content)
    flow.be_ready()
    async with asyncio.timeout(5):
        await task
    assert [item["type"] for item in read(request.content)] == ["ready"]


NASTY = ["a\nb", "a\r\nb", "a\r\rdata: x", "\n\nevent: ready\ndata: {}\n\n", "\u2028\u2029\x85", "\x00\x1b[31m", "ü€😀"]


@pytest.mark.parametrize("text", NASTY)
async def test_no_text_breaks_out_of_its_event(text: str) -> None:
    flow = FakeFlow()
    flow.begin_wake(reason="x")
    flow.history.add("waiting_ready", text)
    flow.history.add("error", text, error=text)
    request, task = listen(flow)
    await task
    events = read(request.content)
    assert [item["type"] for item in events] == ["starting", "waiting_ready", "error"]
    assert events[1]["message"] == events[2]["message"] == events[2]["error"] == text
    assert b"\r" not in request.content


async def test_a_slow_reader_holds_a_bounded_number_of_events_and_comes_back_for_the_rest() -> None:
    flow = FakeFlow()
    flow.begin_wake(reason="x")
    request, task = listen(flow)
    await until(request, 1)
    request.stuck = asyncio.Event()
    flow.history.add("waiting_ready", "the one that fills its socket")
    await until(request, 2)
    for number in range(MAX_WAITING + 50):
        flow.history.add("waiting_ready", f"attempt {number}")
    request.stuck.set()
    async with asyncio.timeout(5):
        await task
    got = read(request.content)
    assert request.ended and len(got) == 2 + MAX_WAITING
    assert [item["id"] for item in got] == list(range(got[0]["id"], got[0]["id"] + len(got)))


async def test_a_reader_that_never_reads_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wake_events, "WRITE_TIMEOUT", 0.01)
    flow = FakeFlow()
    request = FakeRequest(target="/.flow/wake-events")
    request.stuck = asyncio.Event()
    with pytest.raises(ClientGone):
        await stream_wake_events(request, asked_of(request), flow, FakeRegistry(flow).context())  # type: ignore[arg-type]
    assert not flow.history._listeners


async def test_the_end_of_the_flow_ends_the_stream() -> None:
    flow = FakeFlow()
    registry = FakeRegistry(flow)
    request, task = listen(flow, registry=registry, heartbeat=0.01)
    await eventually(lambda: request.streaming)
    registry.clear()
    async with asyncio.timeout(5):
        await task
    assert request.ended
