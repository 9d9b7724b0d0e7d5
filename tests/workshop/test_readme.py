"""The README's client programs are run as they stand; only the address is the test's."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flow_manager.app import Service
from flow_manager.settings.models import Settings
from flow_manager.settings.runtime import RuntimeSettings

ROOT = Path(__file__).resolve().parents[2]
JS = ROOT / "tests" / "js"
README_URL = "http://127.0.0.1:8080"
MARK = "<!-- tested: "


def snippet(language: str) -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.findall(re.escape(MARK) + r"[^\n]*-->\n```" + language + r"\n(.*?)```", text, re.DOTALL)
    assert len(found) == 1, f"one {language} program in the README is marked as tested"
    assert README_URL in found[0]
    return str(found[0])


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    # Not tmp_path: a socket's path has room for 76 bytes of folder.
    folder = Path(tempfile.mkdtemp(prefix="fm-readme-", dir="/tmp"))
    settings = Settings(
        port=0,
        runtime="process",
        adopt=False,
        runtimes={"process": RuntimeSettings()},
        state_dir=folder / "state",
        sockets_dir=folder / "s",
    )
    try:
        async with Service(settings, configure_log=False) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def output_of(*command: str, cwd: Path = ROOT) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 40)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode == 0, output.decode()
    return output.decode()


async def test_the_python_program_shows_a_flow_that_lives_answers_and_goes(service: Service) -> None:
    printed = await output_of(sys.executable, "-c", snippet("python").replace(README_URL, service.url))
    assert "{'echo': {'hello': 'flow'}}" in printed
    assert "created" in printed and "deleted" in printed


@pytest.mark.node
async def test_the_javascript_program_replays_the_activity_and_lists_the_flows(service: Service) -> None:
    node = shutil.which("node")
    if node is None or not (JS / "node_modules" / "socket.io-client").exists():
        pytest.skip("NO NODE: needs node and the npm packages of tests/js")
    await output_of(sys.executable, "-c", snippet("python").replace(README_URL, service.url))
    code = snippet("js").replace(README_URL, service.url)
    printed = await output_of(node, "--input-type=module", "-e", code, cwd=JS)
    assert "created" in printed and "deleted" in printed
