"""Fetching an image that the engine does not have, told as it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import orjson
from aiodocker.exceptions import DockerError

from flow_manager.errors import ImageNotFound, RuntimeUnavailable
from flow_manager.runtimes.base import Progress
from flow_manager.runtimes.docker.client import EngineClient
from flow_manager.runtimes.docker.errors import KIND, RAW, Subject, repeatable, translate
from flow_manager.runtimes.docker.observe import dig, text, whole
from flow_manager.util.backoff import exponential

TRIES = 5
FIRST_WAIT = 0.1
LONGEST_WAIT = 5.0
# The engine says some hundred lines a second; people read one.
TELL_EVERY = 1.0


def split_reference(image: str) -> tuple[str, str]:
    """`repo:5000/a/b:1` → (`repo:5000/a/b`, `1`); a digest counts as the tag.

    Without either it is `latest`: the engine would otherwise fetch every tag there is.
    """
    if "@" in image:
        name, _, digest = image.partition("@")
        head, colon, tag = name.rpartition(":")
        return (head if colon and "/" not in tag else name), digest
    head, colon, tag = image.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (image, "latest")


class PullProgress:
    """The engine's lines of one pull → now and then a sentence. Layers are summed: one bar, not twenty."""

    def __init__(self, image: str) -> None:
        self._image = image
        self._layers: dict[str, tuple[int, int]] = {}
        self._seen: set[str] = set()
        self._bytes = 0

    def take(self, line: Any) -> bool:
        """True when the line shows that something went on."""
        layer, status = text(dig(line, "id")), text(dig(line, "status"))
        current, total = whole(dig(line, "progressDetail", "current")), whole(dig(line, "progressDetail", "total"))
        if status == "Downloading" and current is not None and total:
            self._layers[layer] = (current, total)
        elif status in ("Download complete", "Pull complete") and layer in self._layers:
            self._layers[layer] = (self._layers[layer][1],) * 2
        done = sum(current for current, _ in self._layers.values())
        moved = done > self._bytes or f"{layer} {status}" not in self._seen or status == "Extracting"
        self._bytes = max(done, self._bytes)
        self._seen.add(f"{layer} {status}")
        return moved

    def words(self) -> str:
        total = sum(total for _, total in self._layers.values())
        done = sum(current for current, _ in self._layers.values())
        return f"pulling {self._image}: {done * 100 // total} %" if total else f"pulling {self._image}"


async def pull(client: EngineClient, image: str, *, stall: float, progress: Progress | None) -> None:
    """Fetch `image`. Repeated on failures of the engine, but `stall` seconds without progress end it, however many tries.

    :raises ImageNotFound: with `reason`; RuntimeUnavailable: the engine itself is away.
    """
    loop = asyncio.get_running_loop()
    state = PullProgress(image)
    told = 0.0
    waits = exponential(FIRST_WAIT, maximum=LONGEST_WAIT)
    if progress is not None:
        progress(state.words())
    try:
        async with asyncio.timeout(stall) as limit:
            for left in range(TRIES - 1, -1, -1):
                try:
                    async for line in _lines(client, image):
                        if state.take(line):
                            limit.reschedule(loop.time() + stall)
                        if progress is not None and loop.time() - told >= TELL_EVERY:
                            told = loop.time()
                            progress(state.words())
                    return
                except RAW as exc:
                    if left == 0 or not repeatable(exc):
                        raise
                await asyncio.sleep(next(waits))
    except TimeoutError:
        reason = f"no progress in {stall:g} s"
        raise ImageNotFound(
            f"image '{image}' could not be pulled: {reason}", kind=KIND, image=image, reason=reason
        ) from None
    except RAW as exc:
        raise _failed(exc, image) from exc


def _failed(exc: BaseException, image: str) -> Exception:
    """The engine away is one thing; whatever else it says of this image, the image is not to be had."""
    if not isinstance(exc, DockerError) or exc.status == 900:
        return translate(exc)
    error = translate(exc, Subject(image=image, operation="pull"))
    if isinstance(error, ImageNotFound | RuntimeUnavailable):
        reason = str(exc.message)[:500]
        return ImageNotFound(f"image '{image}' could not be pulled: {reason}", kind=KIND, image=image, reason=reason)
    return error


async def _lines(client: EngineClient, image: str) -> Any:
    """The engine's progress lines; an `error` line, which comes with status 200, is raised."""
    name, tag = split_reference(image)
    lines = LineSplitter()
    async with client.stream("POST", "images/create", params={"fromImage": name, "tag": tag}) as response:
        while chunk := await response.content.readany():
            for raw in lines.feed(chunk):
                line = orjson.loads(raw)
                if message := text(dig(line, "errorDetail", "message")) or text(dig(line, "error")):
                    raise DockerError(404, message)
                yield line


class LineSplitter:
    """Bytes as they come → whole lines. Unlike `readline` it loses nothing when a wait for more is given up."""

    MAX_LINE = 4 * 1024 * 1024

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        self._rest += chunk
        while (end := self._rest.find(b"\n")) >= 0:
            line = bytes(self._rest[:end]).strip()
            del self._rest[: end + 1]
            if line:
                yield line
        if len(self._rest) > self.MAX_LINE:  # no engine says that much in one line; memory must not follow it
            self._rest.clear()
