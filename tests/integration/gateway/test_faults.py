"""Faults of ours: each is answered, logged once with its trace, and hurts nobody else."""

from __future__ import annotations

import pytest
import socketio.exceptions

from flow_manager.errors import NoSpace


async def test_a_reply_that_is_no_json_becomes_an_internal_error(service, connect):
    async with connect(service.url) as client:
        await client.call("create_container", {"image": "local", "name": "one"})
        service.manager.flows["oneaaaaaaaaa"]["name"] = "one\ud800"
        reply = await client.call("get_status", {"container_id": "oneaaaaaaaaa"})
        assert reply["code"] == "internal"
        reply = await client.call("start_container", {"container_id": "oneaaaaaaaaa"})
        assert reply["code"] == "internal"
        service.manager.broken = NoSpace("full", kind="memory", where=object())
        assert (await client.call("get_status", {"container_id": "x"}))["code"] == "internal"
        assert len(service.log.errors) == 3


@pytest.mark.parametrize("auth", [None, {"token": "x"}])
async def test_a_type_error_in_the_connect_hook_is_not_taken_for_an_old_signature(service, spy, monkeypatch, auth):
    """python-socketio calls a connect handler that raised TypeError a second time, without the auth."""
    calls = []

    def broken(given):
        calls.append(given)
        raise TypeError("ours")

    monkeypatch.setattr(service.gateway._authenticator, "authenticate", broken)
    with pytest.raises(socketio.exceptions.ConnectionError):
        await spy.sio.connect(service.url, transports=["websocket"], auth=auth)
    assert len(calls) == 1
    assert spy.refusals[0]["data"]["code"] == "internal"
    assert len(service.log.errors) == 1
    await spy.sio.eio.disconnect()


async def test_a_hello_that_fails_leaves_the_client_connected(service, raw, monkeypatch):
    monkeypatch.setattr(service.gateway, "_describe", lambda principal: 1 / 0)
    client = await raw(connect=False)
    await client.send("40")
    await client.until("40{")
    await client.send('427["list_containers"]')
    assert '"error":false' in await client.until("437")
    assert len(service.log.errors) == 1


async def test_metrics_count_events_by_name_and_never_by_what_a_client_made_up(service, connect):
    async with connect(service.url) as client:
        await client.call("list_containers")
        for number in range(5):
            await client.call(f"made_up_{number}")
        text = service.gateway.metrics()
    assert 'flow_manager_events_total{event="list_containers",outcome="ok"} 1' in text
    assert 'flow_manager_events_total{event="other",outcome="unknown_event"} 5' in text
    assert "made_up" not in text
    assert "flow_manager_clients 1" in text
