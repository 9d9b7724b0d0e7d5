"""The channel over TLS: the same exchange as in `channel`, against a bare asyncio TLS Protocol with orjson.

What talks for the flows is a process of its own, so the CPU time of this process is the server's alone.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console

from benchmarks.channel import Bare, Silent, Talker, _resident, _run, _stop_talker, asked, compared
from benchmarks.rows import Row, row, show
from flow_manager.channel import certificates
from flow_manager.channel.handler import SocketCommunicationHandler
from flow_manager.settings.models import ChannelSettings
from flow_manager.util.clock import SystemClock
from flow_manager.util.ids import new_flow_id

FLOWS = 100


async def talk_for(port: int, ca: str, hellos: list[dict[str, Any]]) -> None:
    loop = asyncio.get_running_loop()
    context = ssl.create_default_context(cadata=base64.b64decode(ca))
    for hello in hellos:
        transport, _ = await loop.create_connection(Talker, "127.0.0.1", port, ssl=context)
        if hello:
            transport.write(orjson.dumps({"type": "hello", **hello}) + b"\n")
    print("READY", flush=True)
    await asyncio.to_thread(sys.stdin.read)


async def _start_talker(port: int, ca: str, hellos: list[dict[str, Any]]) -> subprocess.Popen[bytes]:
    talker = subprocess.Popen(  # noqa: ASYNC220 (before anything is measured)
        [sys.executable, "-m", "benchmarks.channel_tls", "--talk"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parent.parent,
    )
    assert talker.stdin is not None and talker.stdout is not None
    talker.stdin.write(orjson.dumps([port, ca, hellos]) + b"\n")
    talker.stdin.flush()
    assert await asyncio.wait_for(asyncio.to_thread(talker.stdout.readline), 60) == b"READY\n"
    return talker


async def _measure(quick: bool, folder: Path) -> list[Row]:
    rounds, alone, together = (7, 1_000, 40) if quick else (25, 2_000, 80)
    loop = asyncio.get_running_loop()
    talkers: list[subprocess.Popen[bytes]] = []
    settings = ChannelSettings(messages_per_second=1e9, tls_listen="127.0.0.1:0")
    handler = SocketCommunicationHandler(folder / "flows", settings, Silent(), SystemClock())
    context, ca = certificates.own(folder / "bare", "127.0.0.1", datetime.now(UTC))
    bare: list[Bare] = []

    def one_more() -> Bare:
        bare.append(Bare())
        return bare[-1]

    server = await loop.create_server(one_more, "127.0.0.1", 0, ssl=context, backlog=FLOWS)
    await handler.open()
    try:
        before = _resident()
        port = server.sockets[0].getsockname()[1]
        talkers.append(await _start_talker(port, certificates.one_line(ca), [{}] * FLOWS))
        floor_bytes = (_resident() - before) / FLOWS
        flows = [new_flow_id() for _ in range(FLOWS)]
        for flow_id in flows:
            handler.expect_remote(flow_id)
        handler.welcome_remote()
        told = [handler.remote_variables(flow_id) for flow_id in flows]
        before = _resident()
        hellos = [
            {"flow_id": flow_id, "token": variables["FLOW_TOKEN"]}
            for flow_id, variables in zip(flows, told, strict=True)
        ]
        talkers.append(await _start_talker(int(handler.remote_url.rpartition(":")[2]), told[0]["FLOW_CA"], hellos))
        deadline = time.monotonic() + 30
        while not all(map(handler.is_socket_connected, flows)):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        our_bytes = (_resident() - before) / FLOWS

        def ask_ours(number: int, body: dict[str, Any]) -> Awaitable[Any]:
            return handler.send_message(flows[number], body, expect_reply=True)

        def ask_bare(number: int, body: dict[str, Any]) -> Awaitable[Any]:
            return bare[number].ask(body)

        rows = []
        for count, each in ((1, alone), (FLOWS, together)):
            who = f"channel over TLS, {count} flow{'s' if count > 1 else ''}, message and reply"
            rows += await compared(who, asked, count, each, ask_ours, ask_bare, rounds)
        rows.append(row("channel over TLS, an idle connection", our_bytes / 1024, "KB", floor_bytes / 1024))
        return rows
    finally:
        for talker in talkers:
            _stop_talker(talker)
        server.close()
        await server.wait_closed()
        await handler.close()


def run(quick: bool) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        rows: list[Row] = _run(_measure(quick, Path(folder)))
    return rows


def main() -> None:
    if "--talk" in sys.argv:
        _run(talk_for(*orjson.loads(sys.stdin.buffer.readline())))
    else:
        show(run(quick="--quick" in sys.argv), Console())


if __name__ == "__main__":
    main()
