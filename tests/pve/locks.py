"""The flock of one container: one action at a time, the second one waits, and then gives up in so many words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.pve.errors import TaskFailed


class Flock:
    def __init__(self, vmid: int) -> None:
        self._file = f"/run/lock/lxc/pve-config-{vmid}.lock"
        self._lock = asyncio.Lock()

    @property
    def held(self) -> bool:
        return self._lock.locked()

    @asynccontextmanager
    async def taken(self, wait: float) -> AsyncIterator[None]:
        """:raises TaskFailed: when it was not free within `wait` seconds."""
        try:
            async with asyncio.timeout(wait):
                await self._lock.acquire()
        except TimeoutError:
            raise TaskFailed(f"can't lock file '{self._file}' - got timeout") from None
        try:
            yield
        finally:
            self._lock.release()

    def release(self) -> None:
        if self._lock.locked():
            self._lock.release()
