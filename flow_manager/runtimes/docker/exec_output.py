"""The two outputs of a command out of the one stream in which the engine sends them. Pure.

Docker Engine API 1.41, `ContainerAttach`, "Stream format": frames of an 8-byte header (stream, three zeros, length in
big-endian order) and their payload; a frame may be of any length and arrive in any pieces.
"""

from __future__ import annotations

import struct

from flow_manager.runtimes.capped import Capped

HEADER = struct.Struct(">BxxxL")
STDERR = 2
# The engine tells a failure of its own in the middle of a stream this way (moby, pkg/stdcopy: Systemerr).
SYSTEM_ERROR = 3


class Demultiplexer:
    """At most `limit` bytes of each stream are kept; `feed` it whatever comes."""

    def __init__(self, limit: int) -> None:
        self.stdout = Capped(limit)
        self.stderr = Capped(limit)
        self._head = b""
        self._left = 0
        self._target = self.stdout

    @property
    def truncated(self) -> bool:
        return self.stdout.cut or self.stderr.cut

    def feed(self, data: bytes) -> None:
        """:raises ValueError: no frame begins like this; an engine of another kind."""
        view = memoryview(data)
        while view:
            if self._left == 0:
                wanted = HEADER.size - len(self._head)
                self._head += bytes(view[:wanted])
                view = view[wanted:]
                if len(self._head) < HEADER.size:
                    return
                stream, self._left = HEADER.unpack(self._head)
                if stream > SYSTEM_ERROR:
                    raise ValueError("no frame of the engine's")
                self._head = b""
                self._target = self.stderr if stream >= STDERR else self.stdout
                continue
            piece = view[: self._left]
            self._target.feed(piece)
            self._left -= len(piece)
            view = view[len(piece) :]
