"""Processes as the kernel knows them, and a leader whose number can't be mistaken."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flow_manager.runtimes.process import kernel
from flow_manager.runtimes.process.leader import Leader

Spawn = Callable[..., int]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str, **options: object) -> int:
        started.append(subprocess.Popen(command, start_new_session=True, **options))  # type: ignore[call-overload]
        pid = started[-1].pid
        # Popen returns a moment before the kernel is done with the exec: until then there is neither memory nor environment.
        with contextlib.suppress(ProcessLookupError):  # it ended between two looks
            while (
                (stat := kernel.read_stat(pid)) and stat.alive and not (kernel.PROC / str(pid) / "environ").read_bytes()
            ):
                os.sched_yield()
        return pid

    yield start
    for process in started:
        # The whole group: a shell's children would outlive it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for_end(leader: Leader) -> None:
    os.waitid(os.P_PIDFD, leader.descriptor, os.WEXITED | os.WNOWAIT)


def test_a_process_of_an_odd_name_is_read_rightly(spawn: Spawn, tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    pid = spawn(str(program), "60")
    stat = kernel.read_stat(pid)
    assert stat is not None
    assert (stat.pid, stat.group, stat.session, stat.threads, stat.alive) == (pid, pid, pid, 1, True)
    assert stat.memory > 0


def test_a_process_that_is_not_there_is_none() -> None:
    assert kernel.read_stat(2**22) is None
    assert Leader.hold(2**22) is None


def test_a_group_holds_its_living_members(spawn: Spawn, tmp_path: Path) -> None:
    (tmp_path / "two").touch()
    pid = spawn("/bin/sh", "-c", 'sleep 60 & rm "$0"; wait', str(tmp_path / "two"))
    while (tmp_path / "two").exists():
        os.sched_yield()
    # `rm` removes the file and then ends: a moment later it is still there.
    deadline = time.monotonic() + 5
    while len(kernel.groups()[pid]) != 2 and time.monotonic() < deadline:
        os.sched_yield()
    assert len(kernel.groups()[pid]) == 2


def test_a_variable_is_found_only_whole(spawn: Spawn) -> None:
    pid = spawn("/bin/sleep", "60", env={"FLOW_ID": "abcdefghijkl"})
    assert kernel.environment_holds(pid, "FLOW_ID", "abcdefghijkl")
    assert not kernel.environment_holds(pid, "FLOW_ID", "abcdefghijk")
    assert not kernel.environment_holds(pid, "LOW_ID", "abcdefghijkl")
    assert kernel.find_session_leader("FLOW_ID", "abcdefghijkl") == pid


def test_a_reused_pid_is_not_held(spawn: Spawn) -> None:
    pid = spawn("/bin/sleep", "60")
    leader = Leader.hold(pid)
    assert leader is not None
    assert Leader.hold(pid, leader.start_ticks + 1) is None
    again = Leader.hold(pid, leader.start_ticks)
    assert again is not None
    again.close()
    leader.close()


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -9 $$", 137)]
)
def test_the_exit_code_is_a_shells(spawn: Spawn, script: str, code: int) -> None:
    leader = Leader.hold(spawn("/bin/sh", "-c", script))
    assert leader is not None
    wait_for_end(leader)
    assert leader.ended
    assert leader.reap() == code
    leader.close()


def test_a_leader_that_was_reaped_gets_no_signal_and_no_second_code(spawn: Spawn) -> None:
    leader = Leader.hold(spawn("/bin/sh", "-c", "exit 3"))
    assert leader is not None
    wait_for_end(leader)
    assert leader.signal_group(signal.SIGKILL)  # a zombie keeps its number: nobody else can be hit
    assert leader.reap() == 3
    assert not leader.signal_group(signal.SIGKILL)
    assert leader.reap() is None
    leader.close()


def test_a_living_one_has_not_ended_and_is_not_reaped(spawn: Spawn) -> None:
    leader = Leader.hold(spawn("/bin/sleep", "60"))
    assert leader is not None
    assert not leader.ended
    assert leader.reap() is None
    leader.close()
    leader.close()


def test_somebody_elses_child_has_no_code(spawn: Spawn) -> None:
    script = "import subprocess, sys, time; p = subprocess.Popen(['/bin/sleep', '0.05']); print(p.pid, flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        leader = Leader.hold(int(process.stdout.readline()))
        assert leader is not None
        poll = select.poll()
        poll.register(leader.descriptor, select.POLLIN)
        assert poll.poll(5000)
        assert leader.reap() is None
        leader.close()
        process.kill()
        process.wait()
