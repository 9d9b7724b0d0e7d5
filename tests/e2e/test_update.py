"""Other code for a flow, through the whole service: requests that come meanwhile wait, and bad code is taken back."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import PATIENCE, Platform, make_platform, running
from tests.e2e.test_wake import browser

# What the process flow's code is: it answers with its version, a second after its start.
PROGRAM = """
import http.server, os, pathlib, time

time.sleep(0.5)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = pathlib.Path("version").read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
SHELL = "sleep 0.5; exec httpd -f -p 8000 -h /flow"


@pytest.fixture(params=["process", pytest.param("docker", marks=pytest.mark.docker)])
def real_platform(request: pytest.FixtureRequest, short_folder: Path) -> Platform:
    return make_platform(request, request.param, short_folder)


@pytest.fixture
def flow(real_platform: Platform) -> dict[str, Any]:
    platform = real_platform
    root = platform.root / "code"
    for version in ("one", "two", "bad"):
        (root / version).mkdir(parents=True)
        (root / version / "version").write_text(version)
        (root / version / "main.py").write_text("raise SystemExit(3)" if version == "bad" else PROGRAM)
        (root / version / "start").write_text("exit 3" if version == "bad" else SHELL)
    with tarfile.open(root / "two.tar.gz", "w:gz") as archive:
        archive.add(root / "two", ".")
    config: dict[str, Any] = {"name": "web", "idle": {"wake_timeout": 30}, "code_path": str(root / "one")}
    if platform.kind == "docker":
        from tests.engine import BUSYBOX_IMAGE

        return {**config, "image": BUSYBOX_IMAGE, "command": ["sh", "/flow/start"], "port": 8000}
    return {**config, "image": "local", "command": [sys.executable, "main.py"], "ports": {"8000": 0}}


async def test_requests_that_come_while_the_code_is_changed_wait_for_it(
    real_platform: Platform, connect: Callable[..., Any], flow: dict[str, Any]
) -> None:
    platform = real_platform
    async with running(platform.settings()) as service:
        client = await connect(service)
        await client.ok("create_container", start=True, **flow)
        async with browser(service.proxy_url) as http:

            async def ask() -> tuple[int, str]:
                async with http.get("/version") as answer:
                    return answer.status, await answer.text()

            assert await ask() == (200, "one")
            code = platform.root / "code"
            answers: list[tuple[int, str]] = []
            first, over = asyncio.Event(), asyncio.Event()

            async def keep_asking() -> None:
                while not over.is_set():
                    answers.append(await ask())
                    first.set()
                    await asyncio.sleep(0.02)

            asking = asyncio.create_task(keep_asking())
            await asyncio.wait_for(first.wait(), PATIENCE)
            info = await client.ok("update_container", container_id="web", code_path=str(code / "two.tar.gz"))
            assert info["status"] == "running"
            assert await ask() == (200, "two")
            refused = await client.refused("update_container", container_id="web", code_path=str(code / "bad"))
            assert refused["details"]["rolled_back"] is True, refused
            assert await ask() == (200, "two")
            await client.ok("rollback_container", container_id="web")
            over.set()
            await asking
            assert await ask() == (200, "one")
        assert {status for status, _ in answers} == {200}, answers
        versions = [text for _, text in answers]
        assert [text for at, text in enumerate(versions) if at == 0 or versions[at - 1] != text] in (
            ["one", "two", "one"],
            ["one", "two"],
        )
        entries = (await client.ok("list_activity", types=["container_updated", "container_rolled_back"]))["entries"]
        assert [entry["type"] for entry in reversed(entries)] == [
            "container_updated",
            "container_rolled_back",
            "container_rolled_back",
        ]
        await client.ok("delete_container", container_id="web", force=True)
        assert list((platform.root / "state" / "code").iterdir()) == []


async def test_a_flow_without_code_of_its_own_is_made_anew_with_it(
    real_platform: Platform, connect: Callable[..., Any], flow: dict[str, Any]
) -> None:
    platform = real_platform
    async with running(platform.settings()) as service:
        client = await connect(service)
        del flow["code_path"]
        if platform.kind == "docker":
            flow["command"] = [
                "sh",
                "-c",
                "[ -e /flow/start ] && . /flow/start; mkdir /www; echo none > /www/version; exec httpd -f -p 8000 -h /www",
            ]
        else:
            (platform.root / "code" / "none").mkdir()
            flow["command"] = [
                sys.executable,
                "-c",
                "import os,pathlib;p=pathlib.Path('version');p.exists() or p.write_text('none');"
                + f"exec({PROGRAM!r})",
            ]
        made = await client.ok("create_container", start=True, **flow)
        async with browser(service.proxy_url) as http:

            async def ask() -> tuple[int, str]:
                async with http.get("/version") as answer:
                    return answer.status, (await answer.text()).strip()

            assert await ask() == (200, "none")
            await client.ok("update_container", container_id="web", code_path=str(platform.root / "code" / "two"))
            assert await ask() == (200, "two")
        assert (await client.ok("get_container", container_id="web"))["id"] == made["id"]
        await client.ok("delete_container", container_id="web", force=True)


async def test_messages_that_come_meanwhile_wait_for_the_new_code(
    platform: Platform, connect: Callable[..., Any]
) -> None:
    async with running(platform.settings()) as service:
        client = await connect(service)
        await client.ok("subscribe_activity")
        code = platform.root / "code" / "next"
        shutil.copytree(platform.root / "code" / "echo", code)
        made = await client.ok("create_container", start=True, **platform.echo)
        await client.connected_flow(made["id"])
        updating = asyncio.create_task(client.ok("update_container", container_id=made["id"], code_path=str(code)))
        await client.until(lambda: any(s["flow_state"] == "stopping" for s in client.events("container_status")))
        reply = await client.ok(
            "send_message", container_id=made["id"], message={"text": "hello"}, expect_reply=True, timeout=30
        )
        assert reply["delivered"] is True, reply
        await updating
        await client.ok("delete_container", container_id=made["id"], force=True)
