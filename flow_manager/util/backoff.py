"""Waiting longer after each failure, with jitter so that many callers do not return at once."""

from __future__ import annotations

import random
from collections.abc import Iterator


def exponential(
    first: float, *, maximum: float, jitter: float = 0.2, rng: random.Random | None = None
) -> Iterator[float]:
    """Seconds to wait before the next try: `first` × 2ⁿ up to `maximum`, each moved by up to ± `jitter` of itself."""
    source = rng or random
    delay = first
    while True:
        yield delay * (1 + source.uniform(-jitter, jitter))
        delay = min(delay * 2, maximum)
