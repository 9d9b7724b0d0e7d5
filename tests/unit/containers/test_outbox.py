"""Messages for flows that are away: stored first, delivered in order once the flow is there, never lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from flow_manager.containers import courier as courier_module
from flow_manager.containers import rousing as rousing_module
from flow_manager.containers.messages import send_message
from flow_manager.containers.outbox import Outbox
from flow_manager.containers.sleep import sleep_now, wake_now
from flow_manager.contract import requests
from flow_manager.contract.principal import LOCAL, MANAGER
from flow_manager.errors import (
    Conflict,
    ContainerNotFound,
    DiskFull,
    FlowManagerError,
    Internal,
    NotConnected,
    QueueFull,
    ReplyTimeout,
    ShuttingDown,
    StartFailed,
    Unsupported,
)
from flow_manager.testing import eventually

DEADLINE = 10.0


class FakeLease:
    def __init__(self, held: list[str], holder: str) -> None:
        self._held, self._holder = held, holder
        held.append(holder)

    def release(self) -> None:
        if self._holder in self._held:
            self._held.remove(self._holder)


class FakeWatcher:
    """Wakes as the real one does, through the manager; `fault` is raised instead, `hold` makes it wait, `fresh` holds it back."""

    def __init__(self, house: Any, flow_id: str) -> None:
        self.house = house
        self.flow_id = flow_id
        self.held: list[str] = []
        self.wakes: list[bool] = []
        self.fault: FlowManagerError | None = None
        self.fresh: FlowManagerError | None = None
        self.hold: asyncio.Event | None = None

    def use(self, kind: str, holder: str) -> FakeLease:
        assert kind == "message"
        return FakeLease(self.held, holder)

    async def wake(self, *, reason: str, by_request: bool = True) -> None:
        assert reason
        self.wakes.append(by_request)
        if self.hold is not None:
            await self.hold.wait()
        if self.fault is not None:
            raise self.fault
        await wake_now(self.house.core, MANAGER, self.house.core.table.get(self.flow_id), clear_stopped=not by_request)

    def held_back(self) -> FlowManagerError | None:
        return self.fresh


class RawFlow:
    """A flow's end of the channel under the test's control; it says hello and acknowledges when told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def say(self, **frame: Any) -> None:
        self.writer.write(json.dumps(frame).encode() + b"\n")

    async def message(self) -> dict[str, Any]:
        while True:
            async with asyncio.timeout(DEADLINE):
                line = await self.reader.readline()
            if not line:
                raise EOFError
            frame = json.loads(line)
            if frame["type"] == "message":
                return frame

    async def nothing_comes(self) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await self.reader.readline()

    def close(self) -> None:
        self.writer.transport.abort()


class Post:
    """A house with an outbox, and one flow in it."""

    def __init__(self, house: Any) -> None:
        self.house = house
        self.core = house.core
        self.watchers: dict[str, FakeWatcher] = {}
        self.outbox = Outbox(house.core, house.store.outbox, self.watcher)
        self.flows: list[RawFlow] = []

    def watcher(self, flow_id: str) -> FakeWatcher:
        if flow_id not in self.watchers:
            self.watchers[flow_id] = FakeWatcher(self.house, flow_id)
        return self.watchers[flow_id]

    async def flow(self, *command: str, name: str = "f", start: bool = False, **fields: Any) -> str:
        request = requests.CreateContainer(
            image="memory", name=name, command=list(command) or ["sleep"], start=start, **fields
        )
        return (await self.house.manager.create_container(LOCAL, request)).id

    async def sleep(self, flow_id: str, method: str = "stop") -> None:
        entry = self.core.table.get(flow_id)
        await sleep_now(self.core, MANAGER, entry, reason="a test")

    async def send(self, flow_id: str, message: Any = None, **fields: Any) -> Any:
        fields = {"wake": True, **fields}
        return await send_message(
            self.core,
            LOCAL,
            requests.SendMessage(container_id=flow_id, message=message if message is not None else {}, **fields),
        )

    async def connect(self, flow_id: str, **hello: Any) -> RawFlow:
        """Play the flow's program: connects as soon as the manager listens."""
        path = self.core.channel.socket_path(flow_id)
        await eventually(path.exists)
        flow = RawFlow(*await asyncio.open_unix_connection(str(path)))
        self.flows.append(flow)
        if hello:
            flow.say(type="hello", contract=1, **hello)
        return flow

    async def waiting(self, flow_id: str) -> list[str]:
        return [message.message_id for message in await self.house.store.outbox.waiting() if message.flow_id == flow_id]

    async def empty(self, flow_id: str) -> None:
        await eventually(lambda: self.outbox.waiting(flow_id) == 0)

        async def removed() -> bool:
            return await self.waiting(flow_id) == []

        await eventually(removed)


