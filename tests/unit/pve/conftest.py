"""An emulator, and the plainest of clients for it."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from tests.pve.emulator import Emulator

# Only a failing test waits this long.
PATIENCE = 20.0
C = "/nodes/pve1/lxc"


@dataclass(frozen=True)
class Reply:
    status: int
    reason: str
    body: Any
    """Parsed; None where there is none at all."""

    @property
    def data(self) -> Any:
        assert self.status == 200, (self.status, self.reason, self.body)
        return self.body["data"]

    @property
    def message(self) -> str:
        return str(self.body["message"])


class Api:
    """`get("/version")` and so on, with the token's or ticket's headers."""

    def __init__(self, pve: Emulator, session: aiohttp.ClientSession, headers: dict[str, str]) -> None:
        self.pve = pve
        self.session = session
        self.headers = headers

    @classmethod
    def by_token(cls, pve: Emulator, session: aiohttp.ClientSession, token: tuple[str, str]) -> Api:
        return cls(pve, session, {"Authorization": f"PVEAPIToken={token[0]}={token[1]}"})

    async def call(self, method: str, path: str, /, *, json_body: Any = None, **params: Any) -> Reply:
        given = {name.replace("__", "-"): str(value) for name, value in params.items()}
        how: dict[str, Any] = {"params" if method in ("GET", "DELETE") else "data": given}
        if json_body is not None:
            how = {"json": json_body}
        url = f"{self.pve.url}/api2/json{path}"
        async with self.session.request(method, url, headers=self.headers, **how) as answer:
            text = await answer.text()
            return Reply(answer.status, answer.reason or "", json.loads(text) if text else None)

    async def get(self, path: str, /, **params: Any) -> Reply:
        return await self.call("GET", path, **params)

    async def post(self, path: str, /, **params: Any) -> Reply:
        return await self.call("POST", path, **params)

    async def post_without_token(self, path: str, /, **params: Any) -> Reply:
        return await Api(self.pve, self.session, {}).post(path, **params)

    async def put(self, path: str, /, **params: Any) -> Reply:
        return await self.call("PUT", path, **params)

    async def delete(self, path: str, /, **params: Any) -> Reply:
        return await self.call("DELETE", path, **params)

    async def task(self, upid: str) -> dict[str, Any]:
        """Its status, once it is over."""
        path = f"/nodes/{upid.split(':')[1]}/tasks/{upid}/status"
        deadline = time.monotonic() + PATIENCE
        while (status := (await self.get(path)).data)["status"] == "running":
            assert time.monotonic() < deadline, f"{upid} does not end"
            await asyncio.sleep(0.005)
        return dict(status)

    async def ends(self, method: str, path: str, /, **params: Any) -> str:
        """Call, wait for the task, and give its exit status."""
        return str((await self.task((await self.call(method, path, **params)).data))["exitstatus"])


@asynccontextmanager
async def session_for(pve: Emulator) -> AsyncIterator[aiohttp.ClientSession]:
    context = await asyncio.to_thread(ssl.create_default_context, cafile=str(pve.ca_file))
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


@asynccontextmanager
async def served(**options: Any) -> AsyncIterator[Api]:
    """An emulator with these options, and who may do everything that a manager needs."""
    async with Emulator(**options) as pve, session_for(pve) as session:
        yield Api.by_token(pve, session, pve.token())


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with served() as ready:
        yield ready


@pytest.fixture
def pve(api: Api) -> Emulator:
    return api.pve


async def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.005)


class Clock:
    """Time that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now
