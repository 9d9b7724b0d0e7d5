"""The client, the repeats, the pull and the event stream against an engine of the test's making: silent, garbled, cut off."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiodocker.exceptions import DockerError
from aiohttp import web

from flow_manager import errors
from flow_manager.runtimes.base import RuntimeEvent
from flow_manager.runtimes.docker import client as client_module
from flow_manager.runtimes.docker import events as events_module
from flow_manager.runtimes.docker import retry
from flow_manager.runtimes.docker.client import USUAL_SOCKET, EngineClient, engine_url
from flow_manager.runtimes.docker.containers import Containers
from flow_manager.runtimes.docker.ending import Ending, normal
from flow_manager.runtimes.docker.errors import translated
from flow_manager.runtimes.docker.events import Feed
from flow_manager.runtimes.docker.pull import pull

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Handler], Awaitable[EngineClient]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """An engine whose every answer is the given handler's, and a client of it."""
    runners: list[web.AppRunner] = []
    clients: list[EngineClient] = []

    async def start(handler: Handler) -> EngineClient:
        app = web.Application(client_max_size=16 << 20)

        async def version(_: web.Request) -> web.Response:
            return web.json_response({"ApiVersion": "1.41"})

        app.router.add_get("/version", version)
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        runners.append(runner)
        await web.UnixSite(runner, str(tmp_path / "e.sock")).start()
        client = EngineClient(f"unix://{tmp_path}/e.sock")
        await client.open()
        clients.append(client)
        return client

    yield start
    for client in clients:
        await client.close()
    for runner in runners:
        await runner.cleanup()


