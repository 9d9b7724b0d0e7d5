"""Identifiers: a flow's id is 12 characters of lower-case base32 (wire contract, section 1)."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets

FLOW_ID_LENGTH = 12
FLOW_ID_PATTERN = re.compile(r"[a-z2-7]{12}\Z")


def new_flow_id() -> str:
    """A random flow id: 60 bits, so that a million flows collide with a chance of one in a million."""
    return _base32(secrets.token_bytes(8))


def derived_flow_id(*parts: str) -> str:
    """The flow id of something that others made: the same parts always give the same id."""
    digest = hashlib.sha256("\x00".join(parts).encode()).digest()
    return _base32(digest)


def lxc_flow_id(runtime: str, vmid: int) -> str:
    """The flow id of an owner's LXC container, by the configured runtime's name: a vmid is its own for life."""
    return derived_flow_id(runtime, "lxc", str(vmid))


def is_flow_id(text: str) -> bool:
    return FLOW_ID_PATTERN.match(text) is not None


def new_token(bytes_of_entropy: int = 32) -> str:
    """A secret for people to copy: URL-safe text."""
    return secrets.token_urlsafe(bytes_of_entropy)


def new_short_id(prefix: str) -> str:
    """A readable unique id, for messages, errors and subscriptions: `prefix-` and 16 hex digits."""
    return f"{prefix}-{secrets.token_hex(8)}"


def _base32(raw: bytes) -> str:
    return base64.b32encode(raw).decode().lower()[:FLOW_ID_LENGTH]
