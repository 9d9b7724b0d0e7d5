"""Commands in flows, on every runtime: each promise of `flow_manager.runtimes.inside.Inside.exec`, worded once."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from flow_manager import errors
from flow_manager.runtimes.base import Runtime
from flow_manager.runtimes.inside import Command, ExecOutcome
from flow_manager.util.ids import new_flow_id
from tests.contract.harness import RuntimeHarness, ended, run, until

LIMIT = 1024 * 1024
# Time enough for any command here on a machine that is busy with something else.
LONG = 60.0


async def execute(
    runtime: Runtime, id: str, *argv: str, timeout: float = LONG, limit: int = LIMIT, **more: Any
) -> ExecOutcome:
    return await runtime.exec(id, Command(argv, **more), timeout=timeout, limit=limit)


def one_that_pauses(runtime: Runtime) -> None:
    if not runtime.capabilities.pause:
        pytest.skip("this runtime does not pause")


def a_real_one(runtime: Runtime) -> None:
    """For what only a shell can do."""
    if runtime.kind == "memory":
        pytest.skip("the memory runtime has no shell")


async def test_it_can_run_commands(runtime: Runtime) -> None:
    assert runtime.capabilities.exec


async def test_output_and_exit_code_come_back(harness: RuntimeHarness, runtime: Runtime) -> None:
    id = await run(runtime, harness.spec("sleeps"))
    assert await execute(runtime, id, "echo", "hello", "there") == ExecOutcome(0, b"hello there\n", b"")
    assert await execute(runtime, id, "true") == ExecOutcome(0, b"", b"")
    assert (await execute(runtime, id, "false")).exit_code == 1


async def test_the_two_outputs_are_kept_apart(harness: RuntimeHarness, runtime: Runtime) -> None:
    a_real_one(runtime)
    id = await run(runtime, harness.spec("sleeps"))
    script = "echo out; echo err >&2; echo out again; exit 7"
    assert await execute(runtime, id, "sh", "-c", script) == ExecOutcome(7, b"out\nout again\n", b"err\n")


async def test_bytes_come_through_as_they_are(harness: RuntimeHarness, runtime: Runtime) -> None:
    a_real_one(runtime)
    id = await run(runtime, harness.spec("sleeps"))
    assert (await execute(runtime, id, "printf", r"\377\000\001ab")).stdout == b"\xff\x00\x01ab"


async def test_it_reads_nothing(harness: RuntimeHarness, runtime: Runtime) -> None:
    id = await run(runtime, harness.spec("sleeps"))
    assert await execute(runtime, id, "cat") == ExecOutcome(0, b"", b"")


@pytest.mark.parametrize("name", ["no-such-command", "/no/such/command"])
async def test_a_command_that_does_not_exist_has_a_shells_code(
    harness: RuntimeHarness, runtime: Runtime, name: str
) -> None:
    id = await run(runtime, harness.spec("sleeps"))
    outcome = await execute(runtime, id, name, "argument")
    assert outcome.exit_code == 127 and outcome.stdout == b""
    assert name in outcome.stderr.decode() and "not found" in outcome.stderr.decode()


@pytest.mark.parametrize("name", ["/etc/passwd", "/etc"])
async def test_a_command_that_may_not_be_run_has_a_shells_code(
    harness: RuntimeHarness, runtime: Runtime, name: str
) -> None:
    a_real_one(runtime)
    id = await run(runtime, harness.spec("sleeps"))
    outcome = await execute(runtime, id, name)
    assert outcome.exit_code == 126 and outcome.stdout == b"" and outcome.stderr != b""


async def test_an_argument_longer_than_the_kernel_takes_is_told(harness: RuntimeHarness, runtime: Runtime) -> None:
    a_real_one(runtime)
    id = await run(runtime, harness.spec("sleeps"))
    outcome = await execute(runtime, id, "echo", "x" * 131072)
    assert outcome.exit_code == 126 and b"argument list" in outcome.stderr


async def test_a_folder_that_does_not_exist_is_a_failure(harness: RuntimeHarness, runtime: Runtime) -> None:
    a_real_one(runtime)
    id = await run(runtime, harness.spec("sleeps"))
    for folder in ("/no/such/folder", "/etc/passwd"):
        with pytest.raises(errors.ExecFailed):
            await execute(runtime, id, "true", working_dir=folder)
    assert (await execute(runtime, id, "true")).exit_code == 0


async def test_it_runs_in_the_folder_that_it_is_given(harness: RuntimeHarness, runtime: Runtime) -> None:
    id = await run(runtime, harness.spec("sleeps"))
    assert (await execute(runtime, id, "pwd", working_dir="/etc")).stdout == b"/etc\n"


async def test_it_has_the_flows_variables_and_its_own(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("sleeps", environment={"KEPT": "1", "CHANGED": "old"})
    id = await run(runtime, spec)
    text = (await execute(runtime, id, "env", environment={"CHANGED": "new", "ADDED": "a b"})).stdout.decode()
    seen = dict(line.split("=", 1) for line in text.splitlines())
    wanted = {name: value for name, value in harness.expected_environment(spec).items() if value is not None}
    assert seen.items() >= {**wanted, "KEPT": "1", "CHANGED": "new", "ADDED": "a b"}.items()
    assert seen["FLOW_ID"] == id
    assert bool(seen.get("FLOW_SOCKET")) == runtime.capabilities.local_socket


async def test_of_a_long_output_the_beginning_is_kept(harness: RuntimeHarness, runtime: Runtime) -> None:
    a_real_one(runtime)
    id = await run(runtime, harness.spec("sleeps"))
    outcome = await execute(
        runtime, id, "sh", "-c", "echo first; yes | head -c 20000000; echo e >&2; exit 3", limit=1000
    )
    assert (outcome.exit_code, len(outcome.stdout), outcome.truncated) == (3, 1000, True)
    assert outcome.stdout.startswith(b"first\ny\ny\n") and outcome.stderr == b"e\n"


async def test_an_output_of_just_the_limit_is_whole(harness: RuntimeHarness, runtime: Runtime) -> None:
    id = await run(runtime, harness.spec("sleeps"))
    assert await execute(runtime, id, "echo", "123", limit=4) == ExecOutcome(0, b"123\n", b"")
    assert (await execute(runtime, id, "echo", "1234", limit=4)).truncated


async def test_one_that_closed_its_outputs_is_waited_for(harness: RuntimeHarness, runtime: Runtime) -> None:
    a_real_one(runtime)
    id = await run(runtime, harness.spec("sleeps"))
    assert (await execute(runtime, id, "sh", "-c", "exec >/dev/null 2>&1; sleep 0.5; exit 5")).exit_code == 5


async def test_what_goes_on_in_its_background_does_not_hold_up_the_reply(
    harness: RuntimeHarness, runtime: Runtime
) -> None:
    a_real_one(runtime)
    id = await run(runtime, harness.spec("sleeps"))
    began = time.monotonic()
    assert (await execute(runtime, id, "sh", "-c", "sleep 50 & echo left")).stdout == b"left\n"
    assert time.monotonic() - began < 30


async def test_many_run_at_once(harness: RuntimeHarness, runtime: Runtime) -> None:
    id = await run(runtime, harness.spec("sleeps"))
    outcomes = await asyncio.gather(*(execute(runtime, id, "echo", str(number)) for number in range(24)))
    assert [outcome.stdout for outcome in outcomes] == [f"{number}\n".encode() for number in range(24)]


async def test_a_late_one_is_ended_with_all_that_it_started(harness: RuntimeHarness, runtime: Runtime) -> None:
    id = await run(runtime, harness.spec("sleeps"))
    with pytest.raises(errors.OperationTimeout) as late:
        await execute(runtime, id, "sleep", "4321", timeout=0.5)
    assert late.value.details.get("left_running") is None
    if runtime.kind != "memory":
        # Children, one in a session of its own, one that ignores TERM.
        script = "sleep 4322 & setsid sleep 4323 & (trap '' TERM; sleep 4324) & wait"
        with pytest.raises(errors.OperationTimeout) as late:
            await execute(runtime, id, "sh", "-c", script, timeout=1.0)
        assert late.value.details.get("left_running") is None
        await nothing_sleeps(runtime, id, "432[1-4]")


async def nothing_sleeps(runtime: Runtime, id: str, pattern: str) -> None:
    look = f"for c in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$c 2>/dev/null; echo; done | grep '^sleep {pattern}'"

    async def gone() -> bool:
        return (await execute(runtime, id, "sh", "-c", look)).stdout == b""

    await until(gone, f"the end of sleep {pattern}")


async def test_one_that_is_given_up_is_ended(harness: RuntimeHarness, runtime: Runtime) -> None:
    id = await run(runtime, harness.spec("sleeps"))
    for wait in (0.0, 0.02, 0.5):
        running = asyncio.create_task(execute(runtime, id, "sleep", "4331"))
        await asyncio.sleep(wait)
        running.cancel()
        await asyncio.wait_for(asyncio.wait([running]), 20)
        assert running.cancelled()
    if runtime.kind != "memory":
        await nothing_sleeps(runtime, id, "4331")


async def test_the_flow_goes_on_after_a_command_was_ended(harness: RuntimeHarness, runtime: Runtime) -> None:
    id = await run(runtime, harness.spec("sleeps"))
    with pytest.raises(errors.OperationTimeout):
        await execute(runtime, id, "sleep", "4341", timeout=0.2)
    assert (await runtime.inspect(id)).state == "running"
    assert (await execute(runtime, id, "echo", "on")).stdout == b"on\n"


@pytest.mark.parametrize("how", ["kill", "stop", "remove", "outside"])
async def test_it_ends_with_its_flow(harness: RuntimeHarness, runtime: Runtime, how: str) -> None:
    id = await run(runtime, harness.spec("sleeps"))
    running = asyncio.create_task(execute(runtime, id, "sleep", "4351"))
    await asyncio.sleep(0.5)
    match how:
        case "kill":
            await runtime.kill(id)
        case "stop":
            await runtime.stop(id, timeout=1)
        case "remove":
            await runtime.remove(id, force=True)
        case "outside":
            await harness.outside_kill(runtime, id)
    with pytest.raises(errors.ContainerStopped):
        await asyncio.wait_for(running, 20)


async def test_one_that_kills_itself_is_no_end_of_its_flow(harness: RuntimeHarness, runtime: Runtime) -> None:
    a_real_one(runtime)
    id = await run(runtime, harness.spec("sleeps"))
    assert (await execute(runtime, id, "sh", "-c", "kill -9 $$")).exit_code == 137
    assert (await execute(runtime, id, "sh", "-c", "kill -15 $$")).exit_code == 143


async def test_only_one_that_runs_runs_commands(harness: RuntimeHarness, runtime: Runtime) -> None:
    spec = harness.spec("sleeps")
    await runtime.create(spec)
    with pytest.raises(errors.ContainerStopped):
        await execute(runtime, spec.id, "true")
    await runtime.start(spec.id)
    if runtime.capabilities.pause:
        await runtime.pause(spec.id)
        with pytest.raises(errors.ContainerStopped) as paused:
            await execute(runtime, spec.id, "true")
        assert paused.value.details["state"] == "paused"
        await runtime.unpause(spec.id)
    assert (await execute(runtime, spec.id, "true")).exit_code == 0
    await runtime.kill(spec.id)
    await ended(runtime, spec.id)
    with pytest.raises(errors.ContainerStopped):
        await execute(runtime, spec.id, "true")


async def test_a_pause_holds_a_command_up_and_is_told_at_its_time_out(
    harness: RuntimeHarness, runtime: Runtime
) -> None:
    one_that_pauses(runtime)
    a_real_one(runtime)
    id = await run(runtime, harness.spec("sleeps"))
    count = "n=0; while [ $n -lt 20 ]; do n=$((n+1)); sleep 0.1; done; echo $n"
    held_up = asyncio.create_task(execute(runtime, id, "sh", "-c", count))
    await asyncio.sleep(0.4)
    await runtime.pause(id)
    late = asyncio.create_task(execute(runtime, id, "true", timeout=1.0))
    with pytest.raises(errors.ContainerStopped):
        await late
    done, _ = await asyncio.wait([held_up], timeout=2.5)
    assert not done
    await runtime.unpause(id)
    assert (await asyncio.wait_for(held_up, 20)).stdout == b"20\n"


async def test_one_whose_time_is_over_in_a_paused_flow_says_so_and_ends(
    harness: RuntimeHarness, runtime: Runtime
) -> None:
    one_that_pauses(runtime)
    a_real_one(runtime)
    id = await run(runtime, harness.spec("sleeps"))
    running = asyncio.create_task(execute(runtime, id, "sleep", "4361", timeout=1.0))
    await asyncio.sleep(0.3)
    await runtime.pause(id)
    with pytest.raises(errors.ContainerStopped) as told:
        await asyncio.wait_for(running, 20)
    assert told.value.details["state"] == "paused"
    await runtime.unpause(id)
    await nothing_sleeps(runtime, id, "4361")


async def test_a_flow_that_is_not_there_runs_no_commands(runtime: Runtime) -> None:
    with pytest.raises(errors.ContainerNotFound):
        await execute(runtime, new_flow_id(), "true")
