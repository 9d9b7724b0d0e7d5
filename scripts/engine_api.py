"""The Docker engine's HTTP API over its Unix socket, with the standard library alone: what the test tools need of it."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, urlencode

SOCKET_PREFIX = "unix://"
API = "/v1.41"  # engine 20.10, the oldest that is supported; newer ones answer to it or to their own oldest


class EngineError(RuntimeError):
    """The engine said no; `status` is its HTTP status, 0 when it could not be reached."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"[{status}] {message}" if status else message)
        self.status = status


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def request(
    host: str,
    method: str,
    path: str,
    *,
    params: dict[str, Any] | None = None,
    body: Any = None,
    stream: Iterable[bytes] | None = None,
    timeout: float = 60.0,
) -> Any:
    """One call to the engine at `host` (`unix:///…`). `body` is sent as JSON, `stream` as a tar in chunks.

    :raises EngineError: for an answer of 400 and above, and when nobody answers.
    """
    if not host.startswith(SOCKET_PREFIX):
        raise EngineError(0, f"{host}: only {SOCKET_PREFIX} addresses are understood here")
    connection = _UnixConnection(host.removeprefix(SOCKET_PREFIX), timeout)
    target = API + quote(path) + ("?" + urlencode(params, doseq=True) if params else "")
    headers = {"Content-Type": "application/x-tar" if stream is not None else "application/json"}
    payload: Any = stream if stream is not None else (json.dumps(body).encode() if body is not None else None)
    try:
        try:
            connection.request(method, target, body=payload, headers=headers, encode_chunked=stream is not None)
        except BrokenPipeError:
            pass  # it said no before it had read all; what it said is there to be read
        answer = connection.getresponse()
        raw = answer.read()
    except (OSError, http.client.HTTPException) as exc:
        raise EngineError(0, f"no engine answers at {host}: {exc}") from None
    finally:
        connection.close()
    if answer.status >= 400:
        raise EngineError(answer.status, _message(raw))
    if "json" not in (answer.getheader("Content-Type") or "") or not raw.strip():
        return raw.decode(errors="replace")
    lines = [json.loads(line) for line in raw.splitlines() if line.strip()]
    for line in lines:
        if isinstance(line, dict) and "error" in line:
            raise EngineError(answer.status, str(line["error"]))
    return lines[0] if len(lines) == 1 else lines


def answers(host: str, timeout: float = 3.0) -> bool:
    """True when an engine really lists its containers there (`_ping` answers even with its containerd gone)."""
    try:
        request(host, "GET", "/containers/json", params={"limit": 1}, timeout=timeout)
    except EngineError:
        return False
    return True


def _message(raw: bytes) -> str:
    try:
        return str(json.loads(raw)["message"])
    except (ValueError, KeyError, TypeError):
        return raw.decode(errors="replace")[:500]
