"""One `GET` of a readiness path: a connection of its own, as little HTTP/1.1 as that takes, and only the status counts."""

from __future__ import annotations

import asyncio
import re
from urllib.parse import quote

from flow_manager.idle.readiness_tcp import CONNECT_TIMEOUT, Failed, connect
from flow_manager.idle.upstream import Candidate

# What a head may weigh, interim answers (100, 103) before it included.
MAX_HEAD = 16384
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})[^\n]*\n")
# A path is the user's text: whatever is not part of a URL is escaped, so that no line can be added to the request.
_SAFE = "/?&=%:@!$'()*+,;~[]"


async def get(
    candidate: Candidate, path: str, *, timeout: float, host: str, connect_timeout: float = CONNECT_TIMEOUT
) -> int:
    """The final status, whichever it is. `timeout` in seconds, after the connection stands. `host`: the Host header.

    :raises Failed: not reached, not answered in time, or what answers speaks no HTTP/1.
    """
    sock, buffer = await connect(candidate, timeout=connect_timeout)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            await loop.sock_sendall(sock, request(path, host))
            while (status := status_of(buffer)) is None:
                received = await loop.sock_recv(sock, MAX_HEAD)
                if not received:
                    raise Failed(f"GET {path}: the connection was closed without an answer", answered=True)
                buffer += received
            return status
    except TimeoutError:
        raise Failed(f"GET {path}: no answer within {timeout:g} s", answered=True) from None
    except OSError as error:
        raise Failed(f"GET {path}: {error.strerror or type(error).__name__}", answered=True) from None
    finally:
        sock.close()


def request(path: str, host: str) -> bytes:
    """Programs often refuse a Host that they don't know, and all know `localhost`; so do their own health checks."""
    return (
        f"GET {quote(path, safe=_SAFE)} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: flow-manager-readiness\r\n"
        "Accept: */*\r\nConnection: close\r\n\r\n"
    ).encode("ascii")


def status_of(received: bytes) -> int | None:
    """The status of the final answer; None as long as it isn't there.

    :raises Failed: it is no HTTP/1.
    """
    while True:
        match = _STATUS_LINE.match(received)
        if match is None:
            if b"\n" in received or len(received) > MAX_HEAD or not b"HTTP/1".startswith(received[:6]):
                raise Failed("what answers there does not speak HTTP/1", answered=True)
            return None
        status = int(match[1])
        if status >= 200 or status == 101:
            return status
        head, end, received = received.partition(b"\r\n\r\n")
        if not end:
            if len(head) > MAX_HEAD:
                raise Failed("what answers there never comes to an end", answered=True)
            return None


def passes(status: int) -> bool:
    """2xx, and 3xx: a page that sends to its login is there."""
    return 200 <= status < 400
