"""What listens inside the containers: a small HTTP server on an address of the loopback for each one that runs.

Linux answers on all of 127.0.0.0/8, so each container has an address of its own and the same port, as in real life. Each
emulator takes a 127.N.0.0/16 that no other one on this machine has, by a socket that it binds there and holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Callable

from aiohttp import WSMsgType, web

CLAIM_PORT = 19
FIRST_NET, LAST_NET = 1, 250
PER_NET = 250


class Answers:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._claim: socket.socket | None = None
        self._net = 0
        self._runner: web.AppRunner | None = None
        self._sites: dict[str, web.SockSite] = {}
        self.name_of: Callable[[str], str] = lambda address: address
        self.requests = 0

    async def open(self) -> None:
        self._claim = self._take_net()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        self._sites.clear()
        if self._claim is not None:
            self._claim.close()

    def _take_net(self) -> socket.socket:
        nets = list(range(FIRST_NET, LAST_NET + 1))
        self._rng.shuffle(nets)
        for net in nets:
            claim = socket.socket()
            try:
                # A port that an ordinary user may take too; bound, and never listened on.
                claim.bind((f"127.{net}.255.254", 40000 + CLAIM_PORT))
            except OSError:
                claim.close()
                continue
            self._net = net
            return claim
        raise OSError("every 127.N.0.0/16 is taken by another emulator")

    def address(self, index: int) -> str:
        """The address of the container with this number, other for each below 62,500."""
        return f"127.{self._net}.{index // PER_NET % PER_NET}.{index % PER_NET + 1}"

    def bind(self, address: str, port: int) -> socket.socket:
        """From here on nobody is refused. :raises OSError: the port is taken."""
        return socket.create_server((address, port), backlog=128)

    async def listen(self, address: str, bound: socket.socket) -> None:
        assert self._runner is not None
        site = web.SockSite(self._runner, bound)
        self._sites[address] = site
        await site.start()

    async def hush(self, address: str) -> None:
        """Nothing answers there any more, and who was connected is cut off."""
        if (site := self._sites.pop(address, None)) is None:
            return
        await site.stop()
        assert self._runner is not None and self._runner.server is not None
        for connection in list(self._runner.server.connections):
            transport = connection.transport
            if transport is not None and transport.get_extra_info("sockname", ("",))[0] == address:
                transport.abort()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        assert request.transport is not None
        address = request.transport.get_extra_info("sockname")[0]
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._echo(request)
        body = await request.read()
        text = (
            f"hello from {self.name_of(address)}\n{request.method} {request.path_qs}\n{body.decode(errors='replace')}"
        )
        return web.Response(text=text, headers={"X-Container": self.name_of(address)})

    async def _echo(self, request: web.Request) -> web.StreamResponse:
        websocket = web.WebSocketResponse()
        await websocket.prepare(request)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            async for message in websocket:
                if message.type is WSMsgType.TEXT:
                    await websocket.send_str(f"echo {message.data}")
                elif message.type is WSMsgType.BINARY:
                    await websocket.send_bytes(message.data)
        return websocket
