"""What a flow on another machine shows to prove which one it is.

Derived from one key of this manager's: nothing has to be stored for a flow, a restarted manager knows them all, and so does
one whose store was lost. A flow's id is never used again, so its token ends with it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any, NamedTuple

from flow_manager.util.ids import is_flow_id
from flow_manager.util.strict_json import JsonRefused, loads

KEY_BYTES = 32
# So that the same key could serve another purpose without one's tokens being the other's.
_PURPOSE = b"flow-manager channel token 1\0"
# Longer than any of ours: not worth comparing.
_LONGEST = 256


class ChannelTokens:
    def __init__(self, key: bytes) -> None:
        """`key`: 32 random bytes. :raises ValueError: another number of them."""
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes")
        self._key = key

    def token(self, flow_id: str) -> str:
        """43 characters of URL-safe text."""
        digest = hmac.digest(self._key, _PURPOSE + flow_id.encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    def matches(self, flow_id: str, token: str) -> bool:
        """In a time that tells nothing about where they differ."""
        return hmac.compare_digest(self.token(flow_id).encode(), token.encode("utf-8", "surrogatepass"))


class Claim(NamedTuple):
    """Who a hello says it is of."""

    flow_id: str
    token: str


def claim_of(line: bytes) -> Claim | None:
    """What the first line claims; None where it is no hello with both. Never raises."""
    try:
        data: Any = loads(line)
    except JsonRefused:
        return None
    match data:
        case {"type": "hello", "flow_id": str(flow_id), "token": str(token)}:
            return Claim(flow_id, token) if is_flow_id(flow_id) and len(token) <= _LONGEST else None
    return None
