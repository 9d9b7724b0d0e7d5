"""What the manager remembers of containers that others made, beside their flows' records."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Adoptions:
    """`released`: flow id → (runtime, the container's own id) of those that somebody had released: they stay so until their
    container is made anew. `lost_since`: when an adopted flow's container was first missed, in monotonic seconds.
    `left_alone`: containers whose tenant can't be told, so that it is said once.
    """

    released: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    lost_since: dict[str, float] = field(default_factory=dict)
    left_alone: set[str | None] = field(default_factory=set)
