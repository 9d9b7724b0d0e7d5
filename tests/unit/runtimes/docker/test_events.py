from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from flow_manager.runtimes.docker.events import moment, parse


def test_only_actor_and_action_are_needed() -> None:
    """Engine 29 sends no `id`, `status` and `time` at the top."""
    event = parse(json.dumps({"Action": "die", "Actor": {"ID": "f00"}}).encode())
    assert event is not None
    assert (event.runtime_id, event.action, event.attributes, event.nano) == ("f00", "die", {}, 0)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"not json",
        b"[]",
        b"7",
        b"null",
        b"{}",
        b'{"Action": "die"}',
        b'{"Action": 7, "Actor": {"ID": "x"}}',
        b'{"Action": "die", "Actor": []}',
        b'{"Action": "die", "Actor": {"ID": null}}',
        b"\xff\xfe",
    ],
)
def test_an_odd_line_is_no_event_and_no_end(line: bytes) -> None:
    assert parse(line) is None


def test_odd_attributes_are_left_out() -> None:
    event = parse(b'{"Action": "die", "Actor": {"ID": "x", "Attributes": [1]}, "timeNano": "soon"}')
    assert event is not None
    assert (event.attributes, event.nano) == ({}, 0)


def test_a_moment_is_aware_and_in_utc() -> None:
    assert moment(1_768_818_600_500_000_000) == datetime.fromtimestamp(1_768_818_600.5, UTC)
    assert moment(0) is None
    assert moment(10**30) is None
