"""The activity stream: entries are masked, stored in batches, and only then told to whoever listens, in cursor order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from flow_manager.activity.backlog import HARD_LIMIT, SOFT_LIMIT, Backlog, Waiting
from flow_manager.activity.drafts import dropped_entries, ready_to_store, recovered_entries
from flow_manager.activity.redact import Masker
from flow_manager.activity.retention import Retention
from flow_manager.errors import Internal, QueueFull, ShuttingDown, SystemFailure
from flow_manager.observability.system_log import SystemLogger
from flow_manager.settings.models import ActivitySettings
from flow_manager.store.base import ActivityDraft, ActivityStore, StoredActivity
from flow_manager.util.backoff import exponential
from flow_manager.util.clock import Clock

Listener = Callable[[Sequence[StoredActivity]], None]

# Entries of one transaction: some 6 ms of work, which a subscriber's delay can bear.
MAX_BATCH = 500
_FIRST_RETRY_SECONDS = 0.5
_LONGEST_RETRY_SECONDS = 15.0
# What a close may wait for entries to be stored; the whole shutdown has under ten seconds.
FLUSH_SECONDS = 3.0


class ActivityStream:
    """The one writer of the activity log.

    Entries that come while a transaction is under way go together into the next one: a lone entry waits for one commit,
    a flood shares it. Nothing is told to a listener before it is stored, so that whoever lost its connection finds again
    by cursor everything that it could have seen.

    When the store can't be written (a full disk), entries are kept in memory, up to a limit, and tried again; their
    futures end with that error at once, so that nobody waits for a disk. When it works again an entry says so, with the
    number of those that had to be dropped.
    """

    def __init__(
        self,
        store: ActivityStore,
        settings: ActivitySettings,
        clock: Clock,
        *,
        masker: Masker | None = None,
        log: SystemLogger | None = None,
        soft_limit: int = SOFT_LIMIT,
        hard_limit: int = HARD_LIMIT,
        first_retry: float = _FIRST_RETRY_SECONDS,
    ) -> None:
        self.masker = masker or Masker()
        self._store = store
        self._clock = clock
        self._log = log or SystemLogger()
        self._retention = Retention(settings, clock)
        self._backlog = Backlog(soft_limit=soft_limit, hard_limit=hard_limit)
        self._listeners: list[Listener] = []
        self._head = 0
        self._first_retry = first_retry
        self._outage: SystemFailure | None = None
        self._outage_tenants: set[str] = set()
        self._closing = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def stream(self) -> str:
        """The log's random name; it changes when the log was lost."""
        return self._store.stream

    @property
    def head(self) -> int:
        """The newest cursor that listeners were told of. What is stored beyond it will be told in a moment."""
        return self._head

    @property
    def waiting(self) -> int:
        """Entries that are not stored yet."""
        return len(self._backlog)

    @property
    def outage(self) -> SystemFailure | None:
        """Why the store can't be written at the moment, None when it can."""
        return self._outage

    async def open(self) -> None:
        """The store must be open. What was added before is stored now."""
        self._head = await self._store.head()
        self._task = asyncio.create_task(self._run(), name="activity-sink")

    async def close(self) -> None:
        """Store what waits, in bounded time; what can't be stored ends its future with `ShuttingDown`."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            task, self._task = self._task, None
            done, _ = await asyncio.wait({task}, timeout=FLUSH_SECONDS)
            if not done:
                task.cancel()
                await asyncio.wait({task})
        for waiting in self._backlog.take(len(self._backlog)):
            _fail(waiting.future, ShuttingDown("the service ended before this entry could be stored"))

    def add(self, draft: ActivityDraft) -> asyncio.Future[StoredActivity]:
        """Take an entry; it is masked now. The future ends once it is stored; nobody needs to await it.

        It fails with DiskFull or Internal when it can't be stored now (it is kept and tried again), QueueFull when it was
        dropped, ShuttingDown after `close`.
        """
        future: asyncio.Future[StoredActivity] = asyncio.get_running_loop().create_future()
        if self._closing:
            _fail(future, ShuttingDown("the activity log is closed"))
        elif not self._backlog.takes(draft):
            _fail(future, QueueFull("more activity comes than can be stored", limit=SOFT_LIMIT))
        else:
            self._backlog.put(Waiting(ready_to_store(draft, self.masker, self._clock), future))
            if self._outage is None:
                self._wake.set()
            else:
                self._outage_tenants.add(draft.tenant)
                _fail(future, self._outage)
        return future

    def listen(self, callback: Listener) -> None:
        """Call it in the loop with every batch once it is stored, in cursor order. What it raises is logged, no more."""
        self._listeners.append(callback)

    def unlisten(self, callback: Listener) -> None:
        if callback in self._listeners:
            self._listeners.remove(callback)

    async def read(
        self,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int = 100,
        tenant: str | None = None,
        container_id: str | None = None,
        types: Sequence[str] | None = None,
        newest_first: bool = False,
    ) -> list[StoredActivity]:
        """Stored entries between `after` and `before`, both outside."""
        return await self._store.read(
            after=after,
            before=before,
            limit=limit,
            tenant=tenant,
            container_id=container_id,
            types=types,
            newest_first=newest_first,
        )

    async def floor(self) -> int:
        """The highest cursor that retention has removed."""
        return await self._store.floor()

    async def _run(self) -> None:
        while True:
            if self._retention.is_due():
                await self._prune()
            if not self._backlog and not self._backlog.has_dropped:
                if self._closing:
                    return
                await self._sleep(self._retention.seconds_until_due())
                continue
            batch = self._backlog.take(MAX_BATCH) + self._notes()
            try:
                stored = await self._store_batch(batch)
            except asyncio.CancelledError:
                self._backlog.put_back(batch)
                raise
            if stored is None:
                return
            self._publish(batch, stored)

    def _notes(self) -> list[Waiting]:
        """The entry for each tenant that says what was dropped."""
        loop = asyncio.get_running_loop()
        drafts = dropped_entries(self._backlog.take_dropped(), self._clock.now())
        return [Waiting(draft, loop.create_future()) for draft in drafts]

    async def _store_batch(self, batch: list[Waiting]) -> list[StoredActivity] | None:
        """Until it is stored. None when the service ends before that; an empty list when the batch had to be given up."""
        delays = exponential(self._first_retry, maximum=_LONGEST_RETRY_SECONDS)
        while True:
            try:
                stored = await self._store.append([waiting.draft for waiting in batch])
            except SystemFailure as exc:
                self._begin_outage(exc, batch)
                if self._closing:
                    self._backlog.put_back(batch)
                    return None
                await self._sleep(next(delays))
            except Exception as exc:
                # A fault of ours in these very entries: trying again would stop the log for good.
                self._give_up(batch, exc)
                return []
            else:
                self._end_outage()
                return stored

    def _begin_outage(self, error: SystemFailure, batch: list[Waiting]) -> None:
        if self._outage is not None:
            return
        self._outage = error
        self._log.log_error(str(error.details.get("error_id", "activity-store")), error, operation="store_activity")
        # Whoever waits is told now: the disk may stay full for hours.
        for waiting in (*batch, *self._backlog):
            self._outage_tenants.add(waiting.draft.tenant)
            _fail(waiting.future, error)

    def _end_outage(self) -> None:
        if self._outage is None:
            return
        error, self._outage = self._outage, None
        tenants, self._outage_tenants = self._outage_tenants, set()
        for draft in recovered_entries(tenants, error, self._clock.now()):
            self._backlog.put(Waiting(draft, asyncio.get_running_loop().create_future()))
        self._log.log_state_change("activity-store", before="failing", after="writable")

    def _give_up(self, batch: list[Waiting], error: Exception) -> None:
        self._log.log_error("activity-store", error, operation="store_activity")
        for waiting in batch:
            self._backlog.count_dropped(waiting.draft)
            _fail(waiting.future, Internal("the entry could not be stored"))

    def _publish(self, batch: list[Waiting], stored: list[StoredActivity]) -> None:
        if not stored:
            return
        self._retention.note(len(stored))
        self._head = stored[-1].entry.cursor
        for waiting, entry in zip(batch, stored, strict=True):
            if not waiting.future.done():
                waiting.future.set_result(entry)
        for listener in tuple(self._listeners):
            try:
                listener(stored)
            except Exception as exc:
                self._log.log_error("activity-listener", exc, operation="publish_activity")

    async def _prune(self) -> None:
        # Also after a failure: it is tried again at the next turn, not at once and for ever.
        self._retention.done()
        try:
            await self._store.prune(older_than=self._retention.oldest_kept(), keep=self._retention.keep)
        except Exception as exc:
            self._log.log_error("activity-prune", exc, operation="prune_activity")

    async def _sleep(self, seconds: float) -> None:
        """Until something is added, `close` is called, or that time is over."""
        self._wake.clear()
        if self._closing or (self._backlog and self._outage is None):
            return
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass


def _fail(future: asyncio.Future[StoredActivity], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        # Looked at once, so that a future that nobody awaits doesn't log "exception was never retrieved".
        future.exception()
