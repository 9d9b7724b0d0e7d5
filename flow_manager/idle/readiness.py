"""Waiting until a flow that was started can be used, and asking later whether it still answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from flow_manager.idle.readiness_checks import (
    ChannelCheck,
    Check,
    DelayCheck,
    HealthCheck,
    HttpCheck,
    RunningCheck,
    TcpCheck,
    asked_checks,
    checks,
    describe,
    words,
)
from flow_manager.idle.readiness_http import get, passes
from flow_manager.idle.readiness_target import NotReady, ProbeTarget
from flow_manager.idle.readiness_tcp import CONNECT_TIMEOUT, Failed, connect, discard, pause, race
from flow_manager.idle.upstream import Candidate, Network, from_here, in_container, networks_here, on_link
from flow_manager.util.clock import Clock, SystemClock

__all__ = ["NotReady", "ProbeTarget", "Prober", "describe"]

T = TypeVar("T")
# While an attempt is under way, its flow's end and the deadline are looked for this often, in seconds.
WATCH_INTERVAL = 0.05
# An HTTP attempt may take this long, in seconds, and twice as long each time up to the second: a program that hangs on
# what came too early is asked again soon, and a slow health page is given its time.
FIRST_ANSWER, LAST_ANSWER = 1.0, 5.0
ALIVE_TIMEOUT = 5.0


class Prober:
    """`clock` decides the deadline and delays; `networks` and `contained` tell where this machine is."""

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        networks: Callable[[], Sequence[Network]] = networks_here,
        contained: Callable[[], bool] = in_container,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._clock = clock or SystemClock()
        self._networks = networks
        self._contained = contained
        self._sleep = sleep

    async def wait_ready(
        self, target: ProbeTarget, *, deadline: float, told: Callable[[str], None]
    ) -> Candidate | None:
        """Until all that readiness asks for has passed; the way on which the flow's own port is reached in this run.

        `deadline` is on the clock's monotonic scale. `told` hears what is waited for, and hears it again as less remains.

        :raises NotReady: at once when the flow ends; at the deadline.
        """
        return await _Wait(self, target, deadline, told).run()

    async def alive(self, target: ProbeTarget) -> bool:
        """One probe of each HTTP path and TCP port that `ready` names, 5 s each at most; True where it names none."""
        wait = _Wait(self, target, 0.0, lambda _: None)
        for check in asked_checks(target.policy):
            if isinstance(check, HttpCheck | TcpCheck):
                try:
                    async with asyncio.timeout(ALIVE_TIMEOUT):
                        await wait.attempt(check, ALIVE_TIMEOUT, ALIVE_TIMEOUT)
                except (Failed, TimeoutError):
                    return False
        return True

    # What one wait needs of its prober.

    def now(self) -> float:
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._sleep(seconds)

    def surroundings(self) -> tuple[Sequence[Network], bool]:
        return self._networks(), self._contained()


class _Wait:
    """One wait for one flow."""

    def __init__(self, prober: Prober, target: ProbeTarget, deadline: float, told: Callable[[str], None]) -> None:
        self._prober = prober
        self._target = target
        self._deadline = deadline
        self._told = told
        self._networks, self._contained = prober.surroundings()
        self._begun = prober.now()
        self._found: Candidate | None = None
        self._found_for: int | None = None

    async def run(self) -> Candidate | None:
        wanted = checks(self._target.policy, self._target.has_health, self._target.own_port)
        self._told(words(wanted))
        for position in range(len(wanted)):
            await self._until_it_passes(wanted[position:], tell=position > 0)
        return await self._choose()

    async def _until_it_passes(self, wanted: tuple[Check, ...], *, tell: bool) -> None:
        check, attempts, last = wanted[0], 0, "not tried yet"
        while True:
            self._refuse_in_vain(wanted, last)
            try:
                await self._watched(self.attempt(check, min(LAST_ANSWER, FIRST_ANSWER * 2 ** min(attempts, 8))))
                return
            except Failed as failed:
                last = failed.words
            except _InVain:
                continue
            if tell:
                tell = False
                self._told(words(wanted))
            attempts += 1
            await self._pause(check)

    def _refuse_in_vain(self, wanted: tuple[Check, ...], last: str) -> None:
        """:raises NotReady:"""
        if self._target.ended():
            raise NotReady(words(wanted), last, reason="exited")
        if self._left() <= 0:
            raise NotReady(words(wanted), last, reason="timeout")

    async def attempt(self, check: Check, timeout: float, connect_timeout: float = CONNECT_TIMEOUT) -> None:
        """:raises Failed: not (yet)."""

        async def join(way: Candidate) -> tuple[socket.socket, bytes]:
            return await connect(way, timeout=connect_timeout)

        match check:
            case HttpCheck(port, path):

                async def ask(way: Candidate) -> int:
                    status = await get(
                        way, path, timeout=timeout, host=f"localhost:{port}", connect_timeout=connect_timeout
                    )
                    if not passes(status):
                        raise Failed(f"GET {path} answers {status}", answered=True)
                    return status

                self._keep(port, (await race(self._ways(port), ask, networks=self._networks))[0])
            case TcpCheck(port):
                way, connected = await race(self._ways(port), join, networks=self._networks, dispose=discard)
                discard(connected)
                self._keep(port, way)
            case HealthCheck():
                health = self._target.health()
                if health != "healthy":
                    raise Failed(f"its health is {'not known yet' if health == 'none' else health}")
            case ChannelCheck():
                if not self._target.channel_ready.is_set():
                    raise Failed("the flow has not said so")
            case DelayCheck(seconds):
                if (passed := self._prober.now() - self._begun) < seconds:
                    raise Failed(f"{passed:.1f} s have passed")
            case RunningCheck():
                pass

    async def _pause(self, check: Check) -> None:
        seconds = max(0.0, min(pause(self._prober.now() - self._begun), self._left()))
        if isinstance(check, DelayCheck):
            seconds = min(seconds, max(0.0, check.seconds - (self._prober.now() - self._begun)))
        if isinstance(check, ChannelCheck):
            try:
                async with asyncio.timeout(seconds):
                    await self._target.channel_ready.wait()
            except TimeoutError:
                pass
        else:
            await self._prober.sleep(seconds)

    def _left(self) -> float:
        return self._deadline - self._prober.now()

    async def _watched(self, attempt: Awaitable[T]) -> T:
        """Its result, unless the flow ends or the time is up first.

        :raises _InVain: then; the attempt is over, too.
        """
        task = asyncio.ensure_future(attempt)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=min(WATCH_INTERVAL, max(0.0, self._left())))
                if not task.done() and (self._target.ended() or self._left() <= 0):
                    raise _InVain
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # nobody asks for it where the wait itself was cut off: asyncio would warn of that

    # --- ways ---------------------------------------------------------------------------------------------------------

    def _ways(self, port: int) -> Sequence[Candidate]:
        """:raises Failed: none is known."""
        ways = from_here(self._target.ways(port), contained=self._contained)
        if not ways:
            raise Failed(self._target.no_way(port))
        return ways

    def _keep(self, port: int, way: Candidate) -> None:
        self._found, self._found_for = way, port

    async def _choose(self) -> Candidate | None:
        """The way to the flow's own port: the one that a check has found, else the one that answers now, else the likeliest."""
        port = self._target.own_port
        if port is None:
            return None
        if self._found_for == port:
            return self._found
        try:
            ways = self._ways(port)
        except Failed:
            return None
        if self._found is not None:
            for way in ways:
                if (way.address, way.via_forwarder) == (self._found.address, self._found.via_forwarder):
                    return way
        if len(ways) > 1:
            try:
                return await self._watched(self._first_that_answers(ways))
            except (Failed, _InVain):
                pass
        near = [way for way in ways if not way.via_forwarder and on_link(way.address, self._networks)]
        return next(iter(near), ways[0])

    async def _first_that_answers(self, ways: Sequence[Candidate]) -> Candidate:
        way, connected = await race(ways, connect, networks=self._networks, dispose=discard)
        discard(connected)
        return way


class _InVain(Exception):
    """The flow ended, or the time is up, during an attempt."""
