"""`/.flow/status`, and the other reserved paths."""

from __future__ import annotations

from typing import Any

import pytest

from flow_manager.contract.models import IdlePolicy
from flow_manager.errors import StartFailed
from flow_manager.proxy.hold import asked_of, slow_path
from flow_manager.proxy.reserved import is_own_page
from flow_manager.proxy.status import status_of
from tests.unit.proxy.slow_fakes import FakeFlow, FakeRegistry, FakeRequest

BROWSER = [("Accept", "text/html"), ("User-Agent", "Mozilla/5.0")]


async def answer(request: FakeRequest, flow: FakeFlow, **context: Any) -> FakeRequest:
    await slow_path(request, flow, FakeRegistry(flow).context(**context))  # type: ignore[arg-type]
    return request


async def test_the_status_tells_how_a_flow_is_without_touching_it() -> None:
    flow = FakeFlow()
    request = await answer(FakeRequest(target="/.flow/status"), flow)
    assert request.status == 200 and request.header("content-type") == "application/json"
    assert request.header("cache-control") == "no-store" and request.header("x-flow-state") == "napping"
    assert request.json == {
        "container_id": "aaaaaaaaaaaa",
        "name": "web",
        "flow_state": "napping",
        "desired": "running",
        "ready": False,
        "wakes_on_request": True,
        "last_ready": None,
        "expected_start": 4.0,
        "retry_after": 4,
        "last_event_id": None,
        "error": None,
    }
    assert flow.wakes == 0 and flow.leases == []


async def test_the_status_of_a_ready_flow_is_answered_and_not_forwarded() -> None:
    flow = FakeFlow()
    flow.be_ready()
    request = await answer(FakeRequest(target="/.flow/status"), flow)
    assert request.json["ready"] is True and request.json["retry_after"] is None
    assert request.json["last_ready"] == "2026-01-01T00:00:00.000Z"
    assert request.forwarded == [] and flow.leases == []


async def test_the_status_of_a_failed_flow_says_why() -> None:
    flow = FakeFlow()
    flow.begin_wake(reason="x")
    flow.finish(StartFailed("exit code 3\r\nand more"))
    told = status_of(flow, frank=True)  # type: ignore[arg-type]
    assert (told["flow_state"], told["error"]) == ("error", "exit code 3  and more")
    assert told["last_event_id"] == flow.history.entries()[-1].id


@pytest.mark.parametrize(("policy", "desired", "wakes"), [(None, "running", False), (IdlePolicy(), "stopped", False)])
async def test_the_status_says_whether_a_request_would_wake_it(policy: Any, desired: Any, wakes: bool) -> None:
    assert status_of(FakeFlow(policy=policy, desired=desired))["wakes_on_request"] is wakes  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("HEAD", "/.flow/status", 200),
        ("POST", "/.flow/status", 405),
        ("GET", "/.flow/wake", 405),
        ("DELETE", "/.flow/wake-events", 405),
        ("GET", "/.flow/", 404),
        ("GET", "/.flow", 404),
        ("GET", "/.flow/status/x", 404),
        ("GET", "/.flow/../etc/passwd", 404),
        ("GET", "/.flow/STATUS", 404),
    ],
)
@pytest.mark.parametrize("ready", [False, True])
async def test_reserved_paths_are_always_answered_here(method: str, target: str, status: int, ready: bool) -> None:
    flow = FakeFlow()
    if ready:
        flow.be_ready()
    request = await answer(FakeRequest(method, target), flow)
    assert request.status == status and request.forwarded == [] and flow.wakes == 0
    assert (request.header("allow") is not None) is (status == 405)


# --- wake ---------------------------------------------------------------------------------------------------------------


async def test_a_retry_of_the_page_wakes_and_says_from_which_event_on_to_listen() -> None:
    flow = FakeFlow()
    flow.begin_wake(reason="x")
    flow.finish(StartFailed("exit code 3"))
    newest = flow.history.entries()[-1].id
    request = await answer(FakeRequest("POST", "/.flow/wake", [("Sec-Fetch-Site", "same-origin")]), flow)
    assert request.status == 202 and request.json["last_event_id"] == newest
    assert flow.wakes == 2 and flow.state == "starting"


async def test_a_retry_without_a_program_leads_to_the_page_that_waits() -> None:
    flow = FakeFlow()
    headers = [*BROWSER, ("Origin", "http://web.localhost"), ("Sec-Fetch-Mode", "navigate")]
    request = await answer(FakeRequest("POST", "/.flow/wake?to=%2Fa%3Fb", headers), flow)
    assert (request.status, request.header("location")) == (303, "/.flow/wait?to=%2Fa%3Fb")
    assert flow.wakes == 1


FOREIGN = [
    [("Sec-Fetch-Site", "cross-site")],
    [("Sec-Fetch-Site", "same-site")],
    [("Origin", "http://evil.example")],
    [("Origin", "http://other.localhost")],
    [("Origin", "null")],
    [("Origin", "http://web.localhost:81")],
    [("Origin", "http://web.localhost"), ("Origin", "http://evil.example")],
    [("Origin", "http://web.localhost"), ("Sec-Fetch-Site", "cross-site")],
]


@pytest.mark.parametrize("headers", FOREIGN)
async def test_a_foreign_page_wakes_nothing(headers: list[tuple[str, str]]) -> None:
    flow = FakeFlow()
    request = await answer(FakeRequest("POST", "/.flow/wake", headers), flow)
    assert (request.status, request.json["code"], flow.wakes) == (403, "forbidden", 0)


