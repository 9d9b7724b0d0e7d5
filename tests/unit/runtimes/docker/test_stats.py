from __future__ import annotations

from typing import Any

import pytest

from flow_manager.runtimes.docker.stats import NOTHING, CpuReading, cpu_reading, usage

V1 = {
    "cpu_stats": {"cpu_usage": {"total_usage": 3_000}, "system_cpu_usage": 20_000, "online_cpus": 2},
    "memory_stats": {"usage": 1000, "limit": 5000, "stats": {"total_inactive_file": 300, "inactive_file": 1}},
    "pids_stats": {"current": 4},
}


def test_the_first_reading_has_no_cpu_figure() -> None:
    used = usage(V1, None)
    assert (used.cpu_percent, used.memory_bytes, used.memory_limit_bytes, used.pids) == (None, 700, 5000, 4)


def test_a_hundred_percent_is_one_core() -> None:
    assert usage(V1, CpuReading(flow=1_000, machine=16_000)).cpu_percent == 100.0


@pytest.mark.parametrize("before", [CpuReading(3_000, 20_000), CpuReading(9_000, 10_000), CpuReading(0, 30_000)])
def test_a_reading_that_went_back_gives_no_figure(before: CpuReading) -> None:
    assert usage(V1, before).cpu_percent is None


def test_cgroup_2_counts_its_cache_by_another_name() -> None:
    assert usage({"memory_stats": {"usage": 1000, "stats": {"inactive_file": 400}}}, None).memory_bytes == 600


@pytest.mark.parametrize("data", [None, {}, {"memory_stats": {}}, {"memory_stats": None, "cpu_stats": []}])
def test_one_that_does_not_run_has_nulls(data: Any) -> None:
    assert usage(data, None) == NOTHING
    assert cpu_reading(data) is None
