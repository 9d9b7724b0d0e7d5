"""The script behind `make test`, on a test file of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PASSES = """
def test_passes():
    pass
"""
LEAVES_A_PROCESS = """
import subprocess

def test_leaves_a_process():
    # Orphaned at once, in a session of its own: nobody's child any more.
    subprocess.run(["sh", "-c", "setsid sleep 8 >/dev/null 2>&1 &"], check=True)
"""
CRASHES = """
import faulthandler
import threading

import pytest

def test_fails():
    assert "this" == "that"

@pytest.mark.parametrize("way", ["thread"])
def test_crashes(way):
    crash = threading.Thread(target=faulthandler._sigsegv)
    crash.start()
    crash.join()
"""


def run_tests(folder: Path, tests: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_sample.py").write_text(tests)
    command = [sys.executable, "scripts/run_tests.py", str(folder), "-c", str(ROOT / "pyproject.toml")]
    # Neither the outer run's plugins nor its options, and no packages for a client that is not tested here.
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "FLOW_MANAGER_"))}
    return subprocess.run(
        [*command, "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib"],
        cwd=ROOT,
        env=clean | environment | {"SKIP_NPM": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


def test_the_last_line_is_pytests_own(tmp_path: Path) -> None:
    done = run_tests(tmp_path, PASSES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed in" in done.stdout.rstrip().splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(("required", "code"), [("", 0), ("1", 1)])
def test_a_process_that_the_tests_left_running_is_named_and_fails_the_run_where_that_counts(
    tmp_path: Path, required: str, code: int
) -> None:
    done = run_tests(tmp_path, LEAVES_A_PROCESS, FLOW_MANAGER_REQUIRE_ENGINE=required, FLOW_MANAGER_TEST_GRACE="0.2")
    assert done.returncode == code, done.stdout + done.stderr
    assert "left running by the tests" in done.stdout and "sleep 8" in done.stdout
    assert "1 passed" in done.stdout.rstrip().splitlines()[-1]


def test_a_crash_of_the_interpreter_leaves_word_of_the_test_the_place_and_what_had_failed(tmp_path: Path) -> None:
    words = tmp_path / "words"
    done = run_tests(tmp_path, CRASHES, FLOW_MANAGER_TEST_LAST_WORDS=str(words))
    assert done.returncode == -signal.SIGSEGV, done.stdout + done.stderr
    assert "Segmentation fault" in done.stderr and "in test_crashes" in done.stderr
    assert words.read_text().endswith("!! the run ended in test_sample.py::test_crashes[thread]\n")
    assert "assert 'this' == 'that'" in words.read_text()


def test_a_run_that_could_report_leaves_no_last_words(tmp_path: Path) -> None:
    words = tmp_path / "words"
    run_tests(tmp_path, PASSES + "def test_fails():\n    assert False\n", FLOW_MANAGER_TEST_LAST_WORDS=str(words))
    assert words.read_text() == ""
