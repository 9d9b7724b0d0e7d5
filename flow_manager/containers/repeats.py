"""A retried request does nothing twice: the first attempt's reply is kept for 24 h (wire contract, section 3)."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson

from flow_manager.contract.principal import Principal
from flow_manager.contract.replies import failure
from flow_manager.errors import Conflict, FlowManagerError, QuotaExceeded
from flow_manager.observability.system_log import SystemLogger
from flow_manager.store.base import ReplyStore, StoredReply
from flow_manager.util.clock import Clock
from flow_manager.util.strict_json import dumps_bytes

KEEP = timedelta(hours=24)
# Whatever may be gone at the next try is not kept: the retry is then a real one.
TRANSIENT_CODES = frozenset({"runtime_unavailable", "timeout", "conflict", "rate_limited", "shutting_down", "internal"})
PRUNE_EVERY = 1000
# A command's output is kept, too, up to some 4 MiB: a client that runs one a second would fill the disk within the 24 h. So
# of large replies the newest are kept, up to this many bytes; an older one is replaced by the word that it was done.
LARGE_REPLY = 64 * 1024
LARGE_REPLIES = 256 * 1024 * 1024


def request_key(principal: Principal, request_id: str) -> str:
    """What names one request of one principal, for the store."""
    return f"{principal.tenant}/{principal.name}:{request_id}"


class Repeats:
    """Runs each mutating event once per principal and `request_id`."""

    def __init__(
        self, store: ReplyStore, clock: Clock, log: SystemLogger, *, large_replies: int = LARGE_REPLIES
    ) -> None:
        """`large_replies`: bytes that large replies may take in the store, in all."""
        self._store = store
        self._room = large_replies
        self._large: deque[tuple[StoredReply, int]] = deque()
        self._clock = clock
        self._log = log
        self._under_way: dict[tuple[str, str], tuple[str, asyncio.Task[dict[str, Any]]]] = {}
        self._until_prune = PRUNE_EVERY

    async def run(
        self,
        principal: Principal,
        event: str,
        request_id: str | None,
        raw: dict[str, Any],
        call: Callable[[], Awaitable[dict[str, Any]]],
    ) -> dict[str, Any]:
        """The reply of `call`, or of the earlier request with this id. `call` gives a reply and never raises."""
        if request_id is None:
            return await call()
        owner = f"{principal.tenant}/{principal.name}"
        key = (owner, request_id)
        print_of_it = _fingerprint(event, raw)
        under_way = self._under_way.get(key)
        if under_way is not None:
            known, task = under_way
        else:
            known = print_of_it
            task = asyncio.get_running_loop().create_task(
                self._first(owner, event, request_id, print_of_it, call), name=f"request-{event}"
            )
            self._under_way[key] = (known, task)
            task.add_done_callback(lambda _done: self._under_way.pop(key, None))
        if known != print_of_it:
            return failure(another_request(request_id))
        return await asyncio.shield(task)

    async def _first(
        self,
        owner: str,
        event: str,
        request_id: str,
        print_of_it: str,
        call: Callable[[], Awaitable[dict[str, Any]]],
    ) -> dict[str, Any]:
        try:
            kept = await self._store.get(owner, request_id)
        except FlowManagerError as error:
            # Without the memory of what was done, doing it again could do it twice.
            return failure(error)
        if kept is not None and self._clock.now() - kept.created_at < KEEP:
            if kept.fingerprint != print_of_it:
                return failure(another_request(request_id))
            return kept.reply
        reply = await call()
        if not (reply.get("error") and reply.get("code") in TRANSIENT_CODES):
            await self._keep(StoredReply(owner, request_id, print_of_it, reply, self._clock.now()))
        return reply

    async def _keep(self, reply: StoredReply) -> None:
        try:
            await self._store.put(reply)
            await self._make_room(reply)
            self._until_prune -= 1
            if self._until_prune <= 0:
                self._until_prune = PRUNE_EVERY
                await self._store.prune(older_than=self._clock.now() - KEEP)
        except FlowManagerError as error:
            # What was done is done: its reply goes out even when it can't be remembered.
            self._log.log_debug("a reply could not be kept", reason=error.message)

    async def _make_room(self, reply: StoredReply) -> None:
        size = len(dumps_bytes(reply.reply))
        if size < LARGE_REPLY:
            return
        # Without its text: what is remembered here is which it is.
        self._large.append((replace(reply, reply={}), size))
        self._room -= size
        while self._room < 0 and self._large:
            oldest, freed = self._large.popleft()
            self._room += freed
            word = failure(QuotaExceeded("it was done; its reply was too large to be kept until now", size=freed))
            await self._store.put(replace(oldest, reply=word))


def _fingerprint(event: str, raw: dict[str, Any]) -> str:
    body = {key: value for key, value in raw.items() if key != "request_id"}
    return hashlib.sha256(event.encode() + b"\x00" + orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()


def another_request(request_id: str) -> Conflict:
    return Conflict(f"request_id '{request_id}' was used for another request", operation="request_id")
