"""One way in for every event: known? allowed? well-formed? then its handler; and always an answer.

python-socketio sends no acknowledgement when a handler raises or is missing, so its client waits for its own timeout. Here
each event is answered exactly once and within `DEADLINE`; a failure is also emitted as `error` to that client alone.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError

from flow_manager.contract.events import CLIENT_EVENTS, ClientEvent
from flow_manager.contract.principal import Principal
from flow_manager.contract.replies import failure, invalid_request, success
from flow_manager.contract.requests import MAX_TIMEOUT, Mutation
from flow_manager.errors import (
    FlowManagerError,
    Forbidden,
    Internal,
    OperationTimeout,
    ShuttingDown,
    UnknownEvent,
)
from flow_manager.gateway.clients import Client
from flow_manager.gateway.frames import ack_frame, event_frame
from flow_manager.gateway.handlers import Later, SocketIOEventHandler
from flow_manager.gateway.lanes import Lane, lane_of
from flow_manager.gateway.packets import Event
from flow_manager.observability.metrics import OTHER, Recorder
from flow_manager.util import strict_json
from flow_manager.util.clock import Clock
from flow_manager.util.ids import new_short_id

# Whatever a handler does, and however long its turn takes to come, the client has its answer by then: the longest timeout that
# it may ask for, and a margin.
DEADLINE = MAX_TIMEOUT + 60.0
OK = "ok"


class GatewayLog(Protocol):
    """What the gateway writes for operators (SystemLogger)."""

    def log_socket_event(self, event: str, sid: str, **fields: Any) -> None: ...
    def log_error(self, error_id: str, error: BaseException, **fields: Any) -> None: ...
    def log_notice(self, message: str, *, warning: bool = False, **fields: Any) -> None: ...


class RepeatGuard(Protocol):
    """What makes a repeated `request_id` do nothing twice (containers.repeats.Repeats)."""

    async def run(
        self,
        principal: Principal,
        event: str,
        request_id: str | None,
        raw: dict[str, Any],
        call: Callable[[], Awaitable[dict[str, Any]]],
    ) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Route:
    """An event of the catalogue and its handler. `at_once`: answered from memory, without a task, unless it says Later."""

    event: ClientEvent
    handler: Callable[[str, Any], Any]
    at_once: bool


@dataclass(frozen=True, slots=True)
class Call:
    route: Route
    request: Any
    raw: dict[str, Any]
    ack: int | None
    # When its answer is due, by the loop's clock.
    until: float
    later: Later | None = None


def routes(handler: SocketIOEventHandler) -> dict[str, Route]:
    """Each event of the catalogue with its `handle_<name>`; a missing one stops the start."""
    table = {}
    for name, event in CLIENT_EVENTS.items():
        method = getattr(handler, f"handle_{name}")
        table[name] = Route(event, method, not inspect.iscoroutinefunction(method))
    return table


class Dispatcher:
    """Takes events, gives answers."""

    def __init__(
        self,
        handler: SocketIOEventHandler,
        repeats: RepeatGuard,
        *,
        in_flight: int,
        log: GatewayLog,
        clock: Clock,
        recorder: Recorder,
        deadline: float = DEADLINE,
    ) -> None:
        self._routes = routes(handler)
        self._repeats = repeats
        self._max_in_flight = in_flight
        self._log = log
        self._clock = clock
        self._recorder = recorder
        self._deadline = deadline
        self._closing = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def in_flight(self) -> int:
        return len(self._tasks)

    # --- the way in ------------------------------------------------------------------------------------------------

    def take(self, client: Client, event: Event) -> None:
        """Answer, or start what will. Synchronous and quick; never raises."""
        try:
            if event.refusal is not None:
                raise event.refusal
            route = self._routes.get(event.name)
            if route is None:
                raise UnknownEvent(f"there is no event '{event.name}'", event=event.name)
            if self._closing:
                raise ShuttingDown("the service is shutting down")
            if route.event.scope not in client.principal.scopes:
                raise Forbidden(f"'{event.name}' needs the scope '{route.event.scope}'", scope=route.event.scope)
            request = route.event.request.model_validate(event.payload)
            if route.at_once:
                answer = route.handler(client.sid, request)
                if isinstance(answer, Later):
                    self._start(client, route, request, event, answer)
                    return
                self._answer(client, event.id, answer)
                self._recorder.events.add(event.name, OK)
            else:
                self._start(client, route, request, event)
        except FlowManagerError as error:
            self._refuse(client, event.id, error, event.name)
        except ValidationError as error:
            self._refuse(client, event.id, invalid_request(error), event.name)
        except Exception as exc:
            self._refuse(client, event.id, self.fault(f"event {event.name}", exc, sid=client.sid), event.name)

    def fault(self, where: str, exc: BaseException, **fields: Any) -> Internal:
        """A fault of ours: its trace goes to the log under an id, and the id alone to the client."""
        error_id = new_short_id("err")
        self._log.log_error(error_id, exc, where=where, **fields)
        return Internal("something went wrong on our side; the log knows it by its error_id", error_id=error_id)

    # --- events that take time ----------------------------------------------------------------------------------------

    def _start(
        self, client: Client, route: Route, request: BaseModel, event: Event, later: Later | None = None
    ) -> None:
        name = lane_of(route.event, request)
        if (lane := client.lanes.get(name)) is None:
            lane = client.lanes[name] = Lane(
                self._max_in_flight, run=partial(self._run, client), late=partial(self._had_no_turn, client)
            )
        until = asyncio.get_running_loop().time() + self._deadline
        lane.enter(Call(route, request, event.payload, event.id, until, later))

    def _run(self, client: Client, call: Call) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._serve(client, call), name=f"event-{call.route.event.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _had_no_turn(self, client: Client, call: Call) -> None:
        name = call.route.event.name
        error = OperationTimeout(
            f"'{name}' had no turn in time: {self._max_in_flight} other events of this connection were under way",
            operation=name,
            timeout=self._deadline,
        )
        self._refuse(client, call.ack, error, name)

    async def _serve(self, client: Client, call: Call) -> None:
        name, began = call.route.event.name, self._clock.monotonic()
        reply = await self._reply(client, call)
        self._recorder.event_seconds.observe(self._clock.monotonic() - began, name)
        try:
            body = strict_json.dumps_bytes(reply)
        except strict_json.JsonRefused as exc:
            self._refuse(client, call.ack, self.fault("reply", exc, sid=client.sid, event=name), name)
            return
        self._recorder.events.add(name, reply["code"] if reply["error"] else OK)
        await client.turn(len(body))
        self._send(client, call.ack, body, failed=bool(reply["error"]))

    async def _reply(self, client: Client, call: Call) -> dict[str, Any]:
        """The reply's object, within the deadline; never raises."""
        name = call.route.event.name
        try:
            if self._closing:
                raise ShuttingDown("the service is shutting down")
            async with asyncio.timeout_at(call.until):
                if isinstance(call.request, Mutation):
                    return await self._repeats.run(
                        client.principal, name, call.request.request_id, call.raw, lambda: self._attempt(client, call)
                    )
                return await self._attempt(client, call)
        except TimeoutError:
            return self.failure(
                OperationTimeout(f"'{name}' had no result in time", operation=name, timeout=self._deadline)
            )
        except FlowManagerError as error:
            return self.failure(error)
        except asyncio.CancelledError:
            return self.failure(ShuttingDown("the service is shutting down"))
        except Exception as exc:
            return self.failure(self.fault(f"event {name}", exc, sid=client.sid))

    async def _attempt(self, client: Client, call: Call) -> dict[str, Any]:
        """One run of the handler. A cancellation passes: the deadline and the shutdown are `_reply`'s."""
        try:
            if call.later is not None:
                return success(await call.later.work())
            return success(await call.route.handler(client.sid, call.request))
        except FlowManagerError as error:
            return self.failure(error)
        except Exception as exc:
            return self.failure(self.fault(f"event {call.route.event.name}", exc, sid=client.sid))

    # --- the way out -----------------------------------------------------------------------------------------------

    def _answer(self, client: Client, ack: int | None, data: Any) -> None:
        if ack is None:
            return
        if isinstance(data, BaseModel):
            body = b'{"error":false,"data":' + data.model_dump_json().encode() + b"}"
        else:
            body = strict_json.dumps_bytes(success(data))
        client.send(ack_frame(ack, body))

    def _refuse(self, client: Client, ack: int | None, error: FlowManagerError, name: str) -> None:
        # Only names of the catalogue are counted by name: a client must not be able to make up new series.
        self._recorder.events.add(name if name in self._routes else OTHER, error.code)
        try:
            body = strict_json.dumps_bytes(self.failure(error))
        except strict_json.JsonRefused as exc:
            body = strict_json.dumps_bytes(self.failure(self.fault("error", exc, sid=client.sid, code=error.code)))
        self._send(client, ack, body, failed=True)

    def failure(self, error: FlowManagerError) -> dict[str, Any]:
        return failure(error, at=self._clock.now())

    def _send(self, client: Client, ack: int | None, body: bytes, *, failed: bool) -> None:
        if ack is not None:
            client.send(ack_frame(ack, body))
        if failed:
            client.send(event_frame("error", body))

    # --- the end ---------------------------------------------------------------------------------------------------

    async def close(self, seconds: float) -> int:
        """Refuse what is new, let what runs end within `seconds`, cut off the rest (each is answered); how many were cut."""
        self._closing = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        # What ended let others start, which refuse at once: give them their turn until none is left.
        cut = list(self._tasks)
        for task in cut:
            task.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)
        return len(cut)
