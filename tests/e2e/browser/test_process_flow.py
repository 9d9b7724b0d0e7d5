"""A browser wakes a real program: the proxy, the watcher and the process runtime together."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flow_manager.testing import eventually
from tests.e2e.browser.house import House, open_house

if TYPE_CHECKING:
    from tests.e2e.browser.conftest import Visitor

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

# Listens only after a while, as programs do: the page is to be seen meanwhile.
SERVER = """
import http.server, os, time
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"<!doctype html><link rel=icon href=data:,><h1>it runs: " + self.path.encode() + b"</h1>"
        self.send_response(200); self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *ignored): pass
time.sleep(1)
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Page).serve_forever()
"""
BROKEN = "import sys; print('no database'); sys.exit(3)"


@pytest.fixture
async def house() -> AsyncIterator[House]:
    root = Path(tempfile.mkdtemp(prefix="fm-"))
    try:
        async with open_house(root) as opened:
            yield opened
    finally:
        shutil.rmtree(root, ignore_errors=True)


async def test_opening_a_sleeping_flows_page_wakes_it_and_it_sleeps_again(visitor: Visitor, house: House) -> None:
    await house.create(
        "shop",
        command=[sys.executable, "-c", SERVER],
        ports={"8000": 0},
        idle={"idle_timeout": 1, "wake_timeout": 60},
    )
    page = await visitor.page()
    for path in ("/first?a=1", "/second"):
        assert await house.is_asleep("shop")
        await page.goto(house.url("shop", path))
        await page.wait_for_selector("#steps li")
        assert await page.text_content("h1") == "shop"
        await page.wait_for_selector(f"h1:has-text('it runs: {path}')")
        assert page.url == house.url("shop", path)
        # The open page is no use of it: it falls asleep under it, and nothing on the page wakes it again.
        await eventually(lambda: house.is_asleep("shop"), timeout=30, what="asleep again")
    told = await page.evaluate("() => fetch('/.flow/status').then(answer => answer.json())")
    assert told["expected_start"] > 0
    assert await house.is_asleep("shop")
    assert visitor.complaints == []


async def test_opening_a_broken_flows_page_tells_its_exit_code(visitor: Visitor, house: House) -> None:
    await house.create("broken", command=[sys.executable, "-c", BROKEN], ports={"8000": 0}, idle={"wake_timeout": 30})
    page = await visitor.page()
    await page.goto(house.url("broken", "/x"))
    await page.wait_for_selector('body[data-mode="failed"]')
    assert "exit code 3" in (await page.text_content("#reason") or "")
    ends = (await house.explain("broken"))["crashes"]

    async def tried_again() -> bool:
        """At once it may be held back, and the button counts down."""
        if await page.is_enabled("button") and await page.is_visible("button"):
            await page.click("button")
        return bool((await house.explain("broken"))["crashes"] > ends)

    await eventually(tried_again, timeout=30, interval=0.2, what="another attempt, which fails too")
    await page.wait_for_selector('body[data-mode="failed"]')
    assert "exit code 3" in (await page.text_content("#reason") or "")
