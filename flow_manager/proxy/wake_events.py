"""`/.flow/wake-events`: the steps of a wake as server-sent events (WHATWG HTML, section 9.2). It never wakes the flow.

History first, then what comes; closed after `ready` or `error`. A client that comes back with `Last-Event-ID` gets what it
missed; one that has seen the end already waits for the next wake, so that an EventSource, which always comes back, doesn't
do so in a circle.
"""

from __future__ import annotations

import asyncio

from flow_manager.contract.wake import WakeEvent
from flow_manager.proxy.classify import Asked
from flow_manager.proxy.context import SlowContext, WakingFlow
from flow_manager.proxy.held_request import ClientGone, HeldRequest
from flow_manager.proxy.problems import Headers
from flow_manager.proxy.told import failure_of, told_event

# Wire contract, section 8. Shorter than the idle timeouts of common proxies (nginx 60 s).
HEARTBEAT = 15.0
# How soon a client that lost its connection comes back, in milliseconds.
RETRY = 2000
# Events that may wait for one reader. A wake has some ten; who is so far behind comes back with its Last-Event-ID.
MAX_WAITING = 256
# Seconds that a reader may refuse to take what was sent before it is cut off.
WRITE_TIMEOUT = 30.0
LAST = ("ready", "error")
# The code of a failure that came without a wake; the words are the message, as in the watchers' own events.
ENDED = "start_failed"
HEADERS: Headers = [
    (b"Content-Type", b"text/event-stream; charset=utf-8"),
    (b"Cache-Control", b"no-store"),
    (b"X-Content-Type-Options", b"nosniff"),
    # nginx would keep the steps back until its buffer is full.
    (b"X-Accel-Buffering", b"no"),
]


def frame(event: WakeEvent) -> bytes:
    """One event. Its JSON is one line whatever the message holds: JSON escapes CR and LF, the only line ends of the format."""
    return b"id: %d\ndata: %s\n\n" % (event.id, event.model_dump_json().encode())


def last_seen(asked: Asked) -> int | None:
    """`Last-Event-ID`, or `?after=` for a first connection, which a page can't give headers. None for whatever is no id."""
    given = asked.value(b"last-event-id") or asked.query("after")
    return int(given) if given.isascii() and given.isdigit() and len(given) <= 18 else None


def missed(history: list[WakeEvent], seen: int | None) -> list[WakeEvent]:
    """What a reader that has seen that one lacks; all, when there can't be such an id."""
    if seen is None or not history or seen > history[-1].id:
        return history
    return [event for event in history if event.id > seen]


async def stream_wake_events(
    request: HeldRequest, asked: Asked, flow: WakingFlow, context: SlowContext, *, heartbeat: float = HEARTBEAT
) -> None:
    """Until `ready`, `error`, the flow's end, or the client's leaving. `heartbeat` in seconds.

    :raises ClientGone: the client left.
    """
    waiting: asyncio.Queue[WakeEvent] = asyncio.Queue(MAX_WAITING)
    lost = False

    def arrived(event: WakeEvent) -> None:
        nonlocal lost
        try:
            waiting.put_nowait(event)
        except asyncio.QueueFull:
            lost = True

    seen = last_seen(asked)
    # Subscribed before history is read, and nothing runs in between: neither gap nor repeat.
    unsubscribe = flow.history.subscribe(arrived)
    try:
        history = missed(list(flow.history.entries()), seen)
        request.start_stream(200, HEADERS)
        request.write(b"retry: %d\n\n" % RETRY)
        for event in history:
            request.write(frame(told_event(event, flow, frank=context.frank)))
        await _drain(request)
        ended = bool(history) and history[-1].type in LAST
        # Nothing of a wake is known, yet it is ready (or failed) already: who waits for just that must not wait for ever.
        waits_for_any = seen is None and not history
        while not ended:
            if waits_for_any and waiting.empty() and (standing := _standing(flow, context)) is not None:
                request.write(frame(standing))
                break
            came = await _next(waiting, heartbeat)
            if came is not None:
                request.write(frame(told_event(came, flow, frank=context.frank)))
                waits_for_any = False
                # Some were lost to a full queue: closed, and the reader comes back for them with the last id it has.
                ended = came.type in LAST or (lost and waiting.empty())
            elif context.is_gone(flow):
                ended = True
            else:
                request.write(b": waiting\n\n")
            await _drain(request)
        request.end()
    finally:
        unsubscribe()


def _standing(flow: WakingFlow, context: SlowContext) -> WakeEvent | None:
    """The end of a wake that nobody has noted: before this manager ran, or by somebody's hand."""
    at = context.clock.now()
    if flow.ready_now():
        return WakeEvent(type="ready", message=f"{flow.name} is ready", timestamp=at, id=0)
    if flow.state == "error":
        why = failure_of(flow, frank=context.frank) or f"{flow.name} has failed"
        return WakeEvent(type="error", message=why, timestamp=at, id=0, error=ENDED)
    return None


async def _next(waiting: asyncio.Queue[WakeEvent], seconds: float) -> WakeEvent | None:
    try:
        async with asyncio.timeout(seconds):
            return await waiting.get()
    except TimeoutError:
        return None


async def _drain(request: HeldRequest) -> None:
    """:raises ClientGone: also for one that is there and doesn't read: what waits for it must not grow old with it."""
    try:
        async with asyncio.timeout(WRITE_TIMEOUT):
            await request.drain()
    except TimeoutError:
        raise ClientGone from None
