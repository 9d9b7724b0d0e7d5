"""What a flow writes, in files: a pipe would end the flow by SIGPIPE when the manager dies.

The flow appends to `output.log` itself. Past `MAX_BYTES` the manager keeps the last half in `output.1.log` and empties
the live file (appending goes on from its start): so a flow has at most some 15 MB, beside what it writes between two
looks, and what it writes in the microseconds between copy and cut is lost.
"""

from __future__ import annotations

import os
from pathlib import Path

LIVE = "output.log"
EARLIER = "output.1.log"
MAX_BYTES = 10 * 1024 * 1024
# Error reports want the last lines; a line without end must not fill the memory.
MAX_READ = 1024 * 1024


class Output:
    """The output files in a flow's folder."""

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES, max_read: int = MAX_READ) -> None:
        self._live = folder / LIVE
        self._earlier = folder / EARLIER
        self._max_bytes = max_bytes
        self._max_read = max_read

    def open_for_flow(self) -> int:
        """A descriptor for the flow to append to; the caller closes it. :raises OSError:"""
        return os.open(self._live, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def trim(self) -> bool:
        """Cut the live file if it grew past its bound. True when it was. :raises OSError: (a full disk; nothing is lost)"""
        try:
            size = self._live.stat().st_size
        except FileNotFoundError:
            return False
        if size <= self._max_bytes:
            return False
        kept = _end_of(self._live, self._max_bytes // 2)
        fresh = self._earlier.with_suffix(".new")
        try:
            fresh.write_bytes(kept[kept.find(b"\n") + 1 :])
            fresh.replace(self._earlier)
        except OSError:
            # No room to keep anything: the bound counts for more, else this flow fills the disk for all.
            fresh.unlink(missing_ok=True)
        os.truncate(self._live, 0)
        return True

    def tail(self, lines: int) -> list[str]:
        """The last lines, oldest first; bytes that are no UTF-8 as U+FFFD. At most `MAX_READ` bytes are looked at."""
        if lines <= 0:
            return []
        text = _end_of(self._live, self._max_read)
        if len(text) < self._max_read and text.count(b"\n") < lines:
            text = _end_of(self._earlier, self._max_read - len(text)) + text
        # A flow that writes without appending leaves a hole of NULs after a cut.
        found = text.replace(b"\0", b"").decode(errors="replace").split("\n")
        if found[-1] == "":
            found.pop()
        return found[-lines:]


def _end_of(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - size))
            return file.read(size)
    except FileNotFoundError:
        return b""
