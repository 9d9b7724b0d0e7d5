"""Static tokens: only their hash is ever kept, and it is compared in constant time."""

from __future__ import annotations

import hashlib
import hmac

PREFIX = "sha256:"


def hash_token(token: str) -> str:
    """`sha256:<hex>`, as `[auth] tokens` wants it.

    A plain digest is enough, because tokens are 256 random bits: there is no dictionary to try, so nothing to slow down.
    """
    return PREFIX + hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def token_matches(token: str, hashed: str) -> bool:
    """Whether `hashed` is this token's hash; the time taken tells nothing about where they differ."""
    return hmac.compare_digest(hash_token(token), hashed)
