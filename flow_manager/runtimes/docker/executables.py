"""Is the flow's command there at all? Asked once an image and command, when a flow is made.

With an init as PID 1 the engine's own check sees the init and not the command: a start with a missing one succeeds, and the
container ends with 127 some milliseconds later. Waiting for that at each start would make every start slower; so the file is
looked for at create, and only a start that is expected to fail waits for its end.
"""

from __future__ import annotations

import asyncio
import base64
import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from aiodocker.exceptions import DockerError

from flow_manager.errors import FlowManagerError
from flow_manager.runtimes.docker.client import EngineClient
from flow_manager.runtimes.docker.errors import RAW
from flow_manager.runtimes.docker.observe import dig, text, whole

# One look is a mount and an unmount in the engine, some 5 ms; what takes this long is left to the start to find out.
LOOK_SECONDS = 5.0
# What execvp(3) searches when PATH is not set.
DEFAULT_PATH = "/bin:/usr/bin"
STAT_HEADER = "X-Docker-Container-Path-Stat"
MAX_KNOWN = 1000
# Go's io/fs mode bits; the low nine are those of Unix.
IS_DIRECTORY = 1 << 31
IS_LINK = 1 << 27


def candidates(command: str, path: str, working_dir: str) -> Iterator[str]:
    """Where execvp(3) would look, in order, as absolute paths."""
    if "/" in command:
        yield posixpath.normpath(posixpath.join("/", working_dir, command))
        return
    for folder in path.split(":"):
        yield posixpath.normpath(posixpath.join("/", working_dir, folder, command))


def what(data: Any) -> tuple[str, str, str]:
    """(command, PATH, working folder) of an inspected container. `Path` is the entrypoint or the command's first word."""
    path = DEFAULT_PATH
    for item in dig(data, "Config", "Env") or ():
        if isinstance(item, str) and item.startswith("PATH="):
            path = item.removeprefix("PATH=")
    return text(dig(data, "Path")), path, text(dig(data, "Config", "WorkingDir")) or "/"


class Executables:
    """Knows which commands of which images were seen to be there."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._known: set[tuple[str, ...]] = set()

    async def missing(self, data: Mapping[str, Any]) -> str | None:
        """Why the command of this created container can't run, None when it can or when it can't be told."""
        command, path, working_dir = what(data)
        if not command:
            return None
        # What is mounted may hold the command, or hide it: such a container is looked into for itself.
        mounts = [text(dig(mount, "Destination")) for mount in dig(data, "Mounts") or ()]
        key = (text(dig(data, "Image")), command, path, working_dir, *sorted(mounts))
        if key in self._known:
            return None
        found: list[bool | None] = []
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                for place in candidates(command, path, working_dir):
                    found.append(await self._executable(text(data["Id"]), place))
                    if found[-1]:
                        break
        except (*RAW, FlowManagerError):
            return None
        if True in found:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known.add(key)
            return None
        return f"'{command}' can't be executed: permission denied" if False in found else f"'{command}' was not found"

    async def _executable(self, runtime_id: str, place: str) -> bool | None:
        """None: it is not there."""
        # GET, of which only the head is read: aiodocker can't tell what a HEAD is refused for (it has no body to parse).
        try:
            path = f"containers/{runtime_id}/archive"
            async with self._client.stream("GET", path, params={"path": place}) as response:
                encoded = response.headers.get(STAT_HEADER, "")
        except DockerError as exc:
            if exc.status == 404:
                return None
            raise
        stat = orjson.loads(base64.b64decode(encoded))
        mode = whole(dig(stat, "mode")) or 0
        # A link's own mode says nothing of its target.
        return bool(mode & IS_LINK) or (not mode & IS_DIRECTORY and bool(mode & 0o111))
