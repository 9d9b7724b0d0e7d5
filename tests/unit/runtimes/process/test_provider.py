"""What is the process runtime's own, beside the contract that all runtimes share."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from flow_manager import errors
from flow_manager.runtimes.base import FlowSpec
from flow_manager.runtimes.process import kernel, record
from flow_manager.runtimes.process import provider as provider_module
from flow_manager.runtimes.process.output import MAX_BYTES
from flow_manager.runtimes.process.provider import ProcessProvider
from flow_manager.settings.models import LimitSettings
from flow_manager.settings.runtime import RuntimeSettings
from flow_manager.testing import eventually
from flow_manager.util.ids import new_flow_id
from tests.contract.harness import Events, ended, printed, run
from tests.contract.harness_process import ProcessHarness

both_loops = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])
ROOT = Path(__file__).resolve().parents[4]


def shell(harness: ProcessHarness, script: str, **overrides: object) -> FlowSpec:
    return harness.spec("sleeps", command=("/bin/sh", "-c", script), **overrides)


def record_of(harness: ProcessHarness, spec: FlowSpec) -> Path:
    return harness.state_dir / "process" / spec.id


def alive(pid: int) -> bool:
    stat = kernel.read_stat(pid)
    return stat is not None and stat.alive


async def pid_printed(provider: ProcessProvider, id: str, name: str) -> int:
    async def found() -> int:
        return next(
            (int(line.text.split()[1]) for line in await provider.logs(id) if line.text.startswith(f"{name} ")), 0
        )

    return await eventually(found)


# --- on either loop ---------------------------------------------------------------------------------------------------


@both_loops
async def test_a_whole_life(provider: ProcessProvider, harness: ProcessHarness) -> None:
    spec = harness.spec("ends_with_zero")
    async with Events(provider) as events:
        await run(provider, spec)
        await provider.pause(spec.id)
        await provider.unpause(spec.id)
        assert (await provider.stop(spec.id, timeout=10)).exit_code == 0
        await events.wait_for("died", spec.id)
        assert events.of(spec.id) == ["created", "started", "paused", "unpaused", "died"]


@both_loops
async def test_many_at_once_leave_no_zombie(provider: ProcessProvider, harness: ProcessHarness) -> None:
    specs = [harness.spec("exits", code=number, command=("/bin/sh", "-c", f"exit {number}")) for number in range(50)]
    await asyncio.gather(*(provider.create(spec) for spec in specs))
    await asyncio.gather(*(provider.start(spec.id) for spec in specs))
    await asyncio.gather(*(ended(provider, spec.id) for spec in specs))
    assert [(await provider.inspect(spec.id)).exit_code for spec in specs] == list(range(50))
    pids = [record.load(record_of(harness, spec)).run.pid for spec in specs]  # type: ignore[union-attr]
    assert [pid for pid in pids if kernel.read_stat(pid) is not None] == []


# --- the whole group --------------------------------------------------------------------------------------------------

WITH_CHILD = 'sh -c "trap \\"\\" TERM; while :; do sleep 60; done" & echo "child $!"; echo ready; wait; exit 5'


async def test_what_it_started_ends_with_it(provider: ProcessProvider, harness: ProcessHarness) -> None:
    spec = shell(harness, WITH_CHILD)
    await run(provider, spec)
    child = await pid_printed(provider, spec.id, "child")
    stopped = await provider.stop(spec.id, timeout=10)
    assert stopped.exit_code == 143
    await eventually(lambda: not alive(child))


async def test_what_it_started_ends_when_it_dies_by_itself(provider: ProcessProvider, harness: ProcessHarness) -> None:
    spec = shell(harness, 'sleep 60 & echo "child $!"; exit 5')
    await provider.create(spec)
    await provider.start(spec.id)
    await ended(provider, spec.id)
    assert (await provider.inspect(spec.id)).exit_code == 5
    child = await pid_printed(provider, spec.id, "child")
    await eventually(lambda: not alive(child))


LEAVES_ITS_SESSION = """setsid sh -c 'trap "" HUP TERM; echo "away $$"; while :; do sleep 60; done' & {then}"""


async def test_what_left_its_session_ends_when_it_dies_by_itself(
    provider: ProcessProvider, harness: ProcessHarness
) -> None:
    spec = shell(harness, LEAVES_ITS_SESSION.format(then="sleep 0.3; exit 5"))
    await provider.create(spec)
    await provider.start(spec.id)
    away = await pid_printed(provider, spec.id, "away")
    await ended(provider, spec.id)
    await eventually(lambda: not alive(away))


async def test_a_start_right_after_such_an_end_waits_until_the_rest_has_gone(
    provider: ProcessProvider, harness: ProcessHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both runs bear one FLOW_ID: what is looked for late would be found in the new one."""
    looked, go_on = threading.Event(), threading.Event()
    pids = kernel.pids

    def slowly() -> list[int]:
        looked.set()
        go_on.wait(30)
        return pids()

    spec = shell(harness, LEAVES_ITS_SESSION.format(then="while [ ! -e end ]; do sleep 0.05; done; rm end"))
    await provider.create(spec)
    await provider.start(spec.id)
    old = await pid_printed(provider, spec.id, "away")
    monkeypatch.setattr(kernel, "pids", slowly)
    (harness.state_dir / "process" / spec.id / "work" / "end").touch()
    await ended(provider, spec.id)
    starting = asyncio.create_task(provider.start(spec.id))
    try:
        await eventually(looked.is_set)
        assert not starting.done()
    finally:
        go_on.set()
    assert (await starting).state == "running"
    assert not alive(old)
    assert (await provider.inspect(spec.id)).state == "running"


