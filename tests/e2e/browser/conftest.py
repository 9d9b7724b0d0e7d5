"""Debian's own chromium, driven by playwright, and a proxy whose flows wake as a test wants them.

CHROMIUM=/path names another browser. Without one the tests are skipped, which FLOW_MANAGER_REQUIRE_ENGINE=1 makes a failure.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from flow_manager.observability.system_log import SystemLogger
from flow_manager.proxy.server import ProxyServer
from flow_manager.settings.models import Settings
from flow_manager.util.clock import SystemClock
from tests.unit.proxy.slow_fakes import FakeFlow, FakeRegistry

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, Page

# The sandbox needs privileges that a container doesn't give; the rest keeps chromium from calling home.
ARGUMENTS = (
    "--no-sandbox",
    "--headless=new",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# A start and a page, on a machine that does much else.
PATIENCE_MS = 30_000


def chromium() -> str | None:
    return os.environ.get("CHROMIUM") or shutil.which("chromium")


@dataclass
class Visitor:
    """A person's browser. `complaints`: whatever its console or a page's program complained of; `asked`: every address."""

    browser: Browser
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    _contexts: list[BrowserContext] = field(default_factory=list)

    async def page(self, **options: Any) -> Page:
        context = await self.browser.new_context(**options)
        self._contexts.append(context)
        page = await context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on(
            "console",
            lambda said: self.complaints.append(said.text) if said.type in ("error", "warning") else None,
        )
        page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: self.asked.append(request.url))
        return page

    async def close(self) -> None:
        for context in self._contexts:
            await context.close()


@pytest.fixture
async def visitor() -> AsyncIterator[Visitor]:
    path = chromium()
    if path is None:
        pytest.skip("no chromium here (Debian: apt-get install chromium; or CHROMIUM=/path)")
    playwright = pytest.importorskip(
        "playwright.async_api", reason="playwright is not installed: `make test` brings it"
    )
    async with playwright.async_playwright() as started:
        browser = await started.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        visitor = Visitor(browser)
        try:
            yield visitor
        finally:
            await visitor.close()
            await browser.close()


@dataclass
class Site:
    """A sleeping flow behind the proxy, and the program that is in it."""

    flow: FakeFlow
    registry: FakeRegistry
    port: int
    seen: list[str]

    def url(self, path: str = "/", name: str | None = None) -> str:
        return f"http://{name or self.flow.name}.localhost:{self.port}{path}"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    seen: list[str] = []

    async def program(request: web.Request) -> web.Response:
        seen.append(f"{request.method} {request.path_qs}")
        body = f"<!doctype html><title>flow</title><link rel=icon href=data:,><h1>the flow's own page {request.path_qs}</h1>"
        return web.Response(text=body, content_type="text/html")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", program)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    upstream = web.TCPSite(runner, "127.0.0.1", 0)
    await upstream.start()
    address = runner.addresses[0]
    clock = SystemClock()
    flow = FakeFlow(name="reports", clock=clock, listens=(address[0], address[1]))
    registry = FakeRegistry(flow)
    settings = Settings(state_dir=tmp_path, sockets_dir=Path("sockets"), proxy_port=0)
    server = ProxyServer(settings, registry, SystemLogger(), clock, logs=lambda _: ["Traceback", "KeyError: 'URL'"])
    await server.open()
    try:
        yield Site(flow, registry, server.port, seen)
    finally:
        await server.close()
        await runner.cleanup()
