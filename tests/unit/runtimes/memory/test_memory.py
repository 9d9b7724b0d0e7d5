"""The memory runtime's own: faults, deaths from outside, echo flows that really speak, time that is moved by hand."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flow_manager import errors
from flow_manager.runtimes.base import Capabilities, FlowSpec, Mount
from flow_manager.testing import FakeClock, Faults, MemoryEngine, MemoryRuntime, eventually
from flow_manager.util.ids import new_flow_id
from tests.contract.harness import Events


def make_spec(*command: str, **overrides: Any) -> FlowSpec:
    id = new_flow_id()
    spec = FlowSpec(
        id=id,
        name=f"flow-{id}",
        container_name=f"flow-{id}",
        tenant="default",
        instance="test",
        image="memory",
        command=command or None,
    )
    return replace(spec, **overrides)


@pytest.fixture
async def runtime() -> AsyncIterator[MemoryRuntime]:
    made = MemoryRuntime()
    await made.open()
    yield made
    await made.close()


async def running(runtime: MemoryRuntime, *command: str, **overrides: Any) -> str:
    spec = make_spec(*command, **overrides)
    await runtime.create(spec)
    await runtime.start(spec.id)
    return spec.id


# --- faults -----------------------------------------------------------------------------------------------------------


async def test_a_call_fails_as_often_as_it_was_told_to(runtime: MemoryRuntime) -> None:
    spec = make_spec()
    await runtime.create(spec)
    runtime.faults.fail("start", errors.NoSpace("full", kind="memory"), times=2)
    for _ in range(2):
        with pytest.raises(errors.NoSpace):
            await runtime.start(spec.id)
        assert (await runtime.inspect(spec.id)).state == "created"
    assert (await runtime.start(spec.id)).state == "running"


async def test_a_lost_answer_leaves_the_effect(runtime: MemoryRuntime) -> None:
    spec = make_spec()
    runtime.faults.fail("create", errors.RuntimeUnavailable("cut", kind="memory"), when="after")
    with pytest.raises(errors.RuntimeUnavailable):
        await runtime.create(spec)
    assert [flow.id for flow in await runtime.list()] == [spec.id]


async def test_faults_of_one_call_come_in_the_order_given(runtime: MemoryRuntime) -> None:
    runtime.faults.fail("list", errors.NoSpace("first", kind="memory"))
    runtime.faults.fail("list", errors.RuntimeRefused("second", kind="memory"))
    with pytest.raises(errors.NoSpace):
        await runtime.list()
    with pytest.raises(errors.RuntimeRefused):
        await runtime.list()
    assert await runtime.list() == []


def test_a_misspelt_call_is_refused() -> None:
    with pytest.raises(ValueError, match="no call 'strat'"):
        Faults().fail("strat", errors.Internal("x"))


async def test_a_hang_ends_with_its_release(runtime: MemoryRuntime) -> None:
    runtime.faults.hang("list")
    hanging = asyncio.create_task(runtime.list())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not hanging.done()
    runtime.faults.release("list")
    assert await hanging == []
    assert await runtime.list() == []


async def test_a_hang_without_release_is_bounded_in_time() -> None:
    clock = FakeClock()
    runtime = MemoryRuntime(sleep=clock.sleep, call_timeout=30)
    await runtime.open()
    runtime.faults.hang("inspect")
    hanging = asyncio.create_task(runtime.inspect(new_flow_id()))
    await clock.wait_for_sleepers()
    await clock.run(29)
    assert not hanging.done()
    await clock.run(1)
    with pytest.raises(errors.RuntimeUnavailable):
        await hanging
    await runtime.close()


async def test_a_ping_has_a_limit_of_its_own(runtime: MemoryRuntime) -> None:
    runtime.faults.hang("ping")
    with pytest.raises(errors.RuntimeUnavailable):
        await runtime.ping(timeout=0.01)
    await runtime.ping()


async def test_a_delay_passes_by_the_clock() -> None:
    clock = FakeClock()
    runtime = MemoryRuntime(sleep=clock.sleep)
    await runtime.open()
    spec = make_spec()
    runtime.faults.delay("create", 3600)
    creating = asyncio.create_task(runtime.create(spec))
    await clock.run(3599)
    assert not creating.done()
    await clock.run(1)
    assert (await creating).state == "created"
    await runtime.close()


async def test_a_create_cancelled_while_it_is_delayed_leaves_nothing(runtime: MemoryRuntime) -> None:
    runtime.faults.delay("create", 3600)
    creating = asyncio.create_task(runtime.create(make_spec()))
    await asyncio.sleep(0)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    assert await runtime.list() == []


async def test_events_are_lost_and_doubled_on_demand(runtime: MemoryRuntime) -> None:
    async with Events(runtime) as events:
        runtime.faults.lose_events(1, type="started")
        runtime.faults.duplicate_events(1, type="died")
        id = await running(runtime)
        runtime.die(id, 1)
        await runtime.start(id)
        await eventually(lambda: events.of(id) == ["created", "died", "died", "started"])


async def test_an_engine_that_is_away_answers_nothing_and_flows_go_on(runtime: MemoryRuntime) -> None:
    id = await running(runtime)
    async with Events(runtime) as events:
        runtime.faults.go_away("the engine restarts")
        for call in (runtime.ping(), runtime.list(), runtime.start(id), runtime.create(make_spec())):
            with pytest.raises(errors.RuntimeUnavailable) as caught:
                await call
            assert caught.value.details["reason"] == "the engine restarts"
        runtime.die(id, 137)
        runtime.faults.come_back()
        await events.wait_for("available")
        assert [event.type for event in events.seen] == ["resync", "unavailable", "available", "resync"]
        assert events.seen[1].reason == "the engine restarts"
        assert (await runtime.inspect(id)).exit_code == 137


async def test_before_it_is_opened_it_says_so() -> None:
    with pytest.raises(errors.RuntimeUnavailable):
        await MemoryRuntime().list()


# --- from outside -----------------------------------------------------------------------------------------------------


async def test_a_flow_dies_of_memory(runtime: MemoryRuntime) -> None:
    id = await running(runtime)
    async with Events(runtime) as events:
        runtime.die(id, 137, cause="oom")
        assert (await events.wait_for("died", id)).cause == "oom"
    seen = await runtime.inspect(id)
    assert (seen.state, seen.exit_code, seen.oom_killed) == ("exited", 137, True)
    assert not (await runtime.start(id)).oom_killed


async def test_a_flow_that_vanishes_is_not_found(runtime: MemoryRuntime) -> None:
    id = await running(runtime)
    async with Events(runtime) as events:
        runtime.vanish(id)
        await events.wait_for("removed", id)
    with pytest.raises(errors.ContainerNotFound):
        await runtime.inspect(id)


async def test_a_grace_of_minutes_takes_no_time_on_a_fake_clock() -> None:
    clock = FakeClock()
    runtime = MemoryRuntime(sleep=clock.sleep)
    await runtime.open()
    id = await running(runtime, "ignore-term")
    stopping = asyncio.create_task(runtime.stop(id, timeout=300))
    await clock.wait_for_sleepers()
    await clock.run(299)
    assert not stopping.done()
    await clock.run(1)
    assert (await stopping).exit_code == 137
    assert clock.sleepers == 0
    await runtime.close()


# --- what it can do ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "capability"),
    [
        ({"tty": True}, "tty"),
        ({"networks": ("x",)}, "networks"),
        ({"memory": 1}, "limits"),
        ({"mounts": (Mount(Path("/x"), "/x"),)}, "volumes"),
    ],
)
async def test_what_was_taken_from_it_is_unsupported(change: dict[str, Any], capability: str) -> None:
    runtime = MemoryRuntime(capabilities=Capabilities())
    await runtime.open()
    with pytest.raises(errors.Unsupported) as caught:
        await runtime.create(make_spec(**change))
    assert caught.value.details["capability"] == capability
    await runtime.close()


async def test_without_pause_signals_and_exit_codes() -> None:
    runtime = MemoryRuntime(capabilities=Capabilities(pause=False, signals=False, exit_codes=False))
    await runtime.open()
    id = await running(runtime)
    with pytest.raises(errors.Unsupported):
        await runtime.pause(id)
    with pytest.raises(errors.Unsupported):
        await runtime.kill(id, "SIGHUP")
    async with Events(runtime) as events:
        killed = await runtime.kill(id)
        assert (killed.state, killed.exit_code) == ("stopped", None)
        assert (await events.wait_for("died", id)).exit_code is None
    await runtime.close()


async def test_a_pull_tells_its_progress_and_the_image_stays() -> None:
    runtime = MemoryRuntime(engine=(engine := MemoryEngine(pulls={"remote": ("pulling remote: 50 %", "done")})))
    await runtime.open()
    told: list[str] = []
    await runtime.create(make_spec(image="remote"), told.append)
    await runtime.create(make_spec(image="remote"), told.append)
    assert told == ["pulling remote: 50 %", "done"]
    await runtime.close()
    await engine.close()


async def test_flows_outlive_a_runtime_only_on_an_engine_of_their_own() -> None:
    engine = MemoryEngine()
    first = MemoryRuntime(engine=engine)
    await first.open()
    id = await running(first)
    await first.close()
    second = MemoryRuntime(engine=engine)
    await second.open()
    assert (await second.inspect(id)).state == "running"
    await second.close()
    await engine.close()


# --- echo -------------------------------------------------------------------------------------------------------------


class Manager:
    """The other end of a channel: listens, keeps what flows say."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.frames: list[dict[str, Any]] = []
        self.writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    async def listen(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while line := await reader.readline():
                self.frames.append(json.loads(line))
        except OSError:
            pass
        finally:
            writer.close()

    async def send(self, data: bytes) -> None:
        self.writers[-1].write(data + b"\n")
        await self.writers[-1].drain()

    def of(self, type: str) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if frame["type"] == type]

    async def drop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self.writers:
            writer.transport.abort()
        self.writers.clear()
        self.path.unlink(missing_ok=True)
        await asyncio.sleep(0)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fm-") as folder:  # a socket's path has 107 bytes at most
        yield Path(folder)