async def test_what_left_its_session_ends_with_a_flow_that_died_without_any_manager(harness: ProcessHarness) -> None:
    async with opened(harness) as provider:
        spec = shell(harness, LEAVES_ITS_SESSION.format(then="wait"))
        await provider.create(spec)
        await provider.start(spec.id)
        away = await pid_printed(provider, spec.id, "away")
    leader = record.load(record_of(harness, spec)).run.pid  # type: ignore[union-attr]
    os.killpg(leader, signal.SIGKILL)
    await asyncio.to_thread(os.waitpid, leader, 0)
    assert alive(away)
    async with opened(harness):
        await eventually(lambda: not alive(away))


async def test_a_pause_freezes_what_it_started_too(provider: ProcessProvider, harness: ProcessHarness) -> None:
    spec = shell(harness, WITH_CHILD)
    await run(provider, spec)
    child = await pid_printed(provider, spec.id, "child")
    await provider.pause(spec.id)

    def frozen() -> bool:
        stat = kernel.read_stat(child)
        return stat is not None and stat.frozen

    await eventually(frozen)
    await provider.unpause(spec.id)
    await eventually(lambda: not frozen())


async def test_a_shell_that_starts_program_after_program_can_be_frozen_every_time(
    provider: ProcessProvider, harness: ProcessHarness
) -> None:
    # In vfork the shell can't freeze before its child went on: one of a few pauses hits that moment.
    spec = shell(harness, "echo ready; while :; do /bin/true; done")
    await run(provider, spec)
    for _ in range(40):
        assert (await provider.pause(spec.id)).state == "paused"
        assert (await provider.unpause(spec.id)).state == "running"


async def test_a_pause_by_somebody_else_is_seen(provider: ProcessProvider, harness: ProcessHarness) -> None:
    spec = harness.spec("sleeps")
    await run(provider, spec)
    pid = kernel.find_session_leader("FLOW_ID", spec.id)
    assert pid is not None
    os.killpg(pid, signal.SIGSTOP)

    async def paused() -> bool:
        return (await provider.inspect(spec.id)).state == "paused"

    await eventually(paused)
    assert (await provider.start(spec.id)).state == "running"


async def test_the_figures_are_of_the_whole_group(provider: ProcessProvider, harness: ProcessHarness) -> None:
    spec = shell(harness, WITH_CHILD)
    await run(provider, spec)
    first = await provider.stats(spec.id)
    assert first.cpu_percent is None
    assert first.pids is not None
    assert first.pids >= 2


# --- another manager --------------------------------------------------------------------------------------------------

