"""The JavaScript client, unchanged, does every event against the whole service on each runtime."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from flow_manager.contract.events import CLIENT_EVENTS
from flow_manager.util.tokens import hash_token
from tests.e2e.conftest import REPOSITORY, Platform, running

SCRIPT = REPOSITORY / "tests" / "js" / "every_event.mjs"
TOKEN = "t-" + "a" * 40


@pytest.mark.node
@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_a_javascript_client_does_every_event_with_a_real_flow(
    platform: Platform, node_modules: Path, transport: str
) -> None:
    await every_event(platform, transport)


@pytest.mark.node
async def test_a_connection_that_begins_with_polling_does_every_event_too(
    memory_platform: Platform, node_modules: Path
) -> None:
    await every_event(memory_platform, "upgrade")


async def every_event(platform: Platform, transport: str) -> None:
    auth = {"tokens": [{"name": "js", "hash": hash_token(TOKEN)}]}
    async with running(platform.settings(auth=auth)) as service:
        process = await asyncio.create_subprocess_exec(
            shutil.which("node") or "node",
            str(SCRIPT),
            service.url,
            transport,
            TOKEN,
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
    assert seen["refusal"]["data"]["code"] == "unauthorized"
    assert seen["hello"]["principal"] == "js"
    assert seen["unknown"]["code"] == "unknown_event"
    assert seen["large"]["code"] == "payload_too_large"
    assert seen["burst"] == 50
    assert [error["code"] for error in seen["events"]["error"]] == ["unknown_event", "payload_too_large"]
    assert [event["type"] for event in seen["events"]["wake_event"]][-1] == "ready"
    assert seen["replies"]["explain_container"]["data"]["idle"]["idle_timeout"] == 600
    assert seen["used"] == ("polling" if transport == "polling" else "websocket")
    assert seen["again"]["data"]["stream"] == seen["hello"]["stream"]
    assert seen["again"]["data"]["replayed"] >= 5
