"""The client against a real Socket.IO server that is only its wire."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiohttp import web

from flow_manager.client import FlowManagerClient, ServiceRefused, Unreachable
from flow_manager.contract.events import CLIENT_EVENTS
from flow_manager.contract.models import ContainerConfig, ContainerMessage


async def test_it_knows_what_the_service_said_of_itself(service) -> None:
    async with FlowManagerClient(service.url) as client:
        assert client.hello["version"] == "9.9"


def test_every_event_of_the_catalogue_has_its_method() -> None:
    # Of something that is open: its own object has them.
    theirs = {"terminal_input", "terminal_resize", "detach_container", "unfollow_logs", "unfollow_usage"}
    assert {name for name in CLIENT_EVENTS if not callable(getattr(FlowManagerClient, name, None))} <= theirs


async def test_answers_are_models_and_requests_hold_what_was_given(service) -> None:
    async with FlowManagerClient(service.url) as client:
        info = await client.create_container({"image": "alpine", "resources": {"memory": "1m"}}, start=True)
        status = await client.stop_container("reports", timeout=3)
    assert info.ports == {"80/tcp": 8000}
    assert status.last_communication is not None
    created = service.requests("create_container")[0]
    assert created.pop("request_id")
    assert created == {"image": "alpine", "resources": {"memory": 1048576}, "start": True}
    assert service.requests("stop_container")[0]["timeout"] == 3


async def test_a_config_that_is_a_model_is_taken_as_well(service) -> None:
    async with FlowManagerClient(service.url) as client:
        await client.create_container(ContainerConfig(image="alpine", name="a"))
    assert service.requests("create_container")[0]["name"] == "a"


async def test_a_refusal_carries_the_error_object(service) -> None:
    error = {
        "error": True,
        "error_type": "docker_api_error",
        "code": "container_not_found",
        "message": "no flow container 'x'",
        "details": {"container_id": "x"},
        "timestamp": "2026-01-19T10:30:00Z",
    }
    service.answers["get_status"] = error
    async with FlowManagerClient(service.url) as client:
        with pytest.raises(ServiceRefused, match="no flow container 'x'") as caught:
            await client.get_status("x")
    assert (caught.value.code, caught.value.error_type) == ("container_not_found", "docker_api_error")
    assert caught.value.details == {"container_id": "x"}
    assert caught.value.error == error


@pytest.mark.parametrize("config", [{"image": ""}, {"image": "a", "colour": 1}, {"image": "a", "name": "A B"}])
async def test_a_request_that_its_model_refuses_is_never_sent(service, config) -> None:
    async with FlowManagerClient(service.url) as client:
        with pytest.raises(ServiceRefused) as caught:
            await client.create_container(config)
    assert caught.value.code == "invalid_request"
    assert service.received == []


async def test_a_field_that_a_newer_service_adds_does_no_harm(service, fake) -> None:
    service.answers["get_status"] = {"error": False, "data": {**fake.STATUS, "mood": "fine"}, "more": 1}
    async with FlowManagerClient(service.url) as client:
        assert (await client.get_status("x")).state == "running"


@pytest.mark.parametrize("answer", [{"error": False, "data": {"id": 5}}, {"error": False}, "ok", {}, []])
async def test_an_answer_that_is_none_of_the_contract_is_an_error_not_a_crash(service, answer) -> None:
    service.answers["get_status"] = answer
    async with FlowManagerClient(service.url) as client:
        with pytest.raises(ServiceRefused) as caught:
            await client.get_status("x")
    assert caught.value.code == "internal"


async def test_the_token_decides(service) -> None:
    service.token = "right"
    with pytest.raises(ServiceRefused, match="the token is not known") as caught:
        async with FlowManagerClient(service.url, "wrong"):
            pass
    assert caught.value.code == "unauthorized"
    async with FlowManagerClient(service.url, "right") as client:
        assert client.hello["contract"] == 1


async def test_nothing_that_listens_is_unreachable_with_the_remedy() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(Unreachable, match="flow-manager serve"):
            async with FlowManagerClient(url):
                pass


async def test_a_listener_that_says_nothing_is_given_up_in_time() -> None:
    release = asyncio.Event()

    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with pytest.raises(Unreachable, match="no answer within"):
        async with FlowManagerClient(url, connect_timeout=0.3):
            pass
    release.set()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (404, "{}", Unreachable),
        (403, '{"title": "the Host is not one of this service", "code": "forbidden"}', ServiceRefused),
        (403, "no json", Unreachable),
        (200, "{}", Unreachable),
    ],
)
async def test_something_else_that_answers_there_is_told_apart(status: int, body: str, expected) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=status, text=body, content_type="application/json")

    app = web.Application()
    app.router.add_get("/{rest:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        with pytest.raises(expected):
            async with FlowManagerClient(f"http://127.0.0.1:{runner.addresses[0][1]}", connect_timeout=5):
                pass
    finally:
        await runner.cleanup()


async def test_an_event_that_is_never_answered_ends_in_time(service) -> None:
    service.answers["get_status"] = None
    async with FlowManagerClient(service.url) as client:
        with pytest.raises(Unreachable, match="no answer to get_status"):
            await client.call("get_status", {"container_id": "x"}, timeout=0.2)


async def test_a_service_that_does_not_greet_is_given_up_in_time(service) -> None:
    service.greets = False
    with pytest.raises(Unreachable):
        async with FlowManagerClient(service.url, connect_timeout=0.3):
            pass


async def test_a_call_under_way_is_repeated_with_the_same_id_after_the_connection_broke(service, fake) -> None:
    def answer(_request):
        return None if len(service.requests("start_container")) == 1 else {"error": False, "data": fake.STATUS}

    service.answers["start_container"] = answer
    async with FlowManagerClient(service.url) as client:
        call = asyncio.create_task(client.start_container("reports"))
        await service.wait_for("start_container")
        service.cut()
        assert (await call).state == "running"
    first, second = service.requests("start_container")
    assert first == second
    assert first["request_id"]


async def test_it_comes_back_after_the_service_was_restarted(service) -> None:
    seen: list[bool] = []
    async with FlowManagerClient(service.url, on_connection=seen.append) as client:
        await service.stop()
        await service.start()
        assert (await client.get_status("x")).state == "running"
    assert seen == [False, True]


async def test_a_service_that_stays_away_ends_every_call(service) -> None:
    async with FlowManagerClient(service.url, reconnect_for=0.3) as client:
        feed = client.subscribe_activity()
        await feed.open()
        following = asyncio.create_task(anext(feed))
        await service.stop()
        with pytest.raises(Unreachable, match="did not come back"):
            await client.get_status("x")
        with pytest.raises(Unreachable):
            await following


async def test_a_token_that_was_taken_away_ends_the_session(service) -> None:
    service.token = "t"
    async with FlowManagerClient(service.url, "t") as client:
        await service.stop()
        service.token = "other"
        await service.start()
        with pytest.raises(ServiceRefused) as caught:
            await client.get_status("x")
    assert caught.value.code == "unauthorized"


async def test_what_a_flow_says_reaches_the_callback_and_one_that_raises_does_no_harm(service) -> None:
    heard: asyncio.Queue[ContainerMessage] = asyncio.Queue()

    def broken(message: ContainerMessage) -> None:
        heard.put_nowait(message)
        raise RuntimeError("a fault of the caller's")

    async with FlowManagerClient(service.url, on_message=broken) as client:
        message = {"container_id": "abcdefghijkl", "message": {"a": 1}, "timestamp": "2026-01-19T10:30:00Z"}
        await service.emit("container_message", message)
        await service.emit("container_message", {"odd": True})
        async with asyncio.timeout(5):
            assert (await heard.get()).message == {"a": 1}
        assert (await client.get_status("x")).state == "running"


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8080", "ftp://x", "http://", "http://u:p@h", "http://h?token=x", "http://h:99999"]
)
def test_a_url_that_is_none_or_holds_a_secret_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        FlowManagerClient(url)


async def test_a_client_that_is_closed_ends_the_calls_under_way(service) -> None:
    service.answers["get_status"] = None
    async with FlowManagerClient(service.url) as client:
        call = asyncio.create_task(client.get_status("x"))
        await service.wait_for("get_status")
    with pytest.raises(Unreachable, match="closed"):
        await call


async def test_nothing_is_left_behind(service) -> None:
    async with FlowManagerClient(service.url) as client:
        await client.subscribe_activity().open()
        await client.get_status("x")
    left = [task for task in asyncio.all_tasks() if "client" in task.get_coro().cr_code.co_filename]
    assert [task for task in left if task is not asyncio.current_task()] == []
