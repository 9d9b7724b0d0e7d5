from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable

import pytest

from flow_manager.activity.log import FlowRef, UserActivityLogger
from flow_manager.activity.redact import MASK
from flow_manager.activity.stream import ActivityStream
from flow_manager.contract.activity import Activity
from flow_manager.errors import Conflict
from flow_manager.store.base import StoredActivity
from flow_manager.testing.clock import FakeClock

FLOW = FlowRef("aaaaaaaaaaaa", "reports", "acme")
Call = Callable[[UserActivityLogger], Awaitable[StoredActivity]]


@pytest.fixture
def log(stream: ActivityStream) -> UserActivityLogger:
    return UserActivityLogger(stream, FakeClock())


CASES: list[tuple[Call, str, str, str]] = [
    (lambda log: log.log_container_created(FLOW, "alice", image="alpine:3"), "container_created", "alice",
     "alice created flow *reports* from image alpine:3"),
    (lambda log: log.log_container_created(FLOW, "alice"), "container_created", "alice", "alice created flow *reports*"),
    (lambda log: log.log_container_started(FLOW, "alice"), "container_started", "alice", "alice started flow *reports*"),
    (lambda log: log.log_container_started(FLOW, "manager"), "container_started", "manager", "flow *reports* started"),
    (lambda log: log.log_container_stopped(FLOW, "alice", 0), "container_stopped", "alice",
     "alice stopped flow *reports* with exit code 0"),
    (lambda log: log.log_container_stopped(FLOW, "runtime"), "container_stopped", "runtime", "flow *reports* stopped"),
    (lambda log: log.log_container_killed(FLOW, "alice"), "container_killed", "alice", "alice killed flow *reports*"),
    (lambda log: log.log_container_killed(FLOW, "alice", "SIGHUP"), "container_killed", "alice",
     "alice sent SIGHUP to flow *reports*"),
    (lambda log: log.log_container_paused(FLOW, "runtime"), "container_paused", "runtime", "flow *reports* was paused"),
    (lambda log: log.log_container_unpaused(FLOW, "alice"), "container_unpaused", "alice", "alice resumed flow *reports*"),
    (lambda log: log.log_container_restarted(FLOW, "alice"), "container_restarted", "alice",
     "alice restarted flow *reports*"),
    (lambda log: log.log_container_deleted(FLOW, "manager"), "container_deleted", "manager",
     "flow *reports* was deleted"),
    (lambda log: log.log_container_died(FLOW, 3), "container_died", "runtime",
     "flow *reports* ended by itself with exit code 3"),
    (lambda log: log.log_container_died(FLOW, 137), "container_died", "runtime",
     "flow *reports* ended by itself with exit code 137 (SIGKILL)"),
    (lambda log: log.log_container_died(FLOW, 137, "oom"), "container_died", "runtime",
     "flow *reports* ran out of memory and was killed"),
    (lambda log: log.log_container_died(FLOW, 0, "stop"), "container_died", "runtime",
     "flow *reports* was stopped outside the manager with exit code 0"),
    (lambda log: log.log_container_adopted(FLOW), "container_adopted", "manager",
     "flow *reports* was found and is managed now"),
    (lambda log: log.log_container_released(FLOW, "alice"), "container_released", "alice",
     "alice released flow *reports*: it goes on, but is not managed any more"),
    (lambda log: log.log_container_lost(FLOW), "container_lost", "runtime",
     "flow *reports* is gone: its container was removed by someone else"),
    (lambda log: log.log_image_pulling(FLOW, "alice", "pulling alpine:3: 40 %"), "image_pulling", "alice",
     "flow *reports*: pulling alpine:3: 40 %"),
    (lambda log: log.log_container_message(FLOW, {"text": "row {n}\nof 3"}), "container_message", "flow",
     "flow *reports* says: row {n} of 3"),
    (lambda log: log.log_container_message(FLOW, {"n": 1, "password": "x"}), "container_message", "flow",
     f'flow *reports* says: {{"n":1,"password":"{MASK}"}}'),
    (lambda log: log.log_container_message(FLOW, {"text": "x", "more": "y" * 100_000}), "container_message", "flow",
     "flow *reports* says: (100022 bytes)"),
    (lambda log: log.log_actor_event(FLOW, "parser", "done", {"rows": 3}), "actor_event", "flow",
     "flow *reports*: parser: done"),
    (lambda log: log.log_exec(FLOW, "alice", "ls /", command=["ls", "/"], duration=0.1, exit_code=2), "exec", "alice",
     "alice ran `ls /` in flow *reports*: exit code 2"),
    (lambda log: log.log_exec(FLOW, "alice", "ls", command=["ls"], duration=0.1, error=Conflict("busy")), "exec", "alice",
     "alice ran `ls` in flow *reports*: busy"),
    (lambda log: log.log_exec(FLOW, "alice", "ls", command=["ls"], duration=0.1), "exec", "alice",
     "alice ran `ls` in flow *reports*: it was ended with the service"),
    (lambda log: log.log_container_updated(FLOW, "alice", code_path="/src"), "container_updated", "alice",
     "alice updated the code of flow *reports*"),
    (lambda log: log.log_container_rolled_back(FLOW, "alice"), "container_rolled_back", "alice",
     "alice took flow *reports* back to its older code"),
    (lambda log: log.log_container_rolled_back(FLOW, "alice", "exit code 3"), "container_rolled_back", "alice",
     "the new code of flow *reports* failed, the old one is back: exit code 3"),
    (lambda log: log.log_terminal_opened(FLOW, "alice", "shell"), "terminal_opened", "alice",
     "alice opened a terminal in flow *reports*"),
    (lambda log: log.log_terminal_opened(FLOW, "alice", "main"), "terminal_opened", "alice",
     "alice opened the terminal of flow *reports*"),
    (lambda log: log.log_terminal_closed(FLOW, "alice", 130), "terminal_closed", "alice",
     "alice's terminal in flow *reports* ended with exit code 130 (SIGINT)"),
    (lambda log: log.log_operation_failed(FLOW, "alice", "start_container", Conflict("a stop is under way")),
     "operation_failed", "alice", "start container of flow *reports* failed: a stop is under way"),
    (lambda log: log.log_operation_recovered(FLOW, "create"), "operation_recovered", "manager",
     "create of flow *reports*, begun before a restart, was brought to its end"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "actor", "message"), CASES)
