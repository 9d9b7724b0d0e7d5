"""The only place that talks to the engine: aiodocker's query call, bounded in time and in number.

Two sessions, because aiohttp's pool is shared by all that is open: with a hundred log followers every other call would
wait for ever. *Control* takes short calls, a few at a time (more in flight only add latency: floors of the engine);
*streams* takes what stays open (events, waits, pulls), has a cap of its own and says so when it is reached.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from aiodocker import Docker
from aiodocker.exceptions import DockerError

from flow_manager.errors import RuntimeUnavailable, TooManyStreams
from flow_manager.runtimes.docker import tls
from flow_manager.runtimes.docker.errors import KIND, NOT_CONNECTED
from flow_manager.runtimes.docker.hijack import UPGRADE, Hijacked

USUAL_SOCKET = "unix:///var/run/docker.sock"
# Starts saturate at about twice the cores; reads are short. The rest queue here, inside their own time limit.
CONTROL_LIMIT = 16
STREAM_LIMIT = 1024
# A Unix socket that accepts at all does so at once; a TCP engine gets the usual time of a slow network.
CONNECT_SECONDS = 5.0
# A `_ping` takes a millisecond; a socket whose engine has stopped listening (systemd keeps it open) answers never.
ACCEPT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """`data` is the parsed JSON, else the raw bytes (empty for no body)."""

    status: int
    data: Any
    headers: Mapping[str, str]


def engine_url(configured: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """The setting, else DOCKER_HOST, else the usual socket (whether it is there or not: it may come)."""
    return configured or environ.get("DOCKER_HOST") or USUAL_SOCKET


class EngineClient:
    """One engine. Raises the libraries' own errors (see `errors.translate`); never waits longer than it is told."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._over_tls = False
        self._control: Docker | None = None
        self._streams: Docker | None = None
        self._slots = asyncio.Semaphore(CONTROL_LIMIT)
        self._open_streams = 0
        self._responses: set[aiohttp.ClientResponse] = set()
        self._hijacked: set[Hijacked] = set()

    async def open(self) -> None:
        """:raises SettingsRefused: it is to be spoken to over TLS, and the certificates can't be used."""
        # sock_read stays unlimited: asyncio.timeout around each call is the limit.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        self._control = self._docker(timeout)
        self._streams = self._docker(timeout)

    def _docker(self, timeout: aiohttp.ClientTimeout) -> Docker:
        if self.url.startswith("unix://"):
            # No limit in the connector: waiting for one of its slots would have no words for why it fails.
            unix = aiohttp.UnixConnector(self.url.removeprefix("unix://"), limit=0)
            session = aiohttp.ClientSession(connector=unix, timeout=timeout)
            return Docker(url="unix://localhost", connector=unix, session=session, timeout=timeout)
        if self.url.startswith(("tcp://", "http://", "https://")):
            # aiodocker's own has the usual limit of a hundred: log followers would hold up all other streams.
            address, context = tls.secured(self.url, os.environ)
            self._over_tls = context is not None
            tcp = aiohttp.TCPConnector(limit=0, ssl=context or True)
            session = aiohttp.ClientSession(connector=tcp, timeout=timeout)
            return Docker(url=address, connector=tcp, session=session, timeout=timeout)
        return Docker(url=self.url, timeout=timeout)

    async def close(self) -> None:
        # Closing a session does not wake whoever waits for more of an answer; closing the answer does.
        for response in self._responses:
            response.close()
        for stream in list(self._hijacked):
            stream.close()
        for docker in (self._control, self._streams):
            if docker is not None:
                await docker.close()
                # aiodocker leaves a session and a connector that it was given to their owner, which is this object.
                await docker.session.close()
        self._control = self._streams = None

    async def accepts(self) -> bool:
        """Does it take *new* connections and answer on them? One that is about to end only goes on with its old ones."""
        if self.url.startswith("unix://"):
            connector: aiohttp.BaseConnector = aiohttp.UnixConnector(self.url.removeprefix("unix://"), force_close=True)
            address = "http://localhost/_ping"
        elif self.url.startswith(("tcp://", "http://")) and not self._over_tls:
            connector = aiohttp.TCPConnector(force_close=True)
            address = f"http://{self.url.partition('://')[2].rstrip('/')}/_ping"
        else:
            return True  # over TLS a handshake would need its own certificates; such an engine is taken at its word
        timeout = aiohttp.ClientTimeout(total=ACCEPT_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.get(address) as response,
            ):
                await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False
        return True

    async def call(
        self,
        method: str,
        path: str,
        *,
        timeout: float,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Answer:
        """One short call, at most `timeout` seconds with its time in the queue."""
        async with (
            asyncio.timeout(timeout),
            self._slots,
            self._query(self._control, method, path, params, body) as response,
        ):
            return await self._answer(response)

    async def long_call(
        self, method: str, path: str, *, timeout: float, params: Mapping[str, Any] | None = None
    ) -> Answer:
        """A call that the engine answers only when something has happened."""
        async with asyncio.timeout(timeout), self.stream(method, path, params=params) as response:
            return await self._answer(response)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer that goes on. Its connection is given back however the block is left.

        :raises RuntimeUnavailable: when too many are open already.
        """
        if self._open_streams >= STREAM_LIMIT:
            raise RuntimeUnavailable(
                f"{STREAM_LIMIT} long calls to the engine are open", kind=KIND, reason="too many streams"
            )
        self._open_streams += 1
        try:
            async with self._query(self._streams, method, path, params, body) as response:
                self._responses.add(response)
                try:
                    yield response
                finally:
                    self._responses.discard(response)
        finally:
            self._open_streams -= 1

    async def upload(
        self, path: str, pieces: AsyncGenerator[bytes, None], *, params: Mapping[str, str], timeout: float
    ) -> None:
        """PUT a tar archive piece by piece. `timeout` is for each piece to be taken, and for the answer after the last.

        :raises: what `pieces` raises, as it is.
        """
        failures: list[Exception] = []
        loop = asyncio.get_running_loop()
        async with aclosing(pieces), asyncio.timeout(timeout) as limit:

            async def body() -> AsyncIterator[bytes]:
                try:
                    async for piece in pieces:
                        limit.reschedule(loop.time() + timeout)
                        yield piece
                        limit.reschedule(loop.time() + timeout)
                except Exception as failure:
                    # aiohttp would make "no connection" of it.
                    failures.append(failure)
                    raise

            try:
                async with self._query(
                    self._streams, "PUT", path, params, data=body(), headers={"Content-Type": "application/x-tar"}
                ) as response:
                    await response.read()
            except Exception as error:
                raise (failures[0] if failures else error) from None

    async def hijack(
        self,
        path: str,
        *,
        timeout: float,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Hijacked:
        """A POST whose connection becomes a two-way stream; the caller closes it. `timeout` is for the engine's yes.

        :raises TooManyStreams: when too many long calls are open already.
        """
        if self._open_streams >= STREAM_LIMIT:
            raise TooManyStreams(f"{STREAM_LIMIT} long calls to the engine are open", limit=STREAM_LIMIT)
        if self._streams is None:
            raise DockerError(NOT_CONNECTED, "the runtime is closed")
        self._open_streams += 1
        try:
            async with asyncio.timeout(timeout):
                response = await self._streams._do_query(
                    path,
                    "POST",
                    params=dict(params) if params else None,
                    data=orjson.dumps(body) if body is not None else None,
                    headers=UPGRADE,
                    read_until_eof=False,
                )
            opened = Hijacked(response, lambda: self._unhijacked(opened))
        except BaseException:
            self._open_streams -= 1
            raise
        self._hijacked.add(opened)
        return opened

    def _unhijacked(self, stream: Hijacked) -> None:
        self._open_streams -= 1
        self._hijacked.discard(stream)

    @asynccontextmanager
    async def _query(
        self,
        docker: Docker | None,
        method: str,
        path: str,
        params: Mapping[str, Any] | None,
        body: Mapping[str, Any] | None = None,
        *,
        data: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if docker is None:
            raise DockerError(NOT_CONNECTED, "the runtime is closed")
        if body is not None:
            data = orjson.dumps(body)
        async with docker._query(
            path, method, params=dict(params) if params else None, data=data, headers=headers
        ) as response:
            finished = False
            try:
                yield response
                finished = response.content.at_eof()
            finally:
                # aiodocker gives a connection back only when somebody reads to the end: a follower that was cancelled
                # would hold it for ever. An unread one can't be used again, so it is closed.
                if finished:
                    response.release()
                else:
                    response.close()

    async def _answer(self, response: aiohttp.ClientResponse) -> Answer:
        raw = await response.read()
        is_json = response.content_type == "application/json" and raw.strip()
        return Answer(response.status, orjson.loads(raw) if is_json else raw, response.headers)
