"""Why a flow stays awake: use is a lease, not a time stamp at the start of a request.

A lease of kind http, exec, message or dependent holds until it is released. One of kind websocket, tcp or terminal holds
while it is touched: an open but silent connection keeps nobody awake for ever. `busy` is what the flow itself says.
Taking and releasing one is on the path of every forwarded request: no task, no timer, no search.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from flow_manager.contract.wake import LeaseInfo, LeaseKind

# The monotonic clock may be near 0 just after boot, and a restored deadline before it.
LONG_AGO = -math.inf
TOUCHED_KINDS: frozenset[LeaseKind] = frozenset({"websocket", "tcp", "terminal"})


class Lease:
    """One use of a flow. `release` it exactly when the use ends; releasing again does nothing."""

    __slots__ = ("_leases", "holder", "kind", "since", "touched")

    def __init__(self, leases: Leases, kind: LeaseKind, holder: str, now: float) -> None:
        self._leases: Leases | None = leases
        self.kind = kind
        self.holder = holder
        self.since = now
        self.touched = now

    def touch(self) -> None:
        """Something was seen: data, a keystroke."""
        leases = self._leases
        if leases is not None:
            self.touched = leases._now()

    def release(self) -> None:
        leases = self._leases
        if leases is not None:
            self._leases = None
            leases._released(self)

    @property
    def released(self) -> bool:
        return self._leases is None


class Leases:
    """All leases of one flow. Times are of the monotonic clock that is given in; `freed` is called when the last one that
    holds by itself ended. `idle_timeout` in seconds is how long a touched lease holds after its last touch."""

    __slots__ = (
        "_freed",
        "_held",
        "_holding",
        "_now",
        "busy_reason",
        "busy_since",
        "busy_until",
        "idle_since",
        "idle_timeout",
    )

    def __init__(self, now: Callable[[], float], freed: Callable[[], None] = lambda: None) -> None:
        self._now = now
        self._freed = freed
        # Made with the first lease: ten thousand flows at rest have none.
        self._held: set[Lease] | None = None
        self._holding = 0
        self.idle_since = now()
        self.idle_timeout = 0.0
        self.busy_until = LONG_AGO
        self.busy_since = 0.0
        self.busy_reason: str | None = None

    def __len__(self) -> int:
        return len(self._held) if self._held else 0

    def use(self, kind: LeaseKind, holder: str) -> Lease:
        lease = Lease(self, kind, holder, self._now())
        if self._held is None:
            self._held = set()
        self._held.add(lease)
        if kind not in TOUCHED_KINDS:
            self._holding += 1
        return lease

    def _released(self, lease: Lease) -> None:
        assert self._held is not None
        self._held.discard(lease)
        now = self._now()
        if lease.kind not in TOUCHED_KINDS:
            self.idle_since = now
            self._holding -= 1
            if not self._holding:
                self._freed()
        elif now - lease.touched < self.idle_timeout:
            self.idle_since = now
        # else: it had stopped holding long ago, and its end is no use of the flow

    def used(self) -> None:
        """Count this moment as use: it woke, say."""
        self.idle_since = self._now()

    def busy(self, seconds: float, reason: str | None) -> None:
        """The flow said that it works for so long; its next word replaces this one."""
        now = self._now()
        if self.busy_until <= now:
            self.busy_since = now
        self.busy_until, self.busy_reason = now + seconds, reason

    def idle(self) -> None:
        """The flow said that it is done."""
        now = self._now()
        if self.busy_until > now:
            self.busy_until, self.idle_since = now, now

    def asleep(self) -> None:
        """What a flow said of its work ends with its run."""
        self.busy_until = LONG_AGO

    @property
    def held(self) -> bool:
        """Whether a lease that holds by itself is there."""
        return self._holding > 0

    def of_kind(self, kind: LeaseKind) -> list[Lease]:
        return [lease for lease in self._held or () if lease.kind == kind]

    def sleeps_at(self, idle_timeout: float) -> float | None:
        """When the flow may sleep if nothing more happens; None while a lease holds by itself."""
        if self._holding:
            return None
        last = self.idle_since
        if self.busy_until > last:
            last = self.busy_until
        for lease in self._held or ():
            if lease.touched > last:
                last = lease.touched
        return last + idle_timeout

    def in_use(self, now: float) -> bool:
        """Whether its last use may still move on by itself."""
        return bool(self._held) or self.busy_until > now

    def used_until(self, now: float) -> float:
        """When its last use ended, as of `now`: now, while something holds it; later, while it says that it is busy."""
        last = now if self._holding else self.idle_since
        return max([last, self.busy_until, *(lease.touched for lease in self._held or ())])

    def explain(self, now: float) -> list[LeaseInfo]:
        """Each reason to be awake, the oldest first; a connection that is silent for long is none."""
        found: list[LeaseInfo] = []
        for lease in sorted(self._held or (), key=lambda lease: lease.since):
            expires: float | None = None
            if lease.kind in TOUCHED_KINDS:
                expires = lease.touched + self.idle_timeout - now
                if expires <= 0:
                    continue
            found.append(_info(lease.kind, lease.holder, now - lease.since, expires))
        if self.busy_until > now:
            found.append(_info("busy", self.busy_reason or "the flow", now - self.busy_since, self.busy_until - now))
        return found


def _info(kind: LeaseKind, holder: str, age: float, expires_in: float | None) -> LeaseInfo:
    rounded = None if expires_in is None else round(expires_in, 3)
    return LeaseInfo(kind=kind, holder=holder, age=round(max(0.0, age), 3), expires_in=rounded)
