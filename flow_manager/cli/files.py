"""JSON objects that people give on the command line, in files or through a pipe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

# The service takes 256 KB; beyond this it is not worth reading on.
MAX_BYTES = 1024 * 1024


def read_object(source: str, hint: str) -> dict[str, Any]:
    """The JSON object in a file, or on standard input for `-`. :raises typer.BadParameter:"""
    try:
        if source == "-":
            raw = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(source).open("rb") as stream:
                raw = stream.read(MAX_BYTES + 1)
    except OSError as exc:
        raise typer.BadParameter(f"{source}: {exc.strerror}", param_hint=hint) from None
    return parse_object(raw, hint)


def parse_object(raw: str | bytes, hint: str) -> dict[str, Any]:
    """:raises typer.BadParameter: for what is no JSON object."""
    from flow_manager.util import strict_json

    if len(raw) > MAX_BYTES:
        raise typer.BadParameter(f"more than {MAX_BYTES} bytes", param_hint=hint)
    try:
        value = strict_json.loads(raw)
    except strict_json.JsonRefused as exc:
        raise typer.BadParameter(str(exc), param_hint=hint) from None
    if not isinstance(value, dict):
        raise typer.BadParameter('a JSON object is wanted: {"…": …}', param_hint=hint)
    return value
