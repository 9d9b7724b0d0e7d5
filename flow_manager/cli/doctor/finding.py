"""What a check found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`about` is what was looked at, `text` what was seen, `mend` what to do about it."""

    level: Level
    about: str
    text: str
    mend: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def ok(about: str, text: str) -> Finding:
    return Finding("ok", about, text)


def warning(about: str, text: str, mend: str) -> Finding:
    return Finding("warning", about, text, mend)


def problem(about: str, text: str, mend: str) -> Finding:
    return Finding("problem", about, text, mend)


def worst(findings: Iterable[Finding]) -> Level:
    levels = {finding.level for finding in findings}
    return "problem" if "problem" in levels else "warning" if "warning" in levels else "ok"