@pytest.fixture
def opening(builder: Any) -> Callable[..., Any]:
    @asynccontextmanager
    async def opened(**settings: Any) -> AsyncIterator[Post]:
        async with builder.open(**settings) as house:
            post = Post(house)
            house.core.outbox = post.outbox
            await post.outbox.open()
            try:
                yield post
            finally:
                await post.outbox.close()
                for flow in post.flows:
                    flow.close()
                assert all(watcher.held == [] for watcher in post.watchers.values()), "a lease was left"

    return opened


@pytest.fixture
async def post(opening: Any) -> AsyncIterator[Post]:
    async with opening() as opened:
        yield opened


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other at once."""
    monkeypatch.setattr(courier_module, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(courier_module, "LONGEST_WAIT", 0.02)
    monkeypatch.setattr(rousing_module, "FIRST_REST", 0.01)
    monkeypatch.setattr(rousing_module, "LONGEST_REST", 0.02)


# --- one message ------------------------------------------------------------------------------------------------------


async def test_a_message_for_a_sleeping_flow_is_stored_then_wakes_it_and_is_delivered(post: Post) -> None:
    flow = await post.flow()
    post.watcher(flow).hold = asyncio.Event()
    delivery = await post.send(flow, {"n": 1})
    assert (delivery.delivered, delivery.queued) == (False, True)
    assert await post.waiting(flow) == [delivery.message_id]
    post.watcher(flow).hold.set()
    program = await post.connect(flow, acks=True)
    frame = await program.message()
    assert (frame["id"], frame["body"]) == (delivery.message_id, {"n": 1})
    assert await post.waiting(flow) == [delivery.message_id], "not removed before it is acknowledged"
    program.say(type="ack", to=frame["id"])
    await post.empty(flow)
    assert post.watcher(flow).wakes == [False]


async def test_a_message_for_a_flow_that_is_there_is_delivered_at_once_and_wakes_nothing(post: Post) -> None:
    flow = await post.flow("echo", start=True)
    await eventually(lambda: post.core.channel.is_socket_connected(flow))
    delivery = await post.send(flow, {"n": 1}, expect_reply=True)
    assert (delivery.delivered, delivery.queued, delivery.reply) == (True, False, {"echo": {"n": 1}})
    assert post.watcher(flow).wakes == []


async def test_without_wake_a_flow_that_is_away_is_not_connected_at_once(post: Post) -> None:
    flow = await post.flow()
    post.watcher(flow).hold = asyncio.Event()
    await post.send(flow)
    with pytest.raises(NotConnected):
        await post.send(flow, wake=False)
    assert post.outbox.waiting(flow) == 1


async def test_a_reply_is_waited_for_through_wake_and_delivery(post: Post) -> None:
    flow = await post.flow("echo")
    delivery = await post.send(flow, {"n": 1}, expect_reply=True, timeout=20)
    assert (delivery.delivered, delivery.queued, delivery.reply) == (True, False, {"echo": {"n": 1}})
    await post.empty(flow)


async def test_a_wake_that_takes_too_long_is_a_timeout_that_says_that_the_message_waits_on(post: Post) -> None:
    flow = await post.flow("echo")
    post.watcher(flow).hold = asyncio.Event()
    with pytest.raises(ReplyTimeout) as caught:
        await post.send(flow, {"n": 1}, expect_reply=True, timeout=0.05)
    assert caught.value.details["queued"] is True
    assert await post.waiting(flow) == [caught.value.details["message_id"]]
    post.watcher(flow).hold.set()
    await post.empty(flow)


async def test_a_reply_that_does_not_come_is_a_timeout_of_a_delivered_message(post: Post) -> None:
    flow = await post.flow()
    asking = asyncio.ensure_future(post.send(flow, expect_reply=True, timeout=0.4))
    program = await post.connect(flow, acks=True)
    program.say(type="ack", to=(await program.message())["id"])
    with pytest.raises(ReplyTimeout) as caught:
        await asking
    assert (caught.value.details["queued"], caught.value.details["waited_for"]) == (False, "reply")
    await post.empty(flow)
    await eventually(lambda: post.watcher(flow).held == [])


async def test_the_flow_is_kept_awake_while_its_messages_are_delivered_and_a_reply_is_awaited(post: Post) -> None:
    flow = await post.flow()
    asking = asyncio.ensure_future(post.send(flow, expect_reply=True, timeout=20))
    program = await post.connect(flow, acks=True)
    frame = await program.message()
    assert "outbox" in post.watcher(flow).held
    program.say(type="ack", to=frame["id"])
    await post.empty(flow)
    await eventually(lambda: "outbox" not in post.watcher(flow).held)
    assert frame["id"] in post.watcher(flow).held
    program.say(type="reply", to=frame["id"], body={"a": 1})
    assert (await asking).reply == {"a": 1}
    await eventually(lambda: post.watcher(flow).held == [])


async def test_a_flow_that_somebody_stopped_starts_for_a_message_that_asks_for_it(post: Post) -> None:
    flow = await post.flow("echo", start=True)
    await post.house.manager.stop_container(LOCAL, requests.StopContainer(container_id=flow))
    assert (await post.send(flow, {"n": 1}, expect_reply=True)).reply == {"echo": {"n": 1}}
    assert post.core.table.get(flow).record.desired == "running"


async def test_a_paused_flow_is_woken_though_its_connection_stands(post: Post) -> None:
    flow = await post.flow("echo", start=True, idle={"stop_method": "pause"})
    await eventually(lambda: post.core.channel.is_socket_connected(flow))
    await post.sleep(flow)
    assert post.core.channel.is_socket_connected(flow)
    assert (await post.send(flow, {"n": 1}, expect_reply=True)).reply == {"echo": {"n": 1}}
    assert post.watcher(flow).wakes == [False]


async def test_without_a_watcher_the_manager_itself_starts_the_flow(post: Post) -> None:
    post.outbox._watcher = lambda _flow: None
    flow = await post.flow("echo")
    assert (await post.send(flow, {"n": 1}, expect_reply=True)).reply == {"echo": {"n": 1}}


async def test_without_an_outbox_waking_is_not_supported(house: Any) -> None:
    flow = (await house.manager.create_container(LOCAL, requests.CreateContainer(image="memory", command=["sleep"]))).id
    with pytest.raises(Unsupported):
        await house.manager.send_message(LOCAL, requests.SendMessage(container_id=flow, message={}, wake=True))


# --- order ------------------------------------------------------------------------------------------------------------


async def test_whatever_is_sent_while_messages_wait_goes_behind_them(post: Post) -> None:
    flow = await post.flow()
    for n in range(3):
        await post.send(flow, {"n": n})
    program = await post.connect(flow, acks=True)
    first = await program.message()
    # It is connected now; the queue is not empty yet.
    queued = await post.send(flow, {"n": 3})
    behind = asyncio.ensure_future(post.send(flow, {"n": 4}, wake=False))
    last = asyncio.ensure_future(post.send(flow, {"n": 5}, wake=False, expect_reply=True))
    await eventually(lambda: post.outbox.waiting(flow) == 6)
    assert queued.queued
    seen = [first]
    program.say(type="ack", to=first["id"])
    while len(seen) < 6:
        seen.append(await program.message())
        program.say(type="ack", to=seen[-1]["id"])
    assert [frame["body"]["n"] for frame in seen] == list(range(6))
    assert (await behind).delivered
    program.say(type="reply", to=seen[-1]["id"], body="done")
    assert (await last).reply == "done"
    await post.empty(flow)


async def test_one_that_only_waits_its_turn_fails_with_the_connection_and_is_not_kept(post: Post) -> None:
    flow = await post.flow()
    await post.send(flow, {"n": 0})
    program = await post.connect(flow, acks=True)
    await program.message()
    behind = asyncio.ensure_future(post.send(flow, {"n": 1}, wake=False))
    await eventually(lambda: post.outbox.waiting(flow) == 2)
    program.close()
    with pytest.raises(NotConnected):
        await behind
    again = await post.connect(flow, acks=True)
    frame = await again.message()
    assert frame["body"] == {"n": 0}
    again.say(type="ack", to=frame["id"])
    await post.empty(flow)
    await again.nothing_comes()


async def test_one_that_gave_up_waiting_its_turn_is_withdrawn(post: Post) -> None:
    flow = await post.flow()
    await post.send(flow, {"n": 0})
    program = await post.connect(flow, acks=True)
    first = await program.message()
    with pytest.raises(ReplyTimeout) as caught:
        await post.send(flow, {"n": 1}, wake=False, timeout=0.02)
    assert caught.value.details["queued"] is False
    program.say(type="ack", to=first["id"])
    await post.empty(flow)
    await program.nothing_comes()


async def test_replies_do_not_hold_up_what_comes_behind(post: Post) -> None:
    flow = await post.flow()
    slow = asyncio.ensure_future(post.send(flow, {"n": 0}, expect_reply=True, timeout=20))
    await eventually(lambda: post.outbox.waiting(flow) == 1)
    await post.send(flow, {"n": 1})
    program = await post.connect(flow, acks=True)
    first = await program.message()
    program.say(type="ack", to=first["id"])
    second = await program.message()
    program.say(type="ack", to=second["id"])
    await post.empty(flow)
    assert not slow.done()
    program.say(type="reply", to=first["id"], body=1)
    assert (await slow).reply == 1


async def test_a_flow_that_says_no_hello_gets_its_messages_all_the_same(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier_module, "HELLO_WITHIN", 0.02)
    flow = await post.flow()
    await post.send(flow, {"n": 0})
    program = await post.connect(flow)
    assert (await program.message())["body"] == {"n": 0}
    await post.empty(flow)


# --- bounds -----------------------------------------------------------------------------------------------------------


async def test_too_many_messages_and_too_many_bytes_are_refused_with_the_limit(opening: Any) -> None:
    async with opening(idle={"outbox_messages": 2}, channel={"outbox": 65536}) as post:
        flow, other = await post.flow(), await post.flow(name="g")
        post.watcher(flow).hold = post.watcher(other).hold = asyncio.Event()
        for _ in range(2):
            await post.send(flow)
        with pytest.raises(QueueFull) as caught:
            await post.send(flow)
        assert caught.value.details["limit"] == 2
        await post.send(other, {"text": "x" * 60_000})
        with pytest.raises(QueueFull) as caught:
            await post.send(other, {"text": "x" * 6_000})
        assert caught.value.details["limit"] == 65536
        assert len(await post.waiting(flow)) == 2
        assert len(await post.waiting(other)) == 1
        await post.house.manager.delete_container(LOCAL, requests.DeleteContainer(container_id=flow))
        assert await post.waiting(flow) == []


async def test_what_is_too_old_goes_and_people_are_told(opening: Any) -> None:
    async with opening(idle={"outbox_keep": 0.01}) as post:
        flow = await post.flow()
        post.watcher(flow).hold = asyncio.Event()
        await post.send(flow)
        await asyncio.sleep(0.02)
        await post.outbox.expire()
        assert (post.outbox.waiting(flow), await post.waiting(flow)) == (0, [])
        await post.house.told("messages_expired")


async def test_an_old_message_is_not_delivered_even_before_the_sweep(opening: Any) -> None:
    async with opening(idle={"outbox_keep": 0.01}) as post:
        flow = await post.flow("echo")
        post.watcher(flow).hold = asyncio.Event()
        await post.send(flow)
        await asyncio.sleep(0.02)
        post.watcher(flow).hold.set()
        await post.empty(flow)
        assert post.house.stream is not None
        assert "container_message" not in await post.house.activity()


async def test_a_message_that_cannot_be_stored_is_refused_and_does_not_wake(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = await post.flow()

    async def full(*_: Any, **__: Any) -> Any:
        raise DiskFull("full")

    monkeypatch.setattr(post.house.store.outbox, "put", full)
    with pytest.raises(DiskFull):
        await post.send(flow)
    assert (post.outbox.waiting(flow), post.watcher(flow).wakes) == (0, [])


# --- failures ---------------------------------------------------------------------------------------------------------


async def test_a_wake_that_fails_keeps_the_messages_and_says_so(post: Post, quick: None) -> None:
    flow = await post.flow("echo")
    post.watcher(flow).fault = StartFailed("no", exit_code=3)
    with pytest.raises(StartFailed) as caught:
        await post.send(flow, {"n": 1}, expect_reply=True)
    assert caught.value.details["queued"] is True
    assert caught.value.details["exit_code"] == 3
    assert post.watcher(flow).fault.details == {"exit_code": 3}, "everybody else's error is untouched"
    assert await post.waiting(flow) == [caught.value.details["message_id"]]
    # It gives up after a number of tries, and the next message begins anew.
    await eventually(lambda: len(post.watcher(flow).wakes) == courier_module.TRIES)
    await eventually(lambda: post.watcher(flow).held == [])
    post.watcher(flow).fault = None
    assert (await post.send(flow, {"n": 2}, expect_reply=True)).reply == {"echo": {"n": 2}}
    await post.empty(flow)


async def test_a_flow_that_somebody_stops_again_is_not_woken_for_what_is_left(post: Post, quick: None) -> None:
    flow = await post.flow()
    post.watcher(flow).fault = Conflict("somebody stopped it", desired="stopped")
    await post.send(flow)
    await eventually(lambda: post.watcher(flow).held == [] and post.watcher(flow).wakes == [False])
    assert post.outbox.waiting(flow) == 1


async def test_messages_that_were_given_up_are_delivered_when_the_flow_connects_for_another_reason(
    post: Post, quick: None
) -> None:
    flow = await post.flow("echo")
    post.watcher(flow).fault = StartFailed("no")
    await post.send(flow, {"n": 1})
    await eventually(lambda: len(post.watcher(flow).wakes) == courier_module.TRIES)
    post.watcher(flow).fault = None
    await post.house.manager.start_container(LOCAL, requests.StartContainer(container_id=flow))
    await post.empty(flow)


async def test_a_flow_that_ends_over_each_first_message_is_not_woken_for_ever(post: Post, quick: None) -> None:
    flow = await post.flow()
    watcher, handled = post.watcher(flow), 0
    await post.send(flow)

    def woken_or_given_up() -> bool:
        return len(watcher.wakes) > handled or not post.outbox._couriers[flow]._task

    while True:
        await eventually(woken_or_given_up)
        if len(watcher.wakes) == handled:
            break
        # Each time it is woken it connects, and ends as soon as it has read the message.
        handled = len(watcher.wakes)
        program = await post.connect(flow, acks=True)
        await program.message()
        program.close()
    assert handled <= courier_module.TRIES
    assert post.outbox.waiting(flow) == 1


async def test_a_deleted_flow_takes_its_messages_along_and_tells_who_waits(post: Post) -> None:
    flow = await post.flow()
    post.watcher(flow).hold = asyncio.Event()
    asking = asyncio.ensure_future(post.send(flow, expect_reply=True))

    async def stored() -> bool:
        return len(await post.waiting(flow)) == 1

    await eventually(stored)
    await post.house.manager.delete_container(LOCAL, requests.DeleteContainer(container_id=flow, force=True))
    with pytest.raises(ContainerNotFound):
        await asking
    assert await post.waiting(flow) == []


async def test_a_shutdown_tells_who_waits_and_keeps_the_message(opening: Any) -> None:
    async with opening() as post:
        flow = await post.flow()
        post.watcher(flow).hold = asyncio.Event()
        asking = asyncio.ensure_future(post.send(flow, expect_reply=True))
        await eventually(lambda: post.outbox.waiting(flow) == 1)
        await eventually(lambda: post.watcher(flow).wakes == [False])
        await post.outbox.close()
        with pytest.raises(ShuttingDown) as caught:
            await asking
        assert caught.value.details["queued"] is True
        assert len(await post.waiting(flow)) == 1


async def test_a_repeated_request_is_one_message(post: Post) -> None:
    flow = await post.flow()
    post.watcher(flow).hold = asyncio.Event()
    with pytest.raises(ReplyTimeout) as caught:
        await post.send(flow, {"n": 1}, expect_reply=True, timeout=0.05, request_id="r")
    again = await post.send(flow, {"n": 1}, request_id="r")
    assert (again.queued, again.message_id) == (True, caught.value.details["message_id"])
    another = await post.send(flow, {"n": 1}, request_id="s")
    assert await post.waiting(flow) == [again.message_id, another.message_id]


# --- a hundred messages, whatever happens -----------------------------------------------------------------------------


async def collect(post: Post, flow: str, count: int, seen: list[int], *, leave_after: int | None = None) -> None:
    """Play a flow that acknowledges and drops what it had already, by id; it may crash before an acknowledgement."""
    known: set[str] = set()
    while len(seen) < count:
        program = await post.connect(flow, acks=True)
        try:
            while len(seen) < count:
                frame = await program.message()
                if frame["id"] not in known:
                    known.add(frame["id"])
                    seen.append(frame["body"]["n"])
                if leave_after is not None and len(seen) == leave_after:
                    leave_after = None
                    break
                program.say(type="ack", to=frame["id"])
        except (EOFError, OSError):
            pass
        program.close() if len(seen) < count else program.writer.write(b"")
        await asyncio.sleep(0)


async def test_a_hundred_messages_to_a_sleeping_flow_come_once_each_in_order(post: Post) -> None:
    flow = await post.flow()
    replies = await asyncio.gather(*(post.send(flow, {"n": n}) for n in range(100)))
    assert all(reply.queued for reply in replies)
    seen: list[int] = []
    await collect(post, flow, 100, seen)
    assert seen == list(range(100))
    await post.empty(flow)
    assert post.watcher(flow).wakes == [False], "one wake for all"


async def test_a_flow_that_crashes_amid_the_delivery_gets_the_rest_in_order(post: Post, quick: None) -> None:
    flow = await post.flow()
    for n in range(100):
        await post.send(flow, {"n": n})
    seen: list[int] = []
    await collect(post, flow, 100, seen, leave_after=40)
    assert seen == list(range(100))
    await post.empty(flow)


async def test_the_messages_survive_restarts_of_the_manager_also_one_amid_the_delivery(opening: Any) -> None:
    seen: list[int] = []
    known: set[str] = set()
    async with opening() as post:
        flow = await post.flow()
        post.watcher(flow).hold = asyncio.Event()
        for n in range(60):
            await post.send(flow, {"n": n})
    for stop_after in (20, 50, 100):
        async with opening() as post:
            if stop_after == 20:
                # It was never started: a new message asks for it by name.
                assert post.watcher(flow).wakes == []
                for n in range(60, 100):
                    await post.send(flow, {"n": n})
            program = await post.connect(flow, acks=True)
            while len(seen) < stop_after:
                frame = await program.message()
                if frame["id"] not in known:
                    known.add(frame["id"])
                    seen.append(frame["body"]["n"])
                if len(seen) < stop_after or stop_after == 100:
                    program.say(type="ack", to=frame["id"])
            if stop_after == 100:
                await post.empty(flow)
    assert seen == list(range(100))


@pytest.mark.parametrize(
    ("idle", "by_request"),
    [({"idle_timeout": 60}, True), (None, False)],  # without a policy nothing but its name wakes a flow
)
async def test_a_wanted_flow_is_woken_at_the_next_start_for_what_waits(
    opening: Any, idle: dict[str, Any] | None, by_request: bool
) -> None:
    async with opening() as post:
        flow = await post.flow("echo", start=True, idle=idle)
        await post.sleep(flow)
        post.watcher(flow).hold = asyncio.Event()
        await post.send(flow, {"n": 1})
    async with opening() as post:
        await post.empty(flow)
        assert post.watcher(flow).wakes == [by_request]


async def test_a_flow_that_ends_before_it_connects_is_woken_again_at_once(post: Post, quick: None) -> None:
    flow = await post.flow("die-soon", "3")
    await post.send(flow)
    await eventually(lambda: len(post.watcher(flow).wakes) >= 3)
    assert post.outbox.waiting(flow) == 1


@pytest.mark.parametrize("command", [("exit", "0"), ("die-soon", "0")])
async def test_one_that_ends_before_it_connects_is_not_started_anew_for_each_message_and_who_waits_hears_the_code(
    post: Post, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr(rousing_module, "FIRST_REST", 60.0)
    monkeypatch.setattr(rousing_module, "LONGEST_REST", 60.0)
    flow = await post.flow(*command)
    for _ in range(5):
        with pytest.raises(NotConnected) as caught:
            await post.send(flow, expect_reply=True)
        told = caught.value.details
        assert (told["exit_code"], told["queued"]) == (0, True)
        assert 0 < told["retry_after"] <= 60
    assert post.watcher(flow).wakes == [False]
    assert post.outbox.waiting(flow) == 5


async def test_a_flow_that_has_just_failed_is_not_woken_for_a_message_and_who_waits_hears_why(post: Post) -> None:
    flow = await post.flow("echo")
    watcher = post.watcher(flow)
    watcher.fresh = StartFailed("it crashed", exit_code=3, retry_after=7)
    with pytest.raises(StartFailed) as caught:
        await post.send(flow, {"n": 1}, expect_reply=True)
    told = caught.value.details
    assert (told["exit_code"], told["retry_after"], told["queued"]) == (3, 7, True)
    assert watcher.wakes == []
    # That somebody asked for it by name is not forgotten meanwhile.
    watcher.fresh = None
    assert (await post.send(flow, {"n": 2}, expect_reply=True)).reply == {"echo": {"n": 2}}
    assert watcher.wakes == [False]
    await post.empty(flow)


async def test_who_waits_for_the_reply_of_a_flow_that_crashes_over_the_message_hears_why(
    post: Post, quick: None
) -> None:
    flow = await post.flow()
    sending = asyncio.create_task(post.send(flow, expect_reply=True))
    program = await post.connect(flow, acks=True)
    await program.message()
    post.watcher(flow).fresh = StartFailed("it crashed", exit_code=3, retry_after=7)
    program.close()
    with pytest.raises(StartFailed) as caught:
        await sending
    told = caught.value.details
    assert (told["exit_code"], told["retry_after"], told["queued"]) == (3, 7, True)
    assert post.outbox.waiting(flow) == 1


async def test_a_failed_flow_that_is_stopped_while_its_message_waits_is_not_woken_for_it(post: Post) -> None:
    flow = await post.flow("echo", start=True)
    await post.sleep(flow)
    watcher = post.watcher(flow)
    watcher.fresh = StartFailed("it crashed", retry_after=7)
    with pytest.raises(StartFailed):
        await post.send(flow, {"n": 1}, expect_reply=True)
    await post.house.manager.stop_container(LOCAL, requests.StopContainer(container_id=flow))
    watcher.fresh = None
    post.outbox._couriers[flow].go()
    await eventually(lambda: watcher.held == [] and len(watcher.wakes) > 0)
    assert watcher.wakes == [True], "nobody has asked for it since it was stopped"
    assert post.outbox.waiting(flow) == 1


async def test_people_read_once_that_messages_wait_on_and_why(post: Post, quick: None) -> None:
    flow = await post.flow("echo")
    watcher = post.watcher(flow)
    watcher.fault = StartFailed("it crashed", exit_code=3)
    await post.send(flow, {"n": 1})
    await post.house.told("messages_waiting")
    entry = next(
        item.entry for item in await post.house.stream.read(limit=100) if item.entry.type == "messages_waiting"
    )
    assert entry.details == {"count": 1, "reason": "it crashed", "code": "start_failed", "exit_code": 3}
    assert "1 message waits on" in entry.message
    post.outbox._couriers[flow].go()  # as a connection that is lost again would
    await eventually(lambda: len(watcher.wakes) == courier_module.TRIES + 1 and watcher.held == [])
    assert (await post.house.activity()).count("messages_waiting") == 1


@pytest.mark.parametrize("fault", [RuntimeError("odd"), asyncio.CancelledError()], ids=["a fault", "a cancellation"])
async def test_a_fault_of_the_courier_is_told_to_who_waits_and_the_next_message_begins_anew(
    post: Post, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    flow = await post.flow("echo")
    with monkeypatch.context() as patched:
        patched.setattr(post.watcher(flow), "fault", fault)
        with pytest.raises(Internal) as caught:
            await post.send(flow, {"n": 1}, expect_reply=True)
    assert caught.value.details["queued"] is True
    assert (await post.send(flow, {"n": 2}, expect_reply=True)).reply == {"echo": {"n": 2}}
    await post.empty(flow)


async def test_what_waits_behind_a_message_that_grew_too_old_amid_its_delivery_is_delivered(
    post: Post, quick: None
) -> None:
    flow = await post.flow()
    first = asyncio.create_task(post.send(flow, {"n": 1}, expect_reply=True))
    program = await post.connect(flow, acks=True)
    assert (await program.message())["body"] == {"n": 1}
    second = asyncio.create_task(post.send(flow, {"n": 2}, expect_reply=True))
    await eventually(lambda: post.outbox.waiting(flow) == 2)
    # Written, and not acknowledged yet: the sweep takes it away, and its sender's time is over.
    queue = post.outbox._couriers[flow].queue
    queue.remove(queue.head)
    first.cancel()
    frame = await program.message()
    assert frame["body"] == {"n": 2}
    program.say(type="reply", to=frame["id"], body={"ok": 2})
    assert (await second).reply == {"ok": 2}
    with pytest.raises(asyncio.CancelledError):
        await first
