"""A new connection to a flow that says it is ready, which may take it a moment more."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

from flow_manager.proxy.problems import Problem

if TYPE_CHECKING:
    from flow_manager.proxy.edge import Edge
    from flow_manager.proxy.upstream import UpstreamConnection
    from flow_manager.proxy.watched import WatchedFlow

# Seconds for which a ready flow may refuse connections: the word that it ended arrives within one.
PATIENCE_SECONDS = 2.0
RETRY_SECONDS = 0.02
RETRY_MOST_SECONDS = 0.1
# Connects that aren't answered at all, each CONNECT_SECONDS long.
MAX_TIMEOUTS = 3
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL)


class Asleep(Exception):
    """It isn't ready any more."""


class TakesNone(Exception):
    """It is ready, and refuses or doesn't answer."""


class NoRoom(Exception):
    """It is on our side: no descriptor or port is left. `problem` is the answer."""

    problem = Problem(503, "overloaded", "the proxy has no room for another connection", retry_after=1)


async def reach(edge: Edge, watcher: WatchedFlow) -> UpstreamConnection:
    """:raises Asleep: :raises TakesNone: :raises NoRoom:"""
    loop = edge.loop
    until = loop.time() + PATIENCE_SECONDS
    delay, timeouts = RETRY_SECONDS, 0
    while True:
        address = watcher.upstream
        if address is None or not watcher.ready_now():
            raise Asleep
        try:
            upstream = await edge.pool.connect(watcher, address)
        except TimeoutError:
            timeouts += 1
        except OSError as error:
            if error.errno in _NO_ROOM:
                edge.warn("the proxy has no descriptor or port left for a connection to a flow")
                raise NoRoom from None
        else:
            if upstream.alive:
                return upstream
        if timeouts >= MAX_TIMEOUTS or loop.time() >= until:
            raise TakesNone
        await asyncio.sleep(delay)
        delay = min(delay * 1.5, RETRY_MOST_SECONDS)
