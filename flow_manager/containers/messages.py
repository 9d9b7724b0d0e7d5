"""Giving a flow a message."""

from __future__ import annotations

from flow_manager.channel.handler import Delivery
from flow_manager.containers.core import Core
from flow_manager.containers.courier import reachable
from flow_manager.containers.entry import FlowEntry
from flow_manager.contract.models import MessageDelivery
from flow_manager.contract.principal import Principal
from flow_manager.contract.requests import SendMessage
from flow_manager.errors import NotConnected, Unsupported


async def send_message(core: Core, principal: Principal, request: SendMessage) -> MessageDelivery:
    """Write it to the flow's channel, and wait for the reply when one is expected.

    With `wake`, one for a flow that is away is stored and the flow is woken; see `Outbox.send`.

    :raises NotConnected: at once, when the flow has no connection and is not to be woken.
    :raises ReplyTimeout, FrameTooLarge, QueueFull:
    """
    entry = core.table.resolve(principal, request.container_id)
    core.refuse_when_closing()
    outbox = core.outbox
    if outbox is None:
        if request.wake and not reachable(core, entry):
            raise Unsupported("this service wakes no flows", kind=entry.runtime.kind, capability="wake")
        return _told(await _write(core, entry, request, None))
    message_id = outbox.message_id(principal, request, entry.id) if request.wake else None
    lease = outbox.use(entry.id, f"message from {principal.name}")
    try:
        began = core.clock.monotonic()
        if message_id is not None and (outbox.waiting(entry.id) or not reachable(core, entry)):
            return await outbox.send(entry, request, message_id, request.timeout)
        if outbox.waiting(entry.id) and reachable(core, entry):
            # The order is everybody's: what came first goes first, also before what needs no waking.
            own_id = outbox.message_id(principal, request, entry.id)
            return await outbox.send(entry, request, own_id, request.timeout)
        try:
            return _told(await _write(core, entry, request, message_id))
        except NotConnected:
            if message_id is None:
                raise
            # It left between our look and the write, or before it acknowledged.
            left = max(0.0, request.timeout - (core.clock.monotonic() - began))
            return await outbox.send(entry, request, message_id, left)
    finally:
        lease.release()


async def _write(core: Core, entry: FlowEntry, request: SendMessage, message_id: str | None) -> Delivery:
    state = entry.observation.state if entry.observation else None
    if state not in ("running", None):
        raise NotConnected(f"the flow is {state}", state=state)
    return await core.channel.send_message(
        entry.id,
        request.message,
        expect_reply=request.expect_reply,
        timeout=request.timeout,
        message_id=message_id,
    )


def _told(delivery: Delivery) -> MessageDelivery:
    return MessageDelivery(
        message_id=delivery.message_id,
        delivered=delivery.delivered,
        queued=False,
        reply=delivery.reply if delivery.replied else None,
    )
