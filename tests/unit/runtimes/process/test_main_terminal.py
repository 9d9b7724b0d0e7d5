"""A local flow's own terminal, beside the contract that all runtimes share: who holds it, and what is left of that."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import tty
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flow_manager import errors
from flow_manager.runtimes.base import FlowSpec
from flow_manager.runtimes.process import holder as holder_module
from flow_manager.runtimes.process import holding, kernel
from flow_manager.runtimes.process.holding import HOLDER_MARK, SOCKET
from flow_manager.runtimes.process.output import MAX_BYTES
from flow_manager.runtimes.process.provider import ProcessProvider
from flow_manager.testing import eventually
from flow_manager.util.ids import new_flow_id
from tests.contract.harness import ended
from tests.contract.harness import opened as opened_runtime
from tests.contract.harness_process import ProcessHarness
from tests.contract.harness_process import harness as make_harness
from tests.contract.test_terminals import HOMELESS, Screen, opened

both_loops = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])
ROOT = Path(__file__).resolve().parents[4]
INTERRUPT = b"\x03"
MIB = 1024 * 1024
# A Python with what the holder imports has some 12 MiB; what it would hold of `yes` in a second is ten times that.
HOLDERS_MEMORY = 40 * MIB


def shell(harness: ProcessHarness, script: str, **overrides: Any) -> FlowSpec:
    return harness.spec("sleeps", command=("/bin/sh", "-c", script), tty=True, **overrides)


async def begun(provider: ProcessProvider, spec: FlowSpec) -> str:
    await provider.create(spec)
    await provider.start(spec.id)
    return spec.id


def holder_of(id: str) -> int | None:
    return kernel.find_session_leader(HOLDER_MARK, id)


def alive(pid: int) -> bool:
    stat = kernel.read_stat(pid)
    return stat is not None and stat.alive


def leader_of(id: str) -> int:
    pid = kernel.find_session_leader("FLOW_ID", id)
    assert pid is not None
    return pid


def socket_of(harness: ProcessHarness, id: str) -> Path:
    return harness.state_dir / "process" / id / SOCKET


def left(harness: ProcessHarness, id: str) -> list[object]:
    """Of its terminal."""
    return [found for found in (holder_of(id), socket_of(harness, id).exists()) if found]


async def logged(provider: ProcessProvider, id: str, words: str) -> None:
    async def seen() -> bool:
        return any(words in line.text for line in await provider.logs(id, tail=1000))

    await eventually(seen, what=f"{words!r} is in the log")


ASKS = 'while read -r line; do case "$line" in exit*) exit 7;; size) stty size;; *) echo "got $line";; esac; done'


# --- what it can ------------------------------------------------------------------------------------------------------


@both_loops
async def test_it_is_typed_in_resized_logged_and_its_exit_code_is_the_flows(
    provider: ProcessProvider, harness: ProcessHarness
) -> None:
    id = await begun(provider, shell(harness, f"test -t 0 && test -t 2 && echo at $TERM >&2; {ASKS}"))
    await logged(provider, id, "at xterm-256color")
    async with opened(provider, id, main=True, cols=99, rows=33) as screen:
        await screen.terminal.write(b"size\r")
        await screen.shows(b"33 99\r\n")
        await screen.terminal.resize(51, 21)
        await screen.terminal.write(b"size\r")
        await screen.shows(b"21 51\r\n")
        await screen.terminal.write(b"hello\r")
        await screen.shows(b"got hello\r\n")
        await screen.terminal.write(b"exit\r")
        assert await screen.ends() == 7
        await screen.terminal.write(b"too late")
        await screen.terminal.resize(80, 24)
    lines = [line for line in await provider.logs(id) if line.text.startswith(("got", "at"))]
    assert [(line.stream, line.text) for line in lines] == [("stdout", "at xterm-256color"), ("stdout", "got hello")]
    assert (await provider.inspect(id)).exit_code == 7
    assert left(harness, id) == []


async def test_what_it_wrote_last_is_in_its_log_and_shown(provider: ProcessProvider, harness: ProcessHarness) -> None:
    spec = shell(harness, "read -r go; i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; exit 3")
    await provider.create(spec)
    for _ in range(5):
        await provider.start(spec.id)
        following = provider.follow_logs(spec.id, after=())
        async with opened(provider, spec.id, main=True) as screen:
            await screen.terminal.write(b"\r")
            assert await screen.ends() == 3
            assert bytes(screen.seen).endswith(b"line 2999\r\n")
        assert [line.text for line in await provider.logs(spec.id, tail=1)] == ["line 2999"]
        batches = [batch async for batch in following]
        assert batches[-1][-1].text == "line 2999"


async def test_it_is_made_anew_with_each_start(provider: ProcessProvider, harness: ProcessHarness) -> None:
    id = await begun(provider, shell(harness, ASKS))
    for word in (b"one", b"two"):
        async with opened(provider, id, main=True) as screen:
            await screen.terminal.write(word + b"\r")
            await screen.shows(b"got " + word)
        await provider.stop(id, timeout=5)
        assert left(harness, id) == []
        await provider.start(id)


async def test_several_look_and_type_and_one_who_leaves_disturbs_nobody(
    provider: ProcessProvider, harness: ProcessHarness
) -> None:
    id = await begun(provider, shell(harness, ASKS))
    async with opened(provider, id, main=True) as first:
        async with opened(provider, id, main=True) as second:
            await first.terminal.write(b"both\r")
            await first.shows(b"got both")
            await second.shows(b"got both")
        await first.terminal.write(b"alone\r")
        await first.shows(b"got alone")
        assert b"alone" not in second.seen


async def test_a_command_that_is_not_there_says_so_and_leaves_nothing(
    provider: ProcessProvider, harness: ProcessHarness
) -> None:
    spec = harness.spec("missing_command", tty=True)
    await provider.create(spec)
    with pytest.raises(errors.StartFailed) as caught:
        await provider.start(spec.id)
    assert caught.value.details["exit_code"] == 127
    assert left(harness, spec.id) == []


async def test_a_start_without_a_holder_fails_and_leaves_no_flow(
    provider: ProcessProvider, harness: ProcessHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = shell(harness, ASKS)
    await provider.create(spec)
    monkeypatch.setattr(holding.sys, "executable", "/nonexistent/python")
    with pytest.raises(errors.StartFailed, match="no terminal"):
        await provider.start(spec.id)
    assert kernel.find_session_leader("FLOW_ID", spec.id) is None
    assert left(harness, spec.id) == []
    monkeypatch.undo()
    assert (await provider.start(spec.id)).state == "running"


async def test_one_that_closes_its_terminal_keeps_it_and_may_come_back(
    provider: ProcessProvider, harness: ProcessHarness
) -> None:
    script = "exec </dev/null >/dev/null 2>&1; while [ ! -e back ]; do sleep 0.05; done; echo back >/dev/tty; sleep 60"
    id = await begun(provider, shell(harness, script))
    async with opened(provider, id, main=True) as screen:
        # Long enough for the other side to have been found closed.
        await asyncio.sleep(3 * holder_module.QUIET_POLL)
        (harness.state_dir / "process" / id / "work" / "back").touch()
        await screen.shows(b"back\r\n")
    assert (await provider.inspect(id)).state == "running"


async def test_the_state_folder_may_have_a_long_path(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    async with make_harness(deep) as harness, opened_runtime(harness) as provider:
        id = await begun(provider, shell(harness, ASKS))  # type: ignore[arg-type]
        async with opened(provider, id, main=True) as screen:
            await screen.terminal.write(b"deep\r")
            await screen.shows(b"got deep")


async def test_only_its_owner_may_open_its_socket(provider: ProcessProvider, harness: ProcessHarness) -> None:
    id = await begun(provider, shell(harness, ASKS))
    path = socket_of(harness, id)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


async def test_its_holder_counts_for_nobody(provider: ProcessProvider, harness: ProcessHarness) -> None:
    id = await begun(provider, shell(harness, "sleep 61 & wait"))
    await eventually(lambda: len(kernel.sessions().get(leader_of(id), [])) == 2)

    async def counted() -> bool:  # a pass over all processes may be a moment old
        return (await provider.stats(id)).pids == 2

    await eventually(counted)
    holder = holder_of(id)
    assert holder is not None
    assert not kernel.environment_holds(holder, "FLOW_ID", id)


# --- stops and pauses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stop", "kill", "itself", "delete", "stop_all"])
async def test_nothing_of_it_is_left_after_its_flow(
    provider: ProcessProvider, harness: ProcessHarness, how: str
) -> None:
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    id = await begun(provider, shell(harness, ASKS))
    screen = Screen(await provider.attach(id, None, main=True))
    await screen.terminal.write(b"here\r")
    await screen.shows(b"got here")
    holder = holder_of(id)
    assert holder is not None
    if how == "stop":
        assert (await provider.stop(id, timeout=5)).exit_code == 143
    elif how == "kill":
        assert (await provider.kill(id)).exit_code == 137
    elif how == "delete":
        await provider.remove(id, force=True)
    elif how == "stop_all":
        assert await provider.stop_all() == 1
    else:
        await screen.terminal.write(b"exit\r")
    assert await screen.ends() == {"stop": 143, "itself": 7, "stop_all": 143}.get(how, 137)
    await screen.terminal.close()
    await eventually(lambda: left(harness, id) == [], what="holder and socket are gone")
    await eventually(lambda: kernel.read_stat(holder) is None, what="it is no zombie")
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors


async def test_a_stop_signal_reaches_the_program_and_its_grace_holds(
    provider: ProcessProvider, harness: ProcessHarness
) -> None:
    polite = await begun(
        provider, shell(harness, "trap 'echo bye; exit 5' USR1; echo up; while :; do sleep 0.05; done")
    )
    stubborn = await begun(provider, shell(harness, "trap '' TERM HUP; echo up; while :; do sleep 0.05; done"))
    for id in (polite, stubborn):
        await logged(provider, id, "up")
    assert (await provider.stop(polite, signal="SIGUSR1", timeout=10)).exit_code == 5
    assert [line.text for line in await provider.logs(polite, tail=1)] == ["bye"]
    assert (await provider.stop(stubborn, timeout=0.2)).exit_code == 137


async def test_a_pause_freezes_a_shells_jobs_too_and_they_go_on_as_they_were(
    provider: ProcessProvider, harness: ProcessHarness
) -> None:
    """A shell on a terminal gives each job a group of its own, and would take the terminal from one that it sees stopped."""
    spec = harness.spec(
        "sleeps", command=("/bin/sh", "-i"), tty=True, environment={"PS1": "now> ", "ENV": "", **HOMELESS}
    )
    id = await begun(provider, spec)
    async with opened(provider, id, main=True) as screen:
        await screen.terminal.write(b"sh -c 'echo $$ job; while read -r x; do echo again $x; done'\r")
        await screen.shows(b" job\r\n")
        job = int(bytes(screen.seen).split(b" job\r\n")[0].split()[-1])
        assert os.getpgid(job) != leader_of(id)
        for number in range(5):
            assert (await provider.pause(id)).state == "paused"
            stat = kernel.read_stat(job)
            assert stat is not None
            assert stat.frozen
            await screen.terminal.write(b"%d\r" % number)  # who types at what is frozen waits, and nothing is lost
            await provider.unpause(id)
            await screen.shows(b"again %d\r\n" % number)
        assert b"topped" not in screen.seen
        screen.seen.clear()
        await screen.terminal.write(INTERRUPT)
        await screen.shows(b"now> ")
        await screen.terminal.write(b"sh -c 'echo $$ other; while :; do sleep 1; done'\r")
        await screen.shows(b" other\r\n")
        other = int(bytes(screen.seen).split(b" other\r\n")[0].split()[-1])
        await provider.pause(id)
    assert (await provider.kill(id)).exit_code == 137
    assert not alive(other)


async def test_a_shell_that_starts_job_after_job_can_be_frozen_every_time(
    provider: ProcessProvider, harness: ProcessHarness
) -> None:
    spec = harness.spec("sleeps", command=("/bin/sh", "-i"), tty=True, environment={"ENV": "", **HOMELESS})
    id = await begun(provider, spec)
    async with opened(provider, id, main=True) as screen:
        await screen.terminal.write(b"echo be''gun; while /bin/true; do :; done\r")
        await screen.shows(b"begun\r\n")
        for _ in range(30):
            assert (await provider.pause(id)).state == "paused"
            assert all(member.frozen for member in kernel.sessions()[leader_of(id)])
            assert (await provider.unpause(id)).state == "running"
        await provider.kill(id)
        await screen.ends()
        assert b"topped" not in screen.seen


# --- who looks, and who does not --------------------------------------------------------------------------------------


async def test_yes_fills_neither_memory_nor_disk_looked_at_or_not(
    provider: ProcessProvider, harness: ProcessHarness
) -> None:
    id = await begun(provider, harness.spec("sleeps", command=("yes",), tty=True))
    holder = holder_of(id)
    assert holder is not None

    def memory() -> int:
        stat = kernel.read_stat(holder)
        assert stat is not None
        return stat.memory

    live = harness.state_dir / "process" / id / "output.log"
    await eventually(lambda: live.stat().st_size > 4 * MIB, what="it is read though nobody looks")
    assert memory() < HOLDERS_MEMORY
    async with opened(provider, id, main=True) as screen:
        await screen.shows(b"y\r\ny\r\n")

        async def held_up() -> bool:
            size = live.stat().st_size
            await asyncio.sleep(0.3)
            return live.stat().st_size == size

        await eventually(held_up, what="a terminal that nobody reads holds its program up")
        files = list(live.parent.glob("output*.log"))
        await eventually(lambda: sum(path.stat().st_size for path in files) < 2 * MAX_BYTES, what="its log is cut")
        assert memory() < HOLDERS_MEMORY
        await screen.terminal.write(INTERRUPT)
        assert await screen.ends() == 130


class Clock:
    def __init__(self) -> None:
        self.now = 0.0


async def test_a_connection_that_takes_nothing_holds_up_no_other_for_long(tmp_path: Path) -> None:
    """The holder alone, in a thread, with a clock of the test's."""
    clock = Clock()
    master, slave = os.openpty()
    os.set_blocking(master, False)
    tty.setraw(slave)
    ending, ended_end = os.pipe()  # readable as a pidfd is, once its process has ended
    path = str(tmp_path / "s")
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        listener.setblocking(False)
        held = holder_module.Holder(master, listener, ending, log, now=lambda: clock.now)
        thread = threading.Thread(target=held.hold)
        thread.start()
        try:
            wrote = 0

            def write_all(size: int) -> None:
                nonlocal wrote
                view = b"x" * size
                while view:
                    sent = os.write(slave, view[:4096])
                    wrote += sent
                    view = view[sent:]

            async def connected() -> socket.socket:
                one = socket.socket(socket.AF_UNIX)
                one.setblocking(False)
                one.connect(path)

                def answered() -> bool:
                    try:
                        _, given, _, _ = socket.recv_fds(one, 1, 1)
                    except BlockingIOError:
                        return False
                    os.close(given[0])
                    return True

                await eventually(answered)
                return one

            lazy, eager = await connected(), await connected()
            with lazy, eager:
                taken = 0

                def take() -> bool:
                    nonlocal taken
                    try:
                        while data := eager.recv(65536):
                            taken += len(data)
                    except BlockingIOError:
                        pass
                    return taken >= goal

                # More than a connection's own buffer holds.
                goal = 4 * MIB
                writing = asyncio.create_task(asyncio.to_thread(write_all, goal))

                def waiting() -> list[bool]:
                    take()
                    return [bool(viewer.pending) for viewer in held._viewers]

                await eventually(lambda: waiting() == [True, False])
                assert not writing.done(), "one that takes nothing holds the program up"

                def goes_on() -> bool:
                    # Again and again: what was seen may have been a moment before a last part was taken, and that counts.
                    if waiting() == [True, False]:
                        clock.now += holder_module.STALL + 1
                    return taken >= goal

                await eventually(goes_on, what="the other goes on")
                await writing
                # Alone, it is waited for as long as it likes.
                goal, writing = taken + 4 * MIB, asyncio.create_task(asyncio.to_thread(write_all, 4 * MIB))
                await eventually(lambda: held._viewers[0].pending)
                clock.now += 10 * holder_module.STALL
                await asyncio.sleep(3 * holder_module.QUIET_POLL)  # it looks at that several times
                assert not writing.done()
                await eventually(take)
                await writing
                assert (tmp_path / "log").stat().st_size == wrote == taken
        finally:
            os.write(ended_end, b"!")
            os.close(slave)
            await asyncio.to_thread(thread.join, 10)
            for descriptor in (master, ending, ended_end, log):
                os.close(descriptor)
    assert not thread.is_alive()


