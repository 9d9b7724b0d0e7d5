from __future__ import annotations

import pytest

from flow_manager.idle.leases import Leases
from flow_manager.testing import FakeClock


def make(clock: FakeClock, timeout: float = 60) -> tuple[Leases, list[float]]:
    freed: list[float] = []
    leases = Leases(clock.monotonic, lambda: freed.append(clock.monotonic()))
    leases.idle_timeout = timeout
    return leases, freed


def test_the_flow_sleeps_a_timeout_after_the_last_lease_ended() -> None:
    clock = FakeClock()
    leases, freed = make(clock)
    assert leases.sleeps_at(60) == 60
    one, two = leases.use("http", "a"), leases.use("http", "b")
    clock.advance(100)
    assert leases.sleeps_at(60) is None
    one.release()
    assert leases.sleeps_at(60) is None
    clock.advance(5)
    two.release()
    assert leases.sleeps_at(60) == 165
    assert freed == [105]


def test_releasing_twice_counts_once() -> None:
    clock = FakeClock()
    leases, freed = make(clock)
    other, lease = leases.use("http", "a"), leases.use("http", "b")
    lease.release()
    lease.release()
    assert leases.held
    other.release()
    assert not leases.held
    assert freed == [0]
    assert lease.released
    assert len(leases) == 0


def test_a_touched_lease_holds_from_its_last_touch() -> None:
    clock = FakeClock()
    leases, _ = make(clock)
    socket = leases.use("websocket", "a")
    clock.advance(50)
    socket.touch()
    assert leases.sleeps_at(60) == 110
    clock.advance(59)
    assert leases.explain(clock.monotonic())[0].expires_in == 1
    clock.advance(1)
    assert leases.explain(clock.monotonic()) == []


def test_the_end_of_a_connection_counts_as_use_only_if_it_was_in_use() -> None:
    clock = FakeClock()
    leases, _ = make(clock)
    lively, silent = leases.use("tcp", "a"), leases.use("tcp", "b")
    clock.advance(50)
    lively.touch()
    clock.advance(20)
    silent.release()
    assert leases.sleeps_at(60) == 110
    lively.release()
    assert leases.sleeps_at(60) == 130


def test_a_touch_after_the_release_does_nothing() -> None:
    clock = FakeClock()
    leases, _ = make(clock)
    lease = leases.use("terminal", "a")
    lease.release()
    clock.advance(10)
    lease.touch()
    assert leases.sleeps_at(60) == 60


def test_busy_holds_until_its_end_and_the_next_word_replaces_it() -> None:
    clock = FakeClock()
    leases, _ = make(clock)
    leases.busy(100, "sums")
    assert leases.sleeps_at(60) == 160
    (info,) = leases.explain(clock.monotonic())
    assert (info.kind, info.holder, info.expires_in) == ("busy", "sums", 100)
    clock.advance(10)
    leases.busy(20, "less")
    assert leases.sleeps_at(60) == 90
    leases.idle()
    assert leases.sleeps_at(60) == 70
    leases.idle()
    clock.advance(1)
    assert leases.explain(clock.monotonic()) == []


def test_what_is_told_is_the_oldest_first() -> None:
    clock = FakeClock()
    leases, _ = make(clock)
    leases.use("http", "first")
    clock.advance(3)
    leases.use("dependent", "second")
    infos = leases.explain(clock.monotonic())
    assert [(info.holder, info.age, info.expires_in) for info in infos] == [("first", 3, None), ("second", 0, None)]


def test_the_last_use_ends_now_while_something_holds_and_later_while_it_is_busy() -> None:
    clock = FakeClock()
    leases, _ = make(clock)
    lease = leases.use("http", "a")
    clock.advance(7)
    assert (leases.used_until(clock.monotonic()), leases.in_use(clock.monotonic())) == (7, True)
    lease.release()
    clock.advance(7)
    assert (leases.used_until(clock.monotonic()), leases.in_use(clock.monotonic())) == (7, False)
    leases.busy(100, None)
    clock.advance(7)
    assert (leases.used_until(clock.monotonic()), leases.in_use(clock.monotonic())) == (114, True)


def test_a_lease_is_small() -> None:
    leases, _ = make(FakeClock())
    with pytest.raises(AttributeError):
        leases.use("http", "a").__dict__  # noqa: B018
