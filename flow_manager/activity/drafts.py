"""Making an entry fit to be stored, and the entries that the log writes about itself. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from flow_manager.activity.redact import Masker
from flow_manager.contract.principal import MANAGER
from flow_manager.errors import FlowManagerError
from flow_manager.store.base import ActivityDraft
from flow_manager.util.clock import Clock
from flow_manager.util.strict_json import JsonRefused, dumps_bytes

# A flow may send a line of 1 MiB; a log of 100,000 of those would be 100 GB. The message itself reached its clients.
MAX_DETAILS_BYTES = 8 * 1024
MAX_MESSAGE = 1000
# Text is masked before it is cut, so that no half of a secret stays at the cut; so much of it is looked at.
MAX_MASKED = 8 * 1024
STORE_ACTIVITY = "store_activity"

_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {10: " ", 13: " ", 9: " "}
_CONTROL |= {0x2028: " ", 0x2029: " "}


def one_line(text: str, masker: Masker, limit: int) -> str:
    """Masked, without control characters (an ESC would steer the reader's terminal), cut to `limit` with an ellipsis."""
    plain = masker.mask_text(text[:MAX_MASKED]).translate(_CONTROL)
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"


def ready_to_store(draft: ActivityDraft, masker: Masker, clock: Clock) -> ActivityDraft:
    """Masked, bounded, plain JSON, with a time: storing it can't fail for what it holds."""
    return replace(
        draft,
        name=None if draft.name is None else one_line(draft.name, masker, MAX_MESSAGE),
        actor=one_line(draft.actor, masker, MAX_MESSAGE),
        message=one_line(draft.message, masker, MAX_MESSAGE),
        details=_details(draft.details, masker),
        timestamp=draft.timestamp or clock.now(),
    )


def dropped_entries(dropped: Mapping[str, Mapping[str, int]], at: datetime) -> list[ActivityDraft]:
    """One for each tenant: how many of its entries went, by type."""
    drafts = []
    for tenant, counts in dropped.items():
        total = sum(counts.values())
        message = (
            f"{total} activity {'entry was' if total == 1 else 'entries were'} dropped: more came than could be stored"
        )
        drafts.append(_own("operation_failed", tenant, message, {"dropped": dict(counts)}, at))
    return drafts


def recovered_entries(tenants: Iterable[str], error: FlowManagerError, at: datetime) -> list[ActivityDraft]:
    """One for each tenant whose entries had to wait."""
    message = f"activity is stored again; for a while it was not: {error.message}"
    return [_own("operation_recovered", tenant, message, {"code": error.code}, at) for tenant in sorted(tenants)]


def _own(kind: str, tenant: str, message: str, details: dict[str, Any], at: datetime) -> ActivityDraft:
    return ActivityDraft(
        type=kind,
        tenant=tenant,
        container_id=None,
        name=None,
        actor=MANAGER.name,
        message=message,
        details={"operation": STORE_ACTIVITY, **details},
        timestamp=at,
    )


def _details(details: dict[str, Any], masker: Masker) -> dict[str, Any]:
    if not details:
        return {}
    # Measured before it is masked: looking through a megabyte for secrets would hold up everything else.
    size = _size_of(details)
    if size <= MAX_DETAILS_BYTES:
        masked: dict[str, Any] = masker.mask(details)
        return masked
    kept: dict[str, Any] = {}
    room = MAX_DETAILS_BYTES
    for key, value in details.items():
        # Small fields stay (an operation, an exit code); only what is large goes.
        needed = len(str(key)) + _size_of(value)
        if needed <= room:
            kept[key] = value
            room -= needed
    return {**masker.mask(kept), "truncated": True, "size": size}


def _size_of(data: Any) -> int:
    try:
        return len(dumps_bytes(data))
    except JsonRefused:
        return len(repr(data))
