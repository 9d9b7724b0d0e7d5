"""One thing that a look at a server found, for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Remark:
    """`mend` is what to do about it; empty where nothing is wrong."""

    level: Literal["ok", "warning", "problem"]
    text: str
    mend: str = ""
