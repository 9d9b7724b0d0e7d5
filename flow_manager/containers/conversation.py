"""What flows say over their channels becomes activity, messages to clients, and changes of status."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flow_manager.containers.core import Core
from flow_manager.containers.entry import FlowEntry
from flow_manager.contract.models import ContainerMessage

MessageListener = Callable[[str, ContainerMessage], None]


class Conversation:
    """The channel's listener. Its calls are synchronous and quick; a flow that is gone already is passed over."""

    def __init__(self) -> None:
        self._core: Core | None = None
        self._listeners: list[MessageListener] = []

    def attach(self, core: Core) -> None:
        """Channel and core need each other: the channel is made first, with this in its hand."""
        self._core = core

    def on_message(self, listener: MessageListener) -> None:
        """Call `listener(tenant, message)` for each thing that a flow sends on its own."""
        self._listeners.append(listener)

    def flow_connected(self, flow_id: str) -> None:
        self._tell(flow_id)

    def flow_disconnected(self, flow_id: str) -> None:
        self._tell(flow_id)

    def flow_ready(self, flow_id: str) -> None:
        if (entry := self._entry(flow_id)) is not None and self._core is not None:
            self._core.observer.channel_ready(entry)

    def flow_message(self, flow_id: str, body: Any) -> None:
        if (entry := self._entry(flow_id)) is None or self._core is None:
            return
        self._core.activity.log_container_message(entry.ref, body)
        message = ContainerMessage.model_construct(container_id=flow_id, message=body, timestamp=self._core.now())
        for listener in self._listeners:
            listener(entry.record.tenant, message)

    def flow_actor_event(self, flow_id: str, actor: str, event: str, details: dict[str, Any]) -> None:
        if (entry := self._entry(flow_id)) is not None and self._core is not None:
            self._core.activity.log_actor_event(entry.ref, actor, event, details)

    def flow_busy(self, flow_id: str, seconds: float, reason: str | None) -> None:
        if (entry := self._entry(flow_id)) is not None and self._core is not None:
            self._core.observer.channel_busy(entry, seconds, reason)
            why = f": {reason}" if reason else ""
            self._note(entry, "flow_busy", f"is busy for {seconds:g} s{why}", {"for": seconds, "reason": reason})

    def flow_idle(self, flow_id: str) -> None:
        if (entry := self._entry(flow_id)) is not None and self._core is not None:
            self._core.observer.channel_idle(entry)
            self._note(entry, "flow_idle", "is idle again", {})

    def flow_bad_frame(self, flow_id: str, reason: str, count: int) -> None:
        if (entry := self._entry(flow_id)) is not None:
            times = f" ({count} times)" if count > 1 else ""
            words = f"sent a line that can't be read{times}: {reason}"
            self._note(entry, "bad_frame", words, {"reason": reason, "count": count})

    def _note(self, entry: FlowEntry, type: str, words: str, details: dict[str, Any]) -> None:
        """What the flow itself did, for people."""
        if self._core is not None:
            told = f"flow *{entry.record.name}* {words}"
            self._core.activity.log_user_activity(
                type, told, flow=entry.ref, tenant=entry.record.tenant, actor="flow", details=details
            )

    def _tell(self, flow_id: str) -> None:
        if (entry := self._entry(flow_id)) is not None and self._core is not None:
            self._core.tell(entry)

    def _entry(self, flow_id: str) -> FlowEntry | None:
        return self._core.table.get(flow_id) if self._core is not None else None
