"""Random interleavings of everything that can happen to two flows, one of which needs the other.

Whatever the order: never two starts at once, never a forward into a flow that is being stopped, every waiter answered, no
lease left, and once all news has arrived nothing is called ready that doesn't run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from flow_manager.contract import requests
from flow_manager.contract.models import IdlePolicy
from flow_manager.contract.principal import LOCAL
from flow_manager.errors import FlowManagerError, RuntimeUnavailable, StartFailed, StopFailed
from flow_manager.idle.readiness_target import NotReady, ProbeTarget
from flow_manager.idle.upstream import Candidate
from flow_manager.idle.watcher import Watcher
from tests.conftest import EXPLORE
from tests.unit.idle.house import UPSTREAM, FakeProber, IdleBuilder, IdleHouse

EXPLORING = os.environ.get(EXPLORE) == "1"
FLOWS = st.sampled_from(["web", "db"])
TURNS = st.integers(0, 40)
WEB = IdlePolicy.model_validate({"idle_timeout": 60, "depends_on": [{"container": "db", "condition": "healthy"}]})


class Truthful(FakeProber):
    """Passes when the flow runs, in one of the next turns of the loop."""

    engine: Any = None

    async def wait_ready(
        self, target: ProbeTarget, *, deadline: float, told: Callable[[str], None]
    ) -> Candidate | None:
        told("running")
        for _ in range(5):
            if target.ended() or self.engine.flows[target.flow_id].state != "running":
                raise NotReady("running", "it does not run", reason="exited")
            await asyncio.sleep(0)
        return UPSTREAM


class Watching(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.builder = self.run(self._make())
        self.opened = self.builder.open(idle={"linger": 5})
        self.house: IdleHouse = self.run(self.opened.__aenter__())
        self.house.prober.__class__ = Truthful
        self.house.prober.engine = self.house.runtime.engine  # type: ignore[attr-defined]
        self.calls: dict[tuple[str, str], int] = {}
        self.problems: list[str] = []
        # Flows to which something happened from outside since all news last arrived: a forward may meet their end.
        self.disturbed: set[str] = set()
        self.pending: list[asyncio.Task[Any]] = []
        self._count_calls()
        # What the service's log would call a fault of its own is one, though everybody was answered.
        self.house.core.log.log_error = self._fault  # type: ignore[method-assign]
        db = self.run(self.house.create("db", idle={"idle_timeout": 20}))
        web = self.run(self.house.create("web", idle=WEB.model_dump(mode="json")))
        self.flows: dict[str, Watcher] = {"web": web, "db": db}
        self.run(web.wake(reason="the beginning"))

    def _fault(self, error_id: str, error: BaseException, **context: Any) -> None:
        if EXPLORING:
            self.problems.append(f"a fault: {error!r} {context}")

    async def _make(self) -> IdleBuilder:
        return IdleBuilder()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def _count_calls(self) -> None:
        runtime = self.house.runtime
        for name in ("start", "stop", "kill", "pause"):
            self._count(runtime, name)

    def _count(self, runtime: Any, name: str) -> None:
        original = getattr(runtime, name)

        async def counted(id: str, *args: Any, **more: Any) -> Any:
            busy = [call for (flow, call), count in self.calls.items() if flow == id and count]
            if busy:
                self.problems.append(f"{name} while {busy} is under way")
            self.calls[id, name] = self.calls.get((id, name), 0) + 1
            try:
                return await original(id, *args, **more)
            finally:
                self.calls[id, name] -= 1

        setattr(runtime, name, counted)

    def go(self, work: Coroutine[Any, Any, Any], turns: int) -> None:
        """Begin it, and let the loop turn a while; it ends when it ends."""

        async def begin() -> None:
            self.pending.append(asyncio.get_running_loop().create_task(self._answered(work)))
            await self._turns(turns)

        self.run(begin())

    async def _answered(self, work: Coroutine[Any, Any, Any]) -> None:
        with contextlib.suppress(FlowManagerError):
            await work

    async def _turns(self, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)

    async def _request(self, watcher: Watcher, turns: int) -> None:
        flow = self.house.runtime.engine.flows[watcher.id]
        while True:
            if watcher.ready_now():
                lease = watcher.use("http", "client")
                try:
                    for _ in range(turns + 1):
                        if flow.state != "running" and watcher.id not in self.disturbed:
                            self.problems.append(f"a forward into {watcher.name}, which is {flow.state}")
                        await asyncio.sleep(0)
                finally:
                    lease.release()
                return
            await watcher.wake(reason="a request")

    # --- what clients do ----------------------------------------------------------------------------------------------

    @rule(name=FLOWS, length=TURNS, turns=TURNS)
    def a_request_comes(self, name: str, length: int, turns: int) -> None:
        self.go(self._request(self.flows[name], length), turns)

    @rule(name=FLOWS, turns=TURNS)
    def a_person_wakes_it(self, name: str, turns: int) -> None:
        self.go(self.house.registry.wake_container(LOCAL, requests.WakeContainer(container_id=name)), turns)

    @rule(turns=TURNS)
    def a_client_leaves(self, turns: int) -> None:
        async def leave() -> None:
            waiting = [task for task in self.pending if not task.done()]
            if waiting:
                waiting[len(waiting) // 2].cancel()
            await self._turns(turns)

        self.run(leave())

    @rule(
        name=FLOWS,
        turns=TURNS,
        verb=st.sampled_from(["start", "stop", "restart", "pause", "unpause", "kill", "sleep"]),
    )
    def a_client_acts(self, name: str, turns: int, verb: str) -> None:
        manager, registry = self.house.manager, self.house.registry
        watcher = self.flows[name]
        self.disturbed.add(watcher.id)  # an order of a person's ends requests, that is its meaning
        work: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
            "start": lambda: manager.start_container(LOCAL, requests.StartContainer(container_id=name)),
            "stop": lambda: manager.stop_container(LOCAL, requests.StopContainer(container_id=name)),
            "restart": lambda: manager.restart_container(LOCAL, requests.RestartContainer(container_id=name)),
            "pause": lambda: manager.pause_container(LOCAL, requests.ChangeContainer(container_id=name)),
            "unpause": lambda: manager.unpause_container(LOCAL, requests.ChangeContainer(container_id=name)),
            "kill": lambda: manager.kill_container(LOCAL, requests.KillContainer(container_id=name)),
            "sleep": lambda: registry.sleep_container(LOCAL, requests.ChangeContainer(container_id=name)),
        }
        self.go(work[verb](), turns)

    @rule(name=FLOWS, timeout=st.sampled_from([0, 1, 60]), turns=TURNS)
    def a_client_changes_the_policy(self, name: str, timeout: float, turns: int) -> None:
        watcher = self.flows[name]
        assert watcher.policy is not None
        policy = watcher.policy.model_copy(update={"idle_timeout": timeout})
        self.go(
            self.house.registry.set_idle_policy(LOCAL, requests.SetIdlePolicy(container_id=name, idle=policy)), turns
        )

    # --- what happens outside -----------------------------------------------------------------------------------------

    @rule(
        name=FLOWS,
        turns=TURNS,
        end=st.sampled_from([(0, "exit"), (1, "exit"), (137, "stop"), (137, "oom"), (137, None)]),
    )
    def it_ends_outside(self, name: str, turns: int, end: tuple[int, str | None]) -> None:
        async def end_it() -> None:
            self.disturbed.add(self.flows[name].id)
            self.house.runtime.engine.flows[self.flows[name].id].die(end[0], cause=end[1])  # type: ignore[arg-type]
            await self._turns(turns)

        self.run(end_it())

    @rule(name=FLOWS, turns=TURNS, what=st.sampled_from(["start", "pause", "unpause"]))
    def somebody_acts_outside(self, name: str, turns: int, what: str) -> None:
        async def act() -> None:
            flow = self.house.runtime.engine.flows[self.flows[name].id]
            self.disturbed.add(flow.spec.id)
            if what == "start" and not flow.running:
                flow.start()
            elif what == "pause":
                flow.pause()
            elif what == "unpause":
                flow.unpause()
            await self._turns(turns)

        self.run(act())

    @rule(count=st.integers(1, 3), twice=st.booleans())
    def news_is_lost_or_told_twice(self, count: int, twice: bool) -> None:
        if twice:
            self.house.faults.duplicate_events(count)
        else:
            self.disturbed |= {watcher.id for watcher in self.flows.values()}
            self.house.faults.lose_events(count)

    @rule(call=st.sampled_from(["start", "stop", "kill", "inspect"]), seconds=st.sampled_from([0.0, 1.0, 3.0]))
    def a_call_fails_or_is_late(self, call: str, seconds: float) -> None:
        errors: dict[str, Exception] = {
            "start": StartFailed("no"),
            "stop": StopFailed("no"),
            "kill": StopFailed("no"),
            "inspect": RuntimeUnavailable("no", kind="memory"),
        }
        if seconds:
            self.house.faults.delay(call, seconds)
        else:
            self.house.faults.fail(call, errors[call])

    @rule(name=FLOWS, times=st.integers(1, 3), turns=TURNS)
    def its_stop_fails(self, name: str, times: int, turns: int) -> None:
        watcher = self.flows[name]
        self.disturbed.add(watcher.id)
        self.house.faults.fail("stop", StopFailed("no"))
        self.house.faults.fail("kill", StopFailed("no"), times=times)
        self.go(self.house.manager.stop_container(LOCAL, requests.StopContainer(container_id=name)), turns)

    @rule(turns=TURNS)
    def the_engine_goes_away_and_comes_back(self, turns: int) -> None:
        async def blink() -> None:
            self.disturbed |= {watcher.id for watcher in self.flows.values()}
            self.house.faults.go_away()
            await self._turns(turns)
            self.house.faults.come_back()
            await self._turns(turns)

        self.run(blink())

    @rule(seconds=st.sampled_from([0.3, 1.0, 5.0, 20.0, 70.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        self.run(self.house.clock.run(seconds))

    # --- what holds ---------------------------------------------------------------------------------------------------

    @invariant()
    def nothing_forbidden_was_seen(self) -> None:
        assert self.problems == []

    @invariant()
    def an_upstream_is_known_only_while_ready(self) -> None:
        for watcher in self.flows.values():
            assert (watcher.upstream is None) or watcher.state == "ready"
            assert watcher.attempt is None or watcher.state != "ready"

    @invariant()
    def a_wake_under_way_is_worked_on(self) -> None:
        for watcher in self.flows.values():
            attempt = watcher.attempt
            assert attempt is None or (attempt.task is not None and not attempt.task.done()), watcher

    @rule()
    def all_news_arrives(self) -> None:
        """Nothing more goes wrong, and time passes: everybody is answered, and the states are true."""
        self.run(self._settle())
        for watcher in self.flows.values():
            flow = self.house.runtime.engine.flows[watcher.id]
            seen = (watcher.name, watcher.state, flow.state)
            assert watcher.state != "ready" or flow.state == "running", seen
            assert watcher.state not in ("starting", "stopping"), seen
            assert watcher.state != "napping" or flow.state != "running", seen
            assert watcher.leases.of_kind("http") == []
            held = watcher.leases.of_kind("dependent")
            assert watcher.name == "db" or held == []
            assert len(held) <= 1
        self.disturbed.clear()

    async def _settle(self) -> None:
        faults = self.house.faults
        faults._waiting.clear()
        faults._events.clear()
        for _ in range(12):
            faults.go_away()
            await self._turns(3)
            faults.come_back()
            await self._turns(100)
            await asyncio.sleep(0.002)
            await self.house.clock.run(7)
            if not [task for task in self.pending if not task.done()] and not self._under_way():
                break
        for _ in range(1500):
            if not [task for task in self.pending if not task.done()] and not self._under_way():
                break
            await asyncio.sleep(0.002)
            await self.house.clock.run(1)
        else:
            raise AssertionError(f"it does not come to an end: {self._what_is_left()}")
        for task in self.pending:
            if not task.cancelled():
                task.result()
        self.pending.clear()
        faults.go_away()
        await self._turns(3)
        faults.come_back()
        await self._turns(100)
        await asyncio.sleep(0.005)
        await self._turns(100)

    def _what_is_left(self) -> list[object]:
        left: list[object] = [task for task in self.pending if not task.done()]
        for watcher in self.flows.values():
            flow = self.house.runtime.engine.flows[watcher.id]
            attempt = watcher.attempt
            left.append(
                (watcher, watcher.entry.operation, watcher.waiting_for, attempt and attempt.phase, watcher.desired)
            )
            left.append((watcher.stop_at, watcher.stop_failures, flow.state, watcher.entry.observation))
            left.append([task for task in asyncio.all_tasks() if watcher.id in task.get_name()])
        return left

    def _under_way(self) -> bool:
        return any(
            watcher.state in ("starting", "stopping") or watcher.attempt is not None or watcher.entry.operation
            for watcher in self.flows.values()
        )

    def teardown(self) -> None:
        try:
            self.all_news_arrives()
            self.nothing_forbidden_was_seen()
        finally:
            for task in self.pending:
                self.runner.get_loop().call_soon(task.cancel)
            self.run(self.opened.__aexit__(None, None, None))
            self.run(self.builder.close())
            self.runner.close()


# Each example takes a sixth of a second, and three times that on a machine with other things to do.
EXAMPLES = 150 if EXPLORING else 70

Watching.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestWatching = pytest.mark.timeout(300)(Watching.TestCase)
