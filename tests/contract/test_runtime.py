"""One suite for all runtimes: each promise of `flow_manager.runtimes.base`, worded once.

A runtime joins with a module `harness_<kind>`; see `harness.py`.
"""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flow_manager import errors
from flow_manager.runtimes.base import LABEL_ID, LABEL_INSTANCE, LABEL_NAME, LABEL_TENANT, PortBinding, Runtime
from flow_manager.util.ids import new_flow_id
from tests.contract.harness import (
    PATIENCE,
    SERVED,
    Events,
    RuntimeHarness,
    ended,
    needs,
    opened,
    printed,
    run,
    texts,
    until,
)

# An engine call may take its time, but never this long: what hangs is a broken promise, not a slow test.
BOUND = 20.0
# Grace given where the flow ignores TERM: long enough to tell it from none.
GRACE = 0.5


def over(runtime: Runtime, *codes: int) -> list[tuple[str, int | None]]:
    """State and exit code of one that has ended with one of these codes, as far as this runtime knows codes."""
    return [("exited", code) for code in codes] if runtime.capabilities.exit_codes else [("stopped", None)]


def code_of(runtime: Runtime, code: int) -> int | None:
    return code if runtime.capabilities.exit_codes else None


# --- what it is -------------------------------------------------------------------------------------------------------


async def test_it_says_its_kind_and_name(harness: RuntimeHarness, runtime: Runtime) -> None:
    assert (runtime.kind, runtime.name) == (harness.kind, harness.name)


async def test_it_answers_a_ping(runtime: Runtime) -> None:
    await asyncio.wait_for(runtime.ping(5.0), BOUND)


# --- create -----------------------------------------------------------------------------------------------------------


