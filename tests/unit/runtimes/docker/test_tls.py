"""An engine over TCP: with certificates, without them, and with more streams than a usual pool has connections."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web

from flow_manager.channel import certificates
from flow_manager.cli.engine import Engine
from flow_manager.errors import RuntimeUnavailable, SettingsRefused
from flow_manager.runtimes.docker.client import EngineClient
from flow_manager.runtimes.docker.errors import translated
from flow_manager.runtimes.docker.tls import secured
from flow_manager.testing import eventually

STREAMS = 120  # aiohttp's usual pool has 100


class TcpEngine:
    def __init__(self) -> None:
        self.streams = 0
        self.end = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if not request.path.endswith("/logs"):
            return web.json_response({"ApiVersion": "1.41"})
        stream = web.StreamResponse()
        await stream.prepare(request)
        self.streams += 1
        await self.end.wait()
        return stream


Serve = Callable[..., Awaitable[str]]
Opened = Callable[[str], Awaitable[EngineClient]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Gives an engine's url."""
    async with AsyncExitStack() as stack:

        async def serve(engine: TcpEngine, context: ssl.SSLContext | None = None) -> str:
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", engine.answer)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            stack.callback(engine.end.set)
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
            return f"tcp://127.0.0.1:{runner.addresses[0][1]}"

        yield serve


@pytest.fixture
async def opened() -> AsyncIterator[Opened]:
    async with AsyncExitStack() as stack:

        async def opened(url: str) -> EngineClient:
            client = EngineClient(url)
            await client.open()
            stack.push_async_callback(client.close)
            return client

        yield opened


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What DOCKER_CERT_PATH names, and the server's side beside it."""
    _server, authority = certificates.own(tmp_path, "127.0.0.1", datetime.now(UTC))
    own = (tmp_path / "authority.pem").read_text()
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text(own)
    (tmp_path / "ca.pem").write_text(ssl.DER_cert_to_PEM_cert(authority))
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    return tmp_path


async def test_more_streams_than_a_usual_pool_has_hold_nobody_up(serve: Serve, opened: Opened) -> None:
    there = TcpEngine()
    url = await serve(there)
    client = await opened(url)

    async def follow() -> None:
        async with client.stream("GET", "containers/x/logs") as response:
            await response.read()

    following = [asyncio.create_task(follow()) for _ in range(STREAMS)]
    await eventually(lambda: there.streams == STREAMS, 30)
    there.end.set()
    await asyncio.gather(*following)


async def test_an_engine_is_spoken_to_over_tls_where_the_environment_says_so(
    folder: Path, serve: Serve, opened: Opened
) -> None:
    context, _ = certificates.own(folder, "127.0.0.1", datetime.now(UTC))
    url = await serve(TcpEngine(), context)
    client = await opened(url)
    assert (await client.call("GET", "info", timeout=10)).data == {"ApiVersion": "1.41"}
    assert await client.accepts()
    # As doctor looks at it.
    assert await asyncio.to_thread(Engine(url).get, "/version") == {"ApiVersion": "1.41"}


async def test_an_engine_whose_certificate_is_anothers_is_not_spoken_to(
    folder: Path, tmp_path: Path, serve: Serve, opened: Opened
) -> None:
    (tmp_path / "other").mkdir()
    context, _ = certificates.own(tmp_path / "other", "127.0.0.1", datetime.now(UTC))
    url = await serve(TcpEngine(), context)
    client = await opened(url)
    with pytest.raises(RuntimeUnavailable), translated():
        await client.call("GET", "info", timeout=10)


async def test_certificates_that_are_not_there_are_refused_with_their_names(tmp_path: Path) -> None:
    with pytest.raises(SettingsRefused, match=r"cert\.pem and key\.pem"):
        secured("tcp://a:2376", {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path)})


@pytest.mark.parametrize("environ", [{}, {"DOCKER_TLS_VERIFY": ""}, {"DOCKER_CERT_PATH": "/nothing"}])
def test_without_the_word_for_it_an_address_stays_as_it_is(environ: dict[str, str]) -> None:
    assert secured("tcp://a:2375", environ) == ("tcp://a:2375", None)
