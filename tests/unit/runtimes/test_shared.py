"""What several runtimes share: signals by name, ports of this host, telling watchers."""

from __future__ import annotations

import asyncio
import signal
import socket

import pytest

from flow_manager import errors
from flow_manager.runtimes.base import PortBinding, RuntimeEvent
from flow_manager.runtimes.hub import EventHub
from flow_manager.runtimes.ports import choose_ports
from flow_manager.runtimes.signals import signal_number


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("SIGTERM", 15),
        ("TERM", 15),
        ("sigterm", 15),
        ("SIGKILL", 9),
        ("USR1", 10),
        ("RTMIN", int(signal.SIGRTMIN)),
        ("SIGRTMIN+3", int(signal.SIGRTMIN) + 3),
        ("RTMAX-1", int(signal.SIGRTMAX) - 1),
    ],
)
def test_a_signal_has_a_number(name: str, number: int) -> None:
    assert signal_number(name) == number


@pytest.mark.parametrize("name", ["", "SIG", "NONSENSE", "15", "RTMIN+99", "RTMAX+1", "RTMIN+", "_DFL", "_IGN"])
def test_what_is_no_signal_is_refused(name: str) -> None:
    with pytest.raises(errors.InvalidRequest):
        signal_number(name)


def test_open_ports_are_chosen_apart() -> None:
    bindings = [PortBinding(number, "tcp", 0) for number in range(1, 30)]
    chosen = choose_ports(bindings, promised=(), kind="process")
    assert set(chosen) == {f"{number}/tcp" for number in range(1, 30)}
    assert len(set(chosen.values())) == len(bindings)


def test_a_promised_port_is_in_use_before_anybody_listens() -> None:
    with pytest.raises(errors.PortInUse) as caught:
        choose_ports([PortBinding(80, "tcp", 34567)], promised={34567}, kind="process")
    assert caught.value.details["port"] == 34567
    assert caught.value.error_type == "process_error"


@pytest.mark.parametrize(("protocol", "kind"), [("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)])
def test_a_bound_port_is_in_use(protocol: str, kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        with pytest.raises(errors.PortInUse):
            choose_ports([PortBinding(80, protocol, taken.getsockname()[1])], promised=(), kind="process")


def test_an_address_that_is_not_this_hosts_fails_the_start() -> None:
    with pytest.raises(errors.StartFailed):
        choose_ports([PortBinding(80, "tcp", 0, "192.0.2.1")], promised=(), kind="process")
    with pytest.raises(errors.StartFailed):
        choose_ports([PortBinding(80, "sctp", 0)], promised=(), kind="process")


async def test_one_who_falls_behind_is_told_to_look_again() -> None:
    hub = EventHub(max_behind=3)
    watching = hub.watch()
    assert (await anext(watching)).type == "resync"
    for number in range(7):
        hub.publish(RuntimeEvent("started", str(number)))
    hub.close()
    assert [(event.type, event.id) async for event in watching] == [
        ("resync", None),
        ("started", "5"),
        ("started", "6"),
    ]
    assert hub._watchers == set()


async def test_a_watch_that_is_cancelled_is_forgotten() -> None:
    hub = EventHub()
    watching = hub.watch()
    await anext(watching)
    waiting = asyncio.ensure_future(anext(watching))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert hub._watchers == set()


async def test_a_watch_of_a_closed_hub_ends() -> None:
    hub = EventHub()
    hub.close()
    assert [event.type async for event in hub.watch()] == ["resync"]
