"""What is below `/.flow/` on every flow's host: the manager's own, ready or not, never forwarded and never counted as use.

`status`, `wake-events`, `wait` (the page again, without waking), `logs` (where it is allowed), and `wake`, which alone
wakes: by POST, and from the flow's own pages, for a foreign page must not be able to start anything.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import quote

from flow_manager.errors import FlowManagerError
from flow_manager.proxy.answers import answer_json, refuse, waiting_page, why_not_woken
from flow_manager.proxy.classify import RESERVED, Asked, wants_page
from flow_manager.proxy.context import SlowContext, WakingFlow
from flow_manager.proxy.held_request import HeldRequest
from flow_manager.proxy.loading import WAIT_PATH, safe_target
from flow_manager.proxy.problems import Problem, of_error, readable
from flow_manager.proxy.status import newest_event, status_of
from flow_manager.proxy.wake_events import stream_wake_events
from flow_manager.util.hosts import HostRule, parse_authority

Answer = Callable[[HeldRequest, Asked, WakingFlow, SlowContext], Awaitable[None]]

READS = ("GET", "HEAD")
_NO_CONFIGURED = HostRule.of((), (), own_address=False)


async def answer_reserved(request: HeldRequest, asked: Asked, flow: WakingFlow, context: SlowContext) -> None:
    """Always answered: a path that isn't known with 404, a wrong method with 405."""
    found = _ANSWERS.get(asked.path.removeprefix(RESERVED + "/"))
    if found is None:
        refuse(request, asked, Problem(404, "not_found", f"there is nothing at {readable(asked.path, 100)}"), context)
        return
    methods, answer = found
    if asked.method not in methods:
        problem = Problem(405, "method_not_allowed", f"only {' and '.join(methods)}")
        request.respond(405, [*problem.headers(), (b"Allow", ", ".join(methods).encode())], problem.body())
        return
    await answer(request, asked, flow, context)


async def _status(request: HeldRequest, asked: Asked, flow: WakingFlow, context: SlowContext) -> None:
    answer_json(request, status_of(flow, frank=context.frank), flow)


async def _events(request: HeldRequest, asked: Asked, flow: WakingFlow, context: SlowContext) -> None:
    if asked.method == "HEAD":
        request.respond(200, [(b"Content-Type", b"text/event-stream; charset=utf-8")])
        return
    await stream_wake_events(request, asked, flow, context)


async def _logs(request: HeldRequest, asked: Asked, flow: WakingFlow, context: SlowContext) -> None:
    if not context.shows_logs:
        problem = Problem(403, "not_allowed", "log lines are not shown here; [proxy] show_logs would allow it")
        refuse(request, asked, problem.about(flow), context)
        return
    lines = [readable(line) for line in await context.log_lines(flow)]
    answer_json(request, {"lines": lines}, flow)


async def _wait(request: HeldRequest, asked: Asked, flow: WakingFlow, context: SlowContext) -> None:
    """Where a page without a program looks again. It never wakes, or an open tab would start a broken flow for ever."""
    target = _target(asked)
    if flow.ready_now():
        _go(request, target)
        return
    await waiting_page(request, target, flow, context)


async def _wake(request: HeldRequest, asked: Asked, flow: WakingFlow, context: SlowContext) -> None:
    if not is_own_page(asked):
        foreign = Problem(403, "forbidden", "only the flow's own pages may wake it by this address")
        refuse(request, asked, foreign.about(flow), context)
        return
    newest = newest_event(flow)
    problem = None if flow.ready_now() else _why_not(flow)
    if problem is None and not flow.ready_now():
        try:
            flow.begin_wake(reason="somebody asked for it on its page")
        except FlowManagerError as exc:
            problem = of_error(exc, flow, frank=context.frank)
    if wants_page(Asked("GET", asked.target, asked.headers)):
        # The page says how it stands, whatever that is.
        _go(request, f"{WAIT_PATH}?to={quote(_target(asked), safe='')}")
    elif problem is not None:
        refuse(request, asked, problem, context)
    else:
        answer_json(request, {**status_of(flow, frank=context.frank), "last_event_id": newest}, flow, status=202)


def _why_not(flow: WakingFlow) -> Problem | None:
    """A retry is for what failed: it is no way around the policy's `start_endpoint`."""
    endpoint = flow.policy.start_endpoint if flow.policy is not None else None
    if endpoint is not None and flow.state == "napping" and flow.desired == "running":
        return Problem(503, "asleep", f"it is asleep; requests for {endpoint} wake it").about(flow, retry=True)
    return why_not_woken(flow)


def is_own_page(asked: Asked) -> bool:
    """Whether a page of this very host asks, or no page at all: browsers tell, by Fetch Metadata or else by Origin."""
    site = asked.value(b"sec-fetch-site")
    if site:
        # The browser's own word, which no page can change: it holds behind a proxy that changes the Host header, too.
        return site in ("same-origin", "none")
    origins = asked.values(b"origin")
    if not origins:
        return True
    host = parse_authority(asked.value(b"host"))
    return len(origins) == 1 and host is not None and _NO_CONFIGURED.accepts_origin(origins[0], host)


def _target(asked: Asked) -> str:
    return safe_target(asked.query("to"))


def _go(request: HeldRequest, where: str) -> None:
    request.respond(303, [(b"Location", where.encode("ascii")), (b"Cache-Control", b"no-store")])


_ANSWERS: dict[str, tuple[tuple[str, ...], Answer]] = {
    "status": (READS, _status),
    "wake-events": (READS, _events),
    "wait": (READS, _wait),
    "logs": (READS, _logs),
    "wake": (("POST",), _wake),
}
