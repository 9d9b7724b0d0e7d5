"""The benchmarks' own tools: a figure is worth no more than what measured it."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def checkout_on_the_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(ROOT))
    yield
    for name in [name for name in sys.modules if name == "benchmarks" or name.startswith("benchmarks.")]:
        del sys.modules[name]


def test_a_percentile_is_a_measurement_that_was_made() -> None:
    from benchmarks.rows import percentile

    values = [float(number) for number in range(100, 0, -1)]
    assert percentile(values, 0.99) == 100
    assert percentile(values, 0.5) == 51
    assert percentile([7.0], 0.99) == 7


def test_the_table_shows_value_floor_and_ratio_and_leaves_out_what_has_none() -> None:
    from benchmarks.rows import row, show

    text = io.StringIO()
    show([row("start", 330, "ms", 300), row("slope", 0.01, "MiB/min")], Console(file=text, width=120))
    start, slope = [line for line in text.getvalue().splitlines() if "ms" in line or "MiB" in line]
    assert "330 ms" in start and "300 ms" in start and "1.10" in start
    assert "0.01 MiB/min" in slope and slope.count("-") == 2


def test_the_readmes_table_has_a_line_for_each_row() -> None:
    from benchmarks.rows import markdown, row

    lines = markdown([row("start", 330, "ms", 300), row("slope", 0.01, "MiB/min")]).splitlines()
    assert lines[-2:] == ["| start | 330 ms | 300 ms | 1.10 |", "| slope | 0.01 MiB/min | - | - |"]


def test_memory_that_grows_has_a_slope_and_memory_that_does_not_has_none() -> None:
    from benchmarks.memory import MIB, slope

    # Growth in the first half is warming up.
    warm = [(float(at), 50 * MIB + at * MIB) for at in range(100)] + [(float(at), 150 * MIB) for at in range(100, 220)]
    assert abs(slope(warm)) < 1e-6
    assert slope([(float(at), at * MIB) for at in range(200)]) == pytest.approx(60)


ANSWERS = {
    b"/chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n[1,2,\r\n2\r\n3]\r\n0\r\n\r\n",
    b"/length": b'HTTP/1.1 201 Created\r\nContent-Length: 10\r\n\r\n{"Id":"a"}',
    b"/stream": b"HTTP/1.1 200 OK\r\n\r\nuntil its end",
    b"/nothing": b"HTTP/1.1 204 No Content\r\n\r\n",
    b"/refused": b'HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\n\r\n"x',
}


async def test_the_raw_engine_client_reads_every_framing_on_one_connection(tmp_path: Path) -> None:
    from benchmarks.raw_engine import RawEngine

    connections = 0
    left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split()[1].removeprefix(b"/v1.41")
                length = int(head.lower().partition(b"content-length: ")[2].split()[0])
                await reader.readexactly(length)
                writer.write(ANSWERS[path.partition(b"?")[0]])
                if path == b"/stream":
                    writer.close()
                    await writer.wait_closed()
                    return
        except asyncio.IncompleteReadError:
            writer.close()
            await writer.wait_closed()
            left.set()

    path = str(tmp_path / "e.sock")
    server = await asyncio.start_unix_server(serve, path)
    engine = RawEngine(f"unix://{path}")
    try:
        assert await engine.request("GET", "/chunked") == [1, 2, 3]
        assert await engine.request("POST", "/length", {"Image": "x"}, name="y") == {"Id": "a"}
        assert await engine.request("POST", "/nothing") is None
        with pytest.raises(RuntimeError, match="409"):
            await engine.request("DELETE", "/refused")
        assert await engine.request("GET", "/chunked") == [1, 2, 3]
        assert connections == 1
        assert await engine.to_the_end("POST", "/stream", {}) == b"until its end"
        assert connections == 2
    finally:
        await engine.close()
        await asyncio.wait_for(left.wait(), 10)
        server.close()
        await server.wait_closed()
