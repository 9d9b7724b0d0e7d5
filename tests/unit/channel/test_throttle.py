"""How much one flow may say."""

from __future__ import annotations

from flow_manager.channel.throttle import BadLines, TokenBucket


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def taken(bucket: TokenBucket, tries: int) -> int:
    return sum(bucket.take() for _ in range(tries))


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    time = Time()
    bucket = TokenBucket(10, time)
    assert taken(bucket, 100) == 10
    time.now = 0.5
    assert taken(bucket, 100) == 5
    time.now = 100
    assert taken(bucket, 100) == 10, "never more than the burst at once"


def test_a_slow_rate_still_gives_one_at_a_time() -> None:
    time = Time()
    bucket = TokenBucket(0.1, time)
    assert taken(bucket, 5) == 1
    assert bucket.seconds_until(0.05) == 10
    time.now = 10
    assert taken(bucket, 5) == 1


def test_ten_bad_lines_within_a_second_are_too_many_and_nine_are_not() -> None:
    time = Time()
    bad = BadLines(10, time)
    for _ in range(9):
        bad.add()
    assert not bad.too_many
    time.now = 1.5
    for _ in range(9):
        bad.add()
    assert not bad.too_many
    bad.add()
    assert bad.too_many
