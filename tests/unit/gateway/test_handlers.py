"""The catalogue and the handlers are the same list."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from flow_manager.contract.events import CLIENT_EVENTS
from flow_manager.contract.principal import LOCAL
from flow_manager.errors import InvalidRequest
from flow_manager.gateway.clients import Client, Clients
from flow_manager.gateway.dispatch import routes
from flow_manager.gateway.handlers import SocketIOEventHandler


class Recorder:
    def __getattr__(self, name):
        def call(principal, request):
            return (name, principal, request)

        async def call_later(principal, request):
            return call(principal, request)

        return call if name in ("get_status", "get_container", "list_containers", "explain_container") else call_later


@pytest.fixture
def handler() -> SocketIOEventHandler:
    clients = Clients()
    clients.add(Client("sid-1", LOCAL, socket=None))
    return SocketIOEventHandler(Recorder(), clients, *(Recorder() for _ in range(7)))


def test_each_event_has_its_handler_and_each_handler_its_event(handler):
    handlers = {name.removeprefix("handle_") for name in dir(handler) if name.startswith("handle_")}
    assert handlers == set(CLIENT_EVENTS)
    assert set(routes(handler)) == set(CLIENT_EVENTS)


@pytest.mark.parametrize("name", CLIENT_EVENTS)
def test_a_handler_takes_a_sid_and_data(handler, name):
    assert list(inspect.signature(getattr(handler, f"handle_{name}")).parameters) == ["sid", "data"]


async def test_a_handler_takes_the_raw_payload(handler):
    name, principal, request = await handler.handle_start_container("sid-1", {"container_id": "x"})
    assert (name, principal, request.container_id, request.wait) == ("start_container", LOCAL, "x", "started")
    assert handler.handle_list_containers("sid-1", None)[0] == "list_containers"


async def test_a_handler_refuses_a_wrong_payload_with_its_field(handler):
    with pytest.raises(InvalidRequest) as refused:
        handler.handle_get_status("sid-1", {"container_id": 5})
    assert refused.value.details["fields"][0]["path"] == "container_id"


async def test_reads_are_answered_at_once_and_the_rest_are_tasks(handler):
    at_once = {name for name, route in routes(handler).items() if route.at_once}
    assert at_once == {
        "get_status",
        "get_container",
        "list_containers",
        "unsubscribe_activity",
        "explain_container",
        "subscribe_wake_events",
        "unsubscribe_wake_events",
        "detach_container",
        "unfollow_logs",
        "follow_usage",
        "unfollow_usage",
    }
    assert not asyncio.iscoroutinefunction(handler.handle_get_status)
