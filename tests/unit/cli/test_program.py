"""The program as a user starts it: a process of its own, with signals, and its start-up time."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = [sys.executable, "-m", "flow_manager"]
READY_WITHIN = 30.0


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FLOW_MANAGER_", "DOCKER_"))}
    return {**kept, "DOCKER_HOST": "unix:///nowhere/docker.sock", **more}


def call(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments], env=environment(**variables), capture_output=True, text=True, timeout=50, check=False
    )


@pytest.fixture
def short() -> Iterator[Path]:
    """pytest's own folders are too long for a socket's path."""
    with tempfile.TemporaryDirectory(prefix="fm-", dir="/tmp") as folder:
        yield Path(folder)


def serving(short: Path, *more: str) -> subprocess.Popen[str]:
    folders = ["--state-dir", str(short / "state"), "--sockets-dir", str(short / "s")]
    return subprocess.Popen(
        [*PROGRAM, "serve", "--port", "0", "--runtime", "process", *folders, *more],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], READY_WITHIN)[0], "the service said nothing"
    return process.stdout.readline()


def end(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait for the end that was asked for; kill what doesn't come to it."""
    try:
        return process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise


def test_help_waits_for_nothing_heavy() -> None:
    script = (
        "import sys; from flow_manager.cli.main import build; build();"
        "print(sorted({'socketio', 'engineio', 'aiohttp', 'pydantic', 'sqlalchemy', 'aiodocker', 'rich.table', 'sqlite3'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"
    assert "Usage: flow-manager" in call("--help").stdout or "Usage: python -m flow_manager" in call("--help").stdout


def test_it_says_where_it_listens_and_ends_in_order(short: Path) -> None:
    process = serving(short)
    try:
        line = first_line(process)
        url = re.search(r"http://127\.0\.0\.1:[0-9]+", line)
        assert line.startswith("flow-manager "), line
        assert url is not None
        assert "runtime process" in line
        assert call("ps", "--json", "--url", url[0]).stdout.strip() == "[]"
        created = call("create", "--url", url[0], "--name", "sleeper", "--start", "local", "sleep", "60")
        assert created.returncode == 0, created.stderr
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = end(process)
    assert process.returncode == 0, err
    assert "1 flow(s) of the runtime 'process' were stopped" in out
    assert list((short / "s").rglob("*.sock")) == []


def test_a_crash_below_python_says_where_each_thread_was(short: Path) -> None:
    process = serving(short)
    try:
        first_line(process)
    finally:
        process.send_signal(signal.SIGSEGV)
        _, err = end(process)
    assert process.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in err
    assert "flow_manager/cli/serve.py" in err


def test_a_second_service_on_the_same_folder_is_refused(short: Path) -> None:
    process = serving(short)
    try:
        first_line(process)
        second = call(
            "serve",
            "--port",
            "0",
            "--runtime",
            "process",
            "--state-dir",
            str(short / "state"),
            "--sockets-dir",
            str(short / "t"),
        )
    finally:
        process.send_signal(signal.SIGINT)
        end(process)
    assert second.returncode == 2
    assert "another flow-manager" in second.stderr
    assert "Traceback" not in second.stderr
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "variables", "expected"),
    [
        (["--port", "70000"], {}, "port (flag --port)"),
        (["--host", "0.0.0.0"], {}, "there are no tokens"),
        ([], {"FLOW_MANAGER_PORTT": "1"}, "the nearest is FLOW_MANAGER_PORT"),
        (["--config", "/nowhere.toml"], {}, "cannot be read"),
        (["--sockets-dir", "/tmp/" + "s" * 80], {}, "76"),
        (["--state-dir", "/proc/nowhere"], {}, "state_dir"),
        (["--runtime", "mainframe"], {}, "no runtime 'mainframe'"),
    ],
)
def test_a_setting_that_is_wrong_is_refused_in_words(
    arguments: list[str], variables: dict[str, str], expected: str
) -> None:
    done = call("serve", *arguments, **variables)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


# --- demo -------------------------------------------------------------------------------------------------------------


def begun(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PROGRAM, *arguments], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def demo_folders(process: subprocess.Popen[str]) -> list[Path]:
    return list(Path("/tmp").glob(f"fm-demo-{process.pid}-*"))


def test_the_demo_shows_every_step_and_leaves_nothing() -> None:
    process = begun("demo")
    out, err = process.communicate(timeout=50)
    assert process.returncode == 0, out + err
    assert "runtime process: no Docker engine answers at unix:///nowhere/docker.sock" in out
    assert out.count("✓") == 14
    for entry in ("container_created", "container_started", "actor_event", "container_stopped", "container_deleted"):
        assert entry in out
    assert demo_folders(process) == []


def test_the_demo_says_why_it_cannot_use_docker() -> None:
    done = call("demo", "--runtime", "docker")
    assert done.returncode == 1
    assert "no Docker engine answers" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_interrupted_leaves_nothing(number: signal.Signals) -> None:
    process = begun("demo")
    assert process.stdout is not None
    for line in process.stdout:
        if "created" in line:
            break
    process.send_signal(number)
    began = time.monotonic()
    _out, err = end(process)
    assert time.monotonic() - began < 20
    assert process.returncode in (0, 130), err  # it may have been through already
    assert "Traceback" not in err
    assert demo_folders(process) == []
