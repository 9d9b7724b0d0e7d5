"""Sleeping and waking on the wire: the steps of a wake, and the answer to "why is it awake?" (wire contract, sections 4 to 6)."""

from __future__ import annotations

from typing import Literal

from flow_manager.contract.fields import Timestamp
from flow_manager.contract.models import DesiredState, FlowState, IdlePolicy, WireModel

WakeEventType = Literal["starting", "waking_dep", "dep_ready", "container_woke", "waiting_ready", "ready", "error"]
LeaseKind = Literal["http", "websocket", "tcp", "terminal", "exec", "message", "busy", "dependent"]


class WakeEvent(WireModel):
    """One step of the wake under way; `id` increases per flow and is never used again. A nap clears the history."""

    type: WakeEventType
    message: str
    timestamp: Timestamp
    id: int
    error: str | None = None


class ContainerWakeEvent(WakeEvent):
    """As the server event `wake_event` carries it."""

    container_id: str


class WakeHistory(WireModel):
    """Reply of `subscribe_wake_events`."""

    history: list[WakeEvent]


class LeaseInfo(WireModel):
    """One reason to stay awake. `age` in seconds; `expires_in` seconds without further use, null while it holds by itself."""

    kind: LeaseKind
    holder: str
    age: float
    expires_in: float | None


class SleepNote(WireModel):
    """When and why it last fell asleep."""

    at: Timestamp
    reason: str


class WakeNote(WireModel):
    """When and why it last woke, and how many seconds that took."""

    at: Timestamp
    reason: str
    took: float | None


class IdleExplanation(WireModel):
    """Why a flow is awake or asleep. `sleeps_in` is null while a lease holds it, or when it never sleeps."""

    container_id: str
    name: str
    flow_state: FlowState
    desired: DesiredState
    idle: IdlePolicy | None
    leases: list[LeaseInfo]
    sleeps_in: float | None
    sleeps_at: Timestamp | None
    last_slept: SleepNote | None
    last_woke: WakeNote | None
    crashes: int
    retry_in: float | None
    waiting_for: str | None
    error: str | None
    summary: str
