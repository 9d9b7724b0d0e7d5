"""UPIDs, the server's names for tasks: `UPID:node:pid:pstart:starttime:type:id:user@realm!token:`, numbers in hex. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

_FIELDS = 9


@dataclass(frozen=True, slots=True)
class Upid:
    text: str
    node: str
    started: int
    type: str
    id: str
    user: str

    @property
    def path(self) -> str:
        """As a part of the API's paths: a user's name may hold what means something else there (`#`, `?`, `%`)."""
        return f"nodes/{self.node}/tasks/{quote(self.text, safe=':@!')}"


def parse_upid(text: object) -> Upid:
    """:raises ValueError: it is none."""
    fields = text.split(":") if isinstance(text, str) else []
    if len(fields) != _FIELDS or fields[0] != "UPID" or not fields[1] or fields[-1]:
        raise ValueError(f"not a task's id: {str(text)[:80]!r}")
    return Upid(str(text), fields[1], int(fields[4], 16), fields[5], fields[6], fields[7])
