from __future__ import annotations

from datetime import timedelta

from flow_manager.activity.retention import PRUNE_EVERY_SECONDS, Retention
from flow_manager.settings.models import ActivitySettings
from flow_manager.testing.clock import FakeClock


def test_pruning_is_due_at_first_then_by_time() -> None:
    clock = FakeClock()
    retention = Retention(ActivitySettings(), clock)
    assert retention.is_due()
    retention.done()
    assert not retention.is_due()
    clock.advance(PRUNE_EVERY_SECONDS - 1)
    assert not retention.is_due() and retention.seconds_until_due() == 1
    clock.advance(1)
    assert retention.is_due() and retention.seconds_until_due() == 0


def test_pruning_is_due_when_a_tenth_more_than_is_kept_was_stored() -> None:
    retention = Retention(ActivitySettings(keep=5000), FakeClock())
    retention.done()
    retention.note(499)
    assert not retention.is_due()
    retention.note(1)
    assert retention.is_due()
    retention.done()
    assert not retention.is_due()


def test_a_small_log_is_not_pruned_at_each_entry() -> None:
    retention = Retention(ActivitySettings(keep=1), FakeClock())
    retention.done()
    retention.note(99)
    assert not retention.is_due()


def test_the_age_is_of_the_wall_clock() -> None:
    clock = FakeClock()
    retention = Retention(ActivitySettings(keep_for=3600), clock)
    assert retention.oldest_kept() == clock.now() - timedelta(hours=1)
