"""A service that is only its wire: Socket.IO on a free port, whose replies the test decides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import socketio
from aiohttp import web

STATUS: dict[str, Any] = {
    "id": "abcdefghijkl",
    "name": "reports",
    "state": "running",
    "health": "none",
    "flow_state": "ready",
    "desired": "running",
    "uptime": 1.5,
    "socket_connected": True,
    "last_communication": "2026-01-19T10:30:00.000Z",
    "resource_usage": {"cpu_percent": None, "memory_bytes": None, "memory_limit_bytes": None, "pids": None},
    "exit_code": None,
    "error": None,
    "stale": False,
}
INFO: dict[str, Any] = {
    "id": "abcdefghijkl",
    "name": "reports",
    "runtime": "memory",
    "runtime_id": "1",
    "status": "created",
    "image": "python:3-alpine",
    "created": "2026-01-19T10:30:00.000Z",
    "socket_path": "/run/x/abcdefghijkl/abcdefghijkl.sock",
    "ports": {"80/tcp": 8000},
    "addresses": ["172.17.0.2"],
    "hosts": [],
    "environment": {"TOKEN": "***"},
    "labels": {},
    "adopted": False,
    "desired": "stopped",
    "idle": None,
}


def entry(cursor: int, stream: str = "log-1", **fields: Any) -> dict[str, Any]:
    return {
        "cursor": cursor,
        "stream": stream,
        "type": "container_started",
        "container_id": "abcdefghijkl",
        "name": "reports",
        "actor": "local",
        "message": f"entry {cursor}",
        "details": {},
        "timestamp": "2026-01-19T10:30:00.000Z",
        **fields,
    }


class FakeService:
    """`answers[event]` is the reply, or a function of the request that gives it; None: never acknowledged."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.received: list[tuple[str, Any]] = []
        self.token: str | None = None
        self.stream = "log-1"
        self.log: list[dict[str, Any]] = []
        self.floor = 0
        self.greets = True
        self.port = 0
        self.connects = 0
        self._runner: web.AppRunner | None = None
        self._sio: Any = None
        self._arrived = asyncio.Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._sio = sio = socketio.AsyncServer(async_mode="aiohttp", cors_allowed_origins=["http://x"], logger=False)
        sio.on("connect", self._connect)
        sio.on("*", self._event)
        app = web.Application()
        sio.attach(app)
        app.router.add_get("/healthz", self._healthz)
        self._runner = web.AppRunner(app, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is None:
            return
        for sid in list(self._sio.manager.get_participants("/", None)):
            await self._sio.disconnect(sid[0])
        await self._sio.shutdown()
        await self._runner.cleanup()
        self._runner = None

    async def emit(self, event: str, data: Any) -> None:
        await self._sio.emit(event, data)

    async def happen(self, cursor: int, **fields: Any) -> None:
        self.log.append(entry(cursor, self.stream, **fields))
        await self.emit("activity", self.log[-1])

    async def wait_for(self, event: str, count: int = 1) -> Any:
        """The request of the `count`th such event, once it has come."""
        async with asyncio.timeout(5), self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests(event)) >= count)
        return self.requests(event)[count - 1]

    def requests(self, event: str) -> list[Any]:
        return [data for name, data in self.received if name == event]

    def cut(self) -> None:
        """Every connection breaks, as when a cable is pulled."""
        for environ in list(self._sio.environ.values()):
            environ["aiohttp.request"].transport.abort()

    async def _connect(self, sid: str, _environ: Any, auth: Any = None) -> None:
        if self.token is not None and (auth or {}).get("token") != self.token:
            raise socketio.exceptions.ConnectionRefusedError(
                "the token is not known", {"code": "unauthorized", "error_type": "permission_error"}
            )
        self.connects += 1
        if self.greets:
            hello = {"version": "9.9", "contract": 1, "instance": "i", "stream": self.stream, "runtimes": {}}
            self._sio.start_background_task(self._sio.emit, "hello", hello, to=sid)

    async def _event(self, event: str, sid: str, data: Any = None) -> Any:
        self.received.append((event, data))
        async with self._arrived:
            self._arrived.notify_all()
        answer: Any = self.answers.get(event)
        if event not in self.answers and event == "subscribe_activity":
            return await self._subscribe(sid, data)
        if event not in self.answers:
            answer = {"error": False, "data": INFO if event in ("create_container", "get_container") else STATUS}
        if isinstance(answer, Callable):  # type: ignore[arg-type]
            answer = answer(data)
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer is None:
            await asyncio.Event().wait()
        return answer

    async def _subscribe(self, sid: str, data: Any) -> Any:
        head = self.log[-1]["cursor"] if self.log else 0
        after, stream = data.get("after"), data.get("stream")
        gap, replay = False, []
        if after is not None:
            gap = after < self.floor or after > head or (stream is not None and stream != self.stream)
            replay = [item for item in self.log if gap or item["cursor"] > after]
        for item in replay:
            await self._sio.emit("activity", item, to=sid)
        return {"error": False, "data": {"cursor": head, "stream": self.stream, "replayed": len(replay), "gap": gap}}

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})
