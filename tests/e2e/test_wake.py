"""Sleeping and waking through the whole service: nothing is lost, nothing is started twice, nothing in use is stopped."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from tests.e2e.conftest import Client, Platform, running

# Sleeps of a real container, each in a race with a request.
TRIALS = 200
# Answers each path with its name; /slow trickles ten pieces over three seconds.
SERVER = """
import http.server, os, time

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        pieces = [b"piece"] * 10 if self.path == "/slow" else [self.path.encode()]
        self.send_response(200)
        self.send_header("Content-Length", str(sum(map(len, pieces))))
        self.end_headers()
        for piece in pieces:
            self.wfile.write(piece)
            time.sleep(0.3 if len(pieces) > 1 else 0)
    def log_message(self, *_):
        pass

class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 512

Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def web(**idle: Any) -> dict[str, Any]:
    """A flow of the process runtime that serves HTTP."""
    return {
        "image": "local",
        "name": "web",
        "command": [sys.executable, "-c", SERVER],
        "ports": {"8000": 0},
        "idle": {"wake_timeout": 30, **idle},
    }


async def told(client: Client, kind: str) -> int:
    entries = (await client.ok("list_activity", limit=1000))["entries"]
    return Counter(entry["type"] for entry in entries)[kind]


def browser(url: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(url, headers={"Host": "web.localhost"}, connector=aiohttp.TCPConnector(limit=0))


async def test_a_thousand_first_requests_make_one_start_and_each_is_answered(
    process_platform: Platform, connect: Callable[..., Any]
) -> None:
    async with running(process_platform.settings()) as service:
        client = await connect(service)
        await client.ok("create_container", **web())
        async with browser(service.proxy_url) as http:

            async def ask(number: int) -> tuple[int, bytes, bool]:
                async with http.get(f"/{number}") as answer:
                    return answer.status, await answer.read(), "X-Flow-Cold-Start" in answer.headers

            answers = await asyncio.gather(*(ask(number) for number in range(1000)))
        assert [(status, body) for status, body, _cold in answers] == [(200, b"/%d" % n) for n in range(1000)]
        assert any(cold for _status, _body, cold in answers)
        assert await told(client, "woke") == 1
        await client.ok("delete_container", container_id="web", force=True)


async def test_a_long_answer_is_never_cut_by_the_idle_timeout(
    process_platform: Platform, connect: Callable[..., Any]
) -> None:
    async with running(process_platform.settings()) as service:
        client = await connect(service)
        await client.ok("subscribe_activity")
        await client.ok("create_container", **web(idle_timeout=1))
        async with browser(service.proxy_url) as http, http.get("/slow") as answer:
            began = time.monotonic()
            assert await answer.read() == b"piece" * 10
            assert time.monotonic() - began > 2, "it must outlast the idle timeout to prove anything"
        assert "napped" not in client.activity()
        await client.until(lambda: "napped" in client.activity())
        await client.ok("delete_container", container_id="web", force=True)


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.timeout(400)
async def test_requests_that_race_with_a_stop_on_a_real_engine_are_all_answered(
    docker_platform: Platform, connect: Callable[..., Any]
) -> None:
    from tests.engine import BUSYBOX_IMAGE

    moments = random.Random(7)
    flow = {
        "image": BUSYBOX_IMAGE,
        "name": "web",
        "command": ["sh", "-c", "echo there > /index.html; exec httpd -f -p 8000 -h /"],
        "port": 8000,
        "idle": {"stop_method": "kill", "wake_timeout": 30},
    }
    async with running(docker_platform.settings()) as service:
        client = await connect(service)
        await client.ok("create_container", start=True, **flow)
        async with browser(service.proxy_url) as http:

            async def ask() -> tuple[int, str]:
                await asyncio.sleep(moments.uniform(0, 0.15))
                async with http.get("/") as answer:
                    return answer.status, (await answer.text()).strip()

            for trial in range(TRIALS):
                # A sleep that finds the flow in use is refused: that is one of the outcomes of the race.
                _slept, answer = await asyncio.gather(client.call("sleep_container", container_id="web"), ask())
                assert answer == (200, "there"), f"trial {trial}"
        assert await told(client, "woke") > TRIALS // 10, "the race was not run"
        await client.ok("delete_container", container_id="web", force=True)
