"""One Proxmox VE server (or cluster), spoken to off the event loop: a few threads of its own, every call bounded in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from requests.exceptions import RequestException

from flow_manager.errors import RuntimeUnavailable
from flow_manager.runtimes.proxmox.failure import CallFailed, of_answer, of_exception
from flow_manager.runtimes.proxmox.transport import (
    READ_SECONDS,
    WRITE_SECONDS,
    Address,
    Login,
    TicketAuth,
    make_api,
    session_of,
    skew_of,
)
from flow_manager.util.backoff import exponential

KIND = "proxmox"
# Threads, and connections, of one server: its proxy has 3 workers, and beyond 8 nothing gets quicker (75 reads a second).
THREADS = 8
# So many of them may wait for one node (its daemon has 3 workers): one that hangs must not hold up all the others.
PER_NODE = 5
TRIES = 4
# A timer of the loop may ring that much early, in seconds: what it ended has had its time all the same.
TIMER_SLACK = 0.05
FIRST_WAIT, LONGEST_WAIT = 0.1, 1.0
# A shutdown has eight seconds in all by default; what hangs longer ends with its own time limit.
CLOSE_SECONDS = 2.0


class PveClient:
    """Raises `CallFailed`; never waits longer than it is told. Paths are without the leading slash: `nodes/pve1/lxc`."""

    def __init__(self, address: Address, login: Login, *, verify: bool | str = True, connect: float = 3.0) -> None:
        self.address = address
        self._login, self._verify, self._connect = login, verify, connect
        self._threads: ThreadPoolExecutor | None = None
        self._api: Any = None
        self._slots: dict[str, asyncio.Semaphore] = {}
        # How often the server was asked: a promise of few calls can be kept only by who counts them.
        self.calls = 0

    async def open(self) -> None:
        """No I/O: the first call connects."""
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix=f"pve-{self.address.host}")
        self._api = make_api(self.address, self._login, verify=self._verify, connect=self._connect, connections=THREADS)

    async def close(self) -> None:
        threads, self._threads = self._threads, None
        if threads is None:
            return
        threads.shutdown(wait=False, cancel_futures=True)
        session_of(self._api).close()
        ending = asyncio.get_running_loop().run_in_executor(None, threads.shutdown)
        await asyncio.wait([ending], timeout=CLOSE_SECONDS)

    @property
    def base_url(self) -> str:
        return str(self._api._store["base_url"])

    @property
    def by_token(self) -> bool:
        return self._login.token_id is not None

    @property
    def verify(self) -> bool | str:
        """As requests takes it: True, False, or a file of certificates."""
        return self._verify

    async def credentials(self) -> dict[str, str]:
        """Headers that say who asks, for what goes past this client. :raises CallFailed: the login is refused."""
        if self._login.token_id is not None:
            return {"Authorization": f"PVEAPIToken={self._login.token_id}={self._login.secret}"}
        auth = session_of(self._api).auth
        if self._threads is None or not isinstance(auth, TicketAuth):
            raise RuntimeUnavailable("the runtime is closed", kind=KIND, reason="the runtime is closed")
        cookies = await asyncio.get_running_loop().run_in_executor(self._threads, self._once, auth.get_cookies)
        return {"Cookie": f"PVEAuthCookie={cookies['PVEAuthCookie']}"}

    def server_time(self) -> float:
        """The server's clock in epoch seconds, as far as its last answer told it."""
        return time.time() + (skew_of(self._api) if self._api is not None else 0.0)

    async def get(self, path: str, /, *, within: float = READ_SECONDS, **params: Any) -> Any:
        """A read, repeated while only the way there fails, at most `within` seconds in all."""
        return await self._repeated("get", path, params, within)

    async def put(self, path: str, /, *, within: float = WRITE_SECONDS, **data: Any) -> Any:
        """Writing the same once more changes nothing more, so this is repeated like a read."""
        return await self._repeated("put", path, data, within)

    async def _repeated(self, verb: str, path: str, values: dict[str, Any], within: float) -> Any:
        waits = exponential(FIRST_WAIT, maximum=LONGEST_WAIT)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        before: CallFailed | None = None
        for attempt in range(1, TRIES + 1):
            try:
                return await self._call(verb, path, values, deadline - loop.time())
            except CallFailed as failed:
                if before is not None and loop.time() + TIMER_SLACK >= deadline:
                    raise before from None  # a last try that had no time left says nothing
                before, wait = failed, next(waits)
                if not failed.passing or attempt == TRIES or loop.time() + wait >= deadline:
                    raise
                await asyncio.sleep(wait)
        raise AssertionError("unreachable")

    async def post(self, path: str, /, *, within: float = WRITE_SECONDS, **data: Any) -> Any:
        """Once, never repeated here. A cancelled caller does not stop it."""
        return await self._call("post", path, data, within)

    async def delete(self, path: str, /, *, within: float = WRITE_SECONDS, **params: Any) -> Any:
        return await self._call("delete", path, params, within)

    async def _call(self, verb: str, path: str, values: dict[str, Any], within: float) -> Any:
        if self._threads is None:
            raise RuntimeUnavailable("the runtime is closed", kind=KIND, reason="the runtime is closed")
        self.calls += 1

        def act() -> Any:
            return getattr(self._api(path), verb)(**{key: value for key, value in values.items() if value is not None})

        running: asyncio.Future[Any] | None = None
        try:
            async with asyncio.timeout(max(0.0, within)):
                slot = self._slot(path)
                await slot.acquire()
                # The thread goes on when the waiting ends: what it does is bounded by the session's own time limits.
                if self._threads is None:
                    slot.release()
                    raise RuntimeUnavailable("the runtime is closed", kind=KIND, reason="the runtime is closed")
                running = asyncio.get_running_loop().run_in_executor(self._threads, self._guarded, act)
                running.add_done_callback(lambda _done: slot.release())
                return await asyncio.shield(running)
        except TimeoutError:
            raise CallFailed(0, f"no answer in {within:.0f} s", sent=running is not None) from None
        finally:
            if running is not None and not running.done():
                running.add_done_callback(_forgotten)

    def _slot(self, path: str) -> asyncio.Semaphore:
        """`nodes/pve1/…`: one of those of that node."""
        first, _, rest = path.partition("/")
        node = rest.partition("/")[0] if first == "nodes" else ""
        return self._slots.setdefault(node, asyncio.Semaphore(PER_NODE if node else THREADS))

    def _guarded(self, act: Callable[[], Any]) -> Any:
        """In a thread. Whatever goes wrong leaves it as CallFailed."""
        auth = session_of(self._api).auth
        try:
            return self._once(act)
        except CallFailed as failed:
            if failed.status != 401 or not isinstance(auth, TicketAuth) or not auth.forget():
                raise
        # The ticket was too old for the server, which then did nothing: once more with a new one.
        return self._once(act)

    def _once(self, act: Callable[[], Any]) -> Any:
        from proxmoxer import ResourceException

        try:
            return act()
        except ResourceException as exc:
            raise of_answer(exc.status_code, str(exc.content or ""), exc.errors) from None
        except (RequestException, OSError) as exc:
            raise of_exception(exc) from None
        except Exception as exc:
            # urllib3 and http.client raise what requests does not know in rare cuts: no trace of theirs leaves this place.
            raise of_exception(exc) from exc


def _forgotten(done: asyncio.Future[Any]) -> None:
    if not done.cancelled():
        done.exception()
