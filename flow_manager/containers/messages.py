"""Giving a flow a message."""

from __future__ import annotations

from flow_manager.containers.core import Core
from flow_manager.contract.models import MessageDelivery
from flow_manager.contract.principal import Principal
from flow_manager.contract.requests import SendMessage
from flow_manager.errors import NotConnected, Unsupported


async def send_message(core: Core, principal: Principal, request: SendMessage) -> MessageDelivery:
    """Write it to the flow's channel, and wait for the reply when one is expected.

    :raises NotConnected: at once, when the flow has no connection.
    :raises ReplyTimeout, FrameTooLarge, QueueFull:
    :raises Unsupported: for `wake: true`, which needs a watcher.
    """
    entry = core.table.resolve(principal, request.container_id)
    core.refuse_when_closing()
    if request.wake and not core.channel.is_socket_connected(entry.id):
        raise Unsupported("a message can't wake a flow yet", kind=entry.runtime.kind, capability="wake")
    state = entry.observation.state if entry.observation else None
    if state not in ("running", None):
        raise NotConnected(f"the flow is {state}", state=state)
    delivery = await core.channel.send_message(
        entry.id, request.message, expect_reply=request.expect_reply, timeout=request.timeout
    )
    return MessageDelivery(
        message_id=delivery.message_id,
        delivered=delivery.delivered,
        queued=False,
        reply=delivery.reply if delivery.replied else None,
    )
