"""A pytest plugin: Node.js with the packages of tests/js, for tests marked `node`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

JS = Path(__file__).parent / "js"


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """socket.io-client, installed once from the lock file; a skip where there is no Node."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("Node.js is missing: the JavaScript client is not tested")
    if not (JS / "node_modules" / "socket.io-client" / "package.json").exists():
        subprocess.run([npm, "ci", "--silent"], cwd=JS, check=True, timeout=120)
    return JS / "node_modules"
