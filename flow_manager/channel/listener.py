"""What the channel tells of flows, and to whom."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

_log = logging.getLogger(__name__)


class ChannelListener(Protocol):
    """Given by the app. Synchronous, quick, in the loop; what it raises is logged and goes no further."""

    def flow_connected(self, flow_id: str) -> None: ...
    def flow_disconnected(self, flow_id: str) -> None: ...
    def flow_message(self, flow_id: str, body: Any) -> None:
        """Sent by the flow on its own."""
        ...

    def flow_actor_event(self, flow_id: str, actor: str, event: str, details: dict[str, Any]) -> None: ...
    def flow_ready(self, flow_id: str) -> None: ...
    def flow_busy(self, flow_id: str, seconds: float, reason: str | None) -> None:
        """`seconds` is at most the setting `max_busy`."""
        ...

    def flow_idle(self, flow_id: str) -> None: ...
    def flow_bad_frame(self, flow_id: str, reason: str, count: int) -> None:
        """`count` bad frames since the last call, `reason` that of the newest. At most once a minute a flow."""
        ...


def tell(callback: Callable[..., None], *args: Any) -> None:
    """Call a listener. A fault in it must not end the connection of the flow that it was told of."""
    try:
        callback(*args)
    except Exception:
        _log.exception("a listener of the channel failed")
