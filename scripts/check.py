"""Every check that needs no test run, one line each; what fails is printed in full. Exit status 1 when any failed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

CHECKS: dict[str, list[str]] = {
    "format": [sys.executable, "-m", "ruff", "format", "--check", "."],
    "lint": [sys.executable, "-m", "ruff", "check", "."],
    "types": [sys.executable, "-m", "mypy"],
    "import direction": [str(BIN / "lint-imports")],
    "generated reference": [sys.executable, "scripts/reference.py", "--check"],
    "pinned versions": [sys.executable, "scripts/lock.py", "--check"],
    "shell scripts": ["bash", "-n", ".ci/run"],
}


def passes(name: str, command: list[str]) -> bool:
    started = time.monotonic()
    # A wide, colourless terminal: the same text on every machine.
    environment = os.environ | {"NO_COLOR": "1", "COLUMNS": "160"}
    done = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, check=False
    )
    seconds = time.monotonic() - started
    print(f"{'ok  ' if done.returncode == 0 else 'FAIL'} {name} ({seconds:.1f} s)", flush=True)
    if done.returncode:
        print(done.stdout + done.stderr, flush=True)
    return done.returncode == 0


def main() -> int:
    results = [passes(name, command) for name, command in CHECKS.items()]  # all of them, also after a failure
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