@pytest.mark.parametrize(
    ("host", "headers"),
    [
        ("web.localhost", []),
        ("web.localhost:8081", [("Origin", "http://web.localhost:8081")]),
        ("WEB.localhost", [("Origin", "http://web.localhost"), ("Sec-Fetch-Site", "same-origin")]),
        ("web.example", [("Origin", "https://web.example")]),
    ],
)
def test_the_flows_own_page_and_plain_programs_may_wake_it(host: str, headers: list[tuple[str, str]]) -> None:
    request = FakeRequest("POST", "/.flow/wake", headers, host=host)
    assert is_own_page(asked_of(request))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("flow", "code"),
    [
        (FakeFlow(desired="stopped"), "container_stopped"),
        (FakeFlow(policy=None), "container_stopped"),
        (FakeFlow(policy=IdlePolicy(start_endpoint="/start")), "asleep"),
    ],
)
async def test_a_retry_wakes_no_more_than_a_request_would(flow: FakeFlow, code: str) -> None:
    request = await answer(FakeRequest("POST", "/.flow/wake"), flow)
    assert (request.status, request.json["code"], flow.wakes) == (503, code, 0)


async def test_a_retry_of_what_failed_is_allowed_with_a_start_endpoint_too() -> None:
    flow = FakeFlow(policy=IdlePolicy(start_endpoint="/start"), state="error")
    assert (await answer(FakeRequest("POST", "/.flow/wake"), flow)).status == 202
    assert flow.wakes == 1


async def test_a_retry_while_the_flow_is_held_back_says_until_when() -> None:
    failure = StartFailed("exit code 3", retry_after=8)
    program = await answer(FakeRequest("POST", "/.flow/wake"), FakeFlow(state="error", held_back=failure))
    assert (program.status, program.json["retry_after"], program.json["detail"]) == (503, 8, "exit code 3")
    person = await answer(FakeRequest("POST", "/.flow/wake?to=/x", BROWSER), FakeFlow(state="error", held_back=failure))
    assert (person.status, person.header("location")) == (303, "/.flow/wait?to=%2Fx")


# --- wait ---------------------------------------------------------------------------------------------------------------


async def test_the_waiting_page_never_wakes_so_that_an_open_tab_starts_nothing() -> None:
    flow = FakeFlow()
    request = await answer(FakeRequest(target="/.flow/wait?to=%2Fx", headers=BROWSER), flow)
    assert request.status == 200 and flow.wakes == 0
    assert 'data-mode="asleep"' in request.text and "http-equiv" not in request.text
    assert "Wake it" in request.text


async def test_the_waiting_page_looks_again_while_the_flow_starts() -> None:
    flow = FakeFlow()
    flow.begin_wake(reason="x")
    request = await answer(FakeRequest(target="/.flow/wait?to=%2Fx%3Fy", headers=BROWSER), flow)
    assert "url=/.flow/wait?to=%2Fx%3Fy" in request.text and "starting web" in request.text


async def test_the_waiting_page_goes_where_the_person_wanted_once_it_is_ready() -> None:
    flow = FakeFlow()
    flow.be_ready()
    request = await answer(FakeRequest(target="/.flow/wait?to=%2Fx%3Fy%3D1", headers=BROWSER), flow)
    assert (request.status, request.header("location")) == (303, "/x?y=1")


@pytest.mark.parametrize("to", ["//evil.example", "https:%2F%2Fevil.example", "%2F%5Cevil", "/%0d%0aSet-Cookie:%20x=1"])
async def test_the_waiting_page_leads_nowhere_else(to: str) -> None:
    flow = FakeFlow()
    flow.be_ready()
    request = await answer(FakeRequest(target=f"/.flow/wait?to={to}", headers=BROWSER), flow)
    assert (request.status, request.header("location")) == (303, "/")


async def test_the_waiting_page_of_a_failed_flow_says_why_with_its_last_lines() -> None:
    flow = FakeFlow()
    flow.begin_wake(reason="x")
    flow.finish(StartFailed("exit code 3"))
    request = await answer(FakeRequest(target="/.flow/wait", headers=BROWSER), flow, logs=lambda _: ["no such file"])
    assert "exit code 3" in request.text and "no such file" in request.text
    assert "http-equiv" not in request.text


async def test_the_waiting_page_of_a_stopped_flow_says_so() -> None:
    request = await answer(FakeRequest(target="/.flow/wait", headers=BROWSER), FakeFlow(desired="stopped"))
    assert 'data-mode="refused"' in request.text and "It is stopped." in request.text


# --- logs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("show_logs", "open_mode", "allowed"),
    [(None, True, True), (None, False, False), (True, False, True), (False, True, False)],
)
async def test_log_lines_are_shown_only_where_allowed(show_logs: bool | None, open_mode: bool, allowed: bool) -> None:
    flow = FakeFlow(state="error", error="exit code 3")

    async def logs(flow_id: str) -> list[str]:
        return [f"{flow_id}: secret line {number}" for number in range(100)]

    options: dict[str, Any] = {"logs": logs, "show_logs": show_logs, "open_mode": open_mode}
    asked = await answer(FakeRequest(target="/.flow/logs"), flow, **options)
    page = await answer(FakeRequest(target="/.flow/wait", headers=BROWSER), flow, **options)
    if allowed:
        assert asked.json["lines"] == [f"aaaaaaaaaaaa: secret line {number}" for number in range(80, 100)]
        assert "secret line 99" in page.text
    else:
        assert (asked.status, asked.json["code"]) == (403, "not_allowed")
        assert "secret" not in asked.text + page.text


async def test_lines_that_cant_be_read_are_no_lines() -> None:
    def logs(flow_id: str) -> list[str]:
        raise OSError("gone")

    request = await answer(FakeRequest(target="/.flow/logs"), FakeFlow(state="error"), logs=logs)
    assert (request.status, request.json) == (200, {"lines": []})
