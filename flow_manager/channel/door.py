"""The door for flows on other machines: one TLS port for all of them, and a token of its own for each.

Whoever comes has shown nothing yet: it gets a few seconds, a few kilobytes and one line to say who it is. Why it was refused
is told to the log; to the visitor, that it is not authorized, so that it learns nothing about which flows there are.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from typing import Any

from flow_manager.channel import frames
from flow_manager.channel.acceptor import Acceptor
from flow_manager.channel.failures import FailureLimit, network_of
from flow_manager.channel.flow import FlowChannel
from flow_manager.channel.peer import RemotePeer
from flow_manager.channel.throttle import TokenBucket
from flow_manager.channel.tls_pipe import TlsPipe
from flow_manager.channel.tokens import ChannelTokens, claim_of

_log = logging.getLogger(__name__)

# From the connect to the end of the hello, the TLS handshake included, in seconds.
HELLO_WITHIN = 5.0
# A hello has some 150 bytes.
HELLO_BYTES = 4096
# Visitors who have not said who they are (20 KB each), and of them those from one address: many flows may come back from
# one host at once, and who is sent away comes again seconds later.
VISITORS = 256
VISITORS_OF_ONE = 128
# A handshake costs about a millisecond: a fifth of the loop's time at most is theirs, and no more than some 20 ms at once. The
# rest waits in the kernel's backlog.
CONNECTS_A_SECOND = 200.0
CONNECTS_AT_ONCE = 20.0
BACKLOG = 512
# A peer whose machine went away without a word is noticed after half a minute: the kernel asks, and no flow has to answer.
KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES = 15, 5, 3
UNANSWERED_MS = 30_000
UNAUTHORIZED = frames.encode_error(
    frames.UNAUTHORIZED, "a flow says hello with its flow_id and its token first, and is known and awake"
)
NO_TLS = frames.encode_error(frames.UNAUTHORIZED, "this port speaks TLS")


class Door:
    """Takes over a listening socket, and lets in whoever has a token of a flow that is awake."""

    def __init__(
        self,
        listening: socket.socket,
        context: ssl.SSLContext,
        tokens: ChannelTokens,
        find: Callable[[str], FlowChannel | None],
        monotonic: Callable[[], float],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """`find`: the channel of a flow that is expected."""
        self._context = context
        self._tokens = tokens
        self._find = find
        self._loop = loop
        self._failures = FailureLimit(monotonic)
        self._visitors: set[Visitor] = set()
        self._of_one: Counter[str] = Counter()
        self._coming: set[asyncio.Task[Any]] = set()
        bucket = TokenBucket(CONNECTS_A_SECOND, monotonic, burst=CONNECTS_AT_ONCE)
        self._acceptor = Acceptor(listening, "the channel's TLS port", self._accepted, bucket, loop)

    def open(self) -> None:
        self._acceptor.start()

    async def close(self) -> None:
        """Nobody comes in any more; who is not in yet is sent away. Connections that were handed over go on."""
        self._acceptor.close()
        for task in self._coming:
            task.cancel()
        for visitor in list(self._visitors):
            visitor.send_away()
        if self._coming:
            await asyncio.wait(self._coming)

    # --- what visitors ask --------------------------------------------------------------------------------------------

    def known(self, line: bytes) -> FlowChannel | None:
        """The channel of the flow that this hello is of; None for everybody else."""
        claim = claim_of(line)
        # Compared for a flow that isn't there as well: how long it takes tells nothing.
        if claim is None or not self._tokens.matches(claim.flow_id, claim.token):
            return None
        return self._find(claim.flow_id)

    def refused(self, visitor: Visitor, reason: str) -> None:
        if self._failures.failed(visitor.peer.host):
            _log.warning("a connection from %s to the channel's TLS port was refused: %s", visitor.peer, reason)

    def left(self, visitor: Visitor) -> None:
        """It is in, or gone: one that was refused and lingers still takes a place."""
        if visitor in self._visitors:
            self._visitors.discard(visitor)
            network = network_of(visitor.peer.host)
            self._of_one[network] -= 1
            if not self._of_one[network]:
                del self._of_one[network]

    # --- accepting ----------------------------------------------------------------------------------------------------

    def _accepted(self, accepted: socket.socket, address: Any) -> None:
        peer = RemotePeer(str(address[0]), int(address[1]))
        network = network_of(peer.host)
        if (
            len(self._visitors) >= VISITORS
            or self._of_one[network] >= VISITORS_OF_ONE
            or not self._failures.allows(peer.host)
        ):
            # Without a word: a handshake is what must not be had for nothing.
            accepted.close()
            return
        try:
            _watch_over(accepted)
        except OSError:
            accepted.close()  # gone already
            return
        visitor = Visitor(self, peer, self._context, self._loop)
        self._visitors.add(visitor)
        self._of_one[network] += 1
        task = self._loop.create_task(self._receive(visitor, accepted))
        self._coming.add(task)
        task.add_done_callback(self._coming.discard)

    async def _receive(self, visitor: Visitor, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: visitor.pipe, accepted)
        except BaseException as exc:
            accepted.close()
            visitor.connection_lost(None)
            if not isinstance(exc, OSError):
                raise
            _log.warning("a connection from %s could not be taken: %s", visitor.peer, exc.strerror)


class Visitor:
    """One that has connected and not said who it is. Behind its pipe until it has."""

    def __init__(self, door: Door, peer: RemotePeer, context: ssl.SSLContext, loop: asyncio.AbstractEventLoop) -> None:
        self.peer = peer
        self.pipe = TlsPipe(context, self, NO_TLS, loop)
        self._door = door
        self._received = bytearray()
        self._may_speak = False
        self._done = False
        self._timer = loop.call_later(HELLO_WITHIN, self._expired)

    def send_away(self) -> None:
        """Now, without a word."""
        self._done = True
        self.pipe.abort()

    def connection_made(self, _transport: asyncio.BaseTransport) -> None:
        self._may_speak = True

    def data_received(self, data: bytes) -> None:
        if self._done:
            return
        # Only the new bytes can hold the end of the line.
        cut = data.find(b"\n")
        end = len(self._received) + cut if cut >= 0 else None
        self._received += data
        if (end if end is not None else len(self._received)) > HELLO_BYTES:
            self._refuse(f"its first line is longer than {HELLO_BYTES} bytes")
        elif end is not None:
            self._judge(bytes(self._received[:end]))

    def pause_writing(self) -> None:
        pass  # one short answer is all that is ever written here

    def resume_writing(self) -> None:
        pass

    def connection_lost(self, _exc: Exception | None) -> None:
        self._finish()
        self._door.left(self)

    def no_tls(self, reason: str) -> None:
        self._door.refused(self, reason)
        self._finish()

    def _judge(self, line: bytes) -> None:
        channel = self._door.known(line)
        if channel is None:
            self._refuse("no hello with the token of a flow that is awake")
            return
        self._finish()
        self._door.left(self)
        self.pipe.hand_over(channel.connection_from(self.peer), bytes(self._received))

    def _expired(self) -> None:
        self._refuse(f"no hello within {HELLO_WITHIN:g} s")

    def _refuse(self, reason: str) -> None:
        self._door.refused(self, reason)
        if self._may_speak:
            self.pipe.write(UNAUTHORIZED)
            self.pipe.close()
        else:
            self.pipe.abort()
        self._finish()

    def _finish(self) -> None:
        self._done = True
        self._timer.cancel()


def _watch_over(accepted: socket.socket) -> None:
    """Have the kernel notice a peer that is gone without a word (tcp(7))."""
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNANSWERED_MS)
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
