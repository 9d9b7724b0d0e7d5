"""The end: what is new is refused, what runs is answered, everybody is let go in time, nothing is left."""

from __future__ import annotations

import asyncio
import time

import pytest


async def test_close_answers_what_is_under_way_and_refuses_what_is_new(serving, connect, eventually):
    async with serving() as service, connect(service.url) as client:
        await client.call("create_container", {"image": "local", "name": "one"})
        service.manager.hold = asyncio.Event()
        pending = asyncio.create_task(client.call("start_container", {"container_id": "one"}))
        await eventually(lambda: ("start", service.manager.calls[-1][1]) in service.manager.calls)
        closing = asyncio.create_task(service.gateway.close())
        await eventually(lambda: not service.engine.accepting)
        refused = await client.call("list_containers")
        assert (refused["code"], refused["error_type"]) == ("shutting_down", "system_error")
        service.manager.hold.set()
        assert (await pending)["data"]["state"] == "running"
        await asyncio.wait_for(closing, 5)
        await eventually(lambda: not client.sio.connected)


async def test_what_does_not_end_in_time_is_answered_and_cut_off(serving, connect):
    async with serving(shutdown_timeout=0.4) as service, connect(service.url) as client:
        await client.call("create_container", {"image": "local", "name": "one"})
        service.manager.hold = asyncio.Event()
        pending = asyncio.create_task(client.call("start_container", {"container_id": "one"}))
        await client.call("list_containers")
        await asyncio.wait_for(service.gateway.close(), 5)
        assert (await asyncio.wait_for(pending, 5))["code"] == "shutting_down"


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_forty_clients_are_let_go_together_and_nothing_is_left(serving, connect, transport, eventually):
    before = asyncio.all_tasks()
    async with serving() as service:
        from contextlib import AsyncExitStack

        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(connect(service.url, transport)) for _ in range(40)]
            began = time.monotonic()
            await service.gateway.close()
            assert time.monotonic() - began < 10, "one after the other they would take forty"
            assert service.engine.sockets == {}
            await eventually(lambda: not any(client.sio.connected for client in clients))
    # What is left belongs to the clients, which this test lets go of one by one.
    await eventually(lambda: not [task for task in asyncio.all_tasks() - before if not _of_client(task)])


async def test_a_client_that_reads_no_more_does_not_hold_up_the_end(serving, raw):
    async with serving() as service:
        client = await raw(service.url)
        client.ws._response.connection.transport.pause_reading()
        for _ in range(60):
            service.gateway._clients.all()[0].emit("error", "x" * 50_000)
        began = time.monotonic()
        await service.gateway.close()
        assert time.monotonic() - began < 10
        assert service.engine.sockets == {}


async def test_no_new_connection_is_taken_once_it_closes(service, raw):
    import aiohttp

    await service.gateway.close()
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await raw()
    assert refused.value.status == 503


async def test_a_handler_that_never_ends_is_answered_at_the_deadline(serving, connect):
    async with serving() as service, connect(service.url) as client:
        service.gateway._dispatcher._deadline = 0.1
        await client.call("create_container", {"image": "local", "name": "one"})
        service.manager.hold = asyncio.Event()
        reply = await client.call("start_container", {"container_id": "one"})
        assert (reply["code"], reply["error_type"]) == ("timeout", "state_error")
        assert reply["details"] == {"operation": "start_container", "timeout": 0.1}


def _of_client(task: asyncio.Task) -> bool:
    return task.get_coro().__qualname__.startswith(("AsyncClient.", "Queue.get"))
