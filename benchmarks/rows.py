"""What a benchmark gives back, the statistics that it may use, and how the result is shown.

A benchmark is a module here with `run(quick: bool)`, plain or async, that returns rows: dicts of `name`, `value`, `unit`,
`floor` (the same thing measured without us, in the same run; None where there is none) and `ratio`.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Row = dict[str, Any]


def row(name: str, value: float, unit: str, floor: float | None = None, *, ratio: float | None = None) -> Row:
    """`ratio` is value/floor unless given, so a smaller one is better for times and a greater one for rates."""
    if ratio is None and floor:
        ratio = value / floor
    return {"name": name, "value": value, "unit": unit, "floor": floor, "ratio": ratio}


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0…1) of all values do not exceed; an actual measurement, not an interpolation."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def machine() -> str:
    """The machine in one line: processors, memory, kernel, Python."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "?"
    )
    kilobytes = next((line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), "0")
    cores = len(os.sched_getaffinity(0))
    return (
        f"{cores} cores of {model}, {int(kilobytes) / 2**20:.0f} GB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    )


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def cells(item: Row) -> tuple[str, str, str, str]:
    """What, value, floor and ratio as text; "-" for what there is not."""
    ratio, floor = item.get("ratio"), item.get("floor")
    return (
        item["name"],
        f"{number(item['value'])} {item['unit']}",
        "-" if floor is None else f"{number(floor)} {item['unit']}",
        "-" if ratio is None else f"{ratio:.2f}",
    )


def show(rows: Sequence[Row], console: Console) -> None:
    table = Table()
    table.add_column("what")
    for heading in ("value", "floor", "ratio"):
        table.add_column(heading, justify="right")
    for item in rows:
        table.add_row(*cells(item))
    console.print(machine(), highlight=False, soft_wrap=True)
    console.print(table)
    console.print("floor: the same without flow-manager, in the same run; ratio: ours to the floor's", soft_wrap=True)


def markdown(rows: Sequence[Row]) -> str:
    """The same table as the README quotes it, between its `figures` marks."""
    lines = [" | ".join(cells(item)) for item in rows]
    return "\n".join(
        [
            machine(),
            "",
            "| what | value | floor | ratio |",
            "| --- | --: | --: | --: |",
            *(f"| {line} |" for line in lines),
        ]
    )


def number(value: float) -> str:
    """Three digits that mean something: 0.123, 12.3, 12,345."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) < 1e-6:
        return "0"  # what is left of a difference of floats
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
