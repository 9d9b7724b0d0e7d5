"""Who asks on a connection, what a flow is told of it, and whether it counts as use."""

from __future__ import annotations

from flow_manager.proxy.classify import Asked, counts_as_use, may_be_favicon
from flow_manager.proxy.headers import Trust, client_address, forwarded_lines, onward_fields
from flow_manager.proxy.parser import RequestHead
from flow_manager.proxy.watched import Use, WatchedFlow


class Asker:
    """One client's address, and the lines made of it for the Host that it asked for last."""

    __slots__ = ("_authority", "_lines", "_trust", "peer")

    def __init__(self, peer: str, trust: Trust) -> None:
        self.peer = peer
        self._trust = trust
        self._authority = b""
        self._lines = b""

    def address(self, head: RequestHead) -> str:
        """The peer's, or that which a trusted proxy in front names."""
        return client_address(self.peer, head.claims, self._trust)

    def request_bytes(self, head: RequestHead) -> bytes:
        """The head that the upstream gets."""
        onward = head.onward
        if onward is None:
            onward = head.onward = onward_fields(head, self._forwarded_lines(head))
        return b"%b %b HTTP/1.1\r\n%b" % (head.method, head.target, onward)

    def _forwarded_lines(self, head: RequestHead) -> bytes:
        if head.claims:
            return forwarded_lines(self.peer, head.authority, head.claims, self._trust)
        if head.authority != self._authority:
            self._authority = head.authority
            self._lines = forwarded_lines(self.peer, head.authority, [], self._trust)
        return self._lines

    def lease(self, watcher: WatchedFlow, head: RequestHead) -> Use | None:
        """None for what doesn't count as use: probes, and icons that browsers fetch by themselves."""
        policy = watcher.policy
        if (policy is not None and policy.probes) or may_be_favicon(head.target):
            asked = Asked(head.method.decode("ascii"), head.target.decode("latin-1"), head.pairs(), self.address(head))
            if not counts_as_use(asked, policy):
                return None
        return watcher.use("http", self.peer)
