"""Following what a flow uses, across lost connections and restarts of the service."""

from __future__ import annotations

from collections import deque

from flow_manager.client.following import Call, Follower, Router
from flow_manager.contract.inside import UsageSample


class UsageFollower(Follower[UsageSample, UsageSample]):
    """An asynchronous iterator of figures, about every two seconds while the flow runs, and once with None in all of them when
    it ends or sleeps. Who is slow gets the newest alone. It ends when the flow is deleted, or when it is closed.

    :raises ServiceRefused, Unreachable: from the iteration, when following can't begin or can't go on.
    """

    follow, unfollow, noun = "follow_usage", "unfollow_usage", "what the flow uses"

    def __init__(self, call: Call, router: Router[UsageSample], container_id: str) -> None:
        super().__init__(call, router, container_id, deque(maxlen=1))

    def _take(self, event: UsageSample) -> None:
        if event.ended is None:  # the last one says only that it is the last
            self._waiting.append(event)
