"""Lines on their way to clients: masked and encoded once, however many follow. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import orjson

from flow_manager.contract.inside import LogLineModel
from flow_manager.runtimes.inside import LogLine, LogPosition

# Bytes of one event, as JSON: small enough that a slow client's queue can be kept short. One line may take more.
BATCH_BYTES = 64 * 1024
# Of a reply, and of what a follower gets first: a quarter of what may wait for a slow client before it is cut off.
HISTORY_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class LogBatch:
    """`items`: each line as a JSON object; `positions` of the same lines, for one who has some of them already."""

    items: tuple[bytes, ...]
    positions: tuple[LogPosition, ...]
    size: int

    def behind(self, position: LogPosition) -> LogBatch:
        """Without the lines up to that place."""
        kept = [place for place, there in enumerate(self.positions) if not there or there > position]
        if len(kept) == len(self.items):
            return self
        items = tuple(self.items[place] for place in kept)
        return LogBatch(items, tuple(self.positions[place] for place in kept), sum(map(len, items)))


def batches(lines: Iterable[LogLine], mask: Callable[[str], str]) -> Iterator[LogBatch]:
    """In order, each of at most `BATCH_BYTES` where its lines allow that."""
    items: list[bytes] = []
    positions: list[LogPosition] = []
    size = 0
    for line in lines:
        item = encoded(line, mask)
        if items and size + len(item) > BATCH_BYTES:
            yield LogBatch(tuple(items), tuple(positions), size)
            items, positions, size = [], [], 0
        items.append(item)
        positions.append(line.position)
        size += len(item)
    if items:
        yield LogBatch(tuple(items), tuple(positions), size)


def encoded(line: LogLine, mask: Callable[[str], str]) -> bytes:
    """A LogLineModel's JSON. Not through the model, which costs more than all the rest of a line's way."""
    fields = {"stream": line.stream, "text": mask(line.text), "timestamp": line.timestamp}
    return orjson.dumps(fields, option=orjson.OPT_UTC_Z)


def newest(lines: Sequence[LogLine], mask: Callable[[str], str], limit: int = HISTORY_BYTES) -> list[LogLine]:
    """Masked, and without the oldest ones where all of them would take more than `limit` bytes."""
    kept: list[LogLine] = []
    size = 0
    for line in reversed(lines):
        line = line._replace(text=mask(line.text))
        size += len(orjson.dumps(line.text))
        if size > limit and kept:
            break
        kept.append(line)
    kept.reverse()
    return kept


def model(line: LogLine) -> LogLineModel:
    return LogLineModel.model_construct(stream=line.stream, text=line.text, timestamp=line.timestamp)
