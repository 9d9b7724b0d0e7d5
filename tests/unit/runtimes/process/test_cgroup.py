"""Limits: what makes a cgroup usable, what is written into it, and that nothing outlives its end."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flow_manager.runtimes.process import cgroup
from flow_manager.runtimes.process.cgroup import DelegatedCgroup, FlowCgroup, Limits


def make_root(folder: Path, controllers: str = "cpuset cpu io memory pids", enabled: str = "cpu memory pids") -> Path:
    root = folder / "delegated"
    root.mkdir()
    (root / "cgroup.controllers").write_text(controllers)
    (root / "cgroup.subtree_control").write_text(enabled)
    return root


@pytest.fixture
def kernel_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel makes a new cgroup's files by itself; here they are made when its folder is."""
    make = Path.mkdir

    def mkdir(path: Path, *arguments: object, **options: object) -> None:
        make(path, *arguments, **options)  # type: ignore[arg-type]
        for name in ("memory.max", "memory.swap.max", "cpu.max", "pids.max"):
            (path / name).touch()

    monkeypatch.setattr(Path, "mkdir", mkdir)


def test_a_root_with_all_controllers_is_usable(tmp_path: Path) -> None:
    assert DelegatedCgroup.usable(make_root(tmp_path)) is not None


def test_controllers_that_are_there_but_off_are_switched_on(tmp_path: Path) -> None:
    root = make_root(tmp_path, enabled="")
    assert DelegatedCgroup.usable(root) is not None
    assert (root / "cgroup.subtree_control").read_text() == "+memory +cpu +pids"


def test_without_a_controller_there_are_no_limits(tmp_path: Path) -> None:
    assert DelegatedCgroup.usable(make_root(tmp_path, controllers="cpu pids")) is None


def test_a_folder_that_is_no_cgroup_is_not_usable(tmp_path: Path) -> None:
    assert DelegatedCgroup.usable(tmp_path) is None
    assert DelegatedCgroup.usable(tmp_path / "nowhere") is None


@pytest.mark.usefixtures("kernel_files")
def test_each_limit_is_written_as_the_kernel_wants_it(tmp_path: Path) -> None:
    group = DelegatedCgroup(make_root(tmp_path)).make("abc", Limits(memory=1000, cpus=1.5, pids=7))
    written = {
        name: (group.path / name).read_text() for name in ("memory.max", "memory.swap.max", "cpu.max", "pids.max")
    }
    assert written == {"memory.max": "1000", "memory.swap.max": "0", "cpu.max": "150000 100000", "pids.max": "7"}


@pytest.mark.usefixtures("kernel_files")
def test_a_tiny_cpu_share_is_the_least_that_the_kernel_takes(tmp_path: Path) -> None:
    group = DelegatedCgroup(make_root(tmp_path)).make("abc", Limits(memory=None, cpus=0.0001, pids=None))
    assert (group.path / "cpu.max").read_text() == "1000 100000"
    assert (group.path / "memory.max").read_text() == ""


def test_a_limit_that_can_not_be_set_leaves_no_folder(tmp_path: Path) -> None:
    delegated = DelegatedCgroup(make_root(tmp_path))
    with pytest.raises(OSError):  # no such file: the kernel knows no such limit
        delegated.make("abc", Limits(memory=1, cpus=None, pids=None))
    assert delegated.of("abc") is None


def test_oom_kills_are_counted(tmp_path: Path) -> None:
    group = FlowCgroup(tmp_path)
    assert group.oom_kills() == 0
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\n")
    assert group.oom_kills() == 2
    (tmp_path / "memory.events").write_text("nonsense")
    assert group.oom_kills() == 0


def test_only_a_folder_marked_as_delegated_is_found_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_root(tmp_path)
    own = root / "manager"
    own.mkdir()
    (tmp_path / "own").write_text("1:name=systemd:/\n0::/delegated/manager\n")
    (tmp_path / "mounts").write_text(f"30 24 0:26 / {tmp_path} rw,nosuid shared:4 - cgroup2 cgroup2 rw\n")
    monkeypatch.setattr(cgroup, "OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(cgroup, "MOUNT_TABLE", tmp_path / "mounts")
    assert cgroup.find_delegated() is None

    def getxattr(path: Path, name: str) -> bytes:
        if path == root and name == "user.delegate":
            return b"1"
        raise OSError

    monkeypatch.setattr(os, "getxattr", getxattr)
    found = cgroup.find_delegated()
    assert found is not None
    assert found.root == root


@pytest.fixture
def real_cgroup() -> Iterator[FlowCgroup]:
    """A cgroup of this machine's kernel, without controllers: enough to end what lives in it."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines() if Path("/proc/self/mountinfo").exists() else []
    mount = next((line.split()[4] for line in lines if " - cgroup2 " in line), None)
    if mount is None or not os.access(mount, os.W_OK):
        pytest.skip("no writable cgroup v2 here")
    path = Path(mount) / f"flow-manager-test-{os.getpid()}"
    try:
        path.mkdir()
    except OSError as exc:
        pytest.skip(f"no cgroup can be made here: {exc}")
    if not (path / "cgroup.kill").exists():
        path.rmdir()
        pytest.skip("this kernel has no cgroup.kill")
    group = FlowCgroup(path)
    yield group
    group.kill()
    deadline = time.monotonic() + 5
    while path.exists() and time.monotonic() < deadline:
        group.remove()
        time.sleep(0.005)


def test_one_who_left_the_session_ends_with_its_cgroup(real_cgroup: FlowCgroup) -> None:
    script = 'echo 0 > "$0"; setsid sleep 60 & echo $!; wait'
    process = subprocess.Popen(["/bin/sh", "-c", script, str(real_cgroup.procs)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        descriptor = os.pidfd_open(int(process.stdout.readline()))
        real_cgroup.kill()
        assert process.wait(5) == -9
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        assert poll.poll(5000)
        os.close(descriptor)
