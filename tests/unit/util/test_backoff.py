"""Waiting longer after each failure."""

from __future__ import annotations

import random
from itertools import islice

from flow_manager.util.backoff import exponential


def test_delays_double_up_to_the_maximum() -> None:
    assert list(islice(exponential(0.1, maximum=0.5, jitter=0), 5)) == [0.1, 0.2, 0.4, 0.5, 0.5]


def test_jitter_moves_each_delay_by_at_most_its_share() -> None:
    delays = list(islice(exponential(1, maximum=1, jitter=0.2, rng=random.Random(1)), 100))
    assert all(0.8 <= delay <= 1.2 for delay in delays) and len(set(delays)) > 50
