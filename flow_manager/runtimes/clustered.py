"""What a runtime that spans several machines can say and do beyond the protocol of all of them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class Clustered(Protocol):
    """A pool of nodes, whose existing containers a client may name."""

    @property
    def available_node_names(self) -> tuple[str, ...]:
        """The nodes, as far as the cluster was reached."""
        ...

    async def release(self, id: str) -> None:
        """Let go of a container that a client named; it stays as it is. One that is not known is left alone."""
        ...
