from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from flow_manager.idle.wheel import NEVER, Wheel
from flow_manager.testing import FakeClock


class Timer:
    """The loop's `call_later`, moved by hand: at most one is armed."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.at: float | None = None
        self.callback: Callable[[], None] | None = None
        self.calls = 0

    def __call__(self, delay: float, callback: Callable[[], None]) -> Timer:
        assert self.at is None, "two timers at once"
        self.at, self.callback = self.clock.monotonic() + delay, callback
        self.calls += 1
        return self

    def cancel(self) -> None:
        self.at = None

    def run(self, seconds: float) -> None:
        end = self.clock.monotonic() + seconds
        while self.at is not None and self.at <= end:
            self.clock.advance(max(0.0, self.at - self.clock.monotonic()))
            self.fire()
        self.clock.advance(max(0.0, end - self.clock.monotonic()))

    def fire(self) -> None:
        self.at = None
        assert self.callback is not None
        self.callback()


class Item:
    def __init__(self, clock: FakeClock, then: Callable[[Item], Any] = lambda _: None) -> None:
        self.wheel_at = NEVER
        self.wheel_tick = 0
        self.fired: list[float] = []
        self.clock = clock
        self.then = then

    def wheel_due(self, now: float) -> None:
        self.fired.append(now)
        self.then(self)


def make(**more: Any) -> tuple[FakeClock, Timer, Wheel]:
    clock = FakeClock()
    timer = Timer(clock)
    return clock, timer, Wheel(clock, call_later=timer, **more)


def test_an_item_is_due_at_its_deadline_never_before_and_at_most_a_tick_later() -> None:
    clock, timer, wheel = make(resolution=0.25)
    chance = random.Random(1)
    items = [(Item(clock), chance.uniform(0, 100)) for _ in range(500)]
    for item, at in items:
        wheel.arm(item, at)
    timer.run(101)
    for item, at in items:
        (fired,) = item.fired
        assert at <= fired <= at + 0.25


def test_nothing_is_armed_while_nothing_is_due() -> None:
    clock, timer, wheel = make()
    assert not wheel.armed
    item = Item(clock)
    wheel.arm(item, 5)
    assert wheel.armed
    timer.run(6)
    assert not wheel.armed
    assert len(wheel) == 0


def test_a_deadline_that_moves_on_is_only_a_field() -> None:
    clock, timer, wheel = make()
    item = Item(clock)
    for second in range(60):
        wheel.arm(item, second + 10)
        timer.run(1)
    assert item.fired == []
    assert timer.calls <= 10
    timer.run(10)
    assert item.fired == [69]


def test_a_deadline_that_moves_nearer_is_kept() -> None:
    clock, timer, wheel = make()
    item = Item(clock)
    wheel.arm(item, 100)
    wheel.arm(item, 3)
    timer.run(4)
    assert item.fired == [3]
    timer.run(200)
    assert item.fired == [3]


def test_what_is_disarmed_is_not_called_and_can_be_armed_again() -> None:
    clock, timer, wheel = make()
    item = Item(clock)
    wheel.arm(item, 5)
    wheel.disarm(item)
    timer.run(2)
    wheel.arm(item, 20)
    timer.run(10)
    assert item.fired == []
    timer.run(10)
    assert item.fired == [20]


def test_what_is_forgotten_is_let_go_of_at_once() -> None:
    clock, timer, wheel = make()
    item, other = Item(clock), Item(clock)
    wheel.arm(item, 5)
    wheel.arm(other, 50)
    wheel.forget(item)
    assert len(wheel) == 1
    timer.run(10)
    assert item.fired == []
    wheel.forget(other)
    assert not wheel.armed


def test_an_item_may_arm_itself_again_when_it_is_due() -> None:
    clock, timer, wheel = make()
    item = Item(clock, then=lambda item: wheel.arm(item, item.clock.monotonic() + 5))
    wheel.arm(item, 5)
    timer.run(21)
    assert item.fired == [5, 10, 15, 20]


def test_an_item_may_forget_another_that_is_due_at_the_same_time() -> None:
    clock, timer, wheel = make()
    items: list[Item] = []

    def forget_others(item: Item) -> None:
        for other in items:
            if other is not item:
                wheel.forget(other)

    items.extend(Item(clock, then=forget_others) for _ in range(3))
    for item in items:
        wheel.arm(item, 5)
    timer.run(6)
    assert sum(len(item.fired) for item in items) == 1


def test_a_loop_that_stood_still_is_told_before_anything_is_due() -> None:
    told: list[float] = []
    clock, timer, wheel = make(on_gap=told.append)
    item = Item(clock, then=lambda _: told.append(-1))
    wheel.arm(item, 5)
    clock.advance(40)
    timer.fire()
    assert told == [40, -1]


def test_a_deadline_in_the_past_is_due_at_once_and_no_gap() -> None:
    told: list[float] = []
    clock, timer, wheel = make(on_gap=told.append)
    clock.advance(1000)
    item = Item(clock)
    wheel.arm(item, 5)
    timer.run(0)
    assert item.fired == [1000]
    assert told == []


def test_arming_and_forgetting_for_ever_leaves_nothing_behind() -> None:
    clock, timer, wheel = make()
    for number in range(10_000):
        item = Item(clock)
        wheel.arm(item, clock.monotonic() + 60 + number % 7)
        wheel.forget(item)
        if number % 100 == 0:
            timer.run(1)
    assert len(wheel._ticks) < 400
    assert len(wheel) == 0


def test_deadlines_far_away_that_are_forgotten_leave_no_buckets_while_a_nearer_one_stands() -> None:
    clock = FakeClock()
    timer = Timer(clock)
    wheel = Wheel(clock, call_later=timer)
    near, last = Item(clock), Item(clock)
    wheel.arm(near, clock.monotonic() + 10)
    for number in range(5000):
        item = Item(clock)
        wheel.arm(item, clock.monotonic() + 86400 + number)
        wheel.forget(item)
        assert len(wheel._buckets) == len(wheel._ticks) < 100
    wheel.arm(last, clock.monotonic() + 20)
    timer.run(30)
    assert len(near.fired) == len(last.fired) == 1
    assert not wheel._buckets and not wheel._ticks and not wheel.armed


def test_a_closed_wheel_calls_nothing() -> None:
    clock, timer, wheel = make()
    item = Item(clock)
    wheel.arm(item, 5)
    wheel.close()
    wheel.arm(Item(clock), 3)
    timer.run(10)
    assert item.fired == []
    assert not wheel.armed