async def never(_: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between tries."""
    monkeypatch.setattr(retry, "exponential", lambda *_, **__: itertools.repeat(0.0))
    monkeypatch.setattr(events_module, "exponential", lambda *_, **__: itertools.repeat(0.0))


# --- the client -------------------------------------------------------------------------------------------------------


def test_the_setting_wins_over_the_environment_and_that_over_the_usual_socket() -> None:
    assert engine_url("tcp://a:1", {"DOCKER_HOST": "unix:///b"}) == "tcp://a:1"
    assert engine_url(None, {"DOCKER_HOST": "unix:///b"}) == "unix:///b"
    assert engine_url(None, {"DOCKER_HOST": ""}) == USUAL_SOCKET


async def test_a_silent_engine_is_given_up(serve: Serve) -> None:
    client = await serve(never)
    with pytest.raises(errors.RuntimeUnavailable, match="in time"), translated():
        await client.call("GET", "containers/json", timeout=0.05)


async def test_calls_that_wait_for_a_slot_are_bounded_too(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await serve(never)
    calls = [client.call("GET", "x", timeout=0.2) for _ in range(client_module.CONTROL_LIMIT * 2)]
    outcomes = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5)
    assert {type(outcome) for outcome in outcomes} == {TimeoutError}


@pytest.mark.parametrize(
    ("status", "type", "body"),
    [
        (200, "application/json", b"{not json"),
        (200, "application/json", b"\xff"),
        (500, "application/json", b"{}"),
        (500, "application/json", b"[]"),
        (502, "text/html", b"<html>bad gateway</html>"),
        (500, "application/json", b""),
    ],
)
async def test_a_garbled_answer_is_an_engine_that_does_not_answer(
    serve: Serve, status: int, type: str, body: bytes
) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body, content_type=type)

    client = await serve(handler)
    with pytest.raises(errors.RuntimeUnavailable), translated():
        await client.call("GET", "x", timeout=5)


async def test_too_many_streams_are_refused_in_words(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "STREAM_LIMIT", 0)
    client = await serve(never)
    with pytest.raises(errors.RuntimeUnavailable, match="long calls"):
        async with client.stream("GET", "events"):
            pass


async def test_closing_wakes_whoever_waits_for_a_stream(serve: Serve) -> None:
    """A session that is closed leaves its readers waiting for ever."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"x")
        return await never(request)

    client = await serve(handler)

    async def read() -> None:
        with translated():
            async with client.stream("GET", "events") as response:
                assert await response.content.readany() == b"x"
                started.set()
                await response.content.readany()

    started = asyncio.Event()
    reading = asyncio.create_task(read())
    await asyncio.wait_for(started.wait(), 5)
    await client.close()
    done, _ = await asyncio.wait([reading], timeout=5)
    assert done
    assert isinstance(reading.exception(), errors.RuntimeUnavailable | None)


async def test_a_closed_client_answers_with_an_error(serve: Serve) -> None:
    client = await serve(never)
    await client.close()
    with pytest.raises(errors.RuntimeUnavailable), translated():
        await client.call("GET", "x", timeout=1)


# --- repeats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("failure", "calls"), [(DockerError(500, "odd"), 5), (DockerError(409, "no"), 1)])
async def test_what_may_be_gone_next_time_is_tried_five_times_and_the_rest_once(
    at_once: None, failure: Exception, calls: int
) -> None:
    made = 0

    async def call() -> None:
        nonlocal made
        made += 1
        raise failure

    with pytest.raises(DockerError):
        await retry.repeat(call, within=5)
    assert made == calls


async def test_a_later_try_may_work(at_once: None) -> None:
    answers = iter([DockerError(900, "no"), DockerError(503, "no"), "yes"])

    async def call() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert await retry.repeat(call, within=5) == "yes"


async def test_all_tries_together_are_bounded() -> None:
    async def call() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(retry.repeat(call, within=0.05), 5)


@pytest.mark.parametrize("given", ["TERM", "SIGTERM", "15", "sigterm"])
def test_a_signal_has_many_names(given: str) -> None:
    assert normal(given) == "SIGTERM"


# --- pulls ------------------------------------------------------------------------------------------------------------


async def test_a_pull_that_stalls_is_an_image_that_is_not_there(serve: Serve) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        line = b'{"status":"Downloading","id":"a","progressDetail":{"current":1,"total":9}}\n'
        for _ in range(10_000):  # it goes on talking, but says nothing new
            await response.write(line)
            await asyncio.sleep(0.01)
        return response

    client = await serve(handler)
    told: list[str] = []
    with pytest.raises(errors.ImageNotFound) as caught:
        await asyncio.wait_for(pull(client, "alpine:3", stall=0.2, progress=told.append), 10)
    assert caught.value.details == {"image": "alpine:3", "reason": "no progress in 0.2 s"}
    assert told[0] == "pulling alpine:3"
    assert len(told) < 5


async def test_a_pull_that_fails_in_its_stream_says_why(serve: Serve) -> None:
    async def handler(request: web.Request) -> web.Response:
        assert request.query["fromImage"] == "alpine"
        assert request.query["tag"] == "latest"
        return web.Response(body=b'{"status":"Pulling"}\n{"errorDetail":{"message":"toomanyrequests"},"error":"x"}\n')

    client = await serve(handler)
    with pytest.raises(errors.ImageNotFound) as caught:
        await pull(client, "alpine", stall=5, progress=None)
    assert caught.value.details["reason"] == "toomanyrequests"


# --- events -----------------------------------------------------------------------------------------------------------


def feed(client: EngineClient, closed: asyncio.Event) -> Feed:
    containers = Containers(client, "lab")

    async def ping() -> None:
        raise errors.RuntimeUnavailable("frozen", kind="docker")

    return Feed(client, containers, Ending(containers, timeout=1), ping, closed, lambda: None)


def event(action: str, nano: int = 1, **attributes: str) -> bytes:
    labels = {"flow-manager.id": "abcdefghijkl", "flow-manager.instance": "lab"}
    inner = ",".join(f'"{key}":"{value}"' for key, value in {**labels, **attributes}.items())
    return f'{{"Action":"{action}","Actor":{{"ID":"f00","Attributes":{{{inner}}}}},"timeNano":{nano}}}\n'.encode()


async def take(stream: Any, count: int) -> list[RuntimeEvent]:
    async with asyncio.timeout(10):
        taken = [await anext(stream) for _ in range(count)]
    await stream.aclose()
    return taken


async def test_one_odd_event_never_ends_the_stream(serve: Serve) -> None:
    async def handler(_: web.Request) -> web.Response:
        lines = [event("start"), b"{garbage\n", b"[]\n", b"\xff\xfe\n", b'{"Action":null}\n', event("exec_create: ls"), event("die", exitCode="x")]  # fmt: skip
        return web.Response(body=b"".join(lines))

    client = await serve(handler)
    seen = await take(feed(client, asyncio.Event()).events(), 3)
    assert [(entry.type, entry.id) for entry in seen] == [
        ("resync", None),
        ("started", "abcdefghijkl"),
        ("died", "abcdefghijkl"),
    ]
    assert seen[2].exit_code is None


async def test_after_a_drop_it_asks_for_what_it_missed_and_says_resync(serve: Serve, at_once: None) -> None:
    asked: list[str | None] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.query.get("since"))
        return web.Response(body=event("oom", 1_000_000_005) + event("die", 2_000_000_007, exitCode="137"))

    client = await serve(handler)
    seen = await take(feed(client, asyncio.Event()).events(), 5)
    assert [entry.type for entry in seen] == ["resync", "died", "unavailable", "available", "resync"]
    assert (seen[1].exit_code, seen[1].cause) == (137, "oom")
    assert asked == [None, "2.000000007"]


async def test_a_frozen_engine_is_noticed_by_its_silence(
    serve: Serve, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "SILENCE_SECONDS", 0.02)

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        return await never(request)

    client = await serve(handler)
    seen = await take(feed(client, asyncio.Event()).events(), 2)
    assert [entry.type for entry in seen] == ["resync", "unavailable"]
    assert seen[1].reason == "frozen"


async def test_an_engine_that_stays_away_is_told_of_once(tmp_path: Path, at_once: None) -> None:
    client = EngineClient(f"unix://{tmp_path}/nobody.sock")
    await client.open()
    closed = asyncio.Event()
    stream = feed(client, closed).events()
    seen = [await asyncio.wait_for(anext(stream), 5)]
    asyncio.get_running_loop().call_later(0.1, closed.set)
    async with asyncio.timeout(5):
        seen += [entry async for entry in stream]
    await client.close()
    assert [entry.type for entry in seen] == ["unavailable"]
