"""Sleeping and waking over a real connection: the events, and their steps to those who follow them."""

from __future__ import annotations

import pytest

from flow_manager.util.tokens import hash_token

TRANSPORTS = pytest.mark.parametrize("transport", ["websocket", "polling"])


@TRANSPORTS
async def test_a_client_follows_a_wake_from_its_history_on(service, connect, transport, eventually):
    async with connect(service.url, transport) as client, connect(service.url) as bystander:
        flow = (await client.call("create_container", {"image": "local", "name": "one"}))["data"]["id"]
        service.waker.step(flow, "waking_dep")
        history = (await client.call("subscribe_wake_events", {"container_id": "one"}))["data"]["history"]
        assert [event["type"] for event in history] == ["waking_dep"]
        woken = await client.call("wake_container", {"container_id": "one"})
        assert woken["data"]["flow_state"] == "ready"
        steps = await client.wait_for("wake_event", 2)
        assert [(step["container_id"], step["type"], step["id"]) for step in steps] == [
            (flow, "starting", 2),
            (flow, "ready", 3),
        ]
        assert (await client.call("unsubscribe_wake_events", {"container_id": "one"}))["data"] == {}
        service.waker.step(flow, "starting")
        await client.call("list_containers")
        assert len(client.of("wake_event")) == 2
        assert bystander.of("wake_event") == []


async def test_a_connection_that_ends_is_no_longer_told(service, connect, eventually):
    async with connect(service.url) as client:
        await client.call("create_container", {"image": "local", "name": "one"})
        await client.call("subscribe_wake_events", {"container_id": "one"})
        assert len(service.waker.listeners) == 1
    await eventually(lambda: service.waker.listeners == [])


async def test_sleep_policy_and_explanation(service, connect):
    async with connect(service.url) as client:
        flow = (await client.call("create_container", {"image": "local", "name": "one", "start": True}))["data"]["id"]
        slept = await client.call("sleep_container", {"container_id": flow})
        assert slept["data"]["flow_state"] == "napping"
        policy = {"idle_timeout": "5m", "stop_method": "pause"}
        told = await client.call("set_idle_policy", {"container_id": flow, "idle": policy})
        assert (told["data"]["idle"]["idle_timeout"], told["data"]["idle"]["stop_method"]) == (300, "pause")
        assert (await client.call("explain_container", {"container_id": "one"}))["data"] == told["data"]
        refused = await client.call("set_idle_policy", {"container_id": flow, "idle": {"colour": "red"}})
        assert refused["details"]["fields"][0]["path"] == "idle.colour"


async def test_a_reader_may_follow_and_explain_but_not_wake(serving, connect):
    tokens = [{"name": "r", "hash": hash_token("reader"), "scopes": ["read"]}, {"name": "w", "hash": hash_token("w")}]
    async with (
        serving(auth={"tokens": tokens}) as service,
        connect(service.url, auth={"token": "w"}) as writer,
        connect(service.url, auth={"token": "reader"}) as reader,
    ):
        await writer.call("create_container", {"image": "local", "name": "one"})
        one = {"container_id": "one"}
        assert (await reader.call("subscribe_wake_events", one))["error"] is False
        assert (await reader.call("explain_container", one))["error"] is False
        for event in ("wake_container", "sleep_container"):
            assert (await reader.call(event, one))["code"] == "forbidden"
        assert (await reader.call("set_idle_policy", {**one, "idle": {}}))["code"] == "forbidden"


async def test_another_tenants_flow_is_not_there(serving, connect):
    tokens = [{"name": "a", "hash": hash_token("a")}, {"name": "b", "hash": hash_token("b"), "tenant": "lab"}]
    async with (
        serving(auth={"tokens": tokens}) as service,
        connect(service.url, auth={"token": "a"}) as mine,
        connect(service.url, auth={"token": "b"}) as theirs,
    ):
        await mine.call("create_container", {"image": "local", "name": "one"})
        for event in ("wake_container", "sleep_container", "explain_container", "subscribe_wake_events"):
            assert (await theirs.call(event, {"container_id": "one"}))["code"] == "container_not_found"
