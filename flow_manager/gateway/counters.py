"""Counts for operators, in Prometheus' text form (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

from __future__ import annotations

from collections import Counter


class Counters:
    """Plain integers: counting an event costs one dictionary update, no lock, no label objects."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.slow_clients = 0
        self.refused_connects = 0

    def text(self, *, clients: int, connections: int, subscribers: int, in_flight: int) -> str:
        lines = [
            *_metric("flow_manager_clients", "gauge", "Authenticated clients.", {"": clients}),
            *_metric("flow_manager_connections", "gauge", "Engine.IO sessions.", {"": connections}),
            *_metric("flow_manager_subscribers", "gauge", "Live activity subscriptions.", {"": subscribers}),
            *_metric("flow_manager_events_in_flight", "gauge", "Events being handled.", {"": in_flight}),
            *_metric("flow_manager_events_total", "counter", "Client events.", _labelled("event", self.events)),
            *_metric("flow_manager_failures_total", "counter", "Failed events.", _labelled("code", self.failures)),
            *_metric("flow_manager_slow_clients_total", "counter", "Clients cut off.", {"": self.slow_clients}),
            *_metric("flow_manager_refused_connects_total", "counter", "Refused.", {"": self.refused_connects}),
        ]
        return "\n".join(lines) + "\n"


def _labelled(label: str, counts: Counter[str]) -> dict[str, int]:
    # Names come from the catalogue and codes from our own errors: a client can't make up new ones.
    return {f'{{{label}="{name}"}}': count for name, count in sorted(counts.items())}


def _metric(name: str, kind: str, about: str, samples: dict[str, int]) -> list[str]:
    return [
        f"# HELP {name} {about}",
        f"# TYPE {name} {kind}",
        *(f"{name}{labels} {value}" for labels, value in samples.items()),
    ]
