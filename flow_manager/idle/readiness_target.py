"""What a wait for readiness needs to know of one flow, and how it can end in vain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from flow_manager.contract.models import ContainerHealth, IdlePolicy
from flow_manager.idle.upstream import Candidate


class NotReady(Exception):
    """It is not ready and will not be. `waited_for` and `last_failure` in words; `reason`: it ended, or time is up."""

    def __init__(self, waited_for: str, last_failure: str, *, reason: Literal["exited", "timeout"]) -> None:
        ended = f"the flow ended while it was waited for {waited_for}"
        super().__init__(ended if reason == "exited" else f"{waited_for} did not pass: {last_failure}")
        self.waited_for = waited_for
        self.last_failure = last_failure
        self.reason = reason


class EventLike(Protocol):
    def is_set(self) -> bool: ...
    async def wait(self) -> object: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeTarget:
    """One flow in one run.

    `candidates` gives the ways to a port of the flow, each time it is asked (addresses may come late): usually
    `lambda port: upstream.candidates(entry.observation, port, entry.runtime.kind)`. `port` is the flow's own, as the flow
    counts it (`upstream.flow_port`). `no_way` says why there are none. Who knows the one way already may give `address` (and `via_forwarder`) instead.
    """

    flow_id: str
    policy: IdlePolicy | None
    ended: Callable[[], bool]
    port: int | None = None
    candidates: Callable[[int], Sequence[Candidate]] | None = None
    no_way: Callable[[int], str] = lambda port: f"no address is known at which port {port} could be reached"
    address: tuple[str, int] | None = None
    via_forwarder: bool = False
    has_health: bool = False
    health: Callable[[], ContainerHealth] = lambda: "none"
    channel_ready: EventLike = field(default_factory=asyncio.Event)

    @property
    def own_port(self) -> int | None:
        return self.port if self.port is not None or self.address is None else self.address[1]

    def ways(self, port: int) -> Sequence[Candidate]:
        if self.candidates is not None:
            return self.candidates(port)
        if self.address is None or (self.via_forwarder and port != self.own_port):
            return ()
        return (Candidate(self.address[0], self.address[1] if port == self.own_port else port, self.via_forwarder),)
