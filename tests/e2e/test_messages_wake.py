"""Messages that wake: a whole service, a real flow as a process, and a client that only sends."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flow_manager.app import Service
from flow_manager.testing import eventually

REPOSITORY = Path(__file__).resolve().parents[2]

PROGRAM = """
import os, pathlib
from flow_sdk import Flow

flow = Flow()
seen = pathlib.Path(os.environ["SEEN"])

@flow.on_message
def handle(body):
    with seen.open("a") as lines:
        print(body["n"], file=lines)
    return {"got": body["n"]}

flow.run()
"""


# Acknowledges what it has done, not what it was given, and dies over one message before it says so.
CAREFUL_PROGRAM = """
import json, os, pathlib, socket, time

seen = pathlib.Path(os.environ["SEEN"])
channel = socket.socket(socket.AF_UNIX)
channel.connect(os.environ["FLOW_SOCKET"])
channel.sendall(b'{"type":"hello","contract":1,"acks":true}' + bytes([10]))
for line in channel.makefile():
    frame = json.loads(line)
    if frame["type"] != "message":
        continue
    with seen.open("a") as lines:
        print(frame["body"]["n"], file=lines)
    if frame["body"].get("die_once") and not seen.with_suffix(".died").exists():
        seen.with_suffix(".died").touch()
        os._exit(3)
    channel.sendall(json.dumps({"type": "ack", "to": frame["id"]}).encode() + bytes([10]))
time.sleep(600)
"""


async def make_flow(client: Any, platform: Any, seen: Path, program: str = PROGRAM, **fields: Any) -> str:
    code = platform.root / "code" / "notes"
    code.mkdir(exist_ok=True)
    (code / "main.py").write_text(program)
    shutil.copy(REPOSITORY / "flow_sdk" / "__init__.py", code / "flow_sdk.py")
    made = await client.ok(
        "create_container",
        name="notes",
        image="local",
        command=[sys.executable, "main.py"],
        code_path=str(code),
        environment={"SEEN": str(seen)},
        **fields,
    )
    return str(made["id"])


def lines_of(seen: Path) -> list[int]:
    return [int(line) for line in seen.read_text().split()] if seen.exists() else []


def without_repeats(numbers: list[int]) -> list[int]:
    return list(dict.fromkeys(numbers))


async def test_a_hundred_messages_wake_a_sleeping_flow_once_and_come_in_order(
    process_platform: Any, connect: Callable[..., Any]
) -> None:
    seen = process_platform.root / "seen"
    async with Service(process_platform.settings(proxy_port=0)) as service:
        client = await connect(service)
        await client.ok("subscribe_activity")
        flow = await make_flow(client, process_platform, seen, idle={"idle_timeout": 1.0}, start=True)
        await client.until(lambda: "napped" in client.activity())
        replies = await asyncio.gather(
            *(client.ok("send_message", container_id=flow, message={"n": n}, wake=True) for n in range(100))
        )
        assert all(reply["queued"] for reply in replies)
        await eventually(lambda: len(lines_of(seen)) == 100, timeout=20)
        assert lines_of(seen) == list(range(100))
        assert client.activity().count("woke") == 1
        # Nothing of them holds it: it falls asleep again.
        await client.until(lambda: client.activity().count("napped") == 2)
        explained = await client.ok("explain_container", container_id=flow)
        assert (explained["flow_state"], explained["leases"]) == ("napping", [])


async def test_a_reply_is_had_from_a_flow_that_somebody_stopped(
    process_platform: Any, connect: Callable[..., Any]
) -> None:
    seen = process_platform.root / "seen"
    async with Service(process_platform.settings(proxy_port=0)) as service:
        client = await connect(service)
        flow = await make_flow(client, process_platform, seen, start=True)
        await client.ok("stop_container", container_id=flow)
        refused = await client.refused("send_message", container_id=flow, message={"n": 0})
        assert refused["code"] == "not_connected"
        message = {"container_id": flow, "message": {"n": 1}, "wake": True, "expect_reply": True}
        answer = await client.ok("send_message", **message)
        assert (answer["reply"], answer["delivered"]) == ({"got": 1}, True)
        assert (await client.ok("get_status", container_id=flow))["desired"] == "running"
        await client.ok("delete_container", container_id=flow, force=True)


async def test_a_flow_that_dies_over_a_message_gets_it_again_and_then_the_rest(
    process_platform: Any, connect: Callable[..., Any]
) -> None:
    seen = process_platform.root / "seen"
    async with Service(process_platform.settings(proxy_port=0)) as service:
        client = await connect(service)
        await client.ok("subscribe_activity")
        flow = await make_flow(client, process_platform, seen, CAREFUL_PROGRAM)
        for n in range(30):
            await client.ok("send_message", container_id=flow, message={"n": n, "die_once": n == 10}, wake=True)
        await eventually(lambda: len(without_repeats(lines_of(seen))) == 30, timeout=30)
        assert without_repeats(lines_of(seen)) == list(range(30))
        await client.ok("delete_container", container_id=flow, force=True)


async def test_messages_outlive_the_service(process_platform: Any, connect: Callable[..., Any]) -> None:
    seen = process_platform.root / "seen"
    async with Service(process_platform.settings(proxy_port=0)) as service:
        client = await connect(service)
        flow = await make_flow(client, process_platform, seen, start=True, idle={"idle_timeout": 60})
        await client.ok("sleep_container", container_id=flow)
        # The service ends before the flow can have connected.
        await asyncio.gather(
            *(client.ok("send_message", container_id=flow, message={"n": n}, wake=True) for n in range(20))
        )
    async with Service(process_platform.settings(proxy_port=0)) as service:
        client = await connect(service)
        await eventually(lambda: len(without_repeats(lines_of(seen))) == 20, timeout=30)
        assert without_repeats(lines_of(seen)) == list(range(20))
        await client.ok("delete_container", container_id=flow, force=True)
