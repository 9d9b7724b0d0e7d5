"""Labels that change while their container stays the same one: Proxmox VE's notes can be edited, Docker's labels can't.

The record of a flow that was adopted by its labels remembers them (`request_key`, as short digests of their raw text), so that an edit
is noticed across a restart of the manager too. What concerns sleep is remembered apart: `set_idle_policy` holds until those
very lines are changed, and then the later word counts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flow_manager.containers.entry import FlowEntry
from flow_manager.contract.fields import RESERVED_LABEL_PREFIX
from flow_manager.store.base import FlowRecord

# No principal's name has a bracket, so that no client's `request_id` can look like it.
_KEY = "[labels] "
_NOT_OF_SLEEP = frozenset({"enable", "instance", "name", "tenant", "hosts", "port"})
# Far more than it takes to tell two texts of one owner apart.
_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Changed:
    """Which of a flow's labels are others than those that it was adopted with."""

    any: bool
    of_sleep: bool


def key_of(labels: Mapping[str, str]) -> str:
    """What the record of a flow with these labels remembers."""
    own = {
        key.removeprefix(RESERVED_LABEL_PREFIX): value.strip()
        for key, value in labels.items()
        if key.startswith(RESERVED_LABEL_PREFIX)
    }
    sleep = ((name, value) for name, value in own.items() if name not in _NOT_OF_SLEEP)
    # Whose it is was judged before: the tag alone, and the tag with `enable`, ask for the same.
    rest = ((name, value) for name, value in own.items() if name in _NOT_OF_SLEEP - {"enable", "instance"})
    return f"{_KEY}{_digest(sleep)} {_digest(rest)}"


def follows_labels(entry: FlowEntry) -> bool:
    """Not one that settings or a client named: those say themselves what it is to do."""
    key = entry.record.request_key
    return entry.record.adopted and not entry.config.existing and (key is None or key.startswith(_KEY))


def remembers(record: FlowRecord) -> bool:
    """False for one that an earlier version adopted: what its labels were then isn't known."""
    return record.request_key is not None and record.request_key.startswith(_KEY)


def changed(entry: FlowEntry, labels: Mapping[str, str]) -> Changed:
    """Since it was adopted, or since a change was last taken in."""
    if not follows_labels(entry) or not remembers(entry.record):
        return Changed(False, False)
    before, now = (entry.record.request_key or "").split(" "), key_of(labels).split(" ")
    return Changed(before != now, before[1:2] != now[1:2])


def _digest(items: Iterable[tuple[str, str]]) -> str:
    return hashlib.sha256(json.dumps(sorted(items)).encode()).hexdigest()[:_DIGITS]
