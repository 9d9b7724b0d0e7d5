"""`make test`: get ready what the tests need (npm packages), run pytest here, and say plainly what could not be tested.

Arguments are pytest's. The Docker engine comes from tests/engine.py, which starts a private one as root on Debian. With
FLOW_MANAGER_REQUIRE_ENGINE=1 (as in CI) a test that needs Docker or Node and was skipped counts as failed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
REQUIRED = "FLOW_MANAGER_REQUIRE_ENGINE"
NEEDED = ("docker", "node")
NPM_SECONDS = 300


class NoSkips:
    """Turns a skip of a test that needs Docker or Node into a failure: a green run must mean that it ran."""

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterator[None]:
        report = yield
        needs = [name for name in NEEDED if item.get_closest_marker(name)]
        if needs and report.skipped and not hasattr(report, "wasxfail"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
            report.outcome = "failed"
            report.longrepr = f"{REQUIRED}=1, and this test needs {' and '.join(needs)}: {reason}"
        return report


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


def main(arguments: list[str]) -> int:
    os.chdir(ROOT)
    npm_packages()
    plugins = [NoSkips()] if os.environ.get(REQUIRED) == "1" else []
    return int(pytest.main(arguments, plugins=plugins))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
