"""`/.flow/status`: how a flow is, for pages and for monitors that must not wake it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from flow_manager.proxy.context import WakingFlow
from flow_manager.proxy.problems import Headers, readable
from flow_manager.proxy.told import failure_of
from flow_manager.util import strict_json

JSON = b"application/json"


def status_of(flow: WakingFlow, *, frank: bool = False) -> dict[str, Any]:
    """`ready`: a request would be forwarded now. `expected_start`: seconds that a wake usually takes, null before the first.
    `retry_after`: seconds after which to come back, null while it is ready. `last_event_id`: the newest of its wake events."""
    ready, error = flow.ready_now(), failure_of(flow, frank=frank)
    return {
        "container_id": flow.id,
        "name": flow.name,
        "flow_state": flow.state,
        "desired": flow.desired,
        "ready": ready,
        "wakes_on_request": flow.policy is not None and flow.desired == "running",
        "last_ready": _timestamp(flow.last_ready),
        "expected_start": flow.expected_start,
        "retry_after": None if ready else flow.retry_after(),
        "last_event_id": newest_event(flow),
        "error": readable(error) if error is not None else None,
    }


def newest_event(flow: WakingFlow) -> int | None:
    entries = flow.history.entries()
    return entries[-1].id if entries else None


def as_json(data: Any, flow: WakingFlow) -> tuple[Headers, bytes]:
    """Headers and body of an answer about a flow."""
    headers = [
        (b"Content-Type", JSON),
        (b"Cache-Control", b"no-store"),
        (b"X-Content-Type-Options", b"nosniff"),
        (b"X-Flow-State", flow.state.encode("ascii")),
    ]
    return headers, strict_json.dumps_bytes(data)


def _timestamp(at: datetime | None) -> str | None:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z") if at is not None else None