@pytest.fixture
async def make_manager() -> AsyncIterator[Callable[[Path], Manager]]:
    made: list[Manager] = []

    def make(path: Path) -> Manager:
        made.append(Manager(path))
        return made[-1]

    yield make
    for manager in made:
        await manager.drop()


@pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])
async def test_an_echo_flow_answers_on_its_channel_and_comes_back_after_a_drop(
    runtime: MemoryRuntime, short_folder: Path, make_manager: Callable[[Path], Manager]
) -> None:
    spec = make_spec("echo", channel_folder=short_folder)
    manager = make_manager(short_folder / f"{spec.id}.sock")
    await runtime.create(spec)
    await runtime.start(spec.id)  # nobody listens yet: it tries on
    await manager.listen()
    await eventually(lambda: manager.of("hello") == [{"type": "hello", "contract": 1, "acks": True}])
    for noise in (b"not json", b"[]", b'{"type":"unheard-of"}', b'{"type":"stopping","in":10}'):
        await manager.send(noise)
    await manager.send(b'{"type":"ping"}')
    await manager.send(b'{"type":"message","id":"m-1","body":{"a":[1,null]}}')
    await eventually(lambda: manager.of("reply"))
    assert manager.of("ack") == [{"type": "ack", "to": "m-1"}]
    assert manager.of("reply") == [{"type": "reply", "to": "m-1", "body": {"echo": {"a": [1, None]}}}]
    assert len(manager.of("pong")) == 1
    await manager.drop()
    await manager.listen()
    await eventually(lambda: len(manager.of("hello")) == 2)
    await runtime.kill(spec.id)


