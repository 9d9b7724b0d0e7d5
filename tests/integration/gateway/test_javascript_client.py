"""socket.io-client from npm, unchanged: every event of the catalogue, over each transport."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from flow_manager.contract.events import CLIENT_EVENTS
from flow_manager.util.tokens import hash_token

SCRIPT = Path(__file__).parents[2] / "js" / "every_event.mjs"
TOKEN = "t-" + "a" * 40


async def run_script(url: str, transport: str, token: str) -> dict:
    process = await asyncio.create_subprocess_exec(
        shutil.which("node") or "node",
        str(SCRIPT),
        url,
        transport,
        token,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), 50)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    return json.loads(out)


@pytest.mark.node
@pytest.mark.parametrize("transport", ["websocket", "polling", "upgrade"])
async def test_the_javascript_client_does_every_event(serving, node_modules, transport, eventually):
    auth = {"tokens": [{"name": "js", "hash": hash_token(TOKEN)}]}
    async with serving(auth=auth) as service:
        seen = await run_script(service.url, transport, TOKEN)
        await eventually(lambda: service.gateway.client_count == 0)
    assert set(seen["replies"]) == set(CLIENT_EVENTS)
    assert {name: reply["error"] for name, reply in seen["replies"].items()} == dict.fromkeys(CLIENT_EVENTS, False)
    assert seen["refusal"]["data"]["code"] == "unauthorized"
    assert seen["hello"]["principal"] == "js"
    assert seen["unknown"]["code"] == "unknown_event"
    assert seen["large"]["code"] == "payload_too_large"
    assert seen["burst"] == 50
    assert [error["code"] for error in seen["events"]["error"]] == ["unknown_event", "payload_too_large"]
    assert [status["state"] for status in seen["events"]["container_status"]][:2] == ["running", "paused"]
    assert [event["type"] for event in seen["events"]["wake_event"]] == ["starting", "ready"]
    assert seen["replies"]["explain_container"]["data"]["idle"]["idle_timeout"] == 600
    assert seen["used"] == ("polling" if transport == "polling" else "websocket")
    assert seen["again"]["data"]["stream"] == "test-stream"
