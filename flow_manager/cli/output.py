"""What is printed. Whatever came from the service or a flow is cleaned first: a name may hold terminal commands (ESC …)."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import Any, TextIO

# C0 and C1 controls, DEL, and the marks that turn the direction of text (which make one command look like another).
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
# JSON escapes C0 itself; the rest would reach the terminal.
_CONTROL_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(value: Any) -> str:
    """Text without control characters; line breaks and tabs become spaces."""
    return (
        _CONTROL.sub(lambda match: " " if match[0] in "\n\r\t" else "", str(value)).encode("utf-8", "replace").decode()
    )


def dump_json(data: Any, *, indent: int | None = None) -> str:
    text = json.dumps(data, ensure_ascii=False, indent=indent)
    return _CONTROL_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def print_json(data: Any) -> None:
    """Indented for people at a terminal, one line for programs."""
    sys.stdout.write(dump_json(data, indent=2 if sys.stdout.isatty() else None) + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    sys.stdout.write(f"{clean(text)}\n")
    sys.stdout.flush()


def complain(text: str) -> None:
    """To standard error; several lines stay several lines."""
    for line in text.splitlines() or [""]:
        sys.stderr.write(f"{clean(line)}\n")
    sys.stderr.flush()


def print_table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A rich table at a terminal; elsewhere plain columns that `awk` can read, never cut to a width."""
    cleaned = [[clean(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _rich_table(headings, cleaned)
        return
    widths = [max(len(row[place]) for row in [list(headings), *cleaned]) for place in range(len(headings))]
    for row in [list(headings), *cleaned]:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(line.rstrip() + "\n")
    sys.stdout.flush()


def console(stream: TextIO | None = None) -> Any:
    """A rich console that reads no markup: `[red]` in a name is text."""
    from rich.console import Console

    return Console(file=stream or sys.stdout, markup=False, highlight=False, emoji=False, soft_wrap=True)


STATE_STYLE = {
    "running": "green",
    "healthy": "green",
    "ready": "green",
    "napping": "blue",
    "stopping": "yellow",
    "error": "red",
    "paused": "yellow",
    "restarting": "yellow",
    "starting": "yellow",
    "unhealthy": "red",
    "dead": "red",
    "ok": "green",
    "warning": "yellow",
    "problem": "bold red",
}


def _rich_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(Text(heading), overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=STATE_STYLE.get(cell, "")) for cell in row))
    console().print(table)