async def test_a_created_flow_is_there_and_does_not_run(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("sleeps", labels={"team": "blue"})
    before = datetime.now(UTC) - timedelta(seconds=2)
    made = await runtime.create(spec)
    assert (made.id, made.name, made.state, made.running) == (spec.id, spec.name, harness.fresh, False)
    assert made.exit_code is None
    assert made.runtime_id
    assert made.image == spec.image
    assert made.created_at is not None
    assert before <= made.created_at <= datetime.now(UTC) + timedelta(seconds=2)
    assert made.labels[LABEL_ID] == spec.id
    assert made.labels[LABEL_NAME] == spec.name
    assert made.labels[LABEL_INSTANCE] == spec.instance
    assert made.labels[LABEL_TENANT] == spec.tenant
    assert made.labels["team"] == "blue"
    assert (await runtime.inspect(spec.id)).state == harness.fresh


async def test_an_unknown_image_is_refused_and_leaves_nothing(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("sleeps", image="flow-manager-has-no-such-image")
    with pytest.raises(errors.ImageNotFound) as caught:
        await runtime.create(spec)
    assert caught.value.kind == harness.kind
    assert caught.value.details["image"] == spec.image
    assert await runtime.list() == []
    assert await harness.leftovers() == []


async def test_a_name_is_taken_once(harness: RuntimeHarness, runtime: Runtime) -> None:
    first = harness.spec("sleeps")
    await runtime.create(first)
    second = replace(harness.spec("sleeps"), name=first.name, container_name=first.container_name)
    with pytest.raises(errors.NameConflict) as caught:
        await runtime.create(second)
    assert caught.value.details["name"] == first.name
    assert [flow.id for flow in await runtime.list()] == [first.id]
    with pytest.raises(errors.ContainerNotFound):
        await runtime.inspect(second.id)


async def test_of_two_creates_of_one_name_at_a_time_one_wins(harness: RuntimeHarness, runtime: Runtime) -> None:
    first = harness.spec("sleeps")
    second = replace(harness.spec("sleeps"), name=first.name, container_name=first.container_name)
    outcomes = await asyncio.gather(runtime.create(first), runtime.create(second), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NameConflict", "Observation"]
    assert len(await runtime.list()) == 1


async def test_a_name_is_free_again_after_its_flow_was_removed(harness: RuntimeHarness, runtime: Runtime) -> None:
    first = harness.spec("sleeps")
    await runtime.create(first)
    await runtime.remove(first.id)
    second = replace(harness.spec("sleeps"), name=first.name, container_name=first.container_name)
    assert (await runtime.create(second)).id == second.id


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13, 50])
async def test_a_cancelled_create_leaves_nothing(harness: RuntimeHarness, runtime: Runtime, turns: int) -> None:
    spec = harness.spec("sleeps")
    creating = asyncio.create_task(runtime.create(spec))
    for _ in range(turns):
        await asyncio.sleep(0)
    creating.cancel()
    await asyncio.wait([creating], timeout=BOUND)
    assert creating.done()
    if not creating.cancelled():  # it was done before it could be cancelled: then it is whole
        assert (await runtime.inspect(spec.id)).state == harness.fresh
        await runtime.remove(spec.id)

    async def gone() -> bool:
        return await runtime.list() == [] and await harness.leftovers() == []

    await until(gone, "the cancelled create is cleaned up")


async def test_the_environment_is_exactly_what_is_promised(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("prints_environment", environment={"GREETING": "hello there", "EMPTY": ""})
    await run(runtime, spec)
    lines = [line for line in await texts(runtime, spec.id) if "=" in line]
    seen = dict(line.split("=", 1) for line in lines)
    expected = {**harness.expected_environment(spec), **spec.environment}
    assert set(seen) == set(expected)
    assert {name: seen[name] for name, value in expected.items() if value is not None} == {
        name: value for name, value in expected.items() if value is not None
    }
    assert seen["FLOW_ID"] == spec.id
    if runtime.capabilities.local_socket:
        assert seen["FLOW_SOCKET"].endswith(f"/{spec.id}.sock")


async def test_with_code_the_flow_is_told_where_it_is(
    harness: RuntimeHarness, runtime: Runtime, tmp_path: Path
) -> None:
    code = tmp_path / "code"
    code.mkdir()
    spec = harness.spec("prints_environment", code_folder=code)
    if runtime.kind == "proxmox":
        await needs(runtime, "put_code", lambda: runtime.create(spec))
    await run(runtime, spec)
    assert any(line.startswith("FLOW_CODE=/") for line in await texts(runtime, spec.id))


async def test_limits_are_kept_or_refused(harness: RuntimeHarness, runtime: Runtime) -> None:
    pids = None if runtime.kind == "proxmox" else 50
    spec = harness.spec("sleeps", memory=64 * 2**20, cpus=0.5, pids=pids)
    if not runtime.capabilities.limits:
        with pytest.raises(errors.Unsupported) as caught:
            await runtime.create(spec)
        assert caught.value.details["capability"] == "limits"
        assert await runtime.list() == []
        return
    await run(runtime, spec)
    assert (await runtime.stats(spec.id)).memory_limit_bytes == 64 * 2**20


# --- start ------------------------------------------------------------------------------------------------------------


async def test_a_started_flow_runs(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("sleeps")
    await runtime.create(spec)
    before = datetime.now(UTC) - timedelta(seconds=2)
    started = await runtime.start(spec.id)
    assert (started.state, started.running, started.exit_code) == ("running", True, None)
    assert started.started_at is not None
    assert before <= started.started_at <= datetime.now(UTC) + timedelta(seconds=2)


async def test_what_a_start_or_a_stop_says_is_what_the_next_look_sees(
    harness: RuntimeHarness, runtime: Runtime
) -> None:
    spec = harness.spec("sleeps")
    await run(runtime, spec)
    # The second life: what is known of the first one must not be taken for it.
    for life in range(2):
        stopped = await runtime.stop(spec.id, timeout=30)
        assert stopped == await runtime.inspect(spec.id), f"stop {life}"
        started = await runtime.start(spec.id)
        assert started.started_at != stopped.started_at
        assert started == await runtime.inspect(spec.id), f"start {life}"


async def test_starting_one_that_runs_leaves_it_as_it_is(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("sleeps")
    await run(runtime, spec)
    first = await runtime.inspect(spec.id)
    again = await runtime.start(spec.id)
    assert (again.state, again.started_at) == ("running", first.started_at)
    assert (await texts(runtime, spec.id)).count("ready") == 1


async def test_starting_a_paused_one_lets_it_go_on(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("sleeps")
    await run(runtime, spec)
    await needs(runtime, "pause", lambda: runtime.pause(spec.id))
    first = await runtime.pause(spec.id)
    started = await runtime.start(spec.id)
    assert (started.state, started.started_at) == ("running", first.started_at)


async def test_two_starts_at_a_time_start_it_once(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("sleeps")
    await runtime.create(spec)
    first, second = await asyncio.gather(runtime.start(spec.id), runtime.start(spec.id))
    assert (first.state, second.state) == ("running", "running")
    await printed(runtime, spec.id, "ready")
    assert (await texts(runtime, spec.id)).count("ready") == 1


async def test_two_flows_live_side_by_side(harness: RuntimeHarness, runtime: Runtime) -> None:
    first, second = harness.spec("sleeps"), harness.spec("sleeps")
    await asyncio.gather(run(runtime, first), run(runtime, second))
    await runtime.stop(first.id, timeout=5)
    assert (await runtime.inspect(second.id)).state == "running"


async def test_one_that_ended_runs_again(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("exits", code=3)
    await runtime.create(spec)
    for _ in range(2):
        await runtime.start(spec.id)
        await ended(runtime, spec.id)
        last = await runtime.inspect(spec.id)
        assert (last.state, last.exit_code) in over(runtime, 3)


async def test_a_missing_command_fails_to_start_and_can_be_removed(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("missing_command")
    await runtime.create(spec)
    with pytest.raises(errors.StartFailed) as caught:
        await runtime.start(spec.id)
    assert caught.value.details.get("exit_code") == code_of(runtime, 127)
    assert caught.value.details["reason"]
    assert not (await runtime.inspect(spec.id)).running
    await runtime.remove(spec.id)
    assert await harness.leftovers() == []


# --- exit codes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 77])
async def test_the_exit_code_is_the_flows_own(harness: RuntimeHarness, runtime: Runtime, code: int) -> None:
    spec = harness.spec("exits", code=code)
    await runtime.create(spec)
    await runtime.start(spec.id)
    await ended(runtime, spec.id)
    last = await runtime.inspect(spec.id)
    assert (last.state, last.exit_code) in over(runtime, code)
    assert not last.running


async def test_one_that_dies_soon_after_its_start_is_seen_to(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("dies_soon")
    await runtime.create(spec)
    assert (await runtime.start(spec.id)).state == "running"
    await ended(runtime, spec.id)
    assert (await runtime.inspect(spec.id)).exit_code == code_of(runtime, 4)


# --- stop -------------------------------------------------------------------------------------------------------------


async def test_a_stop_ends_with_143_long_before_the_grace_is_over(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("sleeps")
    await run(runtime, spec)
    before = time.monotonic()
    stopped = await runtime.stop(spec.id, timeout=30)
    assert time.monotonic() - before < PATIENCE
    assert (stopped.state, stopped.exit_code) in over(runtime, 143)


async def test_a_stop_kills_after_the_grace_with_137(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("ignores_term")
    await run(runtime, spec)
    before = time.monotonic()
    stopped = await runtime.stop(spec.id, timeout=1)
    assert 0.9 <= time.monotonic() - before < BOUND
    assert (stopped.state, stopped.exit_code) in over(runtime, 137)


async def test_a_stop_without_grace_kills_at_once(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("ignores_term")
    await run(runtime, spec)
    stopped = await asyncio.wait_for(runtime.stop(spec.id, timeout=0), BOUND)
    assert (stopped.state, stopped.exit_code) in over(runtime, 137)


async def test_a_flow_that_ends_politely_keeps_its_own_code(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("ends_with_zero")
    await run(runtime, spec)
    stopped = await runtime.stop(spec.id, timeout=30)
    assert (stopped.state, stopped.exit_code) in over(runtime, 0)


async def test_a_stop_uses_the_signal_that_it_is_given(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("ignores_term")
    await run(runtime, spec)
    before = time.monotonic()
    stopped = await runtime.stop(spec.id, signal="SIGKILL", timeout=30)
    assert time.monotonic() - before < PATIENCE
    assert stopped.exit_code == code_of(runtime, 137)


async def test_a_stop_uses_the_flows_own_signal_by_default(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("ignores_term", stop_signal="SIGKILL")
    await run(runtime, spec)
    before = time.monotonic()
    stopped = await runtime.stop(spec.id, timeout=30)
    assert time.monotonic() - before < PATIENCE
    assert stopped.exit_code == code_of(runtime, 137)


async def test_stopping_one_that_does_not_run_leaves_it_as_it_is(harness: RuntimeHarness, runtime: Runtime) -> None:
    created, short = harness.spec("sleeps"), harness.spec("exits", code=3)
    await runtime.create(created)
    assert (await runtime.stop(created.id, timeout=1)).state == harness.fresh
    await runtime.create(short)
    await runtime.start(short.id)
    await ended(runtime, short.id)
    stopped = await runtime.stop(short.id, timeout=1)
    assert (stopped.state, stopped.exit_code) in over(runtime, 3)


async def test_a_paused_one_is_stopped_too(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("sleeps")
    await run(runtime, spec)
    await needs(runtime, "pause", lambda: runtime.pause(spec.id))
    await runtime.pause(spec.id)
    stopped = await asyncio.wait_for(runtime.stop(spec.id, timeout=1), BOUND)
    assert stopped.state == "exited"
    assert stopped.exit_code in (143, 137)


async def test_two_stops_at_a_time_both_see_it_end(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("sleeps")
    await run(runtime, spec)
    both = await asyncio.gather(runtime.stop(spec.id, timeout=10), runtime.stop(spec.id, timeout=10))
    assert [stopped.state for stopped in both] == [over(runtime, 0)[0][0]] * 2


async def test_a_stop_that_is_given_up_leaves_it_controllable(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("ignores_term")
    await run(runtime, spec)
    stopping = asyncio.create_task(runtime.stop(spec.id, timeout=60))
    await asyncio.sleep(GRACE)
    stopping.cancel()
    await asyncio.wait([stopping], timeout=BOUND)
    assert stopping.cancelled()
    killed = await asyncio.wait_for(runtime.kill(spec.id), BOUND)
    assert (killed.state, killed.exit_code) in over(runtime, 137)


async def test_a_kill_ends_a_stop_that_is_under_way(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("ignores_term")
    await run(runtime, spec)
    stopping = asyncio.create_task(runtime.stop(spec.id, timeout=60))
    await asyncio.sleep(GRACE)
    assert not (await asyncio.wait_for(runtime.kill(spec.id), BOUND)).running
    assert (await asyncio.wait_for(stopping, BOUND)).exit_code == code_of(runtime, 137)


# --- kill -------------------------------------------------------------------------------------------------------------


async def test_a_killed_flow_has_ended_when_the_call_returns(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("sleeps")
    await run(runtime, spec)
    killed = await runtime.kill(spec.id)
    assert (killed.state, killed.exit_code) in over(runtime, 137)
    assert not killed.running


@pytest.mark.parametrize("signal", ["SIGTERM", "TERM"])
async def test_another_signal_is_delivered(harness: RuntimeHarness, runtime: Runtime, signal: str) -> None:
    spec = harness.spec("ends_with_zero")
    await run(runtime, spec)
    await needs(runtime, "signals", lambda: runtime.kill(spec.id, "SIGUSR1"))
    await runtime.kill(spec.id, signal)
    await ended(runtime, spec.id)
    assert (await runtime.inspect(spec.id)).exit_code == 0


async def test_a_signal_that_the_flow_ignores_leaves_it_running(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("ignores_term")
    await run(runtime, spec)
    await needs(runtime, "signals", lambda: runtime.kill(spec.id, "SIGUSR1"))
    assert (await runtime.kill(spec.id, "SIGTERM")).state == "running"


async def test_a_signal_that_does_not_exist_is_the_callers_mistake(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("sleeps")
    await run(runtime, spec)
    with pytest.raises(errors.InvalidRequest):
        await runtime.kill(spec.id, "SIGNONSENSE")
    with pytest.raises(errors.InvalidRequest):
        await runtime.stop(spec.id, signal="SIGNONSENSE", timeout=1)
    assert (await runtime.inspect(spec.id)).state == "running"


async def test_a_paused_one_can_be_killed(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("sleeps")
    await run(runtime, spec)
    await needs(runtime, "pause", lambda: runtime.pause(spec.id))
    await runtime.pause(spec.id)
    assert (await asyncio.wait_for(runtime.kill(spec.id), BOUND)).exit_code == 137


async def test_only_one_that_runs_can_be_killed(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("sleeps")
    await runtime.create(spec)
    with pytest.raises(errors.ContainerStopped):
        await runtime.kill(spec.id)
    with pytest.raises(errors.ContainerStopped if runtime.capabilities.signals else errors.Unsupported):
        await runtime.kill(spec.id, "SIGTERM")


# --- pause and unpause ------------------------------------------------------------------------------------------------


async def test_a_paused_flow_stands_still_and_goes_on(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("sleeps")
    await run(runtime, spec)
    await needs(runtime, "pause", lambda: runtime.pause(spec.id))
    before = await runtime.inspect(spec.id)
    paused = await runtime.pause(spec.id)
    assert (paused.state, paused.running, paused.started_at) == ("paused", True, before.started_at)
    assert (await runtime.inspect(spec.id)).state == "paused"
    resumed = await runtime.unpause(spec.id)
    assert (resumed.state, resumed.started_at) == ("running", before.started_at)


async def test_pause_and_unpause_twice_change_nothing_more(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("sleeps")
    await run(runtime, spec)
    await needs(runtime, "pause", lambda: runtime.pause(spec.id))
    await runtime.pause(spec.id)
    assert (await runtime.pause(spec.id)).state == "paused"
    await runtime.unpause(spec.id)
    assert (await runtime.unpause(spec.id)).state == "running"


async def test_only_one_that_runs_can_be_paused_or_let_go_on(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("sleeps")
    await runtime.create(spec)
    await needs(runtime, "pause", lambda: runtime.pause(spec.id))
    await needs(runtime, "pause", lambda: runtime.unpause(spec.id))
    with pytest.raises(errors.ContainerStopped):
        await runtime.pause(spec.id)
    with pytest.raises(errors.ContainerStopped):
        await runtime.unpause(spec.id)
    await run_existing(runtime, spec.id)
    await runtime.kill(spec.id)
    with pytest.raises(errors.ContainerStopped):
        await runtime.pause(spec.id)
    with pytest.raises(errors.ContainerStopped):
        await runtime.unpause(spec.id)


async def run_existing(runtime: Runtime, id: str) -> None:
    await runtime.start(id)
    await printed(runtime, id, "ready")


# --- remove -----------------------------------------------------------------------------------------------------------


async def test_a_removed_flow_is_gone_with_all_that_was_kept_for_it(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("sleeps")
    await run(runtime, spec)
    await runtime.stop(spec.id, timeout=5)
    await runtime.remove(spec.id)
    assert await runtime.list() == []
    assert await harness.leftovers() == []
    with pytest.raises(errors.ContainerNotFound):
        await runtime.inspect(spec.id)


async def test_removing_twice_is_fine(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("sleeps")
    await runtime.create(spec)
    await runtime.remove(spec.id)
    await runtime.remove(spec.id)
    await runtime.remove(new_flow_id(), force=True)


async def test_two_removes_at_a_time_are_fine(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("sleeps")
    await run(runtime, spec)
    await asyncio.gather(runtime.remove(spec.id, force=True), runtime.remove(spec.id, force=True))
    assert await harness.leftovers() == []


@pytest.mark.parametrize("paused", [False, True])
async def test_a_running_one_is_removed_only_with_force(
    harness: RuntimeHarness, runtime: Runtime, paused: bool
) -> None:
    spec = harness.spec("ignores_term")
    await run(runtime, spec)
    if paused:
        await needs(runtime, "pause", lambda: runtime.pause(spec.id))
        await runtime.pause(spec.id)
    with pytest.raises(errors.ContainerRunning):
        await runtime.remove(spec.id)
    assert (await runtime.inspect(spec.id)).running
    await asyncio.wait_for(runtime.remove(spec.id, force=True), BOUND)
    assert await runtime.list() == []
    assert await harness.leftovers() == []


async def test_a_flow_may_come_back_with_its_old_id(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("prints", lines=("one",))
    await run(runtime, spec)
    await runtime.remove(spec.id, force=True)
    await runtime.create(spec)
    assert (await runtime.inspect(spec.id)).state == harness.fresh
    if runtime.capabilities.logs:
        assert await texts(runtime, spec.id) == []


# --- what is not there ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["start", "stop", "kill", "pause", "unpause", "inspect", "logs", "stats"])
async def test_a_flow_that_is_not_there_is_not_found(harness: RuntimeHarness, runtime: Runtime, call: str) -> None:
    id = new_flow_id()
    with pytest.raises(errors.ContainerNotFound) as caught:
        await getattr(runtime, call)(id)
    assert caught.value.details["container_id"] == id
    assert caught.value.kind == harness.kind


async def test_only_this_instances_flows_are_listed_or_touched(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("sleeps")
    await run(runtime, spec)
    other = await harness.open_other_instance()
    try:
        assert await other.list() == []
        with pytest.raises(errors.ContainerNotFound):
            await other.inspect(spec.id)
        with pytest.raises(errors.ContainerNotFound):
            await other.kill(spec.id)
        await other.remove(spec.id, force=True)
    finally:
        await other.close()
    assert (await runtime.inspect(spec.id)).state == "running"


async def test_all_flows_are_listed_whatever_their_state(harness: RuntimeHarness, runtime: Runtime) -> None:
    created, running, paused, short = (harness.spec("sleeps") for _ in range(4))
    await runtime.create(created)
    await asyncio.gather(*(run(runtime, spec) for spec in (running, paused, short)))
    if runtime.capabilities.pause:
        await runtime.pause(paused.id)
    await runtime.kill(short.id)
    assert {flow.id: flow.state for flow in await runtime.list()} == {
        created.id: harness.fresh,
        running.id: "running",
        paused.id: "paused" if runtime.capabilities.pause else "running",
        short.id: over(runtime, 137)[0][0],
    }


# --- ports ------------------------------------------------------------------------------------------------------------


async def test_a_port_that_was_left_open_comes_back_chosen(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("serves")
    if runtime.kind == "proxmox":
        pytest.skip("a container has an address of its own there: nothing is published")
    await run(runtime, spec)
    binding = spec.ports[0]
    flow = await runtime.inspect(spec.id)
    port = flow.ports[f"{binding.container_port}/{binding.protocol}"]
    assert 1 <= port <= 65535

    async def serves() -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        try:
            return await asyncio.wait_for(reader.readline(), 5) == SERVED
        except OSError:
            return False
        finally:
            writer.close()

    await until(serves, f"an answer on port {port}")


async def test_a_host_port_that_is_taken_fails_the_start_and_only_that(
    harness: RuntimeHarness, runtime: Runtime
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        base = harness.spec("serves")
        spec = replace(base, ports=(PortBinding(base.ports[0].container_port, "tcp", port),))
        if runtime.kind == "proxmox":
            with pytest.raises(errors.Unsupported):
                await runtime.create(spec)
            return
        await runtime.create(spec)
        with pytest.raises(errors.PortInUse) as caught:
            await runtime.start(spec.id)
        assert caught.value.details["port"] == port
        assert not (await runtime.inspect(spec.id)).running
    started = await runtime.start(spec.id)
    assert (started.state, dict(started.ports)) == ("running", {f"{base.ports[0].container_port}/tcp": port})


# --- what it wrote, what it uses --------------------------------------------------------------------------------------


async def test_the_last_lines_come_back_in_order(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("prints", lines=("one", "two words", "three"))
    await run(runtime, spec)
    await needs(runtime, "logs", lambda: runtime.logs(spec.id))
    assert await texts(runtime, spec.id) == ["one", "two words", "three", "ready"]
    assert await texts(runtime, spec.id, tail=2) == ["three", "ready"]
    assert await texts(runtime, spec.id, tail=0) == []


async def test_what_it_wrote_outlives_it(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("prints", lines=("last words",))
    await run(runtime, spec)
    await needs(runtime, "logs", lambda: runtime.logs(spec.id))
    await runtime.kill(spec.id)
    assert (await texts(runtime, spec.id))[0] == "last words"


async def test_a_running_flow_has_figures_and_a_stopped_one_nulls(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("sleeps")
    await run(runtime, spec)
    usage = await runtime.stats(spec.id)
    assert usage.memory_bytes is not None
    assert usage.memory_bytes > 0
    assert usage.pids is None or usage.pids >= 1
    await runtime.kill(spec.id)
    assert set((await runtime.stats(spec.id)).model_dump().values()) == {None}


# --- events -----------------------------------------------------------------------------------------------------------


async def test_events_begin_with_a_resync_and_tell_a_whole_life(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("ends_with_zero")
    pauses = ["paused", "unpaused"] if runtime.capabilities.pause else []
    async with Events(runtime) as events:
        assert events.seen[0].type == "resync"
        await run(runtime, spec)
        if pauses:
            await runtime.pause(spec.id)
            await events.wait_for("paused", spec.id)
            await runtime.unpause(spec.id)
            await events.wait_for("unpaused", spec.id)
        await runtime.stop(spec.id, timeout=30)
        assert (await events.wait_for("died", spec.id)).exit_code == code_of(runtime, 0)
        await runtime.remove(spec.id)
        await events.wait_for("removed", spec.id)
        told = [type for type in events.of(spec.id) if type != "health"]  # a hint that an address came
        # Under load Docker tells a pause and its end twice: of the call, and of what containerd says of it afterwards.
        assert list(dict.fromkeys(told)) == ["created", "started", *pauses, "died", "removed"]
        assert all(told.count(type) == 1 for type in ("created", "started", "died", "removed"))
        assert all(event.at is not None and event.at.tzinfo is not None for event in events.seen if event.id)


async def test_what_happens_outside_is_told(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("sleeps")
    await run(runtime, spec)
    async with Events(runtime) as events:
        await harness.outside_kill(runtime, spec.id)
        assert (await events.wait_for("died", spec.id)).exit_code == code_of(runtime, 137)
        last = await runtime.inspect(spec.id)
        assert (last.state, last.exit_code) in over(runtime, 137)


async def test_a_death_on_its_own_is_told_with_its_code(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("exits", code=3)
    async with Events(runtime) as events:
        await runtime.create(spec)
        await runtime.start(spec.id)
        assert (await events.wait_for("died", spec.id)).exit_code == code_of(runtime, 3)


async def test_an_end_by_a_persons_hand_is_told_from_one_by_itself(harness: RuntimeHarness, runtime: Runtime) -> None:
    by_hand, by_itself, by_us = harness.spec("sleeps"), harness.spec("exits", code=3), harness.spec("sleeps")
    await run(runtime, by_hand)
    await run(runtime, by_us)
    async with Events(runtime) as events:
        if not await harness.outside_stop(runtime, by_hand.id):
            pytest.skip("this runtime can't tell")
        assert (await events.wait_for("died", by_hand.id)).cause == "stop"
        await runtime.create(by_itself)
        await runtime.start(by_itself.id)
        assert (await events.wait_for("died", by_itself.id)).cause == "exit"
        # What this manager ends is nobody else's wish: else each sleep would pass for a person's stop.
        await runtime.stop(by_us.id)
        assert (await events.wait_for("died", by_us.id)).cause != "stop"


async def test_a_glance_sees_what_a_list_sees(harness: RuntimeHarness, runtime: Runtime) -> None:
    serving, killed = harness.spec("serves"), harness.spec("sleeps")
    await run(runtime, serving)
    await run(runtime, killed)

    async def glanced() -> dict[str, tuple[Any, ...]]:
        return {flow.id: (flow.state, flow.exit_code, flow.addresses, flow.ports) for flow in await runtime.glance()}

    async def listed() -> dict[str, tuple[Any, ...]]:
        return {flow.id: (flow.state, flow.exit_code, flow.addresses, flow.ports) for flow in await runtime.list()}

    assert await glanced() == await listed()
    await harness.outside_kill(runtime, killed.id)
    if runtime.capabilities.pause:
        await runtime.pause(serving.id)

    async def gone() -> bool:
        return (await glanced())[killed.id][0] != "running"

    await until(gone, "a glance sees that the flow has ended")
    assert await glanced() == await listed()


async def test_all_who_watch_are_told(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("sleeps")
    async with Events(runtime) as first, Events(runtime) as second:
        await runtime.create(spec)
        await first.wait_for("created", spec.id)
        await second.wait_for("created", spec.id)


async def test_other_instances_events_are_not_told(harness: RuntimeHarness, runtime: Runtime) -> None:
    other = await harness.open_other_instance()
    try:
        async with Events(other) as events:
            spec = harness.spec("sleeps")
            async with Events(runtime) as own:
                await runtime.create(spec)
                await runtime.remove(spec.id)
                await own.wait_for("removed", spec.id)
            assert [event for event in events.seen if event.id] == []
    finally:
        await other.close()


async def test_watching_ends_with_the_runtime(harness: RuntimeHarness) -> None:
    runtime = await harness.open()
    async with Events(runtime) as events:
        await asyncio.wait_for(runtime.close(), BOUND)
        await asyncio.wait_for(events.over.wait(), BOUND)


# --- the manager restarts ---------------------------------------------------------------------------------------------


async def test_flows_go_on_without_the_manager_and_are_found_again(harness: RuntimeHarness) -> None:
    running, paused, short, created = (harness.spec("sleeps") for _ in range(4))
    async with opened(harness) as first:
        await asyncio.gather(*(run(first, spec) for spec in (running, paused, short)))
        await first.create(created)
        if first.capabilities.pause:
            await first.pause(paused.id)
        await first.kill(short.id)
        before = {flow.id: flow for flow in await first.list()}
    async with opened(harness) as second:
        after = {flow.id: flow for flow in await second.list()}
        assert {id: flow.state for id, flow in after.items()} == {id: flow.state for id, flow in before.items()}
        for id, flow in after.items():
            assert flow.labels == before[id].labels
            assert (flow.name, flow.created_at, flow.runtime_id) == (
                before[id].name,
                before[id].created_at,
                before[id].runtime_id,
            )
        began, known = after[running.id].started_at, before[running.id].started_at
        assert began is not None
        assert known is not None
        assert abs((began - known).total_seconds()) <= harness.clock_slack
        assert after[short.id].exit_code == code_of(second, 137)
        if second.capabilities.pause:
            assert (await second.unpause(paused.id)).state == "running"
        async with Events(second) as events:
            stopped = await second.stop(running.id, timeout=10)
            assert stopped.state in ("exited", "stopped")  # stopped: only who started it can learn its code
            assert not stopped.running
            await events.wait_for("died", running.id)
        assert (await second.start(created.id)).state == "running"
        killed = await second.kill(paused.id)
        assert not killed.running
        for spec in (running, paused, short, created):
            await second.remove(spec.id, force=True)
        assert await harness.leftovers() == []


async def test_what_ended_while_nobody_looked_is_not_running(harness: RuntimeHarness) -> None:
    spec = harness.spec("sleeps")
    async with opened(harness) as first:
        await run(first, spec)
        await first.close()
        await harness.outside_kill(first, spec.id)
    async with opened(harness) as second:

        async def gone() -> bool:
            return not (await second.inspect(spec.id)).running

        await until(gone, "the death is seen")
        assert (await second.inspect(spec.id)).state in ("exited", "stopped")
        await second.start(spec.id)
        await printed(second, spec.id, "ready")


async def test_closing_twice_is_fine(harness: RuntimeHarness) -> None:
    runtime = await harness.open()
    await runtime.close()
    await runtime.close()
