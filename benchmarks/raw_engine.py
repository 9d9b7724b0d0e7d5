"""The engine's HTTP API with nothing in between: a keep-alive connection on its socket and a hand-written request.

The floor of everything that goes through Docker.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlencode

API = "/v1.41"


class RawEngine:
    """One connection, one request at a time; open as many as are to be in flight."""

    def __init__(self, host: str) -> None:
        self._path = host.removeprefix("unix://")
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def close(self) -> None:
        if self._streams is not None:
            writer = self._streams[1]
            self._streams = None
            writer.close()
            await writer.wait_closed()

    async def request(self, method: str, path: str, body: Any = None, **params: Any) -> Any:
        """The answer's JSON. :raises RuntimeError: for a status of 400 and above."""
        if self._streams is None:
            self._streams = await asyncio.open_unix_connection(self._path)
        reader, writer = self._streams
        writer.write(self._written(method, path, body, params))
        status, headers = await self._head(reader)
        answer = await self._body(reader, status, headers)
        if status >= 400:
            raise RuntimeError(f"{method} {path}: {status} {answer.decode(errors='replace')}")
        return json.loads(answer) if answer else None

    async def to_the_end(self, method: str, path: str, body: Any = None) -> bytes:
        """What the engine sends until it closes, on a connection of its own. :raises RuntimeError: as above."""
        reader, writer = await asyncio.open_unix_connection(self._path)
        try:
            writer.write(self._written(method, path, body, {}))
            status, _ = await self._head(reader)
            answer = await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()
        if status >= 400:
            raise RuntimeError(f"{method} {path}: {status} {answer.decode(errors='replace')}")
        return answer

    @staticmethod
    def _written(method: str, path: str, body: Any, params: dict[str, Any]) -> bytes:
        payload = b"" if body is None else json.dumps(body).encode()
        target = API + path + ("?" + urlencode(params) if params else "")
        head = f"{method} {target} HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload

    async def _head(self, reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        return int(lines[0].split()[1]), headers

    async def _body(self, reader: asyncio.StreamReader, status: int, headers: dict[str, str]) -> bytes:
        if status in (204, 304):
            return b""
        if headers.get("transfer-encoding") != "chunked":
            return await reader.readexactly(int(headers.get("content-length", 0)))
        parts = []
        while size := int(await reader.readline(), 16):
            parts.append(await reader.readexactly(size))
            await reader.readexactly(2)
        await reader.readexactly(2)
        return b"".join(parts)
