"""When to prune, and what: by age and by count."""

from __future__ import annotations

from datetime import datetime, timedelta

from flow_manager.settings.models import ActivitySettings
from flow_manager.util.clock import Clock

PRUNE_EVERY_SECONDS = 600.0
# By count, too: a burst must not grow the file without bound until the next time. A tenth over is what is allowed.
_EVERY_SHARE = 10
_EVERY_AT_LEAST = 100


class Retention:
    """Says when pruning is due. The clock is monotonic for the rhythm, the wall clock for the age."""

    def __init__(self, settings: ActivitySettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._entries_until_due = 0
        self._due_at = 0.0
        self._every = max(settings.keep // _EVERY_SHARE, _EVERY_AT_LEAST)

    @property
    def keep(self) -> int:
        return self._settings.keep

    def note(self, entries: int) -> None:
        """So many were stored."""
        self._entries_until_due -= entries

    def is_due(self) -> bool:
        """True at first: the service may have been away for longer than entries are kept."""
        return self._entries_until_due <= 0 or self._clock.monotonic() >= self._due_at

    def seconds_until_due(self) -> float:
        return max(self._due_at - self._clock.monotonic(), 0.0)

    def done(self) -> None:
        self._entries_until_due = self._every
        self._due_at = self._clock.monotonic() + PRUNE_EVERY_SECONDS

    def oldest_kept(self) -> datetime:
        return self._clock.now() - timedelta(seconds=self._settings.keep_for)
