"""Durations and sizes as people write them."""

from __future__ import annotations

import pytest

from flow_manager.contract.units import parse_bytes, parse_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("5m", 300), ("1h30m", 5400), ("2d", 172800), ("15", 15), ("0.5s", 0.5), (" 1m ", 60)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("256m", 256 * 2**20), ("1g", 2**30), ("64KiB", 65536), ("1024", 1024), ("2 MB", 2 * 2**20), ("1T", 2**40)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "5x", "m", "-5s", "soon", "1,5s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_seconds(text)


@pytest.mark.parametrize("text", ["", "5x", "lots", "-1m", "1.5g"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_bytes(text)


def test_other_types_are_left_to_the_model() -> None:
    assert parse_seconds(5) == 5 and parse_seconds(True) is True and parse_bytes(None) is None
