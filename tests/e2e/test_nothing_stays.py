"""What a service has seen and is gone leaves nothing: no object, no descriptor, no task, no thread, no file."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from flow_manager.app import Service
from flow_manager.containers import core
from flow_manager.containers import exec as execs
from flow_manager.containers.terminals import Terminals
from flow_manager.idle import wheel
from flow_manager.testing import eventually
from tests.e2e.conftest import Client, Platform, running

ROUNDS = 20
# Seconds in which what ended is let go of, on a busy machine.
PATIENCE = 30.0
# What there may be more of after as many rounds again: tables of libraries that grow by leaps. A leak is at least one a round.
CHANCE = ROUNDS * 3 // 4
# Blocks of Python's own allocator a round, of which strings and numbers are made, too. Some 14 go to caches that have a bound of
# their own and aren't full yet: names that were judged, addresses that were parsed.
BLOCKS_A_ROUND = 50


@dataclass(frozen=True)
class Seen:
    types: Counter[str]
    blocks: int
    descriptors: int
    threads: int
    tasks: int
    files: int

    @classmethod
    def now(cls, folder: Path) -> Seen:
        gc.collect()
        gc.collect()
        return cls(
            types=Counter(
                f"{type(thing).__module__}.{type(thing).__qualname__}"
                for thing in gc.get_objects()
                if not _passing(thing)
            ),
            blocks=sys.getallocatedblocks(),
            descriptors=len(list(Path("/proc/self/fd").iterdir())),
            threads=threading.active_count(),
            tasks=len(asyncio.all_tasks()),
            files=len(list(folder.rglob("*"))),
        )

    def beyond(self, before: Seen) -> dict[str, Any]:
        """What there is more of than chance explains: name → how many there were and are."""
        grown: dict[str, Any] = {
            name: (before.types[name], count)
            for name, count in self.types.items()
            if count > before.types[name] + CHANCE
        }
        # Threads: of the pool, which has its own bound.
        for name, chance in (
            ("blocks", BLOCKS_A_ROUND * ROUNDS),
            ("descriptors", CHANCE),
            ("tasks", CHANCE),
            ("files", CHANCE),
            ("threads", CHANCE),
        ):
            was, now = getattr(before, name), getattr(self, name)
            if now > was + chance:
                grown[name] = (was, now)
        return grown


def _passing(thing: object) -> bool:
    """A cancelled timer, and what it alone holds: asyncio lets go of it when its time comes, or half of all are cancelled."""
    if isinstance(thing, asyncio.TimerHandle):
        return thing.cancelled()
    return type(thing) is contextvars.Context or (type(thing) is weakref.ReferenceType and thing() is None)


async def one_flow(client: Client, number: int) -> None:
    """All that a flow can have: messages, commands, terminals, followed logs, sleep and wake."""
    name = f"seen-{number}"
    secret = {"TOKEN": f"token-of-{number}"}
    flow = await client.ok(
        "create_container", image="memory", command=["echo"], name=name, environment=secret, hosts=[f"{name}.example"],
        idle={"idle_timeout": 300 + number}, request_id=name, start=True,
    )  # fmt: skip
    one = {"container_id": flow["id"]}
    await client.ok("subscribe_wake_events", **one)
    await client.connected_flow(flow["id"])
    await client.ok("send_message", **one, message={name: number}, expect_reply=True)
    await client.ok("exec_container", **one, command=["echo", name], environment=secret)
    terminal = await client.ok("attach_container", **one)
    await client.ok("terminal_input", terminal_id=terminal["terminal_id"], data="exit\n")
    await client.ok("follow_logs", **one)
    await client.ok("sleep_container", **one)
    await client.ok("wake_container", **one)
    await client.ok("set_idle_policy", **one, idle={"idle_timeout": 100 + number})
    await client.ok("kill_container", **one)
    await client.ok("delete_container", **one)


async def refused(client: Client, number: int) -> None:
    for event, request in (
        (f"no_such_event_{number}", {}),
        ("get_status", {"container_id": f"nobody-{number}"}),
        ("create_container", {"image": "memory", f"field_{number}": 1}),
        ("create_container", {"image": f"no-such-image-{number}", "request_id": f"refused-{number}"}),
        ("terminal_input", {"terminal_id": f"none-{number}", "data": "x"}),
        ("list_activity", {"container_id": f"nobody-{number}"}),
    ):
        await client.refused(event, **request)


async def strangers(service: Service, session: aiohttp.ClientSession, number: int) -> None:
    """Who never gets in, asks for nobody, or goes in the middle."""
    polling = f"{service.url}/socket.io/?EIO=4&transport=polling"
    async with session.get(polling) as answer:
        sid = (await answer.json(content_type=None, loads=lambda text: {"sid": text.split('"')[3]}))["sid"]
    for data in (f'42["before_connect_{number}"]', "1"):
        async with session.post(f"{polling}&sid={sid}", data=data):
            pass
    async with session.get(f"{polling}&sid=none-{number}"):
        pass
    async with session.get(f"{service.proxy_url}/{number}", headers={"Host": f"nobody-{number}.localhost"}):
        pass
    for url in (service.url, service.proxy_url):
        host, port = url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET /{number} HTTP/1.1\r\nX-{number}".encode())
        writer.transport.abort()


async def a_round(service: Service, connect: Callable[..., Any], number: int) -> None:
    for transport in ("websocket", "polling"):
        client = await Client([transport]).connect(service.url)
        try:
            await client.ok("subscribe_activity", after=0)
            if transport == "websocket":
                await one_flow(client, number)
            await refused(client, number)
        finally:
            await client.close()
    async with aiohttp.ClientSession() as session:
        await strangers(service, session, number)


@pytest.mark.timeout(180)
async def test_as_many_flows_clients_and_requests_again_leave_no_more_than_the_first(
    memory_platform: Platform, connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is kept for a while is gone at once, so that only what is kept for ever is left.
    monkeypatch.setattr("flow_manager.app.Terminals", partial(Terminals, afterlife=0.01))
    for module in (core, execs):
        monkeypatch.setattr(module, "SECRETS_LINGER", 0.01)
    monkeypatch.setattr(wheel, "FEW", 0)
    settings = memory_platform.settings(activity={"keep": 50}, log={"level": "ERROR"})

    async with running(settings) as service:
        tasks = len(asyncio.all_tasks())

        async def rounds(first: int) -> Seen:
            for number in range(first, first + ROUNDS):
                await a_round(service, connect, number)
            await eventually(lambda: len(asyncio.all_tasks()) <= tasks + CHANCE, PATIENCE)
            return Seen.now(memory_platform.root)

        await rounds(0)  # all that is made once is made
        before = await rounds(ROUNDS)
        await rounds(2 * ROUNDS)

        def left() -> bool:
            more = Seen.now(memory_platform.root).beyond(before)
            assert more == {}
            return True

        # What was cut off last is noticed a moment later.
        await eventually(left, PATIENCE, interval=0.5)
