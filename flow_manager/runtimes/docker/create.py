"""Making a container, and leaving nothing of it when that fails at any step or is given up."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from aiodocker.exceptions import DockerError

from flow_manager.errors import FlowManagerError, ImageNotFound, NameConflict
from flow_manager.runtimes.base import LABEL_ID, FlowSpec, Observation, Progress
from flow_manager.runtimes.docker.client import Answer, EngineClient
from flow_manager.runtimes.docker.code import CodeCopier
from flow_manager.runtimes.docker.containers import Containers
from flow_manager.runtimes.docker.errors import RAW, Subject, translate, translated
from flow_manager.runtimes.docker.executables import Executables
from flow_manager.runtimes.docker.networks import Networks
from flow_manager.runtimes.docker.observe import dig, text
from flow_manager.runtimes.docker.pull import pull
from flow_manager.runtimes.docker.retry import repeat
from flow_manager.runtimes.docker.spec import LABEL_ATTEMPT
from flow_manager.util.ids import new_short_id

# Whoever gave a create up waits this long for its undoing; after that it goes on without them …
UNDO_SECONDS = 5.0
# … for this long: an engine that was frozen makes the container when it thaws.
JANITOR_SECONDS = 120.0
LOOK_EVERY = 0.5
# A shutdown has eight seconds in all by default.
CLOSE_SECONDS = 1.0

Body = Callable[[str | None, str], dict[str, Any]]

GIVEN_UP_REMEMBERED = 1000
# Twenty seconds in all: a loaded engine reserves the name long before it lists the container.
THAW_LOOKS = 40
# Two seconds.
LOOKS_FOR_NOTHING = 4


class Creator:
    """Creates containers. `suspects` tells which of them are expected to fail at start, and why. `copier`: code isn't
    mounted but copied in."""

    def __init__(
        self,
        client: EngineClient,
        containers: Containers,
        networks: Networks,
        *,
        timeout: float,
        pull_stall: float,
        copier: CodeCopier | None = None,
    ) -> None:
        self._client = client
        self._containers = containers
        self._networks = networks
        self._executables = Executables(client)
        self._copier = copier
        self._timeout = timeout
        self._pull_stall = pull_stall
        self._undoing: set[asyncio.Task[None]] = set()
        # The newest attempts that were given up; an engine that was frozen may yet make what they asked for.
        self._given_up: deque[tuple[str, str]] = deque(maxlen=GIVEN_UP_REMEMBERED)
        self.suspects: dict[str, str] = {}

    async def create(self, spec: FlowSpec, body: Body, progress: Progress | None, *, own_network: bool) -> Observation:
        """`body(network, attempt)` is what the engine gets."""
        await self._networks.check(spec)
        if not own_network:
            return await self._create(spec, body, None, progress)
        async with self._networks.needed(spec) as network:
            return await self._create(spec, body, network, progress)

    async def _create(self, spec: FlowSpec, body: Body, network: str | None, progress: Progress | None) -> Observation:
        attempt = new_short_id("create")
        request = body(network, attempt)
        posting: list[asyncio.Task[Answer]] = []
        made = ""
        try:
            answer = await self._post(spec, request, posting, progress)
            with translated(Subject(spec.id)):
                runtime_id = made = str(answer.data["Id"])
            if self._copier is not None and spec.code_folder is not None:
                await self._copier.put(spec.id, runtime_id, spec.code_folder)
            await self._networks.connect(spec, runtime_id)
            with translated(Subject(spec.id)):
                data = await self._containers.read(f"containers/{runtime_id}/json")
                seen = self._containers.remember(data)
            if (reason := await self._executables.missing(data)) is not None:
                self.suspects[runtime_id] = reason
            return seen
        except BaseException:
            if posting:
                self._containers.forget_container(made)
                await self._see_to_it(self._undo(spec.id, attempt, posting[-1]))
            raise

    async def _post(
        self, spec: FlowSpec, request: dict[str, Any], posting: list[asyncio.Task[Answer]], progress: Progress | None
    ) -> Answer:
        """The create itself, once more after a pull when the image is missing. Not otherwise: never a create blindly."""
        subject = Subject(spec.id, name=spec.container_name, image=spec.image, operation="create")
        try:
            return await self._post_once(subject, request, posting)
        except ImageNotFound:
            await pull(self._client, spec.image, stall=self._pull_stall, progress=progress)
        except NameConflict:
            # An engine that was frozen makes what an earlier attempt had given up, long after: that one is of no use.
            if not await self._remove_earlier(spec):
                raise
        return await self._post_once(subject, request, posting)

    async def _remove_earlier(self, spec: FlowSpec) -> bool:
        """Remove what earlier attempts for this very flow made after they were given up; True where there was any.

        An engine that thaws reserves the name first, and lists the container only later: it is waited for.
        """
        attempts = {attempt for flow_id, attempt in self._given_up if flow_id == spec.id}
        for _ in range(THAW_LOOKS if attempts else 0):
            found = [
                entry
                for entry in await self._containers.entries({LABEL_ID: spec.id})
                if text(dig(entry, "Labels", LABEL_ATTEMPT)) in attempts
            ]
            for entry in found:
                await self._remove(text(dig(entry, "Id")))
            if found:
                return True
            await asyncio.sleep(LOOK_EVERY)
        # It may have been undone meanwhile: then the name is free, and the caller's next try says so.
        return bool(attempts)

    async def _post_once(
        self, subject: Subject, request: dict[str, Any], posting: list[asyncio.Task[Answer]]
    ) -> Answer:
        # In a task of its own: a create that was aborted on the way still makes the container, only nobody knows its id.
        call = self._client.call(
            "POST", "containers/create", params={"name": subject.name}, body=request, timeout=self._timeout
        )
        posting.append(asyncio.create_task(call, name="docker-create"))
        with translated(subject):
            return await asyncio.shield(posting[-1])

    async def _see_to_it(self, undoing: Any) -> None:
        """Wait for the clean-up, but not for ever; and it is done also when the waiting is cancelled once more."""
        task = asyncio.create_task(undoing, name="docker-undo-create")
        self._undoing.add(task)
        task.add_done_callback(self._undoing.discard)
        await asyncio.wait([task], timeout=UNDO_SECONDS)

    async def _undo(self, flow_id: str, attempt: str, posting: asyncio.Task[Answer]) -> None:
        self._given_up.append((flow_id, attempt))
        try:
            async with asyncio.timeout(JANITOR_SECONDS):
                await self._undo_now(attempt, posting)
        except (TimeoutError, FlowManagerError):
            pass  # the engine is away for good; what it may have made carries our labels, and a later look finds it

    async def _undo_now(self, attempt: str, posting: asyncio.Task[Answer]) -> None:
        try:
            answer = await posting
        except RAW as exc:
            if isinstance(exc, DockerError) and 400 <= exc.status < 500:
                return None  # the engine said no: it made nothing
        else:
            return await self._remove(str(answer.data["Id"]))
        # No answer: whether it was made can only be seen. Nothing, several times over, is taken for nothing.
        nothing = 0
        while nothing < LOOKS_FOR_NOTHING:
            try:
                found = await self._containers.entries({LABEL_ATTEMPT: attempt})
                for entry in found:
                    await self._remove(text(dig(entry, "Id")))
                if found:
                    return None
                nothing += 1
            except FlowManagerError:
                nothing = 0
            await asyncio.sleep(LOOK_EVERY)
        return None

    async def _remove(self, runtime_id: str) -> None:
        async def once() -> Answer:
            params = {"force": "1", "v": "1"}
            return await self._client.call("DELETE", f"containers/{runtime_id}", params=params, timeout=self._timeout)

        try:
            await repeat(once, within=self._timeout)
        except RAW as exc:
            if not (isinstance(exc, DockerError) and exc.status in (404, 409)):
                raise translate(exc, Subject(runtime_id)) from exc

    async def close(self) -> None:
        """Finish what is being undone, for a moment."""
        if self._undoing:
            await asyncio.wait(self._undoing, timeout=CLOSE_SECONDS)
        for task in self._undoing:
            task.cancel()
