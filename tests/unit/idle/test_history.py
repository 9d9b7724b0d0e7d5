from __future__ import annotations

from datetime import timedelta

from flow_manager.contract.wake import WakeEvent
from flow_manager.idle.history import MAX_EVENTS, WakeLog
from flow_manager.testing import FakeClock
from flow_manager.testing.clock import DEFAULT_START


def test_ids_increase_across_attempts() -> None:
    log = WakeLog(FakeClock())
    first = log.add("starting", "one")
    log.clear()
    second = log.add("starting", "two")
    assert second.id > first.id
    assert log.entries() == [second]


def test_a_restarted_manager_uses_no_id_again() -> None:
    before = WakeLog(FakeClock())
    last = [before.add("starting", "x") for _ in range(500)][-1]
    after = WakeLog(FakeClock(DEFAULT_START + timedelta(seconds=1)))
    assert after.add("starting", "y").id > last.id


def test_listeners_hear_each_event_until_they_leave() -> None:
    log, heard = WakeLog(FakeClock()), list[WakeEvent]()
    leave = log.subscribe(heard.append)
    event = log.add("error", "no", error="start_failed")
    leave()
    leave()
    log.add("starting", "again")
    assert heard == [event]
    assert event.error == "start_failed"


def test_a_listener_may_leave_while_it_hears() -> None:
    log, heard = WakeLog(FakeClock()), list[str]()
    leaves = [log.subscribe(lambda event: (leaves[0](), heard.append(event.message))[0])]
    log.subscribe(lambda event: heard.append(event.message))
    log.add("starting", "one")
    log.add("starting", "two")
    assert sorted(heard) == ["one", "one", "two"]


def test_it_is_bounded() -> None:
    log = WakeLog(FakeClock())
    for number in range(MAX_EVENTS * 3):
        log.add("waiting_ready", str(number))
    assert len(log.entries()) == MAX_EVENTS
    assert log.entries()[-1].message == str(MAX_EVENTS * 3 - 1)
