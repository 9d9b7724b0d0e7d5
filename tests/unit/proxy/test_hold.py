"""Requests that wait, and those that don't."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flow_manager.contract.models import IdlePolicy, Probe
from flow_manager.errors import Conflict, ContainerNotFound, DependencyFailed, StartFailed, WakeTimeout
from flow_manager.proxy.context import SlowContext
from flow_manager.proxy.held_request import UpstreamRefused
from flow_manager.proxy.hold import MAX_ATTEMPTS, slow_path
from flow_manager.testing import eventually
from tests.unit.proxy.slow_fakes import FakeFlow, FakeRegistry, FakeRequest

CURL = [("Accept", "*/*"), ("User-Agent", "curl/8")]
BROWSER = [("Accept", "text/html"), ("User-Agent", "Mozilla/5.0")]


def run(request: FakeRequest, flow: FakeFlow, context: SlowContext) -> asyncio.Task[None]:
    return asyncio.create_task(slow_path(request, flow, context))  # type: ignore[arg-type]


async def answer(request: FakeRequest, flow: FakeFlow, context: SlowContext | None = None) -> FakeRequest:
    async with asyncio.timeout(5):
        await run(request, flow, context or FakeRegistry(flow).context())
    return request


async def waiting(flow: FakeFlow, count: int = 1) -> None:
    await eventually(lambda: flow.joined == count)


# --- held ---------------------------------------------------------------------------------------------------------------


async def test_a_request_waits_for_the_wake_and_is_forwarded_as_a_cold_start() -> None:
    flow = FakeFlow()
    request = FakeRequest("POST", "/api", CURL)
    task = run(request, flow, FakeRegistry(flow).context())
    await waiting(flow)
    assert not request.answered and request.forwarded == []
    flow.finish()
    await task
    assert request.forwarded == [True]


async def test_a_thousand_first_requests_share_one_wake() -> None:
    flow = FakeFlow()
    context = FakeRegistry(flow).context(held_per_flow=1000)
    requests = [FakeRequest(headers=CURL) for _ in range(1000)]
    tasks = [run(request, flow, context) for request in requests]
    await waiting(flow, 1000)
    flow.finish()
    await asyncio.gather(*tasks)
    assert flow.wakes == 1
    assert all(request.forwarded == [True] for request in requests)
    assert context.held.total == 0 and context.held.of(flow.id) == 0
    assert flow.leases == []


async def test_a_held_request_keeps_the_flow_from_falling_asleep_until_it_is_forwarded() -> None:
    flow = FakeFlow()
    task = run(FakeRequest(target="/api?token=geheim", headers=CURL), flow, FakeRegistry(flow).context())
    await waiting(flow)
    assert [(lease.kind, lease.holder) for lease in flow.leases] == [("http", "GET /api from 192.0.2.1")]
    flow.finish()
    await task
    assert flow.leases == []


async def test_the_reason_of_a_wake_tells_no_query() -> None:
    flow = FakeFlow()
    task = run(FakeRequest(target="/api?token=geheim", headers=CURL), flow, FakeRegistry(flow).context())
    await waiting(flow)
    flow.finish()
    await task
    assert "geheim" not in str(flow.reasons)


async def test_a_request_to_a_flow_that_became_ready_meanwhile_is_forwarded_as_it_is() -> None:
    flow = FakeFlow()
    flow.be_ready()
    for headers in (CURL, BROWSER):
        request = await answer(FakeRequest(headers=headers), flow)
        assert request.forwarded == [False]
    assert flow.wakes == 0


async def test_a_client_that_leaves_cancels_nothing() -> None:
    flow = FakeFlow()
    context = FakeRegistry(flow).context()
    stays, leaves = FakeRequest(headers=CURL), FakeRequest(headers=CURL)
    staying, leaving = run(stays, flow, context), run(leaves, flow, context)
    await waiting(flow, 2)
    leaving.cancel()
    await asyncio.wait([leaving])
    assert context.held.of(flow.id) == 1 and len(flow.leases) == 1
    flow.finish()
    await staying
    assert stays.forwarded == [True] and leaves.forwarded == [] and flow.wakes == 1


async def test_a_flow_that_fell_asleep_again_before_forwarding_is_woken_again() -> None:
    flow = FakeFlow(asleep_again=2)
    request = FakeRequest(headers=CURL)
    task = run(request, flow, FakeRegistry(flow).context())
    for number in (1, 2, 3):
        await eventually(lambda number=number: flow.wakes == number and flow.joined == 1)
        flow.finish()
    await task
    assert request.forwarded == [True] and flow.wakes == 3


async def test_a_flow_that_never_stays_awake_is_given_up() -> None:
    flow = FakeFlow(asleep_again=100)
    request = FakeRequest(headers=CURL)
    task = run(request, flow, FakeRegistry(flow).context())
    for number in range(1, MAX_ATTEMPTS + 1):
        await eventually(lambda number=number: flow.wakes == number and flow.joined == 1)
        flow.finish()
    await task
    assert (request.status, request.json["code"]) == (503, "asleep")
    assert request.header("retry-after") == "4"


async def test_a_flow_that_refuses_the_connection_is_tried_again_with_the_whole_request() -> None:
    flow = FakeFlow()
    flow.be_ready()
    request = FakeRequest("POST", "/", CURL, refusals=[UpstreamRefused("no"), UpstreamRefused("no")])
    await answer(request, flow)
    assert request.forwarded == [False]


async def test_a_flow_that_always_refuses_is_answered_for() -> None:
    flow = FakeFlow()
    flow.be_ready()
    request = FakeRequest(headers=CURL, refusals=[UpstreamRefused("nobody listens")] * MAX_ATTEMPTS)
    await answer(request, flow)
    assert (request.status, request.json["code"], request.json["detail"]) == (503, "upstream_refused", "nobody listens")


async def test_a_flow_without_a_known_port_is_told_of() -> None:
    flow = FakeFlow(state="ready")
    request = await answer(FakeRequest(headers=CURL), flow)
    assert (request.status, request.json["code"]) == (502, "no_upstream")


# --- limits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "named"), [({"held_per_flow": 2}, "held_per_flow"), ({"held": 2, "held_per_flow": 9}, "held")]
)
async def test_more_than_may_wait_are_refused_at_once(limits: dict[str, int], named: str) -> None:
    flow = FakeFlow()
    context = FakeRegistry(flow).context(**limits)
    tasks = [run(FakeRequest(headers=CURL), flow, context) for _ in range(2)]
    await waiting(flow, 2)
    refused = await answer(FakeRequest(headers=CURL), flow, context)
    assert (refused.status, refused.header("retry-after")) == (503, "4")
    assert named in refused.json["detail"]
    flow.finish()
    await asyncio.gather(*tasks)
    assert context.held.total == 0


async def test_one_flows_crowd_leaves_room_for_another() -> None:
    busy, other = FakeFlow(), FakeFlow(id="bbbbbbbbbbbb", name="other")
    context = FakeRegistry(busy, other).context(held_per_flow=1)
    first, second = run(FakeRequest(headers=CURL), busy, context), run(FakeRequest(headers=CURL), other, context)
    await waiting(busy)
    await waiting(other)
    busy.finish()
    other.finish()
    await asyncio.gather(first, second)


# --- failures -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "code", "member"),
    [
        (StartFailed("it ended with exit code 3", exit_code=3), 503, "start_failed", ("exit_code", 3)),
        (DependencyFailed("db failed", dependency="db"), 503, "dependency_failed", ("dependency", "db")),
        (WakeTimeout("not ready", waited_for="tcp 80", timeout=9.0), 504, "wake_timeout", ("waited_for", "tcp 80")),
    ],
)
async def test_when_the_wake_fails_every_waiter_is_told_why(
    error: Exception, status: int, code: str, member: tuple[str, Any]
) -> None:
    flow = FakeFlow()
    context = FakeRegistry(flow).context()
    requests = [FakeRequest(headers=CURL) for _ in range(20)]
    tasks = [run(request, flow, context) for request in requests]
    await waiting(flow, 20)
    flow.finish(error)
    await asyncio.gather(*tasks)
    for request in requests:
        assert (request.status, request.json["code"]) == (status, code)
        assert request.json[member[0]] == member[1]
        assert request.header("content-type") == "application/problem+json"
        assert request.header("retry-after") == "4"
        assert request.header("x-flow-state") == "error"
    assert flow.wakes == 1 and flow.leases == []


@pytest.mark.parametrize("headers", [CURL, BROWSER])
@pytest.mark.parametrize("policy", [None, IdlePolicy()])
async def test_a_stopped_flow_says_so_and_isnt_woken(headers: list[tuple[str, str]], policy: IdlePolicy | None) -> None:
    flow = FakeFlow(desired="stopped", policy=policy)
    request = await answer(FakeRequest(headers=headers), flow)
    assert request.status == 503 and flow.wakes == 0
    assert "this flow is stopped" in request.text
    assert request.header("retry-after") is None


async def test_one_that_somebody_stops_while_requests_wait_says_so() -> None:
    flow = FakeFlow()
    request = FakeRequest(headers=CURL)
    task = run(request, flow, FakeRegistry(flow).context())
    await waiting(flow)
    flow.desired = "stopped"
    flow.finish(Conflict("somebody stopped it", desired="stopped"))
    await task
    assert (request.status, request.json["desired"]) == (503, "stopped")


async def test_a_flow_without_a_policy_isnt_woken_by_traffic() -> None:
    flow = FakeFlow(policy=None)
    request = await answer(FakeRequest(headers=CURL), flow)
    assert (request.status, flow.wakes) == (503, 0)
    assert "traffic doesn't wake it" in request.json["detail"]


async def test_a_flow_without_a_policy_that_somebody_starts_is_waited_for() -> None:
    flow = FakeFlow(policy=None)
    flow.begin_wake(reason="a person")
    request = FakeRequest(headers=CURL)
    task = run(request, flow, FakeRegistry(flow).context())
    await waiting(flow)
    flow.finish()
    await task
    assert request.forwarded == [True] and flow.wakes == 1


@pytest.mark.parametrize("error", [ContainerNotFound("web", kind="memory"), Conflict("delete came in between")])
async def test_a_flow_that_is_deleted_meanwhile_is_not_found(error: Exception) -> None:
    flow = FakeFlow()
    registry = FakeRegistry(flow)
    request = FakeRequest(headers=CURL)
    task = run(request, flow, registry.context())
    await waiting(flow)
    registry.clear()
    flow.finish(error)
    await task
    assert (request.status, request.json["code"]) == (404, "container_not_found")


async def test_a_flow_that_is_gone_is_never_woken_although_another_has_its_id() -> None:
    flow, successor = FakeFlow(), FakeFlow()
    request = await answer(FakeRequest(headers=CURL), flow, FakeRegistry(successor).context())
    assert request.status == 404 and flow.wakes == 0 and successor.wakes == 0


async def test_a_fault_of_ours_is_not_hidden() -> None:
    flow = FakeFlow()
    request = FakeRequest(headers=CURL)
    task = run(request, flow, FakeRegistry(flow).context())
    await waiting(flow)
    flow.finish(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        await task
    assert flow.leases == [] and not request.answered


# --- never waking -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_of", "policy"),
    [
        (("GET", "/favicon.ico", BROWSER), IdlePolicy()),
        (("GET", "/", [*BROWSER, ("Sec-Purpose", "prefetch;prerender")]), IdlePolicy()),
        (("HEAD", "/", [("User-Agent", "UptimeRobot/2")]), IdlePolicy(probes=[Probe(user_agent="uptimerobot")])),
        (("GET", "/healthz", CURL), IdlePolicy(probes=[Probe(path="/healthz")])),
        (("GET", "/other", CURL), IdlePolicy(start_endpoint="/start")),
    ],
)
async def test_some_requests_get_the_truth_and_never_wake(request_of: tuple[Any, ...], policy: IdlePolicy) -> None:
    flow = FakeFlow(policy=policy)
    request = await answer(FakeRequest(*request_of), flow)
    assert request.status == 503
    assert request.header("x-flow-state") == "napping"
    assert request.header("retry-after") == "4"
    assert request.header("content-type") == "application/problem+json"
    assert request.json["flow_state"] == "napping"
    assert flow.wakes == 0 and flow.leases == [] and flow.reasons == []


async def test_a_probe_of_a_flow_that_starts_doesnt_wait() -> None:
    flow = FakeFlow(policy=IdlePolicy(probes=[Probe(path="/healthz")]))
    flow.begin_wake(reason="somebody else")
    request = await answer(FakeRequest("GET", "/healthz", CURL), flow)
    assert (request.status, request.header("x-flow-state")) == (503, "starting")


async def test_other_paths_than_the_start_endpoint_wait_once_it_starts() -> None:
    flow = FakeFlow(policy=IdlePolicy(start_endpoint="/start"))
    context = FakeRegistry(flow).context()
    first = run(FakeRequest(target="/start", headers=CURL), flow, context)
    await waiting(flow)
    other = FakeRequest(target="/other", headers=CURL)
    second = run(other, flow, context)
    await waiting(flow, 2)
    flow.finish()
    await asyncio.gather(first, second)
    assert other.forwarded == [True]


async def test_a_person_at_another_path_than_the_start_endpoint_reads_a_page() -> None:
    flow = FakeFlow(policy=IdlePolicy(start_endpoint="/start"))
    request = await answer(FakeRequest(target="/other", headers=BROWSER), flow)
    assert request.status == 503 and "requests for /start wake it" in request.text
    assert str(request.header("content-type")).startswith("text/html")
    assert flow.wakes == 0


# --- the page -----------------------------------------------------------------------------------------------------------


async def test_a_browser_gets_the_page_before_the_start_is_called() -> None:
    flow = FakeFlow()
    request = FakeRequest(headers=BROWSER)
    seen: list[bool] = []
    flow.on_begin = lambda: seen.append(request.ended)
    await answer(request, flow)
    assert seen == [True]
    assert request.status == 200
    assert request.header("cache-control") == "no-store"
    assert flow.wakes == 1


async def test_a_browser_that_comes_after_a_failure_sees_a_new_attempt() -> None:
    flow = FakeFlow()
    flow.begin_wake(reason="x")
    flow.finish(StartFailed("exit code 3"))
    request = await answer(FakeRequest(headers=BROWSER), flow)
    assert request.status == 200 and 'data-mode="waking"' in request.text and flow.wakes == 2
    assert "exit code 3" not in request.text


async def test_a_browser_that_comes_while_the_flow_is_held_back_reads_why() -> None:
    failure = StartFailed("exit code 3", exit_code=3, retry_after=8)
    flow = FakeFlow(state="error", error="exit code 3", held_back=failure)
    context = FakeRegistry(flow).context(logs=lambda _: ["no such file"])
    request = await answer(FakeRequest(target="/x", headers=BROWSER), flow, context)
    assert request.status == 503 and request.header("retry-after") == "8"
    assert 'data-mode="failed"' in request.text
    assert "exit code 3" in request.text and "no such file" in request.text and "Try again" in request.text


async def test_a_program_that_comes_while_the_flow_is_held_back_is_told_why() -> None:
    flow = FakeFlow(state="error", held_back=StartFailed("exit code 3", exit_code=3, retry_after=8))
    request = await answer(FakeRequest(headers=CURL), flow)
    assert (request.status, request.json["exit_code"], request.header("retry-after")) == (503, 3, "8")


async def test_a_wake_that_is_refused_just_after_the_page_leaves_the_page() -> None:
    flow = FakeFlow(held_back=Conflict("somebody stopped it", desired="stopped"))
    request = await answer(FakeRequest(headers=BROWSER), flow)
    assert request.status == 200 and 'data-mode="waking"' in request.text


async def test_a_page_is_not_held_and_needs_no_place_among_them() -> None:
    flow = FakeFlow()
    context = FakeRegistry(flow).context(held_per_flow=1)
    for _ in range(5):
        assert (await answer(FakeRequest(headers=BROWSER), flow, context)).status == 200
    assert flow.wakes == 1 and context.held.total == 0


async def test_a_policy_without_a_page_holds_the_browser_too() -> None:
    flow = FakeFlow(policy=IdlePolicy(no_loading_page=True))
    request = FakeRequest(headers=BROWSER)
    task = run(request, flow, FakeRegistry(flow).context())
    await waiting(flow)
    flow.finish()
    await task
    assert request.forwarded == [True]


async def test_a_websocket_is_held() -> None:
    flow = FakeFlow()
    request = FakeRequest(headers=[*BROWSER, ("Connection", "Upgrade"), ("Upgrade", "websocket")])
    task = run(request, flow, FakeRegistry(flow).context())
    await waiting(flow)
    flow.finish()
    await task
    assert request.forwarded == [True]
