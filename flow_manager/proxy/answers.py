"""Answers of the slow path: a page for a person, JSON for a program."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flow_manager.contract.wake import WakeEvent
from flow_manager.proxy.classify import Asked, wants_page
from flow_manager.proxy.context import SlowContext, WakingFlow
from flow_manager.proxy.held_request import HeldRequest
from flow_manager.proxy.loading import View, safe_target
from flow_manager.proxy.problems import Problem
from flow_manager.proxy.status import as_json
from flow_manager.proxy.told import failure_of, told_event


def answer_json(request: HeldRequest, data: Any, flow: WakingFlow, *, status: int = 200) -> None:
    request.respond(status, *as_json(data, flow))


def refuse(request: HeldRequest, asked: Asked, problem: Problem, context: SlowContext) -> None:
    """The problem; a person who opened a page gets it as a page, with the same status."""
    if problem.flow is None or problem.flow_state is None or not wants_page(asked):
        request.respond(problem.status, problem.headers(), problem.body())
        return
    view = View(problem.flow, "refused", context.clock.now(), reason=problem.detail, headline=_headline(problem))
    headers = context.page.headers(problem.flow_state, problem.retry_after)
    request.respond(problem.status, headers, context.page.render(view))


def _headline(problem: Problem) -> str | None:
    if problem.extra.get("desired") == "stopped":
        return "It is stopped."
    return "It is asleep." if problem.code == "asleep" else None


def why_not_woken(flow: WakingFlow) -> Problem | None:
    """None: traffic may wake it, it is on its way already, or (in error) the watcher itself knows best."""
    if flow.state in ("starting", "error"):
        return None
    if flow.desired == "stopped":
        detail = "this flow is stopped: traffic doesn't wake it until it is started"
        return Problem(503, "container_stopped", detail, extra={"desired": "stopped"}).about(flow)
    if flow.policy is None:
        detail = "this flow doesn't run, and traffic doesn't wake it: it has no idle policy"
        return Problem(503, "container_stopped", detail).about(flow)
    return None


def first_page(request: HeldRequest, asked: Asked, flow: WakingFlow, context: SlowContext) -> None:
    """The page of a wake that is about to begin, or under way. Loading its address again is then the request itself."""
    steps = _steps(flow, context)
    under_way = flow.state == "starting"
    view = View(
        name=flow.name,
        mode="waking",
        now=context.clock.now(),
        steps=steps if under_way else (),
        expected=flow.expected_start,
        target=safe_target(asked.target),
        after=None if under_way or not steps else steps[-1].id,
        show_logs=context.shows_logs,
    )
    request.respond(200, context.page.headers(flow.state), context.page.render(view))


def _steps(flow: WakingFlow, context: SlowContext) -> list[WakeEvent]:
    return [told_event(event, flow, frank=context.frank) for event in flow.history.entries()]


async def failure_page(
    request: HeldRequest, asked: Asked, flow: WakingFlow, context: SlowContext, problem: Problem
) -> None:
    """It failed a moment ago and isn't tried again yet: why, and the button for later."""
    view = View(
        name=flow.name,
        mode="failed",
        now=context.clock.now(),
        steps=_steps(flow, context),
        reason=failure_of(flow, frank=context.frank) or problem.detail,
        target=safe_target(asked.target),
        show_logs=context.shows_logs,
        log_lines=await context.log_lines(flow),
    )
    headers = context.page.headers(flow.state, problem.retry_after)
    request.respond(problem.status, headers, context.page.render(view))


async def waiting_page(request: HeldRequest, target: str, flow: WakingFlow, context: SlowContext) -> None:
    """How it stands, for a page that looks again without waking; `target` is where it goes once the flow is ready."""
    problem = why_not_woken(flow)
    steps = _steps(flow, context)
    view = View(
        name=flow.name,
        mode="waking" if flow.state in ("starting", "stopping") else "asleep",
        now=context.clock.now(),
        steps=steps,
        expected=flow.expected_start,
        to=target,
        target=target,
        after=steps[-1].id if steps else None,
        show_logs=context.shows_logs,
    )
    if problem is not None:
        view = replace(view, mode="refused", reason=problem.detail, headline=_headline(problem))
    elif flow.state == "error":
        lines = await context.log_lines(flow)
        view = replace(view, mode="failed", reason=failure_of(flow, frank=context.frank) or "", log_lines=lines)
    request.respond(200, context.page.headers(flow.state), context.page.render(view))
