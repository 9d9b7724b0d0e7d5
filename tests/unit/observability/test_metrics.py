from __future__ import annotations

import pytest

from flow_manager.observability.metrics import MAX_SERIES, Counter, Gauge, Histogram, Noop, Recorder


def test_a_counter_adds_up_by_its_labels() -> None:
    counter = Counter("events_total", "Client events.", ("event", "outcome"))
    counter.add("start", "ok")
    counter.add("start", "ok", by=2)
    counter.add("stop", "conflict")
    assert list(counter.lines()) == [
        "# HELP events_total Client events.",
        "# TYPE events_total counter",
        'events_total{event="start",outcome="ok"} 3',
        'events_total{event="stop",outcome="conflict"} 1',
    ]
    assert counter.value("start", "ok") == 3 and counter.value("x", "y") == 0


def test_label_values_and_help_are_escaped() -> None:
    counter = Counter("x_total", "a\\b\nc", ("name",))
    counter.add('q"\\\n')
    assert list(counter.lines()) == [
        "# HELP x_total a\\\\b\\nc",
        "# TYPE x_total counter",
        'x_total{name="q\\"\\\\\\n"} 1',
    ]


def test_a_gauge_is_set_or_asked() -> None:
    gauge = Gauge("clients", "Connected.")
    gauge.set(3)
    gauge.set(2.5)
    assert list(gauge.lines())[-1] == "clients 2.5"
    flows = Gauge("flows", "Flows.", ("state",))
    flows.follow(lambda: {("running",): 2, ("exited",): 1})
    assert list(flows.lines())[2:] == ['flows{state="exited"} 1', 'flows{state="running"} 2']


def test_a_histogram_counts_each_bucket_and_all_below_it() -> None:
    histogram = Histogram("seconds", "Time.", ("event",), buckets=(0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 7.0):
        histogram.observe(value, "start")
    assert list(histogram.lines())[1:] == [
        "# TYPE seconds histogram",
        'seconds_bucket{event="start",le="0.1"} 2',
        'seconds_bucket{event="start",le="1"} 3',
        'seconds_bucket{event="start",le="+Inf"} 4',
        'seconds_sum{event="start"} 7.65',
        'seconds_count{event="start"} 4',
    ]


def test_what_clients_name_cannot_grow_memory() -> None:
    counter = Counter("x_total", "X.", ("name",))
    for n in range(MAX_SERIES + 50):
        counter.add(str(n))
    assert counter.value("other") == 50
    assert counter.value("0") == 1
    assert len(list(counter.lines())) == MAX_SERIES + 3


def test_wrong_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="labels"):
        Counter("x_total", "X.", ("name",)).add("a", "b")


def test_the_recorder_renders_every_metric_with_its_head_and_a_last_newline() -> None:
    recorder = Recorder()
    recorder.events.add("start_container", "ok")
    recorder.event_seconds.observe(0.01, "start_container")
    recorder.clients.set(2)
    recorder.flows.set(1, "running")
    recorder.activity.add("container_started")
    recorder.messages.add("in")
    recorder.runtime_seconds.observe(0.3, "docker", "start", "ok")
    recorder.add(Gauge("flow_manager_more", "One more."))
    text = recorder.render()
    assert text.count("# TYPE") == text.count("# HELP") == 8
    assert text.endswith("\n") and "\n\n" not in text
    assert 'flow_manager_events_total{event="start_container",outcome="ok"} 1\n' in text


def test_noop_takes_everything_and_shows_nothing() -> None:
    noop = Noop()
    noop.events.add("start", "ok")
    noop.clients.set(3)
    noop.event_seconds.observe(1.0, "start")
    assert noop.render() == "" and noop.events.value("start", "ok") == 0
