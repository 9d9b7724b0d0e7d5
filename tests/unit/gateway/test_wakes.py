"""Who follows which flow's wakes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from flow_manager.contract.principal import LOCAL, Principal
from flow_manager.contract.requests import OneContainer
from flow_manager.contract.wake import WakeEvent, WakeHistory
from flow_manager.errors import ContainerNotFound, TooManyStreams, UnknownEvent
from flow_manager.gateway import wakes
from flow_manager.gateway.clients import Client
from flow_manager.gateway.wakes import NoWaker, WakeSubscriptions

OTHER = Principal("eve", tenant="lab")


class FakeWaker:
    """Two flows of the default tenant, each with those who listen."""

    def __init__(self):
        self.flows = {"aaaaaaaaaaaa": "one", "bbbbbbbbbbbb": "two"}
        self.listeners = []

    def resolve(self, principal, ref):
        for flow_id, name in self.flows.items():
            if ref in (flow_id, name) and principal.tenant == LOCAL.tenant:
                return flow_id
        raise ContainerNotFound(ref, kind="memory")

    def subscribe_wake_events(self, principal, request, listener):
        self.listeners.append((self.resolve(principal, request.container_id), listener))
        return WakeHistory(history=[step(1)])

    def unsubscribe_wake_events(self, principal, request, listener):
        self.listeners.remove((self.resolve(principal, request.container_id), listener))

    def tell(self, flow_id, event):
        for of, listener in list(self.listeners):
            if of == flow_id:
                listener(flow_id, event)


def step(number):
    return WakeEvent(type="starting", message="it starts", timestamp=datetime(2026, 1, 1, tzinfo=UTC), id=number)


def client(principal=LOCAL):
    made = Client("sid", principal, SimpleNamespace(queue=SimpleNamespace(sent=[])))
    made.socket.client = made
    made.socket.queue.put_nowait = made.socket.queue.sent.append
    return made


def sent(to):
    return [json.loads(frame.payload[2:]) for frame in to.socket.queue.sent]


@pytest.fixture
def waker():
    return FakeWaker()


@pytest.fixture
def subscriptions(waker):
    return WakeSubscriptions(waker, waker.resolve)


def test_steps_go_to_those_who_follow_that_flow_alone(waker, subscriptions):
    mine, other = client(), client()
    assert subscriptions.subscribe(mine, OneContainer(container_id="one")).history == [step(1)]
    subscriptions.subscribe(other, OneContainer(container_id="two"))
    waker.tell("aaaaaaaaaaaa", step(2))
    [(name, body)] = sent(mine)
    assert (name, body["container_id"], body["id"], body["type"]) == ("wake_event", "aaaaaaaaaaaa", 2, "starting")
    assert body["timestamp"].endswith("Z")
    assert sent(other) == []


def test_following_again_replaces_so_that_no_step_comes_twice(waker, subscriptions):
    mine = client()
    for ref in ("one", "aaaaaaaaaaaa", "one"):
        subscriptions.subscribe(mine, OneContainer(container_id=ref))
    waker.tell("aaaaaaaaaaaa", step(2))
    assert (len(sent(mine)), len(subscriptions), len(waker.listeners)) == (1, 1, 1)


def test_a_flow_of_another_tenant_is_not_there(waker, subscriptions):
    with pytest.raises(ContainerNotFound):
        subscriptions.subscribe(client(OTHER), OneContainer(container_id="one"))
    assert waker.listeners == []


def test_after_unsubscribing_nothing_comes_and_doing_it_again_is_harmless(waker, subscriptions):
    mine = client()
    subscriptions.subscribe(mine, OneContainer(container_id="one"))
    for _ in range(2):
        subscriptions.unsubscribe(mine, OneContainer(container_id="one"))
    waker.tell("aaaaaaaaaaaa", step(2))
    assert (sent(mine), len(subscriptions), waker.listeners) == ([], 0, [])
    with pytest.raises(ContainerNotFound):
        subscriptions.unsubscribe(mine, OneContainer(container_id="three"))


def test_a_connection_that_ends_leaves_no_listener(waker, subscriptions):
    mine, other = client(), client()
    for flow in ("one", "two"):
        subscriptions.subscribe(mine, OneContainer(container_id=flow))
    subscriptions.subscribe(other, OneContainer(container_id="one"))
    subscriptions.drop(mine)
    subscriptions.drop(mine)
    assert (len(subscriptions), len(waker.listeners)) == (1, 1)


def test_a_flow_that_was_deleted_can_be_left_by_its_id(waker, subscriptions):
    mine = client()
    subscriptions.subscribe(mine, OneContainer(container_id="one"))
    del waker.flows["aaaaaaaaaaaa"]
    subscriptions.unsubscribe(mine, OneContainer(container_id="aaaaaaaaaaaa"))
    assert len(subscriptions) == 0


def test_the_number_that_one_connection_follows_is_bounded(subscriptions, monkeypatch):
    monkeypatch.setattr(wakes, "MAX_FOLLOWED", 1)
    mine = client()
    subscriptions.subscribe(mine, OneContainer(container_id="one"))
    subscriptions.subscribe(mine, OneContainer(container_id="one"))
    with pytest.raises(TooManyStreams) as refused:
        subscriptions.subscribe(mine, OneContainer(container_id="two"))
    assert refused.value.details["limit"] == 1


async def test_without_watchers_the_events_do_not_exist():
    for event in ("wake_container", "sleep_container", "set_idle_policy"):
        with pytest.raises(UnknownEvent):
            await getattr(NoWaker(), event)(LOCAL, None)
    with pytest.raises(UnknownEvent):
        NoWaker().explain_container(LOCAL, None)
