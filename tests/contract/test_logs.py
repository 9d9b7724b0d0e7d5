"""What flows write, on every runtime: the last lines, and those that follow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from flow_manager import errors
from flow_manager.runtimes.base import Runtime
from flow_manager.runtimes.inside import LogLine, LogPosition
from flow_manager.util.ids import new_flow_id
from tests.contract.harness import PATIENCE, RuntimeHarness, ended, needs, printed, run, until


class Followed:
    """Collects what `follow_logs` gives; `over` when it has ended by itself."""

    def __init__(self, runtime: Runtime, id: str, after: LogPosition) -> None:
        self.lines: list[LogLine] = []
        self._changed = asyncio.Condition()
        self.task = asyncio.create_task(self._collect(runtime, id, after), name="contract-follow")

    async def _collect(self, runtime: Runtime, id: str, after: LogPosition) -> None:
        async with aclosing(runtime.follow_logs(id, after=after)) as batches:
            async for batch in batches:
                async with self._changed:
                    self.lines += batch
                    self._changed.notify_all()

    @property
    def texts(self) -> list[str]:
        return [line.text for line in self.lines]

    async def wait_for(self, text: str) -> None:
        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(lambda: text in self.texts)

    async def over(self) -> None:
        await asyncio.wait_for(asyncio.shield(self.task), PATIENCE)


@asynccontextmanager
async def following(runtime: Runtime, id: str, after: LogPosition = ()) -> AsyncIterator[Followed]:
    followed = Followed(runtime, id, after)
    try:
        yield followed
    finally:
        followed.task.cancel()
        await asyncio.wait([followed.task])


def numbers(lines: list[LogLine]) -> list[int]:
    return [int(line.text.removeprefix("line ")) for line in lines if line.text.startswith("line ")]


@pytest.fixture(autouse=True)
async def _shows_logs(runtime: Runtime) -> None:
    await needs(runtime, "logs")


async def test_a_line_has_its_stream_and_its_time(harness: RuntimeHarness, runtime: Runtime) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    out, err = harness.spec("prints", lines=("hello",)), harness.spec("complains", lines=("oh no",))
    await run(runtime, out)
    await run(runtime, err)
    lines = [(await runtime.logs(out.id))[0], *await runtime.logs(err.id)]
    assert {(line.stream, line.text) for line in lines} == {
        ("stdout", "hello"),
        ("stderr", "oh no"),
        ("stdout", "ready"),
    }
    for line in lines:
        assert line.timestamp is not None
        assert before <= line.timestamp <= datetime.now(UTC) + timedelta(seconds=2)


async def test_positions_grow_from_line_to_line(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("prints", lines=("one", "two"))
    await run(runtime, spec)
    positions = [line.position for line in await runtime.logs(spec.id)]
    assert positions == sorted(set(positions))


async def test_only_what_was_written_since_a_time_comes(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("counts")
    await run(runtime, spec)
    await printed(runtime, spec.id, "line 2")
    # A runtime that looks now and then gives what it saw at one look one time.
    await asyncio.sleep(0.1)
    known = await runtime.logs(spec.id)
    since = datetime.now(UTC) - timedelta(milliseconds=20)
    await until(lambda: _any_since(runtime, spec.id, since), "a line since then")
    found = await runtime.logs(spec.id, since=since)
    assert known[0].text not in [line.text for line in found]
    assert all(line.timestamp is not None and line.timestamp >= since for line in found)
    assert await runtime.logs(spec.id, since=datetime.now(UTC) + timedelta(hours=1)) == []


async def _any_since(runtime: Runtime, id: str, since: datetime) -> bool:
    return bool(await runtime.logs(id, since=since))


async def test_a_long_line_comes_whole_and_a_very_long_one_in_pieces(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("prints", lines=("x" * 40_000, "y" * 80_000, "after"))
    await run(runtime, spec)
    texts = [line.text for line in await runtime.logs(spec.id)]
    assert texts[0] == "x" * 40_000
    assert "".join(texts[1:-2]) == "y" * 80_000
    assert len(texts) == 5
    assert texts[-2:] == ["after", "ready"]
    # The engine counts a long line's parts: it must not be cut where they are more than what was asked for.
    assert len((await runtime.logs(spec.id, tail=5))[0].text) == 40_000
    async with following(runtime, spec.id) as followed:
        await followed.wait_for("ready")
    assert followed.texts == texts


async def test_following_begins_behind_a_line_without_gap_or_repeat(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("counts")
    await run(runtime, spec)
    await printed(runtime, spec.id, "line 3")
    known = [line for line in await runtime.logs(spec.id, tail=1000) if line.whole]
    last = numbers(known)[-1]
    async with following(runtime, spec.id, known[-1].position) as followed:
        await followed.wait_for(f"line {last + 20}")
    assert numbers(followed.lines)[:20] == list(range(last + 1, last + 21))
    assert [line.position for line in followed.lines] == sorted({line.position for line in followed.lines})


async def test_following_ends_with_the_flow_after_its_last_line(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("counts")
    await run(runtime, spec)
    async with following(runtime, spec.id) as followed:
        await followed.wait_for("line 3")
        await runtime.kill(spec.id)
        await followed.over()
    assert followed.texts == [line.text for line in await runtime.logs(spec.id, tail=10_000)]


async def test_the_next_run_is_followed_from_where_the_last_ended(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("prints", lines=("hello",))
    await run(runtime, spec)
    async with following(runtime, spec.id) as first:
        await first.wait_for("ready")
        await runtime.kill(spec.id)
        await first.over()
    async with following(runtime, spec.id, first.lines[-1].position) as nothing_new:
        await nothing_new.over()
    assert nothing_new.lines == []
    await runtime.start(spec.id)
    async with following(runtime, spec.id, first.lines[-1].position) as second:
        await second.wait_for("ready")
    assert second.texts == ["hello", "ready"]
    assert [line.text for line in await runtime.logs(spec.id)] == ["hello", "ready", "hello", "ready"]


async def test_what_ended_is_followed_to_its_end_alone(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("prints", lines=("last words",))
    await run(runtime, spec)
    await runtime.kill(spec.id)
    await ended(runtime, spec.id)
    async with following(runtime, spec.id) as followed:
        await followed.over()
    assert followed.texts == ["last words", "ready"]


async def test_following_one_that_is_removed_ends(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("sleeps")
    await run(runtime, spec)
    async with following(runtime, spec.id) as followed:
        await followed.wait_for("ready")
        await runtime.remove(spec.id, force=True)
        await followed.over()


async def test_following_one_that_is_not_there_is_refused(harness: RuntimeHarness, runtime: Runtime) -> None:
    async with following(runtime, new_flow_id()) as followed:
        with pytest.raises(errors.ContainerNotFound):
            await followed.over()


async def test_many_followers_that_leave_leave_nothing(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("counts")
    await run(runtime, spec)
    for _ in range(3):
        followers = [Followed(runtime, spec.id, ()) for _ in range(30)]
        await asyncio.gather(*(followed.wait_for("line 1") for followed in followers))
        for followed in followers:
            followed.task.cancel()
        await asyncio.wait([followed.task for followed in followers])
    assert (await asyncio.wait_for(runtime.inspect(spec.id), 5)).running