# --- without its manager, without its holder --------------------------------------------------------------------------

MANAGER = """
import asyncio, sys
from pathlib import Path
from flow_manager.runtimes.base import FlowSpec
from flow_manager.runtimes.process.provider import ProcessProvider
from flow_manager.settings.models import LimitSettings, RuntimeSettings

async def main(state, instance, id, script):
    provider = ProcessProvider("process", RuntimeSettings(), instance=instance, limits=LimitSettings(),
                               sockets_dir=Path(state), state_dir=Path(state))
    await provider.open()
    await provider.create(FlowSpec(id=id, name=id, container_name=id, tenant="default", instance=instance, image="local",
                                   command=("/bin/sh", "-c", script), tty=True))
    await provider.start(id)
    terminal = await provider.attach(id, None, main=True)
    await terminal.write(b"first\\r")
    seen = b""
    while b"got first" not in seen:
        seen += await terminal.read()
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


def flow_of_a_killed_manager(harness: ProcessHarness, script: str) -> str:
    """A manager of its own process, with a terminal open, that dies by SIGKILL."""
    id = new_flow_id()
    command = [sys.executable, "-c", MANAGER, str(harness.state_dir), harness.instance, id, script]
    harness.specs.append(replace(shell(harness, script), id=id))
    manager = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert manager.stdout is not None
    with manager.stdout:
        assert manager.stdout.readline() == "ready\n"
    manager.kill()
    manager.wait()
    return id


@both_loops
async def test_a_killed_managers_flow_goes_on_and_the_next_one_shows_its_terminal(harness: ProcessHarness) -> None:
    script = f"(while :; do echo tick; sleep 0.02; done) & {ASKS}"
    id = flow_of_a_killed_manager(harness, script)
    live = harness.state_dir / "process" / id / "output.log"
    size = live.stat().st_size
    await eventually(lambda: live.stat().st_size > size, what="it writes on, and is read")
    async with opened_runtime(harness) as provider:
        async with opened(provider, id, main=True, cols=44, rows=22) as screen:
            await screen.terminal.write(b"size\r")
            await screen.shows(b"22 44\r\n")
            await screen.terminal.write(b"second\r")
            await screen.shows(b"got second\r\n")
        await logged(provider, id, "got first")
        await provider.stop(id, timeout=5)
        assert left(harness, id) == []
        await provider.start(id)
        async with opened(provider, id, main=True) as screen:
            await screen.terminal.write(b"third\r")
            await screen.shows(b"got third\r\n")


async def test_a_flow_that_ended_without_any_manager_takes_its_holder_along(harness: ProcessHarness) -> None:
    id = flow_of_a_killed_manager(harness, ASKS)
    leader = leader_of(id)
    os.kill(leader, signal.SIGKILL)
    await eventually(lambda: not alive(leader))
    await eventually(lambda: left(harness, id) == [], what="holder and socket are gone, with nobody there")


@pytest.mark.parametrize("manager", ["there", "away"])
async def test_a_killed_holder_hangs_its_flow_up_and_nothing_is_left(harness: ProcessHarness, manager: str) -> None:
    id = flow_of_a_killed_manager(harness, ASKS)
    leader, holder = leader_of(id), holder_of(id)
    assert holder is not None
    if manager == "away":
        os.kill(holder, signal.SIGKILL)
        await eventually(lambda: not alive(leader))
    async with opened_runtime(harness) as provider:
        if manager == "there":
            async with opened(provider, id, main=True) as screen:
                os.kill(holder, signal.SIGKILL)
                await screen.ends()
        await ended(provider, id)
        await eventually(lambda: left(harness, id) == [])
        with pytest.raises(errors.ContainerStopped):
            await provider.attach(id, None, main=True)
        await provider.start(id)
        async with opened(provider, id, main=True) as screen:
            await screen.terminal.write(b"anew\r")
            await screen.shows(b"got anew")


async def test_one_that_ignores_being_hung_up_goes_on_without_a_terminal_and_that_is_said(
    provider: ProcessProvider, harness: ProcessHarness
) -> None:
    id = await begun(provider, shell(harness, "trap '' HUP; echo up; while :; do sleep 0.05; done"))
    await logged(provider, id, "up")
    holder = holder_of(id)
    assert holder is not None
    async with opened(provider, id, main=True) as screen:
        os.kill(holder, signal.SIGKILL)
        assert await screen.ends() is None
    with pytest.raises(errors.ExecFailed, match="restart"):
        await provider.attach(id, None, main=True)
    assert (await provider.stop(id, timeout=5)).exit_code == 143
    assert left(harness, id) == []
    assert kernel.read_stat(holder) is None
    assert (await provider.start(id)).state == "running"
    async with opened(provider, id, main=True):
        pass


@pytest.mark.parametrize("number", holder_module.IGNORED)
async def test_a_holder_outlives_what_a_service_manager_sends_to_all(
    provider: ProcessProvider, harness: ProcessHarness, number: int
) -> None:
    id = await begun(provider, shell(harness, ASKS))
    async with opened(provider, id, main=True) as screen:  # it has begun, then
        holder = holder_of(id)
        assert holder is not None
        os.kill(holder, number)
        await screen.terminal.write(b"still\r")
        await screen.shows(b"got still")


async def test_callers_who_give_up_leave_no_descriptor(provider: ProcessProvider, harness: ProcessHarness) -> None:
    id = await begun(provider, shell(harness, ASKS))
    async with opened(provider, id, main=True):
        pass
    descriptors: Callable[[], int] = lambda: len(list(Path("/proc/self/fd").iterdir()))  # noqa: E731
    before = descriptors()
    for turns in range(8):
        attaching = asyncio.create_task(provider.attach(id, None, main=True))
        for _ in range(turns):
            await asyncio.sleep(0)
        attaching.cancel()
        (outcome,) = await asyncio.gather(attaching, return_exceptions=True)
        if not isinstance(outcome, BaseException):
            await outcome.close()
    await eventually(lambda: descriptors() <= before)
