"""How much one flow may say."""

from __future__ import annotations

from collections.abc import Callable


class TokenBucket:
    """`rate` a second, with a burst of one second's worth (or `burst`). The clock is read only when it has run empty.

    The hot path spends by hand: `if bucket.tokens >= 1 or bucket.refill(): bucket.tokens -= 1`.
    """

    __slots__ = ("_burst", "_filled_at", "_monotonic", "_rate", "tokens")

    def __init__(self, rate: float, monotonic: Callable[[], float], *, burst: float | None = None) -> None:
        self._rate = rate
        self._burst = max(1.0, rate if burst is None else burst)
        self._monotonic = monotonic
        self._filled_at = monotonic()
        self.tokens = self._burst

    def take(self) -> bool:
        if self.tokens < 1 and not self.refill():
            return False
        self.tokens -= 1
        return True

    def seconds_until(self, share: float) -> float:
        """How long until `share` of the burst (at least one token) is there: waking for each token would cost more than it."""
        wanted = max(1.0, self._burst * share)
        return max(0.0, (wanted - self.tokens) / self._rate)

    def refill(self) -> bool:
        """Add what the time since the last refill gives; whether there is a token now."""
        now = self._monotonic()
        self.tokens = min(self._burst, self.tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        return self.tokens >= 1


class BadLines:
    """Counts bad lines in windows of one second; `too_many` once `limit` came within one."""

    __slots__ = ("_count", "_limit", "_monotonic", "_since", "too_many")

    def __init__(self, limit: int, monotonic: Callable[[], float]) -> None:
        self._limit = limit
        self._monotonic = monotonic
        self._since = monotonic()
        self._count = 0
        self.too_many = False

    def add(self) -> None:
        now = self._monotonic()
        if now - self._since > 1.0:
            self._since = now
            self._count = 0
        self._count += 1
        self.too_many = self._count >= self._limit
