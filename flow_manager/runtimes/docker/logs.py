"""The last lines of a flow. Pure: the engine's bytes → lines.

Without a terminal each chunk has a header of eight bytes: stream, three zeros, length as big-endian uint32 (Docker Engine
API, `ContainerAttach`, "Stream format"). Chunks are not lines: a long line comes in several.
"""

from __future__ import annotations

HEADER = 8
# What `tail` lines may take at most; of more, the end is kept.
MAX_BYTES = 4 * 1024 * 1024


def lines_of(raw: bytes, *, tty: bool) -> list[str]:
    """Oldest first, streams mixed, invalid UTF-8 as U+FFFD. What two streams wrote is joined for each of them alone."""
    if tty:
        return _split(raw.replace(b"\r\n", b"\n"))
    lines: list[str] = []
    rest: dict[int, bytes] = {}
    position = 0
    while position + HEADER <= len(raw):
        stream = raw[position]
        size = int.from_bytes(raw[position + 4 : position + HEADER], "big")
        chunk = rest.pop(stream, b"") + raw[position + HEADER : position + HEADER + size]
        position += HEADER + size
        whole, newline, half = chunk.rpartition(b"\n")
        if newline:
            lines += _split(whole + b"\n")
        if half:
            rest[stream] = half
    for half in rest.values():
        lines += _split(half)
    return lines


def _split(raw: bytes) -> list[str]:
    parts = raw.decode("utf-8", "replace").split("\n")
    return parts[:-1] if parts[-1] == "" else parts