MANAGER = """
import asyncio, sys
from pathlib import Path
from flow_manager.runtimes.base import FlowSpec
from flow_manager.runtimes.process.provider import ProcessProvider
from flow_manager.settings.models import LimitSettings
from flow_manager.settings.runtime import RuntimeSettings

async def main(state, instance, *ids):
    provider = ProcessProvider("process", RuntimeSettings(), instance=instance, limits=LimitSettings(),
                               sockets_dir=Path(state), state_dir=Path(state))
    await provider.open()
    for id in ids:
        spec = FlowSpec(id=id, name=id, container_name=id, tenant="default", instance=instance, image="local",
                        command=("/bin/sh", "-c", "while :; do echo tick; sleep 0.02; done"))
        await provider.create(spec)
        await provider.start(id)
    await provider.pause(ids[-1])
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


def flows_of_a_killed_manager(harness: ProcessHarness, *ids: str) -> None:
    """A manager of its own process starts them and dies by SIGKILL."""
    command = [sys.executable, "-c", MANAGER, str(harness.state_dir), harness.instance, *ids]
    manager = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert manager.stdout is not None
    with manager.stdout:
        assert manager.stdout.readline() == "ready\n"
    manager.kill()
    manager.wait()


@both_loops
async def test_a_killed_managers_flows_go_on_and_are_taken_over(harness: ProcessHarness) -> None:
    first, second = new_flow_id(), new_flow_id()
    flows_of_a_killed_manager(harness, first, second)
    async with opened(harness) as provider, Events(provider) as events:
        assert {flow.id: flow.state for flow in await provider.list()} == {first: "running", second: "paused"}
        lines = len(await provider.logs(first, tail=10_000))

        async def writes_on() -> bool:
            return len(await provider.logs(first, tail=10_000)) > lines

        await eventually(writes_on, what="the flow survives its manager's pipe and goes on")
        assert (await provider.pause(first)).state == "paused"
        assert (await provider.unpause(first)).state == "running"
        stopped = await provider.stop(first, timeout=5)
        assert (stopped.state, stopped.exit_code) == ("stopped", None)  # init alone learnt the code
        assert (await events.wait_for("died", first)).exit_code is None
        pid = kernel.find_session_leader("FLOW_ID", second)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await events.wait_for("died", second)
        assert (await provider.inspect(second)).state == "stopped"
        assert (await provider.start(second)).state == "running"


async def test_what_ended_without_any_manager_is_stopped(harness: ProcessHarness) -> None:
    id = new_flow_id()
    flows_of_a_killed_manager(harness, id)
    pid = kernel.find_session_leader("FLOW_ID", id)
    assert pid is not None
    os.killpg(pid, signal.SIGKILL)
    await eventually(lambda: not alive(pid))
    async with opened(harness) as provider:
        seen = await provider.inspect(id)
        assert (seen.state, seen.exit_code, seen.running) == ("stopped", None, False)


async def test_a_start_that_the_manager_did_not_survive_is_found(harness: ProcessHarness) -> None:
    id = new_flow_id()
    flows_of_a_killed_manager(harness, id)
    folder = harness.state_dir / "process" / id
    # As if it had died after the spawn, before it could write down the pid.
    record.save(folder, replace(record.load(folder), state="starting", run=None))
    async with opened(harness) as provider:
        assert (await provider.inspect(id)).running
        await provider.kill(id)
        assert kernel.find_session_leader("FLOW_ID", id) is None


async def test_a_start_that_never_came_to_a_process_is_forgotten(harness: ProcessHarness) -> None:
    spec = harness.spec("sleeps")
    async with opened(harness) as provider:
        await provider.create(spec)
    folder = record_of(harness, spec)
    record.save(folder, replace(record.load(folder), state="starting"))
    async with opened(harness) as provider:
        assert (await provider.inspect(spec.id)).state == "created"
        assert (await provider.start(spec.id)).state == "running"


@pytest.mark.parametrize("wrong", ["start_ticks", "boot_id"])
async def test_a_pid_that_now_is_somebody_elses_is_left_alone(harness: ProcessHarness, wrong: str) -> None:
    spec = harness.spec("sleeps")
    async with opened(harness) as provider:
        await provider.create(spec)
    stranger = subprocess.Popen(  # noqa: ASYNC220 - a moment, in a test
        ["/bin/sleep", "60"], start_new_session=True
    )
    try:
        stat = kernel.read_stat(stranger.pid)
        assert stat is not None
        identity = {"start_ticks": stat.start_ticks, "boot_id": kernel.boot_id()}
        identity[wrong] = 1 if wrong == "start_ticks" else "another boot"
        kept = record.load(record_of(harness, spec))
        was = record.Run(pid=stranger.pid, started_at=kept.created_at, **identity)  # type: ignore[arg-type]
        record.save(record_of(harness, spec), replace(kept, state="running", run=was))
        async with opened(harness) as provider:
            assert (await provider.inspect(spec.id)).state == "stopped"
            with pytest.raises(errors.ContainerStopped):
                await provider.kill(spec.id)
            await provider.remove(spec.id, force=True)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_an_unreadable_record_hides_no_other_flow(
    harness: ProcessHarness, caplog: pytest.LogCaptureFixture
) -> None:
    spec = harness.spec("sleeps")
    async with opened(harness) as provider:
        await provider.create(spec)
    broken = harness.state_dir / "process" / new_flow_id()
    broken.mkdir()
    (broken / record.RECORD_FILE).write_text(json.dumps({"spec": {"environment": {"PASSWORD": "hush-hush"}}}))
    unfinished = harness.state_dir / "process" / f".new-{new_flow_id()}"
    unfinished.mkdir()
    async with opened(harness) as provider:
        assert [flow.id for flow in await provider.list()] == [spec.id]
    assert broken.name in caplog.text
    assert "hush-hush" not in caplog.text
    assert not unfinished.exists()
    (broken / record.RECORD_FILE).unlink()
    broken.rmdir()


async def test_two_runtimes_of_this_kind_do_not_share_flows(harness: ProcessHarness) -> None:
    spec = harness.spec("sleeps")
    async with opened(harness) as provider:
        await provider.create(spec)
        lab = ProcessProvider(
            "lab",
            RuntimeSettings(kind="process"),
            instance=harness.instance,
            limits=LimitSettings(),
            sockets_dir=harness.sockets_dir,
            state_dir=harness.state_dir,
        )
        await lab.open()
        assert (lab.name, lab.kind) == ("lab", "process")
        assert await lab.list() == []
        await lab.close()


# --- its end ----------------------------------------------------------------------------------------------------------


async def test_closing_leaves_flows_running_and_stop_all_ends_them(harness: ProcessHarness) -> None:
    polite, stubborn, paused, idle = (
        harness.spec("ends_with_zero"),
        harness.spec("ignores_term"),
        harness.spec("sleeps"),
        harness.spec("sleeps"),
    )
    async with opened(harness) as provider:
        await asyncio.gather(*(run(provider, spec) for spec in (polite, stubborn, paused)))
        await provider.create(idle)
        await provider.pause(paused.id)
    assert all(kernel.find_session_leader("FLOW_ID", spec.id) for spec in (polite, stubborn, paused))
    async with opened(harness) as provider:
        assert await provider.stop_all(grace=0.3) == 3
        assert await provider.stop_all() == 0
        states = {flow.id: flow.state for flow in await provider.list()}
        assert states == {polite.id: "exited", stubborn.id: "exited", paused.id: "exited", idle.id: "created"}


async def test_a_start_that_is_given_up_is_carried_through(provider: ProcessProvider, harness: ProcessHarness) -> None:
    for turns in range(6):
        spec = harness.spec("sleeps")
        await provider.create(spec)
        starting = asyncio.create_task(provider.start(spec.id))
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait([starting])
        if turns == 0:  # it had not begun
            assert (await provider.inspect(spec.id)).state == "created"
            continue
        await printed(provider, spec.id, "ready")
        assert (await provider.inspect(spec.id)).state == "running"
        assert (await provider.kill(spec.id)).exit_code == 137


async def test_closed_or_never_open_it_says_so(harness: ProcessHarness) -> None:
    provider = harness.make(harness.instance)
    for _ in range(2):
        with pytest.raises(errors.RuntimeUnavailable):
            await provider.ping()
        with pytest.raises(errors.RuntimeUnavailable):
            await provider.list()
        with pytest.raises(errors.RuntimeUnavailable):
            await provider.remove(new_flow_id())
        await provider.close()


async def test_a_system_without_pidfd_is_told_not_a_crash(
    harness: ProcessHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = harness.make(harness.instance)
    with monkeypatch.context() as patched:
        patched.delattr(os, "pidfd_open")
        await provider.open()
    with pytest.raises(errors.RuntimeUnavailable) as caught:
        await provider.ping()
    assert "Linux" in caught.value.details["reason"]


async def test_a_state_folder_that_can_not_be_made_is_told(harness: ProcessHarness) -> None:
    harness.state_dir.parent.mkdir(exist_ok=True)
    harness.state_dir.write_text("a file")
    provider = harness.make(harness.instance)
    await provider.open()
    with pytest.raises(errors.RuntimeUnavailable):
        await provider.create(harness.spec("sleeps"))
    harness.state_dir.unlink()


# --- folders and limits -----------------------------------------------------------------------------------------------


async def test_it_works_in_its_code_or_a_folder_of_its_own(
    provider: ProcessProvider, harness: ProcessHarness, tmp_path: Path
) -> None:
    code = tmp_path / "code"
    code.mkdir()
    own, coded, asked = (
        shell(harness, "pwd; echo ready; sleep 60"),
        shell(harness, "pwd; echo ready; sleep 60", code_folder=code),
        shell(harness, "pwd; echo ready; sleep 60", code_folder=code, working_dir="/"),
    )
    await asyncio.gather(*(run(provider, spec) for spec in (own, coded, asked)))
    assert [(await provider.logs(spec.id))[0].text for spec in (own, coded, asked)] == [
        str(record_of(harness, own) / "work"),
        str(code),
        "/",
    ]


async def test_a_failed_start_says_why_and_a_later_one_forgets_it(
    provider: ProcessProvider, harness: ProcessHarness, tmp_path: Path
) -> None:
    folder = tmp_path / "later"
    spec = harness.spec("sleeps", working_dir=str(folder))
    await provider.create(spec)
    with pytest.raises(errors.StartFailed):
        await provider.start(spec.id)
    failed = await provider.inspect(spec.id)
    assert failed.state == "created"
    assert failed.error is not None
    assert "later" in failed.error
    folder.mkdir()
    started = await provider.start(spec.id)
    assert (started.state, started.error, started.exit_code) == ("running", None, None)


async def test_a_full_disk_fails_the_create_and_leaves_nothing(
    provider: ProcessProvider, harness: ProcessHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        with pytest.raises(errors.NoSpace):
            await provider.create(harness.spec("sleeps"))
    assert await harness.leftovers() == []


async def test_the_output_of_a_running_flow_stays_bounded(
    provider: ProcessProvider, harness: ProcessHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = shell(harness, f"head -c {MAX_BYTES + 10_000_000} /dev/zero | tr '\\0' 'x'; echo; echo ready; sleep 60")
    await run(provider, spec)
    live = record_of(harness, spec) / "output.log"
    await eventually(lambda: live.stat().st_size <= MAX_BYTES, timeout=10, what="the manager trims by itself")
    assert provider_module.TRIM_INTERVAL <= 1


async def test_a_configured_cgroup_that_can_not_carry_limits_is_said_and_limits_are_refused(
    harness: ProcessHarness, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    provider = harness.make(harness.instance, RuntimeSettings(kind="process", cgroup=tmp_path))
    await provider.open()
    assert not provider.capabilities.limits
    assert str(tmp_path) in caplog.text
    with pytest.raises(errors.Unsupported):
        await provider.create(harness.spec("sleeps", memory=2**20))
    await provider.close()


async def test_it_admits_that_it_isolates_nothing(provider: ProcessProvider) -> None:
    assert provider.capabilities.isolation is False


class opened:
    """An opened provider of the harness's instance."""

    def __init__(self, harness: ProcessHarness) -> None:
        self._provider = harness.make(harness.instance)

    async def __aenter__(self) -> ProcessProvider:
        await self._provider.open()
        return self._provider

    async def __aexit__(self, *_: object) -> None:
        await self._provider.close()
