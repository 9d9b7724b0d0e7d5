"""A TCP connection to a flow that may not listen yet: one attempt, and several ways tried at the same time."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from flow_manager.idle.upstream import Candidate, Network, family, on_link

T = TypeVar("T")
# Seconds for one attempt. An unanswered SYN is sent again by the kernel only after a second: a fresh attempt is sooner.
CONNECT_TIMEOUT = 0.5
# Between attempts: 20 ms at first, and never more than 2 % of the time that the start took already, or 100 ms.
FIRST_PAUSE, LAST_PAUSE, PAUSE_SHARE = 0.02, 0.1, 0.02
# A forwarder (docker-proxy) accepts before the program listens, and closes as soon as it learns so: a connection counts
# once it has stood this long in seconds, or carried a byte.
SETTLE_TIME = 0.1
EARLY_BYTES = 65536


class Failed(Exception):
    """One attempt failed, in words for people. `answered`: the flow's own system did answer, so there is a way to it."""

    def __init__(self, words: str, *, answered: bool = False) -> None:
        super().__init__(words)
        self.words = words
        self.answered = answered


def pause(elapsed: float) -> float:
    """Seconds until the next attempt, `elapsed` seconds after the first."""
    return min(LAST_PAUSE, max(FIRST_PAUSE, elapsed * PAUSE_SHARE))


async def connect(candidate: Candidate, *, timeout: float = CONNECT_TIMEOUT) -> tuple[socket.socket, bytes]:
    """A connected, non-blocking socket, and what came from a forwarder's far side while it was watched.

    :raises Failed:
    """
    sock = await _connect(candidate, timeout)
    if not candidate.via_forwarder:
        return sock, b""
    try:
        return sock, await _settled(sock, candidate)
    except BaseException:
        sock.close()
        raise


def discard(connected: tuple[socket.socket, bytes]) -> None:
    connected[0].close()


async def _connect(candidate: Candidate, timeout: float) -> socket.socket:
    sock: socket.socket | None = None
    try:
        sock = socket.socket(family(candidate.address), socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(timeout):
            await asyncio.get_running_loop().sock_connect(sock, candidate.pair)
        if is_own_echo(sock.getsockname(), sock.getpeername()):
            reset_on_close(sock)
            raise ConnectionRefusedError
    except BaseException as error:
        if sock is not None:
            sock.close()
        if isinstance(error, OSError):
            raise _failure(candidate, error, timeout) from None
        raise
    return sock


def is_own_echo(own: tuple[object, ...], peer: tuple[object, ...]) -> bool:
    """Whether a socket is connected to itself: on loopback, the kernel may choose as its own port the one that it is to
    reach, and TCP's simultaneous open then joins it to itself, though nobody listens there."""
    return own[:2] == peer[:2]


def reset_on_close(sock: socket.socket) -> None:
    """End with RST: nothing of it stays in TIME_WAIT, which could keep the port from the program that is about to take it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def _settled(sock: socket.socket, candidate: Candidate) -> bytes:
    """:raises Failed: the far side closed at once."""
    try:
        async with asyncio.timeout(SETTLE_TIME):
            early = await asyncio.get_running_loop().sock_recv(sock, EARLY_BYTES)
    except TimeoutError:
        return b""
    except OSError:
        early = b""
    if not early:
        raise Failed(f"published port {candidate.port} closes connections at once: nothing listens behind it")
    return early


def _failure(candidate: Candidate, error: OSError, timeout: float) -> Failed:
    which = f"published port {candidate.port}" if candidate.via_forwarder else f"port {candidate.port}"
    if isinstance(error, ConnectionRefusedError):
        return Failed(f"{which} refuses connections", answered=True)
    if isinstance(error, ConnectionResetError):
        return Failed(f"{which} resets connections", answered=True)
    if isinstance(error, TimeoutError):
        return Failed(f"{which} did not answer within {timeout * 1000:.0f} ms")
    return Failed(f"{which} can't be reached: {error.strerror or type(error).__name__}")


# --- several ways -----------------------------------------------------------------------------------------------------


async def race(
    ways: Sequence[Candidate],
    attempt: Callable[[Candidate], Awaitable[T]],
    *,
    networks: Iterable[Network],
    dispose: Callable[[T], None] = lambda _: None,
) -> tuple[Candidate, T]:
    """Try all `ways` at the same time; the winner and its result. `dispose` is called with the results of the others.

    An own address wins over a forwarder, and forwarders lose where a neighbour's own address has refused: the program is
    just not there yet, and the forwarder's port might be something else's (a manager in a container has its own loopback).

    :raises Failed: none passed; the words are those of the way that came nearest.
    """
    if len(ways) == 1:
        return ways[0], await attempt(ways[0])
    near = {way for way in ways if not way.via_forwarder and on_link(way.address, networks)}
    tasks: dict[asyncio.Future[T], Candidate] = {asyncio.ensure_future(attempt(way)): way for way in ways}
    winner: asyncio.Future[T] | None = None
    pending = set(tasks)
    try:
        while pending and winner is None:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            winner = _winner(tasks, near)
        losers = [task for task in tasks if task is not winner]
        _drop(losers, dispose)
        await asyncio.wait(losers)
    except BaseException:
        _drop(tasks, dispose)
        raise
    if winner is None:
        raise _nearest(losers)
    return tasks[winner], winner.result()


def _drop(tasks: Iterable[asyncio.Future[T]], dispose: Callable[[T], None]) -> None:
    def ended(task: asyncio.Future[T]) -> None:
        if not task.cancelled() and task.exception() is None:
            dispose(task.result())

    for task in tasks:
        task.add_done_callback(ended)
        task.cancel()


def _winner(tasks: dict[asyncio.Future[T], Candidate], near: set[Candidate]) -> asyncio.Future[T] | None:
    passed: list[asyncio.Future[T]] = []
    answered = False
    for task, way in tasks.items():
        if not task.done():
            # A neighbour that is still silent may answer yet: its word comes first.
            answered = answered or way in near
            continue
        error = task.exception()
        if error is None:
            passed.append(task)
        elif not isinstance(error, Failed):
            raise error
        else:
            answered = answered or (way in near and error.answered)
    own = [task for task in passed if not tasks[task].via_forwarder]
    if own:
        return own[0]
    return passed[0] if passed and not answered else None


def _nearest(tasks: Sequence[asyncio.Future[T]]) -> Failed:
    errors = [error for task in tasks if isinstance(error := task.exception(), Failed)]
    return next((error for error in errors if error.answered), errors[0])
