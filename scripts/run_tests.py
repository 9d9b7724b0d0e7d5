"""`make test`: get ready what the tests need (npm packages), run pytest here, and say what was left running.

Arguments are pytest's. The Docker engine comes from tests/engine.py, which starts a private one as root on Debian. With
FLOW_MANAGER_REQUIRE_ENGINE=1 (as in CI) a process that is left running fails the run; tests/conftest.py does the same for
tests that need Docker or Node and were skipped. FLOW_MANAGER_TEST_LAST_WORDS=FILE (as in CI): see `LastWords`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import engine
import memory
import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent
REQUIRED = "FLOW_MANAGER_REQUIRE_ENGINE"
LAST_WORDS = "FLOW_MANAGER_TEST_LAST_WORDS"
NPM_SECONDS = 300
# Inherited by whatever the tests start; flows have an environment of their own, with FLOW_ID in it.
MARK = "TEST_RUN_OF_FLOW_MANAGER"
# What was told to end at the very end of the run may take a moment, in seconds.
GRACE, GRACE_SECONDS = "FLOW_MANAGER_TEST_GRACE", 5.0


class NothingLeft:
    """Looks for processes that the run left, before pytest's closing line, so that this stays the last one."""

    def __init__(self, mark: str, since: float, required: bool) -> None:
        self._mark, self._since, self._required = mark, since, required

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        if not nothing_left(self._mark, self._since) and self._required and session.exitstatus == 0:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return (yield)


class LastWords:
    """Keeps in a file what pytest would report at its end: a crash of the interpreter, or a kill, loses that report.

    The test that runs stands last in it. (Where the crash was, faulthandler says, which pytest switches on.)
    """

    def __init__(self, path: Path) -> None:
        self._path, self._failures = path, ""

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._path.write_text(f"{self._failures}!! the run ended in {nodeid}\n")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failures += f"!! failed before ({report.when}): {report.nodeid}\n{report.longreprtext}\n\n"

    def pytest_unconfigure(self) -> None:
        self._path.write_text("")


def npm_packages() -> None:
    """Install the pinned packages of tests/js unless they are there already. Loud when it can't be done."""
    folder = ROOT / "tests" / "js"
    lock, installed = folder / "package-lock.json", folder / "node_modules" / ".package-lock.json"
    if not (folder / "package.json").exists() or os.environ.get("SKIP_NPM"):
        return
    if not (shutil.which("node") and shutil.which("npm")):
        print("!! No Node.js here: the JavaScript client is NOT tested. Debian: apt-get install nodejs npm", flush=True)
        return
    if installed.exists() and lock.exists() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return
    print("· installing the npm packages of tests/js", flush=True)
    command = ["npm", "ci" if lock.exists() else "install", "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=NPM_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        print(f"!! npm took longer than {NPM_SECONDS} s: the JavaScript client is NOT tested", flush=True)
        return
    if done.returncode:
        print(f"!! npm failed, the JavaScript client is NOT tested:\n{done.stdout}", flush=True)


def left_running(mark: str, since: float) -> list[str]:
    """Processes that this run started and that are still there, however they were orphaned: "pid command line"."""
    found = []
    for process in psutil.process_iter(["pid", "create_time", "cmdline", "status"]):
        try:
            environment = process.environ()
        except psutil.Error:
            continue
        if process.pid == os.getpid() or process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        young_flow = "FLOW_ID" in environment and process.info["create_time"] >= since
        if environment.get(MARK) == mark or young_flow:
            found.append(f"{process.pid} {' '.join(process.info['cmdline'] or [])[:160]}")
    return found


def nothing_left(mark: str, since: float) -> bool:
    deadline = time.monotonic() + float(os.environ.get(GRACE, GRACE_SECONDS))
    while left := left_running(mark, since):
        if time.monotonic() > deadline:
            print("!! left running by the tests:", *left, sep="\n   ", flush=True)
            return False
        time.sleep(0.1)
    return True


def write_to_memory() -> None:
    """Temporary files, and a Docker engine that is started for this run, unless somebody said where they shall be."""
    # Before pytest: what it does with its folders at the very end comes before their removal.
    if "TMPDIR" not in os.environ and (folder := memory.folder()) is not None:
        os.environ["TMPDIR"] = str(folder)
        tempfile.tempdir = None
    if "FLOW_MANAGER_ENGINE_DIR" not in os.environ and (place := memory.shared()) is not None and engine.find() is None:
        engine.ROOT = place / engine.ROOT.name


def main(arguments: list[str]) -> int:
    os.chdir(ROOT)
    write_to_memory()
    npm_packages()
    mark, since = uuid.uuid4().hex, time.time()
    os.environ[MARK] = mark
    required = os.environ.get(REQUIRED) == "1"
    plugins: list[object] = [NothingLeft(mark, since, required)]
    if path := os.environ.get(LAST_WORDS):
        plugins.append(LastWords(Path(path)))
    return int(pytest.main(arguments, plugins=plugins))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
