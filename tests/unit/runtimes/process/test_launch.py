"""What a local process may be, what it sees, and why it can't be started."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flow_manager import errors
from flow_manager.runtimes.base import FlowSpec, Mount, PortBinding
from flow_manager.runtimes.process import launch

SPEC = FlowSpec(
    id="abcdefghijkl",
    name="reports",
    container_name="reports",
    tenant="default",
    instance="test",
    image="local",
    command=("sleep", "60"),
)
MANAGER = {"PATH": "/usr/bin:/bin", "HOME": "/home/m", "LANG": "en_US.UTF-8", "SECRET": "hush", "PYTHONPATH": "/x"}


@pytest.mark.parametrize(
    ("change", "capability"),
    [
        ({"mounts": (Mount(Path("/data"), "/data"),)}, "volumes"),
        ({"networks": ("backend",)}, "networks"),
        ({"memory": 1}, "limits"),
        ({"cpus": 0.1}, "limits"),
        ({"pids": 1}, "limits"),
    ],
)
def test_what_it_cannot_do_is_unsupported(change: dict[str, Any], capability: str) -> None:
    with pytest.raises(errors.Unsupported) as caught:
        launch.refuse_what_it_cannot(replace(SPEC, **change), limits=False)
    assert caught.value.details["capability"] == capability
    assert caught.value.error_type == "process_error"


@pytest.mark.parametrize("command", [None, (), ("",)])
def test_a_command_is_required(command: tuple[str, ...] | None) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        launch.refuse_what_it_cannot(replace(SPEC, command=command), limits=False)
    assert caught.value.details["fields"][0]["path"] == "command"


def test_limits_are_fine_where_there_is_a_cgroup() -> None:
    launch.refuse_what_it_cannot(replace(SPEC, memory=1), limits=True)


def test_the_only_image_is_local() -> None:
    with pytest.raises(errors.ImageNotFound):
        launch.refuse_what_it_cannot(replace(SPEC, image="alpine"), limits=True)


def test_nothing_of_the_managers_own_reaches_it() -> None:
    seen = launch.environment(replace(SPEC, environment={"A": "1"}), {}, MANAGER)
    assert seen == {"PATH": "/usr/bin:/bin", "HOME": "/home/m", "LANG": "en_US.UTF-8", "A": "1", "FLOW_ID": SPEC.id}


def test_a_manager_without_environment_gives_usable_values() -> None:
    assert launch.environment(SPEC, {}, {}) == {
        "PATH": os.defpath,
        "HOME": "/",
        "LANG": "C.UTF-8",
        "FLOW_ID": SPEC.id,
    }


def test_its_own_values_win_over_the_managers_but_not_over_what_it_is_told() -> None:
    own = {"PATH": "/opt", "FLOW_ID": "forged", "PORT": "1", "FLOW_CODE": "forged"}
    spec = replace(SPEC, environment=own, ports=(PortBinding(80, "tcp", 0),), code_folder=Path("/code"))
    seen = launch.environment(spec, {"80/tcp": 4000}, MANAGER)
    assert (seen["PATH"], seen["FLOW_ID"], seen["PORT"], seen["FLOW_CODE"]) == ("/opt", SPEC.id, "4000", "/code")


def test_of_several_ports_the_lowest_is_port_and_each_has_a_name() -> None:
    spec = replace(SPEC, ports=(PortBinding(443, "tcp", 0), PortBinding(80, "tcp", 0), PortBinding(80, "udp", 0)))
    seen = launch.environment(spec, {"443/tcp": 1, "80/tcp": 2, "80/udp": 3}, MANAGER)
    assert {name: value for name, value in seen.items() if name.startswith("PORT")} == {
        "PORT": "2",
        "PORT_443": "1",
        "PORT_80": "2",
        "PORT_80_UDP": "3",
    }


# --- the spawn --------------------------------------------------------------------------------------------------------


def spawn(tmp_path: Path, *command: str, cgroup_procs: Path | None = None, folder: Path | None = None) -> int:
    with (tmp_path / "out").open("wb") as output:
        return launch.spawn(
            command,
            environment={"PATH": f"{tmp_path}:/usr/bin:/bin"},
            folder=folder or tmp_path,
            output=output.fileno(),
            errors=output.fileno(),
            cgroup_procs=cgroup_procs,
        )


@pytest.fixture(params=["plain", "cgroup"])
def cgroup_procs(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    if request.param == "plain":
        return None
    (tmp_path / "cgroup.procs").touch()
    return tmp_path / "cgroup.procs"


def make(path: Path, text: str, mode: int) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_it_leads_a_session_and_group_of_its_own(tmp_path: Path, cgroup_procs: Path | None) -> None:
    pid = spawn(tmp_path, "sleep", "60", cgroup_procs=cgroup_procs)
    try:
        assert os.getsid(pid) == os.getpgid(pid) == pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_with_a_terminal_it_has_it_for_its_own(tmp_path: Path, cgroup_procs: Path | None) -> None:
    master, slave = os.openpty()

    def until(words: bytes) -> None:
        seen = b""
        while words not in seen:
            seen += os.read(master, 1000)

    try:
        pid = launch.spawn(
            (
                "sh",
                "-c",
                'test -t 0 && test -t 1 && test -t 2 && read -r line </dev/tty; echo "$1 $line"',
                "sh",
                "$x  `y`",
            ),
            environment={"PATH": "/usr/bin:/bin"},
            folder=tmp_path,
            output=slave,
            cgroup_procs=cgroup_procs,
            terminal=True,
        )
        try:
            assert os.getsid(pid) == os.getpgid(pid) == pid
            os.write(master, b"typed\r")
            until(b"$x  `y` typed\r\n")
            if cgroup_procs is not None:
                assert cgroup_procs.read_text() == "0\n"
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    finally:
        os.close(master)
        os.close(slave)


def test_no_shell_reads_its_arguments(tmp_path: Path, cgroup_procs: Path | None) -> None:
    words = ["$(touch owned)", "two  words", "`x`", "*", "", "-n"]
    pid = spawn(tmp_path, "printf", "%s|", *words, cgroup_procs=cgroup_procs)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (tmp_path / "out").read_text() == "".join(f"{word}|" for word in words)
    assert not (tmp_path / "owned").exists()
    if cgroup_procs is not None:
        assert cgroup_procs.read_text() == "0\n"


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("no-such-command", 127, "not found"),
        ("./no-such-file", 127, "not found"),
        ("/nowhere/at/all", 127, "not found"),
        ("./not-executable", 126, "may not be executed"),
    ],
)
def test_why_it_can_not_be_started(
    tmp_path: Path, cgroup_procs: Path | None, command: str, code: int, words: str
) -> None:
    make(tmp_path / "not-executable", "#!/bin/sh\n", 0o600)
    with pytest.raises(errors.StartFailed) as caught:
        spawn(tmp_path, command, cgroup_procs=cgroup_procs)
    assert caught.value.details["exit_code"] == code
    assert words in caught.value.details["reason"]


def test_a_script_without_its_first_line_is_no_program(tmp_path: Path) -> None:
    make(tmp_path / "script", "echo hello\n", 0o700)
    with pytest.raises(errors.StartFailed) as caught:
        spawn(tmp_path, "./script")
    assert caught.value.details["exit_code"] == 126
    assert "#!" in caught.value.details["reason"]


def test_a_working_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.StartFailed) as caught:
        spawn(tmp_path, "true", folder=tmp_path / "nowhere")
    assert "nowhere" in caught.value.details["reason"]


def test_too_many_arguments_fail_the_start_alone(tmp_path: Path) -> None:
    with pytest.raises(errors.StartFailed) as caught:
        spawn(tmp_path, "true", *["x" * 100_000] * 100)
    assert "too long" in caught.value.details["reason"]
