"""Counters, gauges and histograms, and their Prometheus text form (exposition format 0.0.4).

https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Label sets of one metric; further ones are counted together, so that what a client names can't grow memory.
MAX_SERIES = 1000
OTHER = "other"
# Seconds: an event from memory takes 0.1 ms, an engine's call up to minutes.
SECONDS_BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

Labels = tuple[str, ...]


class Metric(Protocol):
    def lines(self) -> Iterable[str]: ...


class _Family:
    def __init__(self, kind: str, name: str, help_text: str, labels: Sequence[str]) -> None:
        self.kind = kind
        self.name = name
        self.help_text = help_text
        self.labels = tuple(labels)

    def head(self) -> list[str]:
        text = self.help_text.replace("\\", "\\\\").replace("\n", "\\n")
        return [f"# HELP {self.name} {text}", f"# TYPE {self.name} {self.kind}"]

    def key(self, known: Mapping[Labels, object], values: Labels) -> Labels:
        if values in known:
            return values
        if len(values) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}")
        return values if len(known) < MAX_SERIES else (OTHER,) * len(self.labels)

    def series(self, values: Labels, *, suffix: str = "", extra: tuple[str, str] | None = None) -> str:
        pairs = [*zip(self.labels, values, strict=True), *([extra] if extra else [])]
        inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs)
        return f"{self.name}{suffix}{{{inside}}}" if inside else f"{self.name}{suffix}"


class Counter:
    """Only grows."""

    def __init__(self, name: str, help_text: str, labels: Sequence[str] = ()) -> None:
        self._family = _Family("counter", name, help_text, labels)
        self._values: dict[Labels, float] = {}

    def add(self, *labels: str, by: float = 1) -> None:
        key = self._family.key(self._values, labels)
        self._values[key] = self._values.get(key, 0) + by

    def value(self, *labels: str) -> float:
        return self._values.get(labels, 0)

    def lines(self) -> Iterable[str]:
        yield from self._family.head()
        for labels, value in sorted(self._values.items()):
            yield f"{self._family.series(labels)} {_number(value)}"


class Gauge:
    """A value that goes up and down: set, or read at each rendering from `follow`."""

    def __init__(self, name: str, help_text: str, labels: Sequence[str] = ()) -> None:
        self._family = _Family("gauge", name, help_text, labels)
        self._values: dict[Labels, float] = {}
        self._source: Callable[[], Mapping[Labels, float]] | None = None

    def set(self, value: float, *labels: str) -> None:
        self._values[self._family.key(self._values, labels)] = value

    def follow(self, source: Callable[[], Mapping[Labels, float]]) -> None:
        """Ask at each rendering: {(label values…): value}; `{(): value}` without labels. Replaces what was set."""
        self._source = source

    def lines(self) -> Iterable[str]:
        yield from self._family.head()
        values = self._values if self._source is None else dict(self._source())
        for labels, value in sorted(values.items()):
            yield f"{self._family.series(labels)} {_number(value)}"


class Histogram:
    """How long things took, in seconds."""

    def __init__(
        self, name: str, help_text: str, labels: Sequence[str] = (), buckets: Sequence[float] = SECONDS_BUCKETS
    ) -> None:
        self._family = _Family("histogram", name, help_text, labels)
        self._bounds = tuple(sorted(buckets))
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}

    def observe(self, seconds: float, *labels: str) -> None:
        key = self._family.key(self._counts, labels)
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = [0] * (len(self._bounds) + 1)
        counts[bisect_left(self._bounds, seconds)] += 1
        self._sums[key] = self._sums.get(key, 0.0) + seconds

    def lines(self) -> Iterable[str]:
        yield from self._family.head()
        for labels, counts in sorted(self._counts.items()):
            total = 0
            for bound, count in zip((*self._bounds, math.inf), counts, strict=True):
                total += count
                yield f"{self._family.series(labels, suffix='_bucket', extra=('le', _number(bound)))} {total}"
            yield f"{self._family.series(labels, suffix='_sum')} {_number(self._sums[labels])}"
            yield f"{self._family.series(labels, suffix='_count')} {total}"


class Recorder:
    """The service's metrics. Only for the loop's thread."""

    def __init__(self) -> None:
        self.events = Counter("flow_manager_events_total", "Client events, by name and outcome.", ("event", "outcome"))
        self.event_seconds = Histogram(
            "flow_manager_event_seconds", "From a client's event to its acknowledgement.", ("event",)
        )
        self.clients = Gauge("flow_manager_clients", "Connected clients.")
        self.flows = Gauge("flow_manager_flows", "Flow containers, by state.", ("state",))
        self.activity = Counter("flow_manager_activity_entries_total", "Activity entries stored, by type.", ("type",))
        self.messages = Counter(
            "flow_manager_channel_messages_total", "Messages over the flows' channels, by direction.", ("direction",)
        )
        self.runtime_seconds = Histogram(
            "flow_manager_runtime_call_seconds", "Calls to a runtime.", ("runtime", "call", "outcome")
        )
        self._metrics: list[Metric] = [
            self.events,
            self.event_seconds,
            self.clients,
            self.flows,
            self.activity,
            self.messages,
            self.runtime_seconds,
        ]

    def add(self, metric: Metric) -> None:
        """One more, rendered after the others."""
        self._metrics.append(metric)

    def render(self) -> str:
        return "".join(f"{line}\n" for metric in self._metrics for line in metric.lines())


class Noop(Recorder):
    """Takes everything, keeps and shows nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.events = _NoCounter("none", "")
        self.event_seconds = _NoHistogram("none", "")
        self.clients = _NoGauge("none", "")
        self.flows = _NoGauge("none", "")
        self.activity = _NoCounter("none", "")
        self.messages = _NoCounter("none", "")
        self.runtime_seconds = _NoHistogram("none", "")

    def render(self) -> str:
        return ""


class _NoCounter(Counter):
    def add(self, *labels: str, by: float = 1) -> None:
        pass


class _NoGauge(Gauge):
    def set(self, value: float, *labels: str) -> None:
        pass


class _NoHistogram(Histogram):
    def observe(self, seconds: float, *labels: str) -> None:
        pass


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if math.isnan(value):
        return "NaN"
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(float(value))
