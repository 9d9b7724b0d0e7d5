"""Where what runs beside a flow's own program belongs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Place:
    """The flow's environment, its working folder, and the file of its cgroup that processes enter by, where it has one."""

    environment: Mapping[str, str]
    folder: Path
    cgroup_procs: Path | None
