"""What the server can't keep for us: which of the owner's containers a client named, and which were paused.

Nothing of an owner's container is written to, so this stands in a small file of the state folder. It is written whole and
put in place at once: a crash leaves the old one.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import orjson

from flow_manager.errors import DiskFull


class Claims:
    """Two sets of vmids, and those that settings name (`[[flows]]`), which are not kept."""

    def __init__(self, file: Path, declared: frozenset[int] = frozenset()) -> None:
        self._file = file
        self._declared = declared
        self.claimed: set[int] = set()
        self.paused: set[int] = set()

    def load(self) -> None:
        """A file that is missing or damaged is an empty one: a client can name a container again."""
        try:
            data = orjson.loads(self._file.read_bytes())
            self.claimed, self.paused = _vmids(data["claimed"]), _vmids(data["paused"])
        except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
            self.claimed, self.paused = set(), set()

    def names(self, vmid: int) -> bool:
        """Whether a client or the settings named it."""
        return vmid in self.claimed or vmid in self._declared

    def claim(self, vmid: int) -> None:
        """:raises DiskFull:"""
        if vmid not in self.claimed:
            self.claimed.add(vmid)
            try:
                self._save()
            except BaseException:
                self.claimed.discard(vmid)
                raise

    def forget(self, vmid: int) -> None:
        if vmid in self.claimed or vmid in self.paused:
            self.claimed.discard(vmid)
            self.paused.discard(vmid)
            self._save()

    def set_paused(self, vmid: int, paused: bool) -> None:
        if paused != (vmid in self.paused):
            (self.paused.add if paused else self.paused.discard)(vmid)
            self._save()

    def _save(self) -> None:
        data = {"claimed": sorted(self.claimed), "paused": sorted(self.paused)}
        new = self._file.with_suffix(".new")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            new.write_bytes(orjson.dumps(data))
            new.replace(self._file)
        except OSError as exc:
            raise DiskFull(f"the state folder can't be written: {exc.strerror}") from None


def _vmids(data: object) -> set[int]:
    return {vmid for vmid in data if isinstance(vmid, int)} if isinstance(data, Iterable) else set()
