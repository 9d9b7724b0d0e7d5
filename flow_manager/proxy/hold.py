"""What becomes of a request that can't simply be forwarded: answered, shown a page, or held until the flow is ready.

The wake is the watcher's: all who wait join the one, and whoever leaves cancels nothing but the own waiting.
"""

from __future__ import annotations

from flow_manager.errors import ContainerNotFound, FlowManagerError
from flow_manager.proxy.answers import failure_page, first_page, refuse, why_not_woken
from flow_manager.proxy.classify import Asked, classify
from flow_manager.proxy.context import SlowContext, TooManyHeld, WakingFlow
from flow_manager.proxy.held_request import HeldRequest, UpstreamRefused
from flow_manager.proxy.problems import Problem, of_error, readable
from flow_manager.proxy.reserved import answer_reserved

# A flow that sleeps again (or refuses) between readiness and forwarding is woken again, but not for ever.
MAX_ATTEMPTS = 5
# What stands in a lease's holder and in the reason of a wake.
MAX_REASON = 120


async def slow_path(request: HeldRequest, watcher: WakingFlow, context: SlowContext) -> None:
    """Answer it, in one way or another.

    :raises ClientGone: the client left first.
    """
    asked = asked_of(request)
    if context.is_gone(watcher):
        refuse(request, asked, _deleted(watcher), context)
        return
    kind = classify(asked, watcher.policy)
    if kind == "reserved":
        await answer_reserved(request, asked, watcher, context)
    elif watcher.ready_now():
        await _hold(request, asked, watcher, context)
    elif kind in ("favicon", "probe", "prefetch"):
        problem = _asleep(watcher, "it is not running now, and this request doesn't wake it")
        request.respond(problem.status, problem.headers(), problem.body())
    elif (reason := why_not_woken(watcher)) is not None:
        refuse(request, asked, reason, context)
    elif kind == "outside" and watcher.state != "starting":
        endpoint = watcher.policy.start_endpoint if watcher.policy is not None else None
        refuse(request, asked, _asleep(watcher, f"it is not running now; requests for {endpoint} wake it"), context)
    elif kind == "page":
        await _show(request, asked, watcher, context)
    else:
        await _hold(request, asked, watcher, context)


def asked_of(request: HeldRequest) -> Asked:
    return Asked(
        request.method.decode("latin-1"), request.target.decode("latin-1"), request.headers, request.peer or None
    )


async def _show(request: HeldRequest, asked: Asked, watcher: WakingFlow, context: SlowContext) -> None:
    failed = watcher.state == "error"
    if not failed:
        # The page first: an engine may take seconds to answer a start.
        first_page(request, asked, watcher, context)
    try:
        watcher.begin_wake(reason=_reason(asked))
    except FlowManagerError as exc:
        # Held back after a failure; or things changed just now, and the page will read so in the status.
        if failed:
            await failure_page(request, asked, watcher, context, of_error(exc, watcher, frank=context.frank))
        return
    if failed:
        # Nothing was awaited since: the start is called after this.
        first_page(request, asked, watcher, context)


async def _hold(request: HeldRequest, asked: Asked, watcher: WakingFlow, context: SlowContext) -> None:
    """Wait for readiness, then forward; again where it slept or refused in between."""
    refusal: UpstreamRefused | None = None
    waited = False
    try:
        for _ in range(MAX_ATTEMPTS):
            if not watcher.ready_now():
                waited = True
                with context.held.one_more(watcher.id):
                    await _wait_for(watcher, asked)
                if not watcher.ready_now():
                    continue
            if context.is_gone(watcher):
                break
            try:
                await request.forward(watcher, cold_start=waited)
                return
            except UpstreamRefused as exc:
                refusal = exc
    except TooManyHeld as exc:
        detail = f"too many requests wait for it to wake ([proxy] {exc.limit})"
        refuse(request, asked, Problem(503, "too_many_held", detail).about(watcher, retry=True), context)
        return
    except ContainerNotFound:
        refuse(request, asked, _deleted(watcher), context)
        return
    except FlowManagerError as exc:
        problem = _deleted(watcher) if context.is_gone(watcher) else of_error(exc, watcher, frank=context.frank)
        refuse(request, asked, problem, context)
        return
    refuse(request, asked, _never_came(watcher, refusal, context), context)


async def _wait_for(watcher: WakingFlow, asked: Asked) -> None:
    """:raises FlowManagerError: why it isn't ready."""
    # Who waits uses it: it must not fall asleep between readiness and the first byte.
    lease = watcher.use("http", _reason(asked))
    try:
        await watcher.wake(reason=_reason(asked))
    finally:
        lease.release()


def _never_came(watcher: WakingFlow, refusal: UpstreamRefused | None, context: SlowContext) -> Problem:
    if context.is_gone(watcher):
        return _deleted(watcher)
    if refusal is not None:
        return Problem(503, refusal.code, refusal.message).about(watcher, retry=True)
    if watcher.state == "ready":
        detail = (
            "it runs, but no port is known to forward to: `port`, `ports` or what its image exposes would say; "
            "on another machine's engine it must be published, and `policy.publish_address` be no loopback address"
        )
        return Problem(502, "no_upstream", detail).about(watcher)
    return Problem(503, "asleep", "it fell asleep again each time it woke").about(watcher, retry=True)


def _asleep(watcher: WakingFlow, detail: str) -> Problem:
    return Problem(503, "asleep", detail).about(watcher, retry=True)


def _deleted(watcher: WakingFlow) -> Problem:
    return Problem(404, ContainerNotFound.code, f"there is no flow {readable(watcher.name, MAX_REASON)} any more")


def _reason(asked: Asked) -> str:
    """Without the query, which may hold secrets: leases and activity are for others' eyes."""
    return readable(f"{asked.method} {asked.path} from {asked.source or 'an unknown client'}", MAX_REASON)