async def test_a_paused_echo_flow_answers_once_it_goes_on(
    runtime: MemoryRuntime, short_folder: Path, make_manager: Callable[[Path], Manager]
) -> None:
    spec = make_spec(image="echo", channel_folder=short_folder)
    manager = make_manager(short_folder / f"{spec.id}.sock")
    await manager.listen()
    await runtime.create(spec)
    await runtime.start(spec.id)
    await eventually(lambda: manager.of("hello"))
    await runtime.pause(spec.id)
    await manager.send(b'{"type":"message","id":"m-1","body":{}}')
    await manager.send(b'{"type":"ping"}')
    for _ in range(50):
        await asyncio.sleep(0)
    assert manager.of("reply") == []
    await runtime.unpause(spec.id)
    await eventually(lambda: manager.of("reply") and manager.of("pong"))


async def test_an_ended_echo_flow_hangs_up(
    runtime: MemoryRuntime, short_folder: Path, make_manager: Callable[[Path], Manager]
) -> None:
    spec = make_spec("echo", channel_folder=short_folder)
    manager = make_manager(short_folder / f"{spec.id}.sock")
    await manager.listen()
    await runtime.create(spec)
    await runtime.start(spec.id)
    await eventually(lambda: manager.of("hello"))
    assert (await runtime.stop(spec.id)).exit_code == 143
    await eventually(lambda: manager.writers[0].is_closing())
