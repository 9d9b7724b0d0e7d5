"""A look at a Docker engine with nothing but the standard library: for `doctor`, which must work where little else does,
and for `demo`, which asks whether there is an engine and an image before any service runs. Blocking; every call is bounded.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

USUAL_SOCKET = "unix:///var/run/docker.sock"
# The oldest API that the runtime is written for: engine 20.10.
OLDEST_API = (1, 41)
TIMEOUT = 5.0
MAX_ANSWER = 16 * 1024 * 1024


class EngineSaid(Exception):
    """The engine answered with an error status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._path)
        except BaseException:
            self.sock.close()
            raise


class Engine:
    """One engine by its address: `unix:///path` or `tcp://host:port`, with TLS where the environment says so."""

    def __init__(self, address: str) -> None:
        self.address = address

    @property
    def local(self) -> bool:
        """Whether folders of this machine can be mounted into its containers."""
        return self.address.startswith("unix://")

    def get(self, path: str, *, timeout: float = TIMEOUT) -> Any:
        """:raises EngineSaid, OSError, ValueError: an error status, no connection (or in time), an address of another kind."""
        return self._call("GET", path, timeout)

    def delete(self, path: str, *, timeout: float = TIMEOUT) -> None:
        self._call("DELETE", path, timeout)

    def pull(self, image: str, *, stall: float, deadline: float, progress: Callable[[str], None]) -> None:
        """Pull an image; gives up after `stall` seconds without a word, and at `deadline` (monotonic).

        :raises EngineSaid, OSError, ValueError:
        """
        name, _, tag = image.rpartition(":") if ":" in image.rsplit("/", 1)[-1] else (image, "", "latest")
        connection = self._connection(stall)
        try:
            connection.request("POST", f"/images/create?fromImage={quote(name)}&tag={quote(tag)}")
            answer = connection.getresponse()
            if answer.status >= 400:
                raise EngineSaid(answer.status, _message(answer.read(MAX_ANSWER)))
            while line := answer.readline(MAX_ANSWER):
                if time.monotonic() > deadline:
                    raise TimeoutError("the pull took too long")
                item = json.loads(line)
                if "error" in item:
                    raise EngineSaid(404, str(item["error"]))
                progress(str(item.get("status", "")))
        except http.client.HTTPException as exc:
            raise OSError(f"no proper answer ({type(exc).__name__})") from None
        finally:
            connection.close()

    def _call(self, method: str, path: str, timeout: float) -> Any:
        connection = self._connection(timeout)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read(MAX_ANSWER)
        except http.client.HTTPException as exc:
            raise OSError(f"no proper answer ({type(exc).__name__})") from None
        finally:
            connection.close()
        if answer.status >= 400:
            raise EngineSaid(answer.status, _message(body))
        try:
            return json.loads(body) if body else None
        except ValueError:
            return body.decode(errors="replace")

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        parts = urlsplit(self.address)
        if parts.scheme == "unix":
            return _UnixConnection(parts.path, timeout)
        if parts.scheme in ("tcp", "http", "https") and parts.hostname:
            address, context = _secured(self.address)
            if address.startswith("https://"):
                return http.client.HTTPSConnection(parts.hostname, parts.port or 2376, timeout=timeout, context=context)
            return http.client.HTTPConnection(parts.hostname, parts.port or 2375, timeout=timeout)
        raise ValueError(f"addresses of the kind '{parts.scheme or self.address}' can't be looked at here")


def candidates(environ: Mapping[str, str], configured: str | None = None) -> list[str]:
    """Where an engine may be, in the order in which the service looks: the setting, DOCKER_HOST, the usual socket."""
    return [configured or environ.get("DOCKER_HOST") or USUAL_SOCKET]


def _secured(address: str) -> tuple[str, ssl.SSLContext | None]:
    """As the service speaks to it. :raises ValueError: its certificates can't be used."""
    from flow_manager.errors import SettingsRefused
    from flow_manager.runtimes.docker.tls import secured

    try:
        return secured(address, os.environ)
    except SettingsRefused as refused:
        raise ValueError(str(refused)) from None


def api_version(text: Any) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in str(text).split("."))
    except ValueError:
        return (0,)


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")[:200] or "no reason given"
