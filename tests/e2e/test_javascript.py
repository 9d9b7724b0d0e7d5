"""The JavaScript client, unchanged, does every event against the whole service on each runtime."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from flow_manager.contract.events import CLIENT_EVENTS
from tests.e2e.conftest import REPOSITORY, Platform, running

SCRIPT = REPOSITORY / "tests" / "js" / "every_event.mjs"


@pytest.mark.node
@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_a_javascript_client_does_every_event_with_a_real_flow(
    platform: Platform, node_modules: Path, transport: str
) -> None:
    async with running(platform.settings()) as service:
        process = await asyncio.create_subprocess_exec(
            shutil.which("node") or "node",
            str(SCRIPT),
            service.url,
            transport,
            "",
            json.dumps(platform.echo),
            str(platform.root / "code" / "echo"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 55)
        assert process.returncode == 0, err.decode()
    seen = json.loads(out)
    assert set(seen["replies"]) == set(CLIENT_EVENTS)
    assert {name: reply["error"] for name, reply in seen["replies"].items()} == dict.fromkeys(CLIENT_EVENTS, False)
    assert seen["replies"]["send_message"]["data"]["reply"] == {"echo": {"hello": "flow"}}
    assert seen["replies"]["exec_container"]["data"] == {
        "exit_code": 0,
        "stdout": "in the flow\n",
        "stderr": "",
        "truncated": False,
    }
    assert seen["replies"]["kill_container"]["data"]["exit_code"] == 137
    assert {entry["type"] for entry in seen["events"]["activity"]} >= {
        "container_created",
        "container_killed",
        "container_deleted",
    }
