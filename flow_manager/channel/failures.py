"""Who fails too often is not listened to for a while."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

from flow_manager.channel.throttle import TokenBucket

# A token has 256 random bits: nobody guesses it. The limit is for the handshakes, which cost a millisecond each. One flow with
# a wrong token, which tries every few seconds, must not shut out its neighbours behind the same address.
FAILURES_A_SECOND = 1.0
FAILURES_AT_ONCE = 20.0
# So many addresses are remembered; the one that was quiet for longest is forgotten first.
ADDRESSES = 4096


class FailureLimit:
    """Counts failures by address: of IPv6 by its /64, which is what one host may choose from (RFC 4291, section 2.5.4)."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def allows(self, host: str) -> bool:
        bucket = self._buckets.get(network_of(host))
        return bucket is None or bucket.tokens >= 1 or bucket.refill()

    def failed(self, host: str) -> bool:
        """Count one; whether it was within the limit still, and so is worth a line in the log."""
        network = network_of(host)
        bucket = self._buckets.get(network)
        if bucket is None:
            bucket = self._buckets[network] = TokenBucket(FAILURES_A_SECOND, self._monotonic, burst=FAILURES_AT_ONCE)
            if len(self._buckets) > ADDRESSES:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(network)
        return bucket.take()


def network_of(host: str) -> str:
    """What one peer can't easily change of its address."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return host
    mapped = address.ipv4_mapped
    return str(mapped) if mapped is not None else str(IPv6Address(int(address) >> 64 << 64))
