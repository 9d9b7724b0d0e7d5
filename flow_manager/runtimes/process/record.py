"""What is kept of a flow on disk, so that a manager that starts again finds its flows.

`<state_dir>/process/<id>/record.json`, mode 0600 (it holds the flow's environment), replaced as a whole: a manager killed
at any moment leaves the old record or the new one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from flow_manager.runtimes.base import FlowSpec

RECORD_FILE = "record.json"


@dataclass(frozen=True, slots=True)
class Run:
    """One process that was started: who it is beyond doubt (pid, start, boot), since when, with which ports."""

    pid: int
    start_ticks: int
    boot_id: str
    started_at: datetime
    ports: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Record:
    """`starting` is set before a process is made: when it is found set, the manager died in between, and the process
    (known by FLOW_ID in its environment) may or may not be there.
    """

    spec: FlowSpec
    created_at: datetime
    state: Literal["created", "starting", "running", "exited", "stopped"] = "created"
    run: Run | None = None
    exit_code: int | None = None
    error: str | None = None
    oom_killed: bool = False


_RECORDS: TypeAdapter[Record] = TypeAdapter(Record)


def save(folder: Path, record: Record) -> None:
    """:raises OSError: it could not be written; the old record is intact then."""
    fresh = folder / f"{RECORD_FILE}.new"
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(_RECORDS.dump_json(record))
        fresh.replace(folder / RECORD_FILE)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def load(folder: Path) -> Record:
    """:raises OSError: there is none, or it can't be read.
    :raises ValueError: it is not a record.
    """
    return _RECORDS.validate_json((folder / RECORD_FILE).read_bytes())
