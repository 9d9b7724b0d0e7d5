"""Waiting with a deadline, and the check for what tests leave behind."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from flow_manager.testing import eventually
from tests import leaks

ROOT = Path(__file__).resolve().parents[3]


async def test_it_asks_until_it_is_so_and_gives_the_answer() -> None:
    answers = iter([None, 0, "yes"])
    assert await eventually(lambda: next(answers), interval=0) == "yes"


async def test_an_async_predicate_and_a_failed_assertion_count_as_no() -> None:
    answers = iter([False, False, True])

    async def ask() -> bool:
        answer = next(answers)
        assert answer, "not yet"
        return answer

    assert await eventually(ask, interval=0)


async def test_what_was_waited_for_is_said() -> None:
    with pytest.raises(AssertionError, match=r"not within 0.01 s: rain \(last answer: \[\]\)"):
        await eventually(lambda: [], 0.01, what="rain")


async def test_another_error_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        await eventually(lambda: 1 // 0)


# --- leaks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "GRACE", 0.02)


@pytest.mark.usefixtures("hurried")
async def test_a_task_that_stays_is_seen_and_one_that_ends_is_not() -> None:
    staying = asyncio.create_task(asyncio.Event().wait(), name="staying")
    ending = asyncio.create_task(asyncio.sleep(0), name="ending")
    left = await leaks.left_tasks()
    assert len(left) == 1
    assert "staying" in left[0]
    staying.cancel()
    await asyncio.wait([staying, ending])
    assert await leaks.left_tasks() == []


@pytest.mark.usefixtures("hurried")
def test_a_child_that_stays_is_seen_even_as_a_zombie() -> None:
    before = leaks.children()
    child = subprocess.Popen(["/bin/sleep", "60"])
    assert any("sleep 60" in text for text in leaks.left_children(before))
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert any("zombie" in text for text in leaks.left_children(before))
    child.wait()
    assert leaks.left_children(before) == []


def test_a_listener_is_seen_and_a_file_alone_is_not() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.sock"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            assert leaks.bound_sockets(Path(folder)) == {str(path)}
        assert path.exists()
        assert leaks.bound_sockets(Path(folder)) == set()


SAMPLE = """
import asyncio, subprocess, pytest

async def test_leaves_a_task():
    globals()["kept"] = asyncio.create_task(asyncio.Event().wait())

def test_leaves_a_process():
    globals()["process"] = subprocess.Popen(["/bin/sleep", "5"])

async def test_leaves_nothing():
    await asyncio.sleep(0)

@pytest.mark.docker
def test_is_skipped():
    pytest.skip("no engine")
"""


@pytest.mark.parametrize("required", ["", "1"])
def test_the_conftest_fails_leaky_tests_and_required_skips(tmp_path: Path, required: str) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_sample.py").write_text(SAMPLE)
    command = [sys.executable, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "FLOW_", "CI"))}
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), str(tmp_path / "test_sample.py")],
        cwd=ROOT,
        env={**environment, "FLOW_MANAGER_REQUIRE_ENGINE": required, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "ERROR" in done.stdout
    assert "::test_leaves_a_task\n" in done.stdout, done.stdout
    assert "::test_leaves_a_process\n" in done.stdout, done.stdout
    assert "test_leaves_nothing" not in done.stdout.split("short test summary")[1]
    assert "2 errors" in done.stdout
    assert ("1 failed" in done.stdout) == (required == "1")