async def test_each_entry_is_worded_for_people(
    log: UserActivityLogger, call: Call, kind: str, actor: str, message: str
) -> None:
    stored = await call(log)
    entry = stored.entry
    assert (entry.type, entry.actor, entry.message) == (kind, actor, message)
    assert (stored.tenant, entry.container_id, entry.name) == ("acme", "aaaaaaaaaaaa", "reports")
    assert Activity.model_validate(entry.model_dump()) == entry  # what clients are promised


async def test_runtimes_are_told_of_without_a_flow(log: UserActivityLogger) -> None:
    away = await log.log_runtime_unavailable("docker", "connection refused")
    back = await log.log_runtime_available("docker", tenant="acme")
    assert (away.tenant, away.entry.type, away.entry.message) == (
        "default", "runtime_unavailable", "runtime docker does not answer: connection refused",
    )  # fmt: skip
    assert (back.tenant, back.entry.type, back.entry.container_id) == ("acme", "runtime_available", None)


async def test_details_carry_what_programs_need_and_no_nulls(log: UserActivityLogger) -> None:
    died = await log.log_container_died(FLOW, 3)
    assert died.entry.details == {"exit_code": 3}
    failed = await log.log_operation_failed(FLOW, "alice", "stop", Conflict("busy"))
    assert failed.entry.details == {"operation": "stop", "code": "conflict", "error_type": "state_error"}
    said = await log.log_container_message(FLOW, {"a": [1]})
    assert said.entry.details == {"message": {"a": [1]}}
    acted = await log.log_actor_event(FLOW, "parser", "done", {"rows": 3})
    assert acted.entry.details == {"actor": "parser", "event": "done", "details": {"rows": 3}}


async def test_a_flows_words_neither_break_the_line_nor_steer_a_terminal(log: UserActivityLogger) -> None:
    stored = await log.log_actor_event(FLOW, "a\x1b[2J", "b\nflow *other* started")
    assert "\n" not in stored.entry.message and "\x1b" not in stored.entry.message


async def test_a_secret_at_the_excerpts_end_leaves_no_half(log: UserActivityLogger, stream: ActivityStream) -> None:
    stream.masker.add_secret("supersecretvalue")
    stored = await log.log_container_message(FLOW, {"text": "x" * 190 + "supersecretvalue" + "y" * 500})
    assert "super" not in stored.entry.message


async def test_entries_carry_the_clocks_time(log: UserActivityLogger) -> None:
    assert (await log.log_container_started(FLOW, "alice")).entry.timestamp == FakeClock().now()


def test_every_word_has_its_case() -> None:
    methods = {
        name for name, _ in inspect.getmembers(UserActivityLogger, inspect.isfunction) if name.startswith("log_")
    }
    words = {f"log_{kind}" for _, kind, _, _ in CASES}
    assert methods - words == {"log_runtime_unavailable", "log_runtime_available", "log_user_activity"}
