"""What a flow's readiness is made of, and its words. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from flow_manager.contract.models import IdlePolicy


@dataclass(frozen=True, slots=True)
class HttpCheck:
    port: int
    path: str

    def __str__(self) -> str:
        return f"HTTP GET :{self.port}{self.path}"


@dataclass(frozen=True, slots=True)
class TcpCheck:
    port: int

    def __str__(self) -> str:
        return f"TCP :{self.port}"


@dataclass(frozen=True, slots=True)
class HealthCheck:
    def __str__(self) -> str:
        return "Docker health"


@dataclass(frozen=True, slots=True)
class ChannelCheck:
    def __str__(self) -> str:
        return "the flow's word `ready` on its channel"


@dataclass(frozen=True, slots=True)
class DelayCheck:
    seconds: float

    def __str__(self) -> str:
        return f"{self.seconds:g} s after the start"


@dataclass(frozen=True, slots=True)
class RunningCheck:
    """Nothing is known that could be asked: what runs is ready."""

    def __str__(self) -> str:
        return "running"


Check = HttpCheck | TcpCheck | HealthCheck | ChannelCheck | DelayCheck | RunningCheck


def checks(policy: IdlePolicy | None, has_health: bool, port: int | None) -> tuple[Check, ...]:
    """All of these must pass. What the policy asks for, else the image's own health, else a connection, else running."""
    asked = asked_checks(policy)
    if asked:
        return asked
    if has_health:
        return (HealthCheck(),)
    return (TcpCheck(port),) if port is not None else (RunningCheck(),)


def asked_checks(policy: IdlePolicy | None) -> tuple[Check, ...]:
    """What `ready` names, the slowest to know last: a delay runs out while the others are waited for."""
    ready = policy.ready if policy is not None else None
    if ready is None:
        return ()
    found: list[Check] = []
    if ready.channel:
        found.append(ChannelCheck())
    if ready.tcp is not None:
        found.append(TcpCheck(ready.tcp))
    if ready.http is not None:
        found.append(HttpCheck(ready.http.port, ready.http.path))
    if ready.delay:
        found.append(DelayCheck(ready.delay))
    return tuple(found)


def words(wanted: tuple[Check, ...]) -> str:
    return " and ".join(str(check) for check in wanted)


def describe(policy: IdlePolicy | None, has_health: bool, address: tuple[str, int] | None) -> str:
    """What is waited for: "HTTP GET :8080/healthz", "Docker health", "TCP :5432", "running"; several joined by "and".

    Of `address` only the port counts: the flow's own, as the flow counts it.
    """
    return words(checks(policy, has_health, address[1] if address is not None else None))
