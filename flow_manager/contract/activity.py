"""Activity: one entry in the user-visible log of what happened (wire contract, section 6)."""

from __future__ import annotations

from typing import Any

from flow_manager.contract.fields import Timestamp
from flow_manager.contract.models import WireModel


class Activity(WireModel):
    """`cursor` is strictly increasing in its `stream`; `actor` is a principal's name, `flow` or `runtime`; `type` is an open list."""

    cursor: int
    stream: str
    type: str
    container_id: str | None
    name: str | None
    actor: str
    message: str
    details: dict[str, Any]
    timestamp: Timestamp


class ActivityPage(WireModel):
    """Reply of `list_activity`, newest first. `next` is the `before` of the next page, null at the end."""

    entries: list[Activity]
    next: int | None


class Subscription(WireModel):
    """Reply of `subscribe_activity`."""

    cursor: int
    stream: str
    replayed: int
    gap: bool
