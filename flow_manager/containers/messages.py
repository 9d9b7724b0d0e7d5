"""Giving a flow a message."""

from __future__ import annotations

import asyncio

from flow_manager.channel.handler import Delivery
from flow_manager.containers.core import Core
from flow_manager.containers.entry import FlowEntry
from flow_manager.containers.ready import changes, next_change
from flow_manager.containers.rousing import reachable
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
    if entry.updating is not None:
        request = await _after_update(core, entry, request)
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


async def _after_update(core: Core, entry: FlowEntry, request: SendMessage) -> SendMessage:
    """What comes while the flow's code is changed waits for it to be back on its channel; with the time that is left then."""
    end = core.clock.monotonic() + request.timeout
    spoke = core.channel.last_communication(entry.id) is not None
    try:
        async with asyncio.timeout(request.timeout):
            while entry.updating is not None:
                await entry.updating.wait()
            with changes(core, entry) as changed:
                while spoke and entry.running and not reachable(core, entry):
                    changed.clear()
                    await next_change(core, entry, changed)
    except TimeoutError:
        pass  # then it is answered as one for a flow that is away
    return request.model_copy(update={"timeout": max(0.0, end - core.clock.monotonic())})


async def _write(core: Core, entry: FlowEntry, request: SendMessage, message_id: str | None) -> Delivery:
    state = entry.observation.state if entry.observation else None
    if state not in ("running", None):
        raise NotConnected(f"the flow is {state}; with `wake` the message would wait, and wake it", state=state)
    return await core.channel.send_message(
        entry.id,
        request.message,
        expect_reply=request.expect_reply,
        timeout=request.timeout,
        message_id=message_id,
    )


def _told(delivery: Delivery) -> MessageDelivery:
    told = {"reply": delivery.reply} if delivery.replied else {}
    return MessageDelivery(message_id=delivery.message_id, delivered=delivery.delivered, queued=False, **told)
